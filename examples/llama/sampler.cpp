// SPDX-License-Identifier: Apache-2.0
#include "llama/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "llama/probability.hpp"

namespace llama {

sampler::sampler(const sampler_options& options) : options_(options), generator_(options.seed) {
  const auto fail = [](const char* field, const char* expected, const std::string& got) {
    throw std::invalid_argument(std::string("sampler: ") + field + ": expected " + expected +
                                ", got " + got);
  };
  if (!std::isfinite(options.temperature) || options.temperature < 0.0f)
    fail("temperature", "a finite value >= 0", std::to_string(options.temperature));
  if (options.top_k < 0) fail("top_k", "a value >= 0", std::to_string(options.top_k));
  if (!(options.top_p > 0.0f && options.top_p <= 1.0f))
    fail("top_p", "a value in (0, 1]", std::to_string(options.top_p));
}

int sampler::operator()(std::span<const float> logits) {
  candidates_.clear();
  int id = 0;
  for (const float logit : logits)
    candidates_.emplace_back(std::isnan(logit) ? -std::numeric_limits<float>::infinity() : logit,
                             id++);
  const auto before = [](const std::pair<float, int>& a, const std::pair<float, int>& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  if (options_.temperature == 0.0f) return std::ranges::min_element(candidates_, before)->second;

  if (options_.top_k > 0 && static_cast<std::size_t>(options_.top_k) < candidates_.size()) {
    std::ranges::partial_sort(candidates_, candidates_.begin() + options_.top_k, before);
    candidates_.resize(static_cast<std::size_t>(options_.top_k));
  } else {
    std::ranges::sort(candidates_, before);
  }
  const double largest = static_cast<double>(candidates_.front().first);
  sums_.clear();
  double sum = 0.0;
  for (const auto& [logit, token] : candidates_) {
    // Infinite logits: only those equal to the largest count.
    const double distance = static_cast<double>(logit) - largest;
    sum += static_cast<double>(logit) == largest
               ? 1.0
               : std::exp(distance / static_cast<double>(options_.temperature));
    sums_.push_back(sum);
  }
  const auto kept = std::ranges::lower_bound(sums_, static_cast<double>(options_.top_p) * sum);
  const double total = kept == sums_.end() ? sum : *kept;
  const double u = static_cast<double>(generator_() >> 11) * 0x1p-53 * total;
  const auto chosen = std::ranges::upper_bound(sums_, u);
  const auto index = std::min<std::ptrdiff_t>(chosen - sums_.begin(),
                                              static_cast<std::ptrdiff_t>(sums_.size()) - 1);
  return candidates_[static_cast<std::size_t>(index)].second;
}

}  // namespace llama
