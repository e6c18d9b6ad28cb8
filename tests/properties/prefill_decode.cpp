// SPDX-License-Identifier: Apache-2.0
// Decode, chunks and prefill are the same attention: bound of docs/design.md, section 6.
#include <gtest/gtest.h>

#include <vector>

#include "support/backends.hpp"
#include "support/random_scene.hpp"
#include "support/tolerance.hpp"
#include "zerotune/apply/attention.hpp"
#include "zerotune/apply/weights.hpp"

namespace {

using test::index_t;
using test::scene;

template <class Kernel>
class chunks_of : public ::testing::Test {
 public:
  using type = typename Kernel::type;
  using acc = zerotune::accumulator_t<type>;
  scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = 67, .kv_len = 67, .head_dim = 16};
  chunks_of() {
    s.value_dim = 12;
    s.gammas = {4.0f, 0.0f, 1.0f, 0.1f};
    s.positions = {0, 9};
    s.complete();
  }
  /// Rows [first, last) as a call of their own, with the keys that exist by then.
  void attend(test::inputs<type>& in, test::tensor<type>& out, test::tensor<acc, 3>& lse,
              index_t first, index_t last) {
    const auto q = in.q.const_view();
    const auto o = out.view();
    const auto l = lse.view();
    const std::vector<index_t> lengths(2, last), starts(2, first);
    const index_t rows = last - first;
    zerotune::attention_options<acc> options;
    options.kv_lengths = test::list_view(lengths);
    options.q_starts = test::list_view(starts);
    options.lse = zerotune::tensor_view<acc, 3>(l.pointer(0, 0, first), {2, 4, rows},
                                                {l.stride(0), l.stride(1), l.stride(2)});
    zerotune::attention(
        typename Kernel::backend{},
        zerotune::tensor_view<const type, 4>(q.pointer(0, 0, first, 0), {2, 4, rows, 16},
                                             {q.stride(0), q.stride(1), q.stride(2), 1}),
        in.k.const_view(), in.v.const_view(),
        zerotune::tensor_view<type, 4>(o.pointer(0, 0, first, 0), {2, 4, rows, 12},
                                       {o.stride(0), o.stride(1), o.stride(2), 1}),
        s.usual(), options);
  }
};
TYPED_TEST_SUITE(chunks_of, test::attention_kernels, test::kernel_names);

TYPED_TEST(chunks_of, a_prompt_equal_the_whole_prompt) {
  using T = typename TypeParam::type;
  using real = typename TestFixture::acc;
  test::inputs<T> in(this->s, 3);
  const oracle::result exact = oracle::attend(in.problem(this->s));
  const oracle::result naive = test::naive_attention<T>(in.problem(this->s));
  test::tensor<T> whole({2, 4, 67, 12});
  test::tensor<real, 3> whole_lse({2, 4, 67});
  this->attend(in, whole, whole_lse, 0, 67);
  for (const index_t size : {1, 2, 7, 16, 32, 64}) {  // 1 is decoding
    test::tensor<T> out({2, 4, 67, 12});
    test::tensor<real, 3> lse({2, 4, 67});
    for (index_t first = 0; first < 67; first += size)
      this->attend(in, out, lse, first, std::min<index_t>(first + size, 67));
    EXPECT_TRUE(test::close<T>(out.dense(), exact.out, naive.out)) << size;
    EXPECT_TRUE(test::close<real>(lse.dense(), exact.lse, naive.lse)) << size;
    EXPECT_TRUE(test::close<T>(out.dense(), whole.dense(), naive.out)) << size;
  }
}

// Two calls over halves of the keys, merged by their LSE, are the whole: gamma = 0 in the half that
// holds nothing else must not make NaN or lose the rest.
TYPED_TEST(chunks_of, the_keys_merge_by_their_lse) {
  using T = typename TypeParam::type;
  using real = typename TestFixture::acc;
  for (const index_t split : {1, 5, 40, 66}) {
    scene whole = this->s;
    whole.positions.clear();
    whole.q_len = 3, whole.causal = false;
    test::inputs<T> in(whole, 5);
    const auto exact = oracle::attend(in.problem(whole));
    const auto naive = test::naive_attention<T>(in.problem(whole));
    test::tensor<T> parts[2] = {test::tensor<T>({2, 4, 3, 12}), test::tensor<T>({2, 4, 3, 12})};
    test::tensor<real, 3> sums[2] = {test::tensor<real, 3>({2, 4, 3}),
                                     test::tensor<real, 3>({2, 4, 3})};
    const auto k = in.k.const_view(), v = in.v.const_view();
    for (index_t part = 0; part < 2; ++part) {
      const index_t first = part ? split : 0, count = part ? 67 - split : split;
      const zerotune::tensor_view<const T, 4> keys(k.pointer(0, 0, first, 0), {2, 2, count, 16},
                                                   {k.stride(0), k.stride(1), k.stride(2), 1});
      const zerotune::tensor_view<const T, 4> values(v.pointer(0, 0, first, 0), {2, 2, count, 12},
                                                     {v.stride(0), v.stride(1), v.stride(2), 1});
      zerotune::attention_options<real> options;
      options.lse = sums[part].view();
      const typename TypeParam::backend tag{};
      if (part)
        zerotune::attention(tag, in.q.const_view(), keys, values, parts[1].view(),
                            zerotune::identity{}, options);
      else
        zerotune::attention(tag, in.q.const_view(), keys, values, parts[0].view(), whole.sink(),
                            options);
    }
    std::vector<double> merged;
    for (index_t row = 0; row < 24; ++row) {
      const auto gamma = static_cast<double>(whole.gammas[static_cast<std::size_t>(row / 3 % 4)]);
      // A part that sees the excluded token only is finalised as if unmodified: a host that splits
      // keys itself gives such a part no weight.
      const double l0 =
          gamma == 0 && split == 1 ? -oracle::infinity : static_cast<double>(sums[0].at(row));
      const double l1 = static_cast<double>(sums[1].at(row));
      const double top = std::max(l0, l1), w0 = std::exp(l0 - top), w1 = std::exp(l1 - top);
      for (index_t c = 0; c < 12; ++c)
        merged.push_back((w0 * test::to_double(parts[0].at(row * 12 + c)) +
                          w1 * test::to_double(parts[1].at(row * 12 + c))) /
                         (w0 + w1));
    }
    EXPECT_TRUE(test::close<T>(merged, exact.out, naive.out)) << split;
  }
}

}  // namespace
