// SPDX-License-Identifier: Apache-2.0
// A model of nothing but arithmetic that tests can tune: every head has a known effect.
#pragma once

#include <cmath>
#include <span>
#include <vector>

#include "zerotune/tuning/evaluator.hpp"

namespace test {

using zerotune::index_t;

/// Two choices. The margin of an example's right choice is `difficulty` (its own) plus the sum over
/// heads of slope[layer][head] * log gamma. Answers are generated as they are predicted.
struct toy_host {
  std::vector<std::vector<double>> slope;  // [layers][heads]
  std::vector<index_t> labels;
  std::vector<double> difficulty;  // [examples]
  index_t rows_evaluated = 0;

  index_t num_layers() const { return static_cast<index_t>(slope.size()); }
  index_t num_heads() const { return static_cast<index_t>(slope.front().size()); }

  std::vector<zerotune::example_result> evaluate(const zerotune::gamma_table& gamma,
                                                 std::span<const index_t> examples,
                                                 const zerotune::quantities& wanted,
                                                 const zerotune::progress_callback& progress) {
    double shift = 0;
    for (index_t layer = 0; layer < num_layers(); ++layer)
      for (index_t head = 0; head < num_heads(); ++head)
        shift += slope[static_cast<std::size_t>(layer)][static_cast<std::size_t>(head)] *
                 std::log(static_cast<double>(gamma(layer, head)));
    std::vector<zerotune::example_result> results;
    for (const index_t example : examples) {
      const std::size_t i = static_cast<std::size_t>(example);
      const double margin = difficulty[i] + shift;
      zerotune::example_result result;
      result.loglik = labels[i] == 0 ? std::vector<double>{margin / 2, -margin / 2}
                                     : std::vector<double>{-margin / 2, margin / 2};
      result.predicted = zerotune::largest_choice(result.loglik);
      if (wanted.generated) result.generated = result.predicted;
      result.choice_entropy = zerotune::choice_entropy(result.loglik);
      result.entropy = result.choice_entropy + 1;
      results.push_back(result);
      ++rows_evaluated;
      if (progress)
        progress(static_cast<index_t>(results.size()), static_cast<index_t>(examples.size()));
    }
    return results;
  }
};

/// Three layers of five heads: head 1 helps, head 3 harms and head 4 helps a little when amplified.
inline toy_host make_toy_host(index_t rows = 40) {
  toy_host host;
  host.slope.assign(3, {0.0, 0.5, 0.0, -0.7, 0.2});
  for (index_t i = 0; i < rows; ++i) {
    host.labels.push_back(i % 2);
    host.difficulty.push_back(-2.0 + 4.0 * static_cast<double>(i) / static_cast<double>(rows - 1));
  }
  return host;
}

inline std::vector<index_t> all_rows(const toy_host& host) {
  std::vector<index_t> rows;
  for (index_t i = 0; i < static_cast<index_t>(host.labels.size()); ++i) rows.push_back(i);
  return rows;
}

}  // namespace test
