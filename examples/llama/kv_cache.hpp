// SPDX-License-Identifier: Apache-2.0
// The keys and values of one sequence, all layers, and the tokens that they belong to.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "llama/config.hpp"
#include "llama/matrix.hpp"
#include "zerotune/core/tensor_view.hpp"

namespace llama {

/// One sequence's keys (after rotary embedding) and values. Row = position; a row holds
/// [num_kv_heads, head_dim]. Memory grows geometrically and is kept by truncate().
/// Not thread-safe; different caches may be used by different threads.
class kv_cache {
 public:
  using view = zerotune::tensor_view<const float, 4>;

  /// An empty cache for a model of this shape; no memory yet.
  explicit kv_cache(const model_config& config);
  kv_cache(int num_layers, int num_kv_heads, int head_dim);

  kv_cache(kv_cache&&) noexcept = default;
  kv_cache& operator=(kv_cache&&) noexcept = default;

  /// Tokens that every layer holds keys and values of.
  std::int64_t length() const { return static_cast<std::int64_t>(tokens_.size()); }
  std::int64_t capacity() const { return capacity_; }
  int num_layers() const { return num_layers_; }
  int num_kv_heads() const { return num_kv_heads_; }
  int head_dim() const { return head_dim_; }
  std::span<const int> tokens() const { return tokens_; }

  /// Makes room for this many tokens in all. @throws std::bad_alloc, and nothing has changed
  void reserve(std::int64_t length);

  /// Forgets all tokens from `length` on.
  /// @throws std::invalid_argument unless 0 <= length <= length()
  void truncate(std::int64_t length);

  /// Becomes a copy of the first `length` tokens of another cache, so that sequences with a common
  /// beginning compute it once. Costs a copy of 2 * num_layers * kv_dim floats a token.
  /// @throws std::invalid_argument for another shape or a length beyond other.length();
  ///         std::bad_alloc, and nothing has changed
  void assign_prefix(const kv_cache& other, std::int64_t length);

  /// @name What forward() uses
  /// @{

  /// Row `position` of a layer, [num_kv_heads * head_dim]. @pre position < capacity()
  float* key_row(int layer, std::int64_t position) {
    return keys_.data() + offset(layer, position);
  }
  float* value_row(int layer, std::int64_t position) {
    return values_.data() + offset(layer, position);
  }
  /// The first `length` rows of a layer as [1, num_kv_heads, length, head_dim].
  view keys(int layer, std::int64_t length) const { return view_of(keys_, layer, length); }
  view values(int layer, std::int64_t length) const { return view_of(values_, layer, length); }
  /// Copies the first `length` rows of one layer. @pre both caches are of one shape and have room
  void assign_layer(const kv_cache& other, int layer, std::int64_t length);
  /// Declares that the rows of these tokens, which follow the present ones, have been written.
  /// @pre reserve() has made room for them: then it does not throw
  void commit(std::span<const int> tokens);
  /// @}

 private:
  std::int64_t offset(int layer, std::int64_t position) const {
    return (layer * capacity_ + position) * row_size_;
  }
  view view_of(const matrix& rows, int layer, std::int64_t length) const {
    return view(rows.data() + offset(layer, 0), {1, num_kv_heads_, length, head_dim_},
                {length * row_size_, head_dim_, row_size_, 1});
  }

  int num_layers_, num_kv_heads_, head_dim_;
  std::int64_t row_size_;
  std::int64_t capacity_ = 0;
  std::vector<int> tokens_;
  matrix keys_, values_;  // [num_layers * capacity, row_size]
};

}  // namespace llama
