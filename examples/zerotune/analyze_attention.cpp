// SPDX-License-Identifier: Apache-2.0
#include "analyze_attention.hpp"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <utility>

#include "failure.hpp"
#include "llama/probability.hpp"
#include "llama/workspace.hpp"
#include "zerotune/analysis/gamma_response.hpp"
#include "zerotune/core/error.hpp"
#include "zerotune/policy/token_span.hpp"

namespace zerotune_cli {

namespace {

using zerotune::example_result;
using zerotune::tensor_view;

constexpr std::size_t batch_rows = 16;  // a constant: batches must not depend on the threads

index_t position_of(token_place place, index_t length) {
  switch (place) {
    case token_place::initial:
      return 0;
    case token_place::second:
      return std::min<index_t>(1, length - 1);
    case token_place::middle:
      return length / 2;
    case token_place::last:
      break;
  }
  return length - 1;
}

// Reports rows done from several threads.
class row_counter {
 public:
  row_counter(const zerotune::progress_callback& progress, std::size_t total)
      : progress_(progress), total_(static_cast<index_t>(total)) {}
  void add(std::size_t rows) {
    if (!progress_) return;
    const std::lock_guard lock(mutex_);
    done_ += static_cast<index_t>(rows);
    progress_(done_, total_);
  }

 private:
  const zerotune::progress_callback& progress_;
  index_t total_, done_ = 0;
  std::mutex mutex_;
};

}  // namespace

attention_probe::attention_probe(const llama::model& model, const llama::tokenizer& tokens,
                                 const prompt_template& prompts, const data_set& data,
                                 std::span<const index_t> examples, int threads)
    : model_(model), pool_(threads) {
  for (const index_t example : examples) {
    const data_row& row = data.rows[static_cast<std::size_t>(example)];
    tokenized_row& to = rows_.emplace_back();
    to.prompt = encode_prompt(tokens, prompts.render(row));
    if (to.prompt.size() < 2)
      throw usage_error(data.where(example) + ": row \"" + row.id +
                        "\": expected a prompt of at least two tokens, got " +
                        std::to_string(to.prompt.size()));
    for (const std::string& choice : row.choices)
      to.choices.push_back(encode_answer(tokens, choice));
  }
}

// The whole prompt in one piece: with a cached prefix its queries would not be seen.
void attention_probe::look(std::span<const int> prompt, float gamma, llama::workspace& space,
                           const observer& use) const {
  llama::matrix logits;
  const llama::sequence sequence{prompt, nullptr, {}};
  llama::forward(
      model_, [gamma](const llama::attention_context&) { return zerotune::initial_token{gamma}; },
      {&sequence, 1}, space, logits, {}, use);
}

attention_means attention_probe::observe(float gamma, std::span<const float> grid, index_t rows,
                                         const zerotune::progress_callback& progress) {
  const llama::model_config& config = model_.config();
  const auto heads = static_cast<std::size_t>(config.num_heads);
  const auto units = static_cast<std::size_t>(config.num_layers) * heads;
  const std::size_t count = std::min(static_cast<std::size_t>(rows), rows_.size());
  std::vector<attention_means> sums(count);
  row_counter counter(progress, count);
  pool_.parallel_for(static_cast<index_t>(count), [&](index_t i) {
    attention_means& sum = sums[static_cast<std::size_t>(i)];
    sum.sink_mass.assign(units, 0.0);
    sum.entropy.assign(grid.size() * units, 0.0);
    llama::workspace space;
    look(rows_[static_cast<std::size_t>(i)].prompt, gamma, space,
         [&](const llama::attention_record& record, const sink_modifier& modifier) {
           const auto found =
               zerotune::sink_rows(llama::attention_backend{}, record.q, record.k, record.lse,
                                   modifier, zerotune::initial_token{1.0f},
                                   {.softmax_scale = static_cast<double>(record.softmax_scale)});
           const std::size_t queries = found.size() / heads;
           for (std::size_t head = 0; head < heads; ++head) {
             const std::size_t unit = static_cast<std::size_t>(record.context.layer) * heads + head;
             for (std::size_t q = 0; q < queries; ++q) {
               const zerotune::sink_row& row = found[head * queries + q];
               if (row.keys < 2) continue;
               sum.sink_mass[unit] += zerotune::initial_weight(row);
               for (std::size_t g = 0; g < grid.size(); ++g)
                 sum.entropy[g * units + unit] +=
                     zerotune::row_entropy(row, static_cast<double>(grid[g]));
             }
           }
         });
    counter.add(1);
  });
  attention_means means{std::vector<double>(units), std::vector<double>(grid.size() * units)};
  double queries = 0;
  for (std::size_t i = 0; i < count; ++i) {
    queries += static_cast<double>(rows_[i].prompt.size() - 1);
    for (std::size_t u = 0; u < units; ++u) means.sink_mass[u] += sums[i].sink_mass[u];
    for (std::size_t u = 0; u < means.entropy.size(); ++u) means.entropy[u] += sums[i].entropy[u];
  }
  for (double& value : means.sink_mass) value /= queries;
  for (double& value : means.entropy) value /= queries;
  return means;
}

template <class Policy>
std::vector<example_result> attention_probe::answer(const Policy& policy,
                                                    const zerotune::progress_callback& progress) {
  std::vector<example_result> results(rows_.size());
  row_counter counter(progress, rows_.size());
  const std::size_t batches = (rows_.size() + batch_rows - 1) / batch_rows;
  pool_.parallel_for(static_cast<index_t>(batches), [&](index_t i) {
    const std::size_t first = static_cast<std::size_t>(i) * batch_rows;
    const std::size_t count = std::min(batch_rows, rows_.size() - first);
    answer_batch(policy, std::span(std::as_const(rows_)).subspan(first, count),
                 std::span(results).subspan(first, count));
    counter.add(count);
  });
  return results;
}

// The policy is called with the context and the length of the sequence's prompt.
template <class Policy>
void attention_probe::answer_batch(const Policy& policy, std::span<const tokenized_row> rows,
                                   std::span<example_result> results) const {
  llama::workspace space;
  llama::matrix logits;
  std::vector<llama::kv_cache> caches;
  std::vector<llama::sequence> sequences;
  std::vector<std::size_t> asking;
  std::vector<int> positions;
  const auto policy_of_prompt = [&](const llama::attention_context& context) {
    const tokenized_row& row = rows[asking[static_cast<std::size_t>(context.sequence)]];
    return policy(context, static_cast<index_t>(row.prompt.size()));
  };
  std::size_t most = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    caches.emplace_back(model_.config());
    asking.push_back(i);
    positions.push_back(static_cast<int>(rows[i].prompt.size()) - 1);
    most = std::max(most, rows[i].choices.size());
  }
  for (std::size_t i = 0; i < rows.size(); ++i)
    sequences.push_back({rows[i].prompt, &caches[i], {&positions[i], 1}});
  llama::forward(model_, policy_of_prompt, sequences, space, logits);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::span<const float> row = std::as_const(logits).row(static_cast<std::int64_t>(i));
    results[i].entropy = llama::entropy(row);
    for (const std::vector<int>& choice : rows[i].choices)
      results[i].loglik.push_back(llama::log_probability(row, choice.front()));
  }
  // The other tokens of longer choices, one choice of every row at a time, on the prompts' caches.
  for (std::size_t c = 0; c < most; ++c) {
    asking.clear();
    sequences.clear();
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (c >= rows[i].choices.size() || rows[i].choices[c].size() < 2) continue;
      asking.push_back(i);
      while (positions.size() < rows[i].choices[c].size()) positions.push_back(0);
    }
    if (asking.empty()) continue;
    for (std::size_t t = 0; t < positions.size(); ++t) positions[t] = static_cast<int>(t);
    for (const std::size_t i : asking) {
      const std::size_t size = rows[i].choices[c].size() - 1;
      sequences.push_back({std::span(rows[i].choices[c]).first(size), &caches[i],
                           std::span(std::as_const(positions)).first(size)});
    }
    llama::forward(model_, policy_of_prompt, sequences, space, logits);
    std::int64_t next = 0;
    for (const std::size_t i : asking) {
      const std::vector<int>& choice = rows[i].choices[c];
      for (std::size_t t = 1; t < choice.size(); ++t)
        results[i].loglik[c] +=
            llama::log_probability(std::as_const(logits).row(next++), choice[t]);
      caches[i].truncate(static_cast<std::int64_t>(rows[i].prompt.size()));
    }
  }
  for (example_result& result : results) {
    result.predicted = zerotune::largest_choice(result.loglik);
    result.choice_entropy = zerotune::choice_entropy(result.loglik);
  }
}

std::vector<example_result> attention_probe::scale_token(
    token_place place, float gamma, const zerotune::progress_callback& progress) {
  return answer(
      [&](const llama::attention_context&, index_t length) {
        const index_t at = position_of(place, length);
        return zerotune::token_span({at, at + 1}, gamma);
      },
      progress);
}

/// One layer's queries that see more than the initial token, each with its own initial key.
struct attention_probe::layer_queries {
  std::vector<float> q;  ///< [queries, num_heads, head_dim]
  std::vector<float> k;  ///< [queries, num_kv_heads, head_dim]

  void add(const llama::attention_record& record) {
    const index_t dim = record.q.extent(3);
    for (index_t i = 1; i < record.q.extent(2); ++i) {
      for (index_t head = 0; head < record.q.extent(1); ++head)
        for (index_t d = 0; d < dim; ++d) q.push_back(record.q(0, head, i, d));
      for (index_t head = 0; head < record.k.extent(1); ++head)
        for (index_t d = 0; d < dim; ++d) k.push_back(record.k(0, head, 0, d));
    }
  }
};

key_form attention_probe::calibrate(float gamma, index_t rows) {
  const llama::model_config& config = model_.config();
  const index_t dim = config.head_dim, group = config.group_size();
  const std::size_t count = std::min(static_cast<std::size_t>(rows), rows_.size());
  std::vector<layer_queries> layers(static_cast<std::size_t>(config.num_layers));
  llama::workspace space;
  float scale = 0;
  for (std::size_t i = 0; i < count; ++i)
    look(rows_[i].prompt, 1.0f, space,
         [&](const llama::attention_record& record, const sink_modifier&) {
           layers[static_cast<std::size_t>(record.context.layer)].add(record);
           scale = record.softmax_scale;
         });
  const zerotune::output_options options{.softmax_scale = static_cast<double>(scale)};
  key_form form{.gamma = static_cast<double>(gamma), .factors = {}, .spread = {}, .effect = {}};
  for (const layer_queries& layer : layers) {
    const index_t queries = static_cast<index_t>(layer.q.size()) / (config.num_heads * dim);
    for (index_t kv_head = 0; kv_head < config.num_kv_heads; ++kv_head) {
      // One key-value head and its query heads: a group without a factor must not stop the others.
      const tensor_view<const float, 4> q(layer.q.data() + kv_head * group * dim,
                                          {queries, group, 1, dim},
                                          {config.num_heads * dim, dim, dim, 1});
      const tensor_view<const float, 4> k(layer.k.data() + kv_head * dim, {queries, 1, 1, dim},
                                          {config.num_kv_heads * dim, dim, dim, 1});
      std::optional<double>& factor = form.factors.emplace_back();
      try {
        factor = static_cast<double>(
            zerotune::calibrate_key_scale(q, k, gamma, zerotune::identity{}, {}, options).front());
      } catch (const zerotune::invalid_argument&) {  // no factor reaches the gamma
      }
      const zerotune::key_scale keys{.factor = static_cast<float>(factor.value_or(1.0))};
      for (const zerotune::gamma_spread& spread :
           zerotune::key_scale_spread(q, k, keys, zerotune::identity{}, options))
        form.spread.push_back(spread);
    }
  }
  return form;
}

std::vector<example_result> attention_probe::scale_keys(
    const key_form& form, const zerotune::progress_callback& progress) {
  const llama::model_config& config = model_.config();
  std::vector<float> factors;  // [layers][heads]
  for (const std::optional<double>& factor : form.factors)
    factors.insert(factors.end(), static_cast<std::size_t>(config.group_size()),
                   static_cast<float>(factor.value_or(1.0)));
  return answer(
      [&](const llama::attention_context& context, index_t) {
        return scaled_initial_logit{
            {factors.data() + static_cast<std::ptrdiff_t>(context.layer) * config.num_heads,
             {config.num_heads}}};
      },
      progress);
}

}  // namespace zerotune_cli
