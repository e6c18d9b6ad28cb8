// SPDX-License-Identifier: Apache-2.0
// The backward pass of attention for the query heads that share a key-value head (layer: kernel):
// tiles of queries by keys, each tile five small matrix products. Weights come from the LSE, so no
// row of kv_len numbers is kept. Dao, arXiv 2307.08691, section 3.1.2.
#pragma once

#include "zerotune/kernel/attention_backward_row.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Queries and keys of a tile. Constants: results depend on nothing else.
inline constexpr index_t backward_queries = 64;
inline constexpr index_t backward_keys = 64;
/// Rows of a tile are padded with zeros to a multiple of this, which every vector divides.
inline constexpr index_t backward_padding = 16;

constexpr index_t padded(index_t count) {
  return (count + backward_padding - 1) / backward_padding * backward_padding;
}

/// a * b + c; a back end whose row_ops name a `batch` type defines it.
template <class Batch>
ZEROTUNE_ALWAYS_INLINE Batch multiply_add(const Batch& a, const Batch& b, const Batch& c);

/// c += a b for small matrices: a is [rows, depth] with any strides, b [depth, columns] and c
/// [rows, columns] have unit column stride.
template <class Acc>
struct block_product {
  const Acc* a;
  index_t a_row, a_column;
  const Acc* b;
  index_t b_row;
  Acc* c;
  index_t c_row;
  index_t rows, columns, depth;
};

/// Rows by Vectors batches of c stay in registers while the depth is walked.
template <class Batch, index_t Rows, index_t Vectors, class Acc>
ZEROTUNE_ALWAYS_INLINE void product_tile(const block_product<Acc>& p, index_t row_,
                                         index_t column) {
  constexpr auto lanes = static_cast<index_t>(Batch::size);
  Batch totals[Rows][Vectors];
  Acc* const c = p.c + row_ * p.c_row + column;
  for (index_t i = 0; i < Rows; ++i)
    for (index_t n = 0; n < Vectors; ++n)
      totals[i][n] = Batch::load_unaligned(c + i * p.c_row + n * lanes);
  const Acc* a = p.a + row_ * p.a_row;
  const Acc* b = p.b + column;
  for (index_t t = 0; t < p.depth; ++t, a += p.a_column, b += p.b_row) {
    Batch vectors[Vectors];
    for (index_t n = 0; n < Vectors; ++n) vectors[n] = Batch::load_unaligned(b + n * lanes);
    for (index_t i = 0; i < Rows; ++i) {
      const Batch factor(a[i * p.a_row]);
      for (index_t n = 0; n < Vectors; ++n)
        totals[i][n] = multiply_add(factor, vectors[n], totals[i][n]);
    }
  }
  for (index_t i = 0; i < Rows; ++i)
    for (index_t n = 0; n < Vectors; ++n) totals[i][n].store_unaligned(c + i * p.c_row + n * lanes);
}

template <class Batch, index_t Vectors, class Acc>
ZEROTUNE_ALWAYS_INLINE void product_columns(const block_product<Acc>& p, index_t column) {
  constexpr index_t rows = 4;
  index_t i = 0;
  for (; i + rows <= p.rows; i += rows) product_tile<Batch, rows, Vectors>(p, i, column);
  for (; i < p.rows; ++i) product_tile<Batch, 1, Vectors>(p, i, column);
}

/// @pre columns is a multiple of backward_padding
template <class Backend, class Acc>
[[gnu::flatten]] void multiply_blocks(const block_product<Acc>& p) noexcept {
  if constexpr (has_batch<Backend, Acc>) {
    using batch = typename row_ops<Backend, Acc>::batch;
    constexpr auto lanes = static_cast<index_t>(batch::size);
    static_assert(backward_padding % lanes == 0);
    // 16 totals where there are 32 registers, else 8: enough to hide the latency of multiply_add.
    constexpr index_t vectors = sizeof(batch) >= 64 ? 4 : 2;
    index_t column = 0;
    for (; column + vectors * lanes <= p.columns; column += vectors * lanes)
      product_columns<batch, vectors>(p, column);
    for (; column < p.columns; column += lanes) product_columns<batch, 1>(p, column);
  } else {
    for (index_t i = 0; i < p.rows; ++i)
      for (index_t t = 0; t < p.depth; ++t) {
        const Acc factor = p.a[i * p.a_row + t * p.a_column];
        for (index_t n = 0; n < p.columns; ++n)
          p.c[i * p.c_row + n] += factor * p.b[t * p.b_row + n];
      }
  }
}

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
      logits, slopes, line, total;

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
    line = take(2 * value_width);
    total = at;
  }
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

  /// delta = <dL/do, o>; the LSE becomes NaN where dL/do is not finite.
  void begin_row(index_t h, index_t i) noexcept {
    const index_t index = h * g_.shape.q_len + i;
    clear(scratch_ + at_.d_q + index * at_.key_width, at_.key_width);
    Acc* const out = scratch_ + at_.line;
    Acc* const d_out = out + at_.value_width;
    clear(out, 2 * at_.value_width);
    a_.out.add(a_.out.data, h * a_.out.head + i * a_.out.row, a_.out.column, Acc(1), out,
               a_.value_dim);
    a_.d_out.add(a_.d_out.data, h * a_.d_out.head + i * a_.d_out.row, a_.d_out.column, Acc(1),
                 d_out, a_.value_dim);
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
    Acc* const line = scratch_ + at_.line;
    clear(k, backward_keys * at_.key_width);
    clear(scratch_ + at_.k_columns, backward_keys * at_.key_width);
    clear(scratch_ + at_.v_columns, backward_keys * at_.value_width);
    for (index_t j = packed_.begin; j < packed_.end; ++j) {
      const index_t i = j - block.begin;
      read_row(a_.k, 0, j, a_.softmax_scale, k + i * at_.key_width, a_.head_dim, at_.key_width);
      for (index_t c = 0; c < a_.head_dim; ++c)
        scratch_[at_.k_columns + c * backward_keys + i] = k[i * at_.key_width + c];
      read_row(a_.v, 0, j, Acc(1), line, a_.value_dim, at_.value_width);
      for (index_t c = 0; c < a_.value_dim; ++c)
        scratch_[at_.v_columns + c * backward_keys + i] = line[c];
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
    clear(weights, count * backward_keys);
    multiply_blocks<Backend, Acc>({q, kw, 1, scratch_ + at_.k_columns, backward_keys, weights,
                                   backward_keys, count, columns, a_.head_dim});
    for (index_t i = 0; i < count; ++i) {
      rows[i].keys = columns;
      backward_weights<Backend>(rows[i], m_, weights + i * backward_keys,
                                scratch_ + at_.slopes + i * backward_keys);
    }
    multiply_blocks<Backend, Acc>(
        {weights, 1, backward_keys, d_out, vw, scratch_ + at_.d_v, vw, columns, vw, count});
    clear(logits, count * backward_keys);
    multiply_blocks<Backend, Acc>({d_out, vw, 1, scratch_ + at_.v_columns, backward_keys, logits,
                                   backward_keys, count, columns, a_.value_dim});
    double d_log_gamma = 0;
    for (index_t i = 0; i < count; ++i) {
      Acc* const gradients = logits + i * backward_keys;
      backward_logits(rows[i], weights + i * backward_keys, gradients);
      // A single key has the weight 1 whatever its logit.
      if (seen_keys(g_, m_, rows[i].at).size() == 1) clear(gradients, columns);
      if (block.contains(a_.initial) && !rows[i].ignores_zero)
        d_log_gamma += static_cast<double>(gradients[a_.initial - block.begin]);
      if constexpr (!bias_modifier<Modifier>)
        for (index_t j = 0; j < columns; ++j)
          gradients[j] *= scratch_[at_.slopes + i * backward_keys + j];
    }
    multiply_blocks<Backend, Acc>({logits, backward_keys, 1, scratch_ + at_.k, kw,
                                   scratch_ + at_.d_q + (h * g_.shape.q_len + active.begin) * kw,
                                   kw, count, kw, columns});
    multiply_blocks<Backend, Acc>(
        {logits, 1, backward_keys, q, kw, scratch_ + at_.d_k, kw, columns, kw, count});
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
