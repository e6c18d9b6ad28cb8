// SPDX-License-Identifier: Apache-2.0
// The output form, sink mass and gamma gradient on the machine, against double attention and the
// host's scalar back end.
#include "attention_case.hpp"
#include "output_case.hpp"
#include "zerotune/analysis/sensitivity.hpp"
#include "zerotune/analysis/sink_mass.hpp"

namespace zerotune_test {
namespace {

template <class T>
class output : public ::testing::Test {
 public:
  static constexpr double tolerance = std::is_same_v<T, float>         ? 5e-6
                                      : std::is_same_v<T, zt::float16> ? 4e-3
                                                                       : 3e-2;
};
using types = ::testing::Types<float, zt::float16, zt::bfloat16>;
TYPED_TEST_SUITE(output, types);

problem example() {
  problem p;
  p.batch = 2;
  p.heads = 6;
  p.kv_heads = 3;
  p.q_len = p.kv_len = 19;
  p.dim = 40;
  p.value_dim = 50;
  p.gamma = {0.2, 1.0, 3.0, 0.0, 1e4, 0.9};
  p.initial = {0, 4};
  return p;
}

TYPED_TEST(output, correction_of_a_black_box) {
  using T = TypeParam;
  const problem p = example();
  problem plain = p;
  plain.gamma.clear();
  const inputs<T> in(p);
  const result black_box = exact_attention(plain, in.q, in.k, in.v);
  const result wanted = exact_attention(p, in.q, in.k, in.v);
  const machine m;
  const device_sink sink(m, p);
  const device_array<T> q(in.q), k(in.k), v(in.v), out(rounded<T>(black_box.out));
  const device_array<float> lse(rounded<float>(black_box.lse));
  const device_array<std::uint8_t> status(std::vector<std::uint8_t>(black_box.lse.size(), 77));
  zt::device_output_options options;
  options.min_d = 1e-2f;
  options.status = status.view({p.batch, p.heads, p.q_len});
  zt::correct_output(
      m, out.view({p.batch, p.heads, p.q_len, p.value_dim}), lse.view({p.batch, p.heads, p.q_len}),
      q.view({p.batch, p.heads, p.q_len, p.dim}), k.view({p.batch, p.kv_heads, p.kv_len, p.dim}),
      v.view({p.batch, p.kv_heads, p.kv_len, p.value_dim}), zt::causal{} | sink.sink, options);
  const int corrected = check_correction(p, black_box, wanted, 1e-2, TestFixture::tolerance,
                                         status.read(), out.read(), lse.read());
  EXPECT_GT(corrected, 100);
}

// Paged caches, pages in reverse order: the same bits as with contiguous ones.
TYPED_TEST(output, pages_change_no_bit) {
  using T = TypeParam;
  const problem p = example();
  problem plain = p;
  plain.gamma.clear();
  const inputs<T> in(p);
  const result black_box = exact_attention(plain, in.q, in.k, in.v);
  const machine m;
  const device_sink sink(m, p);
  const std::vector<zt::device_sequence> list(std::size_t(p.batch), {0, p.q_len, 0, 0, p.kv_len});
  const storage table(zt::device_sequences_bytes(p.batch));
  zt::device_output_options options;
  options.sequences = zt::to_device(m, zt::view_of(list), table.flat());
  const auto run = [&](const std::vector<T>& k, const std::vector<T>& v, zt::index_t batch,
                       zt::index_t rows) {
    const device_array<T> q(in.q), dk(k), dv(v), out(rounded<T>(black_box.out));
    const device_array<float> lse(rounded<float>(black_box.lse));
    zt::correct_output(
        m, out.view({p.batch, p.heads, p.q_len, p.value_dim}),
        lse.view({p.batch, p.heads, p.q_len}), q.view({p.batch, p.heads, p.q_len, p.dim}),
        dk.view({batch, p.kv_heads, rows, p.dim}), dv.view({batch, p.kv_heads, rows, p.value_dim}),
        zt::causal{} | sink.sink, options);
    std::vector<float> all = lse.read();
    for (const T x : out.read()) all.push_back(float(x));
    return all;
  };
  const std::vector<float> contiguous = run(in.k, in.v, p.batch, p.kv_len);
  EXPECT_NE(contiguous, rounded<float>(black_box.lse));
  constexpr long size = 4;
  const long count = (p.kv_len + size - 1) / size, pool = p.batch * count;
  std::vector<std::int32_t> pages;
  const T nan(std::numeric_limits<float>::quiet_NaN());
  std::vector<T> k(size_t(pool * p.kv_heads * size * p.dim), nan);
  std::vector<T> v(size_t(pool * p.kv_heads * size * p.value_dim), nan);
  for (long b = 0; b < p.batch; ++b)
    for (long i = 0; i < count; ++i) {
      pages.push_back(std::int32_t(pool - 1 - (b * count + i)));
      for (long g = 0; g < p.kv_heads; ++g)
        for (long j = i * size; j < std::min((i + 1) * size, p.kv_len); ++j) {
          const long to = (pages.back() * p.kv_heads + g) * size + j % size;
          const long from = (b * p.kv_heads + g) * p.kv_len + j;
          for (long d = 0; d < p.dim; ++d)
            k[size_t(to * p.dim + d)] = in.k[size_t(from * p.dim + d)];
          for (long d = 0; d < p.value_dim; ++d)
            v[size_t(to * p.value_dim + d)] = in.v[size_t(from * p.value_dim + d)];
        }
    }
  const storage memory(zt::device_pages_bytes(p.batch, count));
  options.pages =
      zt::to_device(m, zt::tensor_view<const std::int32_t, 2>(pages.data(), {p.batch, count}), pool,
                    memory.flat());
  EXPECT_EQ(run(k, v, pool, size), contiguous);
}

TYPED_TEST(output, correction_by_mass) {
  using T = TypeParam;
  problem p = example();
  p.initial = {};
  problem plain = p;
  plain.gamma.clear();
  const inputs<T> in(p);
  const result black_box = exact_attention(plain, in.q, in.k, in.v);
  const result wanted = exact_attention(p, in.q, in.k, in.v);
  const machine m;
  const device_sink sink(m, p);
  const device_array<T> v(in.v), out(rounded<T>(black_box.out));
  const device_array<float> mass(rounded<float>(black_box.mass));
  const device_array<std::uint8_t> status(black_box.lse.size());
  zt::device_output_options options;
  options.min_d = 1e-2f;
  options.status = status.view({p.batch, p.heads, p.q_len});
  using rows = zt::tensor_view<const float, 3, zt::device_memory>;
  zt::correct_output_by_mass(m, out.view({p.batch, p.heads, p.q_len, p.value_dim}),
                             rows(mass.view({p.batch, p.heads, p.q_len})),
                             v.view({p.batch, p.kv_heads, p.kv_len, p.value_dim}),
                             zt::causal{} | sink.sink, options);
  const int corrected = check_correction(p, black_box, wanted, 1e-2, TestFixture::tolerance,
                                         status.read(), out.read(), {});
  EXPECT_GT(corrected, 100);
}

TYPED_TEST(output, gradient) {
  using T = TypeParam;
  const problem p = example();
  const inputs<T> in(p);
  const result r = exact_attention(p, in.q, in.k, in.v);
  const std::vector<T> out = rounded<T>(r.out), d_out = random_values<T>(out.size(), 9);
  const std::vector<double> expected = expected_gradient(p, r, out, d_out, in.v);
  const machine m;
  const device_sink sink(m, p);
  const device_array<T> q(in.q), k(in.k), v(in.v), o(out), d(d_out);
  const device_array<float> lse(rounded<float>(r.lse));
  const device_array<double> gradient(expected.size());
  using view = zt::tensor_view<const T, 4, zt::device_memory>;
  zt::gamma_gradient(
      m, o.view({p.batch, p.heads, p.q_len, p.value_dim}),
      view(d.view({p.batch, p.heads, p.q_len, p.value_dim})), lse.view({p.batch, p.heads, p.q_len}),
      q.view({p.batch, p.heads, p.q_len, p.dim}), k.view({p.batch, p.kv_heads, p.kv_len, p.dim}),
      v.view({p.batch, p.kv_heads, p.kv_len, p.value_dim}), sink.sink, zt::causal{},
      gradient.view({p.batch, p.heads}));
  const auto got = gradient.read();
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], expected[i], 2e-5 * std::max(1.0, std::abs(expected[i]))) << i;
}

TYPED_TEST(output, sink_mass) {
  using T = TypeParam;
  const long heads = 3, rows = 300, keys = 300;
  std::vector<T> weights = random_values<T>(size_t(heads * rows * keys), 5);
  std::vector<double> expected(size_t(heads), 0.0);
  const zt::tensor_view<double, 2> expected_view(expected.data(), {1, heads});
  const std::vector<float> gammas(3, 2.0f);
  zt::sink_mass(zt::tensor_view<T, 4>(weights.data(), {1, heads, rows, keys}), expected_view,
                zt::initial_token{2.0f}, zt::causal{});
  const machine m;
  const storage memory(zt::device_table_bytes({1, heads, rows, keys}));
  const auto sink = zt::to_device(m, zt::initial_token{zt::view_of(gammas)}, {1, heads, rows, keys},
                                  memory.flat());
  const device_array<T> on_machine(weights);
  const device_array<double> mass(static_cast<std::size_t>(heads));
  zt::sink_mass(m, on_machine.view({1, heads, rows, keys}), mass.view({1, heads}), sink,
                zt::causal{});
  const auto got = mass.read();
  for (std::size_t h = 0; h < 3; ++h) ASSERT_NEAR(got[h], expected[h], 1e-12);
}

}  // namespace
}  // namespace zerotune_test
