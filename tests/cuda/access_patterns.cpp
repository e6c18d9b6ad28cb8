// SPDX-License-Identifier: Apache-2.0
// Bank conflicts and coalescing, counted on the host context: each access pattern has its bound.
#include "attention_case.hpp"
#include "scheduler/access_counters.hpp"

namespace zerotune_test {
namespace {

template <long Dim>
std::map<pattern_key, pattern> flash_patterns(bool decode) {
  problem p;
  p.heads = decode ? 8 : 1;
  p.q_len = decode ? 2 : 128;
  p.kv_len = 128;
  p.dim = p.value_dim = Dim;
  p.gamma.assign(size_t(p.heads), 2.0);
  const inputs<zt::float16> in(p);
  std::vector<std::vector<access>> trace;
  run_options options;
  const device_sink sink(machine{}, p);
  options.on.trace = &trace;
  run_attention(p, in.q, in.k, in.v, zt::causal{} | sink.sink, options, zt::head_dims<int(Dim)>{});
  return count_patterns(trace);
}

template <long Dim>
void check_flash(bool decode = false) {
  SCOPED_TRACE(Dim);
  int matrices = 0, copies = 0, stores = 0;
  for (const auto& [key, p] : flash_patterns<Dim>(decode)) {
    SCOPED_TRACE("line " + std::to_string(key.first));
    switch (key.second) {
      case access::matrix_load:  // ldmatrix: no bank conflict
        EXPECT_EQ(p.ratio(), 1.0);
        ++matrices;
        break;
      case access::shared_store:  // the writes of cp.async: two rows may meet in a phase
        EXPECT_LE(p.ratio(), 2.0);
        ++copies;
        break;
      case access::global_load:
      case access::global_store:  // whole sectors
        EXPECT_EQ(p.ratio(), 1.0);
        ++stores;
        break;
      case access::shared_load:  // the staged output
        EXPECT_LE(p.ratio(), 2.0);
        break;
    }
  }
  EXPECT_EQ(matrices, 3);  // q, k, v
  EXPECT_EQ(copies, 2);    // q, and k or v
  EXPECT_GE(stores, 3);
}

TEST(access_patterns, flash_64) { check_flash<64>(); }
TEST(access_patterns, flash_80) { check_flash<80>(); }
TEST(access_patterns, flash_96) { check_flash<96>(); }
TEST(access_patterns, flash_128) { check_flash<128>(); }
TEST(access_patterns, flash_256) { check_flash<256>(); }
TEST(access_patterns, flash_decode_128) { check_flash<128>(true); }

// Logits and weights go in packets of 16 bytes, whole sectors.
TEST(access_patterns, softmax) {
  machine m;
  std::vector<std::vector<access>> trace;
  m.trace = &trace;
  const device_array<zt::float16> logits(random_values<zt::float16>(4 * 2048, 1));
  zt::softmax(m, logits.view({1, 1, 4, 2048}), logits.view({1, 1, 4, 2048}), zt::identity{});
  int loads = 0, stores = 0;
  for (const auto& [key, p] : count_patterns(trace)) {
    SCOPED_TRACE("line " + std::to_string(key.first));
    EXPECT_EQ(p.ratio(), 1.0);
    EXPECT_GT(p.accesses, 0);
    loads += key.second == access::global_load;
    stores += key.second == access::global_store;
  }
  EXPECT_EQ(loads, 1);  // one line reads, for the maximum and again for the weights
  EXPECT_EQ(stores, 1);
}

TEST(access_patterns, the_counters_count) {
  static zt::float16 shared[32 * 64];
  std::vector<std::vector<access>> threads(32);
  for (std::size_t i = 0; i < 32; ++i) {
    // Rows 128 bytes apart: eight rows of ldmatrix in the same banks.
    threads[i].push_back({&shared[i * 64], 1, 16, access::matrix_load});
    threads[i].push_back({&shared[i * 64], 2, 4, access::global_load});
  }
  const auto patterns = count_patterns(threads);
  EXPECT_EQ(patterns.at({1, access::matrix_load}).ratio(), 8.0);
  EXPECT_EQ(patterns.at({2, access::global_load}).transactions, 32);
  EXPECT_EQ(patterns.at({2, access::global_load}).fewest, 4);
}

TEST(access_patterns, generic_reads_keys_without_conflicts) {
  problem p;
  p.q_len = p.kv_len = 64;
  p.gamma = {2.0};
  const inputs<float> in(p);
  std::vector<std::vector<access>> trace;
  run_options options;
  const device_sink sink(machine{}, p);
  options.on.trace = &trace;
  run_attention(p, in.q, in.k, in.v, zt::causal{} | sink.sink, options, zt::head_dims<>{});
  int reads = 0;
  for (const auto& [key, counted] : count_patterns(trace)) {
    SCOPED_TRACE("line " + std::to_string(key.first));
    reads += key.second == access::shared_load;
    // A query is the same for all lanes (16 bytes a cycle and no more); keys meet all banks once.
    EXPECT_LE(counted.ratio(), 1.0);
  }
  EXPECT_EQ(reads, 2);
}

}  // namespace
}  // namespace zerotune_test
