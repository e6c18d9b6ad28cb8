// SPDX-License-Identifier: Apache-2.0
// Charts as inline SVG, in colours that the page's style sets for light and dark.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "zerotune/tuning/statistics.hpp"

namespace zerotune_cli {

/// Numbers of layers (downwards) by heads (to the right) as coloured cells; every cell tells its
/// value to the pointer.
struct heat_map {
  enum class scale {
    around_one,   ///< the logarithm counts: above 1 warm, below cold
    around_zero,  ///< above 0 warm, below cold
    share         ///< 0 to 1
  };
  std::string title;  ///< text
  std::string note;   ///< text: what the colours mean
  std::size_t layers = 0, heads = 0;
  std::vector<double> values;  ///< [layers][heads]
  scale kind = scale::around_zero;
};

/// One card with the map. Beyond 256 layers or heads it says so instead.
std::string draw(const heat_map& map);

/// A point of a curve, with its interval if it has one.
struct chart_point {
  double x = 0, y = 0;
  std::optional<zerotune::interval> bounds{};
  std::string title{};  ///< text that the pointer is told; empty: the numbers
};
struct chart_curve {
  std::string name;  ///< text
  std::vector<chart_point> points;
  bool joined = true;
};
struct line_chart {
  std::string title, x_label, y_label;          ///< text
  bool log_x = false;                           ///< points with x <= 0 are drawn at the left end
  std::optional<zerotune::interval> y_range{};  ///< else from the points
  std::vector<chart_curve> curves;
};

/// One card with the chart and its legend.
std::string draw(const line_chart& chart);

}  // namespace zerotune_cli
