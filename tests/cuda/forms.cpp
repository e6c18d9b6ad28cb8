// SPDX-License-Identifier: Apache-2.0
// The weights, logits and mask forms and the fused softmax on the machine, against double formulas
// and against the host's scalar back end.
#include "attention_case.hpp"
#include "zerotune/apply/logits.hpp"
#include "zerotune/apply/mask.hpp"
#include "zerotune/apply/weights.hpp"

namespace zerotune_test {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

template <class T>
class forms : public ::testing::Test {
 public:
  // Error of one rounding to T, relative; float: of a few operations.
  static constexpr double tolerance = std::is_same_v<T, float>         ? 2e-6
                                      : std::is_same_v<T, zt::float16> ? 6e-4
                                                                       : 5e-3;
};
using types = ::testing::Types<float, zt::float16, zt::bfloat16>;
TYPED_TEST_SUITE(forms, types);

constexpr long heads = 7, rows = 5, keys = 70;
const std::vector<float> gammas = {0.0f, 1e-40f, 0.25f, 1.0f, 3.0f, 1e38f, 1e-6f};

template <class T>
std::vector<T> softmax_rows(unsigned seed) {
  std::vector<float> x = random_values<float>(heads * rows * keys, seed, 2.0f);
  std::vector<T> weights;
  for (long r = 0; r < heads * rows; ++r) {
    const long last = keys - rows + r % rows;  // causal
    float sum = 0;
    for (long j = 0; j <= last; ++j) sum += std::exp(x[size_t(r * keys + j)]);
    for (long j = 0; j < keys; ++j)
      weights.push_back(T(j <= last ? std::exp(x[size_t(r * keys + j)]) / sum : 0.0f));
  }
  return weights;
}

struct table {
  machine m;
  storage memory{zt::device_table_bytes({1, heads, rows, keys})};
  zt::on_device<zt::initial_token> sink = zt::to_device(m, zt::initial_token{zt::view_of(gammas)},
                                                        {1, heads, rows, keys}, memory.flat());
};

template <class T>
void expect_same(const std::vector<T>& got, const std::vector<T>& expected, double tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double a = double(float(got[i])), b = double(float(expected[i]));
    if (std::isinf(b) || std::isnan(b))
      ASSERT_TRUE(std::isnan(b) ? std::isnan(a) : a == b) << i << ": " << a << " " << b;
    else
      ASSERT_NEAR(a, b, tolerance * std::max(std::abs(b), 1e-6)) << i;
  }
}

template <class T>
zt::tensor_view<T, 4> host_view(std::vector<T>& x) {
  return {x.data(), {1, heads, rows, keys}};
}

TYPED_TEST(forms, weights) {
  const table t;
  std::vector<TypeParam> weights = softmax_rows<TypeParam>(1);
  const device_array<TypeParam> on_machine(weights);
  zt::rescale_weights(t.m, on_machine.view({1, heads, rows, keys}), zt::causal{} | t.sink);
  const std::vector<TypeParam> before = weights;
  zt::rescale_weights(host_view(weights), zt::causal{} | zt::initial_token{zt::view_of(gammas)});
  const auto got = on_machine.read();
  expect_same(got, weights, 2 * TestFixture::tolerance);
  for (long i = 3 * rows * keys; i < 4 * rows * keys; ++i)  // gamma = 1
    ASSERT_EQ(float(got[size_t(i)]), float(before[size_t(i)]));
}

// a_0 near 1 with a small gamma: the closed form would cancel.
TYPED_TEST(forms, weights_do_not_cancel) {
  const table t;
  std::vector<TypeParam> weights(heads * rows * keys, TypeParam(0.0f));
  for (long r = 0; r < heads * rows; ++r) {
    weights[size_t(r * keys)] = TypeParam(0.99997f);
    weights[size_t(r * keys + 9)] = TypeParam(3e-5f);
  }
  const device_array<TypeParam> on_machine(weights);
  zt::rescale_weights(t.m, on_machine.view({1, heads, rows, keys}), t.sink);
  const auto got = on_machine.read();
  for (long h = 0; h < heads; ++h) {
    const double a0 = double(float(weights[0])), rest = double(float(weights[9]));
    const double g = double(gammas[size_t(h)]), d = (g * a0 + rest) / (a0 + rest);
    ASSERT_NEAR(double(float(got[size_t(h * rows * keys)])), g * a0 / d, TestFixture::tolerance);
    ASSERT_NEAR(double(float(got[size_t(h * rows * keys + 9)])), rest / d, TestFixture::tolerance);
  }
}

// All that is left of the row is subnormal: 1 / D is beyond float, the weights are not.
TEST(forms_of_float, weights_of_subnormal_rows) {
  const table t;
  std::vector<float> weights(heads * rows * keys, 0.0f);
  for (long r = 0; r < heads * rows; ++r) {
    weights[size_t(r * keys)] = 1.0f;
    weights[size_t(r * keys + 1)] = 4e-40f;
    weights[size_t(r * keys + 3)] = 1e-41f;
  }
  const device_array<float> on_machine(weights);
  zt::rescale_weights(t.m, on_machine.view({1, heads, rows, keys}), t.sink);
  zt::rescale_weights(host_view(weights), zt::initial_token{zt::view_of(gammas)});
  const auto got = on_machine.read();
  expect_same(got, weights, 2e-6);
  EXPECT_NEAR(got[0] + got[1] + got[3], 1.0f, 1e-5f);  // head 0 has gamma 0
  EXPECT_GT(got[1], 0.9f);
}

TYPED_TEST(forms, logits) {
  const table t;
  std::vector<TypeParam> logits = random_values<TypeParam>(heads * rows * keys, 2, 2.0f);
  for (long j = 1; j < keys; ++j) logits[size_t(2 * keys + j)] = TypeParam(-infinity);
  for (long r = 0; r < heads; ++r) logits[size_t((r * rows + 3) * keys)] = TypeParam(-infinity);
  const device_array<TypeParam> on_machine(logits);
  zt::bias_logits(t.m, on_machine.view({1, heads, rows, keys}),
                  zt::softcap{5.0f} | zt::causal{} | t.sink);
  zt::bias_logits(host_view(logits),
                  zt::softcap{5.0f} | zt::causal{} | zt::initial_token{zt::view_of(gammas)});
  expect_same(on_machine.read(), logits, TestFixture::tolerance);
}

TYPED_TEST(forms, mask) {
  const table t;
  for (const long kv_length : {keys, 40L, 0L}) {
    SCOPED_TRACE(kv_length);
    const std::vector<zt::index_t> lengths = {kv_length}, starts = {kv_length ? 0 : 3};
    const std::vector<zt::device_sequence> sequence = {{0, rows, starts[0], 0, kv_length}};
    const storage memory(zt::device_sequences_bytes(1));
    const zt::device_row_options options{zt::to_device(t.m, zt::view_of(sequence), memory.flat())};
    const device_array<TypeParam> on_machine(size_t(heads * rows * keys));
    std::vector<TypeParam> mask(heads * rows * keys);
    zt::fill_mask(t.m, on_machine.view({1, heads, rows, keys}), zt::causal{} | t.sink, options);
    zt::fill_mask(host_view(mask), zt::causal{} | zt::initial_token{zt::view_of(gammas)},
                  {zt::view_of(lengths), zt::view_of(starts)});
    expect_same(on_machine.read(), mask, TestFixture::tolerance);
  }
}

template <class T, class Modifier>
void check_softmax(const table& t, long kv_len, const Modifier& modifier, double tolerance,
                   bool in_place) {
  SCOPED_TRACE(kv_len);
  std::vector<T> logits = random_values<T>(size_t(heads * rows * kv_len), 3, 3.0f);
  for (long j = 1; j < kv_len; ++j) logits[size_t(kv_len + j)] = T(-infinity);  // row 1, gamma 0
  if (kv_len > 2) logits[size_t(3 * rows * kv_len + 1)] = T(-infinity);
  const device_array<T> in(logits), out(logits.size());
  const device_array<float> lse(size_t(heads * rows));
  zt::device_softmax_options options;
  options.lse = lse.view({1, heads, rows});
  const auto& to = in_place ? in : out;
  zt::softmax(t.m, in.view({1, heads, rows, kv_len}), to.view({1, heads, rows, kv_len}), modifier,
              options);
  const auto got = to.read();
  const auto got_lse = lse.read();
  for (long r = 0; r < heads * rows; ++r) {
    const double gamma = double(gammas[size_t(r / rows)]);
    const long last = std::min(kv_len - 1, kv_len - rows + r % rows);
    std::vector<double> x;
    double maximum = -INFINITY, sum = 0;
    long others = 0;
    for (long j = 0; j < kv_len; ++j) {
      const bool seen = j <= last && !std::isinf(float(logits[size_t(r * kv_len + j)]));
      others += seen && j > 0;
      x.push_back(seen ? double(float(logits[size_t(r * kv_len + j)])) : -INFINITY);
    }
    if (gamma > 0)
      x[0] += std::log(gamma);
    else if (others > 0)
      x[0] = -INFINITY;
    for (const double v : x) maximum = std::max(maximum, v);
    for (const double v : x) sum += std::isinf(v) ? 0 : std::exp(v - maximum);
    for (long j = 0; j < kv_len; ++j) {
      const double e = std::isinf(x[size_t(j)]) ? 0 : std::exp(x[size_t(j)] - maximum) / sum;
      ASSERT_NEAR(double(float(got[size_t(r * kv_len + j)])), e, tolerance * std::max(e, 1e-2))
          << "row " << r << " key " << j;
    }
    if (std::isinf(maximum))
      ASSERT_EQ(got_lse[size_t(r)], -infinity);
    else
      ASSERT_NEAR(double(got_lse[size_t(r)]), maximum + std::log(sum), 2e-5);
  }
}

TYPED_TEST(forms, softmax) {
  const table t;
  for (const long kv_len : {1, 5, 8, 64, 257, 1000, 2056}) {
    const storage memory(zt::device_table_bytes({1, heads, rows, kv_len}));
    const auto sink = zt::to_device(t.m, zt::initial_token{zt::view_of(gammas)},
                                    {1, heads, rows, kv_len}, memory.flat());
    check_softmax<TypeParam>(t, kv_len, zt::causal{} | sink, 2 * TestFixture::tolerance, false);
    check_softmax<TypeParam>(t, kv_len, zt::causal{} | sink, 2 * TestFixture::tolerance, true);
  }
}

// NaN and -inf in one row change no bit of another.
TYPED_TEST(forms, nan_stays_in_its_row) {
  using T = TypeParam;
  const table t;
  const auto clean = softmax_rows<T>(4);
  auto broken = clean;
  constexpr long bad = 2 * rows + 3;  // gamma 0.25, row 3
  broken[size_t(bad * keys + 9)] = T(std::numeric_limits<float>::quiet_NaN());
  broken[size_t(bad * keys)] = T(-infinity);
  const auto view = [](const device_array<T>& x) { return x.view({1, heads, rows, keys}); };
  const auto modifier = zt::causal{} | t.sink;
  const auto run = [&](const std::vector<T>& x, int form) {
    const device_array<T> data(x);
    if (form == 0) zt::rescale_weights(t.m, view(data), modifier);
    if (form == 1) zt::bias_logits(t.m, view(data), modifier);
    if (form == 2) zt::softmax(t.m, view(data), view(data), modifier, {});
    return data.read();
  };
  for (const int form : {0, 1, 2}) {
    SCOPED_TRACE(form);
    const auto expected = run(clean, form), got = run(broken, form);
    EXPECT_TRUE(std::isnan(float(got[size_t(bad * keys + 9)])));
    for (long i = 0; i < heads * rows * keys; ++i) {
      if (i / keys == bad) continue;
      ASSERT_EQ(float(got[size_t(i)]), float(expected[size_t(i)])) << i;
    }
  }
}

}  // namespace
}  // namespace zerotune_test
