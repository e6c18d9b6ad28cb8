// SPDX-License-Identifier: Apache-2.0
// The backward pass of attention for the query heads that share a key-value head (layer: kernel):
// tiles of queries by keys, each tile five small matrix products. Weights come from the LSE, so no
// row of kv_len numbers is kept. Dao, arXiv 2307.08691, section 3.1.2.
#pragma once

#include "zerotune/kernel/attention_backward_products.hpp"
#include "zerotune/kernel/attention_backward_row.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Queries and keys of a tile. Constants: results depend on nothing else.
inline constexpr index_t backward_queries = 64;
inline constexpr index_t backward_keys = 128;

/// What the backward pass of a key-value head reads and writes; every pointer stands at its batch
/// entry and at the first head of the group (of k, v, d_k, d_v: at the key-value head).
template <class Acc>
struct attention_backward_args {
  row_source<Acc> q, k, v, out, d_out;
  const Acc* lse;
  index_t lse_head, lse_row;
  row_sink<Acc> d_q, d_k, d_v;
  void* d_log_gamma;  // or null
  index_t d_log_gamma_head;
  void (*store_d_log_gamma)(void* data, index_t offset, double value) noexcept;
  index_t initial;  // position of the initial token
  index_t batch, first_head, group_size;
  index_t head_dim, value_dim;
  Acc softmax_scale;
};

template <class Real>
void store_number(void* data, index_t offset, double value) noexcept {
  static_cast<Real*>(data)[offset] = static_cast<Real>(value);
}

/// Scratch of one group, in numbers of the accumulator.
struct backward_layout {
  index_t key_width, value_width, rows;
  index_t d_q, lse, delta, ignores_zero, q, d_out, k, k_columns, v_columns, d_k, d_v, weights,
      logits, slopes, lines, total;

  backward_layout(index_t head_dim, index_t value_dim, index_t rows_)
      : key_width(padded(head_dim)), value_width(padded(value_dim)), rows(rows_) {
    index_t at = 0;
    const auto take = [&](index_t count) {
      const index_t begin = at;
      at += padded(count);
      return begin;
    };
    d_q = take(rows * key_width);
    lse = take(rows);
    delta = take(rows);
    ignores_zero = take(rows);
    q = take(backward_queries * key_width);
    d_out = take(backward_queries * value_width);
    k = take(backward_keys * key_width);
    k_columns = take(backward_keys * key_width);
    v_columns = take(backward_keys * value_width);
    d_k = take(backward_keys * key_width);
    d_v = take(backward_keys * value_width);
    weights = take(backward_queries * backward_keys);
    logits = take(backward_queries * backward_keys);
    slopes = take(backward_queries * backward_keys);
    lines = take(backward_padding * value_width);
    total = at;
  }
};

/// How far the queries of a tile see, backward_padding queries at a time: below the diagonal of a
/// causal tile nothing is computed.
template <class Acc>
class backward_strips {
 public:
  backward_strips(const backward_row<Acc>* rows, index_t count, index_t first_key, index_t columns)
      : count_(count), columns_(columns) {
    for (index_t i = 0; i < count; ++i) {
      index_t& limit = limits_[i / backward_padding];
      const index_t seen = padded(rows[i].seen.end - first_key);
      limit = limit < seen ? seen : limit;
    }
    for (index_t s = 0; s < strips(); ++s) whole_ = whole_ && limits_[s] == columns;
  }

  /// body(queries, keys): the first `keys` keys are all that these queries see.
  template <class Body>
  void for_queries(const Body& body) const {
    if (whole_) return body(range{0, count_}, columns_);
    for (index_t s = 0; s < strips(); ++s)
      if (limits_[s] > 0) body(queries(s, s + 1), limits_[s]);
  }
  /// body(keys, queries): no other queries see these keys.
  template <class Body>
  void for_keys(const Body& body) const {
    if (whole_) return body(range{0, columns_}, range{0, count_});
    for (index_t key = 0; key < columns_; key += backward_padding) {
      index_t begin = 0, end = strips();
      while (begin < end && limits_[begin] <= key) ++begin;
      while (begin < end && limits_[end - 1] <= key) --end;
      if (begin < end) body(range{key, key + backward_padding}, queries(begin, end));
    }
  }

 private:
  index_t strips() const { return padded(count_) / backward_padding; }
  range queries(index_t begin, index_t end) const {
    const index_t last = end * backward_padding;
    return {begin * backward_padding, last < count_ ? last : count_};
  }

  index_t count_, columns_;
  index_t limits_[backward_queries / backward_padding] = {};
  bool whole_ = true;
};

/// The walk over the tiles of one group.
template <class Backend, class Acc, logit_modifier Modifier>
class backward_group {
 public:
  backward_group(const attention_backward_args<Acc>& a, const geometry& g, const Modifier& m,
                 Acc* scratch)
      : a_(a),
        g_(g),
        m_(m),
        at_(a.head_dim, a.value_dim, a.group_size * g.shape.q_len),
        scratch_(scratch) {}

  void run() noexcept {
    for (index_t h = 0; h < a_.group_size; ++h) {
      if (a_.d_log_gamma) a_.store_d_log_gamma(a_.d_log_gamma, h * a_.d_log_gamma_head, 0.0);
      for (index_t i = 0; i < g_.shape.q_len; ++i) begin_row(h, i);
    }
    const index_t length = g_.kv_length(a_.batch);
    for (index_t begin = 0; begin < g_.shape.kv_len; begin += backward_keys) {
      const index_t end =
          begin + backward_keys < g_.shape.kv_len ? begin + backward_keys : g_.shape.kv_len;
      key_block({begin, end}, end < length ? end : length);
    }
    for (index_t h = 0; h < a_.group_size; ++h)
      for (index_t i = 0; i < g_.shape.q_len; ++i)
        a_.d_q.store(scratch_ + at_.d_q + (h * g_.shape.q_len + i) * at_.key_width, Acc(1),
                     a_.d_q.data, h * a_.d_q.head + i * a_.d_q.row, a_.d_q.column, a_.head_dim);
  }

 private:
  row row_at(index_t h, index_t i) const { return g_.at(a_.batch, a_.first_head + h, i); }

  /// A row of value_dim numbers: as it stands, else a copy.
  const Acc* row_of(const row_source<Acc>& from, index_t h, index_t i, Acc* copy) const noexcept {
    if (from.direct) return from.direct + h * from.head + i * from.row;
    clear(copy, a_.value_dim);
    from.add(from.data, h * from.head + i * from.row, from.column, Acc(1), copy, a_.value_dim);
    return copy;
  }

  /// delta = <dL/do, o>; the LSE becomes NaN where dL/do is not finite.
  void begin_row(index_t h, index_t i) noexcept {
    const index_t index = h * g_.shape.q_len + i;
    clear(scratch_ + at_.d_q + index * at_.key_width, at_.key_width);
    Acc* const line = scratch_ + at_.lines;
    const Acc* const out = row_of(a_.out, h, i, line);
    const Acc* const d_out = row_of(a_.d_out, h, i, line + at_.value_width);
    const Acc lse = a_.lse[h * a_.lse_head + i * a_.lse_row];
    const row r = row_at(h, i);
    const bool finite = all_finite(d_out, a_.value_dim);
    finite_ = finite_ && finite && is_finite(lse);
    scratch_[at_.lse + index] = finite ? lse : not_a_number(Acc{});
    scratch_[at_.delta + index] =
        row_ops<Backend, Acc>::dot(d_out, index_t{1}, out, index_t{1}, a_.value_dim);
    scratch_[at_.ignores_zero + index] =
        ignores_zero_gamma(m_, r, seen_keys(g_, m_, r)) ? Acc(1) : Acc(0);
  }

  /// Gradients of the keys and values of a block, and what the block adds to those of the queries.
  void key_block(range block, index_t end) noexcept {
    const bool holds_initial = a_.d_log_gamma && block.contains(a_.initial);
    clear(scratch_ + at_.d_k, backward_keys * at_.key_width);
    clear(scratch_ + at_.d_v, backward_keys * at_.value_width);
    packed_ = {};
    if (block.begin < end)
      for (index_t h = 0; h < a_.group_size; ++h) {
        double d_log_gamma = 0;
        for (index_t first = 0; first < g_.shape.q_len; first += backward_queries) {
          const index_t left = g_.shape.q_len - first;
          d_log_gamma +=
              tile(h, {first, first + (left < backward_queries ? left : backward_queries)},
                   {block.begin, end});
        }
        if (holds_initial)
          a_.store_d_log_gamma(a_.d_log_gamma, h * a_.d_log_gamma_head, d_log_gamma);
      }
    for (index_t j = block.begin; j < block.end; ++j) {
      const index_t i = j - block.begin;
      a_.d_k.store(scratch_ + at_.d_k + i * at_.key_width, a_.softmax_scale, a_.d_k.data,
                   j * a_.d_k.row, a_.d_k.column, a_.head_dim);
      a_.d_v.store(scratch_ + at_.d_v + i * at_.value_width, Acc(1), a_.d_v.data, j * a_.d_v.row,
                   a_.d_v.column, a_.value_dim);
    }
  }

  /// Keys (times softmax_scale) and values of `keys`, and both transposed. Only keys that a query
  /// sees are ever read.
  void pack(range block, range keys) noexcept {
    if (packed_.contains(keys)) return;
    packed_ = hull(packed_, keys);
    Acc* const k = scratch_ + at_.k;
    Acc* const lines = scratch_ + at_.lines;
    clear(k, backward_keys * at_.key_width);
    for (index_t first = 0; first < backward_keys; first += backward_padding) {
      clear(lines, backward_padding * at_.value_width);
      const range rows =
          intersect(packed_, {block.begin + first, block.begin + first + backward_padding});
      for (index_t j = rows.begin; j < rows.end; ++j) {
        const index_t i = j - block.begin;
        read_row(a_.k, 0, j, a_.softmax_scale, k + i * at_.key_width, a_.head_dim, at_.key_width);
        read_row(a_.v, 0, j, Acc(1), lines + (i - first) * at_.value_width, a_.value_dim,
                 at_.value_width);
      }
      transpose_block<Backend>(k + first * at_.key_width, at_.key_width,
                               scratch_ + at_.k_columns + first, backward_keys, backward_padding,
                               at_.key_width);
      transpose_block<Backend>(lines, at_.value_width, scratch_ + at_.v_columns + first,
                               backward_keys, backward_padding, at_.value_width);
    }
  }

  /// One tile; returns its part of d log gamma: the sum of dL/dl over the initial token's column.
  double tile(index_t h, range queries, range block) noexcept {
    const head_of head{a_.batch, static_cast<int>(a_.first_head + h)};
    const index_t start = g_.q_start(a_.batch);
    const tile_effect effect = m_.effect(head, {start + queries.begin, start + queries.end}, block);
    if (effect == tile_effect::masked) return 0;

    backward_row<Acc> rows[backward_queries];
    range active{0, 0}, keys{0, 0};
    for (index_t i = queries.begin; i < queries.end; ++i) {
      const index_t index = h * g_.shape.q_len + i;
      const row r = row_at(h, i);
      const Acc lse = scratch_[at_.lse + index];
      range seen = intersect(seen_keys(g_, m_, r), block);
      // A row that its biases hide altogether has an LSE of -inf.
      if (seen.empty() || is_minus_infinity(lse))
        seen = {block.begin, block.begin};
      else
        active = hull(active, {i, i + 1});
      keys = hull(keys, seen);
      rows[i - queries.begin] = {r,           seen,
                                 block.begin, 0,
                                 lse,         scratch_[at_.delta + index],
                                 effect,      scratch_[at_.ignores_zero + index] != Acc(0)};
    }
    if (active.empty()) return 0;
    pack(block, keys);
    return products(h, active, rows + (active.begin - queries.begin), block,
                    padded(keys.end - block.begin));
  }

  /// Rows of queries or of dL/do: as they stand where that is how a tile wants them, else packed.
  const Acc* rows_of(const row_source<Acc>& from, index_t h, range rows, index_t columns,
                     index_t width, Acc* packed) const noexcept {
    if (from.direct && from.row == width && columns == width && finite_)
      return from.direct + h * from.head + rows.begin * from.row;
    for (index_t i = 0; i < rows.size(); ++i)
      read_row(from, h, rows.begin + i, Acc(1), packed + i * width, columns, width);
    return packed;
  }

  double products(index_t h, range active, backward_row<Acc>* rows, range block,
                  index_t columns) noexcept {
    Acc* const weights = scratch_ + at_.weights;
    Acc* const logits = scratch_ + at_.logits;
    const index_t kw = at_.key_width, vw = at_.value_width, count = active.size();
    const Acc* const q = rows_of(a_.q, h, active, a_.head_dim, kw, scratch_ + at_.q);
    const Acc* const d_out = rows_of(a_.d_out, h, active, a_.value_dim, vw, scratch_ + at_.d_out);
    const backward_strips<Acc> cut(rows, count, block.begin, columns);
    clear(weights, count * backward_keys);
    cut.for_queries([&](range some, index_t keys) {
      multiply_blocks<Backend, Acc>({q + some.begin * kw, kw, 1, scratch_ + at_.k_columns,
                                     backward_keys, weights + some.begin * backward_keys,
                                     backward_keys, some.size(), keys, a_.head_dim});
      for (index_t i = some.begin; i < some.end; ++i) {
        rows[i].keys = keys;
        backward_weights<Backend>(rows[i], m_, weights + i * backward_keys,
                                  scratch_ + at_.slopes + i * backward_keys);
      }
    });
    cut.for_keys([&](range keys, range some) {
      multiply_blocks<Backend, Acc>({weights + some.begin * backward_keys + keys.begin, 1,
                                     backward_keys, d_out + some.begin * vw, vw,
                                     scratch_ + at_.d_v + keys.begin * vw, vw, keys.size(), vw,
                                     some.size()});
    });
    clear(logits, count * backward_keys);
    double d_log_gamma = 0;
    cut.for_queries([&](range some, index_t keys) {
      multiply_blocks<Backend, Acc>({d_out + some.begin * vw, vw, 1, scratch_ + at_.v_columns,
                                     backward_keys, logits + some.begin * backward_keys,
                                     backward_keys, some.size(), keys, a_.value_dim});
      for (index_t i = some.begin; i < some.end; ++i) d_log_gamma += finish_row(rows[i], i, block);
      multiply_blocks<Backend, Acc>(
          {logits + some.begin * backward_keys, backward_keys, 1, scratch_ + at_.k, kw,
           scratch_ + at_.d_q + (h * g_.shape.q_len + active.begin + some.begin) * kw, kw,
           some.size(), kw, keys});
    });
    cut.for_keys([&](range keys, range some) {
      multiply_blocks<Backend, Acc>(
          {logits + some.begin * backward_keys + keys.begin, 1, backward_keys, q + some.begin * kw,
           kw, scratch_ + at_.d_k + keys.begin * kw, kw, keys.size(), kw, some.size()});
    });
    return d_log_gamma;
  }

  /// dL/dl of a row of a tile from <dL/do, v_j>; returns that of the initial token.
  double finish_row(const backward_row<Acc>& b, index_t i, range block) noexcept {
    Acc* const gradients = scratch_ + at_.logits + i * backward_keys;
    backward_logits(b, scratch_ + at_.weights + i * backward_keys, gradients);
    // A single key has the weight 1 whatever its logit.
    if (seen_keys(g_, m_, b.at).size() == 1) clear(gradients, b.keys);
    double d_log_gamma = 0;
    if (block.contains(a_.initial) && a_.initial - block.begin < b.keys && !b.ignores_zero)
      d_log_gamma = static_cast<double>(gradients[a_.initial - block.begin]);
    if constexpr (!bias_modifier<Modifier>)
      for (index_t j = 0; j < b.keys; ++j)
        gradients[j] *= scratch_[at_.slopes + i * backward_keys + j];
    return d_log_gamma;
  }

  const attention_backward_args<Acc>& a_;
  const geometry& g_;
  const Modifier& m_;
  const backward_layout at_;
  Acc* const scratch_;
  range packed_{};
  bool finite_ = true;  // every LSE and dL/do: no row of a tile can spoil another one
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
