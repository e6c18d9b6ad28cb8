// SPDX-License-Identifier: Apache-2.0
// Attention of few queries to many keys (layer: kernel): all queries of a key-value head go over
// its keys together, so that each row of K and V is read once, and the keys are cut into parts
// (kernel/split.hpp). A query's result does not depend on those that go along.
#pragma once

#include <utility>

#include "zerotune/kernel/attention_plan.hpp"
#include "zerotune/kernel/attention_row.hpp"
#include "zerotune/kernel/decode_ops.hpp"
#include "zerotune/kernel/split.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// What the queries of one key-value head read and write. Query i is position i / group_size of
/// query head first_head + i % group_size: those that see the same keys stand side by side.
template <element Q, cache_element KV, element Out>
struct decode_args {
  const Q* q;
  index_t q_head, q_row, q_stride;
  kv_rows<KV> k, v;
  Out* out;
  index_t out_head, out_row, out_stride;
  accumulator_t<KV>* lse;  // or null
  index_t lse_head, lse_row;
  index_t head_dim, value_dim;
  index_t first_head, group_size, q_len;
  accumulator_t<KV> softmax_scale;
  accumulator_t<KV>* sink_mass = nullptr;  // receives the weights of the key `sink`, or null
  index_t sink_head = 0, sink_row = 0;
  index_t sink = 0;
  kv_place place = kv_place::memory;

  index_t rows() const noexcept { return group_size * q_len; }
};

/// Workspace of one part: packed queries, outputs, and the softmax_part of each query.
template <class Acc>
class part_memory {
 public:
  part_memory(Acc* memory, index_t rows, index_t head_dim, index_t value_dim)
      : q(memory),
        q_row(padded_dim(head_dim)),
        out(q + rows * q_row),
        out_row(padded_dim(value_dim)),
        state_(out + rows * out_row) {}

  /// Elements that a part takes.
  static index_t size(index_t rows, index_t head_dim, index_t value_dim) {
    return padded_dim(rows * (padded_dim(head_dim) + padded_dim(value_dim) + state_size));
  }
  softmax_part<Acc> state(index_t row) const noexcept {
    const Acc* const s = state_ + state_size * row;
    return {s[0], s[1], s[2], s[3]};
  }
  void set_state(index_t row, const softmax_part<Acc>& s) const noexcept {
    Acc* const to = state_ + state_size * row;
    to[0] = s.maximum, to[1] = s.sum, to[2] = s.count, to[3] = s.sink;
  }

  Acc* q;
  index_t q_row;
  Acc* out;
  index_t out_row;

 private:
  static constexpr index_t state_size = 4;
  Acc* state_;
};

/// One part of the keys for the queries of one key-value head.
template <class Backend, class Ops, element Q, cache_element KV, element Out,
          logit_modifier Modifier>
class decode_part {
 public:
  using ops = Ops;
  using acc = accumulator_t<KV>;

  decode_part(const decode_args<Q, KV, Out>& args, const geometry& g, const Modifier& m,
              index_t batch, bool ignore_zero_gamma)
      : a_(args), g_(g), m_(m), batch_(batch), ignore_zero_gamma_(ignore_zero_gamma) {
    const index_t k_row = a_.k.stride == 1 ? a_.head_dim / cell_size<KV> : 0;
    const index_t v_row = a_.v.stride == 1 ? a_.value_dim / cell_size<KV> : 0;
    ahead_.bytes = (k_row > v_row ? k_row : v_row) * static_cast<index_t>(sizeof(KV));
    if (ahead_.bytes == 0) return;
    ahead_.asks = a_.place == kv_place::memory ? 3 : 1;
    for (index_t n = 0; n < 3; ++n) {
      const index_t rows = (n + 1) * bytes_ahead / ahead_.bytes;
      ahead_.distance[n] = rows < 1 ? 1 : rows > decode_keys ? decode_keys : rows;
    }
  }

  /// Queries `rows` over the keys `part`; the result goes to their rows of memory.
  void run(range part, range rows, const part_memory<acc>& memory) noexcept {
    for (index_t first = rows.begin; first < rows.end; first += decode_rows)
      run_rows(part, intersect({first, first + decode_rows}, rows), memory);
  }

 private:
  static constexpr index_t lanes = ops::lanes;
  static constexpr index_t bytes_ahead = 4096;

  void run_rows(range part, range rows, const part_memory<acc>& memory) noexcept {
    begin(part, rows, memory);
    // Rows in the order in which they are read: K and V of a block, K and V of the next one, and
    // rows that are fetched and perhaps not read.
    constexpr index_t most = 8 * decode_keys;  // so that rows seldom move to the front
    const KV *stream[most + decode_ahead], **at = stream;
    range block = first_block(all_), next;
    index_t found = all_.begin;
    locate(block, at);
    for (; !block.empty(); block = next) {
      if (a_.place == kv_place::memory && block.end + decode_keys > found)
        found = find_pages(found);
      next = first_block({block.end, all_.end});
      const KV** behind = at + 2 * block.size();
      if (behind + 2 * next.size() > stream + most) {
        for (const KV** to = stream; at < behind; ++to, ++at) *to = *at;
        at = stream, behind = at + 2 * block.size();
      }
      locate(next, behind);
      if (next.size() < decode_keys) look_behind(behind + 2 * next.size());
      run_block(block, at, at + block.size());
      at = behind;
    }
    for (index_t i = 0; i < rows_; ++i) {
      for (index_t n = 0; n < lanes; ++n) state_[i].sum += sum_[i][n] + poison_[i][n];
      memory.set_state(rows.begin + i, state_[i]);
    }
  }

  /// The rows of K and of V of a block.
  void locate(range block, const KV** rows) const noexcept {
    a_.k.locate(block, rows);
    a_.v.locate(block, rows + block.size());
  }
  /// The rows that whoever goes over the next part begins with: often it is this thread.
  void look_behind(const KV** rows) const noexcept {
    const range some = intersect({all_.end, all_.end + decode_ahead}, {0, g_.kv_length(batch_)});
    if (!some.empty()) a_.k.locate(some, rows);
    for (index_t j = some.size(); j < decode_ahead; ++j) rows[j] = rows[-1];
  }
  /// Fetches a line of each page of memory that the next keys are in. A processor waits for where a
  /// page lies, for some 80 ns; it looks for several at a time, and the entries of eight neighbours
  /// are one line, which is asked for before.
  /// Inlined: GCC takes a function that only prefetches for one without effect.
  ZEROTUNE_ALWAYS_INLINE index_t find_pages(index_t from) const noexcept {
    constexpr index_t keys = 4 * decode_keys;
    const range some = intersect({from, from + keys}, {0, g_.kv_length(batch_)});
    const range later = intersect({some.end, some.end + keys}, {0, g_.kv_length(batch_)});
    for (const kv_rows<KV>* x : {&a_.k, &a_.v}) {
      const index_t step = x->rows_of_memory_page();
      for (index_t j = later.begin; j < later.end; j += 8 * step)
        __builtin_prefetch(x->at(j), 0, 2);
      for (index_t j = some.begin; j < some.end; j += step) __builtin_prefetch(x->at(j), 0, 2);
    }
    return from + keys;
  }

  /// Keys up to the next multiple of decode_keys: steps do not depend on where a range begins.
  static range first_block(range keys) noexcept {
    return intersect(keys, {keys.begin, (keys.begin / decode_keys + 1) * decode_keys});
  }

  void begin(range part, range rows, const part_memory<acc>& memory) noexcept {
    rows_ = rows.size();
    q_ = memory.q + rows.begin * memory.q_row;
    q_row_ = memory.q_row;
    out_ = memory.out + rows.begin * memory.out_row;
    out_row_ = memory.out_row;
    all_ = {};
    uniform_ = true;
    for (index_t i = 0; i < rows_; ++i) {
      const index_t head = (rows.begin + i) % a_.group_size;
      const index_t position = (rows.begin + i) / a_.group_size;
      row_[i] = g_.at(batch_, a_.first_head + head, position);
      seen_[i] = intersect(seen_keys(g_, m_, row_[i]), part);
      if (!seen_[i].empty()) all_ = hull(all_, seen_[i]);
      uniform_ = uniform_ && seen_[i].begin == seen_[0].begin && seen_[i].end == seen_[0].end &&
                 effect(i, seen_[i]) == tile_effect::none;
      ops::pack(a_.q + head * a_.q_head + position * a_.q_row, a_.q_stride, a_.head_dim,
                q_ + i * q_row_);
      for (index_t c = 0; c < out_row_; ++c) out_[i * out_row_ + c] = acc(0);
      state_[i] = {};
      for (index_t n = 0; n < lanes; ++n) sum_[i][n] = poison_[i][n] = acc(0);
    }
  }

  tile_effect effect(index_t i, range keys) const noexcept {
    if (keys.empty()) return tile_effect::masked;
    const row& r = row_[i];
    return m_.effect(head_of{r.batch, r.head}, range{r.q_pos, r.q_pos + 1}, keys);
  }

  void run_block(range block, const KV* const* k, const KV* const* v) noexcept {
    rows_ahead<KV> ahead = ahead_;
    if (uniform_) {
      step({0, rows_}, block, k, v, false, ahead);
      return;
    }
    range keys[decode_rows];
    tile_effect effects[decode_rows];
    for (index_t i = 0; i < rows_; ++i) {
      keys[i] = intersect(seen_[i], block);
      effects[i] = effect(i, keys[i]);
      changes_[i] = effects[i] == tile_effect::apply;
    }
    for (index_t first = 0, end; first < rows_; first = end) {
      end = first + 1;
      if (effects[first] == tile_effect::masked) continue;
      while (end < rows_ && effects[end] != tile_effect::masked &&
             keys[end].begin == keys[first].begin && keys[end].end == keys[first].end)
        ++end;
      const index_t from = keys[first].begin - block.begin;
      step({first, end}, keys[first], k + from, v + from, true, ahead);
      ahead = {};
    }
  }

  /// Queries that see the same keys of a block.
  void step(range rows, range keys, const KV* const* k, const KV* const* v, bool may_change,
            rows_ahead<KV> ahead) noexcept {
    if constexpr (ops::tile_rows > 0)
      for (; in_tile(rows, keys, may_change); rows.begin += ops::tile_rows, ahead.asks = 0)
        step_of_tile(rows.begin, k, v, ahead);
    if (rows.empty()) return;
    ops::scores(q_ + rows.begin * q_row_, q_row_, rows.size(), k, a_.k.stride, keys.size(),
                a_.head_dim, a_.softmax_scale, scores_, ahead.beside(k));
    // First all maxima, then all weights: each takes long, but they do not wait for one another.
    bool all_seen = true;
    index_t seen[decode_rows];
    acc raised[decode_rows];
    for (index_t i = 0; i < rows.size(); ++i) {
      seen[i] = find_maximum(rows.begin + i, keys, may_change && changes_[rows.begin + i],
                             scores_ + i * decode_keys, &raised[i]);
      all_seen = all_seen && seen[i] == keys.size();
    }
    for (index_t i = 0; i < rows.size(); ++i)
      if (seen[i] > 0)
        weigh(rows.begin + i, keys.size(), seen[i], raised[i], scores_ + i * decode_keys);
    if (all_seen) {
      add_values(rows, scores_, v, keys.size(), ahead.beside(v));
      return;
    }
    // 0 * NaN: a value that a query does not see is not read for it.
    for (index_t i = 0; i < rows.size(); ++i) {
      const range alone{rows.begin + i, rows.begin + i + 1};
      if (seen[i] == keys.size())
        add_values(alone, scores_ + i * decode_keys, v, keys.size(), {});
      else if (seen[i] > 0)
        for (index_t j = 0; j < keys.size(); ++j)
          if (scores_[i * decode_keys + j] != acc(0))
            add_values(alone, scores_ + i * decode_keys + j, v + j, 1, {});
    }
  }

  /// Can the first queries take the way of weigh_tile?
  bool in_tile(range rows, range keys, bool may_change) const noexcept {
    if (rows.size() < ops::tile_rows || keys.size() != decode_keys || a_.k.stride != 1 ||
        a_.v.stride != 1 || (a_.sink_mass && keys.contains(a_.sink)))
      return false;
    for (index_t i = 0; may_change && i < ops::tile_rows; ++i)
      if (changes_[rows.begin + i]) return false;
    return true;
  }
  void step_of_tile(index_t first, const KV* const* k, const KV* const* v,
                    const rows_ahead<KV>& ahead) noexcept {
    constexpr index_t rows = ops::tile_rows;
    alignas(64) typename ops::weight weights[rows * decode_keys];
    acc maximum[rows];
    alignas(64) acc totals[rows][lanes];
    for (index_t i = 0; i < rows; ++i) maximum[i] = state_[first + i].maximum;
    ops::weigh_tile(q_ + first * q_row_, q_row_, k, a_.head_dim, a_.softmax_scale, maximum, totals,
                    poison_ + first, weights, ahead.beside(k));
    for (index_t i = 0; i < rows; ++i) {
      raise_to(first + i, maximum[i]);
      state_[first + i].count += static_cast<acc>(decode_keys);
      for (index_t n = 0; n < lanes; ++n) sum_[first + i][n] += totals[i][n];
    }
    ops::add_tile(weights, v, a_.value_dim, out_ + first * out_row_, out_row_, ahead.beside(v));
  }

  void add_values(range rows, const acc* weights, const KV* const* v, index_t count,
                  const rows_ahead<KV>& fetch) noexcept {
    ops::accumulate(weights, rows.size(), v, a_.v.stride, count, a_.value_dim,
                    out_ + rows.begin * out_row_, out_row_, fetch);
  }

  /// Modifier and maximum of query i. Returns the number of keys seen.
  index_t find_maximum(index_t i, range keys, bool changes, acc* scores, acc* raised) noexcept {
    softmax_part<acc>& state = state_[i];
    index_t hidden = 0;
    if (changes) {
      const range changed = intersect(changed_keys(m_, row_[i]), keys);
      if (!changed.empty())
        hidden = modify_scores<Backend>(m_, row_[i], changed, ignore_zero_gamma_,
                                        scores + (changed.begin - keys.begin), poison_[i]);
    }
    if (hidden == keys.size()) return 0;
    if (a_.sink_mass && keys.contains(a_.sink)) state.sink = scores[a_.sink - keys.begin];
    const acc greatest = hidden == 0
                             ? ops::raise_maximum(scores, keys.size(), state.maximum, poison_[i])
                             : raise_over_seen(scores, keys.size(), state.maximum, poison_[i]);
    *raised = greatest > state.maximum + ops::raise_beyond ? greatest : state.maximum;
    return keys.size() - hidden;
  }

  /// What query i has summed up so far is made to fit its new maximum.
  void raise_to(index_t i, acc maximum) noexcept {
    softmax_part<acc>& state = state_[i];
    if (state.count > acc(0) && state.maximum != maximum) {
      const acc shrink = exp_of(state.maximum - maximum);
      for (acc& lane : sum_[i]) lane *= shrink;
      row_ops<Backend, acc>::store(out_ + i * out_row_, shrink, out_ + i * out_row_, 1, out_row_);
    }
    state.maximum = maximum;
  }

  /// Scores of query i, some of them seen, become weights.
  void weigh(index_t i, index_t count, index_t seen, acc maximum, acc* scores) noexcept {
    raise_to(i, maximum);
    state_[i].count += static_cast<acc>(seen);
    ops::weigh(scores, count, maximum, sum_[i]);
  }

  static acc raise_over_seen(const acc* scores, index_t count, acc maximum, acc* poison) noexcept {
    for (index_t j = 0; j < count; ++j) {
      if (is_masked(scores[j])) continue;
      *poison += scores[j] * acc(0);
      maximum = scores[j] > maximum ? scores[j] : maximum;
    }
    return maximum;
  }

  const decode_args<Q, KV, Out>& a_;
  const geometry& g_;
  const Modifier& m_;
  index_t batch_;
  bool ignore_zero_gamma_;
  rows_ahead<KV> ahead_;

  index_t rows_ = 0;
  acc* q_ = nullptr;
  index_t q_row_ = 0;
  acc* out_ = nullptr;
  index_t out_row_ = 0;
  row row_[decode_rows];
  range seen_[decode_rows], all_;
  bool uniform_ = true, changes_[decode_rows];  // uniform: all see the same keys, unmodified
  softmax_part<acc> state_[decode_rows];
  alignas(64) acc sum_[decode_rows][lanes], poison_[decode_rows][lanes];
  alignas(64) acc scores_[decode_rows * decode_keys];
};

/// All queries of one key-value head over one part of its keys.
template <class Backend, element Q, cache_element KV, element Out, logit_modifier Modifier>
void run_part(const decode_args<Q, KV, Out>& a, const geometry& g, const Modifier& m, index_t batch,
              range part, const part_memory<accumulator_t<KV>>& memory) noexcept {
  decode_choice<Backend, Q, KV>::with([&](auto ops) {
    decode_part<Backend, decltype(ops), Q, KV, Out, Modifier>(a, g, m, batch, false)
        .run(part, {0, a.rows()}, memory);
  });
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
