// SPDX-License-Identifier: Apache-2.0
// Plain data that kernels take (layer: kernel): strided tensors on the device, and where the
// sequences of a batch lie. Needs no toolkit.
#pragma once

#include "zerotune/core/tensor_view.hpp"
#include "zerotune/policy/concepts.hpp"

namespace zerotune {

/// One sequence of a ragged batch. In packed tensors (batch extent 1, all sequences one after the
/// other) q_offset and kv_offset are rows of q, out and lse, and of k and v; else they are 0.
struct device_sequence {
  index_t q_offset = 0;
  index_t q_length = 0;
  index_t q_start = 0;  ///< position of the first query in its sequence
  index_t kv_offset = 0;
  index_t kv_length = 0;
};

inline namespace ZEROTUNE_ABI {
namespace cuda {

/// Shape of a call and, per sequence, where it lies; without a table all sequences are alike and
/// the queries are the last positions.
struct device_geometry {
  attention_shape shape;                       // q_len and kv_len: of the longest sequence
  const device_sequence* sequences = nullptr;  // [batch] in device memory, or null

  ZEROTUNE_HOST_DEVICE device_sequence of(index_t batch) const {
    if (sequences) return sequences[batch];
    return {0, shape.q_len, shape.kv_len - shape.q_len, 0, shape.kv_len};
  }
};

/// Data and strides (in elements) of [batch, head, row, column].
template <class T>
struct device_tensor {
  T* data = nullptr;
  index_t batch = 0, head = 0, row = 0, column = 0;

  ZEROTUNE_HOST_DEVICE T* at(index_t b, index_t h, index_t r) const {
    return data + b * batch + h * head + r * row;
  }
};

/// Data and strides of one number per row: LSE, sink mass, status; [batch, head, row] or not given.
template <class T>
struct device_rows {
  T* data = nullptr;
  index_t batch = 0, head = 0, row = 0;

  ZEROTUNE_HOST_DEVICE T* at(index_t b, index_t h, index_t r) const {
    return data + b * batch + h * head + r * row;
  }
};

/// Pages of a key-value cache: key j of sequence b is row j % size of page table[b * stride + j /
/// size]; without a table the keys are contiguous. The size is a power of two, given by its shift.
struct page_table {
  const std::int32_t* table = nullptr;  // [batch, stride] in device memory
  index_t stride = 0;
  int shift = 0;

  /// Row of the key in its tensor (added to `batch_offset` where there are no pages).
  template <class T>
  ZEROTUNE_HOST_DEVICE T* key(const device_tensor<T>& t, index_t batch, index_t head,
                              index_t kv_offset, index_t position) const {
    if (table == nullptr) return t.at(batch, head, kv_offset + position);
    const index_t page = table[batch * stride + (position >> shift)];
    return t.at(page, head, position & ((index_t{1} << shift) - 1));
  }
};

}  // namespace cuda
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
