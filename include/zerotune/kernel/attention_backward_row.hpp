// SPDX-License-Identifier: Apache-2.0
// The backward pass of attention on one row (layer: kernel): weights from the LSE of the row, and
// dL/dl_j = a_j (<dL/do, v_j> - <dL/do, o>). docs/mathematics.md, section 8.
#pragma once

#include <cmath>

#include "zerotune/kernel/attention_backward_products.hpp"
#include "zerotune/kernel/attention_row.hpp"
#include "zerotune/policy/compose.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Numbers and their derivatives by the logit: what a transform is called with, as if it were a
/// batch, so that a modifier has nothing to declare. Value is a real number or a batch of them. Has
/// arithmetic, comparisons with select, and the functions below by argument-dependent lookup.
template <class Value>
struct dual {
  using value_type = value_of<Value>;
  Value value, slope;

  dual(value_type x) : value(x), slope(value_type(0)) {}
  dual(Value x) requires(!std::is_same_v<Value, value_type>) : value(x), slope(value_type(0)) {}
  dual(Value x, Value dx) : value(x), slope(dx) {}

  friend dual operator-(dual a) { return {-a.value, -a.slope}; }
  friend dual operator+(dual a, dual b) { return {a.value + b.value, a.slope + b.slope}; }
  friend dual operator-(dual a, dual b) { return {a.value - b.value, a.slope - b.slope}; }
  friend dual operator*(dual a, dual b) {
    return {a.value * b.value, a.slope * b.value + a.value * b.slope};
  }
  friend dual operator/(dual a, dual b) {
    const Value ratio = a.value / b.value;
    return {ratio, (a.slope - ratio * b.slope) / b.value};
  }
  dual& operator+=(dual b) { return *this = *this + b; }
  dual& operator-=(dual b) { return *this = *this - b; }
  dual& operator*=(dual b) { return *this = *this * b; }
  dual& operator/=(dual b) { return *this = *this / b; }
  friend auto operator<(dual a, dual b) { return a.value < b.value; }
  friend auto operator>(dual a, dual b) { return a.value > b.value; }
  friend auto operator<=(dual a, dual b) { return a.value <= b.value; }
  friend auto operator>=(dual a, dual b) { return a.value >= b.value; }
  friend auto operator==(dual a, dual b) { return a.value == b.value; }
  friend auto operator!=(dual a, dual b) { return a.value != b.value; }
  template <class Mask>
    requires(!std::is_same_v<Mask, bool>)
  friend dual select(const Mask& condition, dual a, dual b) {
    using zerotune::select;
    return {select(condition, a.value, b.value), select(condition, a.slope, b.slope)};
  }

  friend dual tanh(dual a) {
    const Value t = tanh_of(a.value);
    return {t, a.slope * (Value(value_type(1)) - t * t)};
  }
  friend dual exp(dual a) {
    using std::exp;
    const Value e = exp(a.value);
    return {e, a.slope * e};
  }
  friend dual log(dual a) {
    using std::log;
    return {log(a.value), a.slope / a.value};
  }
  friend dual sqrt(dual a) {
    using std::sqrt;
    const Value root = sqrt(a.value);
    return {root, a.slope / (root + root)};
  }
  friend dual abs(dual a) { return select(a.value < Value(value_type(0)), -a, a); }
  friend dual min(dual a, dual b) { return select(b.value < a.value, b, a); }
  friend dual max(dual a, dual b) { return select(a.value < b.value, b, a); }
};

/// Can every transform of the modifier be called with X?
template <class M, class X>
struct transforms {
  static constexpr bool value = bias_modifier<M> || requires(const M& m, row r, X x) {
    X(m.transform_logit(r, x, x));
  };
};
template <class First, class Second, class X>
struct transforms<composition<First, Second>, X> {
  static constexpr bool value = transforms<First, X>::value && transforms<Second, X>::value;
};

/// Can every bias of the modifier be called with a batch? One written for float and double alone
/// cannot.
template <class M, class X>
struct biases_take {
  static constexpr bool value = !bias_modifier<M> || requires(const M& m, row r, X x) {
    { m.log_bias(r, x) } -> std::same_as<X>;
  };
};
template <class First, class Second, class X>
struct biases_take<composition<First, Second>, X> {
  static constexpr bool value = biases_take<First, X>::value && biases_take<Second, X>::value;
};

/// A modifier that the backward pass can differentiate: a bias, or a transform that is written for
/// any batch type.
template <class M, class Acc>
concept differentiable = transforms<M, dual<Acc>>::value;

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

/// [heads, length, columns] of any element type, read as accumulators.
template <class Acc>
struct row_source {
  const void* data;
  index_t head, row, column;  // strides
  const Acc* direct;          // the data, if they are accumulators side by side; else null
  void (*add)(const void* data, index_t offset, index_t stride, Acc factor, Acc* to,
              index_t count) noexcept;
};

template <class Backend, element T>
void add_row(const void* data, index_t offset, index_t stride, accumulator_t<T> factor,
             accumulator_t<T>* to, index_t count) noexcept {
  row_ops<Backend, T>::axpy(factor, static_cast<const T*>(data) + offset, stride, to, count);
}

/// The same, to write.
template <class Acc>
struct row_sink {
  void* data;
  index_t head, row, column;
  void (*store)(const Acc* from, Acc factor, void* data, index_t offset, index_t stride,
                index_t count) noexcept;
};

template <class Backend, element T>
void store_row(const accumulator_t<T>* from, accumulator_t<T> factor, void* data, index_t offset,
               index_t stride, index_t count) noexcept {
  row_ops<Backend, T>::store(from, factor, static_cast<T*>(data) + offset, stride, count);
}

template <class Acc>
void clear(Acc* x, index_t count) {
  for (index_t i = 0; i < count; ++i) x[i] = 0;
}

/// Reads one row, padded with zeros. What is not finite becomes 0: the rows that see it are NaN
/// through their LSE, delta or weights, and 0 * NaN would spread it to those that do not.
template <class Acc>
void read_row(const row_source<Acc>& from, index_t head, index_t index, Acc factor, Acc* to,
              index_t count, index_t width) noexcept {
  clear(to, width);
  from.add(from.data, head * from.head + index * from.row, from.column, factor, to, count);
  if (!all_finite(to, count))
    for (index_t i = 0; i < count; ++i) to[i] = is_finite(to[i]) ? to[i] : Acc(0);
}

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

/// Applies a modifier with transforms to the products of the keys `changed`, from `begin` on, as
/// modify_scores does; `slopes` receives the derivatives. Returns the first key that it left.
template <class Value, class Acc, logit_modifier M>
ZEROTUNE_ALWAYS_INLINE index_t transform_logits(const M& m, const backward_row<Acc>& b,
                                                index_t begin, range changed, Acc* logits,
                                                Acc* slopes) {
  using zerotune::select;
  constexpr index_t step = sizeof(Value) / sizeof(Acc);
  for (; begin + step <= changed.end; begin += step) {
    Value position, logit, bias;
    if constexpr (step == 1) {
      position = static_cast<Acc>(begin);
      logit = logits[begin - changed.begin];
      bias = static_cast<Acc>(bias_part(m, b.at, static_cast<double>(begin)));
    } else {
      Acc positions[step];
      for (index_t i = 0; i < step; ++i) positions[i] = static_cast<Acc>(begin + i);
      position = Value::load_unaligned(positions);
      logit = Value::load_unaligned(logits + (begin - changed.begin));
      bias = bias_part(m, b.at, position);
    }
    const Value zero(Acc(0));
    const auto masked = bias <= Value(mask_threshold<Acc>);
    if (b.ignores_zero) bias = select(bias <= Value(zero_threshold<Acc>), zero, bias);
    const dual<Value> transformed =
        transform_part(m, b.at, dual<Value>(position), dual<Value>(logit, Value(Acc(1))));
    const Value modified = select(masked, Value(mask_bias<Acc>()), transformed.value + bias);
    if constexpr (step == 1) {
      logits[begin - changed.begin] = modified;
      slopes[begin - changed.begin] = transformed.slope;
    } else {
      modified.store_unaligned(logits + (begin - changed.begin));
      transformed.slope.store_unaligned(slopes + (begin - changed.begin));
    }
  }
  return begin;
}

/// The modifier on the products of one row; hidden keys get mask_bias.
template <class Backend, class Acc, logit_modifier M>
void backward_modify(const M& m, const backward_row<Acc>& b, Acc* logits, Acc* slopes) noexcept {
  if constexpr (!bias_modifier<M>)
    for (index_t i = 0; i < b.keys; ++i) slopes[i] = Acc(1);
  if (b.effect != tile_effect::apply) return;
  const range changed = intersect(changed_keys(m, b.at), b.seen);
  if (changed.empty()) return;
  logits += changed.begin - b.first_key;
  if constexpr (bias_modifier<M>) {
    Acc poison = 0;  // the LSE holds it
    modify_scores<Backend>(m, b.at, changed, b.ignores_zero, logits, &poison);
  } else {
    slopes += changed.begin - b.first_key;
    index_t begin = changed.begin;
    if constexpr (has_batch<Backend, Acc>) {
      using batch = typename row_ops<Backend, Acc>::batch;
      constexpr index_t bound = index_t{1} << 24;  // positions that a float holds
      if constexpr (transforms<M, dual<batch>>::value && biases_take<M, batch>::value)
        if (const index_t q_pos = b.at.q_pos;
            changed.end <= bound && range{-bound, bound}.contains(q_pos))
          begin = transform_logits<batch>(m, b, begin, changed, logits, slopes);
    }
    transform_logits<Acc>(m, b, begin, changed, logits, slopes);
  }
}

/// Turns products softmax_scale <q, k_j> into weights a_j = exp(l_j - L), 0 where the row does not
/// see the key. `slopes` receives the derivative of the transforms where the modifier has any. An
/// LSE that is not finite makes the row NaN.
template <class Backend, class Acc, logit_modifier M>
void backward_weights(const backward_row<Acc>& b, const M& m, Acc* weights, Acc* slopes) noexcept {
  const index_t begin = b.seen.begin - b.first_key, end = b.seen.end - b.first_key;
  backward_modify<Backend>(m, b, weights, slopes);
  if (is_finite(b.lse)) {
    // The products may differ from the forward pass's in their last bits: no weight above 1.
    if constexpr (requires { row_ops<Backend, Acc>::exp_bounded(weights, b.lse, end); }) {
      row_ops<Backend, Acc>::exp_bounded(weights + begin, b.lse, end - begin);
    } else {
      for (index_t i = begin; i < end; ++i) weights[i] = weights[i] < b.lse ? weights[i] : b.lse;
      row_ops<Backend, Acc>::exp_and_sum(weights + begin, b.lse, end - begin);
    }
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
