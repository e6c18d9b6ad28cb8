// SPDX-License-Identifier: Apache-2.0
// Gamma tables that a search compares (layer: tuning): one gamma for all heads, the paper's one
// gamma for the strongest heads of a kind (arXiv 2505.11739, sections 4 and 5), and selections from
// a gradient profile.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "zerotune/core/error.hpp"
#include "zerotune/tuning/gamma_table.hpp"
#include "zerotune/tuning/gradient_profile.hpp"
#include "zerotune/tuning/head_profile.hpp"
#include "zerotune/tuning/random.hpp"

namespace zerotune {

/// A table and where it comes from.
struct tuning_candidate {
  gamma_table gamma;
  std::string method;           ///< "untouched", "uniform", "paper", "gradient-select" or "descent"
  std::string detail;           ///< such as "gamma 2" or "8 steps"
  std::optional<float> factor;  ///< of the candidates of a grid: its gamma
};

/// Which heads of a gradient profile a candidate scales.
enum class head_choice {
  up,    ///< those whose loss falls with gamma, by the strength
  down,  ///< those whose loss rises with gamma, by 1 / strength
  both   ///< each in its direction
};

/// The candidates of gradient-select: every share with every strength and every choice.
struct gradient_select_options {
  std::vector<double> shares{0.1, 0.3};  ///< of all heads, strongest gradient first
  std::vector<float> strengths{1.5f, 2.5f};
  std::vector<head_choice> choices{head_choice::up, head_choice::down, head_choice::both};
};

inline namespace ZEROTUNE_ABI {

/// How much a table changes a model: the root mean square of log gamma over all heads. A gamma of 0
/// counts as the smallest positive one.
inline double strength_of(const gamma_table& gamma) {
  if (gamma.empty()) return 0;
  double squares = 0;
  for (const float value : gamma.values()) {
    constexpr double least = 1e-45;
    const double log_gamma = std::log(std::max(static_cast<double>(value), least));
    squares += log_gamma * log_gamma;
  }
  return std::sqrt(squares / static_cast<double>(gamma.values().size()));
}

/// The model as it is: what every search compares with.
inline tuning_candidate untouched_candidate(index_t layers, index_t heads) {
  return {gamma_table(layers, heads), "untouched", "gamma 1", 1.0f};
}

namespace impl {

/// A number as a person would write it.
inline std::string shown(double value) {
  std::string text = std::to_string(value);
  text.erase(text.find_last_not_of('0') + 1);
  if (!text.empty() && (text.back() == '.' || text.back() == ',')) text.pop_back();
  return text;
}

}  // namespace impl

/// The given units at every gamma of a grid, in ascending order and each once; gamma = 1 is left
/// out, and so is everything if there are no units: they are the untouched model.
/// @throws invalid_argument for a gamma that is negative, NaN or infinite, or an invalid unit
inline std::vector<tuning_candidate> grid_candidates(const std::string& method, granularity unit,
                                                     index_t layers, index_t heads,
                                                     std::span<const index_t> units,
                                                     std::vector<float> grid) {
  for (std::size_t i = 0; i < grid.size(); ++i)
    if (!impl::is_valid_gamma(grid[i]))
      impl::fail("grid_candidates", "grid[" + std::to_string(i) + "]", "a finite value >= 0",
                 impl::is_finite(grid[i]) ? impl::number(static_cast<double>(grid[i]))
                                          : "a value that is not finite");
  std::sort(grid.begin(), grid.end());
  grid.erase(std::unique(grid.begin(), grid.end()), grid.end());
  std::vector<tuning_candidate> candidates;
  for (const float gamma : grid)
    if (gamma != 1.0f && !units.empty())
      candidates.push_back({unit_table(unit, layers, heads, units, gamma), method,
                            "gamma " + impl::shown(static_cast<double>(gamma)), gamma});
  return candidates;
}

/// Every unit of a model: what a uniform gamma scales.
inline std::vector<index_t> all_units(granularity unit, index_t layers, index_t heads) {
  std::vector<index_t> units(static_cast<std::size_t>(unit_count(unit, layers, heads)));
  std::iota(units.begin(), units.end(), index_t{0});
  return units;
}

/// The heads of a choice with the largest gradients, strongest first, as layer * heads + head: at
/// most `share` of all heads (rounded, at least one). Equal gradients: the lower index first.
/// @throws invalid_argument if share is not in (0, 1]
inline std::vector<index_t> strongest_heads(const gradient_profile& profile, head_choice choice,
                                            double share) {
  if (!(share > 0 && share <= 1))
    impl::fail("strongest_heads", "share", "a value in (0, 1]", impl::number(share));
  const auto slope = [&](index_t unit) { return profile.mean[static_cast<std::size_t>(unit)]; };
  std::vector<index_t> units;
  for (index_t unit = 0; unit < profile.layers * profile.heads; ++unit)
    if ((slope(unit) < 0 && choice != head_choice::down) ||
        (slope(unit) > 0 && choice != head_choice::up))
      units.push_back(unit);
  std::stable_sort(units.begin(), units.end(),
                   [&](index_t a, index_t b) { return std::fabs(slope(a)) > std::fabs(slope(b)); });
  const double quota = std::round(share * static_cast<double>(profile.mean.size()));
  const std::size_t limit = static_cast<std::size_t>(std::max(1.0, quota));
  if (units.size() > limit) units.resize(limit);
  return units;
}

/// Tables that follow the gradient: up-effective heads get the strength, down-effective ones its
/// reciprocal. Tables that are equal to an earlier one are left out.
/// @throws invalid_argument for a share outside (0, 1] or a strength that is not finite and > 1
inline std::vector<tuning_candidate> gradient_select_candidates(
    const gradient_profile& profile, const gradient_select_options& options = {}) {
  constexpr const char* name = "gradient_select_candidates";
  for (std::size_t i = 0; i < options.strengths.size(); ++i)
    if (!(options.strengths[i] > 1.0f) || !impl::is_finite(options.strengths[i]))
      impl::fail(name, "strengths[" + std::to_string(i) + "]", "a finite value > 1",
                 impl::number(static_cast<double>(options.strengths[i])));
  constexpr const char* names[] = {"up", "down", "both"};
  std::vector<tuning_candidate> candidates;
  for (const double share : options.shares)
    for (const head_choice choice : options.choices) {
      const std::vector<index_t> heads = strongest_heads(profile, choice, share);
      for (const float strength : options.strengths) {
        gamma_table table(profile.layers, profile.heads);
        for (const index_t unit : heads)
          table(unit / profile.heads, unit % profile.heads) =
              profile.mean[static_cast<std::size_t>(unit)] < 0 ? strength : 1.0f / strength;
        const bool known = table.is_identity() ||
                           std::any_of(candidates.begin(), candidates.end(),
                                       [&](const auto& other) { return other.gamma == table; });
        if (known) continue;
        candidates.push_back({std::move(table),
                              "gradient-select",
                              "share " + impl::shown(share) + ", " +
                                  names[static_cast<std::size_t>(choice)] + ", strength " +
                                  impl::shown(static_cast<double>(strength)),
                              {}});
      }
    }
  return candidates;
}

/// The same gammas on other heads, at random: the control that a table must beat.
inline gamma_table shuffled_heads(const gamma_table& gamma, std::uint64_t seed) {
  std::vector<float> values(gamma.values().begin(), gamma.values().end());
  random_source random(seed);
  random.shuffle(values);
  gamma_table table(gamma.layers(), gamma.heads());
  for (index_t layer = 0; layer < gamma.layers(); ++layer)
    for (index_t head = 0; head < gamma.heads(); ++head)
      table(layer, head) = values[static_cast<std::size_t>(layer * gamma.heads() + head)];
  return table;
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
