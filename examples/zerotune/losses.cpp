// SPDX-License-Identifier: Apache-2.0
#include "losses.hpp"

#include <algorithm>
#include <cmath>

namespace zerotune_cli {

bool needs_all_choices(const zerotune::loss_weights& weights) {
  return weights.choices != 0 || weights.choice_entropy != 0;
}

choice_loss loss_of_choices(const zerotune::loss_weights& weights, std::span<const double> loglik,
                            index_t label) {
  choice_loss loss{0, std::vector<double>(loglik.size(), 0.0)};
  const auto right = static_cast<std::size_t>(label);
  if (weights.vocabulary != 0) {
    loss.value -= weights.vocabulary * loglik[right];
    loss.slope[right] -= weights.vocabulary;
  }
  if (!needs_all_choices(weights)) return loss;
  double largest = loglik[0], sum = 0;
  for (const double each : loglik) largest = std::max(largest, each);
  for (const double each : loglik) sum += std::exp(each - largest);
  const double log_sum = largest + std::log(sum);
  // d -log share(right) / d l_c = share(c) - [c = right];
  // d entropy / d l_c = -share(c) (log share(c) + entropy)
  const double entropy = weights.choice_entropy != 0 ? zerotune::choice_entropy(loglik) : 0.0;
  for (std::size_t c = 0; c < loglik.size(); ++c) {
    const double log_share = loglik[c] - log_sum, share = std::exp(log_share);
    loss.slope[c] += weights.choices * share;
    if (share > 0) loss.slope[c] -= weights.choice_entropy * share * (log_share + entropy);
  }
  loss.value += weights.choice_entropy * entropy;
  if (weights.choices != 0) {
    loss.value += weights.choices * (log_sum - loglik[right]);
    loss.slope[right] -= weights.choices;
  }
  return loss;
}

}  // namespace zerotune_cli
