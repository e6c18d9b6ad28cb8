// SPDX-License-Identifier: Apache-2.0
// Tunes a model of your own through the `differentiable_evaluator` concept: it also gives the
// gradient of a loss with respect to every log gamma, and zerotune finds a gamma for each head.
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
      const auto loglik = answer(read(sentences[static_cast<std::size_t>(i)], gamma));
      const zt::index_t predicted = zt::largest_choice(loglik);
      results.push_back({predicted, predicted, loglik, 0, zt::choice_entropy(loglik)});
    }
    return results;
  }

  // The loss is -log of the right answer's share: this model knows no other words.
  zt::example_gradients differentiate(const zt::gamma_table& gamma,
                                      std::span<const zt::index_t> examples,
                                      const zt::loss_weights& weights,
                                      const zt::progress_callback&) {
    zt::example_gradients result;
    for (const zt::index_t i : examples) {
      const sentence& s = sentences[static_cast<std::size_t>(i)];
      const reading r = read(s, gamma);
      const std::vector<double> loglik = answer(r);
      const double weight = weights.choices + weights.vocabulary;
      result.loss.push_back(-weight * loglik[static_cast<std::size_t>(s.label)]);
      const double d_margin = weight * (std::exp(loglik[1]) - static_cast<double>(s.label));
      for (int head = 0; head < ::num_heads; ++head)  // d output / d log gamma = a_0 (v_0 - output)
        result.gradient.push_back(static_cast<float>(4 * d_margin) * r.initial_weight[head] *
                                  (initial_value - r.output[head]));
    }
    return result;
  }
};

int main() {
  toy_evaluator host{make_sentences(300)};
  std::vector<zt::index_t> labels;
  for (const sentence& s : host.sentences) labels.push_back(s.label);
  const zt::data_splits splits =
      zt::make_splits(labels, {.profile = 60, .search = 90, .test = 150}, /*seed=*/1);

  zt::search_options options;
  options.methods = {.uniform = true, .paper = true, .gradient_select = true, .descent = true};
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
