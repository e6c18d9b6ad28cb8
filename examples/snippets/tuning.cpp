// SPDX-License-Identifier: Apache-2.0
// The search over a host of one's own: a stand-in that is right where head 1 attends less.
#include <cmath>
#include <cstdio>
#include <span>
#include <vector>
#include <zerotune/zerotune.hpp>

namespace zt = zerotune;

namespace {

/// Log-likelihoods of the two choices of a row: your model's.
std::vector<double> score(const zt::gamma_table& gamma, zt::index_t row) {
  const double says = row % 2 ? 1.0 : -1.0, noise = std::sin(static_cast<double>(row) * 12.9898);
  const double margin = says - 1.2 * std::sqrt(static_cast<double>(gamma(0, 1))) + 0.8 * noise;
  return {-std::log1p(std::exp(margin)), -std::log1p(std::exp(-margin))};
}

}  // namespace

// [evaluator]
struct host {
  zt::index_t num_layers() const { return 1; }
  zt::index_t num_heads() const { return 4; }

  /// What the model says to some rows of data under a table of gammas.
  std::vector<zt::example_result> evaluate(const zt::gamma_table& gamma,
                                           std::span<const zt::index_t> rows,
                                           const zt::quantities&, const zt::progress_callback&) {
    std::vector<zt::example_result> results;
    for (const zt::index_t row : rows) {
      zt::example_result result;
      result.loglik = score(gamma, row);                       // one number per choice
      result.predicted = zt::largest_choice(result.loglik);
      result.generated = result.predicted;                     // what it wrote, parsed to a choice
      results.push_back(result);
    }
    return results;
  }
};
// [/evaluator]

int main() {
  std::vector<zt::index_t> labels;
  for (zt::index_t row = 0; row < 400; ++row) labels.push_back(row % 2);
  host model;
  // [search]
  const zt::data_splits rows =
      zt::make_splits(labels, {.profile = 64, .search = 128, .test = 200}, /*seed=*/1);
  zt::search_options options;
  options.methods = {.uniform = true, .paper = true};
  const zt::search_outcome found =
      zt::search_table(model, rows.profile, rows.search, labels, options);
  const zt::gamma_table& best = found.chosen().gamma;          // [layers][heads]
  // The test rows, once, with a test that says whether the difference may be luck.
  const auto before = model.evaluate(zt::gamma_table(1, 4), rows.test, {}, {});
  const auto after = model.evaluate(best, rows.test, {}, {});
  const double gain = zt::measure_accuracies(after, rows.test, labels).likelihood -
                      zt::measure_accuracies(before, rows.test, labels).likelihood;
  zt::index_t lost = 0, won = 0;                               // rows that changed sides
  for (std::size_t i = 0; i < rows.test.size(); ++i) {
    const zt::index_t label = labels[static_cast<std::size_t>(rows.test[i])];
    lost += before[i].predicted == label && after[i].predicted != label;
    won += before[i].predicted != label && after[i].predicted == label;
  }
  std::printf("%s: %+.3f, p = %.2g\n", found.chosen().method.c_str(), gain,
              zt::mcnemar_exact(lost, won));
  // [/search]
  return gain > 0.0 && zt::mcnemar_exact(lost, won) < 0.05 ? 0 : 1;
}
