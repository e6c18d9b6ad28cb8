// SPDX-License-Identifier: Apache-2.0
// Key-value caches that decode reads (layer: apply): dense tensors and pages with a block table, of
// float, half or q8_0.
#pragma once

#include "zerotune/apply/checks.hpp"
#include "zerotune/kernel/decode.hpp"

namespace zerotune {

/// Keys or values in pages, as a server allocates them: position j of sequence b is row
/// j % page_size of page block_table(b, j / page_size).
template <class T>
struct paged_cache {
  /// [num_pages, num_kv_heads, page_size, head_dim], any strides; q8_0: [.., head_dim / 32]
  tensor_view<T, 4> pages;
  /// [batch, max_pages]; entries beyond a sequence's length are never read
  tensor_view<const std::int32_t, 2> block_table;
};
// Compilers that do not deduce an aggregate's arguments (Clang before 17) need to be told.
template <class T, class Table>
paged_cache(tensor_view<T, 4>, tensor_view<Table, 2>) -> paged_cache<T>;

inline namespace ZEROTUNE_ABI {
namespace impl {

/// A cache as a tensor [batch, num_kv_heads, kv_len, dim], dim in numbers.
struct cache_shape {
  index_t batch = 0, num_kv_heads = 0, kv_len = 0, dim = 0;
};

/// What decode asks of a cache: its cells, its shape, rows of one head, and its checks.
template <class Cache>
struct cache_access;

template <class T>
struct cache_access<tensor_view<T, 4>> {
  using cell = std::remove_const_t<T>;
  using view = tensor_view<T, 4>;

  static cache_shape check(const char* function, const char* name, const view& cache) {
    check_memory(function, name, cache);
    return {cache.extent(0), cache.extent(1), cache.extent(2), cache.extent(3) * cell_size<cell>};
  }
  static void check_lengths(const char*, const char*, const view&, const geometry&) {}
  static void read(call_tensors& tensors, const char* name, const view& cache) {
    tensors.read(name, cache);
  }
  static kv_rows<cell> rows(const view& cache, index_t batch, index_t kv_head) {
    return {cache.pointer(batch, kv_head, 0, 0), cache.stride(2), cache.stride(3)};
  }
};

template <class T>
struct cache_access<paged_cache<T>> {
  using cell = std::remove_const_t<T>;
  using view = paged_cache<T>;

  static cache_shape check(const char* function, const char* name, const view& cache) {
    const std::string table = std::string(name) + " block_table";
    check_memory(function, name, cache.pages);
    check_memory(function, table.c_str(), cache.block_table);
    if (cache.pages.extent(2) < 1)
      fail(function, std::string(name) + " pages dim 2 (page_size)", "at least 1",
           std::to_string(cache.pages.extent(2)));
    index_t kv_len = 0;
    if (!multiply(cache.block_table.extent(1), cache.pages.extent(2), &kv_len))
      fail(function, table + " dim 1 (max_pages)", "a length that fits 64 bits",
           std::to_string(cache.block_table.extent(1)));
    return {cache.block_table.extent(0), cache.pages.extent(1), kv_len,
            cache.pages.extent(3) * cell_size<cell>};
  }
  /// Entries of pages that hold no key of the sequence may be anything.
  static void check_lengths(const char* function, const char* name, const view& cache,
                            const geometry& g) {
    const index_t page_size = cache.pages.extent(2);
    for (index_t b = 0; b < g.shape.batch; ++b)
      for (index_t n = 0; n * page_size < g.kv_length(b); ++n)
        if (cache.block_table(b, n) < 0 || cache.block_table(b, n) >= cache.pages.extent(0))
          fail(function,
               std::string(name) + " block_table[" + std::to_string(b) + ", " + std::to_string(n) +
                   "]",
               "a page in [0, " + std::to_string(cache.pages.extent(0)) + ")",
               std::to_string(cache.block_table(b, n)));
  }
  static void read(call_tensors& tensors, const char* name, const view& cache) {
    tensors.read(name, cache.pages);
    tensors.read(name, cache.block_table, " block_table");
  }
  static kv_rows<cell> rows(const view& cache, index_t batch, index_t kv_head) {
    return {cache.pages.pointer(0, kv_head, 0, 0),
            cache.pages.stride(2),
            cache.pages.stride(3),
            cache.block_table.pointer(batch, 0),
            cache.block_table.stride(1),
            cache.pages.stride(0),
            cache.pages.extent(2)};
  }
};

template <class Cache>
using cache_cell = typename cache_access<Cache>::cell;

}  // namespace impl

/// A dense or paged cache of elements or q8_0.
template <class Cache>
concept key_value_cache = requires {
  requires cache_element<impl::cache_cell<Cache>>;
};

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
