// SPDX-License-Identifier: Apache-2.0
#include "table.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "zerotune/tuning/objective.hpp"

namespace zerotune_cli {

std::string format_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string text;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::string line;
    for (std::size_t c = 0; c < rows[r].size(); ++c) {
      const std::string padding(widths[c] - rows[r][c].size(), ' ');
      line += c == 0 ? rows[r][c] + padding : "  " + padding + rows[r][c];
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
    if (r > 0) continue;
    std::size_t total = 0;
    for (const std::size_t width : widths) total += width + (total > 0 ? 2 : 0);
    text += std::string(total, '-') + "\n";
  }
  return text;
}

std::string format_number(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string format_share(double share, const std::optional<zerotune::interval>& bounds) {
  std::string text = format_number("%.3f", share);
  if (bounds)
    text += " [" + format_number("%.3f", bounds->low) + ", " + format_number("%.3f", bounds->high) +
            "]";
  return text;
}

zerotune::score_report report_scores(const std::vector<zerotune::example_result>& results,
                                     const std::vector<zerotune::index_t>& examples,
                                     const std::vector<zerotune::index_t>& labels) {
  const zerotune::accuracies shares = zerotune::measure_accuracies(results, examples, labels);
  zerotune::score_report report{
      shares.likelihood, shares.generated, shares.invalid, shares.rows, {}, {}};
  if (shares.rows == 0) return report;
  const auto bounds = [&](double share) {
    const auto right = std::llround(share * static_cast<double>(shares.rows));
    return zerotune::wilson_interval(static_cast<zerotune::index_t>(right), shares.rows);
  };
  report.likelihood_interval = bounds(shares.likelihood);
  report.generated_interval = bounds(shares.generated);
  return report;
}

}  // namespace zerotune_cli
