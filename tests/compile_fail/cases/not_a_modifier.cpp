// SPDX-License-Identifier: Apache-2.0
// expect: (constraints not satisfied|no matching function)
// expect: (log_bias|bias_modifier)
// A struct without log_bias is no bias modifier, and the error says what is missing.
#include <zerotune/apply/mask.hpp>

struct penalty {
#if !defined(ZEROTUNE_WRONG)
  template <class Batch>
  Batch log_bias(zerotune::row, Batch) const {
    return Batch(-1);
  }
#endif
  zerotune::tile_effect effect(int, zerotune::range, zerotune::range) const {
    return zerotune::tile_effect::apply;
  }
};

void fill(const zerotune::tensor_view<float, 2>& mask) { zerotune::fill_mask(mask, penalty{}); }
