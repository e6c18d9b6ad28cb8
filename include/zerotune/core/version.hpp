// SPDX-License-Identifier: Apache-2.0
// The version of the library (layer: core). CMakeLists.txt reads these three lines.
#pragma once

#define ZEROTUNE_VERSION_MAJOR 0
#define ZEROTUNE_VERSION_MINOR 1
#define ZEROTUNE_VERSION_PATCH 0

namespace zerotune {

struct version_number {
  int major, minor, patch;
};

inline constexpr version_number version{ZEROTUNE_VERSION_MAJOR, ZEROTUNE_VERSION_MINOR,
                                        ZEROTUNE_VERSION_PATCH};

}  // namespace zerotune
