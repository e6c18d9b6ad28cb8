// SPDX-License-Identifier: Apache-2.0
// A small independent check of the forms that the seeded faults break: compiled against a copy of
// the headers with one fault each (faults.py). No test framework, so that it compiles fast; the
// oracle is written in double and includes nothing of the library. Exit status: the failures.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "zerotune/apply/attention.hpp"
#include "zerotune/apply/weights.hpp"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"
#if defined(ZEROTUNE_PROBE_SIMD)
#include "zerotune/kernel/simd/simd.hpp"
#endif

namespace {

namespace zt = zerotune;
using zt::index_t;

int failures = 0;

void expect(const char* what, bool condition) {
  if (condition) return;
  std::printf("failed: %s\n", what);
  ++failures;
}

/// False for NaN.
bool close(double got, double expected, double tolerance) {
  return std::fabs(got - expected) <= tolerance * (1.0 + std::fabs(expected));
}

std::vector<float> values(index_t count, unsigned seed) {
  std::vector<float> result(static_cast<std::size_t>(count));
  for (float& value : result) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<float>(seed >> 8) / 8388608.0f - 1.0f;
  }
  return result;
}

double at(const std::vector<float>& x, index_t i) {
  return static_cast<double>(x[static_cast<std::size_t>(i)]);
}

// --- attention against the definition ------------------------------------------------------------

struct problem {
  index_t batch, heads, kv_heads, q_len, kv_len, dim;
  std::vector<float> gamma;      // [heads]
  std::vector<index_t> initial;  // [batch]
  index_t hidden_below = 0;      // the window hides keys before it
  float scale = 0.3f;
  float sink = 1.0f;  // multiplies the initial token's key
};

/// Runs attention and compares output and LSE with softmax(logits + log gamma at the initial token)
/// v in double; k is stored [batch, kv_len, kv_heads, dim + 3], so its strides are all different.
template <class Backend>
void check_attention(const char* what, const problem& p, double tolerance) {
  const index_t row = p.dim + 3, k_head = row, k_key = p.kv_heads * row, k_batch = p.kv_len * k_key;
  const auto q = values(p.batch * p.heads * p.q_len * p.dim, 11);
  auto k = values(p.batch * k_batch, 12);
  const auto v = values(p.batch * p.kv_heads * p.kv_len * p.dim, 13);
  for (index_t b = 0; b < p.batch; ++b)
    for (index_t h = 0; h < p.kv_heads; ++h)
      for (index_t c = 0; c < p.dim; ++c)
        k[static_cast<std::size_t>(b * k_batch + p.initial[static_cast<std::size_t>(b)] * k_key +
                                   h * k_head + c)] *= p.sink;
  std::vector<float> out(q.size()), lse(q.size() / static_cast<std::size_t>(p.dim));

  zt::attention_options<float> options;
  options.softmax_scale = p.scale;
  options.lse = zt::tensor_view<float, 3>(lse.data(), {p.batch, p.heads, p.q_len});
  const auto gammas =
      zt::initial_token{zt::tensor_view<const float, 1>(p.gamma.data(), {p.heads})}.at(
          zt::tensor_view<const index_t, 1>(p.initial.data(), {p.batch}));
  const zt::tensor_view<const float, 4> q_view(q.data(), {p.batch, p.heads, p.q_len, p.dim});
  const zt::tensor_view<const float, 4> k_view(k.data(), {p.batch, p.kv_heads, p.kv_len, p.dim},
                                               {k_batch, k_head, k_key, 1});
  const zt::tensor_view<const float, 4> v_view(v.data(), {p.batch, p.kv_heads, p.kv_len, p.dim});
  const zt::tensor_view<float, 4> out_view(out.data(), {p.batch, p.heads, p.q_len, p.dim});
  if (p.hidden_below > 0)
    zt::attention(Backend{}, q_view, k_view, v_view, out_view,
                  zt::causal{} | zt::sliding_window{p.kv_len - p.hidden_below} | gammas, options);
  else
    zt::attention(Backend{}, q_view, k_view, v_view, out_view, zt::causal{} | gammas, options);

  bool right = true;
  for (index_t b = 0; b < p.batch; ++b)
    for (index_t h = 0; h < p.heads; ++h)
      for (index_t i = 0; i < p.q_len; ++i) {
        const index_t q_at = ((b * p.heads + h) * p.q_len + i) * p.dim;
        const index_t kv_head = h / (p.heads / p.kv_heads);
        const index_t position = p.kv_len - p.q_len + i;
        const index_t initial = p.initial[static_cast<std::size_t>(b)];
        index_t first = initial;
        if (p.hidden_below > 0 && position - (p.kv_len - p.hidden_below) + 1 > first)
          first = position - (p.kv_len - p.hidden_below) + 1;
        const bool alone = first == position && first == initial;
        std::vector<double> logits;
        for (index_t j = first; j <= position; ++j) {
          double dot = 0;
          for (index_t c = 0; c < p.dim; ++c)
            dot += at(q, q_at + c) * at(k, b * k_batch + j * k_key + kv_head * k_head + c);
          // A row that sees the initial token alone stays as it was.
          const double gamma = j == initial && !alone ? at(p.gamma, h) : 1.0;
          logits.push_back(static_cast<double>(p.scale) * dot + std::log(gamma));
        }
        double maximum = -std::numeric_limits<double>::infinity(), total = 0;
        for (const double logit : logits) maximum = logit > maximum ? logit : maximum;
        for (const double logit : logits) total += std::exp(logit - maximum);
        const double shift = maximum;
        // With gamma > 0 such a row's LSE is log gamma higher, its output the same.
        if (alone && at(p.gamma, h) > 0) maximum += std::log(at(p.gamma, h));
        right &= close(at(lse, q_at / p.dim), maximum + std::log(total), tolerance);
        for (index_t c = 0; c < p.dim; ++c) {
          double sum = 0;
          for (index_t j = first; j <= position; ++j)
            sum += std::exp(logits[static_cast<std::size_t>(j - first)] - shift) / total *
                   at(v, ((b * p.kv_heads + kv_head) * p.kv_len + j) * p.dim + c);
          right &= close(at(out, q_at + c), sum, tolerance);
        }
      }
  expect(what, right);
}

template <class Backend>
void attention_cases(const char* name) {
  char text[128];
  const auto title = [&](const char* what) {
    std::snprintf(text, sizeof text, "%s: attention: %s", name, what);
    return text;
  };
  const std::vector<float> some{0.25f, 1.0f, 4.0f, 1.0f, 0.5f, 2.0f};
  check_attention<Backend>(title("grouped heads"), {2, 6, 2, 4, 9, 7, some, {0, 0}}, 1e-5);
  check_attention<Backend>(title("left padding"), {3, 6, 3, 4, 17, 8, some, {0, 3, 9}}, 1e-5);
  check_attention<Backend>(title("several blocks of keys"),
                           {1, 2, 1, 3, 211, 16, {3.0f, 0.1f}, {0}}, 1e-5);
  check_attention<Backend>(title("a maximum that rises late"),
                           {1, 2, 1, 3, 150, 16, {3.0f, 0.1f}, {0}, 0, 6.0f}, 1e-4);
  check_attention<Backend>(title("gamma 1e38"),
                           {1, 2, 1, 3, 70, 5, {1e38f, 1e-38f}, {0}, 0, 0.3f, 9.0f}, 1e-4);
  check_attention<Backend>(title("gamma 0 and nothing else in view"),
                           {1, 2, 2, 5, 5, 4, {0.0f, 0.0f}, {0}}, 1e-5);
  check_attention<Backend>(title("initial token outside the window"),
                           {1, 2, 2, 6, 12, 4, {8.0f, 0.0f}, {0}, 8}, 1e-5);
  for (index_t dim = 1; dim <= 35; ++dim)
    check_attention<Backend>(title("every tail"), {1, 2, 1, 2, 2 * dim, dim, {2.0f, 0.5f}, {0}},
                             1e-5);
}

// --- weights against the definition --------------------------------------------------------------

template <class Backend>
void weights_cases(const char* name) {
  char text[128];
  const auto title = [&](const char* what) {
    std::snprintf(text, sizeof text, "%s: weights: %s", name, what);
    return text;
  };
  for (index_t keys = 2; keys <= 70; ++keys) {
    const float gamma[2] = {1.0f, 3.0f};
    auto weights = values(2 * keys, 7);
    // Not normalised: the row keeps its own sum, and an unselected head every bit.
    for (float& weight : weights) weight = weight * weight;
    const auto before = weights;
    zt::rescale_weights(Backend{}, zt::tensor_view<float, 3>(weights.data(), {2, 1, keys}),
                        zt::initial_token{zt::tensor_view<const float, 1>(gamma, {2})});
    double sum = 0, changed = 0;
    for (index_t j = 0; j < keys; ++j) {
      sum += at(before, keys + j);
      changed += at(before, keys + j) * (j == 0 ? 3.0 : 1.0);
    }
    bool same = true, right = true;
    for (index_t j = 0; j < keys; ++j) {
      same &= std::bit_cast<std::uint32_t>(weights[static_cast<std::size_t>(j)]) ==
              std::bit_cast<std::uint32_t>(before[static_cast<std::size_t>(j)]);
      right &= close(at(weights, keys + j),
                     at(before, keys + j) * (j == 0 ? 3.0 : 1.0) * sum / changed, 1e-6);
    }
    expect(title("an unselected head keeps every bit"), same);
    expect(title("the selected head"), right);
  }

  // The sink holds nearly all; the rest is far below the rounding of 1 - a_0.
  for (const float gamma : {1e-6f, 0.0f}) {
    std::vector<float> weights{0.99997f, 1e-5f, 2e-5f};
    const auto before = weights;
    zt::rescale_weights(Backend{}, zt::tensor_view<float, 2>(weights.data(), {1, 3}),
                        zt::initial_token{gamma});
    const double g = static_cast<double>(gamma);
    const double rest = at(before, 1) + at(before, 2);
    const double d = (g * at(before, 0) + rest) / (at(before, 0) + rest);
    expect(title("a small gamma on a large sink"),
           close(at(weights, 0), g * at(before, 0) / d, 1e-6) &&
               close(at(weights, 1), at(before, 1) / d, 1e-6) &&
               close(at(weights, 2), at(before, 2) / d, 1e-6));
  }

  // Left padding: the initial token stands at 2; what is before it is not the row's.
  {
    std::vector<float> weights{7.0f, 7.0f, 0.5f, 0.25f, 0.25f};
    const index_t initial[1] = {2};
    zt::rescale_weights(
        Backend{}, zt::tensor_view<float, 2>(weights.data(), {1, 5}),
        zt::initial_token{2.0f}.at(zt::tensor_view<const index_t, 1>(initial, {1})));
    expect(title("left padding"), at(weights, 0) == 7.0 && at(weights, 1) == 7.0 &&
                                      close(at(weights, 2), 1.0 / 1.5, 1e-6) &&
                                      close(at(weights, 3), 0.25 / 1.5, 1e-6));
  }

  // The initial token outside the window, or with no weight: nothing changes.
  {
    std::vector<float> weights{0.5f, 0.25f, 0.25f};
    zt::rescale_weights(Backend{}, zt::tensor_view<float, 2>(weights.data(), {1, 3}),
                        zt::causal{} | zt::sliding_window{2} | zt::initial_token{5.0f});
    expect(title("masked initial token"), weights == std::vector<float>({0.5f, 0.25f, 0.25f}));
  }
}

}  // namespace

int main() {
  attention_cases<zt::backend::scalar>("scalar");
  weights_cases<zt::backend::scalar>("scalar");
#if defined(ZEROTUNE_PROBE_SIMD)
  attention_cases<zt::backend::simd<>>("simd");
  weights_cases<zt::backend::simd<>>("simd");
#endif
  std::printf("%d failures\n", failures);
  return failures > 100 ? 100 : failures;
}
