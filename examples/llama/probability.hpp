// SPDX-License-Identifier: Apache-2.0
// What scoring asks of one row of logits. All sums are taken in double.
#pragma once

#include <span>

namespace llama {

/// log of the sum of exp(logit). @param logits [vocabulary], not empty
double log_sum_exp(std::span<const float> logits);

/// log p(token), natural. @pre token indexes `logits`
double log_probability(std::span<const float> logits, int token);

/// Entropy of the distribution in nats.
double entropy(std::span<const float> logits);

/// A token's share in a sum of log-probabilities.
struct token_weight {
  int token = 0;
  double weight = 0;
};

/// Replaces logits by the gradient, with respect to them, of the sum of weight * log p(token) plus
/// entropy_weight * entropy. @pre the tokens index `logits`
void replace_by_gradient(std::span<float> logits, std::span<const token_weight> tokens,
                         double entropy_weight = 0);

/// Index of the largest logit, the lowest among equals; NaN is never the largest, of nothing else 0.
int argmax(std::span<const float> logits);

}  // namespace llama
