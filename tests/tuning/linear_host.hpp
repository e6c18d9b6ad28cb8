// SPDX-License-Identifier: Apache-2.0
// A differentiable model of nothing but arithmetic: the logits of a small vocabulary are linear in
// log gamma, so losses, gradients and minima can be worked out by hand.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <thread>
#include <vector>

#include "zerotune/tuning/evaluator.hpp"
#include "zerotune/tuning/random.hpp"

namespace test {

using zerotune::index_t;

/// A vocabulary of the choices and one more token, junk, which is no answer. The logit of token t
/// for example i is base[i][t] + sum over heads of slope[i][t][head] * log gamma[head].
struct linear_host {
  index_t layers = 2, heads = 3, choices = 2;
  std::vector<index_t> labels;
  std::vector<std::vector<double>> base;                ///< [examples][choices + 1]
  std::vector<std::vector<std::vector<double>>> slope;  ///< [examples][choices + 1][units]
  int threads = 1;
  index_t rows_evaluated = 0, rows_differentiated = 0;

  index_t num_layers() const { return layers; }
  index_t num_heads() const { return heads; }

  std::vector<double> distribution(const zerotune::gamma_table& gamma, std::size_t i) const {
    std::vector<double> logits = base[i];
    for (std::size_t t = 0; t < logits.size(); ++t)
      for (std::size_t unit = 0; unit < gamma.values().size(); ++unit)
        logits[t] += slope[i][t][unit] * std::log(static_cast<double>(gamma.values()[unit]));
    return zerotune::choice_probabilities(logits);
  }

  std::vector<zerotune::example_result> evaluate(const zerotune::gamma_table& gamma,
                                                 std::span<const index_t> examples,
                                                 const zerotune::quantities& wanted,
                                                 const zerotune::progress_callback& progress) {
    std::vector<zerotune::example_result> results(examples.size());
    shard(examples.size(), [&](std::size_t r) {
      const std::vector<double> p = distribution(gamma, static_cast<std::size_t>(examples[r]));
      zerotune::example_result& result = results[r];
      const index_t most = zerotune::largest_choice(p);
      if (wanted.generated && most < choices) result.generated = most;
      if (wanted.loglik) {
        for (index_t c = 0; c < choices; ++c)
          result.loglik.push_back(std::log(p[static_cast<std::size_t>(c)]));
        result.predicted = zerotune::largest_choice(result.loglik);
        result.choice_entropy = zerotune::choice_entropy(result.loglik);
      }
      if (wanted.entropy)
        for (const double share : p) result.entropy -= share * std::log(share);
    });
    rows_evaluated += static_cast<index_t>(examples.size());
    if (progress)
      progress(static_cast<index_t>(examples.size()), static_cast<index_t>(examples.size()));
    return results;
  }

  zerotune::example_gradients differentiate(const zerotune::gamma_table& gamma,
                                            std::span<const index_t> examples,
                                            const zerotune::loss_weights& weights,
                                            const zerotune::progress_callback& progress) {
    const std::size_t units = gamma.values().size();
    zerotune::example_gradients result;
    result.loss.resize(examples.size());
    result.gradient.resize(examples.size() * units);
    shard(examples.size(), [&](std::size_t r) {
      const std::size_t i = static_cast<std::size_t>(examples[r]);
      const std::vector<double> p = distribution(gamma, i);
      const std::vector<double> d = logit_gradient(p, labels[i], weights, result.loss[r]);
      for (std::size_t unit = 0; unit < units; ++unit) {
        double sum = 0;
        for (std::size_t t = 0; t < p.size(); ++t) sum += d[t] * slope[i][t][unit];
        result.gradient[r * units + unit] = static_cast<float>(sum);
      }
    });
    rows_differentiated += static_cast<index_t>(examples.size());
    if (progress)
      progress(static_cast<index_t>(examples.size()), static_cast<index_t>(examples.size()));
    return result;
  }

 private:
  // d loss / d logit of each token: the softmax's p - [t is right] over the choices or the whole
  // vocabulary, and -p (log p + entropy) for an entropy.
  std::vector<double> logit_gradient(const std::vector<double>& p, index_t label,
                                     const zerotune::loss_weights& weights, double& loss) const {
    const std::size_t known = static_cast<std::size_t>(choices);
    double mass = 0, entropy = 0, choice_entropy = 0;
    for (std::size_t c = 0; c < known; ++c) mass += p[c];
    for (const double share : p) entropy -= share * std::log(share);
    for (std::size_t c = 0; c < known; ++c) choice_entropy -= p[c] / mass * std::log(p[c] / mass);
    std::vector<double> d(p.size());
    for (std::size_t t = 0; t < p.size(); ++t) {
      const double right = static_cast<index_t>(t) == label ? 1 : 0;
      d[t] =
          weights.vocabulary * (p[t] - right) - weights.entropy * p[t] * (std::log(p[t]) + entropy);
      if (t >= known) continue;
      const double share = p[t] / mass;
      d[t] += weights.choices * (share - right) -
              weights.choice_entropy * share * (std::log(share) + choice_entropy);
    }
    loss = weights.entropy * entropy + weights.choice_entropy * choice_entropy;
    if (label >= 0) {
      const double right = p[static_cast<std::size_t>(label)];
      loss -= weights.choices * std::log(right / mass) + weights.vocabulary * std::log(right);
    }
    return d;
  }

  template <class Work>
  void shard(std::size_t rows, const Work& work) const {
    std::vector<std::thread> running;
    for (int t = 0; t < threads; ++t)
      running.emplace_back([&, t] {
        for (std::size_t r = static_cast<std::size_t>(t); r < rows;
             r += static_cast<std::size_t>(threads))
          work(r);
      });
    for (std::thread& thread : running) thread.join();
  }
};

/// A model whose untouched answers are mostly junk. Head (0, 1) removes the junk when amplified,
/// head (1, 0) brings out the right answer, head (1, 2) the wrong one; the others do little.
inline linear_host make_linear_host(index_t rows = 60, std::uint64_t seed = 1) {
  linear_host host;
  zerotune::random_source random(seed);
  const auto noise = [&](double size) { return size * (2 * random.uniform() - 1); };
  for (index_t i = 0; i < rows; ++i) {
    const index_t label = i % host.choices;
    host.labels.push_back(label);
    host.base.push_back({noise(1), noise(1), 1.2 + noise(1)});
    std::vector<std::vector<double>> slope(3, std::vector<double>(6));
    for (auto& row : slope)
      for (double& value : row) value = noise(0.15);
    slope[2][1] -= 0.8;
    slope[static_cast<std::size_t>(label)][3] += 0.6;
    slope[static_cast<std::size_t>(1 - label)][5] += 0.4;
    host.slope.push_back(slope);
  }
  return host;
}

inline std::vector<index_t> rows_between(index_t begin, index_t end) {
  std::vector<index_t> rows;
  for (index_t i = begin; i < end; ++i) rows.push_back(i);
  return rows;
}

}  // namespace test
