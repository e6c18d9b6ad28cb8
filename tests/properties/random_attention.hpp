// SPDX-License-Identifier: Apache-2.0
// Random shapes and options through every entrance of attention, against the oracle in double. A
// case is a number: ZEROTUNE_RANDOM_FIRST and ZEROTUNE_RANDOM_CASES, from the environment, repeat
// one or run more, ZEROTUNE_RANDOM_SEED gives others.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "apply/decode_run.hpp"
#include "support/backends.hpp"
#include "zerotune/apply/attention.hpp"
#include "zerotune/apply/decode.hpp"
#include "zerotune/apply/ragged.hpp"
#include "zerotune/core/thread_pool.hpp"

namespace test {

#if ZEROTUNE_TEST_SIMD
using random_backend = zerotune::backend::simd<>;
#else
using random_backend = zerotune::backend::scalar;
#endif

/// causal where it is switched on.
struct optional_causal {
  bool on;

  template <class Batch>
  Batch log_bias(zerotune::row r, Batch kv_pos) const {
    return zerotune::impl::bias_outside(visible(r), kv_pos);
  }
  zerotune::range visible(zerotune::row r) const {
    return on ? zerotune::causal{}.visible(r) : zerotune::everywhere;
  }
  zerotune::range support(zerotune::row) const { return {}; }
  zerotune::tile_effect effect(int head, zerotune::range q, zerotune::range kv) const {
    return on ? zerotune::causal{}.effect(head, q, kv) : zerotune::tile_effect::none;
  }
};

/// How the cache is handed over.
enum class entrance { attention, decode, paged, ragged };
inline constexpr const char* entrance_names[] = {"attention", "decode", "paged", "ragged"};

struct random_case {
  scene s;
  entrance way = entrance::attention;
  layout order = layout::contiguous;
  index_t page_size = 16;
  double spread = 1.5;
  bool growing = false;  ///< keys become larger along the sequence: the maxima rise
  bool transforms = false;
  int threads = 1;
  std::uint64_t seed;

  std::string describe() const {
    std::string text = entrance_names[static_cast<int>(way)];
    text += ": batch " + std::to_string(s.batch) + " " + test::describe(s, order) + " scale " +
            std::to_string(s.scale) + " causal " + std::to_string(s.causal) + " window " +
            std::to_string(s.window) + " softcap " + std::to_string(s.softcap) + " span [" +
            std::to_string(s.span.begin) + ", " + std::to_string(s.span.end) + ") spread " +
            std::to_string(spread) + " growing " + std::to_string(growing) + " pages of " +
            std::to_string(page_size) + " threads " + std::to_string(threads);
    const auto list = [&](const char* name, const auto& values) {
      if (values.empty()) return;
      text += std::string(" ") + name;
      for (const auto value : values) text += " " + std::to_string(value);
    };
    list("gammas", s.gammas), list("slopes", s.slopes), list("positions", s.positions);
    list("kv_lengths", s.kv_lengths), list("q_starts", s.q_starts);
    return text;
  }
};

/// Small numbers more often than large ones.
inline index_t skewed(random_numbers& numbers, index_t low, index_t high) {
  const double u = numbers.uniform(0, 1);
  return low + static_cast<index_t>(u * u * u * static_cast<double>(high - low) + 0.5);
}

inline random_case make_random_case(std::uint64_t seed) {
  random_numbers numbers(seed);
  random_case c;
  c.seed = seed;
  scene& s = c.s;
  c.way = static_cast<entrance>(numbers.integer(0, 3));
  c.order = all_layouts[numbers.integer(0, 4)];
  c.threads = static_cast<int>(numbers.integer(1, 3));
  const index_t groups[] = {1, 1, 2, 3, 4, 7, 8, 16};
  s.num_kv_heads = numbers.integer(1, 2);
  s.num_heads = s.num_kv_heads * groups[numbers.integer(0, 7)];
  s.batch = s.num_heads > 6 ? 1 : numbers.integer(1, 3);
  const bool few = c.way == entrance::decode || c.way == entrance::paged;
  s.q_len = few ? numbers.integer(1, 4) : skewed(numbers, 1, s.num_heads > 4 ? 40 : 110);
  s.kv_len = few && s.num_heads < 4 && numbers.integer(0, 9) == 0
                 ? numbers.integer(1000, 2600)  // several parts
                 : skewed(numbers, 1, 300);
  s.head_dim = numbers.integer(0, 1) ? 8 * skewed(numbers, 1, 16) : skewed(numbers, 1, 80);
  s.value_dim = numbers.integer(0, 2) ? s.head_dim : skewed(numbers, 1, 80);
  s.causal = numbers.integer(0, 3) != 0;
  if (numbers.integer(0, 2) == 0) s.window = skewed(numbers, 1, s.kv_len + 4);
  const float choices[] = {0.0f, 1e-6f, 0.1f, 0.5f, 1.0f, 1.0f, 2.0f, 10.0f, 1e6f};
  for (index_t h = 0; h < s.num_heads; ++h) s.gammas.push_back(choices[numbers.integer(0, 8)]);
  if (numbers.integer(0, 3) == 0)
    for (index_t h = 0; h < s.num_heads; ++h) {
      s.slopes.push_back(static_cast<float>(numbers.uniform(0, 0.5)));
      // A row that gamma = 0 would empty is as if nothing modified it, ALiBi neither: the oracle
      // drops the factors alone.
      float& gamma = s.gammas[static_cast<std::size_t>(h)];
      if (gamma == 0.0f) gamma = 0.25f;
    }
  if (numbers.integer(0, 3) == 0) {
    s.span.begin = numbers.integer(0, s.kv_len - 1);
    s.span.end = numbers.integer(s.span.begin, s.kv_len);
    s.span_gamma = static_cast<float>(numbers.uniform(0.1, 4));
  }
  if (numbers.integer(0, 3) == 0) {
    c.transforms = true;
    s.softcap = static_cast<double>(static_cast<float>(numbers.uniform(1, 30)));  // as softcap{}
  }
  if (c.way != entrance::ragged && numbers.integer(0, 1))
    for (index_t b = 0; b < s.batch; ++b) s.kv_lengths.push_back(numbers.integer(0, s.kv_len));
  if (c.way == entrance::paged && s.kv_lengths.empty())  // the last page may not be full
    s.kv_lengths.assign(static_cast<std::size_t>(s.batch), s.kv_len);
  if (numbers.integer(0, 1))
    for (index_t b = 0; b < s.batch; ++b)
      s.positions.push_back(numbers.integer(0, 2) ? 0 : numbers.integer(0, s.kv_len - 1));
  if (numbers.integer(0, 2) == 0)
    for (index_t b = 0; b < s.batch; ++b) s.q_starts.push_back(numbers.integer(-3, s.kv_len + 3));
  const index_t page_sizes[] = {16, 32, 64, 256, 1, 5};
  c.page_size = page_sizes[numbers.integer(0, 5)];
  c.growing = numbers.integer(0, 3) == 0;
  if (numbers.integer(0, 4) == 0) c.spread = numbers.uniform(0.01, 4);
  s.complete();
  if (numbers.integer(0, 4) == 0) s.scale *= numbers.uniform(-0.5, 2);
  return c;
}

/// Runs a case and compares it with the oracle.
template <class T>
class random_run {
 public:
  using acc = zerotune::accumulator_t<T>;
  /// Of the exponentials where the products are of bfloat16 pairs or tiles (exp2_for_bfloat16 in
  /// kernel/simd/exp.hpp), so of a sum of them; the naive LSE is nearly exact for small logits.
  static constexpr double exp_error = std::is_same_v<T, bfloat16> ? 1.1e-4 : 0.0;

  /// Few numbers of bfloat16 may be off by next to nothing in the naive computation, by luck: where
  /// that decides, how far it is off is measured on so many numbers, of this case and of others
  /// that differ in their tensors.
  static constexpr std::size_t enough_numbers = 256;

  explicit random_run(const random_case& c)
      : c_(c), s_(c.s), in_(s_, c.seed, c.order, c.spread), got_(s_, c.order) {
    grow(in_.k);
  }

  void check() {
    const auto biases = optional_causal{s_.causal} | zerotune::sliding_window{s_.window} |
                        zerotune::alibi{list_view(s_.slopes)} |
                        zerotune::token_span{s_.span, zerotune::head_gammas{s_.span_gamma}} |
                        s_.sink();
    if (c_.transforms && c_.way != entrance::ragged && c_.way != entrance::paged)
      attend(zerotune::softcap{static_cast<float>(s_.softcap)} | biases);
    else
      s_.softcap = 0, attend(biases);
    const oracle::problem problem = in_.problem(s_);
    const oracle::result expected = oracle::attend(problem);
    const oracle::result naive = naive_attention<T>(problem);
    ::testing::AssertionResult good = close<T>(got_.out.dense(), expected.out, naive.out);
    if (!good && std::is_same_v<T, bfloat16>)
      good =
          close<T>(got_.out.dense(), expected.out, naive_error(max_error(naive.out, expected.out)));
    EXPECT_TRUE(good);
    EXPECT_LE(max_error(got_.lse.dense(), expected.lse),
              2 * max_error(naive.lse, expected.lse) + tolerance<acc>::slack + exp_error);
    EXPECT_TRUE(got_.out.gaps_intact() && got_.lse.gaps_intact()) << "wrote between its elements";
  }

 private:
  double naive_error(double here) const {
    const std::size_t numbers = got_.out.dense().size();
    double greatest = here;
    for (std::uint64_t other = 1; other * numbers < enough_numbers; ++other) {
      inputs<T> in(s_, c_.seed + (other << 32), layout::contiguous, c_.spread);
      grow(in.k);
      const oracle::problem problem = in.problem(s_);
      greatest = std::max(greatest,
                          max_error(naive_attention<T>(problem).out, oracle::attend(problem).out));
    }
    return greatest;
  }

  void grow(tensor<T>& k) const {
    if (!c_.growing) return;
    for (index_t i = 0; i < k.size(); ++i) {
      const auto key = static_cast<double>(i / s_.head_dim % s_.kv_len);
      k.at(i) =
          from_double<T>(to_double(k.at(i)) * (0.1 + 2 * key / static_cast<double>(s_.kv_len)));
    }
  }

  template <class Modifier>
  void attend(const Modifier& m) {
    zerotune::thread_pool threads(c_.threads);
    const auto q = in_.q.const_view(), k = in_.k.const_view(), v = in_.v.const_view();
    if constexpr (zerotune::bias_modifier<Modifier>) {
      if (c_.way == entrance::paged) {
        const pages k_pages(s_, in_.k, s_.head_dim, c_), v_pages(s_, in_.v, s_.value_dim, c_);
        return decode_into<random_backend, T>(got_, s_, q, k_pages.cache(), v_pages.cache(), m,
                                              threads);
      }
      if (c_.way == entrance::ragged) return attend_ragged(m, threads);
    }
    if (c_.way == entrance::decode)
      return decode_into<random_backend, T>(got_, s_, q, k, v, m, threads);
    auto options = s_.template options<zerotune::attention_options<acc>>();
    options.softmax_scale = static_cast<acc>(s_.scale);
    options.lse = got_.lse.view();
    zerotune::attention(random_backend{}, q, k, v, got_.out.view(), m, options, threads);
  }

  /// The batch packed, its sequences one behind the other.
  template <class Modifier>
  void attend_ragged(const Modifier& m, zerotune::thread_pool& threads) {
    const auto packed = [&](tensor<T>& from, index_t heads, index_t length, index_t dim) {
      tensor<T, 3> to({s_.batch * length, heads, dim});
      for (index_t i = 0; i < to.size(); ++i) {
        const index_t c = i % dim, h = i / dim % heads, j = i / dim / heads;
        to.at(i) = from.at(((j / length * heads + h) * length + j % length) * dim + c);
      }
      return to;
    };
    auto q = packed(in_.q, s_.num_heads, s_.q_len, s_.head_dim);
    auto k = packed(in_.k, s_.num_kv_heads, s_.kv_len, s_.head_dim);
    auto v = packed(in_.v, s_.num_kv_heads, s_.kv_len, s_.value_dim);
    tensor<T, 3> out({s_.batch * s_.q_len, s_.num_heads, s_.value_dim});
    tensor<acc, 2> lse({s_.batch * s_.q_len, s_.num_heads});
    std::vector<index_t> q_offsets, kv_offsets;
    for (index_t b = 0; b <= s_.batch; ++b) {
      q_offsets.push_back(b * s_.q_len);
      kv_offsets.push_back(b * s_.kv_len);
    }
    zerotune::ragged_options<acc> options;
    options.softmax_scale = static_cast<acc>(s_.scale);
    options.lse = lse.view();
    if (!s_.q_starts.empty()) options.q_starts = list_view(s_.q_starts);
    zerotune::attention_ragged(random_backend{}, q.const_view(), k.const_view(), v.const_view(),
                               out.view(), {list_view(q_offsets), list_view(kv_offsets)}, m,
                               options, threads);
    for (index_t row = 0; row < s_.batch * s_.num_heads * s_.q_len; ++row) {
      const index_t i = row % s_.q_len, h = row / s_.q_len % s_.num_heads;
      const index_t from = (row / s_.q_len / s_.num_heads * s_.q_len + i) * s_.num_heads + h;
      got_.lse.at(row) = lse.at(from);
      for (index_t c = 0; c < s_.value_dim; ++c)
        got_.out.at(row * s_.value_dim + c) = out.at(from * s_.value_dim + c);
    }
  }

  /// A cache in pages that lie in any order.
  class pages {
   public:
    pages(const scene& s, const tensor<T>& dense, index_t dim, const random_case& c)
        : pages_({s.batch * per_sequence(s, c), s.num_kv_heads, c.page_size, dim}, c.order),
          view_{pages_.const_view(), {}} {
      random_numbers numbers(c.seed + 1);
      const index_t each = per_sequence(s, c), count = s.batch * each;
      for (index_t i = 0; i < count; ++i) table_.push_back(static_cast<std::int32_t>(i));
      for (index_t i = count; i-- > 1;)
        std::swap(table_[static_cast<std::size_t>(i)],
                  table_[static_cast<std::size_t>(numbers.integer(0, i))]);
      for (index_t i = 0; i < dense.size(); ++i) {
        const index_t column = i % dim, j = i / dim % s.kv_len, head = i / dim / s.kv_len;
        const index_t b = head / s.num_kv_heads, h = head % s.num_kv_heads;
        const index_t page = table_[static_cast<std::size_t>(b * each + j / c.page_size)];
        pages_.at(((page * s.num_kv_heads + h) * c.page_size + j % c.page_size) * dim + column) =
            dense.at(i);
      }
      view_ = {pages_.const_view(),
               zerotune::tensor_view<const std::int32_t, 2>(table_.data(), {s.batch, each})};
    }
    const auto& cache() const { return view_; }

   private:
    static index_t per_sequence(const scene& s, const random_case& c) {
      return (s.kv_len + c.page_size - 1) / c.page_size;
    }
    tensor<T> pages_;
    std::vector<std::int32_t> table_;
    zerotune::paged_cache<const T> view_;
  };

  const random_case& c_;
  scene s_;
  inputs<T> in_;
  decoded<T> got_;
};

inline std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* const value = std::getenv(name);
  return value && *value ? std::strtoull(value, nullptr, 10) : otherwise;
}

/// A fourth of the cases, for one of four element types.
template <class T>
void run_random_cases(std::uint64_t type_number) {
  const std::uint64_t seed = from_environment("ZEROTUNE_RANDOM_SEED", 20260731);
  const std::uint64_t first = from_environment("ZEROTUNE_RANDOM_FIRST", 0);
  const std::uint64_t count = from_environment("ZEROTUNE_RANDOM_CASES", 2000);
  std::printf("cases [%llu, %llu) of seed %llu\n", static_cast<unsigned long long>(first),
              static_cast<unsigned long long>(first + count),
              static_cast<unsigned long long>(seed));
  for (std::uint64_t i = first; i < first + count; ++i) {
    if (i % 4 != type_number) continue;
    const random_case c = make_random_case(seed + i);
    SCOPED_TRACE("ZEROTUNE_RANDOM_SEED=" + std::to_string(seed) + " ZEROTUNE_RANDOM_FIRST=" +
                 std::to_string(i) + " ZEROTUNE_RANDOM_CASES=1, " + c.describe());
    random_run<T>(c).check();
    if (::testing::Test::HasFailure() && count > 1) return;
  }
}

}  // namespace test
