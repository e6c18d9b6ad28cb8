// SPDX-License-Identifier: Apache-2.0
// Checks of callers' tensors, all before anything is written (layer: apply). Messages read
// `function: argument dim (name): expected X, got Y`.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>

#include "zerotune/core/error.hpp"
#include "zerotune/core/tensor_view.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// The bytes that a view touches: from begin, one before end, and the steps between them.
struct footprint {
  std::uintptr_t begin = 0, end = 0;
  struct dimension {
    std::uintptr_t step, reach;  // bytes from one index to the next, and from first to last
  };
  dimension dimensions[4] = {};
  int rank = 0;
  std::uintptr_t element_size = 0;
};

inline bool multiply(index_t a, index_t b, index_t* product) {
  return !__builtin_mul_overflow(a, b, product);
}

template <class T, std::size_t Rank>
footprint check_memory(const char* function, const char* name, const tensor_view<T, Rank>& view) {
  index_t elements = 1, low = 0, high = 0;
  for (std::size_t i = 0; i < Rank; ++i) {
    // Made where it is needed: a longer name's is an allocation.
    const auto dim = [&] { return std::string(name) + " dim " + std::to_string(i); };
    if (view.extent(i) < 0) fail(function, dim(), "an extent >= 0", std::to_string(view.extent(i)));
    index_t reach = 0;
    if (view.stride(i) == std::numeric_limits<index_t>::min())
      fail(function, dim(), "a stride that fits 64 bits", std::to_string(view.stride(i)));
    if (view.extent(i) > 0 && !multiply(view.extent(i) - 1, view.stride(i), &reach))
      fail(function, dim(), "a stride that fits 64 bits", std::to_string(view.stride(i)));
    if (__builtin_add_overflow(reach < 0 ? low : high, reach, reach < 0 ? &low : &high) ||
        !multiply(elements, view.extent(i), &elements))
      fail(function, dim(), "a tensor that fits 64 bits", std::to_string(view.extent(i)));
  }
  if (elements == 0) return {};
  index_t span = 0, bytes = 0;
  if (__builtin_sub_overflow(high, low, &span) || __builtin_add_overflow(span, 1, &span) ||
      !multiply(span, static_cast<index_t>(sizeof(T)), &bytes))
    fail(function, name, "a tensor that fits 64 bits",
         "elements from " + std::to_string(low) + " to " + std::to_string(high));
  if (view.data() == nullptr) fail(function, std::string(name) + " data", "a pointer", "null");
  const auto address = reinterpret_cast<std::uintptr_t>(view.data());
  if (address % alignof(T) != 0)
    fail(function, std::string(name) + " data",
         "alignment to " + std::to_string(alignof(T)) + " bytes",
         "an address off by " + std::to_string(address % alignof(T)));
  footprint result;
  result.begin = address + static_cast<std::uintptr_t>(low) * sizeof(T);
  result.end = result.begin + static_cast<std::uintptr_t>(bytes);
  result.element_size = sizeof(T);
  for (std::size_t i = 0; i < Rank; ++i) {
    const index_t stride = view.stride(i) < 0 ? -view.stride(i) : view.stride(i);
    const auto step = static_cast<std::uintptr_t>(stride) * sizeof(T);
    const auto reach = step * static_cast<std::uintptr_t>(view.extent(i) - 1);
    if (reach > 0) result.dimensions[result.rank++] = {step, reach};
  }
  return result;
}

/// An output: as check_memory, and each element has a place of its own.
template <class T, std::size_t Rank>
footprint check_output(const char* function, const char* name, const tensor_view<T, Rank>& view) {
  const footprint bytes = check_memory(function, name, view);
  if (view.empty()) return bytes;
  for (std::size_t i = 0; i < Rank; ++i) {
    if (view.extent(i) == 1) continue;
    const index_t step = view.stride(i) < 0 ? -view.stride(i) : view.stride(i);
    index_t inner = 0;  // reach of the dimensions with smaller steps
    for (std::size_t j = 0; j < Rank; ++j) {
      const index_t other = view.stride(j) < 0 ? -view.stride(j) : view.stride(j);
      if (j != i && view.extent(j) > 1 && (other < step || (other == step && j > i)))
        inner += (view.extent(j) - 1) * other;
    }
    if (step <= inner)
      fail(function, std::string(name) + " stride " + std::to_string(i),
           "strides that give every element of an output its own place",
           std::to_string(view.stride(i)));
  }
  return bytes;
}

/// Bytes that a footprint covers modulo a period: its steps are multiples of the period, or lie
/// within it. 0 if neither holds.
inline std::uintptr_t width_within(const footprint& f, std::uintptr_t period) {
  std::uintptr_t width = f.element_size;
  for (int i = 0; i < f.rank; ++i)
    if (f.dimensions[i].step % period != 0) width += f.dimensions[i].reach;
  return width <= period ? width : 0;
}

/// True if the two share no byte for sure: apart, or interleaved with a common period (the columns
/// of one tensor, the parts of a packed query-key-value tensor).
inline bool is_disjoint(const footprint& a, const footprint& b) {
  if (a.end <= b.begin || b.end <= a.begin) return true;
  for (const footprint* f : {&a, &b})
    for (int i = 0; i < f->rank; ++i) {
      const std::uintptr_t period = f->dimensions[i].step;
      const std::uintptr_t width_a = width_within(a, period), width_b = width_within(b, period);
      if (width_a == 0 || width_b == 0) continue;
      const std::uintptr_t from_a = (b.begin % period + period - a.begin % period) % period;
      if (from_a >= width_a && from_a + width_b <= period) return true;
    }
  return false;
}

/// @param part  what of `input` b is, as in " block_table"
inline void check_disjoint(const char* function, const char* output, const footprint& a,
                           const char* input, const footprint& b, const char* part = "") {
  if (!is_disjoint(a, b))
    fail(function, output, std::string("memory apart from ") + input + part, "overlapping memory");
}

/// The tensors of one call: what it writes lies apart from all that was named before.
class call_tensors {
 public:
  explicit call_tensors(const char* function) : function_(function) {}

  /// An input. @param part  what of `name` it is, as in " block_table"; a literal, like `name`
  template <class T, std::size_t Rank>
  void read(const char* name, const tensor_view<T, Rank>& view, const char* part = "") {
    add(name, part,
        *part ? check_memory(function_, (std::string(name) + part).c_str(), view)
              : check_memory(function_, name, view));
  }
  /// An output.
  template <class T, std::size_t Rank>
  void written(const char* name, const tensor_view<T, Rank>& view) {
    add_apart(name, check_output(function_, name, view));
  }
  /// Memory without a shape that matters.
  template <class T>
  void scratch(const char* name, const tensor_view<T, 1>& view) {
    add_apart(name, check_memory(function_, name, view));
  }

 private:
  void add_apart(const char* name, const footprint& memory) {
    for (int i = 0; i < count_; ++i)
      check_disjoint(function_, name, memory, tensors_[i].name, tensors_[i].memory,
                     tensors_[i].part);
    add(name, "", memory);
  }
  void add(const char* name, const char* part, const footprint& memory) {
    tensors_[count_++] = {name, part, memory};
  }

  struct named {
    const char* name;
    const char* part;
    footprint memory;
  };
  const char* function_;
  int count_ = 0;
  named tensors_[16];  // one call has no more
};

template <class T, std::size_t Rank>
void check_extent(const char* function, const char* name, const tensor_view<T, Rank>& view,
                  std::size_t dim, const char* dim_name, index_t expected) {
  if (view.extent(dim) != expected)
    fail(function, std::string(name) + " dim " + std::to_string(dim) + " (" + dim_name + ")",
         std::to_string(expected), std::to_string(view.extent(dim)));
}

/// A view of fewer dimensions with leading dimensions of extent 1 added.
template <class T, std::size_t Rank, class Memory>
  requires(Rank <= 4)
tensor_view<T, 4, Memory> with_leading_ones(const tensor_view<T, Rank, Memory>& view) {
  index_t extents[4] = {1, 1, 1, 1}, strides[4] = {};
  for (std::size_t i = 0; i < Rank; ++i) {
    extents[4 - Rank + i] = view.extent(i);
    strides[4 - Rank + i] = view.stride(i);
  }
  return {view.data(), extents, strides};
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
