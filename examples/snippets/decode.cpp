// SPDX-License-Identifier: Apache-2.0
// One step of generation on a dense and on a paged cache.
#include <cstdio>
#include <zerotune/kernel/simd/simd.hpp>

#include "problem.hpp"

int main() {
  problem p;
  namespace zt = zerotune;
  zt::initial_token sink(zt::tensor_view(p.gammas.data(), {4}));
  // The last query of the problem alone.
  std::vector<float> out_data(4 * 8), paged_data(4 * 8), whole_data(p.q.size());
  zt::tensor_view<const float, 4> q(p.q.data() + 5 * 8, {1, 4, 1, 8}, {192, 48, 8, 1});
  // [dense]
  zt::tensor_view k(p.k.data(), {1, 2, 6, 8});                 // [batch, kv_heads, kv_len, dim]
  zt::tensor_view v(p.v.data(), {1, 2, 6, 8});
  zt::tensor_view out(out_data.data(), {1, 4, 1, 8});          // one query per head
  std::vector<std::byte> memory(static_cast<std::size_t>(      // for kv_len up to 4096
      zt::attention_decode_workspace_bytes({1, 4, 1, 4096}, /*num_kv_heads=*/2, 8, 8)));
  zt::attention_decode(zt::backend::simd<>{}, q, k, v, out, zt::causal{} | sink,
                       {.workspace = zt::view_of(memory)});
  // [/dense]
  // Pages of two positions, in the order 2, 0, 1.
  std::vector<float> k_pages(3 * 2 * 2 * 8), v_pages(k_pages.size());
  const std::int32_t order[] = {2, 0, 1};
  for (int j = 0; j < 6; ++j)
    for (int head = 0; head < 2; ++head)
      for (int c = 0; c < 8; ++c) {
        const int at = ((order[j / 2] * 2 + head) * 2 + j % 2) * 8 + c;
        k_pages[static_cast<std::size_t>(at)] = k(0, head, j, c);
        v_pages[static_cast<std::size_t>(at)] = v(0, head, j, c);
      }
  zt::tensor_view paged_out(paged_data.data(), {1, 4, 1, 8});
  // [paged]
  zt::tensor_view<const std::int32_t, 2> table(order, {1, 3});  // [batch, pages of a sequence]
  const zt::index_t lengths[] = {6};                            // of each sequence
  zt::paged_cache keys{zt::tensor_view(k_pages.data(), {3, 2, 2, 8}), table};
  zt::paged_cache values{zt::tensor_view(v_pages.data(), {3, 2, 2, 8}), table};
  zt::attention_decode(zt::backend::simd<>{}, q, keys, values, paged_out, zt::causal{} | sink,
                       {.kv_lengths = zt::tensor_view(lengths, {1})});
  // [/paged]
  zt::attention(zt::tensor_view(p.q.data(), {1, 4, 6, 8}), k, v,
                zt::tensor_view(whole_data.data(), {1, 4, 6, 8}), zt::causal{} | sink);
  float greatest = 0;
  for (int head = 0; head < 4; ++head)
    for (int c = 0; c < 8; ++c) {
      const float wanted = whole_data[static_cast<std::size_t>((head * 6 + 5) * 8 + c)];
      greatest = std::fmax(greatest, std::fabs(out(0, head, 0, c) - wanted));
      greatest = std::fmax(greatest, std::fabs(paged_out(0, head, 0, c) - wanted));
    }
  std::printf("difference from prefill's last row %.2g\n", greatest);
  return greatest < 1e-5f ? 0 : 1;
}
