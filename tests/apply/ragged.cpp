// SPDX-License-Identifier: Apache-2.0
// Packed sequences: bit by bit what each one gives alone.
#include "zerotune/apply/ragged.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "support/backends.hpp"
#include "support/errors.hpp"
#include "support/scene.hpp"
#include "support/tolerance.hpp"
#include "zerotune/core/thread_pool.hpp"

namespace {

using test::index_t;
using test::layout;
using test::scene;

/// Lengths: none, one query (decode), a chunk, a whole prompt, no keys.
const std::vector<index_t> q_lengths{3, 0, 1, 20, 2};
const std::vector<index_t> kv_lengths{3, 4, 70, 33, 0};

std::vector<index_t> offsets_of(const std::vector<index_t>& lengths) {
  std::vector<index_t> offsets{0};
  for (const index_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

template <class T>
struct packed {
  static constexpr index_t heads = 4, kv_heads = 2, head_dim = 24, value_dim = 19;
  std::vector<index_t> q_offsets = offsets_of(q_lengths), kv_offsets = offsets_of(kv_lengths);
  std::vector<float> gammas{2.0f, 0.0f, 1.0f, 0.5f};
  std::vector<index_t> positions{1, 0, 30, 0, 5};
  test::tensor<T, 3> q, k, v, out;
  test::tensor<zerotune::accumulator_t<T>, 2> lse;

  explicit packed(layout order = layout::contiguous)
      : q({q_offsets.back(), heads, head_dim}, order),
        k({kv_offsets.back(), kv_heads, head_dim}, order),
        v({kv_offsets.back(), kv_heads, value_dim}, order),
        out({q_offsets.back(), heads, value_dim}, order),
        lse({q_offsets.back(), heads}, order) {
    q.randomise(1, -1.5, 1.5), k.randomise(2, -1.5, 1.5), v.randomise(3);
    out.fill(77), lse.fill(77);
  }
  zerotune::ragged_batch sequences() const {
    return {test::list_view(q_offsets), test::list_view(kv_offsets)};
  }
  auto modifier() const {
    return zerotune::causal{} |
           zerotune::initial_token{test::list_view(gammas)}.at(test::list_view(positions));
  }
  template <class Backend, class Modifier, class Executor = zerotune::serial_executor>
  void run(const Modifier& m, Executor&& executor = {}) {
    zerotune::ragged_options<zerotune::accumulator_t<T>> options;
    options.lse = lse.view();
    zerotune::attention_ragged(Backend{}, q.const_view(), k.const_view(), v.const_view(),
                               out.view(), sequences(), m, options, executor);
  }
};

template <class Kernel>
class ragged : public ::testing::Test {};
TYPED_TEST_SUITE(ragged, test::attention_kernels, test::kernel_names);

/// Expects each sequence's rows of `all` to be those of attention on that sequence alone.
template <class Backend, class T, class ModifierOf>
void expect_one_by_one(packed<T>& all, const ModifierOf& modifier_of) {
  for (std::size_t b = 0; b < q_lengths.size(); ++b) {
    scene s{.num_heads = all.heads, .num_kv_heads = all.kv_heads, .q_len = q_lengths[b]};
    s.kv_len = kv_lengths[b], s.head_dim = all.head_dim, s.value_dim = all.value_dim;
    test::inputs<T> in(s, 1);
    const auto copy = [&](auto& to, auto& from, index_t heads, index_t first, index_t length,
                          index_t dim) {
      for (index_t h = 0; h < heads; ++h)
        for (index_t i = 0; i < length; ++i)
          for (index_t c = 0; c < dim; ++c)
            to.at((h * length + i) * dim + c) = from.at(((first + i) * heads + h) * dim + c);
    };
    copy(in.q, all.q, s.num_heads, all.q_offsets[b], s.q_len, s.head_dim);
    copy(in.k, all.k, s.num_kv_heads, all.kv_offsets[b], s.kv_len, s.head_dim);
    copy(in.v, all.v, s.num_kv_heads, all.kv_offsets[b], s.kv_len, s.value_dim);
    test::tensor<T> out({1, s.num_heads, s.q_len, s.value_dim});
    test::tensor<zerotune::accumulator_t<T>, 3> lse({1, s.num_heads, s.q_len});
    zerotune::attention_options<zerotune::accumulator_t<T>> options;
    options.lse = lse.view();
    zerotune::attention(Backend{}, in.q.const_view(), in.k.const_view(), in.v.const_view(),
                        out.view(), modifier_of(b), options);
    test::tensor<T> rows({1, s.num_heads, s.q_len, s.value_dim});
    test::tensor<zerotune::accumulator_t<T>, 3> sums({1, s.num_heads, s.q_len});
    copy(rows, all.out, s.num_heads, all.q_offsets[b], s.q_len, s.value_dim);
    copy(sums, all.lse, s.num_heads, all.q_offsets[b], s.q_len, 1);
    EXPECT_TRUE(test::same_bits(out.elements(), rows.elements())) << "sequence " << b;
    EXPECT_TRUE(test::same_bits(lse.elements(), sums.elements())) << "sequence " << b;
  }
}

TYPED_TEST(ragged, is_bitwise_one_by_one) {
  using T = typename TypeParam::type;
  using backend = typename TypeParam::backend;
  packed<T> all;
  all.template run<backend>(all.modifier());
  // Alone, a sequence is number 0 of its batch.
  std::vector<std::vector<index_t>> own;
  for (const index_t position : all.positions) own.push_back({position});
  own.back() = {0};  // without keys no position is accepted, and none is looked at
  expect_one_by_one<backend>(all, [&](std::size_t b) {
    const zerotune::initial_token sink{test::list_view(all.gammas)};
    return zerotune::causal{} | (kv_lengths[b] > 0 ? sink.at(test::list_view(own[b])) : sink);
  });
  EXPECT_TRUE(all.out.gaps_intact() && all.lse.gaps_intact());
}

TYPED_TEST(ragged, takes_any_strides_transforms_and_executors) {
  using T = typename TypeParam::type;
  using backend = typename TypeParam::backend;
  zerotune::thread_pool pool(3);
  for (const layout order : {layout::contiguous, layout::reversed, layout::spread}) {
    packed<T> all(order);
    const auto m = zerotune::softcap{2.0f} | zerotune::causal{} |
                   zerotune::initial_token{test::list_view(all.gammas)};
    all.template run<backend>(m, pool);
    if (order == layout::contiguous)
      expect_one_by_one<backend>(all, [&](std::size_t) { return m; });
    EXPECT_TRUE(all.out.gaps_intact() && all.lse.gaps_intact());
    packed<T> first;
    first.template run<backend>(m);
    for (index_t i = 0; i < all.out.size(); ++i)
      EXPECT_NEAR(test::to_double(all.out.at(i)), test::to_double(first.out.at(i)), 1e-2) << i;
  }
}

// The formula itself, on the sequences as the oracle sees them.
TYPED_TEST(ragged, is_right) {
  using T = typename TypeParam::type;
  packed<T> all;
  all.template run<typename TypeParam::backend>(all.modifier());
  for (std::size_t b = 0; b < q_lengths.size(); ++b) {
    scene s{.num_heads = all.heads, .num_kv_heads = all.kv_heads, .q_len = q_lengths[b]};
    s.kv_len = kv_lengths[b], s.head_dim = all.head_dim, s.value_dim = all.value_dim;
    s.gammas = all.gammas;
    s.positions = {all.positions[b]};
    s.complete();
    const auto part = [&](const auto& tensor, index_t heads, index_t first, index_t length,
                          index_t dim) {
      std::vector<double> values;
      for (index_t h = 0; h < heads; ++h)
        for (index_t i = 0; i < length; ++i)
          for (index_t c = 0; c < dim; ++c)
            values.push_back(test::to_double(tensor.at(((first + i) * heads + h) * dim + c)));
      return values;
    };
    const oracle::problem problem =
        s.problem(part(all.q, s.num_heads, all.q_offsets[b], s.q_len, s.head_dim),
                  part(all.k, s.num_kv_heads, all.kv_offsets[b], s.kv_len, s.head_dim),
                  part(all.v, s.num_kv_heads, all.kv_offsets[b], s.kv_len, s.value_dim));
    EXPECT_TRUE(test::close<T>(part(all.out, s.num_heads, all.q_offsets[b], s.q_len, s.value_dim),
                               oracle::attend(problem).out, test::naive_attention<T>(problem).out))
        << "sequence " << b;
  }
}

TEST(ragged_without_a_back_end, is_the_scalar_one) {
  packed<float> wanted, found;
  wanted.run<zerotune::backend::scalar>(wanted.modifier());
  zerotune::ragged_options<float> options;
  options.lse = found.lse.view();
  zerotune::attention_ragged(found.q.const_view(), found.k.const_view(), found.v.const_view(),
                             found.out.view(), found.sequences(), found.modifier(), options);
  EXPECT_TRUE(test::same_bits(found.out.storage(), wanted.out.storage()));
  EXPECT_TRUE(test::same_bits(found.lse.storage(), wanted.lse.storage()));
}

TEST(ragged_refuses, what_does_not_fit) {
  using all_of = packed<float>;
  const auto message = [](const auto& change) {
    all_of all;
    const auto before = all.out.storage();
    auto sequences = all.sequences();
    auto q = all.q.const_view();
    auto k = all.k.const_view();
    auto v = all.v.const_view();
    auto out = all.out.view();
    zerotune::ragged_options<float> options;
    options.lse = all.lse.view();
    change(all, sequences, q, k, v, out, options);
    sequences.q_offsets = test::list_view(all.q_offsets);
    sequences.kv_offsets = test::list_view(all.kv_offsets);
    const std::string result = test::message_of([&] {
      zerotune::attention_ragged(zerotune::backend::scalar{}, q, k, v, out, sequences,
                                 all.modifier(), options);
    });
    EXPECT_TRUE(result.empty() || test::same_bits(before, all.out.storage()));
    return result;
  };
  EXPECT_EQ(message([](auto&...) {}), "");
  EXPECT_TRUE(test::mentions(message([](auto& a, auto&...) { a.q_offsets[0] = 1; }),
                             {"attention_ragged: q_offsets[0]", "expected 0", "got 1"}));
  EXPECT_TRUE(test::mentions(message([](auto& a, auto&...) { a.kv_offsets[2] = 2; }),
                             {"kv_offsets[2]", "an offset in [3, 110]", "got 2"}));
  EXPECT_TRUE(test::mentions(message([](auto& a, auto&...) { a.q_offsets[5] = 25; }),
                             {"q_offsets[5]", "expected 26", "got 25"}));
  EXPECT_TRUE(test::mentions(message([](auto& a, auto&...) { a.q_offsets[5] = 27; }),
                             {"q_offsets[5]", "an offset in [24, 26]", "got 27"}));
  EXPECT_TRUE(test::mentions(message([](auto& a, auto&...) {
                               a.kv_offsets = {0, 110};
                             }),
                             {"kv_offsets dim 0 (batch + 1)", "expected 6", "got 2"}));
  EXPECT_TRUE(test::mentions(message([](auto& a, auto&...) { a.kv_offsets.clear(); }),
                             {"kv_offsets dim 0 (batch + 1)", "got 0"}));
  EXPECT_TRUE(test::mentions(message([](auto&, auto&, auto&, auto& k, auto&...) {
                               k = {k.data(), {k.extent(0), 2, 23}};
                             }),
                             {"k dim 2 (head_dim)", "expected 24", "got 23"}));
  EXPECT_TRUE(test::mentions(message([](auto&, auto&, auto&, auto& k, auto&...) {
                               k = {k.data(), {k.extent(0), 3, 16}};
                             }),
                             {"v dim 1 (num_kv_heads)", "expected 3", "got 2"}));
  EXPECT_TRUE(test::mentions(message([](auto&, auto&, auto&, auto&, auto& v, auto&...) {
                               v = {v.data(), {v.extent(0) - 1, 2, 19}};
                             }),
                             {"v dim 0 (total_kv_len)", "expected 110", "got 109"}));
  EXPECT_TRUE(test::mentions(message([](auto&, auto&, auto&, auto&, auto&, auto& out, auto&) {
                               out = {out.data(), {out.extent(0), 4, 18}};
                             }),
                             {"out dim 2 (value_dim)", "expected 19", "got 18"}));
  EXPECT_TRUE(test::mentions(message([](auto& a, auto&, auto&, auto&, auto&, auto& out, auto&) {
                               out = {a.q.view().data(), {26, 4, 19}};
                             }),
                             {"out", "memory apart from q"}));
  EXPECT_TRUE(test::mentions(message([](auto&, auto&, auto&, auto&, auto&, auto&, auto& options) {
                               options.lse = {options.lse.data(), {26, 3}};
                             }),
                             {"lse dim 1 (num_heads)", "expected 4", "got 3"}));
  EXPECT_TRUE(test::mentions(message([](auto&, auto&, auto&, auto&, auto&, auto&, auto& options) {
                               options.softmax_scale = std::numeric_limits<float>::quiet_NaN();
                             }),
                             {"softmax_scale", "finite"}));
  EXPECT_TRUE(test::mentions(message([](auto& a, auto&...) { a.positions[2] = 71; }),
                             {"positions[2]", "got 71"}));
  EXPECT_TRUE(test::mentions(message([](auto& a, auto&...) { a.gammas[1] = -1.0f; }),
                             {"gamma[1]", "got -1"}));
}

}  // namespace
