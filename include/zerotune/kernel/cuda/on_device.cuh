// SPDX-License-Identifier: Apache-2.0
// on_device: a modifier whose tables lie in device memory and were checked when they were put there
// (layer: kernel). Built by to_device (apply/cuda/device_table.cuh), used like the modifier itself.
#pragma once

#include <string>

#include "zerotune/core/error.hpp"
#include "zerotune/kernel/cuda/rows.cuh"
#include "zerotune/policy/alibi.hpp"
#include "zerotune/policy/token_span.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

namespace cuda {
struct table_builder;
}

/// A checked modifier with its tables in device memory. It composes with the others (causal{} |
/// sink); the tables must outlive the kernels that use it.
template <modifier Modifier>
class on_device {
 public:
  template <class Batch>
    requires bias_modifier<Modifier> ZEROTUNE_HOST_DEVICE Batch log_bias(row r, Batch kv_pos)
  const { return modifier_.log_bias(r, kv_pos); }
  ZEROTUNE_HOST_DEVICE range visible(row r) const { return visible_keys(modifier_, r); }
  ZEROTUNE_HOST_DEVICE range support(row r) const { return changed_keys(modifier_, r); }
  ZEROTUNE_HOST_DEVICE tile_effect effect(head_of head, range q, range kv) const {
    return modifier_.effect(head, q, kv);
  }
  ZEROTUNE_HOST_DEVICE float gamma(index_t head) const { return modifier_.gamma(head); }
  ZEROTUNE_HOST_DEVICE index_t position(index_t batch) const { return modifier_.position(batch); }

  /// Compares the shape with the one that the tables were checked for; reads no table.
  /// @throws invalid_argument if the tables are of another shape
  void check(const char* function, const attention_shape& shape) const {
    if (num_heads_ >= 0 && num_heads_ != shape.num_heads)
      impl::fail(function, "device table (num_heads)", std::to_string(shape.num_heads),
                 std::to_string(num_heads_));
    check_positions(function, shape);
  }
  /// The same for functions that use the positions alone.
  void check_positions(const char* function, const attention_shape& shape) const {
    if (batch_ >= 0 && batch_ != shape.batch)
      impl::fail(function, "device table (batch)", std::to_string(shape.batch),
                 std::to_string(batch_));
    if (last_position_ >= shape.kv_len)
      impl::fail(function, "initial token position",
                 "a position in [0, " + std::to_string(shape.kv_len) + ")",
                 std::to_string(last_position_));
  }

 private:
  friend struct cuda::table_builder;
  explicit on_device(const Modifier& m) : modifier_(m) {}

  Modifier modifier_;
  index_t num_heads_ = -1, batch_ = -1, last_position_ = -1;  // -1: no table depends on it
};

namespace cuda {

template <class Modifier>
inline constexpr support_width support_of<on_device<Modifier>> = support_of<Modifier>;

/// Modifiers whose views a kernel must not read as they are: to_device first.
template <class Modifier>
inline constexpr bool holds_host_views = false;
template <>
inline constexpr bool holds_host_views<initial_token> = true;
template <>
inline constexpr bool holds_host_views<token_span> = true;
template <>
inline constexpr bool holds_host_views<alibi> = true;
template <class First, class Second>
inline constexpr bool holds_host_views<composition<First, Second>> =
    holds_host_views<First> || holds_host_views<Second>;

}  // namespace cuda
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
