// SPDX-License-Identifier: Apache-2.0
// A call that runs out of memory has written nothing: every allocation of a call fails in turn.
#include <zerotune.h>

#include <cstdint>
#include <cstdio>
#include <vector>

#include "support/count_allocations.hpp"

namespace {

constexpr std::int64_t heads = 2, rows = 3, dim = 8;

zt_tensor tensor(void* data, std::int64_t last, std::int32_t dtype) {
  return {data, {1, heads, rows, last}, {heads * rows * last, rows * last, last, 1}, dtype};
}

}  // namespace

int main() {
  constexpr std::size_t count = heads * rows * dim;
  constexpr float untouched = 777;
  int faults = 0, refused = 0;
  // Queries of the caches' type; float queries beside bfloat16 caches, with outputs of either type.
  for (const int types : {0, 1, 2}) {
    std::vector<float> q(count, 0.5f), out(count, untouched), lse(heads * rows, untouched);
    std::vector<std::uint16_t> narrow(count, 0x3f00), narrow_out(count, 0x4442);
    const zt_tensor wide_q = tensor(q.data(), dim, 0);
    const zt_tensor cache = types == 0 ? wide_q : tensor(narrow.data(), dim, 3);
    zt_tensor to = types == 2 ? tensor(narrow_out.data(), dim, 3) : tensor(out.data(), dim, 0);
    zt_tensor sums = tensor(lse.data(), 1, 0);
    zt_options options{};
    options.size = sizeof options;
    options.threads = 2;
    for (long allowed = 0;; ++allowed) {
      test::allocations_left = allowed;
      const int code = zt_attention(&wide_q, &cache, &cache, &to, &sums, &options);
      test::allocations_left = -1;
      if (code == 0) break;
      ++refused;
      bool written = false;
      for (const float x : out) written |= x != untouched;
      for (const float x : lse) written |= x != untouched;
      for (const std::uint16_t x : narrow_out) written |= x != 0x4442;
      if (code != ZT_OUT_OF_MEMORY || written || allowed > 1000) {
        std::printf("types %d, %ld allocations: code %d, %s\n", types, allowed, code,
                    written ? "something was written" : "nothing was written");
        if (++faults > 10) return 1;
      }
    }
    if (lse[0] == untouched) std::printf("types %d: no LSE\n", types), ++faults;
  }
  std::printf("%d calls without memory, %d faults\n", refused, faults);
  return faults == 0 && refused > 0 ? 0 : 1;
}
