// SPDX-License-Identifier: Apache-2.0
// Every documented throw of apply/: what the message names, and that nothing was written. Messages
// read `function: argument dim (name): expected X, got Y`.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/errors.hpp"
#include "support/forms.hpp"
#include "zerotune/apply/decode.hpp"

namespace {

using test::index_t;
using test::scene;
using all_forms = test::forms<zerotune::backend::scalar, float>;
using extents = std::array<index_t, 4>;

/// Checks run before any back end is chosen, so that one back end stands for all here.
struct faulty_call {
  std::string name;
  std::function<void(all_forms&)> call;
  std::vector<std::string> parts;
};

scene usual_scene() {
  scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = 3, .kv_len = 5};
  s.gammas = {2.0f, 0.0f, 1.0f, 0.5f};
  return s.complete();
}

void expect_refused(const std::vector<faulty_call>& calls) {
  for (const faulty_call& c : calls) {
    all_forms f(usual_scene(), 1);
    f.start(3);
    const auto before = f.memory();
    const std::string message = test::message_of([&] { c.call(f); });
    EXPECT_NE(message, "") << c.name << " was accepted";
    for (const std::string& part : c.parts)
      EXPECT_NE(message.find(part), std::string::npos) << c.name << ": " << message;
    EXPECT_NE(message.find(": expected "), std::string::npos) << message;
    EXPECT_NE(message.find(", got "), std::string::npos) << message;
    EXPECT_EQ(f.memory(), before) << c.name << ": something was written";
  }
}

auto attend(const extents& q, const extents& k, const extents& v, const extents& out,
            const std::array<index_t, 3>& lse = {2, 4, 3}) {
  return [=](all_forms& f) {
    test::tensor<float> tq(q), tk(k), tv(v);
    test::tensor<float> tout(out);
    test::tensor<float, 3> tlse(lse);
    tout.fill(3);
    const auto before = tout.storage();
    try {
      zerotune::attention(tq.const_view(), tk.const_view(), tv.const_view(), tout.view(),
                          f.s.usual(), {.lse = tlse.view()});
    } catch (...) {
      EXPECT_TRUE(test::same_bits(before, tout.storage()));
      throw;
    }
  };
}

TEST(attention_refuses, shapes_that_do_not_fit) {
  const extents q{2, 4, 3, 8}, k{2, 2, 5, 8}, v{2, 2, 5, 6}, out{2, 4, 3, 6};
  const auto fn = std::string("attention: ");
  expect_refused({
      {"k batch", attend(q, {3, 2, 5, 8}, v, out), {fn, "k dim 0 (batch)", "expected 2", "got 3"}},
      {"v batch", attend(q, k, {1, 2, 5, 6}, out), {fn, "v dim 0 (batch)", "expected 2", "got 1"}},
      {"v heads", attend(q, k, {2, 4, 5, 6}, out), {fn, "v dim 1 (num_kv_heads)", "2", "4"}},
      {"v length", attend(q, k, {2, 2, 4, 6}, out), {fn, "v dim 2 (kv_len)", "5", "4"}},
      {"k head_dim", attend(q, {2, 2, 5, 7}, v, out), {fn, "k dim 3 (head_dim)", "8", "7"}},
      {"groups", attend({2, 3, 3, 8}, k, v, {2, 3, 3, 6}), {fn, "num_heads", "num_kv_heads", "3"}},
      {"no kv heads", attend(q, {2, 0, 5, 8}, {2, 0, 5, 6}, out), {fn, "num_kv_heads = 0"}},
      {"out batch", attend(q, k, v, {1, 4, 3, 6}), {fn, "out dim 0 (batch)", "2", "1"}},
      {"out heads", attend(q, k, v, {2, 2, 3, 6}), {fn, "out dim 1 (num_heads)", "4", "2"}},
      {"out queries", attend(q, k, v, {2, 4, 2, 6}), {fn, "out dim 2 (q_len)", "3", "2"}},
      {"out width", attend(q, k, v, {2, 4, 3, 8}), {fn, "out dim 3 (value_dim)", "6", "8"}},
      {"lse batch", attend(q, k, v, out, {1, 4, 3}), {fn, "lse dim 0 (batch)", "2", "1"}},
      {"lse heads", attend(q, k, v, out, {2, 1, 3}), {fn, "lse dim 1 (num_heads)", "4", "1"}},
      {"lse queries", attend(q, k, v, out, {2, 4, 5}), {fn, "lse dim 2 (q_len)", "3", "5"}},
  });
}

TEST(attention_refuses, scales_and_gammas_that_do_not_fit) {
  const auto call = [](auto options, auto modifier) {
    return [=](all_forms& f) {
      zerotune::attention(f.in.q.const_view(), f.in.k.const_view(), f.in.v.const_view(),
                          f.out.view(), modifier, options);
    };
  };
  const float infinity = std::numeric_limits<float>::infinity();
  zerotune::attention_options<float> infinite, undefined;
  infinite.softmax_scale = infinity;
  undefined.softmax_scale = std::numeric_limits<float>::quiet_NaN();
  static const std::vector<float> three(3, 1.0f);
  expect_refused({
      {"scale inf", call(infinite, zerotune::causal{}), {"attention", "softmax_scale"}},
      {"scale NaN", call(undefined, zerotune::causal{}), {"attention", "softmax_scale"}},
      {"three gammas",
       call(zerotune::attention_options<float>{}, zerotune::initial_token{test::list_view(three)}),
       {"attention", "initial_token", "num_heads", "expected 4", "got 3"}},
      {"softcap",
       call(zerotune::attention_options<float>{}, zerotune::softcap{-1.0f}),
       {"attention", "softcap"}},
      {"window",
       call(zerotune::attention_options<float>{}, zerotune::sliding_window{0}),
       {"attention", "sliding_window", "got 0"}},
  });
}

/// Every form checks lengths, starts and positions alike.
// Also where no mass is asked for: they are read all the same.
TEST(attention_refuses, sink_positions_that_do_not_fit) {
  test::tensor<float> q({2, 4, 3, 8}), k({2, 2, 5, 8}), v({2, 2, 5, 8}), out({2, 4, 3, 8});
  const std::vector<index_t> one{0}, beyond{0, 5};
  for (const std::vector<index_t>& positions : {one, beyond}) {
    const std::string whole = test::message_of([&] {
      zerotune::attention(q.const_view(), k.const_view(), v.const_view(), out.view(),
                          zerotune::identity{}, {.sink_positions = test::list_view(positions)});
    });
    const std::string decode = test::message_of([&] {
      zerotune::attention_decode(q.const_view(), k.const_view(), v.const_view(), out.view(),
                                 zerotune::identity{},
                                 {.sink_positions = test::list_view(positions)});
    });
    for (const std::string& message : {whole, decode})
      EXPECT_NE(message.find("positions"), std::string::npos) << message;
  }
}

TEST(every_form_refuses, lengths_starts_and_positions_that_do_not_fit) {
  const index_t huge = std::numeric_limits<index_t>::max();
  for (int form = 0; form < all_forms::count; ++form) {
    const auto with = [form](auto change) {
      return [=](all_forms& f) {
        change(f.s);
        f.call(form, f.s.usual());
      };
    };
    expect_refused({
        {"length beyond",
         with([](scene& s) {
           s.kv_lengths = {5, 6};
         }),
         {"kv_lengths[1]", "[0, 5]", "got 6"}},
        {"length below",
         with([](scene& s) {
           s.kv_lengths = {-1, 5};
         }),
         {"kv_lengths[0]", "got -1"}},
        {"one length",
         with([](scene& s) { s.kv_lengths = {5}; }),
         {"kv_lengths dim 0 (batch)", "expected 2", "got 1"}},
        {"three starts",
         with([](scene& s) {
           s.q_starts = {0, 0, 0};
         }),
         {"q_starts dim 0 (batch)", "expected 2", "got 3"}},
        {"start huge",
         with([=](scene& s) {
           s.q_starts = {0, huge};
         }),
         {"q_starts[1]", std::to_string(huge)}},
        {"start least",
         with([](scene& s) {
           s.q_starts = {std::numeric_limits<index_t>::min(), 0};
         }),
         {"q_starts[0]"}},
        {"position beyond",
         with([](scene& s) {
           s.positions = {0, 5};
         }),
         {"positions[1]", "[0, 5)", "got 5"}},
        {"position below",
         with([](scene& s) {
           s.positions = {-1, 0};
         }),
         {"positions[0]", "got -1"}},
        {"one position", with([](scene& s) { s.positions = {0}; }), {"positions", "batch"}},
        {"too few gammas",
         with([](scene& s) { s.gammas.pop_back(); }),
         {"gamma dim 0 (num_heads)", "expected 4", "got 3"}},
    });
  }
}

TEST(correct_output_refuses, shapes_and_options_that_do_not_fit) {
  struct shapes {
    extents out{2, 4, 3, 8}, v{2, 2, 5, 8};
    std::array<index_t, 3> lse{2, 4, 3};
    zerotune::output_options options{};
  };
  const auto call = [](const std::function<void(shapes&)>& change, bool by_mass) {
    return [=](all_forms& f) {
      shapes with;
      change(with);
      test::tensor<float> out(with.out), v(with.v);
      test::tensor<float, 3> lse(with.lse);
      if (by_mass)
        zerotune::correct_output_by_mass(out.view(), lse.const_view(), v.const_view(), f.s.usual(),
                                         with.options);
      else
        zerotune::correct_output(out.view(), lse.view(), f.in.q.const_view(), f.in.k.const_view(),
                                 v.const_view(), f.s.usual(), with.options);
    };
  };
  const double nan_value = std::numeric_limits<double>::quiet_NaN();
  for (const bool by_mass : {false, true}) {
    const std::string fn = by_mass ? "correct_output_by_mass: " : "correct_output: ";
    const std::string sums = by_mass ? "mass" : "lse";
    expect_refused({
        {"v batch", call([](shapes& s) { s.v[0] = 3; }, by_mass), {fn, "v dim 0 (batch)"}},
        {"sums batch", call([](shapes& s) { s.lse[0] = 1; }, by_mass), {fn, sums + " dim 0"}},
        {"sums heads", call([](shapes& s) { s.lse[1] = 1; }, by_mass), {fn, sums + " dim 1"}},
        {"sums rows", call([](shapes& s) { s.lse[2] = 1; }, by_mass), {fn, sums + " dim 2"}},
        {"width", call([](shapes& s) { s.out[3] = 7; }, by_mass), {fn, "out dim 3 (value_dim)"}},
        {"min_d", call([](shapes& s) { s.options.min_d = -1; }, by_mass), {fn, "min_d"}},
        {"min_d NaN",
         call([=](shapes& s) { s.options.min_d = nan_value; }, by_mass),
         {fn, "min_d"}},
    });
  }
  expect_refused({
      {"heads", call([](shapes& s) { s.out[1] = s.lse[1] = 3; }, true), {"num_heads", "got 3"}},
      {"v heads", call([](shapes& s) { s.v[1] = 1; }, false), {"v dim 1 (num_kv_heads)"}},
      {"softcap", call([](shapes& s) { s.options.softcap = -2; }, false), {"softcap"}},
      {"softcap NaN", call([=](shapes& s) { s.options.softcap = nan_value; }, false), {"softcap"}},
      {"scale NaN",
       call([=](shapes& s) { s.options.softmax_scale = nan_value; }, false),
       {"softmax_scale"}},
      {"two keys",
       [](all_forms& f) {
         zerotune::correct_output_by_mass(
             f.corrected.view(), f.mass.const_view(), f.in.v.const_view(),
             zerotune::token_span{{0, 2}, zerotune::head_gammas{2.0f}});
       },
       {"correct_output_by_mass", "modifier", "one key", "got 2"}},
  });
}

TEST(augmentation_refuses, shapes_and_scales_that_do_not_fit) {
  const auto query = [](const extents& to, index_t kv_len, double scale) {
    return [=](all_forms& f) {
      test::tensor<float> out(to);
      zerotune::augment_query(f.in.q.const_view(), out.view(), f.s.usual(), kv_len, scale);
    };
  };
  const auto key = [](const extents& to, bool value) {
    return [=](all_forms& f) {
      test::tensor<float> out(to);
      if (value)
        zerotune::augment_value(f.in.v.const_view(), out.view(), f.s.sink());
      else
        zerotune::augment_key(f.in.k.const_view(), out.view(), f.s.sink());
    };
  };
  const extents right{2, 4, 3, 9};
  const std::string q = "augment_query: ";
  expect_refused({
      {"q width", query({2, 4, 3, 8}, 5, 1), {q, "out dim 3", "expected 9", "got 8"}},
      {"q batch", query({1, 4, 3, 9}, 5, 1), {q, "out dim 0 (batch)"}},
      {"q heads", query({2, 2, 3, 9}, 5, 1), {q, "out dim 1"}},
      {"q rows", query({2, 4, 5, 9}, 5, 1), {q, "out dim 2"}},
      {"kv_len", query(right, -1, 1), {q, "kv_len", "got -1"}},
      {"scale 0", query(right, 5, 0), {q, "softmax_scale"}},
      {"scale < 0", query(right, 5, -1), {q, "softmax_scale"}},
      {"scale NaN",
       query(right, 5, std::numeric_limits<double>::quiet_NaN()),
       {q, "softmax_scale"}},
      {"k width", key({2, 2, 5, 10}, false), {"augment_key: ", "out dim 3", "9", "10"}},
      {"v rows", key({2, 2, 4, 9}, true), {"augment_value: ", "out dim 2", "5", "4"}},
      {"span",
       [](all_forms& f) {
         test::tensor<float> out({2, 4, 3, 9});
         zerotune::augment_query(f.in.q.const_view(), out.view(),
                                 zerotune::token_span{{0, 3}, zerotune::head_gammas{2.0f}}, 5, 1.0);
       },
       {q, "modifier", "one key", "got 3"}},
      {"positions",
       [](all_forms& f) {
         static const std::vector<index_t> beyond{0, 5};
         test::tensor<float> out({2, 2, 5, 9});
         zerotune::augment_key(f.in.k.const_view(), out.view(),
                               f.s.sink().at(test::list_view(beyond)));
       },
       {"augment_key: ", "positions[1]"}},
  });
}

TEST(scale_keys_refuses, what_does_not_fit) {
  static const std::vector<float> four(4, 2.0f), three(3, 2.0f);
  static const std::vector<float> poisoned{1, 1, std::numeric_limits<float>::quiet_NaN(), 1};
  static const std::vector<index_t> beyond{0, 5}, one{0};
  const auto call = [](zerotune::key_scale scale, index_t heads) {
    return [=](all_forms& f) {
      const auto before = f.in.k.storage();
      try {
        zerotune::scale_keys(f.in.k.view(), scale, heads);
      } catch (...) {
        EXPECT_TRUE(test::same_bits(before, f.in.k.storage()));
        throw;
      }
    };
  };
  using test::list_view;
  expect_refused({
      {"heads", call({.factor = 2}, 3), {"scale_keys", "num_heads", "got 3"}},
      {"no heads", call({.factor = 2}, 0), {"scale_keys", "num_heads", "got 0"}},
      {"factors", call({.factors = list_view(three)}, 4), {"factors", "expected 4", "got 3"}},
      {"NaN", call({.factors = list_view(poisoned)}, 4), {"scale_keys", "factors[2]"}},
      {"position",
       call({.factors = list_view(four), .positions = list_view(beyond)}, 4),
       {"positions[1]", "got 5"}},
      {"positions", call({.factor = 2, .positions = list_view(one)}, 4), {"positions", "batch"}},
  });
}

}  // namespace
