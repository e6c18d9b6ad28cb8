// SPDX-License-Identifier: Apache-2.0
// Fused attention on one row (layer: kernel): the online softmax over blocks of keys, with any
// modifier; no row of kv_len numbers is kept. Milakov and Gimelshein, arXiv 1805.02867.
#pragma once

#include "zerotune/kernel/geometry.hpp"
#include "zerotune/kernel/kernel.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Keys that a step of the online softmax takes, and value columns that one pass accumulates; a
/// larger value_dim takes further passes over the keys.
inline constexpr index_t attention_block = 64;
inline constexpr index_t attention_columns = 256;

/// What a row of attention reads and writes; every pointer stands at the row's own (batch, head).
template <element Q, element KV, element Out>
struct attention_row_args {
  const Q* q;
  index_t q_stride;
  const KV* k;
  index_t k_row, k_stride;
  const KV* v;
  index_t v_row, v_stride;
  Out* out;
  index_t out_stride;
  accumulator_t<KV>* lse;  // or null
  index_t head_dim, value_dim;
  accumulator_t<KV> softmax_scale;
  accumulator_t<KV>* sink_mass = nullptr;  // receives the weight of the key `sink`, or null
  index_t sink = 0;
};

/// Running maximum and sum of a row; `poison` is NaN once a visible query-key product was not
/// finite, else 0.
template <class Acc>
struct online_softmax {
  Acc maximum = lowest_value<Acc>();
  Acc sum = 0;
  Acc poison = 0;
  index_t count = 0;
  Acc sink = mask_bias<Acc>();  // the modified logit of the key whose weight is asked for
};

/// The weight of a key from its modified logit. A sum of NaN makes it NaN.
template <class Acc>
Acc weight_of(Acc logit, Acc maximum, Acc sum) {
  return (is_masked(logit) ? Acc(0) : exp_of(logit - maximum)) / sum;
}

/// A back end that offers dots, raise_maximum and accumulate takes a block of keys in one call.
template <class Backend, class Q, class KV>
concept has_block_operations = requires(const Q* q, const KV* kv, index_t i, accumulator_t<KV> x,
                                        accumulator_t<KV>* y) {
  row_ops<Backend, KV>::dots(q, i, kv, i, i, i, x, y, i);
  row_ops<Backend, KV>::raise_maximum(y, i, y);
  row_ops<Backend, KV>::accumulate(y, i, kv, i, i, y, i);
};

/// softmax_scale <q, k_j> for the keys of a block.
template <class Backend, element Q, element KV, element Out>
void block_dots(const attention_row_args<Q, KV, Out>& a, range block,
                accumulator_t<KV>* scores) noexcept {
  using ops = row_ops<Backend, KV>;
  if constexpr (has_block_operations<Backend, Q, KV>) {
    ops::dots(a.q, a.q_stride, a.k + block.begin * a.k_row, a.k_row, a.k_stride, a.head_dim,
              a.softmax_scale, scores, block.size());
  } else {
    for (index_t j = block.begin; j < block.end; ++j)
      scores[j - block.begin] =
          a.softmax_scale * ops::dot(a.q, a.q_stride, a.k + j * a.k_row, a.k_stride, a.head_dim);
  }
}

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
bool ignores_zero_gamma(const M& m, const row& r, range seen) {
  return sees_only_excluded(biases_alone<M>{&m}, r, seen);
}

/// Applies the modifier to the scores of the keys `changed`; hidden keys get mask_bias. *poison
/// becomes NaN if a score was not finite: a bounded transform would hide it. Returns the number of
/// hidden keys.
template <class Backend, class Acc, logit_modifier Modifier>
index_t modify_scores(const Modifier& m, const row& r, range changed, bool ignore_zero_gamma,
                      Acc* scores, Acc* poison) noexcept {
  index_t hidden = 0, done = 0;
  if constexpr (requires {
                  row_ops<Backend, Acc>::modify(m, r, changed, ignore_zero_gamma, scores, &hidden,
                                                poison);
                })
    done = row_ops<Backend, Acc>::modify(m, r, changed, ignore_zero_gamma, scores, &hidden, poison);
  for (index_t j = changed.begin + done; j < changed.end; ++j) {
    Acc& score = scores[j - changed.begin];
    const double position = static_cast<double>(j);
    Acc bias = static_cast<Acc>(bias_part(m, r, position));
    if (is_masked(bias)) {
      score = mask_bias<Acc>();
      ++hidden;
      continue;
    }
    *poison += score * Acc(0);
    if (ignore_zero_gamma && is_zero_gamma(bias)) bias = 0;
    score = transform_part(m, r, static_cast<Acc>(position), score) + bias;
  }
  return hidden;
}

/// Scores of one block of keys after the modifier; hidden keys get mask_bias. Returns the number of
/// keys that are seen.
template <class Backend, element Q, element KV, element Out, logit_modifier Modifier>
index_t block_scores(const attention_row_args<Q, KV, Out>& a, const Modifier& m, const row& r,
                     range block, bool ignore_zero_gamma, accumulator_t<KV>* scores,
                     online_softmax<accumulator_t<KV>>& state) noexcept {
  using acc = accumulator_t<KV>;
  const tile_effect effect = m.effect(head_of{r.batch, r.head}, range{r.q_pos, r.q_pos + 1}, block);
  if (effect == tile_effect::masked) return 0;
  block_dots<Backend>(a, block, scores);
  index_t hidden = 0;
  if (effect == tile_effect::apply) {
    const range changed = intersect(changed_keys(m, r), block);
    if (!changed.empty())
      hidden = modify_scores<Backend>(m, r, changed, ignore_zero_gamma,
                                      scores + (changed.begin - block.begin), &state.poison);
  }
  if constexpr (has_block_operations<Backend, Q, KV>) {
    if (hidden == 0) {
      state.poison += row_ops<Backend, KV>::raise_maximum(scores, block.size(), &state.maximum);
      return block.size();
    }
  }
  for (index_t i = 0; i < block.size(); ++i) {
    if (hidden > 0 && is_masked(scores[i])) continue;
    state.poison += scores[i] * acc(0);
    state.maximum = scores[i] > state.maximum ? scores[i] : state.maximum;
  }
  return block.size() - hidden;
}

/// One pass over the keys for value columns [first, first + columns).
template <class Backend, element Q, element KV, element Out, logit_modifier Modifier>
online_softmax<accumulator_t<KV>> attention_pass(const attention_row_args<Q, KV, Out>& a,
                                                 const Modifier& m, const row& r, range seen,
                                                 bool ignore_zero_gamma, index_t first,
                                                 index_t columns,
                                                 accumulator_t<KV>* sums) noexcept {
  using ops = row_ops<Backend, KV>;
  using acc = accumulator_t<KV>;
  acc scores[attention_block];
  online_softmax<acc> state;
  for (index_t c = 0; c < columns; ++c) sums[c] = 0;
  for (index_t begin = seen.begin; begin < seen.end; begin += attention_block) {
    const range block{begin,
                      begin + attention_block < seen.end ? begin + attention_block : seen.end};
    const acc former = state.maximum;
    const index_t count = block_scores<Backend>(a, m, r, block, ignore_zero_gamma, scores, state);
    if (count == 0) continue;
    if (a.sink_mass && block.contains(a.sink)) state.sink = scores[a.sink - block.begin];
    if (state.count > 0 && state.maximum != former) {
      const acc shrink = exp_of(former - state.maximum);
      state.sum *= shrink;
      for (index_t c = 0; c < columns; ++c) sums[c] *= shrink;
    }
    state.count += count;
    state.sum += ops::exp_and_sum(scores, state.maximum, block.size());
    if constexpr (has_block_operations<Backend, Q, KV>) {
      if (count == block.size()) {
        ops::accumulate(scores, count, a.v + block.begin * a.v_row + first * a.v_stride, a.v_row,
                        a.v_stride, sums, columns);
        continue;
      }
    }
    for (index_t j = block.begin; j < block.end; ++j) {
      const acc weight = scores[j - block.begin];
      if (weight != acc(0))  // 0 * NaN: a hidden value is not read
        ops::axpy(weight, a.v + j * a.v_row + first * a.v_stride, a.v_stride, sums, columns);
    }
  }
  state.sum += state.poison;
  return state;
}

/// Attention of one row: out = softmax(modified logits) V, zeros and LSE = -inf where nothing is
/// seen. Where gamma = 0 excludes all that is seen, the row is computed as if gamma were 1.
template <class Backend, element Q, element KV, element Out, logit_modifier Modifier>
void attention_row(const attention_row_args<Q, KV, Out>& a, const geometry& g, const Modifier& m,
                   row r) noexcept {
  using acc = accumulator_t<KV>;
  const range seen = seen_keys(g, m, r);
  acc sums[attention_columns];
  for (index_t first = 0; first < a.value_dim || first == 0; first += attention_columns) {
    const index_t left = a.value_dim - first;
    const index_t columns = left < attention_columns ? left : attention_columns;
    auto state = attention_pass<Backend>(a, m, r, seen, false, first, columns, sums);
    if (state.count > 0 && state.maximum <= zero_threshold<acc>)
      state = attention_pass<Backend>(a, m, r, seen, true, first, columns, sums);
    const bool none = state.count == 0;
    row_ops<Backend, Out>::store(sums, none ? acc(0) : acc(1) / state.sum,
                                 a.out + first * a.out_stride, a.out_stride, columns);
    if (a.lse && first == 0)
      *a.lse = none ? minus_infinity(acc{}) : state.maximum + log_of(state.sum);
    if (a.sink_mass && first == 0)
      *a.sink_mass = none ? acc(0) : weight_of(state.sink, state.maximum, state.sum);
  }
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
