// SPDX-License-Identifier: Apache-2.0
// Rows of numbers to q8_0 (layer: apply), for caches that decode reads.
#pragma once

#include <cmath>

#include "zerotune/apply/checks.hpp"
#include "zerotune/core/q8_0.hpp"
#include "zerotune/policy/limits.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// The block of 32 numbers: scale = max |x| / 127 as float16, values = x / scale to nearest, away
/// from zero in the middle. A number that is not finite makes the scale NaN, so that a reader sees
/// it.
template <element T>
q8_0 quantize_block(const T* from, index_t stride) noexcept {
  const auto at = [&](index_t i) {
    return static_cast<float>(static_cast<accumulator_t<T>>(from[i * stride]));
  };
  float greatest = 0;
  bool finite = true;
  for (index_t i = 0; i < q8_0::size; ++i) {
    const float size = at(i) < 0.0f ? -at(i) : at(i);
    finite = finite && is_finite(size);
    greatest = size > greatest ? size : greatest;
  }
  q8_0 block;
  block.scale = finite ? float16(greatest / 127.0f) : float16::from_bits(0x7e00u);
  const float scale = static_cast<float>(block.scale);
  for (index_t i = 0; i < q8_0::size; ++i) {
    const float x = finite && scale > 0.0f ? ::roundf(at(i) / scale) : 0.0f;
    block.values[i] = static_cast<std::int8_t>(x > 127.0f ? 127.0f : x < -127.0f ? -127.0f : x);
  }
  return block;
}

}  // namespace impl

/// Rounds rows to blocks of 32 integers with a scale each. Numbers of which the greatest in a block
/// is above 127 * 65504 overflow the scale.
///
/// @param from  [batch, num_heads, length, dim], any strides; dim a multiple of 32
/// @param to    [batch, num_heads, length, dim / 32], overwritten
/// @throws invalid_argument for what does not fit, before anything is written
template <class T>
  requires element<std::remove_const_t<T>>
void quantize(const tensor_view<T, 4>& from, const tensor_view<q8_0, 4>& to) {
  constexpr const char* function = "quantize";
  impl::call_tensors tensors(function);
  tensors.read("from", from);
  tensors.written("to", to);
  impl::check_extent(function, "to", to, 0, "batch", from.extent(0));
  impl::check_extent(function, "to", to, 1, "num_heads", from.extent(1));
  impl::check_extent(function, "to", to, 2, "length", from.extent(2));
  if (from.extent(3) % q8_0::size != 0)
    impl::fail(function, "from dim 3 (dim)", "a multiple of 32", std::to_string(from.extent(3)));
  impl::check_extent(function, "to", to, 3, "dim / 32", from.extent(3) / q8_0::size);
  for (index_t b = 0; b < to.extent(0); ++b)
    for (index_t h = 0; h < to.extent(1); ++h)
      for (index_t j = 0; j < to.extent(2); ++j)
        for (index_t n = 0; n < to.extent(3); ++n)
          to(b, h, j, n) =
              impl::quantize_block(from.pointer(b, h, j, n * q8_0::size), from.stride(3));
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
