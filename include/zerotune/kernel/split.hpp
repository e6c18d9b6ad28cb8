// SPDX-License-Identifier: Apache-2.0
// Keys cut into parts that are computed apart, and the exact merge of their results (layer:
// kernel): from m_s, l_s, o_s of each part, M = max m_s, l = sum e^(m_s - M) l_s,
// o = sum e^(m_s - M) o_s / l. Ye et al., arXiv 2501.01005, section 2.2.
#pragma once

#include "zerotune/kernel/geometry.hpp"
#include "zerotune/kernel/kernel.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// The parts of a sequence. They depend on its length alone, so that results depend on neither the
/// threads nor the other sequences; boundaries are multiples of 256, so of every block of keys.
class key_splits {
 public:
  ZEROTUNE_ALWAYS_INLINE explicit key_splits(index_t kv_length) : length_(kv_length) {
    const index_t share = (kv_length / most_parts + unit) / unit * unit;
    step_ = share < least ? least : share;
  }
  ZEROTUNE_ALWAYS_INLINE index_t count() const {
    return length_ <= step_ ? 1 : (length_ - 1) / step_ + 1;
  }
  ZEROTUNE_ALWAYS_INLINE range at(index_t part) const {
    return intersect({part * step_, (part + 1) * step_}, {0, length_});
  }
  /// The most parts that a sequence of at most kv_len keys has.
  ZEROTUNE_ALWAYS_INLINE static index_t most(index_t kv_len) {
    const index_t parts = kv_len <= least ? 1 : (kv_len - 1) / least + 1;
    return parts < most_parts ? parts : most_parts;
  }

 private:
  static constexpr index_t unit = 256, least = 1024, most_parts = 32;
  index_t length_, step_;
};

/// Running softmax of a row over some of its keys. A sum of NaN says that a visible product of
/// query and key was not finite.
template <class Acc>
struct softmax_part {
  Acc maximum = lowest_value<Acc>();
  Acc sum = 0;
  Acc count = 0;                // keys seen
  Acc sink = mask_bias<Acc>();  // the modified logit of the key whose weight is asked for
};

/// Merges the parts of a row: part(s) returns {softmax_part, pointer to its unnormalised output}.
/// The merged output takes the place of the first one. A part without weight adds its sum all the
/// same: it may be NaN.
template <class Backend, class Acc, class Part>
softmax_part<Acc> merge_parts(index_t parts, index_t columns, const Part& part) noexcept {
  softmax_part<Acc> merged;
  for (index_t s = 0; s < parts; ++s) {
    const softmax_part<Acc> one = part(s).first;
    if (one.count == Acc(0)) continue;
    merged.count += one.count;
    merged.maximum = one.maximum > merged.maximum ? one.maximum : merged.maximum;
    if (!is_masked(one.sink)) merged.sink = one.sink;  // one part has the key
  }
  Acc* const out = part(0).second;
  for (index_t s = 0; s < parts; ++s) {
    const auto [one, values] = part(s);
    const Acc weight = one.count == Acc(0) ? Acc(0) : exp_of(one.maximum - merged.maximum);
    if (one.count != Acc(0)) merged.sum += weight * one.sum;
    if (s == 0 && weight != Acc(1)) {
      if (weight == Acc(0))  // not 0 * NaN
        for (index_t c = 0; c < columns; ++c) out[c] = Acc(0);
      else
        row_ops<Backend, Acc>::store(out, weight, out, 1, columns);
    } else if (s > 0 && weight != Acc(0)) {
      row_ops<Backend, Acc>::axpy(weight, values, 1, out, columns);
    }
  }
  return merged;
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
