// SPDX-License-Identifier: Apache-2.0
// The cache sizes that this machine reports (layer: core).
#pragma once

#include <cstdio>

#include "zerotune/core/types.hpp"

namespace zerotune {

/// Bytes of a core's data caches, and of the third-level cache that it shares with others; the
/// values are those of small current cores.
struct cache_sizes {
  index_t level1 = index_t{32} << 10;
  index_t level2 = index_t{512} << 10;
  index_t level3 = index_t{8} << 20;
};

inline namespace ZEROTUNE_ABI {
namespace impl {

/// The first word of a small file; empty if there is none.
inline void read_word(const char* path, char (&word)[32]) {
  word[0] = '\0';
  if (std::FILE* const file = std::fopen(path, "re")) {
    if (std::fscanf(file, "%31s", word) != 1) word[0] = '\0';
    std::fclose(file);
  }
}

inline cache_sizes read_cache_sizes() {
  cache_sizes sizes;
  for (char index = '0'; index < '4'; ++index) {
    const auto read = [&](const char* name, char(&word)[32]) {
      char path[64];
      std::snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%c/%s", index,
                    name);
      read_word(path, word);
    };
    char level[32], type[32], size[32], unit = '\0';
    read("level", level), read("type", type), read("size", size);
    long long number = 0;
    if (type[0] == 'I' || std::sscanf(size, "%lld%c", &number, &unit) != 2) continue;
    const index_t bytes = unit == 'K' ? number << 10 : unit == 'M' ? number << 20 : 0;
    // Virtual machines may report nonsense.
    if (level[0] == '1' && bytes >= index_t{8} << 10 && bytes <= index_t{1} << 20)
      sizes.level1 = bytes;
    if (level[0] == '2' && bytes >= index_t{128} << 10 && bytes <= index_t{64} << 20)
      sizes.level2 = bytes;
    if (level[0] == '3' && bytes >= index_t{1} << 20 && bytes <= index_t{1} << 30)
      sizes.level3 = bytes;
  }
  return sizes;
}

}  // namespace impl

/// Read from the system once (Linux; elsewhere the sizes of cache_sizes stand).
inline const cache_sizes& machine_caches() {
  static const cache_sizes sizes = impl::read_cache_sizes();
  return sizes;
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
