// SPDX-License-Identifier: Apache-2.0
// Head behaviour profiling (layer: tuning; arXiv 2505.11739, section 4): amplify the initial token
// for one head, or for one group of heads, at a time and see whether the model gets better
// (up-effective) or worse (down-effective).
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
#include "zerotune/tuning/gamma_table.hpp"
#include "zerotune/tuning/objective.hpp"
#include "zerotune/tuning/random.hpp"

namespace zerotune {

/// What is probed as one: a head index in all layers (the paper's), a layer, or a single head.
enum class granularity { head_index, layer, head };

/// A unit helps when its initial token is amplified (up), or when it is reduced (down).
enum class head_kind { up, down };

/// How a profile is measured.
struct probe_options {
  granularity unit = granularity::head_index;
  float gamma = 2.0f;  ///< of the probed unit; all others stay at 1
  objective goal = objective::accuracy;
};

/// The effect of each unit: score with the probe minus score without.
struct head_profile {
  granularity unit = granularity::head_index;
  float probe_gamma = 2.0f;
  index_t layers = 0;
  index_t heads = 0;
  objective_score untouched;
  std::vector<objective_score> effect;  ///< [units]: head, layer, or layer * heads + head
  index_t forward_rows = 0;             ///< rows that the host evaluated
};

inline namespace ZEROTUNE_ABI {

/// Number of units that a model of this shape has.
constexpr index_t unit_count(granularity unit, index_t layers, index_t heads) {
  switch (unit) {
    case granularity::head_index:
      return heads;
    case granularity::layer:
      return layers;
    case granularity::head:
      break;
  }
  return layers * heads;
}

/// The unit that a head belongs to.
constexpr index_t unit_of(granularity unit, index_t heads, index_t layer, index_t head) {
  switch (unit) {
    case granularity::head_index:
      return head;
    case granularity::layer:
      return layer;
    case granularity::head:
      break;
  }
  return layer * heads + head;
}

/// The table [layers][heads] in which the given units have gamma and all others 1.
/// @throws invalid_argument for a unit out of range or given twice, or an invalid gamma
inline gamma_table unit_table(granularity unit, index_t layers, index_t heads,
                              std::span<const index_t> units, float gamma) {
  std::vector<index_t> which(units.begin(), units.end());
  switch (unit) {
    case granularity::head_index:
      return gamma_table::from(layers, {heads, std::move(which)}, gamma);
    case granularity::layer:
      return gamma_table::from({layers, std::move(which)}, heads, gamma);
    case granularity::head:
      break;
  }
  std::vector<head_index> pairs;
  for (const index_t index :
       chosen(layers * heads, std::move(which)).indices("unit_table", "units"))
    pairs.push_back({index / heads, index % heads});
  return gamma_table::from(layers, heads, pairs, gamma);
}

/// Turns scores under each unit's probe into a profile.
/// @param scores  [units], of the same examples as `untouched`
/// @throws invalid_argument if their number does not fit the shape
inline head_profile make_head_profile(const probe_options& options, index_t layers, index_t heads,
                                      const objective_score& untouched,
                                      std::span<const objective_score> scores) {
  const index_t units = unit_count(options.unit, layers, heads);
  if (static_cast<index_t>(scores.size()) != units)
    impl::fail("make_head_profile", "scores dim 0 (units)", std::to_string(units),
               std::to_string(scores.size()));
  head_profile profile{options.unit, options.gamma, layers, heads, untouched, {}, 0};
  for (const objective_score& score : scores)
    profile.effect.push_back({score.value - untouched.value, score.tie - untouched.tie});
  return profile;
}

/// Probes every unit on the examples: units * examples rows, and the examples once more unless
/// `untouched` is given.
/// @param labels     [rows of data]; read for objectives that ask for the right answer
/// @param untouched  results of the same examples under gamma = 1 if the caller has them, else
/// empty
/// @throws invalid_argument for an invalid gamma, an empty slice, or a missing label
template <evaluator E>
head_profile profile_heads(E& host, std::span<const index_t> examples,
                           std::span<const index_t> labels, const probe_options& options = {},
                           const progress_callback& progress = {},
                           std::span<const example_result> untouched = {}) {
  const index_t layers = host.num_layers(), heads = host.num_heads();
  if (examples.empty()) impl::fail("profile_heads", "examples", "at least one", "none");
  std::vector<gamma_table> tables;
  if (untouched.empty()) tables.emplace_back(layers, heads);
  for (index_t unit = 0; unit < unit_count(options.unit, layers, heads); ++unit)
    tables.push_back(unit_table(options.unit, layers, heads, {&unit, 1}, options.gamma));
  const auto results = evaluate_tables(host, tables, examples, needed_for(options.goal), progress);
  std::vector<objective_score> scores;
  for (const auto& result : results)
    scores.push_back(measure(options.goal, result, examples, labels));
  objective_score base;
  if (untouched.empty()) {
    base = scores.front();
    scores.erase(scores.begin());
  } else {
    base = measure(options.goal, untouched, examples, labels);
  }
  head_profile profile = make_head_profile(options, layers, heads, base, scores);
  profile.forward_rows = static_cast<index_t>(tables.size() * examples.size());
  return profile;
}

/// The sign of a unit's effect: by the objective, and where that did not move, by its tie-breaker.
/// A probe below 1 reduces the initial token, so what it improves is down-effective.
/// @return +1 up-effective, -1 down-effective, 0 neither
/// @pre unit is in range
inline int direction(const head_profile& profile, index_t unit) {
  const objective_score& effect = profile.effect[static_cast<std::size_t>(unit)];
  const double moved = effect.value != 0 ? effect.value : effect.tie;
  const int sign = moved > 0 ? 1 : moved < 0 ? -1 : 0;
  return profile.probe_gamma < 1.0f ? -sign : sign;
}

/// Number of units of a kind.
inline index_t count_of(const head_profile& profile, head_kind kind) {
  index_t count = 0;
  for (index_t unit = 0; unit < static_cast<index_t>(profile.effect.size()); ++unit)
    count += direction(profile, unit) == (kind == head_kind::up ? 1 : -1);
  return count;
}

/// The kind that more units are of; between equal numbers the one with more effect in all, and up
/// if that is equal too.
inline head_kind dominant_kind(const head_profile& profile) {
  const index_t up = count_of(profile, head_kind::up), down = count_of(profile, head_kind::down);
  if (up != down) return up > down ? head_kind::up : head_kind::down;
  objective_score sum;
  for (const objective_score& effect : profile.effect) {
    sum.value += effect.value;
    sum.tie += effect.tie;
  }
  const double moved = sum.value != 0 ? sum.value : sum.tie;
  const bool up_wins = profile.probe_gamma < 1.0f ? moved <= 0 : moved >= 0;
  return up_wins ? head_kind::up : head_kind::down;
}

/// The units of a kind with the largest effects, strongest first: at most `share` of all units
/// (rounded, at least one), fewer if fewer are of that kind. Equal effects: the lower index first.
/// @throws invalid_argument if share is not in (0, 1]
inline std::vector<index_t> select_units(const head_profile& profile, head_kind kind,
                                         double share = 0.4) {
  if (!(share > 0 && share <= 1))
    impl::fail("select_units", "share", "a value in (0, 1]", impl::number(share));
  const int wanted = kind == head_kind::up ? 1 : -1;
  std::vector<index_t> units;
  for (index_t unit = 0; unit < static_cast<index_t>(profile.effect.size()); ++unit)
    if (direction(profile, unit) == wanted) units.push_back(unit);
  // Better under the probe means up-effective if the probe amplifies; a down-effective unit is the
  // stronger the more the probe hurts.
  const bool improving = (profile.probe_gamma < 1.0f) != (kind == head_kind::up);
  std::stable_sort(units.begin(), units.end(), [&](index_t a, index_t b) {
    const objective_score& first = profile.effect[static_cast<std::size_t>(a)];
    const objective_score& second = profile.effect[static_cast<std::size_t>(b)];
    return improving ? better(first, second) : better(second, first);
  });
  const double quota = std::round(share * static_cast<double>(profile.effect.size()));
  const std::size_t limit = static_cast<std::size_t>(std::max(1.0, quota));
  if (units.size() > limit) units.resize(limit);
  return units;
}

/// As many units as asked for, at random: the control that a selection must beat.
/// @throws invalid_argument if count is not in [0, units]
inline std::vector<index_t> random_units(granularity unit, index_t layers, index_t heads,
                                         index_t count, std::uint64_t seed) {
  std::vector<index_t> units(static_cast<std::size_t>(unit_count(unit, layers, heads)));
  if (count < 0 || count > static_cast<index_t>(units.size()))
    impl::fail("random_units", "count", "a value in [0, " + std::to_string(units.size()) + "]",
               std::to_string(count));
  std::iota(units.begin(), units.end(), index_t{0});
  random_source random(seed);
  random.shuffle(units);
  units.resize(static_cast<std::size_t>(count));
  std::sort(units.begin(), units.end());
  return units;
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
