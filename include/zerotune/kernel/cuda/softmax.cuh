// SPDX-License-Identifier: Apache-2.0
// Fused softmax with any modifier (layer: kernel): one block per row, an online maximum and sum on
// the way in (arXiv 1805.02867), weights on the way out; the row is read twice, no length limit.
#pragma once

#include "zerotune/kernel/cuda/elementwise.cuh"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace cuda {

template <element T, logit_modifier Modifier>
struct softmax_arguments {
  device_tensor<const T> logits;
  device_tensor<T> weights;  // may be the logits
  device_rows<float> lse;
  device_geometry geometry;
  Modifier modifier;
};

/// Maximum and sum of exp(x - maximum) of some logits.
struct softmax_state {
  float maximum = lowest;
  float sum = 0;

  /// One logit; an infinite one or NaN makes the sum NaN.
  ZEROTUNE_HOST_DEVICE void add(float x) {
    const bool grows = x > maximum;
    const float e = impl::exp_of(grows ? maximum - x : x - maximum);
    sum = (grows ? sum * e + 1.0f : sum + e) + x * 0.0f;
    maximum = grows ? x : maximum;
  }
  ZEROTUNE_HOST_DEVICE void merge(softmax_state other) {
    const float greater = other.maximum > maximum ? other.maximum : maximum;
    sum = sum * impl::exp_of(maximum - greater) + other.sum * impl::exp_of(other.maximum - greater);
    maximum = greater;
  }
};

/// weights = softmax(modified logits); hidden keys get 0, a row that sees nothing zeros and LSE
/// -inf. Vector: rows are contiguous, 16-byte aligned and a multiple of 16 bytes apart.
template <element T, logit_modifier Modifier, bool Vector>
struct softmax_kernel {
  using arguments = softmax_arguments<T, Modifier>;
  static constexpr const char* name = "softmax";
  static constexpr int threads = 256;
  static constexpr int min_blocks = 4;
  static constexpr index_t shared_bytes = 2 * (threads / warp_size) * index_t{sizeof(float)};

  template <context Context>
  ZEROTUNE_HOST_DEVICE static void run(Context& c, const arguments& a) {
    float* const maxima = c.template shared<float>(c.warps());
    float* const sums = c.template shared<float>(c.warps());
    const attention_shape& shape = a.geometry.shape;
    const index_t q = c.block() % shape.q_len, h = c.block() / shape.q_len % shape.num_heads;
    const index_t b = c.block() / shape.q_len / shape.num_heads;
    const device_sequence s = a.geometry.of(b);
    const row r{b, static_cast<int>(h), s.q_start + q};
    row_view view = view_row(a.modifier, r, s.kv_length);
    const bool alone = leaves_alone(a.modifier, view);
    if (alone) view.changed = range{};

    softmax_state total = reduce(c, a, view, b, h, q, maxima, sums);
    if (total.maximum > lowest && total.maximum <= impl::zero_threshold<float> &&
        !view.keep_excluded) {  // the host's own mask has hidden what gamma = 0 left
      view.keep_excluded = true;
      total = reduce(c, a, view, b, h, q, maxima, sums);
    }
    const bool none = total.maximum == lowest;
    const float inverse = none ? 0.0f : 1.0f / total.sum;
    T* const weights = a.weights.at(b, h, q);
    const T* const logits = a.logits.at(b, h, q);
    for_each_packet(c, shape.kv_len, [&](index_t j, auto size) {
      constexpr int count = decltype(size)::value;
      T in[count] = {}, out[count];
      if (j < view.seen.end && j + count > view.seen.begin) read<count>(c, logits, a, j, view, in);
#pragma unroll
      for (int i = 0; i < count; ++i) {
        float x = lowest;
        const bool seen = view.seen.contains(j + i) && modified(c, a, view, j + i, in[i], &x);
        out[i] = c.template round<T>(seen ? impl::exp_of(x - total.maximum) * inverse : 0.0f);
      }
      if constexpr (count > 1) {
        packet<T> p;
#pragma unroll
        for (int i = 0; i < count; ++i) p.values[i] = out[i];
        c.store(reinterpret_cast<packet<T>*>(weights + j), p);
      } else {
        weights[j * a.weights.column] = out[0];
      }
    });
    if (c.thread() == 0 && a.lse.data)
      *a.lse.at(b, h, q) =
          none ? impl::minus_infinity(0.0f) : total.maximum + impl::log_of(total.sum);
  }

 private:
  template <int Count>
  struct size_constant {
    static constexpr int value = Count;
  };

  /// Calls body(first key, number of keys) for this thread's share of the row.
  template <context Context, class Body>
  ZEROTUNE_HOST_DEVICE static void for_each_packet(Context& c, index_t kv_len, const Body& body) {
    if constexpr (Vector) {
      constexpr int count = packet<T>::count;
      for (index_t j = c.thread() * count; j < kv_len; j += c.threads() * count)
        body(j, size_constant<count>{});
    } else {
      for (index_t j = c.thread(); j < kv_len; j += c.threads()) body(j, size_constant<1>{});
    }
  }

  /// Reads the logits of a packet; single ones where the packet reaches beyond what is seen.
  template <int Count, context Context>
  ZEROTUNE_HOST_DEVICE static void read(Context& c, const T* logits, const arguments& a, index_t j,
                                        const row_view& view, T (&in)[Count]) {
    if constexpr (Count > 1) {
      if (view.seen.begin <= j && j + Count <= view.seen.end) {
        const packet<T> p = c.load(reinterpret_cast<const packet<T>*>(logits + j));
#pragma unroll
        for (int i = 0; i < Count; ++i) in[i] = p.values[i];
        return;
      }
    }
#pragma unroll
    for (int i = 0; i < Count; ++i)
      in[i] = view.seen.contains(j + i) ? logits[(j + i) * a.logits.column] : T(0.0f);
  }

  /// The modified logit of a seen key; false if it is hidden.
  template <context Context>
  ZEROTUNE_HOST_DEVICE static bool modified(Context& c, const arguments& a, const row_view& view,
                                            index_t j, T logit, float* x) {
    *x = c.to_float(logit);
    if (is_hidden_logit<T>(*x)) return false;
    if (!view.changed.contains(j)) return true;
    float bias = impl::bias_part(a.modifier, view.r, position(j));
    if (hides(bias)) return false;
    if (view.keep_excluded && excludes(bias)) bias = 0.0f;
    *x = impl::transform_part(a.modifier, view.r, position(j), *x) + bias;
    return true;
  }

  /// Maximum and sum of the whole row, the same in every thread.
  template <context Context>
  ZEROTUNE_HOST_DEVICE static softmax_state reduce(Context& c, const arguments& a,
                                                   const row_view& view, index_t b, index_t h,
                                                   index_t q, float* maxima, float* sums) {
    softmax_state state;
    const T* const logits = a.logits.at(b, h, q);
    for_each_packet(c, a.geometry.shape.kv_len, [&](index_t j, auto size) {
      constexpr int count = decltype(size)::value;
      if (j >= view.seen.end || j + count <= view.seen.begin) return;
      T in[count] = {};
      read<count>(c, logits, a, j, view, in);
#pragma unroll
      for (int i = 0; i < count; ++i) {
        float x = lowest;
        if (view.seen.contains(j + i) && modified(c, a, view, j + i, in[i], &x)) state.add(x);
      }
    });
#pragma unroll
    for (int mask = warp_size / 2; mask > 0; mask /= 2)
      state.merge({c.shuffle_xor(state.maximum, mask), c.shuffle_xor(state.sum, mask)});
    if (c.lane() == 0) {
      maxima[c.warp()] = state.maximum;
      sums[c.warp()] = state.sum;
    }
    c.barrier();
    softmax_state total;
    for (int i = 0; i < c.warps(); ++i) total.merge({maxima[i], sums[i]});
    c.barrier();  // both pieces may be written again
    return total;
  }
};

}  // namespace cuda
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
