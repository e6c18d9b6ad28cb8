// SPDX-License-Identifier: Apache-2.0
// Tables for kernels (layer: apply): gammas, positions, sequences and pages are checked here, on
// the host, and copied to device memory of the caller; kernels take them as valid.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "zerotune/apply/checks.hpp"
#include "zerotune/kernel/cuda/launcher.cuh"
#include "zerotune/kernel/cuda/on_device.cuh"

namespace zerotune {

/// A checked table of sequences in device memory, or (default) none: all sequences are as long as
/// the tensors and the queries are the last positions. Made by to_device.
class device_sequences {
 public:
  device_sequences() = default;

  bool given() const { return data_ != nullptr; }
  const device_sequence* data() const { return data_; }
  index_t batch() const { return batch_; }
  /// Length of the longest sequence, and rows that packed tensors must have.
  index_t max_q_length() const { return max_q_length_; }
  index_t max_kv_length() const { return max_kv_length_; }
  index_t q_rows() const { return q_rows_; }
  index_t kv_rows() const { return kv_rows_; }

  /// @throws invalid_argument if the table is of another batch, or longer than the tensors
  void check(const char* function, const attention_shape& shape) const {
    if (batch_ != shape.batch)
      impl::fail(function, "sequences (batch)", std::to_string(shape.batch),
                 std::to_string(batch_));
    if (max_q_length_ > shape.q_len)
      impl::fail(function, "sequences q_length", "at most " + std::to_string(shape.q_len),
                 std::to_string(max_q_length_));
    if (max_kv_length_ > shape.kv_len)
      impl::fail(function, "sequences kv_length", "at most " + std::to_string(shape.kv_len),
                 std::to_string(max_kv_length_));
  }

 private:
  friend struct cuda::table_builder;
  const device_sequence* data_ = nullptr;
  index_t batch_ = 0, max_q_length_ = 0, max_kv_length_ = 0, q_rows_ = 0, kv_rows_ = 0;
};

/// A table of the pages of key-value caches in device memory, [batch, pages per sequence], or
/// (default) none: the keys are contiguous. Key j of sequence b is row j % page_size of page
/// table[b, j / page_size] of k and v, which are then [num_pages, num_kv_heads, page_size, dim].
class device_pages {
 public:
  using view = tensor_view<const std::int32_t, 2, device_memory>;

  device_pages() = default;
  /// A table that the caller's own kernels write. Nobody can check it: an entry of a page that
  /// holds keys of its sequence must be a page of k and v, or the attention reads outside of them.
  static device_pages unchecked(const view& table) { return device_pages(table, 0); }

  bool given() const { return table_.data() != nullptr; }
  const view& table() const { return table_; }
  /// Pages that the entries were checked against; 0: not checked.
  index_t num_pages() const { return num_pages_; }

 private:
  friend struct cuda::table_builder;
  device_pages(const view& table, index_t num_pages) : table_(table), num_pages_(num_pages) {}
  view table_{};
  index_t num_pages_ = 0;
};

/// Device memory for the tables of one modifier, of one batch of sequences or of its pages.
using device_storage = tensor_view<std::byte, 1, device_memory>;

inline namespace ZEROTUNE_ABI {

/// Bytes that to_device needs for a modifier that is used with this shape.
constexpr index_t device_table_bytes(const attention_shape& shape) {
  return (shape.num_heads * static_cast<index_t>(sizeof(float)) + 15) / 16 * 16 +
         shape.batch * static_cast<index_t>(sizeof(index_t));
}
/// Bytes that to_device needs for a table of sequences.
constexpr index_t device_sequences_bytes(index_t batch) {
  return batch * static_cast<index_t>(sizeof(device_sequence));
}
/// Bytes that to_device needs for a table of pages.
constexpr index_t device_pages_bytes(index_t batch, index_t pages_per_sequence) {
  return batch * pages_per_sequence * static_cast<index_t>(sizeof(std::int32_t));
}

namespace cuda {

/// The only one that may call a modifier or table checked.
struct table_builder {
  static void check_storage(const char* function, const device_storage& storage, index_t bytes) {
    if (storage.extent(0) < bytes || (bytes > 0 && storage.data() == nullptr))
      impl::fail(function, "storage dim 0 (bytes)", "at least " + std::to_string(bytes),
                 std::to_string(storage.extent(0)));
    if (storage.stride(0) != 1)
      impl::fail(function, "storage stride 0", "1", std::to_string(storage.stride(0)));
    if (reinterpret_cast<std::uintptr_t>(storage.data()) % 16 != 0)
      impl::fail(function, "storage data", "alignment to 16 bytes", "less");
  }

  template <class Backend, class Gamma>
  static tensor_view<const float, 1> gammas(const Backend& backend, const char* function,
                                            const device_storage& storage, index_t num_heads,
                                            const Gamma& gamma) {
    std::vector<float> table;
    for (index_t head = 0; head < num_heads; ++head) table.push_back(gamma(head));
    launcher<Backend>::copy(backend, function, storage.data(), table.data(),
                            table.size() * sizeof(float));
    return {reinterpret_cast<const float*>(storage.data()), {num_heads}};
  }

  template <class Backend>
  static on_device<initial_token> build(const Backend& backend, const char* function,
                                        const initial_token& m, const attention_shape& shape,
                                        const device_storage& storage) {
    initial_token copy{gammas(backend, function, storage, shape.num_heads,
                              [&](index_t head) { return m.gamma(head); })};
    const bool has_positions = m.visible(row{}).begin != everywhere.begin;
    std::vector<index_t> positions;
    for (index_t b = 0; has_positions && b < shape.batch; ++b) positions.push_back(m.position(b));
    if (!positions.empty()) {
      std::byte* const to = storage.data() + (shape.num_heads * 4 + 15) / 16 * 16;
      launcher<Backend>::copy(backend, function, to, positions.data(),
                              positions.size() * sizeof(index_t));
      copy = copy.at({reinterpret_cast<const index_t*>(to), {shape.batch}});
    }
    on_device<initial_token> result{copy};
    result.num_heads_ = shape.num_heads;
    if (!positions.empty()) result.batch_ = shape.batch;
    for (const index_t position : positions)
      if (position > result.last_position_) result.last_position_ = position;
    return result;
  }

  template <class Backend>
  static on_device<token_span> build(const Backend& backend, const char* function,
                                     const token_span& m, const attention_shape& shape,
                                     const device_storage& storage) {
    on_device<token_span> result{
        token_span{m.tokens(), gammas(backend, function, storage, shape.num_heads,
                                      [&](index_t head) { return m.gamma(head); })}};
    result.num_heads_ = shape.num_heads;
    return result;
  }

  template <class Backend>
  static on_device<alibi> build(const Backend& backend, const char* function, const alibi& m,
                                const attention_shape& shape, const device_storage& storage) {
    on_device<alibi> result{alibi{gammas(backend, function, storage, shape.num_heads,
                                         [&](index_t head) { return m.slopes(head); })}};
    result.num_heads_ = shape.num_heads;
    return result;
  }

  /// The table, row by row, with every entry checked.
  static std::vector<std::int32_t> list_pages(const char* function,
                                              const tensor_view<const std::int32_t, 2>& pages,
                                              index_t num_pages) {
    std::vector<std::int32_t> list;
    for (index_t b = 0; b < pages.extent(0); ++b)
      for (index_t i = 0; i < pages.extent(1); ++i) {
        list.push_back(pages(b, i));
        if (list.back() < 0 || list.back() >= num_pages)
          impl::fail(function, "pages[" + std::to_string(b) + ", " + std::to_string(i) + "]",
                     "a page in [0, " + std::to_string(num_pages) + ")",
                     std::to_string(list.back()));
      }
    return list;
  }
  static device_pages checked_pages(const device_pages::view& table, index_t num_pages) {
    return device_pages(table, num_pages);
  }

  static device_sequences describe(const char* function, const device_sequence* sequences,
                                   index_t batch, const void* data) {
    device_sequences table;
    table.data_ = static_cast<const device_sequence*>(data);
    table.batch_ = batch;
    for (index_t b = 0; b < batch; ++b) {
      const device_sequence& s = sequences[b];
      const std::string name = "sequences[" + std::to_string(b) + "] ";
      const auto limit = index_t{1} << 40;
      const auto check = [&](const char* field, index_t value, index_t least) {
        if (value < least || value > limit)
          impl::fail(function, name + field, "a value in [" + std::to_string(least) + ", 2^40]",
                     std::to_string(value));
      };
      check("q_offset", s.q_offset, 0);
      check("q_length", s.q_length, 0);
      check("q_start", s.q_start, -limit);
      check("kv_offset", s.kv_offset, 0);
      check("kv_length", s.kv_length, 0);
      table.max_q_length_ = std::max(table.max_q_length_, s.q_length);
      table.max_kv_length_ = std::max(table.max_kv_length_, s.kv_length);
      table.q_rows_ = std::max(table.q_rows_, s.q_offset + s.q_length);
      table.kv_rows_ = std::max(table.kv_rows_, s.kv_offset + s.kv_length);
    }
    return table;
  }
};

}  // namespace cuda

/// Checks a modifier against the shape that it will be used with, copies its tables to the caller's
/// device memory on the stream and returns it as kernels take it; compose it with the others:
/// `causal{} | to_device(backend, initial_token{gammas}, shape, storage)`.
///
/// @param m        initial_token, token_span or alibi, over host memory
/// @param shape    batch and num_heads of the calls; kv_len of the longest
/// @param storage  [device_table_bytes(shape)] or more, 16-byte aligned; must outlive the kernels
/// @throws invalid_argument for a gamma, position or storage that does not fit, before anything is
///         copied; device_error if the copy fails
template <class Backend, modifier Modifier>
  requires(cuda::holds_host_views<Modifier>)
on_device<Modifier> to_device(const Backend& backend, const Modifier& m,
                              const attention_shape& shape, const device_storage& storage) {
  constexpr const char* function = "to_device";
  check_modifier(m, function, shape);
  cuda::table_builder::check_storage(function, storage, device_table_bytes(shape));
  return cuda::table_builder::build(backend, function, m, shape, storage);
}

/// Checks the sequences of a ragged batch and copies them to the caller's device memory.
///
/// @param sequences  [batch] in host memory
/// @param storage    [device_sequences_bytes(batch)] or more, 16-byte aligned; must outlive the
///                   kernels
/// @throws invalid_argument for an offset or length that does not fit; device_error
template <class Backend>
device_sequences to_device(const Backend& backend,
                           const tensor_view<const device_sequence, 1>& sequences,
                           const device_storage& storage) {
  constexpr const char* function = "to_device";
  const index_t batch = sequences.extent(0);
  if (batch < 1) impl::fail(function, "sequences dim 0 (batch)", "at least 1", "0");
  if (sequences.stride(0) != 1)
    impl::fail(function, "sequences stride 0", "1", std::to_string(sequences.stride(0)));
  cuda::table_builder::check_storage(function, storage, device_sequences_bytes(batch));
  const device_sequences table =
      cuda::table_builder::describe(function, sequences.data(), batch, storage.data());
  cuda::launcher<Backend>::copy(backend, function, storage.data(), sequences.data(),
                                static_cast<std::size_t>(device_sequences_bytes(batch)));
  return table;
}

/// Checks the pages of key-value caches and copies them to the caller's device memory.
///
/// @param pages      [batch, pages per sequence] in host memory; every entry is checked, those that
///                   hold no key yet may be any page (0)
/// @param num_pages  pages that the caches have: k.extent(0) of the calls or fewer
/// @param storage    [device_pages_bytes(batch, pages per sequence)] or more, 16-byte aligned; must
///                   outlive the kernels
/// @throws invalid_argument for a page that is none; device_error
template <class Backend>
device_pages to_device(const Backend& backend, const tensor_view<const std::int32_t, 2>& pages,
                       index_t num_pages, const device_storage& storage) {
  constexpr const char* function = "to_device";
  const index_t batch = pages.extent(0), count = pages.extent(1);
  if (batch < 1) impl::fail(function, "pages dim 0 (batch)", "at least 1", "0");
  if (count < 1) impl::fail(function, "pages dim 1 (pages per sequence)", "at least 1", "0");
  const std::vector<std::int32_t> list =
      cuda::table_builder::list_pages(function, pages, num_pages);
  cuda::table_builder::check_storage(function, storage, device_pages_bytes(batch, count));
  cuda::launcher<Backend>::copy(backend, function, storage.data(), list.data(),
                                list.size() * sizeof(std::int32_t));
  return cuda::table_builder::checked_pages(
      {reinterpret_cast<const std::int32_t*>(storage.data()), {batch, count}}, num_pages);
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
