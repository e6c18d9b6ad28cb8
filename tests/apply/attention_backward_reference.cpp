// SPDX-License-Identifier: Apache-2.0
// attention_backward against PyTorch's autograd in float64 (tests/references/README.md).
#include <gtest/gtest.h>

#include "apply/attention_backward_run.hpp"
#include "support/backends.hpp"
#include "support/tolerance.hpp"

#if __has_include(<nlohmann/json.hpp>)
#include <fstream>
#include <nlohmann/json.hpp>

#include "apply/attention_gradients.hpp"

namespace {

using test::index_t;

nlohmann::json cases() {
  std::ifstream file(ZEROTUNE_TESTS_DIR "/references/attention_gradients.json");
  EXPECT_TRUE(file.good());
  return nlohmann::json::parse(file).at("cases");
}

std::vector<double> values(const nlohmann::json& c, const char* name) {
  return c.at(name).at("data").get<std::vector<double>>();
}

template <class Kernel>
class attention_backward_reference : public ::testing::Test {};
using kernels =
    typename test::concatenate<::testing::Types<test::kernel<zerotune::backend::scalar, float>,
                                                test::kernel<zerotune::backend::scalar, double>>,
#if ZEROTUNE_TEST_SIMD
                               ::testing::Types<test::kernel<zerotune::backend::simd<>, float>,
                                                test::kernel<zerotune::backend::simd<>, double>>
#else
                               ::testing::Types<>
#endif
                               >::type;
TYPED_TEST_SUITE(attention_backward_reference, kernels, test::kernel_names);

TYPED_TEST(attention_backward_reference, pytorch) {
  using type = typename TypeParam::type;
  // The file has 15 decimals, and its inputs are exact in every type.
  const double bound = std::is_same_v<type, double> ? 1e-13 : 2e-5;
  int count = 0;
  for (const auto& c : cases()) {
    SCOPED_TRACE(c.at("name").get<std::string>());
    test::scene s;
    s.batch = c.at("batch"), s.num_heads = c.at("num_heads"), s.num_kv_heads = c.at("num_kv_heads");
    s.q_len = c.at("q_len"), s.kv_len = c.at("kv_len");
    s.head_dim = s.value_dim = c.at("head_dim");
    s.scale = c.at("softmax_scale");
    s.gammas = c.at("gamma").get<std::vector<float>>();
    test::backward_run<type> run(s, 1);
    run.in.q.set(values(c, "q")), run.in.k.set(values(c, "k")), run.in.v.set(values(c, "v"));
    run.d_out.set(values(c, "dout"));
    run.both(typename TypeParam::backend{}, run.s.usual());
    EXPECT_LT(test::max_error(run.out.dense(), values(c, "out")), bound);
    EXPECT_LT(test::max_error(run.lse.dense(), values(c, "lse")), bound);
    EXPECT_LT(test::max_error(run.d_q.dense(), values(c, "dq")), bound);
    EXPECT_LT(test::max_error(run.d_k.dense(), values(c, "dk")), bound);
    EXPECT_LT(test::max_error(run.d_v.dense(), values(c, "dv")), bound);
    // The file sums over the batch.
    std::vector<double> d_log_gamma(static_cast<std::size_t>(s.num_heads), 0.0);
    for (index_t i = 0; i < run.d_log_gamma.size(); ++i)
      d_log_gamma[static_cast<std::size_t>(i % s.num_heads)] += run.d_log_gamma.at(i);
    EXPECT_LT(test::max_error(d_log_gamma, values(c, "dlog_gamma")), bound);
    ++count;
  }
  EXPECT_GT(count, 0);
}

}  // namespace
#else
TEST(attention_backward_reference, pytorch) { GTEST_SKIP() << "nlohmann/json.hpp is missing"; }
#endif
