// SPDX-License-Identifier: Apache-2.0
// The parts of attention by panels: 2^x, packed pairs, tiles and their stand-in.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "kernel/strided.hpp"
#include "zerotune/kernel/simd/simd.hpp"

namespace zt = zerotune;
using kernel_test::finite_math;
using kernel_test::numbers;
using zt::index_t;

namespace {

template <class Real>
using batch_of = zt::impl::batch<Real, void>;

template <class Batch, class Function>
double one(const Function& f, double x) {
  using real = typename Batch::value_type;
  real values[Batch::size];
  f(Batch(static_cast<real>(x))).store_unaligned(values);
  return static_cast<double>(values[0]);
}

template <class Batch, class Function>
void check_exp2(const Function& f, double error, double lowest) {
  using real = typename Batch::value_type;
  // The least power of two is taken off every result: beyond 60 octaves no digit feels it.
  for (double x = lowest + 60; x < 100; x += 0.0371) {
    const double exact = std::exp2(static_cast<double>(static_cast<real>(x)));
    ASSERT_NEAR(one<Batch>(f, x) / exact, 1, error) << x;
  }
  EXPECT_EQ(one<Batch>(f, 0), 1);
  EXPECT_EQ(one<Batch>(f, lowest - 0.5), 0);
  EXPECT_EQ(one<Batch>(f, -1e30), 0) << "gamma = 0 excludes exactly";
  if (finite_math) return;
  EXPECT_EQ(one<Batch>(f, -HUGE_VAL), 0);
  EXPECT_TRUE(std::isnan(one<Batch>(f, std::nan("")))) << "a NaN must reach the sum";
  EXPECT_TRUE(std::isnan(one<Batch>(f, HUGE_VAL - HUGE_VAL)));
}

TEST(simd_exp2, is_right_zero_far_below_and_keeps_nan) {
  using floats = batch_of<float>;
  using doubles = batch_of<double>;
  check_exp2<floats>([](const floats& x) { return zt::impl::exp2_of(x); }, 2.5e-7, -125);
  check_exp2<doubles>([](const doubles& x) { return zt::impl::exp2_of(x); }, 5e-16, -1021);
  check_exp2<floats>([](const floats& x) { return zt::impl::exp2_for_bfloat16(x); }, 1.1e-4, -125);
}

/// Rows of bfloat16 with a guard that is NaN on both sides.
struct rows {
  rows(index_t rows_in_all, index_t width, index_t distance)
      : count(rows_in_all), columns(width), stride(distance), step(width * distance + 3) {
    numbers next(5);
    memory.assign(static_cast<std::size_t>(count * step + 64), zt::bfloat16::from_bits(0x7fc0));
    for (index_t i = 0; i < count; ++i)
      for (index_t c = 0; c < columns; ++c) at(i, c) = zt::bfloat16(static_cast<float>(next()));
  }
  zt::bfloat16& at(index_t row, index_t c) {
    return memory[static_cast<std::size_t>(32 + row * step + c * stride)];
  }
  /// As rows [first, first + count) of a block.
  zt::impl::row_view<zt::bfloat16> view(index_t first) {
    return {memory.data() + 32, step, stride, columns, {first, first + count}};
  }
  index_t count, columns, stride, step;
  std::vector<zt::bfloat16> memory;
};

float plain(zt::bfloat16 x) { return static_cast<float>(x); }
bool is_nan(zt::bfloat16 x) { return (x.bits & 0x7fffu) > 0x7f80u; }

using batch = batch_of<float>;

TEST(simd_pairs, keys_keep_their_bits_and_padding_is_zero) {
  for (const index_t stride : {1, 2})
    for (const index_t columns : {1, 7, 31, 32, 33, 64, 80}) {
      rows k(5, columns, stride);
      const index_t padded = zt::impl::round_up(columns, 32);
      std::vector<zt::bfloat16> to(static_cast<std::size_t>(32 * padded));
      zt::impl::pack_key_pairs<batch>(k.view(3), {0, 32}, padded, to.data(), padded);
      for (index_t j = 0; j < 32; ++j)
        for (index_t c = 0; c < padded; ++c) {
          const bool there = j >= 3 && j < 8 && c < columns;
          EXPECT_EQ(to[static_cast<std::size_t>(j * padded + c)].bits,
                    there ? k.at(j - 3, c).bits : 0)
              << j << " " << c;
        }
    }
}

TEST(simd_pairs, an_infinite_key_or_query_becomes_nan_and_nothing_else_does) {
  if (finite_math) GTEST_SKIP() << "finite inputs only";
  using shape = zt::impl::tile_shape<batch>;
  for (const unsigned number : {0x7f80u, 0xff80u, 0x7fc0u, 0x7f81u, 0x7f7fu, 0x8001u}) {
    const auto bits = static_cast<std::uint16_t>(number);
    rows k(4, 32, 1);
    k.at(2, 5) = zt::bfloat16::from_bits(bits);
    const bool special = (bits & 0x7f80u) == 0x7f80u;
    std::vector<zt::bfloat16> to(32 * 32);
    zt::impl::pack_key_pairs<batch>(k.view(0), {0, 32}, 32, to.data(), 32);
    alignas(64) float q[16 * shape::width];
    zt::impl::panel<shape> p{};
    p.q = q, p.queries = 4, p.used = 1;
    zt::impl::pack_query_pairs(p, k.view(0), 32);
    for (index_t j = 0; j < 4; ++j)
      for (index_t c = 0; c < 32; ++c) {
        const auto packed = to[static_cast<std::size_t>(j * 32 + c)];
        std::uint32_t word;
        std::memcpy(&word, q + c / 2 * shape::width + j, sizeof word);
        const auto query = zt::bfloat16::from_bits(
            static_cast<std::uint16_t>(c % 2 == 0 ? word & 0xffffu : word >> 16));
        if (special && j == 2 && c == 5) {
          EXPECT_TRUE(is_nan(packed) && is_nan(query)) << bits;
        } else {
          EXPECT_EQ(packed.bits, k.at(j, c).bits);
          EXPECT_EQ(query.bits, k.at(j, c).bits);
        }
      }
  }
}

TEST(simd_pairs, values_are_transposed_and_searched_for_what_is_not_finite) {
  for (const index_t stride : {1, 2})
    for (const index_t columns : {1, 7, 32, 45}) {
      rows v(37, columns, stride);
      const index_t padded = zt::impl::round_up(columns, 32);
      std::vector<zt::bfloat16> to(static_cast<std::size_t>(padded * 64));
      EXPECT_TRUE(zt::impl::pack_value_columns<batch>(v.view(9), {0, 64}, padded, to.data(), 64));
      for (index_t c = 0; c < padded; ++c)
        for (index_t j = 0; j < 64; ++j) {
          const bool there = j >= 9 && j < 46 && c < columns;
          EXPECT_EQ(to[static_cast<std::size_t>(c * 64 + j)].bits, there ? v.at(j - 9, c).bits : 0)
              << c << " " << j;
        }
      for (const unsigned number : {0x7f80u, 0xff80u, 0x7fc1u}) {
        const auto bits = static_cast<std::uint16_t>(number);
        rows bad = v;
        bad.at(36, columns - 1) = zt::bfloat16::from_bits(bits);
        EXPECT_FALSE(
            zt::impl::pack_value_columns<batch>(bad.view(9), {0, 64}, padded, to.data(), 64));
      }
    }
}

TEST(simd_pairs, values_of_two_rows_are_paired_by_columns) {
  using shape = zt::impl::panel_shape<batch>;
  constexpr index_t group = shape::group, tile = 64 / 2 * group;
  for (const index_t columns : {1, 7, 16, 45}) {
    rows v(37, columns, 1);
    const index_t padded = zt::impl::round_up(columns, 2 * group);
    std::vector<std::uint32_t> to(static_cast<std::size_t>(padded / group * tile));
    EXPECT_TRUE(zt::impl::pack_value_pairs<shape>(v.view(9), {0, 64}, padded, to.data(), tile));
    for (index_t c = 0; c < padded; ++c)
      for (index_t j = 0; j < 64; ++j) {
        const index_t at =
            (c / (2 * group) * 2 + c % 2) * tile + j / 2 * group + c % (2 * group) / 2;
        const std::uint32_t pair = to[static_cast<std::size_t>(at)];
        const bool there = j >= 9 && j < 46 && c < columns;
        EXPECT_EQ(j % 2 == 0 ? pair & 0xffffu : pair >> 16, there ? v.at(j - 9, c).bits : 0u)
            << c << " " << j;
      }
    v.at(0, columns - 1) = zt::bfloat16::from_bits(0x7f80);
    EXPECT_FALSE(zt::impl::pack_value_pairs<shape>(v.view(9), {0, 64}, padded, to.data(), tile));
  }
}

TEST(simd_pairs, two_products_and_two_sums_at_once) {
  using operand = zt::impl::pair_operand<batch>;
  numbers next(8);
  alignas(64) std::uint32_t words[2][batch::size];
  float sums[batch::size], out[batch::size];
  double expected[batch::size];
  for (std::size_t i = 0; i < batch::size; ++i) {
    sums[i] = static_cast<float>(next());
    expected[i] = static_cast<double>(sums[i]);
    zt::bfloat16 x[2][2];
    for (auto& pair : x)
      for (zt::bfloat16& half : pair) half = zt::bfloat16(static_cast<float>(next()));
    for (std::size_t k = 0; k < 2; ++k) {
      std::memcpy(&words[k][i], x[k], sizeof words[k][i]);
      expected[i] += static_cast<double>(plain(x[0][k])) * static_cast<double>(plain(x[1][k]));
    }
  }
  const operand a = operand::load(words[0]), b = operand::load(words[1]);
  a.multiply(b, batch::load_unaligned(sums)).store_unaligned(out);
  for (std::size_t i = 0; i < batch::size; ++i) EXPECT_NEAR(out[i], expected[i], 1e-6) << i;
  if (finite_math) return;
  // A weight of zero does not read its value, whichever half it is.
  for (const std::uint32_t weights : {0x00003f80u, 0x3f800000u}) {
    const std::uint32_t values = weights == 0x00003f80u ? 0x7fc04000u : 0x40007f80u;
    operand::splat(weights)
        .multiply_guarded(operand::splat(values), batch(1.0f))
        .store_unaligned(out);
    EXPECT_EQ(out[0], 3.0f) << weights;
  }
}

/// 32 x 32 results of two products of 32 summands each, on top of what was there.
template <class Tiles>
std::vector<float> multiply(const std::vector<zt::bfloat16>& a, const std::vector<zt::bfloat16>& b,
                            const std::vector<float>& before) {
  std::vector<std::uint32_t> pairs(32 * 32);  // [summand / 2][column]
  for (std::size_t k = 0; k < 64; ++k)
    for (std::size_t j = 0; j < 32; ++j)
      pairs[k / 2 * 32 + j] |= static_cast<std::uint32_t>(b[k * 32 + j].bits) << (k % 2 * 16);
  std::vector<float> c = before;
  Tiles tiles;
  const zt::impl::tile_square<Tiles> square{tiles};
  square.load(c.data(), 40);
  square.add(a.data(), 64, pairs.data(), 32);
  square.add(a.data() + 32, 64, pairs.data() + 16 * 32, 32);
  square.store(c.data(), 40);
  return c;
}

class simd_tiles : public ::testing::Test {
 public:
  simd_tiles() : a(32 * 64), b(64 * 32), before(32 * 40) {
    numbers next(3);
    for (auto* const factor : {&a, &b})
      for (zt::bfloat16& x : *factor) x = zt::bfloat16(static_cast<float>(next()));
    for (float& x : before) x = static_cast<float>(next());
  }
  void expect_product(const std::vector<float>& c) const {
    for (std::size_t i = 0; i < 32; ++i) {
      for (std::size_t j = 0; j < 32; ++j) {
        double sum = static_cast<double>(before[i * 40 + j]);
        for (std::size_t k = 0; k < 64; ++k)
          sum +=
              static_cast<double>(plain(a[i * 64 + k])) * static_cast<double>(plain(b[k * 32 + j]));
        EXPECT_NEAR(c[i * 40 + j], sum, 1e-5) << i << " " << j;
      }
      for (std::size_t j = 32; j < 40; ++j) EXPECT_EQ(c[i * 40 + j], before[i * 40 + j]);
    }
  }
  std::vector<zt::bfloat16> a, b;
  std::vector<float> before;
};

TEST_F(simd_tiles, the_stand_in_multiplies) {
  expect_product(multiply<zt::impl::portable_tiles>(a, b, before));
}

TEST_F(simd_tiles, the_processor_multiplies_as_the_stand_in_does) {
#if ZEROTUNE_HAS_AMX
  if (!zt::impl::amx_tiles::available()) GTEST_SKIP() << "the kernel grants no tiles";
  expect_product(multiply<zt::impl::amx_tiles>(a, b, before));
#else
  GTEST_SKIP() << "compiled without tile instructions";
#endif
}

}  // namespace
