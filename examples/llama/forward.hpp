// SPDX-License-Identifier: Apache-2.0
// The body of forward(): all but attention is compiled once, in forward.cpp.
#pragma once

#include <type_traits>
#include <utility>

#include "llama/attention.hpp"
#include "llama/model.hpp"

namespace llama {

/// One call of forward(): where every sequence's rows are, and the parts of a layer that a policy
/// has no say in.
class forward_pass {
 public:
  /// Which queries the last layer attends for.
  enum class last_queries { as_needed, all };

  /// Checks everything, makes room in the caches and fetches the embeddings.
  /// @throws as forward()
  forward_pass(const model& m, std::span<const sequence> sequences, workspace& space,
               executor_ref threads, last_queries queries);

  /// Norm, q, k and v of all rows; rotates q and k and writes k and v to the caches.
  void project(int layer);
  /// The attention's output matrix and the feed-forward network; in the last layer only for the
  /// rows whose logits are wanted.
  void finish(int layer);
  /// The output matrix.
  void write_logits(matrix& logits);
  /// Makes the new tokens a part of the caches. Does not throw.
  void commit();
  /// Takes them, and what came after them, off again.
  void take_back();

  /// What attention needs, of a layer and sequence; no rows if none of its queries is needed.
  struct attention_inputs {
    attention_context context;
    attention_call call;
  };
  attention_inputs attention_of(int layer, std::size_t index) const;
  /// Room for [1, num_heads, q_len].
  zerotune::tensor_view<float, 3> lse(std::int64_t q_len);

  std::size_t num_sequences() const { return sequences_.size(); }
  attention_memory& memory() { return space_.attention; }
  executor_ref threads() const { return threads_; }

  /// Copies the residual stream, the next layer's input, and goes back to such a copy.
  void save(matrix& residual) const;
  void restore(const matrix& residual);

 private:
  const model& model_;
  std::span<const sequence> sequences_;
  workspace& space_;
  executor_ref threads_;
  std::int64_t num_rows_ = 0;  // that are still in the residual stream
  std::int64_t num_logits_ = 0;
};

/// Attention of one layer, sequence after sequence.
template <attention_policy Policy, class Observer>
void attend_all(forward_pass& pass, int layer, Policy& policy, Observer& observer) {
  constexpr bool observed = !std::is_same_v<std::remove_cvref_t<Observer>, no_observer>;
  for (std::size_t i = 0; i < pass.num_sequences(); ++i) {
    forward_pass::attention_inputs in = pass.attention_of(layer, i);
    if (in.call.q.empty()) continue;
    const auto modifier = policy(in.context);
    if constexpr (observed) in.call.lse = pass.lse(in.call.q.extent(2));
    attend(in.call, modifier, pass.memory(), pass.threads());
    if constexpr (observed)
      observer(attention_record{in.context, in.call.softmax_scale, in.call.q, in.call.k, in.call.v,
                                in.call.out, in.call.lse},
               zerotune::compose(modifier, zerotune::causal{}));
  }
}

template <attention_policy Policy, class Observer>
void forward(const model& m, Policy&& policy, std::span<const sequence> sequences, workspace& space,
             matrix& logits, executor_ref threads, Observer&& observer) {
  constexpr bool observed = !std::is_same_v<std::remove_cvref_t<Observer>, no_observer>;
  using last_queries = forward_pass::last_queries;
  forward_pass pass(m, sequences, space, threads,
                    observed ? last_queries::all : last_queries::as_needed);
  for (int layer = 0; layer < m.config().num_layers; ++layer) {
    pass.project(layer);
    attend_all(pass, layer, policy, observer);
    pass.finish(layer);
  }
  pass.write_logits(logits);
  pass.commit();
}

}  // namespace llama
