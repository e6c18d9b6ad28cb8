// SPDX-License-Identifier: Apache-2.0
// The snippet of docs/cuda.md, compiled as it stands there.
// [snippet]
#include <zerotune/apply/cuda/cuda.cuh>

namespace zt = zerotune;

// Once per model and layer: the gammas are checked and copied to device memory that you own.
auto make_sink(cudaStream_t stream, const std::vector<float>& gammas, zt::attention_shape shape,
               void* table) {
  return zt::to_device(zt::backend::cuda{stream}, zt::initial_token{zt::view_of(gammas)}, shape,
                       {static_cast<std::byte*>(table), {zt::device_table_bytes(shape)}});
}

// Per step: attention on your stream, in your workspace.
void attend(cudaStream_t stream, const zt::bfloat16* q, const zt::bfloat16* k,
            const zt::bfloat16* v, zt::bfloat16* out, std::byte* workspace,
            const zt::on_device<zt::initial_token>& sink, zt::attention_shape s,
            zt::index_t num_kv_heads) {
  using in = zt::tensor_view<const zt::bfloat16, 4, zt::device_memory>;
  zt::device_attention_options options;
  options.workspace = {workspace, {zt::attention_workspace_bytes(s, num_kv_heads, 128)}};
  zt::attention(zt::backend::cuda{stream}, in(q, {s.batch, s.num_heads, s.q_len, 128}),
                in(k, {s.batch, num_kv_heads, s.kv_len, 128}),
                in(v, {s.batch, num_kv_heads, s.kv_len, 128}),
                zt::tensor_view<zt::bfloat16, 4, zt::device_memory>(
                    out, {s.batch, s.num_heads, s.q_len, 128}),
                zt::causal{} | sink, options, zt::head_dims<128>{});
}
// [snippet]
