// SPDX-License-Identifier: Apache-2.0
// Every form as one call with the same inputs, for tests that hold for all forms of a back end.
#pragma once

#include <string>
#include <vector>

#include "support/scene.hpp"
#include "zerotune/apply/attention.hpp"
#include "zerotune/apply/keys.hpp"
#include "zerotune/apply/logits.hpp"
#include "zerotune/apply/mask.hpp"
#include "zerotune/apply/output.hpp"
#include "zerotune/apply/weights.hpp"

namespace test {

/// Tensors of every form, and a call of each. What a form writes is in `written(form)`.
template <class Backend, class T>
struct forms {
  using acc = zerotune::accumulator_t<T>;
  static constexpr bool has_attention =
      zerotune::impl::has_kernel<Backend, zerotune::form::attention, T>;

  scene s;
  inputs<T> in;
  tensor<T> out, square, corrected;
  tensor<acc, 3> lse;
  tensor<T, 3> mass;

  forms(const scene& scene_of, std::uint64_t seed, layout order = layout::contiguous)
      : s(scene_of),
        in(s, seed, order),
        out({s.batch, s.num_heads, s.q_len, s.value_dim}, order),
        square({s.batch, s.num_heads, s.q_len, s.kv_len}, order),
        corrected({s.batch, s.num_heads, s.q_len, s.value_dim}, order),
        lse({s.batch, s.num_heads, s.q_len}),
        mass({s.batch, s.num_heads, s.q_len}) {}

  static constexpr const char* names[] = {"weights", "logits",         "mask",
                                          "output",  "output_by_mass", "attention"};
  static constexpr int count = has_attention ? 6 : 5;

  /// Gives the tensors that are changed in place the values of the unmodified attention.
  void start(int form) {
    scene plain = s;
    plain.gammas.assign(plain.gammas.size(), 1.0f);
    const oracle::result r = oracle::attend(in.problem(plain));
    out.fill(0), square.fill(0), lse.fill(0);
    corrected.set(r.out);
    if (form == 0) square.set(r.weights);
    if (form == 1) square.randomise(5, -4, 4);
    if (form == 3) lse.set(r.lse);
    if (form == 4)
      for (index_t row = 0; row < mass.size(); ++row)
        mass.at(row) = from_double<T>(r.weights[static_cast<std::size_t>(
            row * s.kv_len + s.initial(row / s.q_len / s.num_heads))]);
  }
  template <class Modifier, class Executor = zerotune::serial_executor>
  void call(int form, const Modifier& m, Executor&& executor = {}) {
    const auto where = s.template options<zerotune::sequence_options>();
    auto how = s.template options<zerotune::output_options>();
    how.softmax_scale = s.scale;
    const Backend backend{};
    if (form == 0) zerotune::rescale_weights(backend, square.view(), m, where, executor);
    if (form == 1) zerotune::bias_logits(backend, square.view(), m, where, executor);
    if (form == 2) zerotune::fill_mask(backend, square.view(), m, where, executor);
    if (form == 3)
      zerotune::correct_output(backend, corrected.view(), lse.view(), in.q.const_view(),
                               in.k.const_view(), in.v.const_view(), m, how, executor);
    if (form == 4)
      zerotune::correct_output_by_mass(backend, corrected.view(), mass.const_view(),
                                       in.v.const_view(), m, how, executor);
    if constexpr (has_attention)
      if (form == 5) {
        auto options = s.template options<zerotune::attention_options<acc>>();
        options.softmax_scale = static_cast<acc>(s.scale);
        options.lse = lse.view();
        zerotune::attention(backend, in.q.const_view(), in.k.const_view(), in.v.const_view(),
                            out.view(), m, options, executor);
      }
  }
  /// Everything that a form could write, gaps included, as bytes.
  std::vector<unsigned char> memory() const {
    std::vector<unsigned char> bytes;
    const auto add = [&](const auto& values) {
      const auto* const first = reinterpret_cast<const unsigned char*>(values.data());
      bytes.insert(bytes.end(), first, first + values.size() * sizeof(values[0]));
    };
    add(out.storage()), add(square.storage()), add(corrected.storage()), add(lse.storage());
    return bytes;
  }
};

}  // namespace test
