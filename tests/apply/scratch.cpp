// SPDX-License-Identifier: Apache-2.0
// Scratch memory of attention: the caller's or the call's own, for any number of threads.
#include "zerotune/apply/scratch.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "support/backends.hpp"
#include "support/count_allocations.hpp"
#include "support/errors.hpp"
#include "support/scene.hpp"
#include "zerotune/apply/attention.hpp"
#include "zerotune/apply/decode.hpp"
#include "zerotune/apply/ragged.hpp"
#include "zerotune/core/thread_pool.hpp"

namespace {

using test::index_t;
using test::scene;

template <class Kernel>
class scratch_of : public ::testing::Test {
 public:
  using type = typename Kernel::type;
  using acc = zerotune::accumulator_t<type>;
  using backend = typename Kernel::backend;

  scratch_of() : s(shape()), in(s, 3), out({2, 4, 150, 24}) {}
  static scene shape() {
    scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = 150, .kv_len = 170};
    s.head_dim = s.value_dim = 24;
    s.gammas = {2.0f, 0.0f, 1.0f, 0.5f};
    return s.complete();
  }
  index_t bytes(index_t threads) {
    return zerotune::attention_workspace_bytes(backend{}, in.q.const_view(), in.k.const_view(),
                                               in.v.const_view(), out.view(), plan, threads);
  }
  template <class Executor = zerotune::serial_executor>
  void run(std::vector<std::byte>& workspace, Executor&& executor = {}) {
    zerotune::attention_options<acc> options;
    options.plan = plan;
    if (!workspace.empty()) options.workspace = zerotune::view_of(workspace);
    zerotune::attention(backend{}, in.q.const_view(), in.k.const_view(), in.v.const_view(),
                        out.view(), s.usual(), options, executor);
  }

  scene s;
  test::inputs<type> in;
  test::tensor<type> out;
  zerotune::attention_plan plan = zerotune::plan_attention();
};
TYPED_TEST_SUITE(scratch_of, test::attention_fault_kernels, test::kernel_names);

TYPED_TEST(scratch_of, a_call_with_a_workspace_allocates_nothing_and_changes_no_bit) {
  std::vector<std::byte> none, workspace(static_cast<std::size_t>(this->bytes(1)));
  this->run(none);
  const auto expected = this->out.elements();
  this->out.fill(9);
  const long before = test::allocations;
  this->run(workspace);
  EXPECT_EQ(test::allocations, before);
  EXPECT_TRUE(test::same_bits(this->out.elements(), expected));
}

// Bytes for so many threads are as many slots, whatever the executor cuts the call into.
TYPED_TEST(scratch_of, a_workspace_for_few_panels_is_enough_for_every_executor) {
  using type = typename TypeParam::type;
  using backend = typename TypeParam::backend;
  for (const index_t q_len : {1, 9, 13, 40, 48, 60, 96}) {
    scene s{.batch = 2, .num_heads = 4, .num_kv_heads = 2, .q_len = q_len, .kv_len = 120};
    s.head_dim = s.value_dim = 24;
    s.complete();
    test::inputs<type> in(s, 5);
    test::tensor<type> serial({2, 4, q_len, 24}), pooled({2, 4, q_len, 24});
    const auto q = in.q.const_view();
    const auto k = in.k.const_view(), v = in.v.const_view();
    zerotune::thread_pool pool(2);
    zerotune::attention(backend{}, q, k, v, serial.view(), s.usual());
    for (const index_t threads : {1, 2}) {
      std::vector<std::byte> memory(
          static_cast<std::size_t>(zerotune::attention_workspace_bytes(
              backend{}, q, k, v, pooled.view(), this->plan, threads)) +
          1);  // one more, so that there is memory where nothing is needed
      zerotune::attention_options<typename TestFixture::acc> options;
      options.plan = this->plan;
      options.workspace = zerotune::view_of(memory);
      pooled.fill(9);
      zerotune::attention(backend{}, q, k, v, pooled.view(), s.usual(), options, pool);
      EXPECT_TRUE(test::same_bits(pooled.elements(), serial.elements())) << q_len;
    }
  }
}

// More query heads to a key-value head than decode takes with many queries, though not with few.
TYPED_TEST(scratch_of, a_workspace_for_wide_groups_is_enough_for_fewer_queries) {
  using type = typename TypeParam::type;
  using backend = typename TypeParam::backend;
  constexpr index_t heads = 600, most = 9, kv_len = 5000, dim = 8;
  test::tensor<type> q({1, heads, most, dim}), k({1, 1, kv_len, dim}), v({1, 1, kv_len, dim}),
      out({1, heads, most, dim});
  q.randomise(1), k.randomise(2), v.randomise(3);
  std::vector<std::byte> memory(
      static_cast<std::size_t>(zerotune::attention_workspace_bytes(
          backend{}, q.const_view(), k.const_view(), v.const_view(), out.view(), this->plan, 1)) +
      1);
  zerotune::attention_options<typename TestFixture::acc> options;
  options.plan = this->plan;
  options.workspace = zerotune::view_of(memory);
  const auto first = [&](const auto& view) {
    using view_type = std::remove_cvref_t<decltype(view)>;
    return view_type(view.data(), {1, heads, 1, dim},
                     {view.stride(0), view.stride(1), view.stride(2), view.stride(3)});
  };
  EXPECT_EQ(test::message_of([&] {
              zerotune::attention(backend{}, first(q.const_view()), k.const_view(), v.const_view(),
                                  first(out.view()), zerotune::causal{}, options);
            }),
            "");
}

/// Three packed sequences, the last one by far the longest.
template <class Kernel>
struct packed_sequences {
  using type = typename Kernel::type;
  using options = zerotune::ragged_options<zerotune::accumulator_t<type>>;

  packed_sequences() { q.randomise(1), k.randomise(2), v.randomise(3); }

  index_t bytes(index_t max_q_len, const zerotune::attention_plan& plan, index_t threads) {
    return zerotune::attention_ragged_workspace_bytes(typename Kernel::backend{}, q.const_view(),
                                                      k.const_view(), v.const_view(), out.view(),
                                                      max_q_len, plan, threads);
  }
  template <class Executor = zerotune::serial_executor>
  void run(const options& how, Executor&& executor = {}) {
    zerotune::attention_ragged(typename Kernel::backend{}, q.const_view(), k.const_view(),
                               v.const_view(), out.view(),
                               {test::list_view(q_offsets), test::list_view(kv_offsets)},
                               zerotune::causal{}, how, executor);
  }

  test::tensor<type, 3> q{{126, 4, 24}}, k{{171, 2, 24}}, v{{171, 2, 24}}, out{{126, 4, 24}};
  std::vector<index_t> q_offsets{0, 1, 26, 126}, kv_offsets{0, 40, 71, 171};
};

TYPED_TEST(scratch_of, packed_sequences_allocate_once_before_they_write) {
  packed_sequences<TypeParam> p;
  const long before = test::allocations;
  p.run({});
  EXPECT_LE(test::allocations - before, 1);
}

TYPED_TEST(scratch_of, packed_sequences_with_a_workspace_allocate_nothing_and_change_no_bit) {
  packed_sequences<TypeParam> p;
  p.run({});
  const auto expected = p.out.elements();
  zerotune::thread_pool pool(3);
  for (const index_t threads : {1, 3}) {
    typename packed_sequences<TypeParam>::options how;
    how.plan = zerotune::plan_attention();
    std::vector<std::byte> workspace(static_cast<std::size_t>(p.bytes(100, how.plan, threads)));
    if (!workspace.empty()) how.workspace = zerotune::view_of(workspace);
    p.out.fill(9);
    const long before = test::allocations;
    threads == 1 ? p.run(how) : p.run(how, pool);
    EXPECT_EQ(test::allocations - before, 0) << threads << " threads";
    EXPECT_TRUE(test::same_bits(p.out.elements(), expected)) << threads << " threads";
  }
}

TYPED_TEST(scratch_of, packed_sequences_refuse_a_workspace_before_they_write) {
  packed_sequences<TypeParam> p;
  const index_t needed = p.bytes(100, {}, 1);
  typename packed_sequences<TypeParam>::options how;
  const auto message = [&] { return test::message_of([&] { p.run(how); }); };
  const auto untouched = p.out.elements();
  if (needed > 0) {  // enough for the first two sequences
    ASSERT_LT(p.bytes(25, {}, 1), needed);
    std::vector<std::byte> small(static_cast<std::size_t>(needed - 1));
    how.workspace = zerotune::view_of(small);
    EXPECT_TRUE(test::mentions(message(), {"attention_ragged", "workspace"})) << message();
  }
  // Over the last sequence's rows.
  how.workspace = zerotune::tensor_view<std::byte, 1>(
      reinterpret_cast<std::byte*>(p.out.view().pointer(125, 0, 0)), {4});
  EXPECT_TRUE(test::mentions(message(), {"workspace", "out"})) << message();
  EXPECT_TRUE(test::same_bits(p.out.elements(), untouched));
  EXPECT_TRUE(test::mentions(test::message_of([&] { p.bytes(-1, {}, 1); }), {"max_q_len"}));
}

TYPED_TEST(scratch_of, a_workspace_over_another_tensor_is_refused) {
  using type = typename TypeParam::type;
  const auto q = this->in.q.const_view();
  const auto k = this->in.k.const_view(), v = this->in.v.const_view();
  const auto over = [](const auto& view) {
    using bytes = std::byte;
    return zerotune::tensor_view<bytes, 1>(
        const_cast<bytes*>(reinterpret_cast<const bytes*>(view.data())),
        {static_cast<index_t>(sizeof(type))});
  };
  const auto refused = [&](const char* name, const auto& memory) {
    zerotune::attention_options<typename TestFixture::acc> options;
    options.workspace = memory;
    const std::string message = test::message_of([&] {
      zerotune::attention(typename TypeParam::backend{}, q, k, v, this->out.view(), this->s.usual(),
                          options);
    });
    EXPECT_TRUE(test::mentions(message, {"workspace", name})) << name << ": " << message;
  };
  refused("q", over(q));
  refused("k", over(k));
  refused("v", over(v));
  refused("out", over(this->out.view()));
}

// Its sizes are multiplied: none may pass 64 bits, and more than any cache has asks for no more
// memory than the rows need.
TYPED_TEST(scratch_of, a_plan_for_endless_caches_overflows_nothing) {
  const index_t usual = this->bytes(1);
  this->plan.score_bytes = this->plan.task_bytes = (index_t{1} << 62) + 1;
  EXPECT_GE(this->bytes(1), usual);
  EXPECT_GE(this->bytes(64), this->bytes(1));
}

// Names of arguments that are longer than a string holds without an allocation.
TYPED_TEST(scratch_of, pages_and_lengths_allocate_nothing) {
  using type = typename TypeParam::type;
  using acc = typename TestFixture::acc;
  using backend = typename TypeParam::backend;
  constexpr index_t page_size = 16, pages = 11;
  test::tensor<type> k_pages({2 * pages, 2, page_size, 24}), v_pages({2 * pages, 2, page_size, 24});
  std::vector<std::int32_t> table;
  for (std::int32_t i = 0; i < 2 * pages; ++i) table.push_back(2 * pages - 1 - i);
  const zerotune::tensor_view<const std::int32_t, 2> blocks(table.data(), {2, pages});
  const zerotune::paged_cache<const type> k{k_pages.const_view(), blocks},
      v{v_pages.const_view(), blocks};
  const std::vector<index_t> lengths{170, 33}, starts{150, 30};
  test::tensor<type> q({2, 4, 3, 24}), output({2, 4, 3, 24});
  test::tensor<acc, 3> lse({2, 4, 3}), mass({2, 4, 3});
  std::vector<std::byte> workspace(static_cast<std::size_t>(
      zerotune::attention_decode_workspace_bytes<acc>({2, 4, 3, page_size * pages}, 2, 24, 24)));
  const auto fill = [&](auto options) {
    options.kv_lengths = test::list_view(lengths);
    options.q_starts = test::list_view(starts);
    options.lse = lse.view();
    options.sink_mass = mass.view();
    return options;
  };
  auto decode = fill(zerotune::decode_options<acc>{});
  decode.workspace = zerotune::view_of(workspace);
  auto whole = fill(zerotune::attention_options<acc>{});
  std::vector<std::byte> scratch(static_cast<std::size_t>(this->bytes(1)));
  whole.plan = this->plan;
  whole.workspace = zerotune::view_of(scratch);
  const auto call = [&] {
    zerotune::attention_decode(backend{}, q.const_view(), k, v, output.view(), this->s.usual(),
                               decode);
    zerotune::attention(backend{}, q.const_view(), this->in.k.const_view(), this->in.v.const_view(),
                        output.view(), this->s.usual(), whole);
  };
  call();
  const long before = test::allocations;
  call();
  EXPECT_EQ(test::allocations, before);
}

// Prefill, then steps of generation, each with a longer cache: what an engine does for every layer.
TYPED_TEST(scratch_of, a_running_engine_allocates_nothing) {
  using acc = typename TestFixture::acc;
  std::vector<std::byte> workspace(static_cast<std::size_t>(this->bytes(1)));
  std::vector<std::byte> decode_workspace(static_cast<std::size_t>(
      zerotune::attention_decode_workspace_bytes<acc>({2, 4, 1, 170}, 2, 24, 24)));
  const auto q = this->in.q.const_view();
  const auto out = this->out.view();
  const auto step = [&](index_t first, index_t count, bool by_decode) {
    // The keys that there are by then; the strides stay those of the cache.
    const auto rows = [&](const auto& view, index_t from, index_t length) {
      auto part = view;
      using view_type = std::remove_const_t<decltype(part)>;
      return view_type(view.pointer(0, 0, from, 0),
                       {view.extent(0), view.extent(1), length, view.extent(3)},
                       {view.stride(0), view.stride(1), view.stride(2), view.stride(3)});
    };
    const auto k = rows(this->in.k.const_view(), 0, 20 + first + count);
    const auto v = rows(this->in.v.const_view(), 0, 20 + first + count);
    if (by_decode) {
      zerotune::decode_options<acc> options;
      options.workspace = zerotune::view_of(decode_workspace);
      zerotune::attention_decode(typename TestFixture::backend{}, rows(q, first, count), k, v,
                                 rows(out, first, count), this->s.usual(), options);
    } else {
      zerotune::attention_options<acc> options;
      options.plan = this->plan;
      options.workspace = zerotune::view_of(workspace);
      zerotune::attention(typename TestFixture::backend{}, rows(q, first, count), k, v,
                          rows(out, first, count), this->s.usual(), options);
    }
  };
  step(0, 140, false);
  step(140, 1, true);
  const long before = test::allocations;
  step(0, 140, false);
  for (index_t i = 140; i < 145; ++i) step(i, 1, false);
  step(145, 3, false);
  for (index_t i = 148; i < 150; ++i) step(i, 1, true);
  EXPECT_EQ(test::allocations, before);
}

TYPED_TEST(scratch_of, more_threads_than_the_workspace_serves_take_turns) {
  std::vector<std::byte> none, workspace;
  this->run(none);
  const auto expected = this->out.elements();
  zerotune::thread_pool threads(5);
  for (const index_t served : {1, 2, 5, 100}) {
    workspace.assign(static_cast<std::size_t>(this->bytes(served)), std::byte{0xff});
    this->out.fill(9);
    this->run(workspace, threads);
    EXPECT_TRUE(test::same_bits(this->out.elements(), expected)) << served;
  }
  this->out.fill(9);
  this->run(none, threads);
  EXPECT_TRUE(test::same_bits(this->out.elements(), expected));
}

TYPED_TEST(scratch_of, a_workspace_that_is_too_small_is_an_error) {
  const index_t needed = this->bytes(1);
  if (needed == 0) GTEST_SKIP() << "this back end needs none";
  std::vector<std::byte> workspace(static_cast<std::size_t>(needed - 1));
  const auto before = this->out.elements();
  const std::string message = test::message_of([&] { this->run(workspace); });
  EXPECT_TRUE(test::mentions(message, {"attention", "workspace", "at least", std::to_string(needed),
                                       std::to_string(needed - 1)}))
      << message;
  EXPECT_TRUE(test::same_bits(this->out.elements(), before));
}

TYPED_TEST(scratch_of, a_shorter_call_fits_the_workspace_of_a_longer_one) {
  const index_t needed = this->bytes(1);
  for (const index_t q_len : {149, 96, 49, 48, 17, 2, 1}) {
    scene shorter = this->shape();
    shorter.q_len = q_len;
    shorter.complete();
    test::inputs<typename TypeParam::type> inputs_of_it(shorter, 3);
    test::tensor<typename TypeParam::type> output({2, 4, q_len, 24});
    EXPECT_LE(
        zerotune::attention_workspace_bytes(
            typename TypeParam::backend{}, inputs_of_it.q.const_view(), inputs_of_it.k.const_view(),
            inputs_of_it.v.const_view(), output.view(), this->plan),
        needed)
        << q_len;
  }
}

TYPED_TEST(scratch_of, a_longer_cache_fits_the_workspace_of_a_short_one) {
  using type = typename TypeParam::type;
  const index_t needed = this->bytes(1);
  for (const index_t kv_len : {1, 1024, 40000}) {
    scene longer = this->shape();
    longer.q_len = 2, longer.kv_len = kv_len;
    test::inputs<type> inputs_of_it(longer, 3);
    test::tensor<type> output({2, 4, 2, 24});
    EXPECT_LE(
        zerotune::attention_workspace_bytes(
            typename TypeParam::backend{}, inputs_of_it.q.const_view(), inputs_of_it.k.const_view(),
            inputs_of_it.v.const_view(), output.view(), this->plan),
        needed)
        << kv_len;
    std::vector<std::byte> workspace(static_cast<std::size_t>(needed));
    zerotune::attention_options<typename TestFixture::acc> options;
    options.plan = this->plan;
    if (needed > 0) options.workspace = zerotune::view_of(workspace);
    zerotune::attention(typename TypeParam::backend{}, inputs_of_it.q.const_view(),
                        inputs_of_it.k.const_view(), inputs_of_it.v.const_view(), output.view(),
                        longer.usual(), options);
  }
}

// An engine asks before it has a sequence, and a call without heads is one that does nothing.
TYPED_TEST(scratch_of, a_shape_of_nothing_has_a_workspace_too) {
  using type = typename TypeParam::type;
  using acc = typename TestFixture::acc;
  using backend = typename TypeParam::backend;
  const auto bytes = [](index_t batch, index_t heads) {
    test::tensor<type> q({batch, heads, 64, 24}), k({batch, 2, 64, 24});
    test::tensor<type> out({batch, heads, 64, 24});
    return zerotune::attention_workspace_bytes(backend{}, q.const_view(), k.const_view(),
                                               k.const_view(), out.view());
  };
  EXPECT_EQ(bytes(0, 4), bytes(1, 4));
  EXPECT_EQ(bytes(0, 4), bytes(3, 4));
  EXPECT_GE(bytes(1, 0), 0);
  test::tensor<type, 3> q({64, 0, 24}), k({64, 2, 24}), out({64, 0, 24});
  const std::vector<index_t> ends{0, 40, 64};
  zerotune::attention_ragged(backend{}, q.const_view(), k.const_view(), k.const_view(), out.view(),
                             {test::list_view(ends), test::list_view(ends)}, zerotune::causal{},
                             zerotune::ragged_options<acc>{});
}

TEST(check_memory, refuses_a_span_beyond_64_bits) {
  float x = 0;
  constexpr index_t far = (index_t{1} << 62) + 1;
  const zerotune::tensor_view<float, 2> view(&x, {2, 2}, {far, -far});
  EXPECT_TRUE(test::mentions(
      test::message_of([&] { zerotune::impl::check_memory("f", "x", view); }), {"fits 64 bits"}));
}

TEST(tensor_view, without_memory_has_no_address) {
  const zerotune::tensor_view<float, 2> view(nullptr, {2, 0}, {7, 1});
  EXPECT_EQ(view.pointer(1, 0), nullptr);
}

TEST(caches, are_plausible) {
  const zerotune::cache_sizes& sizes = zerotune::machine_caches();
  EXPECT_GE(sizes.level1, 8 << 10);
  EXPECT_GE(sizes.level2, sizes.level1);
  EXPECT_EQ(&sizes, &zerotune::machine_caches());
}

}  // namespace
