// SPDX-License-Identifier: Apache-2.0
#include "head_gradients.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "table.hpp"
#include "tuning_options.hpp"
#include "zerotune/tuning/statistics.hpp"

namespace zerotune_cli {

namespace {

int sign_of(double value) { return value > 0 ? 1 : value < 0 ? -1 : 0; }

}  // namespace

int unit_gradients::direction(index_t index) const {
  return sign_of(effect[static_cast<std::size_t>(index)]);
}

unit_gradients group_gradients(const zerotune::example_gradients& values,
                               zerotune::granularity unit, index_t layers, index_t heads) {
  const auto units = static_cast<std::size_t>(zerotune::unit_count(unit, layers, heads));
  const auto places = static_cast<std::size_t>(layers * heads);
  zerotune::example_gradients sums{values.loss,
                                   std::vector<float>(values.gradient.size() / places * units)};
  std::vector<double> sum(units);
  for (std::size_t i = 0; i < values.gradient.size() / places; ++i) {
    std::ranges::fill(sum, 0.0);
    for (index_t layer = 0; layer < layers; ++layer)
      for (index_t head = 0; head < heads; ++head)
        sum[static_cast<std::size_t>(zerotune::unit_of(unit, heads, layer, head))] +=
            static_cast<double>(
                values.gradient[i * places + static_cast<std::size_t>(layer * heads + head)]);
    for (std::size_t u = 0; u < units; ++u)
      sums.gradient[i * units + u] = static_cast<float>(sum[u]);
  }
  const zerotune::gradient_profile profile =
      zerotune::make_gradient_profile(sums, 1, static_cast<index_t>(units));
  unit_gradients result{
      unit, layers, heads, profile.rows, profile.loss, {}, profile.standard_error};
  for (const double mean : profile.mean) result.effect.push_back(-mean);
  return result;
}

zerotune::head_profile profile_of(const unit_gradients& gradients, float gamma) {
  zerotune::head_profile profile{
      gradients.unit, gamma, gradients.layers, gradients.heads, {-gradients.loss, 0}, {}, 0};
  const double change = std::log(static_cast<double>(gamma));
  for (const double effect : gradients.effect) profile.effect.push_back({change * effect, 0});
  return profile;
}

agreement compare_effects(std::span<const double> first, std::span<const double> second) {
  agreement result{zerotune::spearman(first, second), 0, 0};
  std::vector<std::size_t> order(first.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(
      order, [&](std::size_t a, std::size_t b) { return std::abs(first[a]) > std::abs(first[b]); });
  order.resize(std::max<std::size_t>(1, (first.size() + 2) / 5));
  result.strongest = static_cast<index_t>(order.size());
  for (const std::size_t unit : order)
    if (sign_of(first[unit]) == sign_of(second[unit]))
      result.same_sign += 1.0 / static_cast<double>(order.size());
  return result;
}

std::string format_gradients(const unit_gradients& gradients,
                             const std::vector<index_t>& selected) {
  std::vector<std::vector<std::string>> rows{
      {"unit", "effect", "std. error", "ratio", "kind", "selected"}};
  for (std::size_t unit = 0; unit < gradients.effect.size(); ++unit) {
    const auto index = static_cast<index_t>(unit);
    const double effect = gradients.effect[unit], error = gradients.standard_error[unit];
    const int kind = gradients.direction(index);
    rows.push_back({name_of_unit(gradients.unit, gradients.heads, index),
                    format_number("%+.5f", effect), format_number("%.5f", error),
                    error > 0 ? format_number("%+.1f", effect / error) : "",
                    kind > 0   ? "up"
                    : kind < 0 ? "down"
                               : "none",
                    std::ranges::find(selected, index) != selected.end() ? "yes" : ""});
  }
  return format_table(rows);
}

}  // namespace zerotune_cli
