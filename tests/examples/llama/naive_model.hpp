// SPDX-License-Identifier: Apache-2.0
// A model of the Llama family in double, straight from its formulas: one token at a time, one head
// at a time, the paper's own form of gamma. The oracle of the backward pass.
#pragma once

#include <cmath>
#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "llama/weights.hpp"
#include "zerotune/tuning/gamma_table.hpp"

namespace llama::test {

/// Reads tensors as they are, in the order of rope_pairing::interleaved: turned pairs are
/// neighbours.
class naive_model {
 public:
  naive_model(const model_config& config, const tensor_source& source)
      : config_(config), source_(source) {}

  /// Logits after the last token. @param gamma [layers][heads], in double, row by row
  std::vector<double> logits(std::span<const int> tokens, std::span<const double> gamma) const {
    const auto length = tokens.size();
    std::vector<vec> x(length);
    for (std::size_t t = 0; t < length; ++t)
      x[t] = row(tensor("token_embd.weight", config_.vocabulary_size, config_.embedding_dim),
                 static_cast<std::size_t>(tokens[t]));
    for (int layer = 0; layer < config_.num_layers; ++layer) run_layer(layer, x, gamma);
    const vec last = norm(x.back(), "output_norm.weight");
    return product(source_.contains("output.weight") ? "output.weight" : "token_embd.weight",
                   config_.vocabulary_size, last);
  }

 private:
  using vec = std::vector<double>;
  struct table {
    std::size_t rows, columns;
    vec values;
  };

  const table& tensor(const std::string& name, int rows, int columns) const {
    const auto found = known_.find(name);
    if (found != known_.end()) return found->second;
    matrix read(rows, columns);
    source_.read(name, read);
    table t{static_cast<std::size_t>(rows), static_cast<std::size_t>(columns), {}};
    for (const float value : read.values()) t.values.push_back(static_cast<double>(value));
    return known_.emplace(name, std::move(t)).first->second;
  }
  static vec row(const table& t, std::size_t index) {
    const auto begin = t.values.begin() + static_cast<std::ptrdiff_t>(index * t.columns);
    return vec(begin, begin + static_cast<std::ptrdiff_t>(t.columns));
  }
  vec product(const std::string& name, int outputs, const vec& x) const {
    const table& w = tensor(name, outputs, static_cast<int>(x.size()));
    vec y(w.rows, 0.0);
    for (std::size_t i = 0; i < w.rows; ++i)
      for (std::size_t j = 0; j < w.columns; ++j) y[i] += w.values[i * w.columns + j] * x[j];
    return y;
  }
  vec norm(const vec& x, const std::string& name) const {
    const table& weight = tensor(name, 1, config_.embedding_dim);
    double squares = 0;
    for (const double value : x) squares += value * value;
    const double mean = squares / static_cast<double>(x.size());
    vec y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i)
      y[i] = x[i] / std::sqrt(mean + static_cast<double>(config_.rms_epsilon)) * weight.values[i];
    return y;
  }
  void rotate(vec& heads, std::size_t position) const {
    for (std::size_t head = 0; head * static_cast<std::size_t>(config_.head_dim) < heads.size();
         ++head)
      for (int i = 0; i < config_.rope_dim; i += 2) {
        const double angle =
            static_cast<double>(position) * std::pow(static_cast<double>(config_.rope_base),
                                                     -static_cast<double>(i) / config_.rope_dim);
        double& a =
            heads[head * static_cast<std::size_t>(config_.head_dim) + static_cast<std::size_t>(i)];
        double& b = *(&a + 1);
        const double turned = a * std::cos(angle) - b * std::sin(angle);
        b = a * std::sin(angle) + b * std::cos(angle);
        a = turned;
      }
  }

  void run_layer(int layer, std::vector<vec>& x, std::span<const double> gamma) const {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    const std::size_t length = x.size(), dim = static_cast<std::size_t>(config_.head_dim);
    std::vector<vec> q(length), k(length), v(length);
    for (std::size_t t = 0; t < length; ++t) {
      const vec in = norm(x[t], prefix + "attn_norm.weight");
      q[t] = product(prefix + "attn_q.weight", config_.q_dim(), in);
      k[t] = product(prefix + "attn_k.weight", config_.kv_dim(), in);
      v[t] = product(prefix + "attn_v.weight", config_.kv_dim(), in);
      for (const char* const part : {"q", "k", "v"}) {
        const std::string name = prefix + "attn_" + part + ".bias";
        vec& to = *part == 'q' ? q[t] : *part == 'k' ? k[t] : v[t];
        if (!source_.contains(name)) continue;
        const table& bias = tensor(name, 1, static_cast<int>(to.size()));
        for (std::size_t i = 0; i < to.size(); ++i) to[i] += bias.values[i];
      }
      rotate(q[t], t);
      rotate(k[t], t);
    }
    for (std::size_t t = 0; t < length; ++t) {
      vec attended(q[t].size(), 0.0);
      for (int head = 0; head < config_.num_heads; ++head) {
        const std::size_t at = static_cast<std::size_t>(head) * dim;
        const std::size_t kv_at = static_cast<std::size_t>(head / config_.group_size()) * dim;
        vec weights(t + 1);
        double sum = 0;
        for (std::size_t s = 0; s <= t; ++s) {
          double dot = 0;
          for (std::size_t i = 0; i < dim; ++i) dot += q[t][at + i] * k[s][kv_at + i];
          weights[s] = std::exp(dot / std::sqrt(static_cast<double>(dim)));
          if (s == 0)
            weights[s] *= gamma[static_cast<std::size_t>(layer * config_.num_heads + head)];
          sum += weights[s];
        }
        if (t == 0) weights[0] = sum = 1;  // a row that sees nothing else stays as it is
        for (std::size_t s = 0; s <= t; ++s)
          for (std::size_t i = 0; i < dim; ++i)
            attended[at + i] += weights[s] / sum * v[s][kv_at + i];
      }
      const vec mixed = product(prefix + "attn_output.weight", config_.embedding_dim, attended);
      for (std::size_t i = 0; i < mixed.size(); ++i) x[t][i] += mixed[i];
      const vec in = norm(x[t], prefix + "ffn_norm.weight");
      vec gate = product(prefix + "ffn_gate.weight", config_.ffn_dim, in);
      const vec up = product(prefix + "ffn_up.weight", config_.ffn_dim, in);
      for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
      const vec down = product(prefix + "ffn_down.weight", config_.embedding_dim, gate);
      for (std::size_t i = 0; i < down.size(); ++i) x[t][i] += down[i];
    }
  }

  model_config config_;
  const tensor_source& source_;
  mutable std::map<std::string, table> known_;
};

}  // namespace llama::test
