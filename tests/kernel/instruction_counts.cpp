// SPDX-License-Identifier: Apache-2.0
// What a modifier costs, counted in instructions by callgrind: `causal | initial_token` differs
// from `causal | identity` by what happens in the tiles that hold the initial token, and by a few
// instructions for each other tile, which ask for its effect.
#include <gtest/gtest.h>

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "support/backends.hpp"
#include "support/sanitizers.hpp"
#include "zerotune/apply/attention.hpp"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/identity.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/policy/masks.hpp"

#if ZEROTUNE_TEST_SIMD

namespace zt = zerotune;
using zt::index_t;

namespace {

constexpr index_t heads = 2, q_len = 96, head_dim = 64, long_cache = 2048, short_cache = 512;

/// The last q_len queries of a cache; the plan is fixed, so that the tiles are those of any
/// machine.
struct chunk {
  index_t kv_len;
  std::vector<float> q, k, v, out;
  std::vector<std::byte> workspace;
  zt::attention_plan plan{16 << 10, 512 << 10};

  explicit chunk(index_t length)
      : kv_len(length),
        q(numbers(heads * q_len * head_dim)),
        k(numbers(heads * kv_len * head_dim)),
        v(numbers(heads * kv_len * head_dim)),
        out(q.size()) {
    workspace.resize(static_cast<std::size_t>(zt::attention_workspace_bytes(
        zt::backend::simd<>{}, view<const float>(q.data(), q_len),
        view<const float>(k.data(), kv_len), view<const float>(v.data(), kv_len),
        view<float>(out.data(), q_len), plan)));
  }
  static std::vector<float> numbers(index_t count) {
    std::vector<float> x(static_cast<std::size_t>(count));
    std::uint32_t state = 1;
    for (float& value : x) {
      state = state * 1664525u + 1013904223u;
      value = static_cast<float>(state >> 8) / 16777216.0f - 0.5f;
    }
    return x;
  }
  template <class T, class Data>
  static zt::tensor_view<T, 4> view(Data* data, index_t length) {
    return {data, {1, heads, length, head_dim}};
  }
  template <class Modifier>
  void attend(const Modifier& m) {
    zt::attention_options<float> options;
    options.plan = plan;
    options.workspace =
        zt::tensor_view<std::byte, 1>(workspace.data(), {static_cast<index_t>(workspace.size())});
    zt::attention(zt::backend::simd<>{}, view<const float>(q.data(), q_len),
                  view<const float>(k.data(), kv_len), view<const float>(v.data(), kv_len),
                  view<float>(out.data(), q_len), m, options);
  }
};

}  // namespace

// What callgrind counts: the calls that zerotune_counted_long and zerotune_counted_short make.
extern "C" {
[[gnu::noinline]] void zerotune_identity(void* c) {
  static_cast<chunk*>(c)->attend(zt::causal{} | zt::identity{});
}
[[gnu::noinline]] void zerotune_gamma(void* c) {
  const float gammas[heads] = {4.0f, 0.25f};
  static_cast<chunk*>(c)->attend(
      zt::causal{} | zt::initial_token{zt::tensor_view<const float, 1>(gammas, {heads})});
}
[[gnu::noinline]] void zerotune_gamma_one(void* c) {
  const float gammas[heads] = {1.0f, 1.0f};
  static_cast<chunk*>(c)->attend(
      zt::causal{} | zt::initial_token{zt::tensor_view<const float, 1>(gammas, {heads})});
}
[[gnu::noinline]] void zerotune_counted_long(void* c) {
  zerotune_identity(c);
  zerotune_gamma(c);
  zerotune_gamma_one(c);
  asm volatile("");  // no call of the last one's in this one's place
}
[[gnu::noinline]] void zerotune_counted_short(void* c) {
  zerotune_identity(c);
  zerotune_gamma(c);
  zerotune_gamma_one(c);
  asm volatile("" : : "r"(c));
}
}

namespace {

constexpr const char* variable = "ZEROTUNE_INSTRUCTION_COUNTS";

void run_counted() {
  chunk long_one(long_cache), short_one(short_cache);
  long_one.attend(zt::causal{});  // what is done once in a process
  zerotune_counted_long(&long_one);
  zerotune_counted_short(&short_one);
}

/// Instructions of the calls that `caller` made of `callee`, with all that they called; -1 if the
/// file has none.
long long calls_of(const std::string& file, const std::string& caller, const std::string& callee) {
  std::ifstream in(file);
  bool in_caller = false;
  for (std::string line, cost; std::getline(in, line);) {
    if (line.rfind("fn=", 0) == 0) in_caller = line == "fn=" + caller;
    if (!in_caller || line != "cfn=" + callee) continue;
    std::getline(in, line);  // calls=
    std::getline(in, cost);  // position and inclusive cost
    return std::atoll(cost.c_str() + cost.find(' ') + 1);
  }
  return -1;
}

}  // namespace

TEST(simd_instruction_counts, of_tiles_without_the_initial_token_do_not_grow) {
  if (std::getenv(variable)) {  // this process is the one that is counted
    run_counted();
    return;
  }
#if defined(__AVX512F__)
  GTEST_SKIP() << "valgrind does not know AVX-512; the build for AVX2 counts";
#elif ZEROTUNE_TEST_ADDRESS_SANITIZER || ZEROTUNE_TEST_THREAD_SANITIZER
  GTEST_SKIP() << "valgrind and sanitizers exclude each other";
#endif
  if (std::system("valgrind --version > /dev/null 2>&1") != 0)
    GTEST_SKIP() << "valgrind is not installed";
  char self[4096] = {};
  if (readlink("/proc/self/exe", self, sizeof self - 1) < 0) GTEST_SKIP() << "no /proc";
  const std::string file = ::testing::TempDir() + "zerotune_counts." + std::to_string(getpid());
  const std::string command =
      std::string(variable) + "=1 valgrind --tool=callgrind --collect-atstart=no" +
      " --compress-strings=no '--toggle-collect=zerotune_counted_*' --callgrind-out-file='" + file +
      "' '" + self + "' --gtest_filter='simd_instruction_counts.of_tiles*' > '" + file +
      ".log' 2>&1";
  ASSERT_EQ(std::system(command.c_str()), 0) << "see " << file << ".log";
  struct counts {
    long long identity, gamma, one;
  };
  const auto counts_of = [&](const char* caller) {
    return counts{calls_of(file, caller, "zerotune_identity"),
                  calls_of(file, caller, "zerotune_gamma"),
                  calls_of(file, caller, "zerotune_gamma_one")};
  };
  const counts n = counts_of("zerotune_counted_long"), few = counts_of("zerotune_counted_short");
  for (const counts& c : {n, few}) {
    ASSERT_GT(c.identity, 0) << "nothing was counted: see " << file;
    ASSERT_GT(c.gamma, 0);
    ASSERT_GT(c.one, 0);
  }
  std::remove(file.c_str());
  std::remove((file + ".log").c_str());

  // Panels of a head times the blocks of keys that the longer cache has more, as attention cuts it.
  using batch = zt::impl::batch<float, void>;
  using shape = zt::impl::panel_shape<batch>;
  const index_t fitting = (16 << 10) / (shape::width * index_t{sizeof(float)});
  const index_t block = zt::impl::round_down(fitting, 32);
  const index_t panels = heads * ((q_len + shape::width - 1) / shape::width);
  const double tiles = static_cast<double>(panels * ((long_cache - short_cache) / block));
  const double per_tile = static_cast<double>(n.identity - few.identity) / tiles;
  const auto more = [&](long long in_long, long long in_short) {
    return static_cast<double>((in_long - n.identity) - (in_short - few.identity)) / tiles;
  };
  const double gamma = more(n.gamma, few.gamma), one = more(n.one, few.one);
  std::printf(
      "instructions: %lld with identity, %lld more with gamma, %lld more with gamma = 1;\n"
      "a tile without the initial token: %.0f, %.1f more with gamma, %.1f with gamma = 1\n",
      n.identity, n.gamma - n.identity, n.one - n.identity, per_tile, gamma, one);
  // Asking for a tile's effect takes some 20 instructions without optimisation across functions;
  // with it the compiler lays the two programs out differently, by as much in either direction.
  EXPECT_LT(gamma, per_tile * 1e-3);
  EXPECT_LT(one, per_tile * 1e-3);
  // The tiles that hold it: a bias for each row, and a vector for each of a panel's.
  EXPECT_LT(static_cast<double>(n.gamma - n.identity), 0.01 * static_cast<double>(n.identity));
  // gamma = 1 touches no tile: what is left asks for effects.
  EXPECT_LT(static_cast<double>(n.one - n.identity), 0.002 * static_cast<double>(n.identity));
}

#else

TEST(simd_instruction_counts, of_tiles_without_the_initial_token_do_not_grow) {
  GTEST_SKIP() << "no SIMD back end";
}

#endif
