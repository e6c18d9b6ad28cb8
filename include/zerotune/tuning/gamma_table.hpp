// SPDX-License-Identifier: Apache-2.0
// gamma_table: gamma[layer][head] (layer: tuning). What a search finds, a profile stores and
// `initial_token{table.row(layer)}` applies.
#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "zerotune/core/error.hpp"
#include "zerotune/core/tensor_view.hpp"
#include "zerotune/policy/limits.hpp"

namespace zerotune {

/// A query head of a layer.
struct head_index {
  index_t layer = 0;
  index_t head = 0;
  friend bool operator==(const head_index&, const head_index&) = default;
};

inline namespace ZEROTUNE_ABI {

/// Some of `count` layers or heads: `30` stands for all thirty, `{30, {0, 4}}` for two of them.
class chosen {
 public:
  chosen(index_t count) : count_(count), all_(true) {}
  chosen(index_t count, std::vector<index_t> which)
      : count_(count), which_(std::move(which)), all_(false) {}

  index_t count() const { return count_; }

  /// The chosen indices, in the order given.
  /// @throws invalid_argument naming the entry that is out of range or given twice
  std::vector<index_t> indices(const char* function, const char* name) const {
    if (count_ < 0)
      impl::fail(function, std::string(name) + " count", "at least 0", std::to_string(count_));
    std::vector<bool> seen(static_cast<std::size_t>(count_), all_);
    std::vector<index_t> result = which_;
    if (all_)
      for (index_t i = 0; i < count_; ++i) result.push_back(i);
    for (std::size_t i = 0; i < which_.size(); ++i) {
      const index_t index = which_[i];
      const std::string entry = std::string(name) + "[" + std::to_string(i) + "]";
      if (index < 0 || index >= count_)
        impl::fail(function, entry, "an index in [0, " + std::to_string(count_) + ")",
                   std::to_string(index));
      if (seen[static_cast<std::size_t>(index)])
        impl::fail(function, entry, "an index not given before", std::to_string(index));
      seen[static_cast<std::size_t>(index)] = true;
    }
    return result;
  }

 private:
  index_t count_;
  std::vector<index_t> which_;
  bool all_;
};

/// One gamma per layer and query head; owns its values. Equal tables have equal shapes and values.
class gamma_table {
 public:
  /// No layers: what a profile holds before it is read.
  gamma_table() = default;

  /// @param layers  number of layers, >= 0
  /// @param heads   query heads per layer, >= 0
  /// @param value   gamma of each; 1 leaves the model as it is
  /// @throws invalid_argument for a negative count or a gamma that is negative, NaN or infinite
  gamma_table(index_t layers, index_t heads, float value = 1.0f) : layers_(layers), heads_(heads) {
    check_counts("gamma_table", layers, heads);
    check_gamma("gamma_table", "value", value);
    values_.assign(static_cast<std::size_t>(layers * heads), value);
  }

  /// The paper's pseudo-code: the chosen heads of the chosen layers get the factor, all others 1.
  /// `gamma_table::from(30, {9, {1, 4}}, 2.0f)` doubles heads 1 and 4 of all thirty layers.
  /// @throws invalid_argument for an index out of range or given twice, or an invalid factor
  static gamma_table from(const chosen& layers, const chosen& heads, float factor) {
    constexpr const char* name = "gamma_table::from";
    const std::vector<index_t> some_layers = layers.indices(name, "layers");
    const std::vector<index_t> some_heads = heads.indices(name, "heads");
    check_gamma(name, "factor", factor);
    gamma_table table(layers.count(), heads.count());
    for (const index_t layer : some_layers)
      for (const index_t head : some_heads) table.at(layer, head) = factor;
    return table;
  }

  /// The same for any set of heads.
  /// @param pairs  heads of layers, each in range and given once
  /// @throws invalid_argument for a pair out of range or given twice, or an invalid factor
  static gamma_table from(index_t layers, index_t heads, std::span<const head_index> pairs,
                          float factor) {
    constexpr const char* name = "gamma_table::from";
    check_counts(name, layers, heads);
    check_gamma(name, "factor", factor);
    gamma_table table(layers, heads);
    std::vector<bool> seen(table.values_.size());
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      const auto [layer, head] = pairs[i];
      const std::string entry = "pairs[" + std::to_string(i) + "]";
      if (layer < 0 || layer >= layers)
        impl::fail(name, entry + ".layer", "a layer in [0, " + std::to_string(layers) + ")",
                   std::to_string(layer));
      if (head < 0 || head >= heads)
        impl::fail(name, entry + ".head", "a head in [0, " + std::to_string(heads) + ")",
                   std::to_string(head));
      const std::size_t offset = table.offset(layer, head);
      if (seen[offset])
        impl::fail(name, entry, "a head not given before",
                   "layer " + std::to_string(layer) + " head " + std::to_string(head));
      seen[offset] = true;
      table.values_[offset] = factor;
    }
    return table;
  }
  static gamma_table from(index_t layers, index_t heads, std::initializer_list<head_index> pairs,
                          float factor) {
    return from(layers, heads, std::span<const head_index>(pairs.begin(), pairs.size()), factor);
  }

  index_t layers() const { return layers_; }
  index_t heads() const { return heads_; }
  bool empty() const { return values_.empty(); }

  /// @pre layer and head are in range. A value that is written is checked where it is used, or by
  /// validate().
  float& operator()(index_t layer, index_t head) { return at(layer, head); }
  float operator()(index_t layer, index_t head) const { return values_[offset(layer, head)]; }

  /// The gammas of one layer, [heads]: what `initial_token` takes. It is valid as long as the table
  /// lives and is not assigned to.
  /// @throws invalid_argument if there is no such layer
  tensor_view<const float, 1> row(index_t layer) const& {
    if (layer < 0 || layer >= layers_)
      impl::fail("gamma_table::row", "layer", "a layer in [0, " + std::to_string(layers_) + ")",
                 std::to_string(layer));
    return {values_.data() + offset(layer, 0), {heads_}};
  }
  /// A table that is about to end: the view would outlive it.
  tensor_view<const float, 1> row(index_t layer) const&& = delete;

  /// Every value, [layers][heads] in row-major order.
  std::span<const float> values() const { return values_; }

  /// Whether no value differs from 1, so that applying the table changes nothing.
  bool is_identity() const {
    for (const float value : values_)
      if (value != 1.0f) return false;
    return true;
  }

  /// @throws invalid_argument naming the first value that is negative, NaN or infinite
  void validate(const char* function = "gamma_table::validate") const {
    for (index_t layer = 0; layer < layers_; ++layer)
      for (index_t head = 0; head < heads_; ++head)
        if (const float value = (*this)(layer, head); !impl::is_valid_gamma(value))
          check_gamma(function,
                      "gamma[" + std::to_string(layer) + "][" + std::to_string(head) + "]", value);
  }

  friend bool operator==(const gamma_table&, const gamma_table&) = default;

 private:
  static void check_counts(const char* function, index_t layers, index_t heads) {
    constexpr index_t limit = index_t{1} << 31;  // of each, so that the product fits
    if (layers < 0 || layers >= limit)
      impl::fail(function, "layers", "a count in [0, 2^31)", std::to_string(layers));
    if (heads < 0 || heads >= limit)
      impl::fail(function, "heads", "a count in [0, 2^31)", std::to_string(heads));
  }
  static void check_gamma(const char* function, const std::string& what, float value) {
    if (!impl::is_valid_gamma(value))
      impl::fail(function, what, "a finite value >= 0",
                 impl::is_finite(value) ? impl::number(static_cast<double>(value))
                                        : "a value that is not finite");
  }
  std::size_t offset(index_t layer, index_t head) const {
    return static_cast<std::size_t>(layer * heads_ + head);
  }
  float& at(index_t layer, index_t head) { return values_[offset(layer, head)]; }

  index_t layers_ = 0;
  index_t heads_ = 0;
  std::vector<float> values_;
};

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
