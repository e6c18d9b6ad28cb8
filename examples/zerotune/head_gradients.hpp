// SPDX-License-Identifier: Apache-2.0
// Heads profiled by gradient: the effect of every unit, and how it agrees with probing.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "zerotune/tuning/gradient_profile.hpp"
#include "zerotune/tuning/head_profile.hpp"

namespace zerotune_cli {

using zerotune::index_t;

/// How fast the loss falls with each unit's log gamma, at the untouched model: above 0 the model
/// gets better with more attention on the initial token (up-effective).
struct unit_gradients {
  zerotune::granularity unit = zerotune::granularity::head;
  index_t layers = 0;
  index_t heads = 0;
  index_t rows = 0;
  double loss = 0;                     ///< mean over rows
  std::vector<double> effect;          ///< [units], -d loss / d log gamma, mean over rows
  std::vector<double> standard_error;  ///< [units], of the mean

  /// 1 up-effective, -1 down-effective, 0 neither.
  int direction(index_t index) const;
};

/// Sums the heads of each unit, example by example, so that errors are those of the sums.
/// @throws zerotune::invalid_argument if there are no examples or the shape does not fit
unit_gradients group_gradients(const zerotune::example_gradients& values,
                               zerotune::granularity unit, index_t layers, index_t heads);

/// The units as a profile of the effects to first order under a probe of `gamma`.
zerotune::head_profile profile_of(const unit_gradients& gradients, float gamma);

/// How two measures of the same units agree.
struct agreement {
  double rank_correlation = 0;  ///< Spearman's
  double same_sign = 0;         ///< share of the strongest whose sign is the same in both
  index_t strongest = 0;        ///< how many these are: 20% by the first measure, at least one
};

/// @throws zerotune::invalid_argument if the lengths differ or are below 2
agreement compare_effects(std::span<const double> first, std::span<const double> second);

/// Units as a table: effect, its standard error, their ratio, kind, whether selected.
std::string format_gradients(const unit_gradients& gradients, const std::vector<index_t>& selected);

}  // namespace zerotune_cli
