// SPDX-License-Identifier: Apache-2.0
// Rows that correct_output leaves, by zerotune's attention.
#include <cstdio>

#include "problem.hpp"

int main() {
  problem p;
  namespace zt = zerotune;
  std::vector<float> out_data(p.q.size()), lse_data(4 * 6), wanted(p.q.size());
  const zt::tensor_view<const float, 4> q(p.q.data(), {1, 4, 6, 8}), k(p.k.data(), {1, 2, 6, 8}),
      v(p.v.data(), {1, 2, 6, 8});
  zt::tensor_view out(out_data.data(), {1, 4, 6, 8});
  zt::tensor_view lse(lse_data.data(), {1, 4, 6});
  zt::attention(q, k, v, out, zt::causal{}, {.lse = lse});  // the black box
  const auto modifier = zt::causal{} | zt::initial_token(zt::tensor_view(p.gammas.data(), {4}));
  const zt::output_report report =
      zt::correct_output(out, lse, q, k, v, modifier, {.min_d = 0.9});  // to have some
  // [snippet]
  for (const auto row : report.amplified()) {
    const zt::index_t kv_head = row.head / 2, at[] = {row.q};  // two query heads per kv head
    const zt::initial_token own{p.gammas[static_cast<std::size_t>(row.head)]};
    zt::attention(
        zt::tensor_view(q.pointer(row.batch, row.head, row.q, 0), {1, 1, 1, 8}),
        zt::tensor_view(k.pointer(row.batch, kv_head, 0, 0), {1, 1, 6, 8}),
        zt::tensor_view(v.pointer(row.batch, kv_head, 0, 0), {1, 1, 6, 8}),
        zt::tensor_view(out.pointer(row.batch, row.head, row.q, 0), {1, 1, 1, 8}),
        zt::causal{} | own,
        {.lse = zt::tensor_view(lse.pointer(row.batch, row.head, row.q), {1, 1, 1}),
         .q_starts = zt::tensor_view(at, {1})});               // it is not the last position
  }
  // [/snippet]
  zt::attention(q, k, v, zt::tensor_view(wanted.data(), {1, 4, 6, 8}), modifier);
  std::printf("%zu rows recomputed, difference %.2g\n", report.amplified().size(),
              difference(out_data, wanted));
  return !report.amplified().empty() && difference(out_data, wanted) < 1e-5f ? 0 : 1;
}
