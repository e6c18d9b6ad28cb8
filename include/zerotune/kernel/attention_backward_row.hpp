// SPDX-License-Identifier: Apache-2.0
// The backward pass of attention on one row (layer: kernel): weights from the LSE of the row, and
// dL/dl_j = a_j (<dL/do, v_j> - <dL/do, o>). docs/mathematics.md, section 2.
#pragma once

#include "zerotune/kernel/geometry.hpp"
#include "zerotune/kernel/kernel.hpp"
#include "zerotune/policy/concepts.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// A number and its derivative by the logit: what a transform is called with, as if it were a
/// batch of one lane, so that a modifier has nothing to declare. Has what a batch has: arithmetic,
/// comparisons for select, and the functions below by argument-dependent lookup.
template <class Real>
struct dual {
  using value_type = Real;
  Real value, slope;

  constexpr dual(Real x) : value(x), slope(0) {}
  constexpr dual(Real x, Real dx) : value(x), slope(dx) {}

  friend constexpr dual operator-(dual a) { return {-a.value, -a.slope}; }
  friend constexpr dual operator+(dual a, dual b) { return {a.value + b.value, a.slope + b.slope}; }
  friend constexpr dual operator-(dual a, dual b) { return {a.value - b.value, a.slope - b.slope}; }
  friend constexpr dual operator*(dual a, dual b) {
    return {a.value * b.value, a.slope * b.value + a.value * b.slope};
  }
  friend constexpr dual operator/(dual a, dual b) {
    const Real ratio = a.value / b.value;
    return {ratio, (a.slope - ratio * b.slope) / b.value};
  }
  constexpr dual& operator+=(dual b) { return *this = *this + b; }
  constexpr dual& operator-=(dual b) { return *this = *this - b; }
  constexpr dual& operator*=(dual b) { return *this = *this * b; }
  constexpr dual& operator/=(dual b) { return *this = *this / b; }
  friend constexpr bool operator<(dual a, dual b) { return a.value < b.value; }
  friend constexpr bool operator>(dual a, dual b) { return a.value > b.value; }
  friend constexpr bool operator<=(dual a, dual b) { return a.value <= b.value; }
  friend constexpr bool operator>=(dual a, dual b) { return a.value >= b.value; }
  friend constexpr bool operator==(dual a, dual b) { return a.value == b.value; }
  friend constexpr bool operator!=(dual a, dual b) { return a.value != b.value; }

  friend dual tanh(dual a) {
    const Real t = tanh_of(a.value);
    return {t, a.slope * (Real(1) - t * t)};
  }
  friend dual exp(dual a) {
    const Real e = exp_of(a.value);
    return {e, a.slope * e};
  }
  friend dual log(dual a) { return {log_of(a.value), a.slope / a.value}; }
  friend dual sqrt(dual a) {
    const Real root = exp_of(Real(0.5) * log_of(a.value));
    return {root, Real(0.5) * a.slope / root};
  }
  friend constexpr dual abs(dual a) { return a.value < Real(0) ? -a : a; }
  friend constexpr dual min(dual a, dual b) { return b.value < a.value ? b : a; }
  friend constexpr dual max(dual a, dual b) { return a.value < b.value ? b : a; }
};

/// A modifier that the backward pass can differentiate: a bias, or a transform that is written for
/// any batch type. (A composition is looked into when it is called.)
template <class M, class Acc>
concept differentiable = bias_modifier<M> || requires(const M& m, row r, dual<Acc> x) {
  m.transform_part(r, x, x);
} || requires(const M& m, row r, dual<Acc> x) {
  dual<Acc>(m.transform_logit(r, x, x));
};

/// The biases of a modifier without its transforms.
template <logit_modifier M>
struct biases_alone {
  const M* modifier;
  template <class Batch>
  Batch log_bias(row r, Batch kv_pos) const {
    return bias_part(*modifier, r, kv_pos);
  }
  range support(row r) const { return changed_keys(*modifier, r); }
  tile_effect effect(head_of head, range q, range kv) const {
    return modifier->effect(head, q, kv);
  }
};

/// True if the row's gammas of 0 exclude all that it sees, so that it counts as unmodified.
template <logit_modifier M>
bool ignores_zero_gamma(const M& m, row r, range seen) {
  return sees_only_excluded(biases_alone<M>{&m}, r, seen);
}

/// An integer test that vectorises and holds under -ffast-math.
inline bool all_finite(const float* x, index_t count) {
  std::uint32_t any = 0;
  for (index_t i = 0; i < count; ++i) any |= static_cast<std::uint32_t>(!is_finite(x[i]));
  return any == 0;
}
inline bool all_finite(const double* x, index_t count) {
  std::uint32_t any = 0;
  for (index_t i = 0; i < count; ++i) any |= static_cast<std::uint32_t>(!is_finite(x[i]));
  return any == 0;
}

/// The LSE of a row that sees nothing: integer tests as well.
inline bool is_minus_infinity(float x) {
  return __builtin_bit_cast(std::uint32_t, x) == 0xff800000u;
}
inline bool is_minus_infinity(double x) {
  return __builtin_bit_cast(std::uint64_t, x) == 0xfff0000000000000ull;
}

/// NaN that -ffast-math does not fold away.
inline float not_a_number(float) { return __builtin_bit_cast(float, 0x7fc00000u); }
inline double not_a_number(double) { return __builtin_bit_cast(double, 0x7ff8000000000000ull); }

/// One row of a tile on its way from products to weights to dL/dl. Pointers stand at the first key
/// of the tile, whose position is `first_key`.
template <class Acc>
struct backward_row {
  row at;
  range seen;  // the keys of the tile that the row sees
  index_t first_key;
  index_t keys;    // width of the tile
  Acc lse, delta;  // delta = <dL/do, o>
  tile_effect effect;
  bool ignores_zero;  // ignores_zero_gamma of the row
};

/// Turns products softmax_scale <q, k_j> into weights a_j = exp(l_j - L), 0 where the row does not
/// see the key. `slopes` receives the derivative of the transforms where the modifier has any. An
/// LSE that is not finite makes the row NaN.
template <class Backend, class Acc, logit_modifier M>
void backward_weights(const backward_row<Acc>& b, const M& m, Acc* weights, Acc* slopes) noexcept {
  const index_t begin = b.seen.begin - b.first_key, end = b.seen.end - b.first_key;
  if constexpr (!bias_modifier<M>)
    for (index_t i = 0; i < b.keys; ++i) slopes[i] = Acc(1);
  if (b.effect == tile_effect::apply) {
    const range changed = intersect(changed_keys(m, b.at), b.seen);
    for (index_t j = changed.begin; j < changed.end; ++j) {
      Acc& logit = weights[j - b.first_key];
      Acc bias = static_cast<Acc>(bias_part(m, b.at, static_cast<double>(j)));
      if (is_masked(bias)) {
        logit = mask_bias<Acc>();
        continue;
      }
      if (b.ignores_zero && is_zero_gamma(bias)) bias = 0;
      if constexpr (!bias_modifier<M>) {
        const dual<Acc> transformed =
            transform_part(m, b.at, dual<Acc>(static_cast<Acc>(j)), dual<Acc>(logit, Acc(1)));
        logit = transformed.value;
        slopes[j - b.first_key] = transformed.slope;
      }
      logit += bias;
    }
  }
  if (is_finite(b.lse)) {
    // The products may differ from the forward pass's in their last bits: no weight above 1.
    for (index_t i = begin; i < end; ++i) weights[i] = weights[i] < b.lse ? weights[i] : b.lse;
    row_ops<Backend, Acc>::exp_and_sum(weights + begin, b.lse, end - begin);
  } else {
    for (index_t i = begin; i < end; ++i)
      weights[i] = is_masked(weights[i]) ? Acc(0) : not_a_number(Acc{});
  }
  for (index_t i = 0; i < begin; ++i) weights[i] = 0;
  for (index_t i = end; i < b.keys; ++i) weights[i] = 0;
}

/// Turns <dL/do, v_j> into dL/dl_j, in place. A weight of 0 gives 0 whatever the value holds.
template <class Acc>
void backward_logits(const backward_row<Acc>& b, const Acc* weights, Acc* logits) noexcept {
  for (index_t i = 0; i < b.keys; ++i) {
    const Acc gradient = weights[i] * (logits[i] - b.delta);
    logits[i] = weights[i] != Acc(0) ? gradient : Acc(0);
  }
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
