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

int argmax(std::span<const float> logits) {
  return static_cast<int>(std::ranges::max_element(logits) - logits.begin());
}

}  // namespace llama
