// SPDX-License-Identifier: Apache-2.0
// One attention call of batch 1 to be timed: shape, tensors, and its result row by row in double,
// which shares no code with the library.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "roofs.hpp"
#include "zerotune/apply/attention.hpp"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"

namespace bench {

using zerotune::index_t;

struct shape {
  index_t q_len, kv_len, head_dim, heads, kv_heads;

  /// Of the causal call: two products for each pair of a query and a key that it sees.
  double flops() const {
    const auto rows = static_cast<double>(q_len), keys = static_cast<double>(kv_len);
    return 4.0 * static_cast<double>(heads * head_dim) * rows * (keys - (rows - 1) / 2);
  }
  /// "[512 x 512] d=128 heads 8/8"
  std::string name() const {
    char text[96];
    std::snprintf(text, sizeof text, "[%d x %d] d=%d heads %d/%d", static_cast<int>(q_len),
                  static_cast<int>(kv_len), static_cast<int>(head_dim), static_cast<int>(heads),
                  static_cast<int>(kv_heads));
    return text;
  }
};

/// [1, heads, rows, dim], filled with numbers from [-2, 2).
template <class T>
class tensor {
 public:
  tensor(index_t heads, index_t rows, index_t dim, std::uint64_t seed)
      : heads_(heads), rows_(rows), dim_(dim), memory_(bytes()) {
    for (index_t i = 0; i < heads * rows * dim; ++i) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      const auto number = static_cast<std::int64_t>(seed >> 40);
      data()[i] = static_cast<T>(static_cast<float>(number) / 0x1p22f - 2.0f);
    }
  }
  T* data() const { return memory_.as<T>(); }
  std::size_t bytes() const { return static_cast<std::size_t>(heads_ * rows_ * dim_) * sizeof(T); }
  zerotune::tensor_view<T, 4> view() const { return {data(), {1, heads_, rows_, dim_}}; }
  zerotune::tensor_view<const T, 4> read() const { return {data(), {1, heads_, rows_, dim_}}; }
  double at(index_t head, index_t row, index_t column) const {
    const T x = data()[(head * rows_ + row) * dim_ + column];
    return static_cast<double>(static_cast<zerotune::accumulator_t<T>>(x));
  }
  const T* row(index_t head, index_t i) const { return data() + (head * rows_ + i) * dim_; }

 private:
  index_t heads_, rows_, dim_;
  memory memory_;
};

/// Tensors of an attention call with everything that the call needs.
template <class T>
class attention_case {
 public:
  using acc = zerotune::accumulator_t<T>;

  explicit attention_case(const shape& s, index_t threads = 1)
      : q(s.heads, s.q_len, s.head_dim, 1),
        k(s.kv_heads, s.kv_len, s.head_dim, 2),
        v(s.kv_heads, s.kv_len, s.head_dim, 3),
        out(s.heads, s.q_len, s.head_dim, 4),
        lse(s.heads, s.q_len, 1, 5),
        shape_(s) {
    options.plan = zerotune::plan_attention();
    options.lse = lse_view();
    workspace_.resize(static_cast<std::size_t>(
        zerotune::attention_workspace_bytes(zerotune::backend::simd<>{}, q.read(), k.read(),
                                            v.read(), out.view(), options.plan, threads)));
    if (!workspace_.empty()) options.workspace = zerotune::view_of(workspace_);
  }

  /// out and lse of causal attention with gamma for every head.
  template <class Executor = zerotune::serial_executor>
  void run(float gamma, Executor&& executor = {}) const {
    zerotune::attention(zerotune::backend::simd<>{}, q.read(), k.read(), v.read(), out.view(),
                        zerotune::causal{} | zerotune::initial_token{gamma}, options, executor);
  }
  zerotune::tensor_view<acc, 3> lse_view() const {
    return {lse.data(), {1, shape_.heads, shape_.q_len}};
  }
  index_t kv_head(index_t head) const { return head / (shape_.heads / shape_.kv_heads); }
  /// Keys that query i sees.
  index_t seen(index_t i) const { return shape_.kv_len - shape_.q_len + i + 1; }

  double logit(index_t head, index_t i, index_t j) const {
    double sum = 0;
    for (index_t c = 0; c < shape_.head_dim; ++c)
      sum += q.at(head, i, c) * k.at(kv_head(head), j, c);
    return sum / std::sqrt(static_cast<double>(shape_.head_dim));
  }

  /// Compares what lies in out and lse with attention with gamma, computed in double: the first,
  /// the last and a middle row of each head.
  bool check(float gamma, double tolerance) const {
    for (index_t h = 0; h < shape_.heads; ++h)
      for (const index_t i : rows_to_check(shape_.q_len))
        if (!check_row(h, i, gamma, tolerance)) return false;
    return true;
  }
  static std::vector<index_t> rows_to_check(index_t rows) {
    return rows < 3 ? std::vector<index_t>{rows - 1} : std::vector<index_t>{0, rows / 3, rows - 1};
  }

  tensor<T> q, k, v, out;
  tensor<acc> lse;
  zerotune::attention_options<acc> options;

 private:
  bool check_row(index_t head, index_t i, float gamma, double tolerance) const {
    std::vector<double> weights(static_cast<std::size_t>(seen(i)));
    double sum = 0;  // the logits are small: no maximum needs to be taken out
    for (index_t j = 0; j < seen(i); ++j) {
      double& weight = weights[static_cast<std::size_t>(j)];
      weight = std::exp(logit(head, i, j)) * (j == 0 ? static_cast<double>(gamma) : 1.0);
      sum += weight;
    }
    if (!(std::abs(lse.at(head, i, 0) - std::log(sum)) <= tolerance)) return false;
    for (index_t c = 0; c < shape_.head_dim; ++c) {
      double expected = 0;
      for (index_t j = 0; j < seen(i); ++j)
        expected += weights[static_cast<std::size_t>(j)] / sum * v.at(kv_head(head), j, c);
      if (!(std::abs(out.at(head, i, c) - expected) <= tolerance)) return false;
    }
    return true;
  }

  shape shape_;
  std::vector<std::byte> workspace_;
};

/// Of numbers below 2 (and LSEs of some units) against those in double: rounding of float sums;
/// of the inputs' products and the output in 16 bits.
template <class T>
constexpr double tolerance = std::is_same_v<T, float> ? 2e-5 : 2e-2;

/// "x 1.03 [0.99, 1.08]", and the line is out at once.
inline void print_figure(const char* separator, const char* what, const ratios& r) {
  std::printf("%s %s ", separator, what);
  print_ratio(r);
  std::fflush(stdout);
}

}  // namespace bench
