// SPDX-License-Identifier: Apache-2.0
// The host's compiled attention and its gradients against plain formulas in double, around the
// number of queries at which it changes its way, for the instruction set in use.
#include "llama/attention.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <tuple>
#include <vector>

#include "llama/cpu.hpp"
#include "zerotune/core/thread_pool.hpp"
#include "zerotune/policy/token_span.hpp"

namespace {

using llama::attention_backward_call;
using llama::attention_call;
using zerotune::index_t;
using zerotune::tensor_view;

constexpr index_t heads = 6, kv_heads = 2, dim = 20;

/// Rows of [heads, dim], as a projection leaves them.
struct rows {
  std::vector<float> values;
  index_t count, num_heads;

  rows(index_t count_, index_t num_heads_, unsigned seed)
      : values(static_cast<std::size_t>(count_ * num_heads_ * dim)),
        count(count_),
        num_heads(num_heads_) {
    std::mt19937 generator(seed);
    for (float& each : values) each = static_cast<float>(generator() >> 8) * 0x1p-22f - 2.0f;
  }
  template <class T = float>
  tensor_view<T, 4> view() {
    return {values.data(),
            {1, num_heads, count, dim},
            {count * num_heads * dim, dim, num_heads * dim, 1}};
  }
  double at(index_t head, index_t row, index_t d) const {
    return static_cast<double>(
        values[static_cast<std::size_t>((row * num_heads + head) * dim + d)]);
  }
};

struct scene {
  rows q, k, v, out;
  std::vector<float> lse, gammas;

  scene(index_t q_len, index_t kv_len)
      : q(q_len, heads, 1), k(kv_len, kv_heads, 2), v(kv_len, kv_heads, 3), out(q_len, heads, 4) {
    lse.resize(static_cast<std::size_t>(heads * q_len));
    gammas = {1.0f, 0.0f, 3.5f, 0.25f, 1.0f, 2.0f};
  }
  attention_call call() {
    return {.q = q.view<const float>(),
            .k = k.view<const float>(),
            .v = v.view<const float>(),
            .out = out.view(),
            .lse = {lse.data(), {1, heads, q.count}},
            .softmax_scale = 0.3f};
  }
  /// Weights of a query before normalisation, relative to their greatest logit, and that.
  std::pair<std::vector<double>, double> weights(index_t head, index_t query,
                                                 const std::vector<float>& gamma) const {
    const index_t seen = k.count - q.count + query + 1;
    std::vector<double> logits;
    for (index_t j = 0; j < seen; ++j) {
      double dot = 0;
      for (index_t d = 0; d < dim; ++d)
        dot += q.at(head, query, d) * k.at(head / (heads / kv_heads), j, d);
      logits.push_back(static_cast<double>(0.3f) * dot);
    }
    double largest = logits[0];
    for (const double each : logits) largest = std::max(largest, each);
    for (double& each : logits) each = std::exp(each - largest);
    // gamma = 0 and nothing else to see: as if it were 1.
    if (seen > 1 || gamma[static_cast<std::size_t>(head)] != 0)
      logits[0] *= static_cast<double>(gamma[static_cast<std::size_t>(head)]);
    return {logits, largest};
  }
  double loss(const std::vector<float>& gamma, const rows& d_out) const {
    double total = 0;
    for (index_t head = 0; head < heads; ++head)
      for (index_t i = 0; i < q.count; ++i) {
        const auto w = weights(head, i, gamma).first;
        double sum = 0;
        for (const double each : w) sum += each;
        for (index_t d = 0; d < dim; ++d)
          for (std::size_t j = 0; j < w.size(); ++j)
            total += d_out.at(head, i, d) * w[j] / sum *
                     v.at(head / (heads / kv_heads), static_cast<index_t>(j), d);
      }
    return total;
  }
};

// Twenty products of values up to 4 and an exponential in single precision.
constexpr double tolerance = 2e-5;

TEST(HostAttention, IsTheFormulaForAnyNumberOfQueries) {
  llama::attention_memory memory;
  for (const index_t past : {0, 1, 13, 64, 1100})
    for (const index_t q_len : {1, 2, 4, 5, 17, 64}) {
      scene s(q_len, past + q_len);
      const zerotune::initial_token sink{tensor_view<const float, 1>(s.gammas.data(), {heads})};
      llama::attend(s.call(), sink, memory, {});
      double worst = 0;
      for (index_t head = 0; head < heads; ++head)
        for (index_t i = 0; i < q_len; ++i) {
          const auto [w, largest] = s.weights(head, i, s.gammas);
          double sum = 0;
          for (const double each : w) sum += each;
          EXPECT_NEAR(static_cast<double>(s.lse[static_cast<std::size_t>(head * q_len + i)]),
                      largest + std::log(sum), tolerance);
          for (index_t d = 0; d < dim; ++d) {
            double expected = 0;
            for (std::size_t j = 0; j < w.size(); ++j)
              expected += w[j] / sum * s.v.at(head / 3, static_cast<index_t>(j), d);
            worst = std::max(worst, std::abs(s.out.at(head, i, d) - expected));
          }
        }
      EXPECT_LE(worst, tolerance) << past << " keys before, " << q_len << " queries, "
                                  << zerotune::name_of(llama::instruction_set());
    }
}

TEST(HostAttention, GammaOneAndIdentityAreTheSameBits) {
  llama::attention_memory memory;
  for (const index_t q_len : {1, 4, 5, 40}) {
    scene a(q_len, 50), b(q_len, 50);
    llama::attend(a.call(), zerotune::identity{}, memory, {});
    llama::attend(b.call(), zerotune::initial_token{1.0f}, memory, {});
    EXPECT_EQ(a.out.values, b.out.values);
    EXPECT_EQ(a.lse, b.lse);
  }
}

TEST(HostAttention, ThreadsChangeNothing) {
  llama::attention_memory memory;
  zerotune::thread_pool pool(3);
  for (const index_t q_len : {2, 150}) {
    scene a(q_len, 300), b(q_len, 300);
    const zerotune::initial_token sink{tensor_view<const float, 1>(a.gammas.data(), {heads})};
    llama::attend(a.call(), sink, memory, {});
    llama::attend(b.call(), sink, memory, pool);
    EXPECT_EQ(a.out.values, b.out.values);
    EXPECT_EQ(a.lse, b.lse);
  }
}

TEST(HostAttention, OtherModifiersRunToo) {
  llama::attention_memory memory;
  scene a(30, 40), b(30, 40);
  llama::attend(a.call(), zerotune::initial_token{2.0f}, memory, {});
  llama::attend(b.call(), zerotune::token_span({0, 1}, 2.0f), memory, {});
  for (std::size_t i = 0; i < a.out.values.size(); ++i)
    ASSERT_NEAR(static_cast<double>(a.out.values[i]), static_cast<double>(b.out.values[i]),
                tolerance);
}

TEST(HostAttention, RefusesGammasThatDoNotFit) {
  llama::attention_memory memory;
  scene s(3, 3);
  const tensor_view<const float, 1> five(s.gammas.data(), {5});
  EXPECT_THROW(llama::attend(s.call(), zerotune::initial_token{five}, memory, {}),
               zerotune::invalid_argument);
  EXPECT_THROW(llama::attend(s.call(), zerotune::initial_token{-1.0f}, memory, {}),
               zerotune::invalid_argument);
}

TEST(HostAttention, LogGammaGradientsAreCentralDifferences) {
  llama::attention_memory memory;
  for (const auto& [q_len, kv_len] : {std::pair<index_t, index_t>{1, 30}, {4, 4}, {33, 90}}) {
    scene s(q_len, kv_len);
    s.gammas[1] = 0.5f;
    const zerotune::initial_token sink{tensor_view<const float, 1>(s.gammas.data(), {heads})};
    llama::attend(s.call(), sink, memory, {});
    rows d_out(q_len, heads, 5), d_q(q_len, heads, 6), d_k(kv_len, kv_heads, 7),
        d_v(kv_len, kv_heads, 8);
    std::vector<double> d_log_gamma(heads), threaded(heads);
    attention_backward_call call{.forward = s.call(),
                                 .d_out = d_out.view<const float>(),
                                 .d_q = d_q.view(),
                                 .d_k = d_k.view(),
                                 .d_v = d_v.view(),
                                 .d_log_gamma = d_log_gamma.data()};
    llama::attend_backward(call, sink, memory, {});
    for (std::size_t head = 0; head < heads; ++head) {
      constexpr float step = 1e-2f;
      std::vector<float> above = s.gammas, below = s.gammas;
      above[head] *= std::exp(step);
      below[head] *= std::exp(-step);
      const double slope =
          (s.loss(above, d_out) - s.loss(below, d_out)) / (2 * static_cast<double>(step));
      EXPECT_NEAR(d_log_gamma[head], slope, 2e-4 * (1 + std::abs(slope)) * std::sqrt(q_len))
          << q_len << " of " << kv_len << " head " << head;
    }
    zerotune::thread_pool pool(2);
    call.d_log_gamma = threaded.data();
    const std::vector<float> before = d_k.values;
    llama::attend_backward(call, sink, memory, pool);
    EXPECT_EQ(d_log_gamma, threaded);
    EXPECT_EQ(before, d_k.values);
  }
}

}  // namespace
