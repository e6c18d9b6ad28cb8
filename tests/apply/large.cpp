// SPDX-License-Identifier: Apache-2.0
// More than 2^31 elements: positions, offsets and loops in 64 bits. Inputs of stride 0 and sparse
// pages make the size without the memory; padding and windows make the work small.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "support/backends.hpp"
#include "support/guarded_memory.hpp"
#include "support/scene.hpp"
#include "zerotune/apply/attention.hpp"
#include "zerotune/apply/logits.hpp"
#include "zerotune/apply/mask.hpp"
#include "zerotune/apply/output.hpp"
#include "zerotune/apply/weights.hpp"

namespace {

using test::index_t;
using zerotune::tensor_view;

template <class Kernel>
class large : public ::testing::Test {
 public:
  /// Around the ends of float's integers and of 32-bit indices: positions that are one apart must
  /// not become equal.
  static std::vector<index_t> far_positions() {
    return {(index_t{1} << 24) + 1, (index_t{1} << 31) + 3, (index_t{1} << 32) + 1,
            (index_t{1} << 53) - 9};
  }
};
TYPED_TEST_SUITE(large, test::attention_fault_kernels, test::kernel_names);

TYPED_TEST(large, attention_finds_an_initial_token_at_any_position) {
  using T = typename TypeParam::type;
  for (const index_t initial : this->far_positions())
    for (const float gamma : {0.0f, 8.0f}) {
      const std::vector<index_t> positions{initial};
      // Ten keys are seen, all of one value and of logit 0; a stride of 0 makes the others. Only
      // the LSE tells how many were weighted how.
      const index_t kv_len = initial + 10;
      test::tensor<T> one({1, 1, 1, 4}), q({1, 1, 1, 4}), out({1, 1, 1, 4});
      test::tensor<float, 3> lse({1, 1, 1});
      one.fill(0.5);
      const tensor_view<const T, 4> keys(one.view().data(), {1, 1, kv_len, 4}, {0, 0, 0, 1});
      const auto sink = zerotune::initial_token{gamma}.at(test::list_view(positions));
      zerotune::attention(typename TypeParam::backend{}, q.const_view(), keys, keys, out.view(),
                          zerotune::causal{} | sink,
                          zerotune::attention_options<float>{.lse = lse.view()});
      EXPECT_NEAR(static_cast<double>(lse.at(0)), std::log(9.0 + static_cast<double>(gamma)), 1e-5)
          << initial << " gamma " << gamma;
      EXPECT_NEAR(test::to_double(out.at(3)), 0.5, 1e-2);
    }
}

// Keys apart by a stride beyond 32 bits, in address space of which four pages exist.
TYPED_TEST(large, attention_reads_keys_that_are_far_apart) {
  using T = typename TypeParam::type;
  const std::size_t page = test::guarded_memory::page();
  const index_t stride = (index_t{1} << 31) + static_cast<index_t>(page);
  test::guarded_memory memory(3 * static_cast<std::size_t>(stride) * sizeof(T) + page);
  test::tensor<T> near({1, 1, 4, 4}), q({1, 1, 1, 4}), out({1, 1, 1, 4}), expected({1, 1, 1, 4});
  near.randomise(3), q.randomise(4);
  T* const base = reinterpret_cast<T*>(memory.data());
  for (index_t j = 0; j < 4; ++j) {
    memory.allow(static_cast<std::size_t>(j * stride) * sizeof(T), page);
    for (index_t c = 0; c < 4; ++c) base[j * stride + c] = near.view()(0, 0, j, c);
  }
  const tensor_view<const T, 4> far(base, {1, 1, 4, 4}, {4 * stride, 4 * stride, stride, 1});
  const zerotune::initial_token sink{3.0f};
  const typename TypeParam::backend tag{};
  zerotune::attention(tag, q.const_view(), far, far, out.view(), sink);
  zerotune::attention(tag, q.const_view(), near.const_view(), near.const_view(), expected.view(),
                      sink);
  EXPECT_TRUE(test::same_bits(out.elements(), expected.elements()));
}

/// A row of 2^31 + 4096 elements; the modifier leaves the last page to be seen.
template <class T>
struct long_row {
  static constexpr index_t kv_len = (index_t{1} << 31) + 4096;
  const index_t seen = static_cast<index_t>(test::guarded_memory::page() / sizeof(T));
  test::guarded_memory memory{static_cast<std::size_t>(kv_len) * sizeof(T)};
  std::vector<index_t> positions{kv_len - seen};
  T* data = reinterpret_cast<T*>(memory.data());
  tensor_view<T, 2> row{data, {1, kv_len}};

  long_row() {
    memory.allow(static_cast<std::size_t>(kv_len - seen) * sizeof(T), test::guarded_memory::page());
  }
  auto sink(float gamma) const {
    return zerotune::initial_token{gamma}.at(test::list_view(positions));
  }
};

TYPED_TEST(large, weights_of_a_row_beyond_32_bits_are_rescaled) {
  using T = typename TypeParam::type;
  long_row<T> r;
  for (index_t j = r.kv_len - r.seen; j < r.kv_len; ++j)
    r.data[j] = test::from_double<T>(1.0 / static_cast<double>(r.seen));
  zerotune::rescale_weights(typename TypeParam::backend{}, r.row, r.sink(4.0f));
  const auto count = static_cast<double>(r.seen);
  const double rest = 1 / (count + 3);
  EXPECT_NEAR(test::to_double(r.data[r.kv_len - r.seen]), 4 * rest, 4 * rest * 0x1p-7);
  EXPECT_NEAR(test::to_double(r.data[r.kv_len - r.seen + 1]), rest, rest * 0x1p-7);
  EXPECT_NEAR(test::to_double(r.data[r.kv_len - 1]), rest, rest * 0x1p-7);
}

TYPED_TEST(large, output_is_corrected_with_keys_beyond_32_bits) {
  using T = typename TypeParam::type;
  const index_t initial = (index_t{1} << 31) + 3, kv_len = initial + 10;
  const std::vector<index_t> positions{initial};
  test::tensor<T> one({1, 1, 1, 4}), q({1, 1, 1, 4}), out({1, 1, 1, 4});
  test::tensor<float, 3> lse({1, 1, 1});
  one.fill(0.5), out.fill(0.5), lse.fill(std::log(10.0));
  const tensor_view<const T, 4> keys(one.view().data(), {1, 1, kv_len, 4}, {0, 0, 0, 1});
  const auto report = zerotune::correct_output(
      typename TypeParam::backend{}, out.view(), lse.view(), q.const_view(), keys, keys,
      zerotune::causal{} | zerotune::initial_token{8.0f}.at(test::list_view(positions)));
  EXPECT_EQ(report.count(zerotune::row_status::corrected), 1);
  EXPECT_NEAR(static_cast<double>(lse.at(0)), std::log(17.0), 1e-5);
}

// The mask and logits forms write every key: positions are far along, the row is not. A query far
// from position 0 sees a few keys, and float positions would blur them.
TYPED_TEST(large, masks_and_logits_know_far_positions) {
  using T = typename TypeParam::type;
  const std::vector<index_t> starts{(index_t{1} << 24) + 1};
  for (const bool as_mask : {false, true}) {
    const index_t kv_len = starts[0] + 4;
    std::vector<T> memory(static_cast<std::size_t>(kv_len), test::from_double<T>(0.0));
    const tensor_view<T, 2> row(memory.data(), {1, kv_len});
    const std::vector<index_t> positions{starts[0] - 1};
    const auto m = zerotune::causal{} |
                   zerotune::initial_token{8.0f}.at(test::list_view(positions)) |
                   zerotune::token_span{{starts[0], starts[0] + 1}, zerotune::head_gammas{2.0f}};
    zerotune::sequence_options options;
    options.q_starts = test::list_view(starts);
    if (as_mask)
      zerotune::fill_mask(typename TypeParam::backend{}, row, m, options);
    else
      zerotune::bias_logits(typename TypeParam::backend{}, row, m, options);
    const auto at = [&](index_t j) { return test::to_double(row(0, j)); };
    EXPECT_EQ(at(starts[0] - 2), -oracle::infinity);
    EXPECT_NEAR(at(starts[0] - 1), std::log(8.0), 0.02);
    EXPECT_NEAR(at(starts[0]), std::log(2.0), 0.02);
    EXPECT_EQ(at(starts[0] + 1), -oracle::infinity);
  }
}

}  // namespace
