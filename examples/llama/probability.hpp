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

/// Index of the largest logit, the lowest among equals.
int argmax(std::span<const float> logits);

}  // namespace llama
