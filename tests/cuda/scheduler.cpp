// SPDX-License-Identifier: Apache-2.0
// The scheduler finds what it is there to find.
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>
#include <string>

#include "scheduler/host_context.hpp"

namespace zerotune_test {
namespace {

template <class Body>
launch_statistics run(int threads, const Body& body, std::size_t shared = 1 << 20,
                      order o = order::forward, std::int64_t blocks = 1) {
  return run_blocks(
      blocks, threads, shared,
      [](void* argument, lane& l) {
        host_context c(l);
        (*static_cast<const Body*>(argument))(c);
      },
      const_cast<Body*>(&body), o, 1);
}
template <class F>
std::string error_of(const F& f) {
  try {
    f();
  } catch (const std::logic_error& e) {
    return e.what();
  }
  return "none";
}

TEST(scheduler, barriers_order_shared_memory) {
  for (const order o : {order::forward, order::reverse, order::random}) {
    int wrong = 0;
    const auto statistics = run(
        128,
        [&](host_context& c) {
          int* const x = c.shared<int>(128);
          x[c.thread()] = c.thread();
          c.barrier();
          wrong += x[127 - c.thread()] != 127 - c.thread();
        },
        512, o, 3);
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(statistics.shared_bytes, 512u);
  }
}

TEST(scheduler, shuffles) {
  run(64, [](host_context& c) {
    EXPECT_EQ(c.shuffle_xor(c.lane(), 5), c.lane() ^ 5);
    EXPECT_EQ(c.shuffle(c.thread() * 0.5, 7), (c.warp() * 32 + 7) * 0.5);
  });
}

TEST(scheduler, mma_multiplies) {
  run(32, [](host_context& c) {
    // a[m][k] = m + k, b[k][n] = k - n, both exact in float16.
    const int group = c.lane() / 4, pair = c.lane() % 4 * 2;
    std::uint32_t a[4], b[2];
    for (int r = 0; r < 4; ++r) {
      const int m = group + r % 2 * 8, k = pair + r / 2 * 8;
      a[r] = c.pack<zerotune::float16>(float(m + k), float(m + k + 1));
    }
    for (int r = 0; r < 2; ++r)
      b[r] =
          c.pack<zerotune::float16>(float(pair + r * 8 - group), float(pair + r * 8 + 1 - group));
    float d[4] = {1, 1, 1, 1};
    c.mma<zerotune::float16>(d, a, b);
    for (int i = 0; i < 4; ++i) {
      const int m = group + i / 2 * 8, n = pair + i % 2;
      float expected = 1;
      for (int k = 0; k < 16; ++k) expected += float((m + k) * (k - n));
      EXPECT_EQ(d[i], expected);
    }
  });
}

TEST(scheduler, copies_arrive_at_the_wait) {
  std::vector<zerotune::cuda::packet<float>> from(1, {{1, 2, 3, 4}});
  run(32, [&](host_context& c) {
    float* const x = c.shared<float>(128);
    c.copy_async(x + 4 * c.lane(), from[0].values, c.lane() > 0);
    c.commit_copies();
    EXPECT_TRUE(std::isnan(x[4 * c.lane() + 1]));
    c.commit_copies();
    c.wait_copies<1>();
    EXPECT_EQ(x[4 * c.lane() + 1], c.lane() > 0 ? 2.0f : 0.0f);
  });
}

TEST(scheduler, finds_a_divergent_barrier) {
  EXPECT_NE(error_of([] {
              run(64, [](host_context& c) {
                if (c.thread() < 40) c.barrier();
              });
            }).find("deadlock"),
            std::string::npos);
  const auto two_barriers = [](host_context& c) {
    if (c.warp() == 0)
      c.barrier();
    else
      c.barrier();
  };
  EXPECT_NE(error_of([&] { run(64, two_barriers); }).find("different barriers"), std::string::npos);
}

TEST(scheduler, finds_a_divergent_collective) {
  EXPECT_NE(error_of([] {
              run(32, [](host_context& c) {
                if (c.lane() < 16) static_cast<void>(c.shuffle_xor(1, 1));
              });
            }).find("deadlock"),
            std::string::npos);
}

TEST(scheduler, finds_too_little_shared_memory) {
  const auto take = [](host_context& c) { c.shared<float>(8); };
  EXPECT_EQ(error_of([&] { run(32, take, 32); }), "none");
  EXPECT_NE(error_of([&] { run(32, take, 31); }).find("shared memory"), std::string::npos);
}

TEST(scheduler, poisons_shared_memory) {
  run(32, [](host_context& c) {
    EXPECT_TRUE(std::isnan(c.shared<float>(4)[3]));
    EXPECT_TRUE(std::isnan(float(c.shared<zerotune::float16>(4)[3])));
    EXPECT_TRUE(std::isnan(float(c.shared<zerotune::bfloat16>(4)[3])));
  });
}

TEST(scheduler, passes_on_what_a_body_throws) {
  EXPECT_EQ(error_of([] {
              run(32, [](host_context& c) {
                if (c.thread() == 3) throw std::logic_error("three");
              });
            }),
            "three");
}

}  // namespace
}  // namespace zerotune_test
