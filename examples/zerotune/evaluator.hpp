// SPDX-License-Identifier: Apache-2.0
// The reference host as a zerotune::evaluator: prompts of a data set under a gamma table.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "llama/kv_cache.hpp"
#include "llama/model.hpp"
#include "llama/tokenizer.hpp"
#include "prompt_template.hpp"
#include "rows.hpp"
#include "zerotune/core/thread_pool.hpp"
#include "zerotune/tuning/evaluator.hpp"

namespace zerotune_cli {

struct table_order;

/// An answer, and for those who want to read it the text that the model went on with.
struct row_answer {
  zerotune::example_result result;
  std::string continuation;  ///< up to a newline or the end; empty unless asked for
};

/// Evaluates rows in batches. One pass over a batch's prompts gives the entropy, the first token of
/// every choice and of the continuation; longer choices and the continuation go on from its caches.
/// What all prompts of the data set begin with is computed once per table. Answers are bitwise the
/// same for any number of threads and any slice of the rows.
class host_evaluator {
 public:
  struct options {
    int threads = 1;
    std::span<const data_row> shots{};  ///< few-shot examples, with labels
  };

  /// @param data  must outlive the evaluator, as model and tokens must
  /// @throws usage_error naming a row whose prompt, with the longest answer, exceeds the model's
  ///         context
  host_evaluator(const llama::model& model, const llama::tokenizer& tokens,
                 const prompt_template& prompts, const data_set& data, options settings);
  ~host_evaluator();
  host_evaluator(const host_evaluator&) = delete;
  host_evaluator& operator=(const host_evaluator&) = delete;

  index_t num_layers() const { return model_.config().num_layers; }
  index_t num_heads() const { return model_.config().num_heads; }

  /// @throws zerotune::invalid_argument for a table of another shape or an index out of range
  std::vector<zerotune::example_result> evaluate(const zerotune::gamma_table& gamma,
                                                 std::span<const index_t> examples,
                                                 const zerotune::quantities& wanted,
                                                 const zerotune::progress_callback& progress);

  /// The same examples under several tables, a result per table, bitwise those of evaluate().
  /// Layers that tables have in common from the first on are computed once, where that saves much:
  /// probing every head by itself costs about half.
  /// @throws as evaluate()
  std::vector<std::vector<zerotune::example_result>> evaluate_many(
      std::span<const zerotune::gamma_table> gammas, std::span<const index_t> examples,
      const zerotune::quantities& wanted, const zerotune::progress_callback& progress);

  /// The model without any modifier in its attention: what gamma = 1 must equal.
  std::vector<zerotune::example_result> evaluate_untouched(
      std::span<const index_t> examples, const zerotune::quantities& wanted,
      const zerotune::progress_callback& progress);

  /// Everything, with the whole continuations. An empty table stands for the untouched model.
  std::vector<row_answer> answer(const zerotune::gamma_table& gamma,
                                 std::span<const index_t> examples,
                                 const zerotune::progress_callback& progress);

  /// Loss and gradient of every example, each by a pass of its own over the prompt and, in one tree
  /// with it, the choices that the loss needs. Costs two forward passes over these tokens (more for
  /// prompts whose activations exceed the memory) and at most `gradient_memory` beside the model.
  /// @throws zerotune::invalid_argument for a table of another shape, an index out of range, a row
  ///         without a label if the loss needs one, a weight that is not finite, or no weight at
  ///         all
  zerotune::example_gradients differentiate(const zerotune::gamma_table& gamma,
                                            std::span<const index_t> examples,
                                            const zerotune::loss_weights& weights,
                                            const zerotune::progress_callback& progress);

  /// Bytes that all threads together may keep of activations, unless a single row's inputs of all
  /// layers need more.
  static constexpr std::size_t gradient_memory = std::size_t{448} << 20;

  /// Tokens that every prompt begins with, which are computed once per table.
  index_t common_prefix() const { return static_cast<index_t>(prefix_.size()); }
  /// Mean number of tokens of a prompt.
  double mean_prompt_tokens() const;

 private:
  struct prepared_row;
  struct worker;
  struct request;
  class lease;
  class example_loss;

  template <class Policy>
  std::vector<row_answer> run(const Policy& policy, std::span<const index_t> examples,
                              const request& wanted, const zerotune::progress_callback& progress);
  template <class Policy>
  void run_batch(const Policy& policy, const llama::kv_cache* prefix,
                 std::span<const index_t> examples, const request& wanted, worker& w,
                 std::span<row_answer> answers);
  /// The prompts of a batch behind the common prefix, with empty caches. @param last  owns what
  /// they ask for
  std::vector<llama::sequence> begin_batch(std::span<const index_t> examples, worker& w,
                                           std::vector<int>& last) const;
  /// A batch under all tables; answers_of(table) says where to.
  template <class AnswersOf, class Report>
  void run_tables(std::span<const zerotune::gamma_table> gammas, const table_order& order,
                  std::span<const index_t> examples, const request& wanted, worker& w,
                  const AnswersOf& answers_of, const Report& report);
  /// What is wanted of a batch whose prompts have run.
  template <class Policy>
  void finish_batch(const Policy& policy, std::span<const index_t> examples, const request& wanted,
                    worker& w, std::span<row_answer> answers);
  template <class Policy>
  void score_choices(const Policy& policy, std::span<const index_t> examples, worker& w,
                     std::span<row_answer> answers);
  template <class Policy>
  void generate(const Policy& policy, std::span<const index_t> examples, bool whole, worker& w,
                std::span<row_answer> answers);
  /// Consecutive examples that run together; how many may depend on the number of threads.
  std::vector<std::span<const index_t>> batches(std::span<const index_t> examples) const;
  /// Empty caches for a batch, with the room that its rows need. @param w  its caches[i] is row i's
  void give_caches(std::span<const index_t> examples, worker& w) const;
  std::vector<std::span<const index_t>> gradient_batches(
      std::span<const index_t> examples, const zerotune::loss_weights& weights) const;
  void differentiate_batch(const zerotune::gamma_table& gamma, std::span<const index_t> examples,
                           const zerotune::loss_weights& weights, worker& w,
                           std::span<double> losses, std::span<float> gradient);
  void check(const zerotune::gamma_table& gamma) const;
  void check(std::span<const index_t> examples) const;
  void check(std::span<const index_t> examples, const zerotune::loss_weights& weights) const;

  const llama::model& model_;
  const llama::tokenizer& tokens_;
  std::vector<prepared_row> rows_;
  std::vector<int> prefix_;
  zerotune::thread_pool pool_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<worker>> idle_;
};

}  // namespace zerotune_cli
