// SPDX-License-Identifier: Apache-2.0
#include "llama/kv_cache.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace llama {

kv_cache::kv_cache(const model_config& config)
    : kv_cache(config.num_layers, config.num_kv_heads, config.head_dim) {}

kv_cache::kv_cache(int num_layers, int num_kv_heads, int head_dim)
    : num_layers_(num_layers),
      num_kv_heads_(num_kv_heads),
      head_dim_(head_dim),
      row_size_(std::int64_t{num_kv_heads} * head_dim) {}

void kv_cache::reserve(std::int64_t wanted) {
  tokens_.reserve(static_cast<std::size_t>(std::max<std::int64_t>(wanted, 0)));
  if (wanted <= capacity_) return;
  const std::int64_t grown = std::max({wanted, capacity_ + capacity_ / 2, std::int64_t{32}});
  tokens_.reserve(static_cast<std::size_t>(grown));
  matrix keys(num_layers_ * grown, row_size_), values(num_layers_ * grown, row_size_);
  for (int layer = 0; layer < num_layers_; ++layer) {
    const std::int64_t to = layer * grown * row_size_;
    std::copy_n(key_row(layer, 0), length() * row_size_, keys.data() + to);
    std::copy_n(value_row(layer, 0), length() * row_size_, values.data() + to);
  }
  keys_ = std::move(keys);
  values_ = std::move(values);
  capacity_ = grown;
}

void kv_cache::truncate(std::int64_t wanted) {
  if (wanted < 0 || wanted > length())
    throw std::invalid_argument("kv_cache::truncate: length: expected a value in [0, " +
                                std::to_string(length()) + "], got " + std::to_string(wanted));
  tokens_.resize(static_cast<std::size_t>(wanted));
}

void kv_cache::assign_prefix(const kv_cache& other, std::int64_t wanted) {
  if (other.num_layers_ != num_layers_ || other.num_kv_heads_ != num_kv_heads_ ||
      other.head_dim_ != head_dim_)
    throw std::invalid_argument(
        "kv_cache::assign_prefix: other: expected a cache of the same numbers of layers, "
        "key-value heads and head dimensions, got another");
  if (wanted < 0 || wanted > other.length())
    throw std::invalid_argument("kv_cache::assign_prefix: length: expected a value in [0, " +
                                std::to_string(other.length()) + "], got " +
                                std::to_string(wanted));
  if (&other == this) return truncate(wanted);
  reserve(wanted);
  for (int layer = 0; layer < num_layers_; ++layer) assign_layer(other, layer, wanted);
  tokens_.assign(other.tokens_.begin(), other.tokens_.begin() + wanted);
}

void kv_cache::assign_layer(const kv_cache& other, int layer, std::int64_t wanted) {
  std::copy_n(other.keys_.data() + other.offset(layer, 0), wanted * row_size_, key_row(layer, 0));
  std::copy_n(other.values_.data() + other.offset(layer, 0), wanted * row_size_,
              value_row(layer, 0));
}

void kv_cache::commit(std::span<const int> tokens) {
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
}

}  // namespace llama
