// SPDX-License-Identifier: Apache-2.0
// Prefill as an engine calls it: chunks, a plan for all layers, memory of the caller's; and packed
// sequences.
#include <cstdio>
#include <zerotune/core/thread_pool.hpp>
#include <zerotune/kernel/simd/simd.hpp>

#include "problem.hpp"

int main() {
  problem p;
  namespace zt = zerotune;
  std::vector<float> out_data(p.q.size()), wanted(p.q.size());
  zt::tensor_view k_all(p.k.data(), {1, 2, 6, 8});
  zt::tensor_view v_all(p.v.data(), {1, 2, 6, 8});
  zt::initial_token sink(zt::tensor_view(p.gammas.data(), {4}));
  zt::thread_pool threads(2);
  // [chunk]
  // The second chunk of a prompt: queries 4 and 5 of six. Queries are the last positions of the
  // keys, so causal needs no offset.
  zt::tensor_view q(p.q.data() + 4 * 8, {1, 4, 2, 8}, {192, 48, 8, 1});
  zt::tensor_view out(out_data.data() + 4 * 8, {1, 4, 2, 8}, {192, 48, 8, 1});
  const zt::attention_plan plan = zt::plan_attention();        // once: sizes from the CPU's caches
  std::vector<std::byte> memory(static_cast<std::size_t>(      // for any kv_len
      zt::attention_workspace_bytes(zt::backend::simd<>{}, q, k_all, v_all, out, plan, /*threads=*/2)));
  zt::attention(zt::backend::simd<>{}, q, k_all, v_all, out, zt::causal{} | sink,
                {.plan = plan, .workspace = zt::view_of(memory)}, threads);
  // [/chunk]
  zt::attention(zt::tensor_view(p.q.data(), {1, 4, 6, 8}), k_all, v_all,
                zt::tensor_view(wanted.data(), {1, 4, 6, 8}), zt::causal{} | sink);
  float greatest = 0;
  for (int head = 0; head < 4; ++head)
    for (std::size_t at = 4 * 8; at < 6 * 8; ++at) {
      const std::size_t i = static_cast<std::size_t>(head) * 48 + at;
      greatest = std::fmax(greatest, std::fabs(out_data[i] - wanted[i]));
    }

  // Two sequences of 4 and 2 tokens packed one after the other, [tokens, heads, dim].
  std::vector<float> packed_q(6 * 4 * 8), packed_k(6 * 2 * 8), packed_v(6 * 2 * 8), packed(6 * 32);
  for (std::size_t i = 0; i < packed_q.size(); ++i) packed_q[i] = p.q[i];
  for (std::size_t i = 0; i < packed_k.size(); ++i) packed_k[i] = p.k[i], packed_v[i] = p.v[i];
  // [ragged]
  const zt::index_t begins[] = {0, 4, 6};                      // prefix sums of the lengths
  zt::tensor_view<const zt::index_t, 1> offsets(begins, {3});
  zt::attention_ragged(zt::backend::simd<>{},
                       zt::tensor_view(packed_q.data(), {6, 4, 8}),   // [tokens, heads, dim]
                       zt::tensor_view(packed_k.data(), {6, 2, 8}),
                       zt::tensor_view(packed_v.data(), {6, 2, 8}),
                       zt::tensor_view(packed.data(), {6, 4, 8}), {offsets, offsets},
                       zt::causal{} | sink);
  // [/ragged]
  // The first token of a sequence sees itself alone: its output is its value.
  for (int c = 0; c < 8; ++c)
    greatest = std::fmax(greatest, std::fabs(packed[static_cast<std::size_t>(4 * 32 + c)] -
                                             packed_v[static_cast<std::size_t>(4 * 16 + c)]));
  std::printf("difference %.2g\n", greatest);
  return greatest < 1e-5f ? 0 : 1;
}
