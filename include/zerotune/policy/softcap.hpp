// SPDX-License-Identifier: Apache-2.0
// softcap: cap * tanh(logit / cap) (layer: policy). A logit transform: it goes before every bias.
#pragma once

#include <string>

#include "zerotune/core/error.hpp"
#include "zerotune/policy/concepts.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

/// Bounds a logit to (-cap, cap).
struct softcap {
  float cap = 0;

  template <class Batch>
  ZEROTUNE_HOST_DEVICE Batch transform_logit(row, Batch, Batch logit) const {
    using real = impl::value_of<Batch>;
    return Batch(real(cap)) * impl::tanh_of(Batch(logit / Batch(real(cap))));
  }
  ZEROTUNE_HOST_DEVICE constexpr tile_effect effect(int, range, range) const {
    return tile_effect::apply;
  }
  /// @throws invalid_argument if cap is not finite and positive
  void check(const char* function, const attention_shape&) const {
    if (!impl::is_finite(cap) || !(cap > 0.0f))
      impl::fail(function, "softcap cap", "a finite value > 0",
                 impl::number(static_cast<double>(cap)));
  }
};

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
