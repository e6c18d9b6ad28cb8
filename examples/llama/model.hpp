// SPDX-License-Identifier: Apache-2.0
// The model: a template over what modifies its attention. A policy is anything that, called with an
// attention_context, returns a zerotune::logit_modifier:
//
//     auto policy = [&](const llama::attention_context& context) {
//       return zerotune::initial_token{table.row(context.layer)};
//     };
//     llama::forward(model, policy, sequences, workspace, logits);
#pragma once

#include <cstdint>
#include <span>

#include "llama/config.hpp"
#include "llama/executor_ref.hpp"
#include "llama/kv_cache.hpp"
#include "llama/matrix.hpp"
#include "llama/weights.hpp"
#include "llama/workspace.hpp"
#include "zerotune/core/tensor_view.hpp"
#include "zerotune/policy/compose.hpp"
#include "zerotune/policy/identity.hpp"

namespace llama {

class gguf_file;
struct llama2c_checkpoint;

/// A model that is ready to run. Immutable: any number of threads may call forward() on it, each
/// with its own workspace and caches.
class model {
 public:
  model(model_config config, model_weights weights);

  /// Reads a GGUF file's configuration and weights, which are decoded to float.
  /// @throws format_error that names the tensor or key, what was expected and what was found
  static model from_gguf(const gguf_file& file, gemm_kind kind = default_gemm());

  /// The same of a checkpoint of llama2.c.
  static model from_llama2c(const llama2c_checkpoint& checkpoint, gemm_kind kind = default_gemm());

  const model_config& config() const { return config_; }
  const model_weights& weights() const { return weights_; }

 private:
  model_config config_;
  model_weights weights_;
};

/// Some tokens of one sequence to run.
struct sequence {
  /// The new tokens, at least one. Their positions begin at cache->length(), or at 0.
  std::span<const int> tokens;
  /// The tokens before them; after forward() it holds the new ones as well. Null: there are none
  /// before and nothing is kept. No two sequences of a call may share a cache.
  kv_cache* cache = nullptr;
  /// Indices into `tokens`, strictly rising, whose next-token logits are wanted; may be empty.
  std::span<const int> logits_at;
};

/// What a policy may look at to choose a modifier.
struct attention_context {
  int layer = 0;
  int num_layers = 0;
  std::int64_t sequence = 0;    ///< index among the sequences of the call
  std::int64_t past = 0;        ///< position of the first query
  std::span<const int> tokens;  ///< the whole sequence, token at position 0 first
};

/// A policy: callable with an attention_context, result a logit modifier. It is called once per
/// layer and sequence, and its result is used at once: views in it must live until forward()
/// returns. The modifier's batch is 1, its positions are those of the sequence.
template <class P>
concept attention_policy = requires(P& policy, const attention_context& context) {
  { policy(context) } -> zerotune::logit_modifier;
};

/// The policy of the model as it is.
struct untouched {
  zerotune::identity operator()(const attention_context&) const { return {}; }
};

/// What an observer sees of one layer and sequence after its attention. The views end with the
/// call of the observer.
struct attention_record {
  attention_context context;
  float softmax_scale = 0;
  zerotune::tensor_view<const float, 4> q;    ///< [1, num_heads, q_len, head_dim], rotated
  zerotune::tensor_view<const float, 4> k;    ///< [1, num_kv_heads, kv_len, head_dim], rotated
  zerotune::tensor_view<const float, 4> v;    ///< [1, num_kv_heads, kv_len, head_dim]
  zerotune::tensor_view<const float, 4> out;  ///< [1, num_heads, q_len, head_dim]
  zerotune::tensor_view<const float, 3> lse;  ///< [1, num_heads, q_len], of the modified logits
};

/// The observer that sees nothing; costs nothing.
struct no_observer {};

/// Runs the sequences through the model and appends them to their caches.
///
/// All rows share the matrix products; attention is per sequence. In the last layer only the
/// rows that `logits_at` names go on. On one instruction set and build, a row's logits are bitwise
/// the same for any number of threads and whatever other sequences are in the call.
///
/// @param policy     see attention_policy; untouched{} for the plain model
/// @param logits     resized to [sum of logits_at.size(), vocabulary_size]: the rows that the first
///                   sequence asks for, then the second's
/// @param threads    shares the columns of the products and the heads; serial unless given.
///                   With many sequences, rather give each thread its own call
/// @param observer   no_observer{}, or callable as observer(const attention_record&, modifier)
///                   with the modifier that acted, causality included
/// @throws std::invalid_argument for an empty sequence, a token outside the vocabulary, an index
///         outside its tokens or out of order, a cache of another shape or given twice; more
///         tokens than context_length; zerotune::invalid_argument for a modifier that does not
///         fit (a gamma table of another number of heads). The caches are unchanged whenever it
///         throws.
template <attention_policy Policy, class Observer = no_observer>
void forward(const model& m, Policy&& policy, std::span<const sequence> sequences, workspace& space,
             matrix& logits, executor_ref threads = {}, Observer&& observer = {});

}  // namespace llama

#include "llama/forward.hpp"
