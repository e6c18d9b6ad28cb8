// SPDX-License-Identifier: Apache-2.0
// identity: the modifier that changes nothing (layer: policy).
#pragma once

#include "zerotune/policy/concepts.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

/// Changes nothing; the unit of composition.
struct identity {
  template <class Batch>
  ZEROTUNE_HOST_DEVICE Batch log_bias(row, Batch) const {
    return Batch(0);
  }
  ZEROTUNE_HOST_DEVICE constexpr range support(row) const { return {}; }
  ZEROTUNE_HOST_DEVICE constexpr tile_effect effect(int, range, range) const {
    return tile_effect::none;
  }
};

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
