// SPDX-License-Identifier: Apache-2.0
// serial_executor and thread_pool: every index once, exceptions out, nested and concurrent calls.
#include "zerotune/core/executor.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "zerotune/core/thread_pool.hpp"

namespace {

using zerotune::index_t;
using zerotune::serial_executor;
using zerotune::thread_pool;

static_assert(zerotune::executor<serial_executor> && zerotune::executor<thread_pool>);
static_assert(zerotune::executor<const serial_executor>);
struct no_executor {
  void parallel_for(int) {}
};
static_assert(!zerotune::executor<no_executor> && !zerotune::executor<int>);
static_assert(!std::is_copy_constructible_v<thread_pool>);

TEST(serial_executor, calls_in_order_on_the_callers_thread) {
  std::vector<index_t> seen;
  const auto self = std::this_thread::get_id();
  serial_executor{}.parallel_for(5, [&](index_t i) {
    EXPECT_EQ(std::this_thread::get_id(), self);
    seen.push_back(i);
  });
  EXPECT_EQ(seen, (std::vector<index_t>{0, 1, 2, 3, 4}));
}

TEST(serial_executor, does_nothing_for_a_count_of_zero) {
  serial_executor{}.parallel_for(0, [](index_t) { FAIL(); });
}

class pool_of : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(threads, pool_of, ::testing::Values(1, 2, 3, 8));

TEST_P(pool_of, calls_every_index_exactly_once) {
  thread_pool pool(GetParam());
  EXPECT_EQ(pool.num_threads(), GetParam());
  for (const index_t count : {0, 1, 2, 7, 64, 1000}) {
    std::vector<std::atomic<int>> calls(static_cast<std::size_t>(count));
    pool.parallel_for(count, [&](index_t i) { ++calls[static_cast<std::size_t>(i)]; });
    for (const auto& n : calls) EXPECT_EQ(n.load(), 1);
  }
}

TEST_P(pool_of, ignores_a_negative_count) {
  thread_pool pool(GetParam());
  pool.parallel_for(-3, [](index_t) { FAIL(); });
}

TEST_P(pool_of, has_finished_every_call_when_it_returns) {
  thread_pool pool(GetParam());
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> running{0}, done{0};
    pool.parallel_for(16, [&](index_t) {
      ++running;
      std::this_thread::yield();
      ++done;
      --running;
    });
    ASSERT_EQ(running.load(), 0);
    ASSERT_EQ(done.load(), 16);
  }
}

// A body that calls the pool again (a host inside its own parallel region) must not deadlock.
TEST_P(pool_of, runs_a_nested_call) {
  thread_pool pool(GetParam());
  std::atomic<int> calls{0};
  pool.parallel_for(8, [&](index_t) { pool.parallel_for(8, [&](index_t) { ++calls; }); });
  EXPECT_EQ(calls.load(), 64);
}

TEST_P(pool_of, runs_a_call_of_another_pool_inside_a_body) {
  thread_pool outer(GetParam()), inner(2);
  std::atomic<int> calls{0};
  outer.parallel_for(6, [&](index_t) { inner.parallel_for(5, [&](index_t) { ++calls; }); });
  EXPECT_EQ(calls.load(), 30);
}

// The turn that the innermost call would wait for is held by the thread's own outermost call.
TEST_P(pool_of, runs_a_call_inside_a_body_of_another_pool_inside_its_own) {
  thread_pool outer(GetParam()), inner(2);
  std::atomic<int> calls{0};
  outer.parallel_for(4, [&](index_t) {
    inner.parallel_for(3, [&](index_t) { outer.parallel_for(5, [&](index_t) { ++calls; }); });
  });
  EXPECT_EQ(calls.load(), 60);
}

// Both threads of the inner pool are in a body when they call the outer one: the turn is held by
// the call that waits for them.
TEST_P(pool_of, runs_a_call_from_every_thread_of_another_pool_inside_its_own) {
  thread_pool outer(GetParam()), inner(2);
  std::atomic<int> calls{0};
  outer.parallel_for(4, [&](index_t i) {
    if (i != 0) return;
    std::atomic<int> begun{0};
    inner.parallel_for(2, [&](index_t) {
      for (++begun; begun.load() < 2;) std::this_thread::yield();
      outer.parallel_for(5, [&](index_t) { ++calls; });
    });
  });
  EXPECT_EQ(calls.load(), 10);
}

// Two threads, each in a body of the pool that the other one calls.
TEST_P(pool_of, runs_calls_that_cross) {
  thread_pool one(GetParam()), other(GetParam());
  std::atomic<int> begun{0}, calls{0};
  const auto call = [&](thread_pool& outside, thread_pool& inside) {
    outside.parallel_for(3, [&](index_t i) {
      if (i != 0) return;
      for (++begun; begun.load() < 2;) std::this_thread::yield();
      inside.parallel_for(5, [&](index_t) { ++calls; });
    });
  };
  std::thread crossing([&] { call(other, one); });
  call(one, other);
  crossing.join();
  EXPECT_EQ(calls.load(), 10);
}

TEST_P(pool_of, throws_what_a_body_throws_and_works_again) {
  thread_pool pool(GetParam());
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> running{0};
    try {
      pool.parallel_for(100, [&](index_t i) {
        ++running;
        const std::unique_ptr<std::atomic<int>, void (*)(std::atomic<int>*)> leave(
            &running, [](std::atomic<int>* count) { --*count; });
        if (i == round) throw std::runtime_error("body " + std::to_string(i));
      });
      FAIL() << "the exception was lost";
    } catch (const std::runtime_error& e) {
      EXPECT_EQ(std::string(e.what()), "body " + std::to_string(round));
    }
    ASSERT_EQ(running.load(), 0) << "a body outlived the call";
    std::atomic<int> calls{0};
    pool.parallel_for(10, [&](index_t) { ++calls; });
    ASSERT_EQ(calls.load(), 10) << "the pool is spoilt";
  }
}

TEST_P(pool_of, throws_one_exception_if_all_bodies_throw) {
  thread_pool pool(GetParam());
  EXPECT_THROW(pool.parallel_for(64, [](index_t) { throw std::bad_alloc(); }), std::bad_alloc);
  std::atomic<int> calls{0};
  pool.parallel_for(3, [&](index_t) { ++calls; });
  EXPECT_EQ(calls.load(), 3);
}

TEST_P(pool_of, passes_an_exception_out_of_a_nested_call) {
  thread_pool pool(GetParam());
  EXPECT_THROW(pool.parallel_for(4,
                                 [&](index_t) {
                                   pool.parallel_for(4, [](index_t i) {
                                     if (i == 2) throw std::logic_error("nested");
                                   });
                                 }),
               std::logic_error);
  std::atomic<int> calls{0};
  pool.parallel_for(9, [&](index_t) { ++calls; });
  EXPECT_EQ(calls.load(), 9);
}

TEST_P(pool_of, serves_several_callers_at_once) {
  thread_pool pool(GetParam());
  std::vector<std::thread> callers;
  std::atomic<int> total{0};
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int round = 0; round < 100; ++round) {
        std::atomic<int> mine{0};
        pool.parallel_for(13, [&](index_t) { ++mine; });
        total += mine.load();
      }
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(total.load(), 4 * 100 * 13);
}

TEST_P(pool_of, can_be_destroyed_unused) { thread_pool pool(GetParam()); }

TEST(thread_pool, uses_more_than_one_thread) {
  thread_pool pool(2);
  std::set<std::thread::id> threads;
  std::mutex mutex;
  std::atomic<bool> second{false};
  pool.parallel_for(2, [&](index_t) {
    {
      const std::lock_guard lock(mutex);
      threads.insert(std::this_thread::get_id());
      second = threads.size() == 2;
    }
    for (int spin = 0; spin < 1000000 && !second; ++spin) std::this_thread::yield();
  });
  EXPECT_EQ(threads.size(), 2u);
}

TEST(thread_pool, refuses_fewer_than_one_thread) {
  for (const int threads : {0, -1, -100}) {
    try {
      thread_pool pool(threads);
      FAIL();
    } catch (const zerotune::invalid_argument& e) {
      const std::string message = e.what();
      EXPECT_NE(message.find("thread_pool"), std::string::npos) << message;
      EXPECT_NE(message.find("num_threads"), std::string::npos) << message;
      EXPECT_NE(message.find(std::to_string(threads)), std::string::npos) << message;
    }
  }
}

}  // namespace
