// SPDX-License-Identifier: Apache-2.0
// Callers' mistakes: attention_backward names the argument and writes nothing.
#include <gtest/gtest.h>

#include <functional>

#include "apply/attention_backward_run.hpp"
#include "support/errors.hpp"

namespace {

using test::index_t;
using zerotune::tensor_view;

struct call {
  test::tensor<float> q{{2, 4, 5, 8}}, k{{2, 2, 6, 8}}, v{{2, 2, 6, 3}}, out{{2, 4, 5, 3}},
      d_out{{2, 4, 5, 3}}, d_q{{2, 4, 5, 8}}, d_k{{2, 2, 6, 8}}, d_v{{2, 2, 6, 3}};
  test::tensor<float, 3> lse{{2, 4, 5}};
  test::tensor<double, 2> d_log_gamma{{2, 4}};
  zerotune::attention_backward_options<float> options;
  // What a test replaces.
  tensor_view<float, 4> out_view = out.view(), d_out_view = d_out.view(), d_q_view = d_q.view(),
                        d_k_view = d_k.view(), d_v_view = d_v.view();
  tensor_view<float, 3> lse_view = lse.view();
  tensor_view<double, 2> d_log_gamma_view = d_log_gamma.view();
  float gamma = 2;

  call() { d_q.fill(7), d_k.fill(7), d_v.fill(7), d_log_gamma.fill(7); }
  std::string message() {
    const std::string text = test::message_of([&] {
      zerotune::attention_backward(q.view(), k.view(), v.view(), out_view, lse_view, d_out_view,
                                   d_q_view, d_k_view, d_v_view, d_log_gamma_view,
                                   zerotune::causal{} | zerotune::initial_token{gamma}, options);
    });
    if (!text.empty()) {
      for (const auto& list : {d_q.dense(), d_k.dense(), d_v.dense(), d_log_gamma.dense()})
        for (const double x : list) EXPECT_EQ(x, 7.0) << "written before the check";
    }
    return text;
  }
};

using change = std::function<void(call&)>;
void expect_message(const change& spoil, std::initializer_list<std::string> parts) {
  call c;
  spoil(c);
  const std::string message = c.message();
  EXPECT_TRUE(test::mentions(message, parts)) << message;
  EXPECT_TRUE(test::mentions(message, {"attention_backward: "})) << message;
}

TEST(attention_backward_faults, shapes) {
  test::tensor<float> wrong({2, 4, 5, 4}), short_keys({2, 2, 5, 8});
  expect_message([&](call& c) { c.out_view = wrong.view(); },
                 {"out dim 3 (value_dim)", "expected 3", "got 4"});
  expect_message([&](call& c) { c.d_out_view = wrong.view(); }, {"d_out dim 3 (value_dim)"});
  expect_message([&](call& c) { c.d_q_view = wrong.view(); }, {"d_q dim 3 (head_dim)"});
  expect_message([&](call& c) { c.d_k_view = short_keys.view(); }, {"d_k dim 2 (kv_len)"});
  expect_message([&](call& c) { c.d_v_view = short_keys.view(); }, {"d_v dim 2 (kv_len)"});
  test::tensor<float, 3> rows({2, 4, 6});
  expect_message([&](call& c) { c.lse_view = rows.view(); }, {"lse dim 2 (q_len)"});
  test::tensor<double, 2> heads({2, 2});
  expect_message([&](call& c) { c.d_log_gamma_view = heads.view(); },
                 {"d_log_gamma dim 1 (num_heads)", "expected 4", "got 2"});
}

TEST(attention_backward_faults, memory) {
  expect_message([](call& c) { c.d_q_view = c.q.view(); }, {"d_q", "apart from q"});
  expect_message(
      [](call& c) {
        c.d_v_view = {c.d_k.view().data(), {2, 2, 6, 3}};
      },
      {"d_v", "apart from d_k"});
  expect_message(
      [](call& c) {
        c.d_k_view = {c.d_k.view().data(), {2, 2, 6, 8}, {0, 48, 8, 1}};
      },
      {"d_k stride 0"});
  expect_message([](call& c) { c.out_view = {nullptr, {2, 4, 5, 3}}; }, {"out data", "null"});
}

TEST(attention_backward_faults, options) {
  expect_message([](call& c) { c.options.softmax_scale = std::numeric_limits<float>::infinity(); },
                 {"softmax_scale"});
  expect_message([](call& c) { c.gamma = -1; }, {"gamma"});
  const std::vector<index_t> positions{0, 6}, lengths{7, 6}, one{0};
  expect_message([&](call& c) { c.options.initial_positions = test::list_view(positions); },
                 {"positions[1]", "[0, 6)", "got 6"});
  expect_message([&](call& c) { c.options.initial_positions = test::list_view(one); },
                 {"positions dim 0 (batch)"});
  expect_message([&](call& c) { c.options.kv_lengths = test::list_view(lengths); },
                 {"kv_lengths[0]"});
  std::vector<std::byte> memory(10);
  expect_message(
      [&](call& c) {
        c.options.workspace = {memory.data(), {10}};
      },
      {"workspace dim 0 (bytes)", "got 10"});
  expect_message([&](call& c) { c.options.workspace = {memory.data(), {5}, {2}}; }, {"workspace"});
  expect_message(
      [&](call& c) {
        c.options.workspace = {reinterpret_cast<std::byte*>(c.q.view().data()), {100}};
      },
      {"workspace", "apart from q"});
}

/// Without d_log_gamma the rest is the same.
TEST(attention_backward_faults, d_log_gamma_may_be_missing) {
  call with, without;
  for (call* c : {&with, &without}) {
    c->q.randomise(1), c->k.randomise(2), c->v.randomise(3), c->d_out.randomise(4);
    c->lse.fill(2), c->out.randomise(5);
  }
  without.d_log_gamma_view = {};
  EXPECT_EQ(with.message(), "");
  EXPECT_EQ(without.message(), "");
  EXPECT_TRUE(test::same_bits(with.d_q.elements(), without.d_q.elements()));
  for (const double x : with.d_log_gamma.dense()) EXPECT_NE(x, 7.0);
  for (const double x : without.d_log_gamma.dense()) EXPECT_EQ(x, 7.0);
}

/// Runs nothing and then throws, as an executor may.
struct throwing_executor {
  template <class Body>
  void parallel_for(index_t, const Body&) const {
    throw std::runtime_error("no threads");
  }
};
TEST(attention_backward_faults, a_throwing_executor) {
  call c;
  EXPECT_THROW(
      zerotune::attention_backward(c.q.view(), c.k.view(), c.v.view(), c.out_view, c.lse_view,
                                   c.d_out_view, c.d_q_view, c.d_k_view, c.d_v_view,
                                   c.d_log_gamma_view, zerotune::causal{}, {}, throwing_executor{}),
      std::runtime_error);
  EXPECT_EQ(c.message(), "");
}

}  // namespace
