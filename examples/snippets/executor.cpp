// SPDX-License-Identifier: Apache-2.0
// An executor over a host's own threads.
#include <atomic>
#include <cstdio>
#include <thread>
#include <zerotune/kernel/simd/simd.hpp>

#include "problem.hpp"

// [executor]
struct engine_threads {
  int threads = 4;
  int num_threads() const { return threads; }  // without it, work is cut for two
  template <class Body>
  void parallel_for(zerotune::index_t count, const Body& body) const {
    std::atomic<zerotune::index_t> next{0};
    const auto work = [&] {
      for (zerotune::index_t i; (i = next++) < count;) body(i);
    };
    std::vector<std::thread> others;  // your pool's threads in place of new ones
    for (int n = 1; n < threads; ++n) others.emplace_back(work);
    work();
    for (std::thread& thread : others) thread.join();
  }
};
// [/executor]

int main() {
  problem p;
  namespace zt = zerotune;
  std::vector<float> alone(p.q.size()), together(p.q.size());
  zt::tensor_view q(p.q.data(), {1, 4, 6, 8});
  zt::tensor_view k(p.k.data(), {1, 2, 6, 8});
  zt::tensor_view v(p.v.data(), {1, 2, 6, 8});
  zt::initial_token sink(zt::tensor_view(p.gammas.data(), {4}));
  zt::attention(zt::backend::simd<>{}, q, k, v, zt::tensor_view(alone.data(), {1, 4, 6, 8}),
                zt::causal{} | sink);
  zt::attention(zt::backend::simd<>{}, q, k, v, zt::tensor_view(together.data(), {1, 4, 6, 8}),
                zt::causal{} | sink, {}, engine_threads{});
  std::printf("difference %.2g\n", difference(alone, together));
  return difference(alone, together) == 0 ? 0 : 1;
}
