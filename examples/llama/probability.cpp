// SPDX-License-Identifier: Apache-2.0
#include "llama/probability.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "llama/kernels.hpp"

namespace llama {

namespace {

struct log_sums {
  double log_sum, entropy;
};

log_sums sums_of(std::span<const float> logits) {
  const elementwise_kernels& kernels = current_elementwise_kernels();
  const auto size = static_cast<std::int64_t>(logits.size());
  const double largest = static_cast<double>(kernels.largest(logits.data(), size));
  const exp_sums sums = kernels.sums_of_exp(logits.data(), size, largest);
  // -sum p log p with log p = (logit - largest) - log sum
  const double log_sum = std::log(sums.plain);
  return {largest + log_sum, log_sum - sums.weighted / sums.plain};
}

}  // namespace

double log_sum_exp(std::span<const float> logits) { return sums_of(logits).log_sum; }

double log_probability(std::span<const float> logits, int token) {
  return static_cast<double>(logits[static_cast<std::size_t>(token)]) - log_sum_exp(logits);
}

double entropy(std::span<const float> logits) { return sums_of(logits).entropy; }

void replace_by_gradient(std::span<float> logits, std::span<const token_weight> tokens,
                         double entropy_weight) {
  // d log p(t) / d l_j = [j = t] - p_j and d entropy / d l_j = -p_j (log p_j + entropy).
  const log_sums sums = sums_of(logits);
  double total = entropy_weight * sums.entropy;
  for (const token_weight& each : tokens) total += each.weight;
  current_elementwise_kernels().weigh_exp(logits.data(), static_cast<std::int64_t>(logits.size()),
                                          sums.log_sum, total, entropy_weight);
  for (const token_weight& each : tokens)
    logits[static_cast<std::size_t>(each.token)] += static_cast<float>(each.weight);
}

int argmax(std::span<const float> logits) {
  const float largest = current_elementwise_kernels().largest(
      logits.data(), static_cast<std::int64_t>(logits.size()));
  const auto found = std::ranges::find(logits, largest);
  return found == logits.end() ? 0 : static_cast<int>(found - logits.begin());
}

}  // namespace llama
