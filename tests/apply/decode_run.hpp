// SPDX-License-Identifier: Apache-2.0
// A scene through attention_decode, and what it is compared with.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/backends.hpp"
#include "support/scene.hpp"
#include "support/tolerance.hpp"
#include "zerotune/apply/attention.hpp"
#include "zerotune/apply/decode.hpp"
#if ZEROTUNE_TEST_SIMD
#include "zerotune/kernel/simd/decode.hpp"
#endif

namespace test {

/// Output and LSE of a call.
template <class T>
struct decoded {
  tensor<T> out;
  tensor<zerotune::accumulator_t<T>, 3> lse;

  explicit decoded(const scene& s, layout order = layout::contiguous)
      : out({s.batch, s.num_heads, s.q_len, s.value_dim}, order),
        lse({s.batch, s.num_heads, s.q_len}, layout::spread) {
    out.fill(77), lse.fill(77);  // every element is to be overwritten
  }
  bool same(const decoded& other) const {
    return same_bits(out.elements(), other.out.elements()) &&
           same_bits(lse.elements(), other.lse.elements());
  }
  /// The same for one query head of one sequence.
  bool same_head(const decoded& other, const scene& s, index_t b, index_t h) const {
    const auto part = [&](const auto& values, index_t width) {
      const auto begin = values.begin() + (b * s.num_heads + h) * s.q_len * width;
      return std::vector(begin, begin + s.q_len * width);
    };
    return same_bits(part(out.elements(), s.value_dim), part(other.out.elements(), s.value_dim)) &&
           same_bits(part(lse.elements(), 1), part(other.lse.elements(), 1));
  }
};

template <class Backend, class T, class K, class Modifier,
          class Executor = zerotune::serial_executor>
void decode_into(decoded<T>& to, const scene& s, zerotune::tensor_view<const T, 4> q, const K& k,
                 const K& v, const Modifier& m, Executor&& executor = {}) {
  auto options = s.template options<zerotune::decode_options<zerotune::accumulator_t<T>>>();
  options.softmax_scale = static_cast<zerotune::accumulator_t<T>>(s.scale);
  options.lse = to.lse.view();
  zerotune::attention_decode(Backend{}, q, k, v, to.out.view(), m, options, executor);
}

template <class Backend, class T, class Modifier, class Executor = zerotune::serial_executor>
decoded<T> decode(const scene& s, inputs<T>& in, const Modifier& m,
                  layout order = layout::contiguous, Executor&& executor = {}) {
  decoded<T> result(s, order);
  decode_into<Backend, T>(result, s, in.q.const_view(), in.k.const_view(), in.v.const_view(), m,
                          executor);
  return result;
}

inline std::string describe(const scene& s, layout order = layout::contiguous) {
  return "q_len " + std::to_string(s.q_len) + " kv_len " + std::to_string(s.kv_len) + " heads " +
         std::to_string(s.num_heads) + "/" + std::to_string(s.num_kv_heads) + " dims " +
         std::to_string(s.head_dim) + ", " + std::to_string(s.value_dim) + " layout " +
         std::to_string(static_cast<int>(order));
}

/// Within design.md's bound of the oracle.
template <class T>
void expect_close(const scene& s, const decoded<T>& got, const oracle::problem& problem,
                  layout order = layout::contiguous) {
  using acc = zerotune::accumulator_t<T>;
  const oracle::result expected = oracle::attend(problem);
  const oracle::result naive = naive_attention<T>(problem);
  EXPECT_TRUE(close<T>(got.out.dense(), expected.out, naive.out)) << describe(s, order);
  EXPECT_TRUE(close<acc>(got.lse.dense(), expected.lse, naive.lse)) << describe(s, order);
  EXPECT_TRUE(got.out.gaps_intact() && got.lse.gaps_intact()) << "wrote between its elements";
}

template <class Backend, class T, class Modifier>
void expect_decoded(const scene& s, const Modifier& m, layout order = layout::contiguous,
                    double spread = 1.5) {
  inputs<T> in(s, 17, order, spread);
  expect_close<T>(s, decode<Backend, T>(s, in, m, order), in.problem(s), order);
}

}  // namespace test
