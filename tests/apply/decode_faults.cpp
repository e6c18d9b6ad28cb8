// SPDX-License-Identifier: Apache-2.0
// Every documented throw of attention_decode: what the message names, and that nothing was written.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <vector>

#include "support/errors.hpp"
#include "support/scene.hpp"
#include "zerotune/apply/decode.hpp"
#include "zerotune/policy/compose.hpp"

namespace {

using test::index_t;

/// A call that is right until a test changes one thing of it.
struct decode_call {
  std::vector<float> gammas{2.0f, 0.0f, 1.0f, 0.5f};
  std::vector<index_t> positions{0, 1}, lengths{5, 4}, starts{4, 3};
  std::vector<float> memory = std::vector<float>(20000, 3.0f);
  zerotune::tensor_view<const float, 4> q{part(0), {2, 4, 1, 8}};
  zerotune::tensor_view<const float, 4> k{part(1), {2, 2, 5, 8}};
  zerotune::tensor_view<const float, 4> v{part(2), {2, 2, 5, 6}};
  zerotune::tensor_view<float, 4> out{part(3), {2, 4, 1, 6}};
  zerotune::decode_options<float> options;

  decode_call() {
    options.lse = {part(4), {2, 4, 1}};
    options.kv_lengths = test::list_view(lengths);
    options.q_starts = test::list_view(starts);
    options.workspace = {bytes(5),
                         {zerotune::attention_decode_workspace_bytes({2, 4, 1, 5}, 2, 8, 6)}};
  }
  float* part(int i) { return memory.data() + i * 1000; }
  std::byte* bytes(int i) { return reinterpret_cast<std::byte*>(part(i)); }
  void operator()() {
    zerotune::attention_decode(
        zerotune::backend::scalar{}, q, k, v, out,
        zerotune::causal{} |
            zerotune::initial_token{test::list_view(gammas)}.at(test::list_view(positions)),
        options);
  }
};

void expect_refused(const char* what, const std::function<void(decode_call&)>& change,
                    std::initializer_list<std::string> parts) {
  decode_call call;
  change(call);
  const auto before = call.memory;
  const std::string message = test::message_of([&] { call(); });
  EXPECT_TRUE(test::mentions(message, parts)) << what << ": " << message;
  EXPECT_TRUE(test::same_bits(before, call.memory)) << what << ": something was written";
}

TEST(decode_refuses, nothing_of_a_call_that_is_right) {
  decode_call call;
  EXPECT_EQ(test::message_of([&] { call(); }), "");
}

TEST(decode_refuses, shapes_that_do_not_fit) {
  const std::string fn = "attention_decode: ";
  expect_refused("k batch",
                 [](auto& c) {
                   c.k = {c.k.data(), {3, 2, 5, 8}};
                 },
                 {fn, "k dim 0 (batch)", "expected 2", "got 3"});
  expect_refused("v batch",
                 [](auto& c) {
                   c.v = {c.v.data(), {1, 2, 5, 6}};
                 },
                 {fn, "v dim 0 (batch)", "expected 2", "got 1"});
  expect_refused("v heads",
                 [](auto& c) {
                   c.v = {c.v.data(), {2, 4, 5, 6}};
                 },
                 {"v dim 1 (num_kv_heads)", "expected 2", "got 4"});
  expect_refused("v length",
                 [](auto& c) {
                   c.v = {c.v.data(), {2, 2, 4, 6}};
                 },
                 {"v dim 2 (kv_len)", "expected 5", "got 4"});
  expect_refused("k head_dim",
                 [](auto& c) {
                   c.k = {c.k.data(), {2, 2, 5, 7}};
                 },
                 {"k dim 3 (head_dim)", "expected 8", "got 7"});
  expect_refused("groups",
                 [](auto& c) {
                   c.q = {c.q.data(), {2, 3, 1, 8}};
                 },
                 {"q dim 1 (num_heads)", "a multiple of num_kv_heads = 2", "got 3"});
  expect_refused("no kv heads",
                 [](auto& c) {
                   c.k = {c.k.data(), {2, 0, 5, 8}};
                   c.v = {c.v.data(), {2, 0, 5, 6}};
                 },
                 {"num_kv_heads = 0"});
  expect_refused("head_dim 0",
                 [](auto& c) {
                   c.q = {c.q.data(), {2, 4, 1, 0}};
                   c.k = {c.k.data(), {2, 2, 5, 0}};
                 },
                 {"q dim 3 (head_dim)", "1 to 4096", "got 0"});
  expect_refused("value_dim 0",
                 [](auto& c) {
                   c.v = {c.v.data(), {2, 2, 5, 0}};
                 },
                 {"v dim 3 (value_dim)", "got 0"});
  expect_refused("head_dim 4097",
                 [](auto& c) {
                   c.q = {c.q.data(), {2, 4, 1, 4097}, {0, 0, 0, 0}};
                   c.k = {c.k.data(), {2, 2, 5, 4097}, {0, 0, 0, 0}};
                 },
                 {"q dim 3 (head_dim)", "1 to 4096", "got 4097"});
  for (const int dim : {0, 1, 2, 3}) {
    const char* const names[] = {"batch", "num_heads", "q_len", "value_dim"};
    expect_refused("out",
                   [&](auto& c) {
                     index_t extents[4] = {2, 4, 1, 6};
                     ++extents[dim];
                     c.out = {c.out.data(), extents};
                   },
                   {"out dim " + std::to_string(dim) + " (" + names[dim] + ")"});
  }
  for (const int dim : {0, 1, 2}) {
    const char* const names[] = {"batch", "num_heads", "q_len"};
    expect_refused("lse",
                   [&](auto& c) {
                     index_t extents[3] = {2, 4, 1};
                     ++extents[dim];
                     c.options.lse = {c.options.lse.data(), extents};
                   },
                   {"lse dim " + std::to_string(dim) + " (" + names[dim] + ")"});
  }
}

TEST(decode_refuses, memory_that_does_not_fit) {
  expect_refused("null", [](auto& c) { c.k = {nullptr, {2, 2, 5, 8}}; }, {"k data", "null"});
  expect_refused("stride 0",
                 [](auto& c) {
                   c.out = {c.out.data(), {2, 4, 1, 6}, {24, 0, 6, 1}};
                 },
                 {"out stride 1", "its own place"});
  expect_refused("out over q",
                 [](auto& c) {
                   c.out = {c.part(0), {2, 4, 1, 6}};
                 },
                 {"out", "memory apart from q"});
  expect_refused("out over k",
                 [](auto& c) {
                   c.out = {c.part(1), {2, 4, 1, 6}};
                 },
                 {"out", "memory apart from k"});
  expect_refused("out over v",
                 [](auto& c) {
                   c.out = {c.part(2), {2, 4, 1, 6}};
                 },
                 {"out", "memory apart from v"});
  expect_refused("lse over v",
                 [](auto& c) {
                   c.options.lse = {c.part(2), {2, 4, 1}};
                 },
                 {"lse", "memory apart from v"});
  expect_refused("lse over out",
                 [](auto& c) {
                   c.options.lse = {c.part(3), {2, 4, 1}};
                 },
                 {"lse", "memory apart from out"});
  expect_refused("workspace over out",
                 [](auto& c) {
                   c.options.workspace = {c.bytes(3), {c.options.workspace.extent(0)}};
                 },
                 {"workspace", "memory apart from out"});
  expect_refused("workspace over lse",
                 [](auto& c) {
                   c.options.workspace = {c.bytes(4), {c.options.workspace.extent(0)}};
                 },
                 {"workspace", "memory apart from lse"});
  expect_refused("workspace over k",
                 [](auto& c) {
                   c.options.workspace = {c.bytes(1) + 400, {c.options.workspace.extent(0)}};
                 },
                 {"workspace", "memory apart from k"});
  expect_refused("small workspace",
                 [](auto& c) {
                   c.options.workspace = {c.bytes(5), {c.options.workspace.extent(0) - 1}};
                 },
                 {"workspace dim 0 (bytes)", "at least"});
  expect_refused("spread workspace",
                 [](auto& c) {
                   c.options.workspace = {c.bytes(5), {c.options.workspace.extent(0)}, {2}};
                 },
                 {"workspace stride 0", "expected 1", "got 2"});
}

TEST(decode_refuses, options_and_modifiers_that_do_not_fit) {
  expect_refused("length", [](auto& c) { c.lengths[1] = 6; }, {"kv_lengths[1]", "[0, 5]", "got 6"});
  expect_refused("length", [](auto& c) { c.lengths[0] = -1; }, {"kv_lengths[0]", "got -1"});
  expect_refused("lengths",
                 [](auto& c) {
                   c.options.kv_lengths = {c.lengths.data(), {1}};
                 },
                 {"kv_lengths dim 0 (batch)", "expected 2", "got 1"});
  expect_refused("starts",
                 [](auto& c) {
                   c.options.q_starts = {c.starts.data(), {1}};
                 },
                 {"q_starts dim 0 (batch)", "expected 2", "got 1"});
  expect_refused("start", [](auto& c) { c.starts[0] = std::numeric_limits<index_t>::max(); },
                 {"q_starts[0]"});
  expect_refused("scale",
                 [](auto& c) { c.options.softmax_scale = std::numeric_limits<float>::infinity(); },
                 {"softmax_scale", "finite"});
  expect_refused("gamma", [](auto& c) { c.gammas[1] = -1.0f; }, {"gamma[1]", "got -1"});
  expect_refused("heads", [](auto& c) { c.gammas.pop_back(); },
                 {"gamma dim 0 (num_heads)", "expected 4", "got 3"});
  expect_refused("position", [](auto& c) { c.positions[1] = 5; }, {"positions[1]", "got 5"});
}

TEST(attention_decode_workspace_bytes, refuses_what_does_not_fit) {
  const auto message = [](const zerotune::attention_shape& shape, index_t kv_heads,
                          index_t head_dim, index_t value_dim) {
    return test::message_of(
        [&] { zerotune::attention_decode_workspace_bytes(shape, kv_heads, head_dim, value_dim); });
  };
  EXPECT_EQ(message({1, 4, 1, 100}, 2, 8, 8), "");
  EXPECT_TRUE(test::mentions(message({1, 4, 1, 100}, 3, 8, 8), {"num_kv_heads", "got 3"}));
  EXPECT_TRUE(test::mentions(message({1, 4, 1, 100}, 0, 8, 8), {"num_kv_heads", "got 0"}));
  EXPECT_NE(message({1, 4, 1, 100}, 2, 0, 8), "");
  EXPECT_NE(message({1, 4, 1, 100}, 2, 8, 4097), "");
  EXPECT_TRUE(test::mentions(message({index_t{1} << 62, 4, 1 << 20, index_t{1} << 40}, 2, 128, 128),
                             {"64 bits"}));
}

// What was enough for a longer cache is enough for a shorter one.
TEST(attention_decode_workspace_bytes, grows_with_the_length) {
  index_t former = 0;
  for (const index_t length : {0, 1, 1024, 1025, 5000, 32768, 32769, 100000}) {
    const index_t size = zerotune::attention_decode_workspace_bytes({2, 8, 1, length}, 2, 64, 64);
    EXPECT_GE(size, former);
    former = size;
  }
}

// Empty calls are no-ops.
TEST(attention_decode_of_nothing, writes_nothing) {
  decode_call call;
  call.options.lse = {};
  const auto before = call.memory;
  call.q = {call.q.data(), {2, 4, 0, 8}};
  call.out = {call.out.data(), {2, 4, 0, 6}};
  EXPECT_EQ(test::message_of([&] { call(); }), "");
  EXPECT_TRUE(test::same_bits(before, call.memory));
}

}  // namespace
