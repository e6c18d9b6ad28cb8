// SPDX-License-Identifier: Apache-2.0
// What the CUDA functions refuse, before anything is launched.
#include "attention_case.hpp"

namespace zerotune_test {
namespace {

using T = zt::float16;
constexpr long heads = 4, kv_heads = 2, q_len = 3, kv_len = 600, dim = 64;

struct call {
  machine m;
  std::vector<std::string> launched;
  device_array<T> q{heads * q_len * dim}, k{kv_heads * kv_len * dim}, v{kv_heads * kv_len * dim},
      out{heads * q_len * dim};
  device_array<float> lse{heads * q_len};
  storage workspace{zt::attention_workspace_bytes({1, heads, q_len, kv_len}, kv_heads, dim)};
  zt::device_attention_options options;

  call() {
#if !defined(__CUDACC__)
    m.launched = &launched;
#endif
    options.workspace = workspace.flat();
    options.lse = lse.view({1, heads, q_len});
  }
  void run(const zt::tensor_view<T, 4, zt::device_memory>& q_view,
           const zt::tensor_view<T, 4, zt::device_memory>& k_view) {
    zt::attention(m, q_view, k_view, v.view({1, kv_heads, kv_len, dim}),
                  out.view({1, heads, q_len, dim}), zt::causal{}, options, zt::head_dims<64>{});
  }
  void run() { run(q.view({1, heads, q_len, dim}), k.view({1, kv_heads, kv_len, dim})); }
  zt::device_sequences sequences(std::vector<zt::device_sequence> list) {
    table_ = std::make_unique<storage>(zt::device_sequences_bytes(long(list.size())));
    return zt::to_device(
        m, zt::tensor_view<const zt::device_sequence, 1>(list.data(), {long(list.size())}),
        table_->flat());
  }

 private:
  std::unique_ptr<storage> table_;
};

template <class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const zt::invalid_argument& e) {
    return e.what();
  }
  return "no error";
}
#define EXPECT_MESSAGE(statement, part)                          \
  do {                                                           \
    const std::string message = message_of([&] { statement; });  \
    EXPECT_NE(message.find(part), std::string::npos) << message; \
  } while (false)

TEST(checks, a_right_call_launches) {
  call c;
  c.run();
#if !defined(__CUDACC__)
  EXPECT_EQ(c.launched, (std::vector<std::string>{"flash_attention", "merge_splits"}));
#endif
}

TEST(checks, shapes) {
  call c;
  EXPECT_MESSAGE(c.run(c.q.view({1, 3, 4, dim}), c.k.view({1, kv_heads, kv_len, dim})),
                 "attention: q dim 1 (num_heads): expected a multiple of num_kv_heads = 2, got 3");
  EXPECT_MESSAGE(c.run(c.q.view({1, heads, q_len, dim}), c.k.view({1, kv_heads, kv_len, 32})),
                 "attention: k dim 3 (head_dim): expected 64, got 32");
  EXPECT_MESSAGE(c.run(c.q.view({1, heads, q_len, dim}), c.k.view({1, kv_heads, 599, dim})),
                 "attention: v dim 2 (kv_len): expected 599, got 600");
  c.options.lse = c.lse.view({1, q_len, heads});
  EXPECT_MESSAGE(c.run(), "attention: lse dim 1 (num_heads): expected 4, got 3");
  EXPECT_TRUE(c.launched.empty());
}

TEST(checks, workspace) {
  call c;
  EXPECT_EQ(c.workspace.size(), std::size_t(2 * heads * q_len * (dim + 1) * 4));
  c.options.workspace = {};
  EXPECT_MESSAGE(c.run(), "attention: workspace dim 0 (bytes): expected at least 6240");
  c.options.keys_per_split = 640;
  c.run();  // one split needs none
  c.options.keys_per_split = -1;
  EXPECT_MESSAGE(c.run(), "keys_per_split");
}

TEST(checks, workspace_over_another_tensor) {
  call c;
  const auto bytes_of = [](auto* data) {
    return zt::tensor_view<std::byte, 1, zt::device_memory>(reinterpret_cast<std::byte*>(data),
                                                            {2 * heads * q_len * (dim + 1) * 4});
  };
  c.options.workspace = bytes_of(c.k.view({1, kv_heads, kv_len, dim}).data());
  EXPECT_MESSAGE(c.run(), "attention: workspace: expected memory apart from k");
  c.options.workspace = bytes_of(c.out.view({1, heads, q_len, dim}).data());
  EXPECT_MESSAGE(c.run(), "attention: workspace: expected memory apart from out");
  EXPECT_TRUE(c.launched.empty());
}

TEST(checks, workspace_bytes_of_no_shape) {
  EXPECT_MESSAGE(zt::attention_workspace_bytes({1, heads, q_len, kv_len}, 0, dim),
                 "attention_workspace_bytes: num_kv_heads: expected at least 1, got 0");
  EXPECT_MESSAGE(zt::attention_workspace_bytes({1, heads, q_len, kv_len}, kv_heads, dim, -1),
                 "attention_workspace_bytes: keys_per_split: expected at least 0, got -1");
}

TEST(checks, overlap_and_options) {
  call c;
  const auto q = c.q.view({1, heads, q_len, dim});
  EXPECT_MESSAGE(zt::attention(c.m, q, c.k.view({1, kv_heads, kv_len, dim}),
                               c.v.view({1, kv_heads, kv_len, dim}), q, zt::causal{}, c.options,
                               zt::head_dims<64>{}),
                 "attention: out: expected memory apart from q, got overlapping memory");
  c.options.softmax_scale = std::numeric_limits<float>::infinity();
  EXPECT_MESSAGE(c.run(), "attention: softmax_scale: expected a finite value");
}

TEST(checks, numbers_of_heads_and_rows_over_what_is_read) {
  call c;
  const auto keys = c.k.view({1, kv_heads, kv_len, dim});
  zt::device_softmax_options softmax;
  softmax.lse = {reinterpret_cast<float*>(keys.data()), {1, kv_heads, kv_len}};
  EXPECT_MESSAGE(zt::softmax(c.m, keys, keys, zt::causal{}, softmax),
                 "softmax: lse: expected memory apart from weights");
  const storage table(zt::device_table_bytes({1, heads, q_len, kv_len}));
  const auto sink =
      zt::to_device(c.m, zt::initial_token{2.0f}, {1, heads, q_len, kv_len}, table.flat());
  const auto q = c.q.view({1, heads, q_len, dim}), out = c.out.view({1, heads, q_len, dim});
  const zt::tensor_view<double, 2, zt::device_memory> numbers(reinterpret_cast<double*>(q.data()),
                                                              {1, heads});
  EXPECT_MESSAGE(
      zt::gamma_gradient(c.m, out, zt::tensor_view<const T, 4, zt::device_memory>(out),
                         c.lse.view({1, heads, q_len}), q, keys,
                         c.v.view({1, kv_heads, kv_len, dim}), sink, zt::causal{}, numbers),
      "gamma_gradient: gradient: expected memory apart from q");
  EXPECT_MESSAGE(zt::sink_mass(c.m, q, numbers, sink, zt::causal{}),
                 "sink_mass: mass: expected memory apart from weights");
  EXPECT_TRUE(c.launched.empty());
}

// The entries are checked where the table is built: a kernel would read outside of the caches.
TEST(checks, page_tables) {
  const machine m;
  const storage memory(zt::device_pages_bytes(2, 3));
  std::vector<std::int32_t> pages = {0, 7, 3, 6, 0, 0};
  const auto build = [&](zt::index_t num_pages) {
    return zt::to_device(m, zt::tensor_view<const std::int32_t, 2>(pages.data(), {2, 3}), num_pages,
                         memory.flat());
  };
  EXPECT_EQ(build(8).num_pages(), 8);
  EXPECT_MESSAGE(build(7), "to_device: pages[0, 1]: expected a page in [0, 7), got 7");
  pages[4] = -1;
  EXPECT_MESSAGE(build(8), "to_device: pages[1, 1]: expected a page in [0, 8), got -1");
  pages[4] = 5;
  // Columns of a wider table, from the last on: what is copied is what the view says.
  const zt::tensor_view<const std::int32_t, 2> reversed(pages.data() + 2, {2, 2}, {3, -1});
  const zt::device_pages table = zt::to_device(m, reversed, 8, memory.flat());
  std::vector<std::int32_t> copied(4);
  copy_device(copied.data(), table.table().data(), 16);
  EXPECT_EQ(copied, (std::vector<std::int32_t>{3, 7, 0, 5}));
  const storage small(20);
  EXPECT_MESSAGE(zt::to_device(m, zt::tensor_view<const std::int32_t, 2>(pages.data(), {2, 3}), 8,
                               small.flat()),
                 "to_device: storage dim 0 (bytes): expected at least 24, got 20");
  EXPECT_MESSAGE(zt::to_device(m, zt::tensor_view<const std::int32_t, 2>(pages.data(), {2, 0}), 8,
                               memory.flat()),
                 "to_device: pages dim 1 (pages per sequence): expected at least 1, got 0");
}

TEST(checks, pages) {
  call c;
  const std::vector<std::int32_t> pages(8, 0);
  const storage memory(zt::device_pages_bytes(1, 8));
  const auto build = [&](zt::index_t num_pages) {
    return zt::to_device(c.m, zt::tensor_view<const std::int32_t, 2>(pages.data(), {1, 8}),
                         num_pages, memory.flat());
  };
  c.options.pages = build(1);
  EXPECT_MESSAGE(c.run(), "attention: sequences: expected a table of lengths");
  c.options.sequences = c.sequences({{0, 3, 0, 0, 3}});
  EXPECT_MESSAGE(c.run(), "attention: k dim 2 (page_size): expected a power of two, got 600");
  c.options.pages = build(2);
  EXPECT_MESSAGE(c.run(),
                 "attention: k dim 0 (num_pages): expected at least 2, as the table was "
                 "checked for, got 1");
  c.options.pages = zt::device_pages::unchecked(build(1).table());
  EXPECT_EQ(c.options.pages.num_pages(), 0);
  EXPECT_MESSAGE(c.run(), "attention: k dim 2 (page_size): expected a power of two, got 600");
  EXPECT_TRUE(c.launched.empty());
}

TEST(checks, sequences) {
  call c;
  c.options.sequences = c.sequences({{0, 4, 0, 0, 600}});
  EXPECT_MESSAGE(c.run(), "attention: q dim 2 (q_len): expected at least 4 rows");
  c.options.sequences = c.sequences({{0, 3, 0, 0, 601}});
  EXPECT_MESSAGE(c.run(), "sequences kv_length");
  c.options.sequences = c.sequences({{0, 1, 0, 0, 300}, {1, 2, 0, 300, 300}});
  c.run();  // packed
  EXPECT_MESSAGE(c.sequences({{0, 3, 0, 0, 600}, {-1, 3, 0, 0, 6}}),
                 "to_device: sequences[1] q_offset: expected a value in [0, 2^40], got -1");
  EXPECT_MESSAGE(c.sequences({}), "to_device: sequences dim 0 (batch)");
}

TEST(checks, tables) {
  const machine m;
  const zt::attention_shape shape{2, 3, 5, 10};
  const storage memory(zt::device_table_bytes(shape));
  std::vector<float> gammas = {1.0f, -1.0f, 2.0f};
  std::vector<zt::index_t> positions = {0, 10};
  EXPECT_MESSAGE(zt::to_device(m, zt::initial_token{zt::view_of(gammas)}, shape, memory.flat()),
                 "to_device: initial_token gamma[1]: expected a finite value >= 0");
  gammas[1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_MESSAGE(
      zt::to_device(m, zt::token_span{{0, 2}, zt::view_of(gammas)}, shape, memory.flat()),
      "got NaN");
  gammas[1] = 1.0f;
  EXPECT_MESSAGE(zt::to_device(m, zt::initial_token{zt::view_of(gammas)}.at(zt::view_of(positions)),
                               shape, memory.flat()),
                 "to_device: initial token positions[1]: expected a position in [0, 10), got 10");
  positions[1] = 9;
  const auto sink = zt::to_device(
      m, zt::initial_token{zt::view_of(gammas)}.at(zt::view_of(positions)), shape, memory.flat());
  const storage small(4);
  EXPECT_MESSAGE(zt::to_device(m, zt::initial_token{2.0f}, shape, small.flat()),
                 "to_device: storage dim 0 (bytes): expected at least 32, got 4");
  // The table is of 3 heads, 2 sequences, and positions up to 9.
  const device_array<float> rows(2 * 4 * 5 * 10);
  EXPECT_MESSAGE(zt::rescale_weights(m, rows.view({2, 4, 5, 10}), sink),
                 "rescale_weights: device table (num_heads): expected 4, got 3");
  EXPECT_MESSAGE(zt::fill_mask(m, rows.view({1, 3, 5, 10}), zt::causal{} | sink),
                 "fill_mask: device table (batch): expected 1, got 2");
  EXPECT_MESSAGE(zt::bias_logits(m, rows.view({2, 3, 5, 9}), sink),
                 "bias_logits: initial token position: expected a position in [0, 9), got 9");
}

TEST(checks, too_many_keys_or_blocks) {
  const machine m;
  const device_array<float> one(1);
  const zt::index_t huge = zt::index_t{1} << 24;
  EXPECT_MESSAGE(
      zt::bias_logits(m, zt::tensor_view<float, 2, zt::device_memory>(one.data(), {1, huge + 1}),
                      zt::causal{}),
      "bias_logits: kv_len: expected at most 2^24 keys");
  EXPECT_MESSAGE(
      zt::bias_logits(
          m, zt::tensor_view<float, 2, zt::device_memory>(one.data(), {zt::index_t{1} << 40, 1}),
          zt::causal{}),
      "bias_logits: blocks of kernel bias_logits: expected at most 2^31 - 1");
}

TEST(checks, nothing_to_do_launches_nothing) {
  call c;
  const device_array<T> none(0);
  zt::attention(c.m, none.view({0, heads, q_len, dim}), none.view({0, kv_heads, kv_len, dim}),
                none.view({0, kv_heads, kv_len, dim}), none.view({0, heads, q_len, dim}),
                zt::causal{}, {}, zt::head_dims<64>{});
  zt::rescale_weights(c.m, none.view({1, heads, 0, 5}), zt::causal{});
  EXPECT_TRUE(c.launched.empty());
}

}  // namespace
}  // namespace zerotune_test
