// SPDX-License-Identifier: Apache-2.0
// The same sequences under several policies that agree in their first layers, as when heads are
// probed one at a time: layers that were already computed are not computed again.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "llama/model.hpp"

namespace llama {

/// Memory that forward_each() works in, as workspace is that of forward().
struct forward_each_workspace {
  /// The input of a layer, from which later policies go on.
  struct kept_layer {
    int layer = 0;
    matrix prefix, rows;
  };
  workspace prefix, rows;
  std::vector<kept_layer> kept;  ///< the first `num_kept` are in use, layers rising
  std::size_t num_kept = 0;
};

/// Whether the input of `layer` is needed after policy i: a later one begins there. Policies
/// between them go less deep into the shared layers only if none of them begins before it.
inline bool is_needed_later(std::span<const int> shared, std::size_t i, int layer) {
  for (std::size_t next = i + 1; next < shared.size() && shared[next] >= layer; ++next)
    if (shared[next] == layer) return true;
  return false;
}

/// Runs the sequences under policy_of(0), policy_of(1), ... and calls done(i) after each, when the
/// caches and logits are those that forward() would have left; the new tokens are then taken off
/// the caches again. Every row is bitwise that of forward().
///
/// @param shared    [policies]: layers, from the first on, in which policy i equals policy i - 1;
///                  at most num_layers. shared[0] is not read. The order decides what is saved:
///                  policies that share more should stand side by side, few before many.
/// @param prefix    tokens that all sequences go on from, run once per policy, with an empty cache
///                  of their own; null: there are none. The sequences' caches then hold its tokens,
///                  whose rows are written here.
/// @throws as forward()
/// Keeps as many copies of the layers' input as policies branch off on the way to the present one.
template <class PolicyOf, class Done>
void forward_each(const model& m, PolicyOf&& policy_of, std::span<const int> shared,
                  const sequence* prefix, std::span<const sequence> sequences,
                  forward_each_workspace& space, matrix& logits, Done&& done,
                  executor_ref threads = {}) {
  constexpr auto queries = forward_pass::last_queries::as_needed;
  const int num_layers = m.config().num_layers;
  std::optional<forward_pass> before;
  if (prefix) before.emplace(m, std::span(prefix, 1), space.prefix, threads, queries);
  forward_pass pass(m, sequences, space.rows, threads, queries);
  const auto keep = [&](int layer) {
    if (space.num_kept == space.kept.size()) space.kept.emplace_back();
    forward_each_workspace::kept_layer& kept = space.kept[space.num_kept++];
    kept.layer = layer;
    if (before) before->save(kept.prefix);
    pass.save(kept.rows);
  };
  const auto go_back = [&](int layer) {
    while (space.kept[space.num_kept - 1].layer > layer) --space.num_kept;
    const forward_each_workspace::kept_layer& kept = space.kept[space.num_kept - 1];
    if (before) before->restore(kept.prefix);
    pass.restore(kept.rows);
  };
  const auto run_layer = [&](int layer, auto& policy) {
    no_observer nobody;
    if (before) {
      before->project(layer);
      attend_all(*before, layer, policy, nobody);
      before->finish(layer);
      const auto length = static_cast<std::int64_t>(prefix->tokens.size());
      for (const sequence& s : sequences) s.cache->assign_layer(*prefix->cache, layer, length);
    }
    pass.project(layer);
    attend_all(pass, layer, policy, nobody);
    pass.finish(layer);
  };
  space.num_kept = 0;
  for (std::size_t i = 0; i < shared.size(); ++i) {
    const int begin = i == 0 ? 0 : shared[i];
    if (i > 0) go_back(begin);
    // What this policy goes on from stays only if another one does so too.
    if (i > 0 && !is_needed_later(shared, i, begin)) --space.num_kept;
    auto&& policy = policy_of(i);
    for (int layer = begin; layer <= num_layers; ++layer) {
      if ((layer > begin || i == 0) && is_needed_later(shared, i, layer)) keep(layer);
      if (layer < num_layers) run_layer(layer, policy);
    }
    pass.write_logits(logits);
    pass.commit();
    done(i);
    pass.take_back();
  }
}

}  // namespace llama
