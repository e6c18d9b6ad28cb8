// SPDX-License-Identifier: Apache-2.0
// Choosing the next token, and the loop that generates text.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "llama/model.hpp"

namespace llama {

/// How to choose.
struct sampler_options {
  float temperature = 0.0f;  ///< divides the logits; 0 always takes the largest
  int top_k = 0;             ///< choose among the k likeliest; 0: no limit
  float top_p = 1.0f;        ///< among the fewest likeliest whose probabilities reach this sum
  std::uint64_t seed = 1;
};

/// Chooses tokens. Equal options and logits give equal tokens on every machine, up to the
/// rounding of exp:
/// the tokens are ordered by falling logit, equal ones by rising id; top_k keeps the first k;
/// p = exp((logit - largest) / temperature) in double; top_p keeps the shortest beginning whose sum
/// reaches top_p times the sum of all that top_k kept; u = (next number of std::mt19937_64 >> 11) /
/// 2^53 times the sum of what is kept; the result is the first token at which the running sum
/// exceeds u. A NaN counts as -inf.
class sampler {
 public:
  /// @throws std::invalid_argument for a temperature that is negative or not finite, a negative
  ///         top_k, or a top_p outside (0, 1]
  explicit sampler(const sampler_options& options);

  /// @param logits [vocabulary_size], at least one
  int operator()(std::span<const float> logits);

 private:
  sampler_options options_;
  std::mt19937_64 generator_;
  std::vector<std::pair<float, int>> candidates_;
  std::vector<double> sums_;
};

/// Generates after `prompt`, which follows what `cache` holds, until `accept` refuses a token,
/// max_tokens have been chosen or the context is full. The last chosen token is not yet in the
/// cache: it begins the next call's prompt, if there is one.
/// @param accept called with each chosen token; false ends the generation
/// @return the chosen tokens, a refused one included
/// @throws as forward()
template <attention_policy Policy, class Accept>
std::vector<int> generate(const model& m, Policy&& policy, std::span<const int> prompt,
                          kv_cache& cache, sampler& choose, int max_tokens, workspace& space,
                          Accept&& accept, executor_ref threads = {}) {
  std::vector<int> chosen;
  matrix logits;
  std::span<const int> tokens = prompt;
  while (static_cast<int>(chosen.size()) < max_tokens) {
    const int last = static_cast<int>(tokens.size()) - 1;
    const sequence next{tokens, &cache, std::span(&last, 1)};
    forward(m, policy, std::span(&next, 1), space, logits, threads);
    chosen.push_back(choose(logits.row(0)));
    tokens = std::span<const int>(chosen).last(1);
    if (!accept(chosen.back()) || cache.length() == m.config().context_length) break;
  }
  return chosen;
}

}  // namespace llama
