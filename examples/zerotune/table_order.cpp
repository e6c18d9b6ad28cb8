// SPDX-License-Identifier: Apache-2.0
#include "table_order.hpp"

#include <algorithm>

namespace zerotune_cli {

namespace {

using zerotune::gamma_table;
using zerotune::index_t;

bool same_layer(const gamma_table& a, const gamma_table& b, index_t layer) {
  for (index_t head = 0; head < a.heads(); ++head)
    if (a(layer, head) != b(layer, head)) return false;
  return true;
}

class arrangement {
 public:
  explicit arrangement(std::span<const gamma_table> tables) : tables_(tables) {}

  /// Appends tables that are equal in the layers before `layer`; the first shares `shared` layers
  /// with what stands before it.
  void append(const std::vector<std::size_t>& members, index_t layer, index_t shared) {
    if (members.size() == 1 || layer == tables_[members.front()].layers()) {
      for (const std::size_t table : members) {
        order.tables.push_back(table);
        order.shared.push_back(static_cast<int>(shared));
        shared = layer;
      }
      return;
    }
    std::vector<std::vector<std::size_t>> groups;
    for (const std::size_t table : members) {
      const auto found = std::ranges::find_if(groups, [&](const auto& group) {
        return same_layer(tables_[group.front()], tables_[table], layer);
      });
      if (found == groups.end())
        groups.push_back({table});
      else
        found->push_back(table);
    }
    std::ranges::stable_sort(groups,
                             [](const auto& a, const auto& b) { return a.size() < b.size(); });
    for (const auto& group : groups) {
      append(group, layer + 1, shared);
      shared = layer;
    }
  }

  table_order order;

 private:
  std::span<const gamma_table> tables_;
};

}  // namespace

table_order order_tables(std::span<const gamma_table> tables) {
  if (tables.empty()) return {};
  arrangement result(tables);
  std::vector<std::size_t> all(tables.size());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
  result.append(all, 0, 0);
  const auto layers = static_cast<double>(tables.front().layers());
  double computed = 0;
  for (const int shared : result.order.shared) computed += layers - shared;
  result.order.work = computed / (layers * static_cast<double>(tables.size()));
  return std::move(result.order);
}

}  // namespace zerotune_cli
