// SPDX-License-Identifier: Apache-2.0
// host_evaluator::differentiate(): every example's loss and gradient.
#include <algorithm>
#include <cmath>

#include "evaluator_parts.hpp"
#include "llama/probability.hpp"
#include "losses.hpp"
#include "zerotune/tuning/loss.hpp"

namespace zerotune_cli {

namespace {

// Rows of the model's activations that go through its products together: fewer would read the
// weights too often, more would not gain.
constexpr std::int64_t least_rows = 128;
constexpr std::int64_t most_rows = 288;

}  // namespace

/// An example as a tree of tokens and the loss at its logits: row 0 is the prompt's last token,
/// then follow all but the last token of each choice that the loss needs.
class host_evaluator::example_loss {
 public:
  example_loss(const prepared_row& row, const zerotune::loss_weights& weights)
      : row_(row), weights_(weights) {
    if (needs_all_choices(weights)) {
      for (std::size_t c = 0; c < row.choices.size(); ++c) add(c);
    } else if (zerotune::is_supervised(weights)) {
      add(static_cast<std::size_t>(row.label));
    }
    logits_at_.push_back(static_cast<int>(row.prompt.size()) - 1);
    for (const std::span<const int>& branch : branches_)
      for (std::size_t i = 0; i < branch.size(); ++i) logits_at_.push_back(logits_at_.back() + 1);
  }

  /// Valid as long as this object.
  llama::token_tree tree() const { return {row_.prompt, branches_, logits_at_}; }
  std::int64_t num_rows() const {
    return static_cast<std::int64_t>(row_.prompt.size() + logits_at_.size() - 1);
  }

  /// The loss; the logits become its gradient.
  double differentiate(const llama::logit_rows& logits) const {
    const std::vector<double> loglik = log_likelihoods(logits);
    choice_loss loss;
    if (!used_.empty()) loss = loss_of_choices(weights_, loglik, row_.label);
    if (weights_.entropy != 0) loss.value += weights_.entropy * llama::entropy(logits.row(0));
    std::vector<llama::token_weight> first;
    std::int64_t next = 1;
    for (const std::size_t c : used_) {
      const std::vector<int>& choice = row_.choices[c];
      first.push_back({choice.front(), loss.slope[c]});
      for (std::size_t t = 1; t < choice.size(); ++t) {
        const llama::token_weight token{choice[t], loss.slope[c]};
        llama::replace_by_gradient(logits.row(next++), {&token, 1});
      }
    }
    llama::replace_by_gradient(logits.row(0), first, weights_.entropy);
    return loss.value;
  }

 private:
  void add(std::size_t choice) {
    used_.push_back(choice);
    const std::span<const int> tokens = row_.choices[choice];
    if (tokens.size() > 1) branches_.push_back(tokens.first(tokens.size() - 1));
  }

  /// [choices]; 0 for those that are not needed.
  std::vector<double> log_likelihoods(const llama::logit_rows& logits) const {
    std::vector<double> loglik(row_.choices.size(), 0.0);
    if (used_.empty()) return loglik;
    const double log_sum = llama::log_sum_exp(logits.row(0));
    std::int64_t next = 1;
    for (const std::size_t c : used_) {
      const std::vector<int>& choice = row_.choices[c];
      loglik[c] =
          static_cast<double>(logits.row(0)[static_cast<std::size_t>(choice.front())]) - log_sum;
      for (std::size_t t = 1; t < choice.size(); ++t)
        loglik[c] += llama::log_probability(logits.row(next++), choice[t]);
    }
    return loglik;
  }

  const prepared_row& row_;
  zerotune::loss_weights weights_;
  std::vector<std::size_t> used_;
  std::vector<std::span<const int>> branches_;
  std::vector<int> logits_at_;
};

void host_evaluator::check(std::span<const index_t> examples,
                           const zerotune::loss_weights& weights) const {
  check(examples);
  const double all[] = {weights.choices, weights.vocabulary, weights.entropy,
                        weights.choice_entropy};
  if (!std::ranges::all_of(all, [](double weight) { return std::isfinite(weight); }) ||
      std::ranges::all_of(all, [](double weight) { return weight == 0; }))
    throw zerotune::invalid_argument(
        "host_evaluator: weights: expected finite numbers, at least one not 0, got others");
  if (!zerotune::is_supervised(weights)) return;
  for (std::size_t i = 0; i < examples.size(); ++i)
    if (rows_[static_cast<std::size_t>(examples[i])].label == zerotune::no_label)
      throw zerotune::invalid_argument("host_evaluator: examples[" + std::to_string(i) +
                                       "]: expected a row with a label, got row " +
                                       std::to_string(examples[i]) + " without");
}

std::vector<std::span<const index_t>> host_evaluator::gradient_batches(
    std::span<const index_t> examples, const zerotune::loss_weights& weights) const {
  std::vector<std::int64_t> sizes;
  std::int64_t all = 0;
  for (const index_t example : examples) {
    sizes.push_back(example_loss(rows_[static_cast<std::size_t>(example)], weights).num_rows());
    all += sizes.back();
  }
  const auto per_row = llama::backward_bytes(model_.config(), least_rows, llama::activations::kept);
  const auto threads = static_cast<std::size_t>(pool_.num_threads());
  const auto kept = static_cast<std::int64_t>(gradient_memory / threads * least_rows / per_row);
  // Enough batches that no thread waits long for the others.
  const std::int64_t even = all / static_cast<std::int64_t>(4 * threads);
  const std::int64_t limit = std::min(std::clamp(even, least_rows, most_rows), kept);
  std::vector<std::span<const index_t>> result;
  std::size_t begin = 0;
  std::int64_t rows = 0;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    if (i > begin && rows + sizes[i] > limit) {
      result.push_back(examples.subspan(begin, i - begin));
      begin = i;
      rows = 0;
    }
    rows += sizes[i];
  }
  if (begin < examples.size()) result.push_back(examples.subspan(begin));
  return result;
}

void host_evaluator::differentiate_batch(const zerotune::gamma_table& gamma,
                                         std::span<const index_t> examples,
                                         const zerotune::loss_weights& weights, worker& w,
                                         std::span<double> losses, std::span<float> gradient) {
  std::vector<example_loss> parts;
  std::vector<llama::token_tree> trees;
  std::int64_t rows = 0;
  parts.reserve(examples.size());
  for (const index_t example : examples) {
    parts.emplace_back(rows_[static_cast<std::size_t>(example)], weights);
    trees.push_back(parts.back().tree());
    rows += parts.back().num_rows();
  }
  const auto threads = static_cast<std::size_t>(pool_.num_threads());
  const bool fits = llama::backward_bytes(model_.config(), rows, llama::activations::kept) <=
                    gradient_memory / threads;
  llama::backward(model_, policy_of(gamma), trees,
                  [&](std::size_t i, const llama::logit_rows& logits) {
                    losses[i] = parts[i].differentiate(logits);
                  },
                  w.backward_space, gradient,
                  {.layers = fits ? llama::activations::kept : llama::activations::recomputed,
                   .threads = pool_});
}

zerotune::example_gradients host_evaluator::differentiate(
    const zerotune::gamma_table& gamma, std::span<const index_t> examples,
    const zerotune::loss_weights& weights, const zerotune::progress_callback& progress) {
  check(gamma);
  check(examples, weights);
  const auto units = static_cast<std::size_t>(num_layers() * num_heads());
  zerotune::example_gradients result{std::vector<double>(examples.size()),
                                     std::vector<float>(examples.size() * units)};
  const std::vector<std::span<const index_t>> parts = gradient_batches(examples, weights);
  index_t done = 0;
  std::mutex reporting;
  pool_.parallel_for(static_cast<index_t>(parts.size()), [&](index_t i) {
    const std::span<const index_t> part = parts[static_cast<std::size_t>(i)];
    const auto first = static_cast<std::size_t>(part.data() - examples.data());
    lease borrowed(*this);
    differentiate_batch(gamma, part, weights, borrowed.get(),
                        std::span(result.loss).subspan(first, part.size()),
                        std::span(result.gradient).subspan(first * units, part.size() * units));
    if (!progress) return;
    const std::lock_guard lock(reporting);
    done += static_cast<index_t>(part.size());
    progress(done, static_cast<index_t>(examples.size()));
  });
  return result;
}

static_assert(zerotune::differentiable_evaluator<host_evaluator>);

}  // namespace zerotune_cli
