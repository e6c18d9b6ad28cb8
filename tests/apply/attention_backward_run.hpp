// SPDX-License-Identifier: Apache-2.0
// One forward and one backward pass of the library on a scene.
#pragma once

#include <vector>

#include "support/scene.hpp"
#include "zerotune/apply/attention_backward.hpp"
#include "zerotune/core/thread_pool.hpp"

namespace test {

/// Tensors of a forward and a backward pass. Gradients start as NaN: they have to be overwritten.
template <class T>
struct backward_run {
  using acc = zerotune::accumulator_t<T>;
  scene s;
  inputs<T> in;
  tensor<T> out, d_out, d_q, d_k, d_v;
  tensor<acc, 3> lse;
  tensor<double, 2> d_log_gamma;

  backward_run(const scene& given, std::uint64_t seed, layout order = layout::contiguous,
               double spread = 1.5)
      : s(given),
        in(s, seed, order, spread),
        out({s.batch, s.num_heads, s.q_len, s.value_dim}, order),
        d_out({s.batch, s.num_heads, s.q_len, s.value_dim}, order),
        d_q({s.batch, s.num_heads, s.q_len, s.head_dim}, order),
        d_k({s.batch, s.num_kv_heads, s.kv_len, s.head_dim}, order),
        d_v({s.batch, s.num_kv_heads, s.kv_len, s.value_dim}, order),
        lse({s.batch, s.num_heads, s.q_len}, order),
        d_log_gamma({s.batch, s.num_heads}, order) {
    s.complete();
    d_out.randomise(seed + 3);
    const double nan = std::numeric_limits<double>::quiet_NaN();
    d_q.fill(nan), d_k.fill(nan), d_v.fill(nan), d_log_gamma.fill(nan);
  }

  template <class Backend, class Modifier>
  void forward(Backend backend, const Modifier& modifier) {
    auto options = s.template options<zerotune::attention_options<acc>>();
    options.softmax_scale = static_cast<acc>(s.scale);
    options.lse = lse.view();
    zerotune::attention(backend, in.q.view(), in.k.view(), in.v.view(), out.view(), modifier,
                        options);
  }

  zerotune::attention_backward_options<acc> backward_options() const {
    auto options = s.template options<zerotune::attention_backward_options<acc>>();
    options.softmax_scale = static_cast<acc>(s.scale);
    if (!s.positions.empty()) options.initial_positions = list_view(s.positions);
    return options;
  }

  template <class Backend, class Modifier, class Executor = zerotune::serial_executor>
  void backward(Backend backend, const Modifier& modifier, Executor&& executor = {}) {
    zerotune::attention_backward(backend, in.q.const_view(), in.k.const_view(), in.v.const_view(),
                                 out.const_view(), lse.const_view(), d_out.const_view(), d_q.view(),
                                 d_k.view(), d_v.view(), d_log_gamma.view(), modifier,
                                 backward_options(), executor);
  }

  template <class Backend, class Modifier>
  backward_run& both(Backend backend, const Modifier& modifier) {
    forward(backend, modifier);
    backward(backend, modifier);
    return *this;
  }

  oracle::problem problem() const { return in.problem(s); }
  bool same_gradients(const backward_run& other) const {
    return same_bits(d_q.elements(), other.d_q.elements()) &&
           same_bits(d_k.elements(), other.d_k.elements()) &&
           same_bits(d_v.elements(), other.d_v.elements()) &&
           same_bits(d_log_gamma.elements(), other.d_log_gamma.elements());
  }
};

}  // namespace test
