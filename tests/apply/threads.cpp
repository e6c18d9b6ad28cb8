// SPDX-License-Identifier: Apache-2.0
// Executors: results do not depend on them, they may throw, and calls may come from many threads.
#include <gtest/gtest.h>

#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/backends.hpp"
#include "support/forms.hpp"
#include "zerotune/core/thread_pool.hpp"

namespace {

using test::index_t;
using test::scene;

/// Calls from the last to the first: results must not depend on an order.
struct backwards {
  template <class Body>
  void parallel_for(index_t count, const Body& body) {
    for (index_t i = count; i-- > 0;) body(i);
  }
};
/// Throws before the first call.
template <class Error>
struct throwing {
  template <class Body>
  void parallel_for(index_t, const Body&) const {
    throw Error();
  }
};
/// Throws after `calls` calls, as a host that runs out of memory does.
struct failing_after {
  index_t calls;
  template <class Body>
  void parallel_for(index_t count, const Body& body) const {
    for (index_t i = 0; i < count; ++i) {
      if (i == calls) throw std::bad_alloc();
      body(i);
    }
  }
};
struct callback_error {};

template <class Kernel>
class executors : public ::testing::Test {
 public:
  using all_forms = test::forms<typename Kernel::backend, typename Kernel::type>;
  static scene wide() {
    scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = 70, .kv_len = 81};
    s.gammas = {2.0f, 0.0f, 1.0f, 0.5f};
    s.positions = {3, 0};
    return s.complete();
  }
};
TYPED_TEST_SUITE(executors, test::fault_kernels, test::kernel_names);

TYPED_TEST(executors, results_are_bitwise_equal_for_every_thread_count_and_order) {
  const scene s = this->wide();
  typename TestFixture::all_forms serial(s, 8), other(s, 8);
  zerotune::thread_pool two(2), seven(7);
  for (int form = 0; form < serial.count; ++form) {
    serial.start(form);
    serial.call(form, s.usual());
    const auto check = [&](auto&& executor, const char* name) {
      other.start(form);
      other.call(form, s.usual(), executor);
      EXPECT_EQ(other.memory(), serial.memory()) << other.names[form] << " " << name;
    };
    check(two, "two threads");
    check(seven, "seven threads");
    check(backwards{}, "backwards");
  }
}

TYPED_TEST(executors, a_throwing_executor_leaves_everything_unwritten_and_usable) {
  const scene s = this->wide();
  typename TestFixture::all_forms f(s, 8), expected(s, 8);
  for (int form = 0; form < f.count; ++form) {
    f.start(form), expected.start(form);
    const auto before = f.memory();
    EXPECT_THROW(f.call(form, s.usual(), throwing<callback_error>{}), callback_error);
    EXPECT_THROW(f.call(form, s.usual(), throwing<std::bad_alloc>{}), std::bad_alloc);
    EXPECT_EQ(f.memory(), before) << f.names[form];
    f.call(form, s.usual()), expected.call(form, s.usual());
    EXPECT_EQ(f.memory(), expected.memory()) << f.names[form];
  }
}

// A row is whole or untouched, also when the executor gives up half way.
TYPED_TEST(executors, a_failure_half_way_leaves_whole_rows) {
  const scene s = this->wide();
  typename TestFixture::all_forms f(s, 8), done(s, 8), untouched(s, 8);
  for (int form = 0; form < f.count; ++form) {
    f.start(form), done.start(form), untouched.start(form);
    done.call(form, s.usual());
    EXPECT_THROW(f.call(form, s.usual(), failing_after{7}), std::bad_alloc);
    const auto whole = [&](auto& actual, auto& after, auto& before) {
      const index_t width = actual.view().extent(3);
      for (index_t row = 0; row < actual.size() / width; ++row) {
        bool same_after = true, same_before = true;
        for (index_t c = row * width; c < (row + 1) * width; ++c) {
          const double value = test::to_double(actual.at(c));
          same_after &= value == test::to_double(after.at(c));
          same_before &= value == test::to_double(before.at(c));
        }
        ASSERT_TRUE(same_after || same_before) << f.names[form] << " row " << row;
      }
    };
    whole(f.square, done.square, untouched.square);
    whole(f.corrected, done.corrected, untouched.corrected);
    whole(f.out, done.out, untouched.out);
  }
}

TYPED_TEST(executors, several_threads_may_call_at_once) {
  const scene s = this->wide();
  typename TestFixture::all_forms expected(s, 8);
  for (int form = 0; form < expected.count; ++form) {
    expected.start(form);
    expected.call(form, s.usual());
    std::vector<std::vector<unsigned char>> results(4);
    std::vector<std::thread> callers;
    zerotune::thread_pool shared(2);
    for (std::size_t c = 0; c < results.size(); ++c)
      callers.emplace_back([&, c] {
        typename TestFixture::all_forms mine(s, 8);
        mine.start(form);
        if (c % 2)
          mine.call(form, s.usual(), shared);
        else
          mine.call(form, s.usual());
        results[c] = mine.memory();
      });
    for (std::thread& caller : callers) caller.join();
    for (const auto& result : results) EXPECT_EQ(result, expected.memory()) << expected.names[form];
  }
}

}  // namespace
