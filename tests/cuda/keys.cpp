// SPDX-License-Identifier: Apache-2.0
// The key forms on the machine against those of the host.
#include "zerotune/apply/keys.hpp"

#include "attention_case.hpp"

namespace zerotune_test {
namespace {

template <class T>
class keys : public ::testing::Test {};
using types = ::testing::Types<float, zt::float16, zt::bfloat16>;
TYPED_TEST_SUITE(keys, types);

constexpr long batch = 2, heads = 4, kv_heads = 2, length = 9, dim = 20;
const std::vector<float> gammas = {0.0f, 1.0f, 3.0f, 1e-4f};
const std::vector<zt::index_t> positions = {0, 3};

template <class T>
void expect_equal(const std::vector<T>& got, const std::vector<T>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    const float a = float(got[i]), b = float(expected[i]);
    // The host divides in double: the last bit of the coordinate may differ.
    const float tolerance = sizeof(T) == 4 ? 2e-6f : 1e-3f;
    ASSERT_NEAR(a, b, tolerance * std::abs(b)) << i;
  }
}

TYPED_TEST(keys, augmented_queries_keys_and_values) {
  using T = TypeParam;
  constexpr long extra = zt::device_augmented_columns<T>;
  const zt::attention_shape shape{batch, heads, length, length};
  const zt::initial_token host_sink =
      zt::initial_token{zt::view_of(gammas)}.at(zt::view_of(positions));
  const machine m;
  const storage memory(zt::device_table_bytes(shape));
  const auto sink = zt::to_device(m, host_sink, shape, memory.flat());
  std::vector<T> q = random_values<T>(batch * heads * length * dim, 1);
  std::vector<T> k = random_values<T>(batch * kv_heads * length * dim, 2);
  std::vector<T> q_out(size_t(batch * heads * length * (dim + extra)));
  std::vector<T> k_out(size_t(batch * kv_heads * length * (dim + extra)));
  std::vector<T> v_out(size_t(batch * kv_heads * length * (dim + 1)));
  using view = zt::tensor_view<T, 4>;
  const device_array<T> dq(q), dk(k), dq_out(q_out.size()), dk_out(k_out.size()),
      dv_out(v_out.size());
  zt::augment_query(view(q.data(), {batch, heads, length, dim}),
                    view(q_out.data(), {batch, heads, length, dim + extra}),
                    zt::causal{} | host_sink, length, 0.2);
  zt::augment_key(view(k.data(), {batch, kv_heads, length, dim}),
                  view(k_out.data(), {batch, kv_heads, length, dim + extra}), host_sink);
  zt::augment_value(view(k.data(), {batch, kv_heads, length, dim}),
                    view(v_out.data(), {batch, kv_heads, length, dim + 1}), host_sink);
  zt::augment_query(m, dq.view({batch, heads, length, dim}),
                    dq_out.view({batch, heads, length, dim + extra}), zt::causal{} | sink, length,
                    0.2);
  zt::augment_key(m, dk.view({batch, kv_heads, length, dim}),
                  dk_out.view({batch, kv_heads, length, dim + extra}), sink);
  zt::augment_value(m, dk.view({batch, kv_heads, length, dim}),
                    dv_out.view({batch, kv_heads, length, dim + 1}), sink);
  const auto got = dq_out.read();
  for (long r = 0; r < batch * heads * length; ++r) {
    // High and low part may split elsewhere; their sum is what a host's product sees.
    double sum = 0, expected = 0;
    for (long c = 0; c < extra; ++c) {
      sum += double(float(got[size_t(r * (dim + extra) + dim + c)]));
      expected += double(float(q_out[size_t(r * (dim + extra) + dim + c)]));
    }
    ASSERT_NEAR(sum, expected, 1e-4 * std::max(1.0, std::abs(expected)));
    for (long c = 0; c < dim; ++c)
      ASSERT_EQ(float(got[size_t(r * (dim + extra) + c)]), float(q[size_t(r * dim + c)]));
  }
  expect_equal(dk_out.read(), k_out);
  expect_equal(dv_out.read(), v_out);
}

TYPED_TEST(keys, scaled_keys) {
  using T = TypeParam;
  std::vector<T> k = random_values<T>(batch * kv_heads * length * dim, 2);
  const device_array<T> dk(k);
  const std::vector<float> factors = {0.5f, 0.5f, 1.0f, 3.0f};
  zt::key_scale scale{1.0f, zt::view_of(factors), zt::view_of(positions), zt::mixed_groups::mean};
  const machine m;
  const storage memory(zt::scale_keys_bytes(batch, kv_heads));
  zt::scale_keys(zt::tensor_view<T, 4>(k.data(), {batch, kv_heads, length, dim}), scale, heads);
  zt::scale_keys(m, dk.view({batch, kv_heads, length, dim}), scale, heads, memory.flat());
  expect_equal(dk.read(), k);
  scale.groups = zt::mixed_groups::refuse;
  EXPECT_THROW(
      zt::scale_keys(m, dk.view({batch, kv_heads, length, dim}), scale, heads, memory.flat()),
      zt::invalid_argument);
}

}  // namespace
}  // namespace zerotune_test
