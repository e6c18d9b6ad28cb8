// SPDX-License-Identifier: Apache-2.0
// Where the attention of a trunk or a branch finds its rows, and where its gradients go.
#include <algorithm>
#include <cmath>

#include "llama/backward.hpp"
#include "llama/elementwise.hpp"

namespace llama {
namespace {

/// Rows of a matrix as [1, heads, rows, head_dim].
template <class T>
zerotune::tensor_view<T, 4> heads_of(T* first, std::int64_t stride, std::int64_t rows,
                                     std::int64_t heads, std::int64_t head_dim) {
  return {first, {1, heads, rows, head_dim}, {rows * stride, head_dim, stride, 1}};
}

void add_rows(const matrix& from, std::int64_t first, std::int64_t rows, float* to,
              std::int64_t stride) {
  for (std::int64_t i = 0; i < rows; ++i)
    add(from.row(first + i), {to + i * stride, static_cast<std::size_t>(from.columns())});
}

void copy_rows(const float* from, std::int64_t stride, std::int64_t rows, matrix& to,
               std::int64_t first) {
  for (std::int64_t i = 0; i < rows; ++i)
    std::copy_n(from + i * stride, to.columns(), to.row(first + i).data());
}

}  // namespace

backward_pass::attention_inputs backward_pass::attention_of(int layer, std::size_t index) {
  const model_config& config = model_.config();
  const piece& p = space_.pieces[index];
  layer_activations& from = kept(layer);
  const std::int64_t dim = config.head_dim, stride = from.qkv.columns();
  const std::int64_t first = is_last(layer) ? p.first_query : 0;
  const std::int64_t q_len = is_last(layer) ? p.num_queries : p.rows;
  const std::int64_t row = p.first_row + first, kv_len = p.past + first + q_len;

  attention_inputs in;
  in.context = {layer, config.num_layers, static_cast<std::int64_t>(p.tree), p.past + first,
                p.tokens};
  in.call.softmax_scale = 1.0f / std::sqrt(static_cast<float>(dim));
  in.call.q =
      heads_of<const float>(from.qkv.data() + row * stride, stride, q_len, config.num_heads, dim);
  if (q_len == 0) return in;
  in.call.out = heads_of(from.attended.row(row).data(), from.attended.columns(), q_len,
                         config.num_heads, dim);
  in.call.lse = {from.lse.row(p.first_row).data(), {1, config.num_heads, q_len}};
  const float* keys = from.qkv.row(p.first_row).data() + config.q_dim();
  std::int64_t kv_stride = stride;
  const float* values = keys + config.kv_dim();
  if (p.past > 0) {
    const float* const trunk = from.qkv.row(p.trunk_row).data() + config.q_dim();
    copy_rows(trunk, stride, p.past, space_.branch_keys, 0);
    copy_rows(trunk + config.kv_dim(), stride, p.past, space_.branch_values, 0);
    copy_rows(keys, stride, first + q_len, space_.branch_keys, p.past);
    copy_rows(values, stride, first + q_len, space_.branch_values, p.past);
    keys = space_.branch_keys.data();
    values = space_.branch_values.data();
    kv_stride = config.kv_dim();
  }
  in.call.k = heads_of(keys, kv_stride, kv_len, config.num_kv_heads, dim);
  in.call.v = heads_of(values, kv_stride, kv_len, config.num_kv_heads, dim);
  return in;
}

attention_backward_call backward_pass::gradients_of(const attention_inputs& in, std::size_t index) {
  const model_config& config = model_.config();
  const piece& p = space_.pieces[index];
  const std::int64_t dim = config.head_dim, stride = space_.d_qkv.columns();
  const std::int64_t q_len = in.call.q.extent(2), kv_len = in.call.k.extent(2);
  const std::int64_t row = p.first_row + kv_len - q_len - p.past;
  attention_backward_call d;
  d.forward = in.call;
  d.d_out = heads_of<const float>(space_.d_attended.row(row).data(), space_.d_attended.columns(),
                                  q_len, config.num_heads, dim);
  d.d_q = heads_of(space_.d_qkv.row(row).data(), stride, q_len, config.num_heads, dim);
  float* keys = space_.d_qkv.row(p.first_row).data() + config.q_dim();
  float* values = keys + config.kv_dim();
  std::int64_t kv_stride = stride;
  if (p.past > 0) {
    keys = space_.d_branch_keys.data();
    values = space_.d_branch_values.data();
    kv_stride = config.kv_dim();
  }
  d.d_k = heads_of(keys, kv_stride, kv_len, config.num_kv_heads, dim);
  d.d_v = heads_of(values, kv_stride, kv_len, config.num_kv_heads, dim);
  d.d_log_gamma = space_.d_heads.data();
  return d;
}

void backward_pass::add_gradients(const attention_inputs& in, std::size_t index) {
  const model_config& config = model_.config();
  const piece& p = space_.pieces[index];
  const auto first = static_cast<std::size_t>(p.tree * config.num_heads);
  for (std::size_t head = 0; head < space_.d_heads.size(); ++head)
    space_.d_log_gamma[first + head] += space_.d_heads[head];
  if (p.past == 0) return;
  const std::int64_t stride = space_.d_qkv.columns(), own = in.call.k.extent(2) - p.past;
  float* const trunk = space_.d_qkv.row(p.trunk_row).data() + config.q_dim();
  add_rows(space_.d_branch_keys, 0, p.past, trunk, stride);
  add_rows(space_.d_branch_values, 0, p.past, trunk + config.kv_dim(), stride);
  for (std::int64_t i = 0; i < own; ++i) {
    float* const to = space_.d_qkv.row(p.first_row + i).data() + config.q_dim();
    std::ranges::copy(space_.d_branch_keys.row(p.past + i), to);
    std::ranges::copy(space_.d_branch_values.row(p.past + i), to + config.kv_dim());
  }
}

}  // namespace llama
