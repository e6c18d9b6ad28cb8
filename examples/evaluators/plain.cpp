// SPDX-License-Identifier: Apache-2.0
// Tunes a model of your own through the `evaluator` concept: it says how it answers some examples
// under a gamma table, and zerotune searches one gamma for all heads and the paper's procedure.
#include <cstdio>
#include <span>
#include <vector>

#include "toy_model.hpp"

namespace zt = zerotune;

struct toy_evaluator {
  std::vector<sentence> sentences;

  zt::index_t num_layers() const { return 1; }
  zt::index_t num_heads() const { return ::num_heads; }

  std::vector<zt::example_result> evaluate(const zt::gamma_table& gamma,
                                           std::span<const zt::index_t> examples,
                                           const zt::quantities&, const zt::progress_callback&) {
    std::vector<zt::example_result> results;
    for (const zt::index_t i : examples) {
      zt::example_result result;
      result.loglik = answer(read(sentences[static_cast<std::size_t>(i)], gamma));
      result.predicted = zt::largest_choice(result.loglik);
      result.generated = result.predicted;  // what your model would have written, if it writes
      result.choice_entropy = zt::choice_entropy(result.loglik);
      results.push_back(result);
    }
    return results;
  }
};

int main() {
  toy_evaluator host{make_sentences(300)};
  std::vector<zt::index_t> labels;
  for (const sentence& s : host.sentences) labels.push_back(s.label);
  const zt::data_splits splits =
      zt::make_splits(labels, {.profile = 60, .search = 90, .test = 150}, /*seed=*/1);

  zt::search_options options;
  options.methods = {.uniform = true, .paper = true};
  options.probe.unit = zt::granularity::head;
  const zt::search_outcome found =
      zt::search_table(host, splits.profile, splits.search, labels, options);

  const auto share = [&](const zt::gamma_table& gamma) {
    const auto results = host.evaluate(gamma, splits.test, {}, {});
    return zt::measure_accuracies(results, splits.test, labels).likelihood;
  };
  const double before = share(zt::gamma_table(1, num_heads)), after = share(found.chosen().gamma);
  std::printf("%s, %s: %.3f before, %.3f after on rows that nothing was chosen on\n",
              found.chosen().method.c_str(), found.chosen().detail.c_str(), before, after);
  for (const float gamma : found.chosen().gamma.values())
    std::printf("gamma %.3f\n", static_cast<double>(gamma));
  return after > before ? 0 : 1;
}
