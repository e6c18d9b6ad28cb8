// SPDX-License-Identifier: Apache-2.0
#include "zerotune/interop/openmp.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace zt = zerotune;
using zt::index_t;

namespace {

static_assert(zt::executor<zt::openmp_executor>);

TEST(openmp_executor, refuses_a_negative_number_of_threads) {
  EXPECT_THROW(zt::openmp_executor{-1}, zt::invalid_argument);
}

#if defined(_OPENMP)

TEST(openmp_executor, calls_every_index_once) {
  for (const int threads : {0, 1, 2, 5}) {
    const zt::openmp_executor executor(threads);
    for (const index_t count : {0, 1, 2, 1000}) {
      std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
      executor.parallel_for(count, [&](index_t i) { ++calls[static_cast<std::size_t>(i)]; });
      for (const auto& c : calls) EXPECT_EQ(c, 1);
    }
  }
}

TEST(openmp_executor, says_how_many_threads_it_has) {
  EXPECT_EQ(zt::openmp_executor{}.num_threads(), omp_get_max_threads());
  EXPECT_EQ(zt::openmp_executor{3}.num_threads(), 3);
}

TEST(openmp_executor, uses_no_more_threads_than_it_is_told) {
  std::mutex mutex;
  std::set<std::thread::id> threads;
  zt::openmp_executor(2).parallel_for(500, [&](index_t) {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  EXPECT_GE(threads.size(), 1u);
  EXPECT_LE(threads.size(), 2u);
}

TEST(openmp_executor, rethrows_the_first_exception_and_is_usable_again) {
  for (const int threads : {1, 2, 0}) {
    const zt::openmp_executor executor(threads);
    std::atomic<int> running{0};
    EXPECT_THROW(executor.parallel_for(200,
                                       [&](index_t i) {
                                         ++running;
                                         if (i % 7 == 3) {
                                           --running;
                                           throw std::runtime_error("body");
                                         }
                                         --running;
                                       }),
                 std::runtime_error);
    EXPECT_EQ(running, 0) << "every call that had begun has ended";
    std::atomic<int> calls{0};
    executor.parallel_for(10, [&](index_t) { ++calls; });
    EXPECT_EQ(calls, 10);
  }
}

TEST(openmp_executor, works_inside_a_parallel_region) {
  std::atomic<int> calls{0};
  const zt::openmp_executor outer(2);
  outer.parallel_for(
      4, [&](index_t) { zt::openmp_executor(2).parallel_for(5, [&](index_t) { ++calls; }); });
  EXPECT_EQ(calls, 20);
}

#else

TEST(openmp_executor, runs_only_with_openmp) { GTEST_SKIP() << "compiled without -fopenmp"; }

#endif

}  // namespace
