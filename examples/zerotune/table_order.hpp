// SPDX-License-Identifier: Apache-2.0
// The order in which gamma tables share the most leading layers.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "zerotune/tuning/gamma_table.hpp"

namespace zerotune_cli {

/// Tables in an order in which those with the same first layers stand side by side, smaller groups
/// first, so that whoever runs them keeps few layers' inputs (llama::forward_each).
struct table_order {
  std::vector<std::size_t> tables;  ///< indices of the tables
  std::vector<int> shared;  ///< layers that each shares with the one before; 0 for the first
  /// Share of all tables' layers that are computed, in (0, 1].
  double work = 1;
};

/// @pre all tables have one shape
table_order order_tables(std::span<const zerotune::gamma_table> tables);

}  // namespace zerotune_cli
