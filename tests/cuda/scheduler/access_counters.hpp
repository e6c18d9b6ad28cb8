// SPDX-License-Identifier: Apache-2.0
// Counts what a block's vector accesses cost, a figure per access pattern (line of the kernel):
// transactions of shared memory against the fewest possible (bank conflicts), and 32-byte sectors
// of global memory against the bytes that were asked for (coalescing).
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "scheduler/scheduler.hpp"

namespace zerotune_test {

struct pattern {
  long accesses = 0;      // of a warp
  long transactions = 0;  // shared: cycles; global: sectors
  long fewest = 0;
  double ratio() const { return fewest ? double(transactions) / double(fewest) : 0; }
};
using pattern_key = std::pair<int, access::kind>;  // line, what

/// Cycles that a warp's accesses of shared memory take: 32 banks of 4 bytes, 128 bytes a cycle,
/// lanes in groups that together ask for 128 bytes; equal addresses count once.
inline long shared_cycles(const std::vector<access>& lanes) {
  const std::size_t group = 128 / std::max<std::size_t>(lanes[0].bytes, 4);
  long cycles = 0;
  for (std::size_t first = 0; first < lanes.size(); first += group) {
    std::map<std::uintptr_t, std::set<std::uintptr_t>> words_of_bank;
    for (std::size_t i = first; i < std::min(first + group, lanes.size()); ++i)
      for (std::uintptr_t b = 0; b < lanes[i].bytes; b += 4) {
        const std::uintptr_t word = (reinterpret_cast<std::uintptr_t>(lanes[i].address) + b) / 4;
        words_of_bank[word % 32].insert(word);
      }
    std::size_t worst = 0;
    for (const auto& bank : words_of_bank) worst = std::max(worst, bank.second.size());
    cycles += static_cast<long>(worst);
  }
  return cycles;
}

inline std::map<pattern_key, pattern> count_patterns(
    const std::vector<std::vector<access>>& threads) {
  // The n-th time that a lane comes to a line belongs to the n-th time that its warp does.
  std::map<std::pair<std::size_t, std::pair<pattern_key, long>>, std::vector<access>> warps;
  for (std::size_t t = 0; t < threads.size(); ++t) {
    std::map<pattern_key, long> occurrences;
    for (const access& a : threads[t]) {
      const pattern_key key{a.line, a.what};
      warps[{t / 32, {key, occurrences[key]++}}].push_back(a);
    }
  }
  std::map<pattern_key, pattern> patterns;
  for (const auto& entry : warps) {
    const pattern_key& key = entry.first.second.first;
    const std::vector<access>& lanes = entry.second;
    pattern& p = patterns[key];
    ++p.accesses;
    const long bytes = static_cast<long>(lanes.size()) * lanes[0].bytes;
    if (key.second == access::global_load || key.second == access::global_store) {
      std::set<std::uintptr_t> sectors;
      for (const access& a : lanes) {
        const auto address = reinterpret_cast<std::uintptr_t>(a.address);
        for (std::uintptr_t s = address / 32; s <= (address + a.bytes - 1) / 32; ++s)
          sectors.insert(s);
      }
      p.transactions += static_cast<long>(sectors.size());
      p.fewest += (bytes + 31) / 32;
    } else {
      p.transactions += shared_cycles(lanes);
      p.fewest += (bytes + 127) / 128;
    }
  }
  return patterns;
}

}  // namespace zerotune_test
