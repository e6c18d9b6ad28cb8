// SPDX-License-Identifier: Apache-2.0
// Disjoint splits of a data set for profiling, search and test (layer: tuning). Whatever is chosen
// on some rows must be judged on others.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "zerotune/core/error.hpp"
#include "zerotune/tuning/evaluator.hpp"
#include "zerotune/tuning/random.hpp"

namespace zerotune {

/// Rows of each split.
struct split_sizes {
  index_t profile = 64;
  index_t search = 128;
  index_t test = 200;
};

/// Indices of rows; no row is in two splits. Within a split the labels alternate, so that also its
/// first rows are balanced.
struct data_splits {
  std::vector<index_t> profile;
  std::vector<index_t> search;
  std::vector<index_t> test;
};

inline namespace ZEROTUNE_ABI {

/// A random order of the rows in which every stretch holds the labels in (nearly) the proportions
/// of the whole: within one row per label.
/// @param labels  [rows], no_label where a row has none (those form a class of their own)
inline std::vector<index_t> stratified_order(std::span<const index_t> labels, std::uint64_t seed) {
  std::map<index_t, std::vector<index_t>> classes;
  for (std::size_t i = 0; i < labels.size(); ++i)
    classes[labels[i]].push_back(static_cast<index_t>(i));
  struct place {
    double key;          // where the row stands, as a share of its class
    std::uint64_t draw;  // breaks ties between classes
    index_t row;
  };
  random_source random(seed);
  std::vector<place> places;
  places.reserve(labels.size());
  for (auto& [label, rows] : classes) {
    random.shuffle(rows);
    for (std::size_t i = 0; i < rows.size(); ++i)
      places.push_back({(static_cast<double>(i) + 0.5) / static_cast<double>(rows.size()),
                        random.next(), rows[i]});
  }
  std::sort(places.begin(), places.end(), [](const place& a, const place& b) {
    if (a.key != b.key) return a.key < b.key;
    return a.draw != b.draw ? a.draw < b.draw : a.row < b.row;
  });
  std::vector<index_t> order;
  order.reserve(places.size());
  for (const place& p : places) order.push_back(p.row);
  return order;
}

/// Splits rows by seed; the same seed gives the same splits everywhere.
/// @param labels  [rows], no_label where a row has none
/// @throws invalid_argument for a negative size, or if there are fewer rows than asked for
inline data_splits make_splits(std::span<const index_t> labels, const split_sizes& sizes,
                               std::uint64_t seed) {
  const struct {
    const char* name;
    index_t value;
  } parts[] = {{"profile", sizes.profile}, {"search", sizes.search}, {"test", sizes.test}};
  const index_t rows = static_cast<index_t>(labels.size());
  index_t left = rows;
  for (const auto& part : parts) {
    if (part.value < 0)
      impl::fail("make_splits", std::string(part.name) + " rows", "at least 0",
                 std::to_string(part.value));
    if (part.value > left)
      impl::fail("make_splits", "rows of data",
                 "at least profile + search + test = " + std::to_string(sizes.profile) + " + " +
                     std::to_string(sizes.search) + " + " + std::to_string(sizes.test),
                 std::to_string(rows));
    left -= part.value;
  }
  const std::vector<index_t> order = stratified_order(labels, seed);
  const auto begin = order.begin();
  const auto search = begin + sizes.profile, test = search + sizes.search;
  return {{begin, search}, {search, test}, {test, test + sizes.test}};
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
