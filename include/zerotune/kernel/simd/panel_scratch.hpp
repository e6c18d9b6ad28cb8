// SPDX-License-Identifier: Apache-2.0
// The memory that a task of attention works in (layer: kernel).
#pragma once

#include "zerotune/kernel/attention_problem.hpp"
#include "zerotune/kernel/simd/panel.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// Scratch memory of a task, carved up: scores and weights of one block of keys, the keys and
/// values of a section of several, and the panels.
template <class Products>
struct panel_scratch {
  using shape = typename Products::shape;
  using real = typename Products::real;
  using element = typename Products::element;
  using weight = typename Products::weight;

  real *scores, *shrink;
  weight* weights;
  panel<shape>* panels;
  key_block<element>* blocks;

  /// Bytes of what all panels share, of one block of keys and of one panel.
  static index_t shared_bytes(index_t keys) {
    return bytes<real>(keys * shape::width) + bytes<real>(shape::width) +
           bytes<weight>(Products::weight_size(keys));
  }
  static index_t block_bytes(index_t keys, index_t head_dim, index_t value_dim) {
    return bytes<key_block<element>>(1) + bytes<element>(Products::key_size(keys, head_dim)) +
           bytes<element>(Products::value_size(keys, value_dim));
  }
  static index_t panel_bytes(index_t head_dim, index_t value_dim) {
    return bytes<panel<shape>>(1) + bytes<real>(Products::query_size(head_dim)) +
           bytes<real>(Products::output_size(value_dim));
  }

  panel_scratch(std::byte* memory, const attention_tiling& tiling, index_t head_dim,
                index_t value_dim) {
    const index_t keys = tiling.key_block, num_panels = tiling.panels_per_task;
    take(memory, keys * shape::width, scores);
    take(memory, shape::width, shrink);
    take(memory, Products::weight_size(keys), weights);
    blocks = reinterpret_cast<key_block<element>*>(memory);
    memory += tiling.blocks_per_section * bytes<key_block<element>>(1);
    for (index_t i = 0; i < tiling.blocks_per_section; ++i) {
      take(memory, Products::key_size(keys, head_dim), blocks[i].keys);
      take(memory, Products::value_size(keys, value_dim), blocks[i].values);
    }
    panels = reinterpret_cast<panel<shape>*>(memory);
    memory += num_panels * bytes<panel<shape>>(1);
    for (index_t i = 0; i < num_panels; ++i) {
      take(memory, Products::query_size(head_dim), panels[i].q);
      take(memory, Products::output_size(value_dim), panels[i].out);
    }
  }

 private:
  template <class T>
  static constexpr index_t bytes(index_t count) {
    return round_up(count * static_cast<index_t>(sizeof(T)), 64);
  }
  template <class T>
  static void take(std::byte*& memory, index_t count, T*& begin) {
    begin = reinterpret_cast<T*>(memory);
    memory += bytes<T>(count);
  }
};

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
