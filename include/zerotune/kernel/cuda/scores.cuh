// SPDX-License-Identifier: Apache-2.0
// Scores of a tile and the online softmax over them (layer: kernel), for one row of a thread. All
// scores are in the domain of log2: s = (transformed logit + bias) log2(e).
#pragma once

#include "zerotune/kernel/cuda/rows.cuh"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace cuda {

/// A row in 32 bits: what it sees and what a modifier changes, kept in registers over all tiles.
struct score_row {
  row r;
  int seen_begin = 0, seen_end = 0;
  int changed_begin = 0, changed_end = 0;
  float single_bias = 0;  // of the only changed key, natural; support_width::single
  bool keep_excluded = false;

  ZEROTUNE_HOST_DEVICE bool sees(int key) const { return key >= seen_begin && key < seen_end; }
  ZEROTUNE_HOST_DEVICE bool changes(int key) const {
    return key >= changed_begin && key < changed_end;
  }
};

template <logit_modifier Modifier>
ZEROTUNE_HOST_DEVICE score_row make_score_row(const Modifier& m, row r, index_t kv_length) {
  const row_view view = view_row(m, r, kv_length);
  score_row s;
  s.r = r;
  s.seen_begin = static_cast<int>(view.seen.begin);
  s.seen_end = static_cast<int>(view.seen.end);
  s.changed_begin = static_cast<int>(view.changed.begin);
  s.changed_end = static_cast<int>(view.changed.end);
  s.keep_excluded = view.keep_excluded;
  if constexpr (support_of<Modifier> == support_width::single) {
    if (!view.changed.empty()) {
      s.single_bias = impl::bias_part(m, r, position(view.changed.begin));
      if (view.keep_excluded && excludes(s.single_bias)) s.single_bias = 0.0f;
    }
  }
  return s;
}

/// Turns the product q.k of a key into a score; -inf where the row does not see the key. *poison
/// becomes NaN if the product of a seen key was not finite: a minimum or a softcap would hide it.
template <logit_modifier Modifier>
ZEROTUNE_HOST_DEVICE float score(const Modifier& m, const score_row& row, int key, float product,
                                 float scale, float* poison) {
  float s = product * (scale * log2_e);
  if (!row.sees(key)) return impl::minus_infinity(0.0f);
  if constexpr (support_of<Modifier> == support_width::single) {
    if (row.changes(key)) {
      if (hides(row.single_bias)) return impl::minus_infinity(0.0f);  // whatever its product is
      s += row.single_bias * log2_e;
    }
  } else if constexpr (support_of<Modifier> == support_width::wide) {
    if (row.changes(key)) {
      float bias = impl::bias_part(m, row.r, position(key));
      if (hides(bias)) return impl::minus_infinity(0.0f);
      if (row.keep_excluded && excludes(bias)) bias = 0.0f;
      if constexpr (bias_modifier<Modifier>)
        s += bias * log2_e;
      else
        s = (impl::transform_part(m, row.r, position(key), product * scale) + bias) * log2_e;
    }
  }
  *poison += product * 0.0f;
  return s;
}

/// A score that no modifier touches: bit for bit what score() gives where none acts.
ZEROTUNE_HOST_DEVICE inline float plain_score(float product, float scale, float* poison) {
  *poison += product * 0.0f;
  return product * (scale * log2_e);
}

/// The running softmax of a row.
struct score_softmax {
  float maximum = lowest;
  float sum = 0;
  float poison = 0;

  ZEROTUNE_HOST_DEVICE bool saw_nothing() const { return maximum == lowest && sum == 0.0f; }
  /// Natural log of the sum of exponentials.
  ZEROTUNE_HOST_DEVICE float lse() const {
    return saw_nothing() ? impl::minus_infinity(0.0f) : maximum * ln_2 + impl::log_of(sum);
  }
};

}  // namespace cuda
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
