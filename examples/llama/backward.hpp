// SPDX-License-Identifier: Apache-2.0
// The backward pass: what a loss at the output owes to every head's attention to the initial token,
// d loss / d log gamma[layer][head]. Weights are frozen, so only activations have gradients:
//
//     llama::backward(model, policy, trees, loss, workspace, gradient);
//
// docs/mathematics.md, section 5. All but attention is compiled once, in backward.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "llama/attention.hpp"
#include "llama/model.hpp"

namespace llama {

/// Tokens to differentiate through: a trunk, and branches that each go on from its end and do not
/// see one another, as a prompt and its possible answers. Its rows are the trunk's, then those of
/// one branch after another.
struct token_tree {
  std::span<const int> trunk;                        ///< at least one token, the initial one first
  std::span<const std::span<const int>> branches{};  ///< none is empty; there may be none
  /// Rows, strictly rising and at least one, whose next-token logits the loss looks at.
  std::span<const int> logits_at;
};

/// The logits that a tree asked for, [count, vocabulary_size].
struct logit_rows {
  float* data = nullptr;
  std::int64_t count = 0;
  std::int64_t vocabulary_size = 0;

  std::span<float> row(std::int64_t i) const {
    return {data + i * vocabulary_size, static_cast<std::size_t>(vocabulary_size)};
  }
};

/// What becomes of a layer's activations between the passes.
enum class activations {
  kept,        ///< all: two forward passes' time
  recomputed,  ///< only the layer's input: 2.75 passes' time, a seventh of the memory (SmolLM2)
};

struct backward_options {
  activations layers = activations::kept;
  executor_ref threads{};
};

/// Memory that backward() works in. It grows to the largest call and is kept. Its contents mean
/// nothing between calls; no two calls may use it at once.
struct backward_workspace {
  /// What a layer computes on the way forward.
  struct layer_activations {
    matrix qkv;       ///< [rows, q_dim + 2 kv_dim], q and k turned
    matrix attended;  ///< [rows, q_dim]
    matrix lse;       ///< [rows, num_heads]: per piece [num_heads, its queries]
    matrix middle;    ///< [rows after attention, embedding_dim], residual between the halves
    matrix gate_up;   ///< [rows after attention, 2 ffn_dim]
  };
  /// A trunk or a branch.
  struct piece {
    std::int64_t tree = 0;
    std::int64_t first_row = 0, rows = 0;  ///< among the rows of all trees
    std::int64_t trunk_row = 0, past = 0;  ///< of a branch: where its trunk is, and its length
    std::int64_t first_query = 0, num_queries = 0;  ///< that the last layer needs
    std::span<const int> tokens;                    ///< trunk included
  };
  /// Where a tree's logits are among all logits.
  struct wanted {
    std::int64_t first = 0, count = 0;
  };

  std::vector<layer_activations> layers;  ///< all layers, or one that is recomputed
  std::vector<matrix> residual;           ///< per layer its input; [rows, embedding_dim]
  matrix cosines, sines;                  ///< [rows, rope_dim / 2]
  matrix normalized, activated;           ///< [a block of rows, ...]
  matrix branch_keys, branch_values;      ///< [trunk and branch, kv_dim]
  matrix selected, output, logits;        ///< [wanted rows, ...]
  matrix d_residual, d_attended, d_qkv;   ///< [rows, ...]
  matrix d_selected, d_activated, d_gate_up, d_normalized;
  matrix d_branch_keys, d_branch_values;  ///< [trunk and branch, kv_dim]
  attention_memory attention;
  std::vector<double> d_log_gamma;  ///< [trees, num_heads], of one layer
  std::vector<double> d_heads;      ///< [num_heads], of one piece
  std::vector<piece> pieces;
  std::vector<wanted> trees;
  std::vector<std::int64_t> wanted_rows;  ///< rows whose logits are wanted
  std::vector<int> tokens;                ///< of the branches, trunks included
};

/// Bytes that a workspace needs for so many rows in all, logits and what grows with the longest
/// sequence apart.
std::size_t backward_bytes(const model_config& config, std::int64_t rows, activations layers);

/// One call of backward(): the parts that a policy has no say in.
class backward_pass {
 public:
  /// @throws as backward()
  backward_pass(const model& m, std::span<const token_tree> trees, backward_workspace& space,
                const backward_options& options, std::size_t gradient_size);

  /// @name On the way forward
  /// @{
  /// Norm, q, k and v of all rows.
  void project(int layer);
  /// The attention's output matrix, gate and up.
  void mix(int layer);
  /// The rest: the next layer's input.
  void contract(int layer);
  /// @}

  /// Computes the logits of as many trees from `first` on as go together. @return how many
  std::size_t begin_group(std::size_t first);
  /// Where the loss of a tree of the present group finds its logits.
  logit_rows logits_of(std::size_t tree);
  /// Takes the group's logits, which have become gradients, back to the last layer's output.
  void end_group();

  /// @name On the way back
  /// @{
  /// From the layer's output to that of its attention.
  void backward_mix(int layer);
  /// Writes [trees][layers][heads] of this layer.
  void store_gradient(int layer, std::span<float> gradient) const;
  /// From q, k and v to the layer's input.
  void backward_project(int layer);
  /// @}

  /// What attention and its backward pass need of a piece; no queries if none is needed.
  struct attention_inputs {
    attention_context context;
    attention_call call;
  };
  std::size_t num_pieces() const { return space_.pieces.size(); }
  attention_inputs attention_of(int layer, std::size_t piece);
  attention_backward_call gradients_of(const attention_inputs& in, std::size_t piece);
  /// Adds what attend_backward() has written to the sums over pieces.
  void add_gradients(const attention_inputs& in, std::size_t piece);
  attention_memory& memory() { return space_.attention; }

 private:
  using layer_activations = backward_workspace::layer_activations;
  using piece = backward_workspace::piece;

  void check(std::span<const token_tree> trees, std::size_t gradient_size) const;
  void place(std::span<const token_tree> trees);
  void make_room();
  layer_activations& kept(int layer) {
    return space_.layers[space_.layers.size() == 1 ? 0 : static_cast<std::size_t>(layer)];
  }
  bool is_last(int layer) const { return layer + 1 == model_.config().num_layers; }
  /// Rows of a layer after its attention.
  std::int64_t rows_after(int layer) const { return is_last(layer) ? num_wanted() : num_rows_; }
  std::int64_t num_wanted() const { return static_cast<std::int64_t>(space_.wanted_rows.size()); }
  void select(const matrix& rows, matrix& selected) const;
  void spread(const matrix& selected, matrix& rows) const;

  const model& model_;
  backward_workspace& space_;
  backward_options options_;
  std::int64_t num_rows_ = 0, num_trees_ = 0, longest_ = 0, logit_row_ = 0;
};

/// Runs the trees through the model and back.
///
/// The gradient flows through every row, that of the initial token and of a shared beginning
/// included; in the last layer only through the rows that `logits_at` names. A tree's gradient is
/// bitwise the same for any number of threads and whatever other trees are in the call, as are its
/// logits; kept or recomputed activations give the same bits too.
///
/// @param policy    see attention_policy. gamma is that of a zerotune::initial_token in it; the
///                  gradient of a policy without one is that at gamma = 1
/// @param loss      called as loss(index of the tree, const logit_rows&), once per tree in their
///                  order: replaces the logits by the loss's gradient with respect to them
/// @param gradient  [trees][num_layers][num_heads], overwritten. 0 for a head whose gamma is 0
/// @throws std::invalid_argument for an empty trunk or branch, a token outside the vocabulary, an
///         index outside the rows, out of order, or none, more tokens than context_length, a
///         gradient of another size; as forward() and the loss
/// Costs two forward passes (see activations) and backward_bytes() of memory.
template <attention_policy Policy, class Loss>
void backward(const model& m, Policy&& policy, std::span<const token_tree> trees, Loss&& loss,
              backward_workspace& space, std::span<float> gradient,
              const backward_options& options = {}) {
  backward_pass pass(m, trees, space, options, gradient.size());
  const int num_layers = m.config().num_layers;
  const auto mix = [&](int layer) {
    pass.project(layer);
    for (std::size_t i = 0; i < pass.num_pieces(); ++i) {
      const auto in = pass.attention_of(layer, i);
      if (!in.call.q.empty()) attend(in.call, policy(in.context), pass.memory(), options.threads);
    }
    pass.mix(layer);
  };
  for (int layer = 0; layer < num_layers; ++layer) {
    mix(layer);
    pass.contract(layer);
  }
  for (std::size_t first = 0, count = 0; first < trees.size(); first += count) {
    count = pass.begin_group(first);
    for (std::size_t i = first; i < first + count; ++i) loss(i, pass.logits_of(i));
    pass.end_group();
  }
  for (int layer = num_layers - 1; layer >= 0; --layer) {
    if (options.layers == activations::recomputed && layer + 1 < num_layers) mix(layer);
    pass.backward_mix(layer);
    for (std::size_t i = 0; i < pass.num_pieces(); ++i) {
      const auto in = pass.attention_of(layer, i);
      if (in.call.q.empty()) continue;
      attend_backward(pass.gradients_of(in, i), policy(in.context), pass.memory(), options.threads);
      pass.add_gradients(in, i);
    }
    pass.store_gradient(layer, gradient);
    if (layer > 0) pass.backward_project(layer);
  }
}

}  // namespace llama
