// SPDX-License-Identifier: Apache-2.0
// An evaluator that remembers (layer: tuning): what its host answered once is not asked again,
// every answer can be handed to a journal, and what a journal holds counts as answered.
#pragma once

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "zerotune/core/error.hpp"
#include "zerotune/tuning/evaluator.hpp"
#include "zerotune/tuning/gamma_table.hpp"
#include "zerotune/tuning/profile.hpp"

namespace zerotune {

/// Answers to some examples under one table.
struct evaluation_record {
  std::uint64_t table = 0;  ///< hash_of the table
  quantities known;         ///< what the results hold
  std::vector<index_t> examples;
  std::vector<example_result> results;  ///< [examples]
  double seconds = 0;                   ///< that it took
};

/// Losses and gradients of some examples under one table.
struct gradient_record {
  std::uint64_t table = 0;
  loss_weights loss;
  std::vector<index_t> examples;
  example_gradients values;
  double seconds = 0;
};

/// Where records go as soon as they are complete; either may be empty.
struct record_sink {
  std::function<void(const evaluation_record&)> evaluation;
  std::function<void(const gradient_record&)> gradient;
};

inline namespace ZEROTUNE_ABI {

/// 64 bits of a table's shape and of the bits of its values (FNV-1a, with SplitMix64's finaliser).
inline std::uint64_t hash_of(const gamma_table& gamma) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  const auto add = [&](std::uint64_t value) {
    for (int byte = 0; byte < 8; ++byte) {
      hash ^= (value >> (8 * byte)) & 0xff;
      hash *= 0x100000001b3ull;
    }
  };
  add(static_cast<std::uint64_t>(gamma.layers()));
  add(static_cast<std::uint64_t>(gamma.heads()));
  for (const float value : gamma.values()) add(std::bit_cast<std::uint32_t>(value));
  hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9ull;
  hash = (hash ^ (hash >> 27)) * 0x94d049bb133111ebull;
  return hash ^ (hash >> 31);
}

namespace impl {

constexpr bool covers(const quantities& have, const quantities& want) {
  return (have.loglik || !want.loglik) && (have.generated || !want.generated) &&
         (have.entropy || !want.entropy);
}

/// `result` with nothing but what is wanted, so that answers do not depend on what else is known.
inline example_result only(example_result result, const quantities& wanted) {
  if (!wanted.loglik) {
    result.loglik.clear();
    result.predicted = no_label;
    result.choice_entropy = 0;
  }
  if (!wanted.generated) result.generated = no_label;
  if (!wanted.entropy) result.entropy = 0;
  return result;
}

}  // namespace impl

/// Wraps a host, which must outlive it. Answers equal the host's bit for bit if the host keeps to
/// the concept (the same values however the examples are sliced). Its cost counts each row once,
/// whether the host answered it or a journal did, so that a resumed search reports the cost of one
/// that was not interrupted. Not for several threads at once.
template <evaluator E>
class recorded_evaluator {
 public:
  explicit recorded_evaluator(E& host, record_sink sink = {})
      : host_(&host), sink_(std::move(sink)) {}

  index_t num_layers() const { return static_cast<index_t>(host_->num_layers()); }
  index_t num_heads() const { return static_cast<index_t>(host_->num_heads()); }

  /// Rows and seconds of everything that was asked for.
  const tuning_cost& cost() const { return cost_; }

  /// Takes what a journal holds.
  /// @throws invalid_argument if its lists differ in length
  void restore(const evaluation_record& record) {
    check_lengths(record.results.size() == record.examples.size(), "results");
    const double seconds = record.seconds / static_cast<double>(record.examples.size());
    for (std::size_t i = 0; i < record.examples.size(); ++i)
      remember({record.table, record.examples[i]}, record.known, record.results[i], seconds);
  }
  void restore(const gradient_record& record) {
    const std::size_t rows = record.examples.size(), units = num_units();
    check_lengths(record.values.loss.size() == rows, "losses");
    check_lengths(record.values.gradient.size() == rows * units, "gradients");
    for (std::size_t i = 0; i < rows; ++i)
      remember(record, i, record.seconds / static_cast<double>(rows));
  }

  std::vector<example_result> evaluate(const gamma_table& gamma, std::span<const index_t> examples,
                                       const quantities& wanted,
                                       const progress_callback& progress = {}) {
    return std::move(evaluate_many({&gamma, 1}, examples, wanted, progress).front());
  }

  /// Asks the host for what is not known, tables that lack all examples in one go if it can.
  std::vector<std::vector<example_result>> evaluate_many(std::span<const gamma_table> gammas,
                                                         std::span<const index_t> examples,
                                                         const quantities& wanted,
                                                         const progress_callback& progress = {}) {
    const index_t rows = static_cast<index_t>(examples.size());
    const index_t total = rows * static_cast<index_t>(gammas.size());
    index_t done = 0;
    std::vector<std::vector<index_t>> missing(gammas.size());
    for (std::size_t t = 0; t < gammas.size(); ++t) {
      missing[t] = missing_of(hash_of(gammas[t]), examples, wanted);
      done += rows - static_cast<index_t>(missing[t].size());
    }
    if (progress && done > 0) progress(done, total);
    for (std::size_t begin = 0, end; begin < gammas.size(); begin = end) {
      // A chunk that is lost when the process is killed must not be the whole work.
      constexpr std::size_t chunk = 32;
      end = begin + 1;
      while (end < gammas.size() && end - begin < chunk && missing[end] == missing[begin]) ++end;
      if (missing[begin].empty()) continue;
      const auto before = done;
      progress_callback part;
      if (progress) part = [&](index_t now, index_t) { progress(before + now, total); };
      ask(gammas.subspan(begin, end - begin), missing[begin], wanted, part);
      done += static_cast<index_t>((end - begin) * missing[begin].size());
    }
    std::vector<std::vector<example_result>> results;
    for (const gamma_table& gamma : gammas) results.push_back(recall(gamma, examples, wanted));
    return results;
  }

  example_gradients differentiate(
      const gamma_table& gamma, std::span<const index_t> examples, const loss_weights& loss,
      const progress_callback& progress = {}) requires differentiable_evaluator<E> {
    gradient_record record{hash_of(gamma), loss, {}, {}, 0};
    for (const index_t example : examples)
      if (!gradients_.count(key_of(record, example)) &&
          std::find(record.examples.begin(), record.examples.end(), example) ==
              record.examples.end())
        record.examples.push_back(example);
    if (!record.examples.empty()) {
      const auto start = std::chrono::steady_clock::now();
      record.values = host_->differentiate(gamma, record.examples, loss, progress);
      record.seconds = seconds_since(start);
      restore(record);
      if (sink_.gradient) sink_.gradient(record);
    }
    example_gradients result;
    for (const index_t example : examples) {
      gradient_entry& entry = gradients_.find(key_of(record, example))->second;
      result.loss.push_back(entry.loss);
      result.gradient.insert(result.gradient.end(), entry.gradient.begin(), entry.gradient.end());
      if (std::exchange(entry.counted, true)) continue;
      ++cost_.forward_rows;
      ++cost_.backward_rows;
      cost_.seconds += entry.seconds;
    }
    return result;
  }

 private:
  using answer_key = std::pair<std::uint64_t, index_t>;
  using gradient_key = std::tuple<std::uint64_t, double, double, double, double, index_t>;
  struct answer_entry {
    quantities known{false, false, false};
    example_result result;
    double seconds = 0;  // not yet counted
    bool counted = false;
  };
  struct gradient_entry {
    double loss = 0;
    std::vector<float> gradient;
    double seconds = 0;
    bool counted = false;
  };

  static void check_lengths(bool good, const char* what) {
    if (!good)
      impl::fail("recorded_evaluator::restore", what, "one for each example", "another number");
  }
  static gradient_key key_of(const gradient_record& record, index_t example) {
    const loss_weights& w = record.loss;
    return {record.table, w.choices, w.vocabulary, w.entropy, w.choice_entropy, example};
  }
  static double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  std::size_t num_units() const { return static_cast<std::size_t>(num_layers() * num_heads()); }

  std::vector<index_t> missing_of(std::uint64_t table, std::span<const index_t> examples,
                                  const quantities& wanted) const {
    std::vector<index_t> missing;
    for (const index_t example : examples) {
      const auto found = answers_.find({table, example});
      if (found == answers_.end() || !impl::covers(found->second.known, wanted))
        if (std::find(missing.begin(), missing.end(), example) == missing.end())
          missing.push_back(example);
    }
    return missing;
  }

  void ask(std::span<const gamma_table> gammas, const std::vector<index_t>& examples,
           const quantities& wanted, const progress_callback& progress) {
    auto start = std::chrono::steady_clock::now();
    if constexpr (many_evaluator<E>) {
      auto results = evaluate_tables(*host_, gammas, examples, wanted, progress);
      const double seconds = seconds_since(start) / static_cast<double>(gammas.size());
      for (std::size_t t = 0; t < gammas.size(); ++t)
        keep({hash_of(gammas[t]), wanted, examples, std::move(results[t]), seconds});
    } else {
      const index_t rows = static_cast<index_t>(examples.size());
      for (std::size_t t = 0; t < gammas.size(); ++t) {
        progress_callback part;
        const index_t before = static_cast<index_t>(t) * rows;
        if (progress) part = [&](index_t done, index_t total) { progress(before + done, total); };
        start = std::chrono::steady_clock::now();
        auto results = evaluate_tables(*host_, gammas.subspan(t, 1), examples, wanted, part);
        keep({hash_of(gammas[t]), wanted, examples, std::move(results.front()),
              seconds_since(start)});
      }
    }
  }

  void keep(const evaluation_record& record) {
    restore(record);
    if (sink_.evaluation) sink_.evaluation(record);
  }

  void remember(const answer_key& key, const quantities& known, const example_result& result,
                double seconds) {
    answer_entry& entry = answers_[key];
    if (known.loglik) {
      entry.result.loglik = result.loglik;
      entry.result.predicted = result.predicted;
      entry.result.choice_entropy = result.choice_entropy;
    }
    if (known.generated) entry.result.generated = result.generated;
    if (known.entropy) entry.result.entropy = result.entropy;
    entry.known = {entry.known.loglik || known.loglik, entry.known.generated || known.generated,
                   entry.known.entropy || known.entropy};
    entry.seconds += seconds;
  }
  void remember(const gradient_record& record, std::size_t i, double seconds) {
    const auto begin =
        record.values.gradient.begin() + static_cast<std::ptrdiff_t>(i * num_units());
    gradients_[key_of(record, record.examples[i])] = {
        record.values.loss[i],
        {begin, begin + static_cast<std::ptrdiff_t>(num_units())},
        seconds,
        false};
  }

  std::vector<example_result> recall(const gamma_table& gamma, std::span<const index_t> examples,
                                     const quantities& wanted) {
    std::vector<example_result> results;
    const std::uint64_t table = hash_of(gamma);
    for (const index_t example : examples) {
      answer_entry& entry = answers_.find({table, example})->second;
      results.push_back(impl::only(entry.result, wanted));
      if (!std::exchange(entry.counted, true)) ++cost_.forward_rows;
      cost_.seconds += std::exchange(entry.seconds, 0.0);
    }
    return results;
  }

  E* host_;
  record_sink sink_;
  std::map<answer_key, answer_entry> answers_;
  std::map<gradient_key, gradient_entry> gradients_;
  tuning_cost cost_;
};

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
