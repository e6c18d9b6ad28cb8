// SPDX-License-Identifier: Apache-2.0
// Stands for a model of your own: one layer of attention over the words of a sentence. Head 0 reads
// what matters, head 1 reads it the wrong way round, heads 2 and 3 read noise, and what every head
// takes from the initial token is a prejudice for the answer "positive".
#pragma once

#include <cmath>
#include <vector>

#include <zerotune/zerotune.hpp>

constexpr int num_heads = 4;
constexpr float initial_value = 0.15f;

struct sentence {
  std::vector<int> words;  // 0 to 4 are bad, 5 to 9 are good
  zerotune::index_t label;
};

inline std::vector<sentence> make_sentences(int count) {
  zerotune::random_source random(1);
  std::vector<sentence> result;
  for (int i = 0; i < count; ++i) {
    sentence s{{}, i % 2};
    for (int w = 0; w < 7; ++w)  // five of seven words say what is meant
      s.words.push_back(static_cast<int>(random.below(5)) + ((w < 5) == (s.label == 1) ? 5 : 0));
    result.push_back(s);
  }
  return result;
}

inline float value_of(int head, int word) {
  const float says = word < 5 ? -1.0f : 1.0f;
  return head == 0 ? says : head == 1 ? -0.7f * says : word % 2 == 0 ? 0.5f : -0.5f;
}

// The attention weights of the last position, [1, heads, 1, 1 + words]: a model has these anyway.
inline std::vector<float> weights_of(const sentence& s) {
  const std::size_t keys = s.words.size() + 1;
  const float rest = 1.0f / (std::exp(1.5f) + static_cast<float>(s.words.size()));
  std::vector<float> weights(num_heads * keys, rest);
  for (std::size_t head = 0; head < num_heads; ++head) weights[head * keys] = rest * std::exp(1.5f);
  return weights;
}

// What the heads read under gamma, [heads], and the weight that is left to the initial token.
struct reading {
  float output[num_heads] = {};
  float initial_weight[num_heads] = {};
};
inline reading read(const sentence& s, const zerotune::gamma_table& gamma) {
  const auto keys = static_cast<zerotune::index_t>(s.words.size()) + 1;
  std::vector<float> weights = weights_of(s);
  zerotune::rescale_weights(zerotune::tensor_view(weights.data(), {1, num_heads, 1, keys}),
                            zerotune::initial_token{gamma.row(0)});
  reading result;
  for (int head = 0; head < num_heads; ++head) {
    const float* const row = weights.data() + head * keys;
    result.initial_weight[head] = row[0];
    result.output[head] = row[0] * initial_value;
    for (std::size_t w = 0; w < s.words.size(); ++w)
      result.output[head] += row[w + 1] * value_of(head, s.words[w]);
  }
  return result;
}

// Log-likelihoods of "negative" and "positive".
inline std::vector<double> answer(const reading& r) {
  double margin = 0;
  for (const float output : r.output) margin += 4.0 * static_cast<double>(output);
  return {-std::log1p(std::exp(margin)), -std::log1p(std::exp(-margin))};
}
