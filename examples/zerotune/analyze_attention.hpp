// SPDX-License-Identifier: Apache-2.0
// Passes of the host that a gamma table cannot say: attention looked at query by query, any one
// token's attention scaled, and the paper's scaled key.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "analyze.hpp"
#include "llama/kv_cache.hpp"
#include "llama/model.hpp"
#include "prompt_template.hpp"
#include "rows.hpp"
#include "zerotune/core/thread_pool.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"
#include "zerotune/tuning/evaluator.hpp"

namespace zerotune_cli {

/// Means over all queries that see more than the initial token, pooled over the rows.
struct attention_means {
  std::vector<double> sink_mass;  ///< [layers][heads]
  std::vector<double> entropy;    ///< [gammas][layers][heads]: the row's own under another gamma
};

/// A token that every prompt has.
enum class token_place { initial, second, middle, last };

/// The logit of the initial token times a factor per head: what scaling its key does.
struct scaled_initial_logit {
  zerotune::tensor_view<const float, 1> factors;  ///< [num_heads]

  template <class Batch>
  Batch transform_logit(zerotune::row r, Batch kv_pos, Batch logit) const {
    using zerotune::select;
    using real = zerotune::impl::value_of<Batch>;
    const Batch factor(static_cast<real>(factors(r.head)));
    return select(kv_pos == Batch(real(0)), Batch(factor * logit), logit);
  }
  zerotune::range support(zerotune::row r) const { return {0, factors(r.head) == 1.0f ? 0 : 1}; }
  zerotune::tile_effect effect(int head, zerotune::range, zerotune::range kv) const {
    return kv.contains(0) && factors(head) != 1.0f ? zerotune::tile_effect::apply
                                                   : zerotune::tile_effect::none;
  }
};

/// Runs some rows of a data set. Results are bitwise the same for any number of threads.
class attention_probe {
 public:
  /// All but `data` must outlive the probe.
  attention_probe(const llama::model& model, const llama::tokenizer& tokens,
                  const prompt_template& prompts, const data_set& data,
                  std::span<const index_t> examples, int threads);

  /// Attention with gamma on all heads, of the first `rows` rows.
  /// @param grid  gammas that each row's entropy is wanted for, by its own head alone
  attention_means observe(float gamma, std::span<const float> grid, index_t rows,
                          const zerotune::progress_callback& progress);

  /// Log-likelihoods, predicted choices and entropies of all rows with gamma on one token.
  std::vector<zerotune::example_result> scale_token(token_place place, float gamma,
                                                    const zerotune::progress_callback& progress);

  /// Factors that meet the gamma in the geometric mean over the first `rows` rows' queries, and the
  /// spread that they leave; key_form::effect is not set.
  key_form calibrate(float gamma, index_t rows);

  /// All rows under the factors; a head without one is untouched.
  std::vector<zerotune::example_result> scale_keys(const key_form& form,
                                                   const zerotune::progress_callback& progress);

  std::span<const int> prompt(std::size_t row) const { return rows_[row].prompt; }

 private:
  struct tokenized_row {
    std::vector<int> prompt;
    std::vector<std::vector<int>> choices;
  };
  struct layer_queries;
  using sink_modifier = zerotune::composition<zerotune::initial_token, zerotune::causal>;
  using observer = std::function<void(const llama::attention_record&, const sink_modifier&)>;

  void look(std::span<const int> prompt, float gamma, llama::workspace& space,
            const observer& use) const;
  template <class Policy>
  std::vector<zerotune::example_result> answer(const Policy& policy,
                                               const zerotune::progress_callback& progress);
  template <class Policy>
  void answer_batch(const Policy& policy, std::span<const tokenized_row> rows,
                    std::span<zerotune::example_result> results) const;

  const llama::model& model_;
  std::vector<tokenized_row> rows_;
  zerotune::thread_pool pool_;
};

}  // namespace zerotune_cli
