// SPDX-License-Identifier: Apache-2.0
// Decode against the oracle: lengths, groups, head dimensions, layouts, modifiers; what does not
// depend on threads, batch and neighbours.
#include "zerotune/apply/decode.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "apply/decode_run.hpp"
#include "zerotune/core/thread_pool.hpp"

namespace {

using test::decoded;
using test::index_t;
using test::layout;
using test::scene;

#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
constexpr bool finite_math = true;
#else
constexpr bool finite_math = false;
#endif

template <class Kernel>
class decode_of : public ::testing::Test {
 public:
  using backend = typename Kernel::backend;
  using type = typename Kernel::type;
  using acc = zerotune::accumulator_t<type>;

  static void expect_right(scene& s, layout order = layout::contiguous) {
    s.complete();
    test::expect_decoded<backend, type>(s, s.usual(), order);
  }
  template <class Modifier, class Executor = zerotune::serial_executor>
  static decoded<type> run(const scene& s, test::inputs<type>& in, const Modifier& m,
                           Executor&& executor = {}) {
    return test::decode<backend, type>(s, in, m, layout::contiguous, executor);
  }
};
TYPED_TEST_SUITE(decode_of, test::attention_kernels, test::kernel_names);

/// Longer than one part: 3 parts of 1024, 1024 and 452 keys.
constexpr index_t split_length = 2500;

TYPED_TEST(decode_of, is_right_at_every_length) {
  for (index_t length = 1; length <= 2 * zerotune::impl::decode_keys + 1; ++length) {
    scene s{.num_heads = 2, .num_kv_heads = 1, .q_len = 1, .kv_len = length, .head_dim = 16};
    s.value_dim = 16;
    s.gammas = {3.0f, 0.25f};
    this->expect_right(s);
  }
}

TYPED_TEST(decode_of, is_right_with_several_queries) {
  for (const index_t q_len : {2, 3, 4, 5, 9})
    for (const index_t length : {1, 4, 9, 63, 64, 65, 130}) {
      scene s{.num_heads = 6, .num_kv_heads = 2, .q_len = q_len, .kv_len = length};
      s.gammas = {3.0f, 0.25f, 1.0f, 0.0f, 2.0f, 0.5f};
      this->expect_right(s);
    }
}

TYPED_TEST(decode_of, is_right_at_every_head_dimension) {
  std::vector<index_t> dims{1, 2, 3, 5, 7, 9, 31, 33};
  for (index_t dim = 8; dim <= 256; dim += 8) dims.push_back(dim);
  for (const index_t dim : dims) {
    scene s{.num_heads = 3, .num_kv_heads = 1, .q_len = 1, .kv_len = 19, .head_dim = dim};
    s.gammas = {4.0f, 0.0f, 1.0f};
    s.value_dim = dim;
    this->expect_right(s);
    s.value_dim = dim == 80 ? 96 : 5;  // values may have another width than keys
    this->expect_right(s);
  }
}

TYPED_TEST(decode_of, is_right_with_every_group_size) {
  for (const index_t group : {1, 2, 3, 5, 7, 8, 16})
    for (const index_t kv_heads : {1, 3}) {
      scene s{.batch = 2, .num_heads = group * kv_heads, .num_kv_heads = kv_heads, .q_len = 1};
      s.kv_len = 37;
      for (index_t h = 0; h < s.num_heads; ++h) s.gammas.push_back(0.5f * static_cast<float>(h));
      this->expect_right(s);
      s.q_len = 3;  // 48 queries go along: more than one tile of them
      this->expect_right(s);
    }
}

TYPED_TEST(decode_of, is_right_with_any_strides) {
  for (const layout order : test::all_layouts)
    for (const index_t dim : {1, 8, 19, 64}) {
      scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = 2, .kv_len = 70};
      s.head_dim = dim, s.value_dim = dim + 2;
      s.gammas = {2.0f, 0.0f, 1.0f, 0.125f};
      this->expect_right(s, order);
    }
}

TYPED_TEST(decode_of, is_right_for_rows_that_fit_the_stack_one_at_a_time) {
  scene s{.num_heads = 2, .num_kv_heads = 1, .q_len = 1, .kv_len = 5, .head_dim = 4096};
  s.value_dim = 1500;
  this->expect_right(s, layout::spread);
}

TYPED_TEST(decode_of, is_right_with_every_bias_at_once) {
  for (const layout order : {layout::contiguous, layout::swapped}) {
    scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = 4, .kv_len = 137};
    s.gammas = {2.0f, 0.0f, 1.0f, 0.125f};
    s.slopes = {0.5f, 0.25f, 0.0f, 0.0625f};
    s.span = {5, 121}, s.span_gamma = 0.3f;
    s.window = 90;
    s.positions = {60, 0};
    s.complete();
    test::expect_decoded<typename TestFixture::backend, typename TestFixture::type>(s, s.biases(),
                                                                                    order);
  }
}

TYPED_TEST(decode_of, is_right_with_a_softcap_before_the_biases) {
  scene s{.batch = 1, .num_heads = 2, .num_kv_heads = 1, .q_len = 2, .kv_len = 129};
  s.gammas = {8.0f, 0.0f};
  s.slopes = {0.5f, 0.25f};
  s.softcap = 2.0;
  s.complete();
  test::expect_decoded<typename TestFixture::backend, typename TestFixture::type>(
      s, s.everything(), layout::contiguous, 4.0);
}

TYPED_TEST(decode_of, is_right_for_sequences_of_different_lengths_and_starts) {
  scene s{.batch = 5, .num_heads = 2, .num_kv_heads = 1, .q_len = 3, .kv_len = 73};
  s.kv_lengths = {73, 7, 0, 12, 2};
  s.q_starts = {70, 2, 0, 3, -1};
  s.positions = {65, 4, 1, 2, 0};
  s.gammas = {3.0f, 0.0f};
  this->expect_right(s);
  s.q_starts.clear();  // the last positions: before 0 where the sequence is shorter
  this->expect_right(s);
}

// A sharp and a flat softmax; maxima that move from block to block and from part to part.
TYPED_TEST(decode_of, is_right_for_large_logits_and_growing_maxima) {
  using T = typename TestFixture::type;
  for (const double spread : {1e-3, 8.0, 40.0}) {
    scene s{.num_heads = 2, .num_kv_heads = 2, .q_len = 1, .kv_len = 150, .head_dim = 16};
    s.value_dim = 16;
    s.gammas = {1e6f, 1e-6f};
    s.complete();
    test::expect_decoded<typename TestFixture::backend, T>(s, s.usual(), layout::contiguous,
                                                           spread);
  }
  for (const bool grows : {true, false}) {
    scene s{.num_heads = 2, .num_kv_heads = 1, .kv_len = split_length, .head_dim = 1};
    s.value_dim = 3;
    s.complete();
    test::inputs<T> in(s, 3);
    in.q.fill(1);
    for (index_t j = 0; j < s.kv_len; ++j)
      in.k.at(j) = test::from_double<T>(static_cast<double>(grows ? j : s.kv_len - j) / 100);
    test::expect_close<T>(s, this->run(s, in, s.usual()), in.problem(s));
  }
}

TYPED_TEST(decode_of, is_right_in_parts) {
  for (const index_t length : {1024, 1025, 2047, 2048, 2049, 2500}) {
    scene s{.num_heads = 3, .num_kv_heads = 1, .q_len = 2, .kv_len = length};
    s.gammas = {3.0f, 0.0f, 1.0f};
    this->expect_right(s);
  }
  scene s{.batch = 3, .num_heads = 4, .num_kv_heads = 2, .q_len = 2, .kv_len = split_length};
  s.gammas = {2.0f, 0.0f, 1.0f, 0.125f};
  s.slopes = {0.01f, 0.0f, 0.0f, 0.001f};
  s.span = {1000, 1100}, s.span_gamma = 3.0f;
  s.positions = {1500, 0, 3};  // the first part of sequence 0 is padding
  s.kv_lengths = {2400, 2500, 1024};
  s.window = 1300;  // the initial token of sequence 1 is out of reach, as is most of part 0
  s.complete();
  test::expect_decoded<typename TestFixture::backend, typename TestFixture::type>(s, s.biases());
}

// Whole (one row at a time, unsplit) and in parts agree within the bound that each keeps to the
// oracle; and so does a sequence of more parts than the least length gives.
TEST(key_splits, cover_the_keys_by_length_alone) {
  for (const index_t length : {0, 1, 255, 256, 1023, 1024, 1025, 32768, 32769, 65536, 1000003}) {
    const zerotune::impl::key_splits splits(length);
    index_t end = 0;
    for (index_t s = 0; s < splits.count(); ++s) {
      EXPECT_EQ(splits.at(s).begin, end) << length;
      EXPECT_EQ(splits.at(s).begin % 256, 0) << "not a multiple of every page and block";
      EXPECT_TRUE(length == 0 || !splits.at(s).empty());
      end = splits.at(s).end;
    }
    EXPECT_EQ(end, length);
    for (const index_t longer : {length, length + 1, length + 1000, 2 * length})
      EXPECT_LE(splits.count(), zerotune::impl::key_splits::most(longer));
  }
}

TEST(decode_without_a_back_end, is_the_scalar_one) {
  scene s{.num_heads = 4, .num_kv_heads = 2, .q_len = 1, .kv_len = 40};
  s.complete();
  test::inputs<float> in(s, 1);
  const auto wanted = test::decode<zerotune::backend::scalar, float>(s, in, s.usual());
  decoded<float> found(s);
  auto options = s.options<zerotune::decode_options<float>>();
  options.softmax_scale = static_cast<float>(s.scale);
  options.lse = found.lse.view();
  zerotune::attention_decode(in.q.const_view(), in.k.const_view(), in.v.const_view(),
                             found.out.view(), s.usual(), options);
  EXPECT_TRUE(found.same(wanted));
}

/// Hides all keys but those of a list of two, by bias alone.
struct only_two {
  index_t first, second;
  template <class Batch>
  Batch log_bias(zerotune::row, Batch position) const {
    using real = zerotune::impl::value_of<Batch>;
    using zerotune::select;
    const Batch hidden(zerotune::impl::mask_bias<real>()), zero(real(0));
    return select(position == Batch(static_cast<real>(first)), zero,
                  select(position == Batch(static_cast<real>(second)), zero, hidden));
  }
  zerotune::tile_effect effect(int, zerotune::range, zerotune::range keys) const {
    return keys.contains(first) || keys.contains(second) ? zerotune::tile_effect::apply
                                                         : zerotune::tile_effect::masked;
  }
};

// Part 0 holds the excluded token alone, part 1 sees nothing, part 2 one key; and a row whose only
// key is excluded stays as if gamma were 1, output and LSE.
TYPED_TEST(decode_of, gamma_zero_in_a_part_of_its_own) {
  scene s{.num_heads = 2, .num_kv_heads = 1, .q_len = 1, .kv_len = split_length};
  s.gammas = {0.0f, 3.0f};
  s.complete();
  test::inputs<typename TestFixture::type> in(s, 4);
  for (const index_t second : {index_t{0}, index_t{2300}, index_t{1100}}) {
    oracle::problem problem = in.problem(s);
    const auto usual = problem.rule.hidden;
    problem.rule.hidden = [=](oracle::position p) {
      return usual(p) || (p.kv_pos != 0 && p.kv_pos != second);
    };
    test::expect_close(s, this->run(s, in, only_two{0, second} | s.usual()), problem);
  }
}

// gamma = 0 over all that is seen, in every part.
TYPED_TEST(decode_of, a_span_of_gamma_zero_over_all_parts) {
  scene s{.num_heads = 2, .num_kv_heads = 1, .q_len = 2, .kv_len = split_length};
  s.span = {0, split_length}, s.span_gamma = 0.0f;
  s.complete();
  test::expect_decoded<typename TestFixture::backend, typename TestFixture::type>(s, s.biases());
}

TYPED_TEST(decode_of, sees_nothing) {
  scene s{.batch = 2, .num_heads = 2, .num_kv_heads = 1, .q_len = 1, .kv_len = split_length};
  s.kv_lengths = {0, split_length};
  s.q_starts = {0, -5};
  this->expect_right(s);
  scene none{.num_heads = 2, .num_kv_heads = 2, .kv_len = 0};
  this->expect_right(none);
}

/// Calls from the last to the first: results must not depend on an order.
struct backwards {
  template <class Body>
  void parallel_for(index_t count, const Body& body) {
    for (index_t i = count; i-- > 0;) body(i);
  }
};

TYPED_TEST(decode_of, is_bitwise_the_same_for_any_number_of_threads) {
  scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = 2, .kv_len = split_length};
  s.gammas = {2.0f, 0.0f, 1.0f, 0.5f};
  s.complete();
  test::inputs<typename TestFixture::type> in(s, 6);
  const auto serial = this->run(s, in, s.usual());
  for (const int threads : {1, 2, 3, 7}) {
    zerotune::thread_pool pool(threads);
    EXPECT_TRUE(serial.same(this->run(s, in, s.usual(), pool))) << threads;
  }
  EXPECT_TRUE(serial.same(this->run(s, in, s.usual(), backwards{})));
}

TYPED_TEST(decode_of, does_not_depend_on_the_rest_of_the_batch) {
  using T = typename TestFixture::type;
  scene both{.batch = 2, .num_heads = 2, .num_kv_heads = 1, .q_len = 1, .kv_len = 2100};
  both.kv_lengths = {1300, 2100};
  both.gammas = {2.0f, 0.5f};
  both.complete();
  test::inputs<T> in(both, 9);
  const auto batched = this->run(both, in, both.usual());
  scene alone = both;
  alone.batch = 1, alone.kv_len = 1300, alone.kv_lengths.clear();
  test::decoded<T> single(alone);
  const auto cut = [&](const auto& view) {  // sequence 0, its 1300 keys
    return zerotune::tensor_view<const T, 4>(
        view.data(), {1, view.extent(1), 1300, view.extent(3)},
        {view.stride(0), view.stride(1), view.stride(2), view.stride(3)});
  };
  const auto q = in.q.const_view();
  test::decode_into<typename TestFixture::backend, T>(
      single, alone,
      zerotune::tensor_view<const T, 4>(q.data(), {1, 2, 1, q.extent(3)},
                                        {q.stride(0), q.stride(1), q.stride(2), q.stride(3)}),
      cut(in.k.const_view()), cut(in.v.const_view()), alone.usual());
  for (index_t h = 0; h < 2; ++h) EXPECT_TRUE(batched.same_head(single, both, 0, h));
}

// A query's bits do not depend on those that go along with it.
TYPED_TEST(decode_of, does_not_depend_on_the_other_queries_of_its_group) {
  using T = typename TestFixture::type;
  scene s{.num_heads = 7, .num_kv_heads = 1, .q_len = 3, .kv_len = 1100, .head_dim = 40};
  s.value_dim = 24;
  s.gammas = {2.0f, 0.0f, 1.0f, 0.5f, 1.0f, 3.0f, 0.25f};
  s.complete();
  test::inputs<T> in(s, 9);
  const auto group = this->run(s, in, s.usual());
  for (index_t h = 0; h < s.num_heads; ++h)
    for (index_t i = 0; i < s.q_len; ++i) {
      scene alone = s;
      alone.num_heads = alone.q_len = 1;
      alone.gammas = {s.gammas[static_cast<std::size_t>(h)]};
      alone.q_starts = {s.kv_len - s.q_len + i};
      alone.complete();
      test::decoded<T> single(alone);
      test::decode_into<typename TestFixture::backend, T>(
          single, alone,
          zerotune::tensor_view<const T, 4>(in.q.const_view().pointer(0, h, i, 0),
                                            {1, 1, 1, s.head_dim}),
          in.k.const_view(), in.v.const_view(), alone.usual());
      const auto all = group.out.elements(), one = single.out.elements();
      const auto from = (h * s.q_len + i) * s.value_dim;
      EXPECT_TRUE(test::same_bits(
          one, std::vector<T>(all.begin() + from, all.begin() + from + s.value_dim)))
          << h << " " << i;
    }
}

TYPED_TEST(decode_of, gamma_one_and_unselected_heads_change_no_bit) {
  scene s{.num_heads = 5, .num_kv_heads = 1, .q_len = 2, .kv_len = 1100, .head_dim = 24};
  s.complete();
  test::inputs<typename TestFixture::type> in(s, 12);
  const auto untouched = this->run(s, in, zerotune::causal{} | zerotune::identity{});
  EXPECT_TRUE(untouched.same(this->run(s, in, s.usual())));
  s.gammas = {1.0f, 2.0f, 1.0f, 0.0f, 1.0f};
  const auto some = this->run(s, in, s.usual());
  for (const index_t h : {0, 2, 4}) EXPECT_TRUE(some.same_head(untouched, s, 0, h)) << h;
  for (const index_t h : {1, 3}) EXPECT_FALSE(some.same_head(untouched, s, 0, h)) << h;
}

TYPED_TEST(decode_of, gamma_of_n_equals_n_copies_of_the_initial_token) {
  using T = typename TestFixture::type;
  scene s{.num_heads = 2, .num_kv_heads = 1, .kv_len = 70};
  s.gammas = {4.0f, 4.0f};
  s.complete();
  scene copies = s;
  copies.kv_len = 73, copies.gammas = {1.0f, 1.0f};
  test::inputs<T> in(s, 2), more(copies, 2);
  for (index_t j = 0; j < copies.kv_len; ++j)
    for (index_t c = 0; c < s.head_dim; ++c) {
      const index_t from = std::max<index_t>(0, j - 3) * s.head_dim + c;
      more.k.at(j * s.head_dim + c) = in.k.at(from);
      more.v.at(j * s.head_dim + c) = in.v.at(from);
    }
  // Both are within the bound of the same oracle.
  test::expect_close<T>(s, this->run(s, in, s.usual()), in.problem(s));
  test::expect_close<T>(copies, this->run(copies, more, copies.usual()), in.problem(s));
}

TYPED_TEST(decode_of, agrees_with_attention) {
  using T = typename TestFixture::type;
  scene s{.batch = 2, .num_heads = 8, .num_kv_heads = 2, .q_len = 4, .kv_len = 1500};
  s.gammas = {2.0f, 0.0f, 1.0f, 0.5f, 3.0f, 1.0f, 1.0f, 0.1f};
  s.kv_lengths = {1500, 1200};
  s.complete();
  test::inputs<T> in(s, 21);
  const auto got = this->run(s, in, s.usual());
  test::decoded<T> whole(s);
  auto options = s.options<zerotune::attention_options<typename TestFixture::acc>>();
  options.softmax_scale = static_cast<typename TestFixture::acc>(s.scale);
  options.lse = whole.lse.view();
  zerotune::attention(typename TestFixture::backend{}, in.q.const_view(), in.k.const_view(),
                      in.v.const_view(), whole.out.view(), s.usual(), options);
  const auto naive = test::naive_attention<T>(in.problem(s));
  EXPECT_TRUE(test::close<T>(got.out.dense(), whole.out.dense(), naive.out));
}

TYPED_TEST(decode_of, contains_what_is_not_finite) {
  if (finite_math) GTEST_SKIP() << "finite inputs only";
  using T = typename TestFixture::type;
  scene s{.batch = 2, .num_heads = 6, .num_kv_heads = 2, .q_len = 2, .kv_len = split_length};
  s.gammas = {1.0f, 2.0f, 0.0f, 1.0f, 2.0f, 0.0f};
  s.complete();
  test::inputs<T> sound_in(s, 3);
  const auto m = zerotune::softcap{3.0f} | s.usual();
  const auto sound = this->run(s, sound_in, m);
  for (const double bad :
       {oracle::infinity, -oracle::infinity, std::numeric_limits<double>::quiet_NaN()})
    for (const index_t key : {index_t{0}, index_t{1500}, split_length - 1}) {
      test::inputs<T> in(s, 3);
      // Key of head 1 of sequence 0; the last one is seen by the last query alone.
      in.k.at((s.kv_len + key) * s.head_dim + 2) = test::from_double<T>(bad);
      const auto got = this->run(s, in, m);
      for (index_t b = 0; b < 2; ++b)
        for (index_t h = 0; h < 6; ++h)
          for (index_t i = 0; i < 2; ++i) {
            const bool sees = b == 0 && h >= 3 && (key < split_length - 1 || i == 1);
            const index_t row = (b * 6 + h) * 2 + i;
            for (index_t c = 0; c < s.value_dim; ++c) {
              const index_t at = row * s.value_dim + c;
              if (sees)
                EXPECT_TRUE(std::isnan(test::to_double(got.out.at(at)))) << bad << " " << row;
              else
                EXPECT_EQ(test::to_double(got.out.at(at)), test::to_double(sound.out.at(at)))
                    << bad << " " << row;
            }
            EXPECT_EQ(std::isnan(got.lse.at(row)), sees) << bad << " " << row;
          }
      // A query of one head.
      test::inputs<T> other(s, 3);
      other.q.at(0) = test::from_double<T>(bad);
      const auto query = this->run(s, other, m);
      EXPECT_TRUE(std::isnan(test::to_double(query.out.at(0))));
      for (index_t h = 1; h < 6; ++h) EXPECT_TRUE(query.same_head(sound, s, 0, h));
    }
}

TYPED_TEST(decode_of, never_reads_what_no_query_sees) {
  using T = typename TestFixture::type;
  scene s{.batch = 3, .num_heads = 4, .num_kv_heads = 2, .q_len = 2, .kv_len = split_length};
  s.kv_lengths = {2300, 1024, 0};
  s.positions = {1100, 5, 0};
  s.window = 1000;
  s.gammas = {2.0f, 0.0f, 1.0f, 0.5f};
  s.complete();
  test::inputs<T> in(s, 14), poisoned(s, 14);
  const auto m = s.usual() | zerotune::sliding_window{s.window};
  for (index_t b = 0; b < 3; ++b)
    for (index_t h = 0; h < 2; ++h)
      for (index_t j = 0; j < s.kv_len; ++j) {
        const index_t length = s.kv_lengths[static_cast<std::size_t>(b)];
        const bool seen = j < length && j >= s.initial(b) && j >= length - s.q_len - s.window + 1;
        if (seen || finite_math) continue;
        for (index_t c = 0; c < s.head_dim; ++c) {
          const index_t at = ((b * 2 + h) * s.kv_len + j) * s.head_dim + c;
          poisoned.k.at(at) = poisoned.v.at(at) = test::from_double<T>(NAN);
        }
      }
  const auto expected = this->run(s, in, m);
  EXPECT_TRUE(expected.same(this->run(s, poisoned, m)));
  for (const double x : expected.out.dense()) ASSERT_TRUE(std::isfinite(x));
}

// A key that one head hides by its bias does not reach that head, though others read it.
TYPED_TEST(decode_of, a_key_hidden_by_its_bias_alone) {
  if (finite_math) GTEST_SKIP() << "finite inputs only";
  using T = typename TestFixture::type;
  scene s{.num_heads = 3, .num_kv_heads = 1, .q_len = 1, .kv_len = 90};
  s.complete();
  test::inputs<T> in(s, 15), poisoned(s, 15);
  const only_two m{3, 80};
  for (index_t j = 0; j < s.kv_len; ++j)
    if (j != 3 && j != 80)
      for (index_t c = 0; c < s.head_dim; ++c)
        poisoned.k.at(j * s.head_dim + c) = poisoned.v.at(j * s.head_dim + c) =
            test::from_double<T>(NAN);
  const auto expected = this->run(s, in, m);
  EXPECT_TRUE(expected.same(this->run(s, poisoned, m)));
  oracle::problem problem = in.problem(s);
  problem.rule = {};
  problem.rule.hidden = [](oracle::position p) { return p.kv_pos != 3 && p.kv_pos != 80; };
  test::expect_close(s, expected, problem);
}

TYPED_TEST(decode_of, takes_a_workspace_of_the_size_that_it_asks_for) {
  using T = typename TestFixture::type;
  using real = typename TestFixture::acc;
  scene s{.batch = 2, .num_heads = 6, .num_kv_heads = 2, .q_len = 3, .kv_len = split_length};
  s.head_dim = 40, s.value_dim = 17;
  s.complete();
  test::inputs<T> in(s, 14);
  const auto expected = this->run(s, in, s.usual());
  const index_t size = zerotune::attention_decode_workspace_bytes<real>({2, 6, 3, split_length}, 2,
                                                                        s.head_dim, s.value_dim);
  constexpr std::byte untouched{0xa5};
  for (const index_t off : {0, 1, 4, 63}) {  // any alignment
    std::vector<std::byte> memory(static_cast<std::size_t>(size + off + 64), untouched);
    decoded<T> got(s);
    zerotune::decode_options<real> options;
    options.softmax_scale = static_cast<real>(s.scale);
    options.lse = got.lse.view();
    options.workspace = zerotune::tensor_view<std::byte, 1>(memory.data() + off, {size});
    zerotune::attention_decode(typename TestFixture::backend{}, in.q.const_view(),
                               in.k.const_view(), in.v.const_view(), got.out.view(), s.usual(),
                               options);
    EXPECT_TRUE(expected.same(got)) << off;
    for (index_t i = 0; i < off; ++i) EXPECT_EQ(memory[static_cast<std::size_t>(i)], untouched);
    for (index_t i = off + size; i < off + size + 64; ++i)
      EXPECT_EQ(memory[static_cast<std::size_t>(i)], untouched) << "wrote behind the workspace";
  }
}

TYPED_TEST(decode_of, is_the_same_wherever_keys_and_values_are_taken_to_be) {
  using T = typename TestFixture::type;
  using real = typename TestFixture::acc;
  scene s{.batch = 2, .num_heads = 8, .num_kv_heads = 2, .q_len = 1, .kv_len = split_length};
  s.head_dim = 64, s.value_dim = 64;
  s.complete();
  test::inputs<T> in(s, 15);
  const auto from_memory = this->run(s, in, s.usual());
  decoded<T> from_caches(s);
  zerotune::decode_options<real> options;
  options.softmax_scale = static_cast<real>(s.scale);
  options.lse = from_caches.lse.view();
  options.plan.kept_bytes = index_t{1} << 40;
  zerotune::attention_decode(typename TestFixture::backend{}, in.q.const_view(), in.k.const_view(),
                             in.v.const_view(), from_caches.out.view(), s.usual(), options);
  EXPECT_TRUE(from_memory.same(from_caches));
}

struct callback_error {};
/// Throws after some calls.
struct failing_after {
  index_t calls;
  template <class Body>
  void parallel_for(index_t count, const Body& body) const {
    for (index_t i = 0; i < count; ++i) {
      if (i == calls) throw callback_error();
      body(i);
    }
  }
};

TYPED_TEST(decode_of, an_executor_that_throws_over_the_keys_leaves_the_outputs_alone) {
  using T = typename TestFixture::type;
  scene s{.num_heads = 4, .num_kv_heads = 2, .q_len = 1, .kv_len = split_length};
  s.complete();
  test::inputs<T> in(s, 14);
  const decoded<T> fresh(s);
  for (const index_t calls : {0, 1, 5}) {
    decoded<T> got(s);
    EXPECT_THROW((test::decode_into<typename TestFixture::backend, T>(
                     got, s, in.q.const_view(), in.k.const_view(), in.v.const_view(), s.usual(),
                     failing_after{calls})),
                 callback_error);
    EXPECT_TRUE(got.same(fresh)) << calls;
  }
}

}  // namespace
