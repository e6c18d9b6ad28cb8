// SPDX-License-Identifier: Apache-2.0
#include "llama/probability.hpp"

#include <algorithm>
#include <cmath>

namespace llama {

double log_sum_exp(std::span<const float> logits) {
  const double largest = static_cast<double>(*std::ranges::max_element(logits));
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return largest + std::log(sum);
}

double log_probability(std::span<const float> logits, int token) {
  return static_cast<double>(logits[static_cast<std::size_t>(token)]) - log_sum_exp(logits);
}

double entropy(std::span<const float> logits) {
  const double total = log_sum_exp(logits);
  double sum = 0.0;
  for (const float logit : logits) {
    const double log_p = static_cast<double>(logit) - total;
    const double p = std::exp(log_p);
    if (p > 0.0) sum -= p * log_p;
  }
  return sum;
}

void replace_by_gradient(std::span<float> logits, std::span<const token_weight> tokens,
                         double entropy_weight) {
  // d log p(t) / d l_j = [j = t] - p_j and d entropy / d l_j = -p_j (log p_j + entropy).
  const double log_sum = log_sum_exp(logits);
  const double shift = entropy_weight == 0.0 ? 0.0 : entropy_weight * entropy(logits);
  double sum = 0.0;
  for (const token_weight& each : tokens) sum += each.weight;
  for (float& logit : logits) {
    const double log_p = static_cast<double>(logit) - log_sum, p = std::exp(log_p);
    logit = p == 0.0 ? 0.0f : static_cast<float>(-p * (sum + entropy_weight * log_p + shift));
  }
  for (const token_weight& each : tokens)
    logits[static_cast<std::size_t>(each.token)] += static_cast<float>(each.weight);
}

int argmax(std::span<const float> logits) {
  return static_cast<int>(std::ranges::max_element(logits) - logits.begin());
}

}  // namespace llama
