// SPDX-License-Identifier: Apache-2.0
// token_span: scales the attention paid to any run of tokens (layer: policy): the paper's
// comparison of the initial token with others, and steering by emphasis.
#pragma once

#include "zerotune/policy/head_gammas.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

/// Multiplies the attention paid to the keys at positions [tokens.begin, tokens.end) by gamma and
/// renormalises. Several spans are composed with `|`.
class token_span {
 public:
  /// @param tokens  logical positions
  /// @param gammas  one gamma, or a view [num_heads]; finite and >= 0, checked where it is used
  ZEROTUNE_HOST_DEVICE constexpr token_span(range tokens, head_gammas gammas)
      : tokens_(tokens), gammas_(gammas) {}

  ZEROTUNE_HOST_DEVICE constexpr range tokens() const { return tokens_; }
  ZEROTUNE_HOST_DEVICE constexpr float gamma(index_t head) const { return gammas_[head]; }

  template <class Batch>
  ZEROTUNE_HOST_DEVICE Batch log_bias(row r, Batch kv_pos) const {
    using real = impl::value_of<Batch>;
    using zerotune::select;
    const Batch bias(impl::log_gamma<real>(gammas_[r.head]));
    const Batch zero(real(0));
    return select(kv_pos < Batch(static_cast<real>(tokens_.begin)), zero,
                  select(kv_pos < Batch(static_cast<real>(tokens_.end)), bias, zero));
  }
  ZEROTUNE_HOST_DEVICE constexpr range support(row r) const {
    return gammas_[r.head] == 1.0f ? range{} : tokens_;
  }
  ZEROTUNE_HOST_DEVICE constexpr tile_effect effect(int head, range, range kv) const {
    return intersect(kv, tokens_).empty() || gammas_[head] == 1.0f ? tile_effect::none
                                                                   : tile_effect::apply;
  }
  /// @throws invalid_argument for a gamma that does not fit
  void check(const char* function, const attention_shape& shape) const {
    gammas_.check(function, "token_span", shape.num_heads);
  }

 private:
  range tokens_;
  head_gammas gammas_;
};

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
