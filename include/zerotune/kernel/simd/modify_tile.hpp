// SPDX-License-Identifier: Apache-2.0
// A modifier on the scores of a panel and a block of keys (layer: kernel). Scores have a query in
// each lane and modifiers take a batch of keys of one query: a few keys are biased lane by lane,
// many in squares that are transposed.
#pragma once

#include "zerotune/kernel/simd/modifier.hpp"
#include "zerotune/kernel/simd/panel.hpp"
#include "zerotune/kernel/simd/row_ops.hpp"
#include "zerotune/kernel/simd/softmax_tile.hpp"
#include "zerotune/kernel/simd/transpose.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

template <class Real>
inline constexpr Real log2_of_e = Real(1.4426950408889634074);
template <class Real>
inline constexpr Real log_of_2 = Real(0.69314718055994530942);

/// Fewer keys than this are biased lane by lane.
inline constexpr index_t few_keys = 4;

/// log_bias of one key for one row after another. Rows that share a factor, as those of a head do
/// in front of their initial token, share its logarithm.
template <class Real, class Modifier>
class lane_bias {
 public:
  explicit lane_bias(const Modifier& m) : m_(m) {}
  ZEROTUNE_ALWAYS_INLINE Real operator()(row r, index_t kv_pos) {
    if constexpr (requires { m_.factor(r, kv_pos); }) {
      const double factor = m_.factor(r, kv_pos);
      if (factor != factor_) {
        factor_ = factor;
        bias_ = factor > 0 ? static_cast<Real>(log_of(factor)) : Real(zero_gamma_bias);
        if (bias_ < Real(zero_gamma_bias)) bias_ = Real(zero_gamma_bias);
      }
      return bias_;
    } else {
      return static_cast<Real>(bias_part(m_, r, static_cast<double>(kv_pos)));
    }
  }

 private:
  const Modifier& m_;
  double factor_ = 1;
  Real bias_ = 0;
};

/// The scores of one block of a panel, and the modifier that is to act on them.
template <class Shape, class Backend, class Modifier>
class score_modifier {
  using Batch = typename Shape::batch;
  using real = typename Shape::real;
  static constexpr index_t lanes = impl::lanes<Batch>;
  static constexpr index_t width = Shape::width;

 public:
  /// `unit` is what a score counts, as a logit.
  score_modifier(const panel<Shape>& p, const Modifier& m, index_t batch, range block,
                 index_t origin, real* scores, real unit)
      : p_(p), m_(m), batch_(batch), origin_(origin), scores_(scores), unit_(unit) {
    // Most often all rows have the same keys to change and see all of them.
    range former{}, part{};
    bool all_see = true;
    for (index_t i = 0; i < p.queries; ++i) {
      const range changed = changed_keys(m, row_of(i));
      if (i == 0 || changed.begin != former.begin || changed.end != former.end) {
        former = changed;
        part = intersect(changed, block);
        all_see = p.common.contains(part);
        if (all_see) all_ = hull(all_, part);
      }
      changed_[i] = all_see ? part : intersect(part, p.seen[i]);
      if (!all_see) all_ = hull(all_, changed_[i]);
    }
  }

  void run() noexcept {
    if (all_.empty()) return;
    if constexpr (bias_modifier<Modifier>)
      if (all_.size() <= few_keys) {
        for (index_t j = all_.begin; j < all_.end; ++j) bias_key(j);
        return;
      }
    const index_t bound = last_exact_position<real>;
    const bool exact = all_.end <= bound && p_.q_pos >= -bound && p_.q_pos + p_.queries <= bound;
    if constexpr (takes_batch<Modifier, Batch>::value)
      if (exact) return squares();
    for (index_t i = 0; i < p_.queries; ++i) column(i);
  }

 private:
  row row_of(index_t i) const { return {batch_, static_cast<int>(p_.head), p_.q_pos + i}; }
  real* at(index_t key, index_t lane) const { return scores_ + (key - origin_) * width + lane; }

  /// x + bias, hidden where the bias hides.
  ZEROTUNE_ALWAYS_INLINE Batch biased(const Batch& x, const Batch& bias) const {
    return xsimd::select(bias <= Batch(mask_threshold<real>), Batch(mask_bias<real>()),
                         multiply_add(bias, Batch(real(1) / unit_), x));
  }

  void bias_key(index_t key) noexcept {
    alignas(64) real bias[width] = {};
    lane_bias<real, Modifier> bias_of(m_);
    for (index_t i = 0; i < p_.queries; ++i)
      if (changed_[i].contains(key)) bias[i] = bias_of(row_of(i), key);
    for (index_t n = 0; n < p_.used; ++n)
      biased(Batch::load_aligned(at(key, n * lanes)), Batch::load_aligned(bias + n * lanes))
          .store_aligned(at(key, n * lanes));
  }

  void squares() noexcept {
    const index_t first = origin_ + round_down(all_.begin - origin_, lanes);
    for (index_t n = 0; n < p_.used; ++n)
      for (index_t key = first; key < all_.end; key += lanes) square(key, n * lanes);
  }

  /// `lanes` keys of as many queries.
  [[gnu::flatten]] void square(index_t key, index_t lane) noexcept {
    real first[Batch::size];
    for (index_t i = 0; i < lanes; ++i) first[i] = static_cast<real>(key + i);
    const Batch position = Batch::load_unaligned(first), zero(real(0));
    Batch rows[Batch::size];
    if constexpr (!bias_modifier<Modifier>) {
      for (index_t i = 0; i < lanes; ++i) rows[i] = Batch::load_aligned(at(key + i, lane));
      transpose_square(rows);
    }
    for (index_t i = 0; i < lanes; ++i) {
      const index_t query = lane + i;
      const range changed = query < p_.queries ? changed_[query] : range{};
      if (intersect(changed, {key, key + lanes}).empty()) {
        if constexpr (bias_modifier<Modifier>) rows[i] = zero;
        continue;
      }
      const row r = row_of(query);
      Batch bias = bias_part(m_, r, position);
      const auto acts = (position >= Batch(static_cast<real>(changed.begin))) &
                        (position < Batch(static_cast<real>(changed.end)));
      if constexpr (bias_modifier<Modifier>) {
        rows[i] = xsimd::select(acts, bias, zero);
      } else {
        // Zero times the logit is NaN where it is not finite: a bounded transform would hide it.
        const Batch logit = rows[i] * Batch(unit_);
        const Batch transformed = multiply_add(logit, zero, transform_part(m_, r, position, logit));
        const Batch modified = biased(transformed * Batch(real(1) / unit_), bias);
        rows[i] = xsimd::select(acts, modified, rows[i]);
      }
    }
    transpose_square(rows);
    for (index_t i = 0; i < lanes; ++i) {
      if constexpr (bias_modifier<Modifier>)
        rows[i] = biased(Batch::load_aligned(at(key + i, lane)), rows[i]);
      rows[i].store_aligned(at(key + i, lane));
    }
  }

  /// One query's scores, by whatever takes modifiers that squares do not.
  void column(index_t query) noexcept {
    const range changed = changed_[query];
    for (index_t begin = changed.begin; begin < changed.end; begin += attention_block) {
      const range part = intersect({begin, begin + attention_block}, changed);
      real logits[attention_block], poison = 0;
      for (index_t j = part.begin; j < part.end; ++j)
        logits[j - part.begin] = *at(j, query) * unit_;
      modify_scores<Backend>(m_, row_of(query), part, false, logits, &poison);
      for (index_t j = part.begin; j < part.end; ++j) {
        const real logit = logits[j - part.begin];
        *at(j, query) = is_masked(logit) ? mask_bias<real>() : logit / unit_;
      }
      if (!(poison == real(0))) *at(part.begin, query) = poison;
    }
  }

  const panel<Shape>& p_;
  const Modifier& m_;
  index_t batch_, origin_;
  real* scores_;
  real unit_;
  range changed_[width] = {};  // initialised here: a constructor of range would be a weak symbol
  range all_{};
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
