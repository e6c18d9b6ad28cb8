// SPDX-License-Identifier: Apache-2.0
#include "llama/backward.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "llama/elementwise.hpp"
#include "llama/layer.hpp"
#include "llama/sequence_checks.hpp"

namespace llama {
namespace {

// Logits that are in memory at once, unless one tree wants more.
constexpr std::int64_t most_logits = 64;

void set_zero(matrix& m) { std::ranges::fill(m.values(), 0.0f); }

}  // namespace

std::size_t backward_bytes(const model_config& config, std::int64_t rows, activations layers) {
  const std::int64_t dim = config.embedding_dim, ffn = config.ffn_dim;
  const std::int64_t qkv = config.q_dim() + 2 * std::int64_t{config.kv_dim()};
  const std::int64_t layer = qkv + config.q_dim() + config.num_heads + dim + 2 * ffn;
  const std::int64_t slots = layers == activations::kept ? config.num_layers : 1;
  const std::int64_t gradients = dim + config.q_dim() + qkv;
  const std::int64_t blocks = std::min(rows, row_block) * (2 * dim + 4 * ffn);
  const std::int64_t numbers =
      rows * (config.num_layers * dim + slots * layer + gradients + config.rope_dim) + blocks;
  return static_cast<std::size_t>(numbers) * sizeof(float);
}

backward_pass::backward_pass(const model& m, std::span<const token_tree> trees,
                             backward_workspace& space, const backward_options& options,
                             std::size_t gradient_size)
    : model_(m),
      space_(space),
      options_(options),
      num_trees_(static_cast<std::int64_t>(trees.size())) {
  check(trees, gradient_size);
  place(trees);
  make_room();
}

void backward_pass::check(std::span<const token_tree> trees, std::size_t gradient_size) const {
  const model_config& config = model_.config();
  for (std::size_t i = 0; i < trees.size(); ++i) {
    const token_tree& tree = trees[i];
    const sequence_name name{"backward", "trees", i};
    check_tokens(name, "trunk", tree.trunk, config);
    const auto trunk = static_cast<std::int64_t>(tree.trunk.size());
    check_length(name, "trunk", trunk, config);
    std::int64_t rows = trunk;
    for (std::size_t b = 0; b < tree.branches.size(); ++b) {
      const std::string what = "branches[" + std::to_string(b) + "]";
      const auto length = static_cast<std::int64_t>(tree.branches[b].size());
      check_tokens(name, what, tree.branches[b], config);
      check_length(name, what, trunk + length, config);
      rows += length;
    }
    if (tree.logits_at.empty()) name.fail("logits_at", "at least one", "none");
    check_logits_at(name, tree.logits_at, rows);
  }
  const std::size_t expected = trees.size() * static_cast<std::size_t>(config.num_layers) *
                               static_cast<std::size_t>(config.num_heads);
  if (gradient_size != expected)
    throw std::invalid_argument("backward: gradient size (trees * layers * heads): expected " +
                                std::to_string(expected) + ", got " +
                                std::to_string(gradient_size));
}

void backward_pass::place(std::span<const token_tree> trees) {
  space_.pieces.clear();
  space_.trees.clear();
  space_.wanted_rows.clear();
  space_.tokens.clear();
  std::size_t branch_tokens = 0;
  for (const token_tree& tree : trees)
    for (const auto& branch : tree.branches) branch_tokens += tree.trunk.size() + branch.size();
  space_.tokens.reserve(branch_tokens);  // so that the spans below stay valid
  for (const token_tree& tree : trees) {
    const std::int64_t tree_row = num_rows_;
    std::size_t next = 0;  // among logits_at
    space_.trees.push_back({num_wanted(), static_cast<std::int64_t>(tree.logits_at.size())});
    const auto add = [&](std::span<const int> own, std::int64_t past, std::span<const int> whole) {
      piece p{.tree = static_cast<std::int64_t>(space_.trees.size()) - 1,
              .first_row = num_rows_,
              .rows = static_cast<std::int64_t>(own.size()),
              .trunk_row = tree_row,
              .past = past,
              .tokens = whole};
      num_rows_ += p.rows;
      const std::size_t first = next;
      for (; next < tree.logits_at.size() && tree_row + tree.logits_at[next] < num_rows_; ++next)
        space_.wanted_rows.push_back(tree_row + tree.logits_at[next]);
      if (next > first) {
        p.first_query = tree_row + tree.logits_at[first] - p.first_row;
        p.num_queries = tree.logits_at[next - 1] + 1 - tree.logits_at[first];
      }
      longest_ = std::max(longest_, past + p.rows);
      space_.pieces.push_back(p);
    };
    add(tree.trunk, 0, tree.trunk);
    for (const auto& branch : tree.branches) {
      const std::size_t first = space_.tokens.size();
      space_.tokens.insert(space_.tokens.end(), tree.trunk.begin(), tree.trunk.end());
      space_.tokens.insert(space_.tokens.end(), branch.begin(), branch.end());
      add(branch, static_cast<std::int64_t>(tree.trunk.size()),
          std::span<const int>(space_.tokens).subspan(first));
    }
  }
}

void backward_pass::make_room() {
  const model_config& config = model_.config();
  const std::int64_t dim = config.embedding_dim, half = config.rope_dim / 2;
  const auto num_layers = static_cast<std::size_t>(config.num_layers);
  space_.layers.resize(options_.layers == activations::kept ? num_layers : 1);
  space_.residual.resize(num_layers);
  for (matrix& each : space_.residual) each.resize(num_rows_, dim);
  space_.cosines.resize(num_rows_, half);
  space_.sines.resize(num_rows_, half);
  const std::int64_t block = std::min(std::max(num_rows_, num_wanted()), row_block);
  space_.normalized.resize(block, dim);
  space_.activated.resize(block, config.ffn_dim);
  space_.d_normalized.resize(block, dim);
  space_.d_activated.resize(block, config.ffn_dim);
  space_.d_gate_up.resize(block, 2 * std::int64_t{config.ffn_dim});
  space_.selected.resize(num_wanted(), config.q_dim());
  space_.output.resize(num_wanted(), dim);
  space_.d_selected.resize(num_wanted(), dim);
  space_.d_residual.resize(num_rows_, dim);
  space_.d_attended.resize(num_rows_, config.q_dim());
  space_.d_qkv.resize(num_rows_, config.q_dim() + 2 * std::int64_t{config.kv_dim()});
  for (matrix* const each :
       {&space_.branch_keys, &space_.branch_values, &space_.d_branch_keys, &space_.d_branch_values})
    each->resize(longest_, config.kv_dim());
  space_.d_log_gamma.resize(static_cast<std::size_t>(num_trees_ * config.num_heads));
  space_.d_heads.resize(static_cast<std::size_t>(config.num_heads));
  for (const piece& p : space_.pieces)
    for (std::int64_t i = 0; i < p.rows; ++i) {
      const std::int64_t row = p.first_row + i;
      model_.weights().embed(p.tokens[static_cast<std::size_t>(p.past + i)],
                             space_.residual[0].row(row));
      rope_angles(model_.weights(), p.past + i, space_.cosines.row(row), space_.sines.row(row));
    }
}

void backward_pass::select(const matrix& rows, matrix& selected) const {
  selected.resize(num_wanted(), rows.columns());
  for (std::int64_t i = 0; i < num_wanted(); ++i)
    std::ranges::copy(rows.row(space_.wanted_rows[static_cast<std::size_t>(i)]),
                      selected.row(i).begin());
}

void backward_pass::spread(const matrix& selected, matrix& rows) const {
  rows.resize(num_rows_, selected.columns());
  set_zero(rows);
  for (std::int64_t i = 0; i < num_wanted(); ++i)
    std::ranges::copy(selected.row(i),
                      rows.row(space_.wanted_rows[static_cast<std::size_t>(i)]).begin());
}

// --- forward -------------------------------------------------------------------------------------

void backward_pass::project(int layer) {
  const model_config& config = model_.config();
  layer_activations& to = kept(layer);
  to.qkv.resize(num_rows_, config.q_dim() + 2 * std::int64_t{config.kv_dim()});
  to.attended.resize(num_rows_, config.q_dim());
  to.lse.resize(num_rows_, config.num_heads);
  const matrix& residual = space_.residual[static_cast<std::size_t>(layer)];
  const layer_rows rows(model_, layer, options_.threads);
  for_each_block(num_rows_, [&](std::int64_t first, std::int64_t count) {
    rows.project(count, residual.row(first).data(), space_.cosines.row(first).data(),
                 space_.sines.row(first).data(), space_.normalized.data(),
                 to.qkv.row(first).data());
  });
}

void backward_pass::mix(int layer) {
  layer_activations& to = kept(layer);
  const matrix& residual = space_.residual[static_cast<std::size_t>(layer)];
  const std::int64_t num_rows = rows_after(layer);
  const matrix* attended = &to.attended;
  if (is_last(layer)) {
    select(residual, to.middle);
    select(to.attended, space_.selected);
    attended = &space_.selected;
  } else {
    to.middle.resize(num_rows, residual.columns());
    std::ranges::copy(residual.values(), to.middle.data());
  }
  to.gate_up.resize(num_rows, 2 * std::int64_t{model_.config().ffn_dim});
  const layer_rows rows(model_, layer, options_.threads);
  for_each_block(num_rows, [&](std::int64_t first, std::int64_t count) {
    rows.add_attention(count, attended->row(first).data(), to.middle.row(first).data());
    rows.expand(count, to.middle.row(first).data(), space_.normalized.data(),
                to.gate_up.row(first).data());
  });
}

void backward_pass::contract(int layer) {
  const layer_activations& from = kept(layer);
  matrix& to =
      is_last(layer) ? space_.output : space_.residual[static_cast<std::size_t>(layer) + 1];
  std::ranges::copy(from.middle.values(), to.data());
  const layer_rows rows(model_, layer, options_.threads);
  for_each_block(rows_after(layer), [&](std::int64_t first, std::int64_t count) {
    rows.contract(count, from.gate_up.row(first).data(), space_.activated.data(),
                  to.row(first).data());
  });
}

// --- the output ----------------------------------------------------------------------------------

std::size_t backward_pass::begin_group(std::size_t first) {
  const model_weights& weights = model_.weights();
  logit_row_ = space_.trees[first].first;
  std::size_t end = first + 1;
  std::int64_t rows = space_.trees[first].count;
  while (end < space_.trees.size() && rows + space_.trees[end].count <= most_logits)
    rows += space_.trees[end++].count;
  space_.logits.resize(rows, model_.config().vocabulary_size);
  for_each_block(rows, [&](std::int64_t begin, std::int64_t count) {
    normalize_rows(space_.output.row(logit_row_ + begin).data(), weights.output_norm,
                   model_.config().rms_epsilon, count, space_.normalized.data());
    weights.output(space_.normalized.data(), space_.logits.row(begin).data(), count,
                   options_.threads);
  });
  return end - first;
}

logit_rows backward_pass::logits_of(std::size_t tree) {
  const backward_workspace::wanted& at = space_.trees[tree];
  return {space_.logits.row(at.first - logit_row_).data(), at.count, space_.logits.columns()};
}

void backward_pass::end_group() {
  const model_weights& weights = model_.weights();
  for_each_block(space_.logits.rows(), [&](std::int64_t begin, std::int64_t count) {
    weights.output.backward(space_.logits.row(begin).data(), space_.d_normalized.data(), count,
                            options_.threads);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t row = logit_row_ + begin + i;
      std::ranges::fill(space_.d_selected.row(row), 0.0f);
      rms_norm_backward(space_.output.row(row), weights.output_norm.values(),
                        model_.config().rms_epsilon, space_.d_normalized.row(i),
                        space_.d_selected.row(row));
    }
  });
}

// --- backward ------------------------------------------------------------------------------------

void backward_pass::backward_mix(int layer) {
  const model_config& config = model_.config();
  const layer_weights& weights = model_.weights().layers[static_cast<std::size_t>(layer)];
  const layer_activations& from = kept(layer);
  const std::int64_t num_rows = rows_after(layer);
  matrix& d_rows = is_last(layer) ? space_.d_selected : space_.d_residual;
  matrix& d_attended = is_last(layer) ? space_.selected : space_.d_attended;
  for_each_block(num_rows, [&](std::int64_t first, std::int64_t count) {
    weights.down.backward(d_rows.row(first).data(), space_.d_activated.data(), count,
                          options_.threads);
    for (std::int64_t i = 0; i < count; ++i)
      swiglu_backward(from.gate_up.row(first + i), space_.d_activated.row(i),
                      space_.d_gate_up.row(i));
    weights.gate_up.backward(space_.d_gate_up.data(), space_.d_normalized.data(), count,
                             options_.threads);
    for (std::int64_t i = 0; i < count; ++i)
      rms_norm_backward(from.middle.row(first + i), weights.ffn_norm.values(), config.rms_epsilon,
                        space_.d_normalized.row(i), d_rows.row(first + i));
    weights.attention_output.backward(d_rows.row(first).data(), d_attended.row(first).data(), count,
                                      options_.threads);
  });
  if (is_last(layer)) {
    spread(space_.d_selected, space_.d_residual);
    spread(space_.selected, space_.d_attended);
    set_zero(space_.d_qkv);  // there are queries and keys that no gradient reaches
  }
  std::ranges::fill(space_.d_log_gamma, 0.0);
}

void backward_pass::store_gradient(int layer, std::span<float> gradient) const {
  const model_config& config = model_.config();
  for (std::int64_t tree = 0; tree < num_trees_; ++tree)
    for (std::int64_t head = 0; head < config.num_heads; ++head)
      gradient[static_cast<std::size_t>((tree * config.num_layers + layer) * config.num_heads +
                                        head)] =
          static_cast<float>(
              space_.d_log_gamma[static_cast<std::size_t>(tree * config.num_heads + head)]);
}

void backward_pass::backward_project(int layer) {
  const model_config& config = model_.config();
  const layer_weights& weights = model_.weights().layers[static_cast<std::size_t>(layer)];
  const matrix& residual = space_.residual[static_cast<std::size_t>(layer)];
  const auto q_and_k = static_cast<std::size_t>(config.q_dim() + config.kv_dim());
  for_each_block(num_rows_, [&](std::int64_t first, std::int64_t count) {
    for (std::int64_t row = first; row < first + count; ++row)
      rotate_back(space_.d_qkv.row(row).first(q_and_k), config.head_dim, space_.cosines.row(row),
                  space_.sines.row(row));
    weights.qkv.backward(space_.d_qkv.row(first).data(), space_.d_normalized.data(), count,
                         options_.threads);
    for (std::int64_t i = 0; i < count; ++i)
      rms_norm_backward(residual.row(first + i), weights.attention_norm.values(),
                        config.rms_epsilon, space_.d_normalized.row(i),
                        space_.d_residual.row(first + i));
  });
}

}  // namespace llama
