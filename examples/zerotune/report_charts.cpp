// SPDX-License-Identifier: Apache-2.0
#include "report_charts.hpp"

#include <algorithm>
#include <cmath>

#include "report_html.hpp"
#include "table.hpp"

namespace zerotune_cli {

namespace {

std::string number(double value) { return format_number("%.2f", value); }
std::string shown(double value) { return format_number("%.4g", value); }

// ---- heat map

constexpr double left_margin = 30, top_margin = 18;
constexpr std::size_t most_cells = 256;

// What a value's colour is measured by.
double magnitude(const heat_map& map, double value) {
  if (map.kind == heat_map::scale::around_one)
    return value > 0 ? std::log(value) : -std::log(64.0);  // gamma = 0: as strong as 1/64
  return value;
}

// The value of full colour: the largest, but not so small that noise looks like an effect.
double full_scale(const heat_map& map) {
  if (map.kind == heat_map::scale::share) return 1;
  double largest = 0;
  for (const double value : map.values)
    largest = std::max(largest, std::fabs(magnitude(map, value)));
  return map.kind == heat_map::scale::around_one ? std::max(largest, std::log(1.25))
                                                 : std::max(largest, 1e-12);
}

std::string cell(const heat_map& map, std::size_t unit, double full, double width, double height) {
  const double value = map.values[unit], strength = magnitude(map, value) / full;
  const double x = left_margin + static_cast<double>(unit % map.heads) * width;
  const double y = top_margin + static_cast<double>(unit / map.heads) * height;
  const char* const colour = map.kind == heat_map::scale::share ? "mass"
                             : strength >= 0                    ? "up"
                                                                : "down";
  return "<rect class=\"" + std::string(colour) + "\" x=\"" + number(x) + "\" y=\"" + number(y) +
         "\" width=\"" + number(width - 1) + "\" height=\"" + number(height - 1) +
         "\" fill-opacity=\"" + number(std::min(1.0, std::fabs(strength))) + "\"><title>layer " +
         std::to_string(unit / map.heads) + ", head " + std::to_string(unit % map.heads) + ": " +
         shown(value) + "</title></rect>";
}

// What full colour stands for.
std::string scale_note(const heat_map& map) {
  if (map.kind == heat_map::scale::share) return "";
  const double full = full_scale(map);
  if (map.kind == heat_map::scale::around_zero) return " Full colour: " + shown(full) + ".";
  return " Full colour: " + shown(std::exp(full)) + " or " + shown(std::exp(-full)) + ".";
}

std::string text_at(double x, double y, const char* anchor, const std::string& text) {
  return "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" text-anchor=\"" + anchor + "\">" +
         escape_html(text) + "</text>";
}

// Every how many cells a label fits.
std::size_t label_step(double cell_size, double label_size) {
  for (const std::size_t step : {1u, 2u, 5u, 10u, 20u, 50u})
    if (cell_size * static_cast<double>(step) >= label_size) return step;
  return 100;
}

// ---- line chart

constexpr double chart_width = 318, chart_height = 220;
constexpr double plot_left = 44, plot_right = 12, plot_top = 10, plot_bottom = 38;

// Round values about as far apart as asked.
std::vector<double> ticks(double low, double high, double count) {
  const double raw = (high - low) / count;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  double step = power * 10;
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= raw) {
      step = factor * power;
      break;
    }
  std::vector<double> values;
  for (double at = std::ceil(low / step - 1e-9); at * step <= high + 1e-9 * step; ++at)
    values.push_back(at * step == 0 ? 0.0 : at * step);
  return values;
}

class plotter {
 public:
  explicit plotter(const line_chart& chart) : chart_(chart) {
    for (const chart_curve& curve : chart.curves)
      for (const chart_point& point : curve.points) widen(point);
    if (chart.y_range) y_ = *chart.y_range;
    if (x_.low > x_.high) x_ = {0, 1};
    if (y_.low > y_.high) y_ = {0, 1};
    pad(x_, chart.log_x ? 0.04 : 0.03);
    if (!chart.y_range) pad(y_, 0.08);
  }

  std::string svg() const {
    std::string svg = "<svg width=\"" + number(chart_width) + "\" height=\"" +
                      number(chart_height) + "\" viewBox=\"0 0 " + number(chart_width) + " " +
                      number(chart_height) + "\" role=\"img\">" + axes();
    for (std::size_t i = 0; i < chart_.curves.size(); ++i) svg += curve(i);
    return svg + "</svg>";
  }

 private:
  double x_value(double x) const { return !chart_.log_x ? x : std::log2(std::max(x, 1.0 / 64)); }
  void widen(const chart_point& point) {
    x_ = {std::min(x_.low, x_value(point.x)), std::max(x_.high, x_value(point.x))};
    y_ = {std::min(y_.low, point.bounds ? std::min(point.bounds->low, point.y) : point.y),
          std::max(y_.high, point.bounds ? std::max(point.bounds->high, point.y) : point.y)};
  }
  static void pad(zerotune::interval& range, double share) {
    const double size = range.high - range.low;
    const double by = size > 0 ? size * share : std::max(0.5 * std::fabs(range.low), 0.5);
    range = {range.low - by, range.high + by};
  }
  double x_at(double x) const {
    return plot_left +
           (x_value(x) - x_.low) / (x_.high - x_.low) * (chart_width - plot_left - plot_right);
  }
  double y_at(double y) const {
    const double clamped = std::clamp(y, y_.low, y_.high);
    return chart_height - plot_bottom -
           (clamped - y_.low) / (y_.high - y_.low) * (chart_height - plot_top - plot_bottom);
  }
  static std::string line(const char* name, double x1, double y1, double x2, double y2) {
    return "<line class=\"" + std::string(name) + "\" x1=\"" + number(x1) + "\" y1=\"" +
           number(y1) + "\" x2=\"" + number(x2) + "\" y2=\"" + number(y2) + "\"/>";
  }

  std::string axes() const {
    const double bottom = chart_height - plot_bottom, right = chart_width - plot_right;
    std::string svg;
    for (const double y : ticks(y_.low, y_.high, 5)) {
      svg += line("grid", plot_left, y_at(y), right, y_at(y));
      svg += text_at(plot_left - 6, y_at(y) + 4, "end", format_number("%.3g", y));
    }
    if (chart_.log_x) {
      const int from = static_cast<int>(std::ceil(x_.low)), to = static_cast<int>(x_.high);
      for (int power = from; power <= to; power += std::max(1, (to - from + 5) / 6))
        svg += text_at(x_at(std::exp2(power)), bottom + 16, "middle",
                       format_number("%g", std::exp2(power)));
    } else {
      for (const double x : ticks(x_.low, x_.high, 5))
        svg += text_at(x_at(x), bottom + 16, "middle", format_number("%.3g", x));
    }
    svg += line("axis", plot_left, bottom, right, bottom);
    svg += text_at((plot_left + right) / 2, chart_height - 5, "middle", chart_.x_label);
    return svg;
  }

  std::string curve(std::size_t index) const {
    const chart_curve& curve = chart_.curves[index];
    const std::string colour = "var(--s" + std::to_string(index % 6) + ")";
    std::string svg, path;
    for (const chart_point& point : curve.points) {
      const double x = x_at(point.x), y = y_at(point.y);
      if (!path.empty()) path += ' ';
      path += number(x) + "," + number(y);
      svg += "<g style=\"stroke:" + colour + ";fill:" + colour + "\">";
      if (point.bounds)
        svg += "<line stroke-width=\"1.5\" stroke-opacity=\".55\" x1=\"" + number(x) + "\" y1=\"" +
               number(y_at(point.bounds->low)) + "\" x2=\"" + number(x) + "\" y2=\"" +
               number(y_at(point.bounds->high)) + "\"/>";
      svg += "<circle cx=\"" + number(x) + "\" cy=\"" + number(y) + "\" r=\"3\"><title>";
      svg += escape_html(point.title.empty()
                             ? curve.name + ": " + shown(point.x) + ", " + shown(point.y)
                             : point.title);
      if (point.bounds)
        svg += " [" + shown(point.bounds->low) + ", " + shown(point.bounds->high) + "]";
      svg += "</title></circle></g>";
    }
    if (curve.joined && curve.points.size() > 1)
      svg = "<polyline style=\"stroke:" + colour + ";fill:none;stroke-width:1.6\" points=\"" +
            path + "\"/>" + svg;
    return svg;
  }

  const line_chart& chart_;
  zerotune::interval x_{1e300, -1e300}, y_{1e300, -1e300};
};

}  // namespace

std::string draw(const heat_map& map) {
  std::string card = "<div class=\"card\"><h3>" + escape_html(map.title) + "</h3>";
  if (map.layers > most_cells || map.heads > most_cells)
    return card + "<p class=\"soft\">Too many layers or heads to draw.</p></div>\n";
  // Four maps stand side by side on the page.
  const double width = std::clamp(std::floor(225 / static_cast<double>(map.heads)), 5.0, 25.0);
  const double height = std::clamp(std::floor(480 / static_cast<double>(map.layers)), 5.0, 20.0);
  const double right = left_margin + width * static_cast<double>(map.heads);
  const double bottom = top_margin + height * static_cast<double>(map.layers);
  card += "<svg width=\"" + number(right) + "\" height=\"" + number(bottom) + "\" viewBox=\"0 0 " +
          number(right) + " " + number(bottom) + "\" role=\"img\"><rect class=\"cell\" x=\"" +
          number(left_margin) + "\" y=\"" + number(top_margin) + "\" width=\"" +
          number(right - left_margin) + "\" height=\"" + number(bottom - top_margin) + "\"/>";
  for (std::size_t head = 0; head < map.heads; head += label_step(width, 16))
    card += text_at(left_margin + (static_cast<double>(head) + .5) * width, top_margin - 5,
                    "middle", std::to_string(head));
  for (std::size_t layer = 0; layer < map.layers; layer += label_step(height, 13))
    card += text_at(left_margin - 5, top_margin + (static_cast<double>(layer) + .5) * height + 4,
                    "end", std::to_string(layer));
  const double full = full_scale(map);
  for (std::size_t unit = 0; unit < map.values.size(); ++unit)
    card += cell(map, unit, full, width, height);
  return card +
         "</svg><p class=\"soft small\" style=\"max-width:" + number(std::max(right, 240.0)) +
         "px\">" + escape_html(map.note + scale_note(map)) + "</p></div>\n";
}

std::string draw(const line_chart& chart) {
  std::string card = "<div class=\"card\"><h3>" + escape_html(chart.title) + "</h3>" +
                     "<div class=\"soft small\">" + escape_html(chart.y_label) + "</div>" +
                     plotter(chart).svg() + "<div class=\"legend\">";
  for (std::size_t i = 0; i < chart.curves.size(); ++i)
    card += "<span><span class=\"dot\" style=\"background:var(--s" + std::to_string(i % 6) +
            ")\"></span>" + escape_html(chart.curves[i].name) + "</span>";
  return card + "</div></div>\n";
}

}  // namespace zerotune_cli
