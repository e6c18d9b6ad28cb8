// SPDX-License-Identifier: Apache-2.0
// One gamma, or one per query head, and where initial tokens stand (layer: policy).
#pragma once

#include <concepts>
#include <cstdint>
#include <string>

#include "zerotune/core/error.hpp"
#include "zerotune/core/tensor_view.hpp"
#include "zerotune/policy/concepts.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

namespace impl {
/// @param name  in two words, which are put together (an allocation) for a message alone
/// @throws invalid_argument for a list without memory or off its alignment
template <class T>
void check_list(const char* function, const char* name, const char* more,
                const tensor_view<T, 1>& list) {
  if (list.extent(0) <= 0) return;
  const auto data = [&] { return std::string(name) + ' ' + more + " data"; };
  if (!list.data()) fail(function, data(), "a pointer", "null");
  const auto address = reinterpret_cast<std::uintptr_t>(list.data());
  if (address % alignof(T) != 0)
    fail(function, data(), "alignment to " + std::to_string(alignof(T)) + " bytes",
         "an address off by " + std::to_string(address % alignof(T)));
}

/// @throws invalid_argument unless positions is empty or one position in [0, kv_len) per sequence;
///         without keys any will do
inline void check_positions(const char* function, const tensor_view<const index_t, 1>& positions,
                            index_t batch, index_t kv_len) {
  if (!positions.data()) return;
  if (positions.extent(0) != batch)
    fail(function, "initial token positions dim 0 (batch)", std::to_string(batch),
         std::to_string(positions.extent(0)));
  check_list(function, "initial token", "positions", positions);
  if (kv_len == 0) return;
  for (index_t b = 0; b < batch; ++b)
    if (positions(b) < 0 || positions(b) >= kv_len)
      fail(function, "initial token positions[" + std::to_string(b) + "]",
           "a position in [0, " + std::to_string(kv_len) + ")", std::to_string(positions(b)));
}
}  // namespace impl

/// One factor for all query heads, or a view of one per query head that must outlive its use.
class head_gammas {
 public:
  ZEROTUNE_HOST_DEVICE constexpr head_gammas(float gamma) : gamma_(gamma) {}
  ZEROTUNE_HOST_DEVICE constexpr head_gammas(tensor_view<const float, 1> gammas)
      : gammas_(gammas), per_head_(true) {}
  ZEROTUNE_HOST_DEVICE constexpr head_gammas(tensor_view<float, 1> gammas)
      : head_gammas(tensor_view<const float, 1>(gammas)) {}
  /// Gammas are float: a table of integers would be rounded to 0 and 1 sooner or later.
  template <class T>
    requires(!std::same_as<std::remove_const_t<T>, float>)
  head_gammas(tensor_view<T, 1>)
  = delete;

  ZEROTUNE_HOST_DEVICE constexpr float operator[](index_t head) const {
    return per_head_ ? gammas_(head) : gamma_;
  }
  ZEROTUNE_HOST_DEVICE constexpr bool per_head() const { return per_head_; }

  /// @throws invalid_argument if the number of heads differs, or a gamma is negative, NaN or
  ///         infinite
  void check(const char* function, const char* name, index_t num_heads) const {
    if (per_head_ && gammas_.extent(0) != num_heads)
      impl::fail(function, std::string(name) + " gamma dim 0 (num_heads)",
                 std::to_string(num_heads), std::to_string(gammas_.extent(0)));
    if (per_head_) impl::check_list(function, name, "gamma", gammas_);
    for (index_t head = 0; head < (per_head_ ? num_heads : 1); ++head)
      if (!impl::is_valid_gamma((*this)[head]))
        impl::fail(function, std::string(name) + " gamma[" + std::to_string(head) + "]",
                   "a finite value >= 0", describe((*this)[head]));
  }

 private:
  static std::string describe(float value) {
    if (impl::is_finite(value)) return impl::number(static_cast<double>(value));
    const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, value);
    if ((bits & 0x7fffffu) != 0) return "NaN";
    return bits >> 31 ? "-inf" : "+inf";
  }

  tensor_view<const float, 1> gammas_;
  float gamma_ = 1.0f;
  bool per_head_ = false;
};

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
