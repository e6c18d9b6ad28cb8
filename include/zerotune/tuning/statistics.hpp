// SPDX-License-Identifier: Apache-2.0
// Statistics of paired results (layer: tuning): is a difference more than chance?
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "zerotune/core/error.hpp"
#include "zerotune/tuning/evaluator.hpp"
#include "zerotune/tuning/random.hpp"

namespace zerotune {

/// An interval of plausible values.
struct interval {
  double low = 0;
  double high = 0;
  ZEROTUNE_ALWAYS_INLINE bool contains(double value) const { return low <= value && value <= high; }
  friend bool operator==(const interval&, const interval&) = default;
};

/// How a bootstrap resamples.
struct bootstrap_options {
  index_t resamples = 10000;
  double confidence = 0.95;
  std::uint64_t seed = 1;
};

inline namespace ZEROTUNE_ABI {

/// The q-quantile of sorted values, linear between neighbours. @pre not empty, 0 <= q <= 1
inline double quantile(std::span<const double> sorted, double q) {
  const double place = q * static_cast<double>(sorted.size() - 1);
  const std::size_t below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

/// Percentile bootstrap interval of the mean. Costs resamples * values.
/// @throws invalid_argument if there are no values, or an option is out of range
inline interval bootstrap_mean(std::span<const double> values,
                               const bootstrap_options& options = {}) {
  constexpr const char* name = "bootstrap_mean";
  if (values.empty()) impl::fail(name, "values", "at least one", "none");
  if (options.resamples < 1)
    impl::fail(name, "resamples", "at least 1", std::to_string(options.resamples));
  if (!(options.confidence > 0 && options.confidence < 1))
    impl::fail(name, "confidence", "a value in (0, 1)", impl::number(options.confidence));
  random_source random(options.seed);
  std::vector<double> means(static_cast<std::size_t>(options.resamples));
  for (double& mean : means) {
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i)
      sum += values[static_cast<std::size_t>(random.below(values.size()))];
    mean = sum / static_cast<double>(values.size());
  }
  std::sort(means.begin(), means.end());
  const double tail = (1 - options.confidence) / 2;
  return {quantile(means, tail), quantile(means, 1 - tail)};
}

/// Interval of mean(after) - mean(before): the pairs are resampled together, so what makes a row
/// easy for both cancels.
/// @param before  [rows]
/// @param after   [rows], of the same rows
/// @throws invalid_argument if the lengths differ, or as bootstrap_mean
inline interval paired_bootstrap(std::span<const double> before, std::span<const double> after,
                                 const bootstrap_options& options = {}) {
  if (before.size() != after.size())
    impl::fail("paired_bootstrap", "after dim 0 (rows)", std::to_string(before.size()),
               std::to_string(after.size()));
  std::vector<double> difference(before.size());
  for (std::size_t i = 0; i < before.size(); ++i) difference[i] = after[i] - before[i];
  return bootstrap_mean(difference, options);
}

/// Exact two-sided McNemar test: how likely are counts as unequal as these if both were as good?
/// min(1, 2 P(X <= min(b, c))) with X binomial(b + c, 1/2).
/// @param b  rows that only the first got right
/// @param c  rows that only the second got right
/// @throws invalid_argument for a negative count
inline double mcnemar_exact(index_t b, index_t c) {
  if (b < 0 || c < 0)
    impl::fail("mcnemar_exact", b < 0 ? "b" : "c", "at least 0", std::to_string(b < 0 ? b : c));
  if (b == c) return 1.0;
  const double trials = static_cast<double>(b) + static_cast<double>(c);
  const index_t least = std::min(b, c);
  // Terms fall from i = least downwards: start from the largest, whose logarithm cannot underflow.
  double log_first = -trials * std::log(2.0);
  for (index_t i = 1; i <= least; ++i)
    log_first +=
        std::log(trials - static_cast<double>(least - i)) - std::log(static_cast<double>(i));
  double term = 1, sum = 1;
  for (index_t i = least; i > 0 && term > sum * 1e-18; --i) {
    term *= static_cast<double>(i) / (trials - static_cast<double>(i) + 1);
    sum += term;
  }
  return std::min(1.0, 2 * std::exp(log_first + std::log(sum)));
}

/// Wilson's score interval of a share. @param z  1.96 for 95%
/// @throws invalid_argument unless 0 <= successes <= trials and trials > 0
inline interval wilson_interval(index_t successes, index_t trials, double z = 1.959963984540054) {
  if (trials < 1) impl::fail("wilson_interval", "trials", "at least 1", std::to_string(trials));
  if (successes < 0 || successes > trials)
    impl::fail("wilson_interval", "successes", "a count in [0, " + std::to_string(trials) + "]",
               std::to_string(successes));
  const double n = static_cast<double>(trials), p = static_cast<double>(successes) / n;
  const double centre = p + z * z / (2 * n);
  const double half = z * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n));
  const double scale = 1 + z * z / n;
  return {successes == 0 ? 0.0 : (centre - half) / scale,
          successes == trials ? 1.0 : (centre + half) / scale};
}

/// Ranks from 1; equal values share the mean of their ranks.
inline std::vector<double> ranks(std::span<const double> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> result(values.size());
  for (std::size_t begin = 0, end; begin < order.size(); begin = end) {
    end = begin + 1;
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (std::size_t i = begin; i < end; ++i)
      result[order[i]] = (static_cast<double>(begin + end) + 1) / 2;
  }
  return result;
}

/// Spearman's rank correlation; 0 if one of them is constant.
/// @throws invalid_argument if the lengths differ or are below 2
inline double spearman(std::span<const double> x, std::span<const double> y) {
  if (x.size() != y.size())
    impl::fail("spearman", "y dim 0", std::to_string(x.size()), std::to_string(y.size()));
  if (x.size() < 2) impl::fail("spearman", "x dim 0", "at least 2", std::to_string(x.size()));
  const std::vector<double> a = ranks(x), b = ranks(y);
  const double mean = (static_cast<double>(x.size()) + 1) / 2;
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean) * (b[i] - mean);
    aa += (a[i] - mean) * (a[i] - mean);
    bb += (b[i] - mean) * (b[i] - mean);
  }
  return aa > 0 && bb > 0 ? ab / std::sqrt(aa * bb) : 0.0;
}

/// Holm's step-down adjusted p-values, in the order of the input.
inline std::vector<double> holm_adjust(std::span<const double> p) {
  std::vector<std::size_t> order(p.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return p[a] < p[b]; });
  std::vector<double> adjusted(p.size());
  double largest = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    largest = std::max(largest, std::min(1.0, static_cast<double>(p.size() - i) * p[order[i]]));
    adjusted[order[i]] = largest;
  }
  return adjusted;
}

/// Brier's score: mean over rows of sum over classes of (p - [class is right])^2; 0 is perfect.
/// @param probabilities  [rows][classes of the row]
/// @param labels         [rows]
/// @throws invalid_argument if there are no rows, the lengths differ or a label is out of range
inline double brier_score(std::span<const std::vector<double>> probabilities,
                          std::span<const index_t> labels) {
  constexpr const char* name = "brier_score";
  if (probabilities.size() != labels.size() || labels.empty())
    impl::fail(name, "labels dim 0 (rows)", std::to_string(probabilities.size()) + ", at least 1",
               std::to_string(labels.size()));
  double sum = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const index_t classes = static_cast<index_t>(probabilities[i].size());
    if (labels[i] < 0 || labels[i] >= classes)
      impl::fail(name, "labels[" + std::to_string(i) + "]",
                 "an index in [0, " + std::to_string(classes) + ")", std::to_string(labels[i]));
    for (index_t c = 0; c < classes; ++c) {
      const double error = probabilities[i][static_cast<std::size_t>(c)] - (c == labels[i]);
      sum += error * error;
    }
  }
  return sum / static_cast<double>(labels.size());
}

/// Expected calibration error: rows are put in bins by their largest probability, bin i holding
/// (i / bins, (i + 1) / bins]; the mean gap between a bin's accuracy and its confidence.
/// @throws invalid_argument if there are no rows, a row has no classes, lengths differ, bins < 1 or
/// a
///         row's greatest probability is not in [0, 1]
inline double calibration_error(std::span<const std::vector<double>> probabilities,
                                std::span<const index_t> labels, index_t bins = 10) {
  constexpr const char* name = "calibration_error";
  if (probabilities.size() != labels.size() || labels.empty())
    impl::fail(name, "labels dim 0 (rows)", std::to_string(probabilities.size()) + ", at least 1",
               std::to_string(labels.size()));
  if (bins < 1) impl::fail(name, "bins", "at least 1", std::to_string(bins));
  std::vector<double> gap(static_cast<std::size_t>(bins));  // right answers minus confidence
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const index_t predicted = largest_choice(probabilities[i]);
    if (predicted == no_label)
      impl::fail(name, "probabilities[" + std::to_string(i) + "]", "at least one class", "none");
    const double confidence = probabilities[i][static_cast<std::size_t>(predicted)];
    if (!impl::is_finite(confidence) || confidence < 0.0 || confidence > 1.0)
      impl::fail(name,
                 "probabilities[" + std::to_string(i) + "][" + std::to_string(predicted) + "]",
                 "a number in [0, 1]", impl::number(confidence));
    const double place = std::ceil(confidence * static_cast<double>(bins)) - 1;
    const double last = static_cast<double>(bins - 1);
    const std::size_t bin = static_cast<std::size_t>(std::clamp(place, 0.0, last));
    gap[bin] += (predicted == labels[i] ? 1.0 : 0.0) - confidence;
  }
  double sum = 0;
  for (const double g : gap) sum += std::fabs(g);
  return sum / static_cast<double>(labels.size());
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
