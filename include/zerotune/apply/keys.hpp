// SPDX-License-Identifier: Apache-2.0
// The key forms (layer: apply): the augmented key (exact), the value indicator (exact) and the
// paper's scaled key (not exact). docs/mathematics.md, section 2.
#pragma once

#include "zerotune/apply/attention.hpp"
#include "zerotune/kernel/logits_row.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/key_scale.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

/// Coordinates that augmentation adds: one, or a high and a low part where the type is 16 bits
/// wide.
template <element T>
inline constexpr index_t augmented_columns = sizeof(T) == 2 ? 2 : 1;

namespace impl {

/// A copy of [batch, heads, length, dim] into the first dim columns of an output.
template <class From, class To, class Executor>
void copy_rows(const tensor_view<From, 4>& from, const tensor_view<To, 4>& to, Executor& executor) {
  const attention_shape shape{from.extent(0), from.extent(1), from.extent(2), 0};
  for_row_blocks(executor, shape, [&](index_t b, index_t h, index_t first, index_t last) {
    for (index_t i = first; i < last; ++i)
      for (index_t c = 0; c < from.extent(3); ++c) to(b, h, i, c) = from(b, h, i, c);
  });
}

/// The coordinate that stands for gamma = 0 where -1e30 / softmax_scale does not fit: it has to be
/// finite, since the keys meet it with zeros.
template <class T>
inline constexpr double least_coordinate = -1e38;
template <>
inline constexpr double least_coordinate<double> = -1e300;
template <>
inline constexpr double least_coordinate<float16> = -6e4;

template <class From, class To>
void check_augmented(const char* function, const char* name, const tensor_view<From, 4>& from,
                     const tensor_view<To, 4>& to, index_t extra) {
  call_tensors tensors(function);
  tensors.read(name, from);
  tensors.written("out", to);
  check_extent(function, "out", to, 0, "batch", from.extent(0));
  check_extent(function, "out", to, 1, "heads", from.extent(1));
  check_extent(function, "out", to, 2, "length", from.extent(2));
  if (from.extent(3) < 1)
    fail(function, std::string(name) + " dim 3 (head_dim)", "at least 1", "0");
  check_extent(function, "out", to, 3, "dim + extra columns", from.extent(3) + extra);
}

}  // namespace impl

/// Copies queries and gives each the coordinate log gamma / softmax_scale (split into a high and a
/// low part in 16-bit types), which meets the 1 that augment_key puts at the initial token.
///
/// @param q         [batch, num_heads, q_len, head_dim]
/// @param out       [batch, num_heads, q_len, head_dim + augmented_columns<T>]
/// @param modifier  a bias on one key per row; with the host's masks (causal{} | initial_token{g})
///                  rows that see nothing else than a token with gamma = 0 are left as they were
/// @param kv_len    number of keys of the call
/// @param softmax_scale  the scale that the host will use: give it to the host explicitly, its
///                  default would be 1/sqrt(head_dim + extra)
/// @throws invalid_argument for what does not fit, before anything is written; also where
///         log gamma / softmax_scale leaves the range of the element type
/// Exact if the host does not softcap. Costs one more column (two in 16 bits) of q and k.
template <class Q, element T, bias_modifier Modifier,
          impl::executor_reference Executor = serial_executor>
  requires std::same_as<impl::plain<Q>, T>
void augment_query(const tensor_view<Q, 4>& q, const tensor_view<T, 4>& out,
                   const Modifier& modifier, index_t kv_len, double softmax_scale,
                   const sequence_options& options = {}, Executor&& executor = {}) {
  constexpr const char* function = "augment_query";
  impl::check_augmented(function, "q", q, out, augmented_columns<T>);
  if (kv_len < 0) impl::fail(function, "kv_len", "at least 0", std::to_string(kv_len));
  if (!impl::is_finite(softmax_scale) || !(softmax_scale > 0.0))
    impl::fail(function, "softmax_scale", "a finite value > 0", impl::number(softmax_scale));
  const attention_shape shape{q.extent(0), q.extent(1), q.extent(2), kv_len};
  const geometry g = impl::resolve(function, shape, options);
  check_modifier(modifier, function, shape);
  impl::check_single_key(function, modifier, g);
  const auto coordinate_of = [&](const row& r) {
    const range seen = impl::seen_keys(g, modifier, r);
    const range changed = intersect(changed_keys(modifier, r), seen);
    if (changed.empty() || impl::sees_only_excluded(modifier, r, seen)) return 0.0;
    const double bias = modifier.log_bias(r, static_cast<double>(changed.begin));
    const double coordinate = bias / softmax_scale;
    return impl::is_zero_gamma(bias) && coordinate < impl::least_coordinate<T>
               ? impl::least_coordinate<T>
               : coordinate;
  };
  for (index_t b = 0; b < shape.batch; ++b)
    for (index_t h = 0; h < shape.num_heads; ++h)
      for (index_t i = 0; i < shape.q_len; ++i) {
        const double coordinate = coordinate_of(g.at(b, h, i));
        const bool fits = std::abs(coordinate) <= -impl::least_coordinate<T>;
        const bool excludes = coordinate * softmax_scale < -1e3;
        if (!fits || (coordinate == impl::least_coordinate<T> && !excludes))
          impl::fail(function, "softmax_scale",
                     "log gamma / softmax_scale within the element type's range",
                     impl::number(softmax_scale));
      }
  impl::copy_rows(q, out, executor);
  using acc = accumulator_t<T>;
  impl::for_rows(executor, out, g, [&](T* data, const row& r) {
    const double coordinate = coordinate_of(r);
    T* const extra = data + q.extent(3) * out.stride(3);
    const T high = static_cast<T>(static_cast<acc>(coordinate));
    extra[0] = high;
    if constexpr (augmented_columns<T> == 2)
      extra[out.stride(3)] = static_cast<T>(
          static_cast<acc>(coordinate - static_cast<double>(static_cast<acc>(high))));
  });
}

/// Copies keys and gives each the coordinate 1 if it is its sequence's initial token, else 0.
///
/// @param k     [batch, num_kv_heads, kv_len, head_dim]
/// @param out   [batch, num_kv_heads, kv_len, head_dim + augmented_columns<T>]
/// @param sink  tells the initial token's position; its gammas are not used
/// @throws invalid_argument for what does not fit, before anything is written
template <class K, element T, impl::executor_reference Executor = serial_executor>
  requires std::same_as<impl::plain<K>, T>
void augment_key(const tensor_view<K, 4>& k, const tensor_view<T, 4>& out,
                 const initial_token& sink, Executor&& executor = {}) {
  constexpr const char* function = "augment_key";
  impl::check_augmented(function, "k", k, out, augmented_columns<T>);
  sink.check_positions(function, {k.extent(0), k.extent(1), 0, k.extent(2)});
  impl::copy_rows(k, out, executor);
  using acc = accumulator_t<T>;
  for (index_t b = 0; b < k.extent(0); ++b)
    for (index_t h = 0; h < k.extent(1); ++h)
      for (index_t j = 0; j < k.extent(2); ++j)
        for (index_t c = 0; c < augmented_columns<T>; ++c)
          out(b, h, j, k.extent(3) + c) = static_cast<T>(acc(j == sink.position(b) ? 1 : 0));
}

/// Copies values and gives each a last column, 1 at the initial token and 0 elsewhere: the extra
/// column of the attention's output is then the weight a_0 of each row, from any kernel. Together
/// with correct_output_by_mass it is a form for kernels without LSE.
///
/// @param v     [batch, num_kv_heads, kv_len, value_dim]
/// @param out   [batch, num_kv_heads, kv_len, value_dim + 1]
/// @param sink  tells the initial token's position; its gammas are not used
/// @throws invalid_argument for what does not fit, before anything is written
template <class V, element T, impl::executor_reference Executor = serial_executor>
  requires std::same_as<impl::plain<V>, T>
void augment_value(const tensor_view<V, 4>& v, const tensor_view<T, 4>& out,
                   const initial_token& sink, Executor&& executor = {}) {
  constexpr const char* function = "augment_value";
  impl::check_augmented(function, "v", v, out, 1);
  sink.check_positions(function, {v.extent(0), v.extent(1), 0, v.extent(2)});
  impl::copy_rows(v, out, executor);
  using acc = accumulator_t<T>;
  for (index_t b = 0; b < v.extent(0); ++b)
    for (index_t h = 0; h < v.extent(1); ++h)
      for (index_t j = 0; j < v.extent(2); ++j)
        out(b, h, j, v.extent(3)) = static_cast<T>(acc(j == sink.position(b) ? 1 : 0));
}

/// Multiplies the initial token's key by a factor, in place: the paper's form for fused kernels.
/// Not exact: see key_scale_spread and calibrate_key_scale (analysis/key_scale.hpp). Scale a
/// cached key once, not at every step.
///
/// @param k          [batch, num_kv_heads, kv_len, head_dim]
/// @param scale      factors per query head; all heads of a group share a key
/// @param num_heads  query heads; a multiple of num_kv_heads
/// @throws invalid_argument for what does not fit; also, by default, where the heads of a group
/// want
///         different factors
template <class Backend, element T>
void scale_keys(Backend, const tensor_view<T, 4>& k, const key_scale& scale, index_t num_heads) {
  impl::require_kernel<Backend, form::keys, T>();
  constexpr const char* function = "scale_keys";
  impl::check_output(function, "k", k);
  const index_t num_kv_heads = k.extent(1);
  if (num_kv_heads < 1 || num_heads < 1 || num_heads % num_kv_heads != 0)
    impl::fail(function, "num_heads",
               "a multiple of num_kv_heads = " + std::to_string(num_kv_heads),
               std::to_string(num_heads));
  if (scale.factors.data())
    impl::check_extent(function, "factors", scale.factors, 0, "num_heads", num_heads);
  for (index_t h = 0; h < num_heads; ++h)
    if (!impl::is_finite(scale.of(h)))
      impl::fail(function, "factors[" + std::to_string(h) + "]", "a finite value",
                 "NaN or infinity");
  impl::check_positions(function, scale.positions, k.extent(0), k.extent(2));
  const index_t group_size = num_heads / num_kv_heads;
  const auto group_factor = [&](index_t kv_head) {
    double sum = 0;
    for (index_t i = 0; i < group_size; ++i) sum += scale.of(kv_head * group_size + i);
    return sum / static_cast<double>(group_size);
  };
  if (scale.groups == mixed_groups::refuse)
    for (index_t h = 0; h < num_heads; ++h)
      if (scale.of(h) != scale.of(h / group_size * group_size))
        impl::fail(function, "factors[" + std::to_string(h) + "]",
                   "one factor for all heads of key-value head " + std::to_string(h / group_size),
                   "different factors (mixed_groups::mean applies their mean)");
  if (k.empty()) return;
  for (index_t b = 0; b < k.extent(0); ++b)
    for (index_t h = 0; h < num_kv_heads; ++h) {
      const double factor = group_factor(h);
      if (factor != 1.0)
        row_ops<Backend, T>::scale(k.pointer(b, h, scale.position(b), 0), k.stride(3), k.extent(3),
                                   static_cast<accumulator_t<T>>(factor));
    }
}
template <element T>
void scale_keys(const tensor_view<T, 4>& k, const key_scale& scale, index_t num_heads) {
  scale_keys(backend::scalar{}, k, scale, num_heads);
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
