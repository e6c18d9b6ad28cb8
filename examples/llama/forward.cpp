// SPDX-License-Identifier: Apache-2.0
#include "llama/forward.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <stdexcept>
#include <string>

#include "llama/elementwise.hpp"

namespace llama {
namespace {

// Rows that go through the feed-forward network together: their activations stay in the cache.
constexpr std::int64_t row_block = 256;

[[noreturn]] void fail(std::size_t index, const std::string& what, const std::string& expected,
                       const std::string& got) {
  throw std::invalid_argument("forward: sequences[" + std::to_string(index) + "] " + what +
                              ": expected " + expected + ", got " + got);
}

std::string below(std::int64_t end) { return "a value in [0, " + std::to_string(end) + ")"; }

void check(const model_config& config, const sequence& s, std::size_t index) {
  const auto length = static_cast<std::int64_t>(s.tokens.size());
  if (length == 0) fail(index, "tokens", "at least one", "none");
  for (std::int64_t i = 0; i < length; ++i)
    if (const int token = s.tokens[static_cast<std::size_t>(i)];
        token < 0 || token >= config.vocabulary_size)
      fail(index, "tokens[" + std::to_string(i) + "]", below(config.vocabulary_size),
           std::to_string(token));
  for (std::size_t i = 0; i < s.logits_at.size(); ++i) {
    const std::string name = "logits_at[" + std::to_string(i) + "]";
    const int at = s.logits_at[i];
    if (at < 0 || at >= length) fail(index, name, below(length), std::to_string(at));
    if (i > 0 && at <= s.logits_at[i - 1])
      fail(index, name, "more than " + std::to_string(s.logits_at[i - 1]), std::to_string(at));
  }
  const std::int64_t past = s.cache ? s.cache->length() : 0;
  if (past + length > config.context_length)
    fail(index, "tokens", "at most context_length = " + std::to_string(config.context_length),
         std::to_string(past + length));
  if (s.cache &&
      (s.cache->num_layers() != config.num_layers ||
       s.cache->num_kv_heads() != config.num_kv_heads || s.cache->head_dim() != config.head_dim))
    fail(index, "cache", "one made for this model", "another shape");
}

}  // namespace

forward_pass::forward_pass(const model& m, std::span<const sequence> sequences, workspace& space,
                           executor_ref threads, last_queries queries)
    : model_(m), sequences_(sequences), space_(space), threads_(threads) {
  const model_config& config = m.config();
  std::size_t with_past = 0;
  space.caches.clear();
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const sequence& s = sequences[i];
    check(config, s, i);
    num_rows_ += static_cast<std::int64_t>(s.tokens.size());
    num_logits_ += static_cast<std::int64_t>(s.logits_at.size());
    if (!s.cache) continue;
    space.caches.push_back(s.cache);
    if (s.cache->length() > 0) with_past += s.cache->tokens().size() + s.tokens.size();
  }
  std::ranges::sort(space.caches, std::less<>());
  if (std::ranges::adjacent_find(space.caches) != space.caches.end())
    throw std::invalid_argument("forward: sequences: expected a cache for each, got one twice");

  space.residual.resize(num_rows_, config.embedding_dim);
  space.qkv.resize(num_rows_, config.q_dim() + 2 * config.kv_dim());
  space.attended.resize(num_rows_, config.q_dim());
  const std::int64_t block = std::min(row_block, num_rows_);
  space.normalized.resize(block, config.embedding_dim);
  space.gate_up.resize(block, 2 * std::int64_t{config.ffn_dim});
  space.activated.resize(block, config.ffn_dim);
  const std::int64_t half = config.rope_dim / 2;
  space.cosines.resize(num_rows_, half);
  space.sines.resize(num_rows_, half);
  space.tokens.clear();
  space.tokens.reserve(with_past);  // so that the spans below stay valid
  space.placements.clear();
  std::int64_t row = 0;
  for (const sequence& s : sequences) {
    workspace::placement place{.first_row = row, .tokens = s.tokens};
    if (s.cache) {
      place.past = s.cache->length();
      s.cache->reserve(place.past + static_cast<std::int64_t>(s.tokens.size()));
    }
    if (place.past > 0) {
      const std::size_t first = space.tokens.size();
      space.tokens.insert(space.tokens.end(), s.cache->tokens().begin(), s.cache->tokens().end());
      space.tokens.insert(space.tokens.end(), s.tokens.begin(), s.tokens.end());
      place.tokens = std::span<const int>(space.tokens).subspan(first);
    }
    if (queries == last_queries::all) {
      place.num_queries = static_cast<std::int64_t>(s.tokens.size());
    } else if (!s.logits_at.empty()) {
      place.first_query = s.logits_at.front();
      place.num_queries = s.logits_at.back() + 1 - s.logits_at.front();
    }
    space.placements.push_back(place);
    for (std::size_t i = 0; i < s.tokens.size(); ++i, ++row) {
      m.weights().embed(s.tokens[i], space.residual.row(row));
      const double position = static_cast<double>(place.past + static_cast<std::int64_t>(i));
      for (std::int64_t j = 0; j < half; ++j) {
        const double angle = position * m.weights().rope_frequencies[static_cast<std::size_t>(j)];
        space.cosines.row(row).data()[j] = static_cast<float>(std::cos(angle));
        space.sines.row(row).data()[j] = static_cast<float>(std::sin(angle));
      }
    }
  }
}

void forward_pass::normalize(std::int64_t first, std::int64_t count, const matrix& weight) {
  for (std::int64_t i = 0; i < count; ++i)
    rms_norm(space_.residual.row(first + i), weight.values(), model_.config().rms_epsilon,
             space_.normalized.row(i));
}

void forward_pass::project(int layer) {
  const model_config& config = model_.config();
  const layer_weights& weights = model_.weights().layers[static_cast<std::size_t>(layer)];
  for (std::int64_t first = 0; first < num_rows_; first += row_block) {
    const std::int64_t count = std::min(row_block, num_rows_ - first);
    normalize(first, count, weights.attention_norm);
    weights.qkv(space_.normalized.data(), space_.qkv.row(first).data(), count, threads_);
  }
  const auto q_and_k = static_cast<std::size_t>(config.q_dim() + config.kv_dim());
  for (std::int64_t row = 0; row < num_rows_; ++row)
    rotate(space_.qkv.row(row).first(q_and_k), config.head_dim, space_.cosines.row(row),
           space_.sines.row(row));
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    kv_cache* const cache = sequences_[i].cache;
    if (!cache) continue;
    const workspace::placement& place = space_.placements[i];
    for (std::size_t j = 0; j < sequences_[i].tokens.size(); ++j) {
      const auto offset = static_cast<std::int64_t>(j);
      const float* const k = space_.qkv.row(place.first_row + offset).data() + config.q_dim();
      std::copy_n(k, config.kv_dim(), cache->key_row(layer, place.past + offset));
      std::copy_n(k + config.kv_dim(), config.kv_dim(),
                  cache->value_row(layer, place.past + offset));
    }
  }
}

forward_pass::attention_inputs forward_pass::attention_of(int layer, std::size_t index) const {
  const model_config& config = model_.config();
  const workspace::placement& place = space_.placements[index];
  const kv_cache* const cache = sequences_[index].cache;
  const std::int64_t dim = config.head_dim, stride = space_.qkv.columns();
  const bool last = layer + 1 == config.num_layers;
  const std::int64_t first = last ? place.first_query : 0;
  const std::int64_t q_len =
      last ? place.num_queries : static_cast<std::int64_t>(sequences_[index].tokens.size());
  // Keys after the last query are not seen by any: without them the queries are the last positions.
  const std::int64_t kv_len = place.past + first + q_len;
  const std::int64_t row = place.first_row + first;

  attention_inputs in;
  in.context = {layer, config.num_layers, static_cast<std::int64_t>(index), place.past + first,
                place.tokens};
  const float* const q = space_.qkv.data() + row * stride;
  in.q = {q, {1, config.num_heads, q_len, dim}, {q_len * stride, dim, stride, 1}};
  float* const out = space_.attended.data() + row * config.q_dim();
  in.out = {
      out, {1, config.num_heads, q_len, dim}, {q_len * config.q_dim(), dim, config.q_dim(), 1}};
  if (cache) {
    in.k = cache->keys(layer, kv_len);
    in.v = cache->values(layer, kv_len);
  } else {
    const float* const k = space_.qkv.data() + place.first_row * stride + config.q_dim();
    in.k = {k, {1, config.num_kv_heads, kv_len, dim}, {kv_len * stride, dim, stride, 1}};
    in.v = {k + config.kv_dim(),
            {1, config.num_kv_heads, kv_len, dim},
            {kv_len * stride, dim, stride, 1}};
  }
  return in;
}

zerotune::tensor_view<float, 3> forward_pass::lse(std::int64_t q_len) {
  space_.lse.resize(model_.config().num_heads, q_len);
  return {space_.lse.data(), {1, model_.config().num_heads, q_len}};
}

void forward_pass::finish(int layer) {
  const model_config& config = model_.config();
  const layer_weights& weights = model_.weights().layers[static_cast<std::size_t>(layer)];
  if (layer + 1 == config.num_layers) {
    // Rows move towards the front only, so none is overwritten before it is read.
    std::int64_t to = 0;
    for (std::size_t i = 0; i < sequences_.size(); ++i)
      for (const int at : sequences_[i].logits_at) {
        const std::int64_t from = space_.placements[i].first_row + at;
        if (from != to) {
          std::ranges::copy(space_.residual.row(from), space_.residual.row(to).begin());
          std::ranges::copy(space_.attended.row(from), space_.attended.row(to).begin());
        }
        ++to;
      }
    num_rows_ = to;
  }
  for (std::int64_t first = 0; first < num_rows_; first += row_block) {
    const std::int64_t count = std::min(row_block, num_rows_ - first);
    float* const residual = space_.residual.row(first).data();
    weights.attention_output(space_.attended.row(first).data(), residual, count, threads_,
                             gemm_output::add);
    normalize(first, count, weights.ffn_norm);
    weights.gate_up(space_.normalized.data(), space_.gate_up.data(), count, threads_);
    for (std::int64_t i = 0; i < count; ++i) swiglu(space_.gate_up.row(i), space_.activated.row(i));
    weights.down(space_.activated.data(), residual, count, threads_, gemm_output::add);
  }
}

void forward_pass::write_logits(matrix& logits) {
  logits.resize(num_logits_, model_.config().vocabulary_size);
  for (std::int64_t first = 0; first < num_rows_; first += row_block) {
    const std::int64_t count = std::min(row_block, num_rows_ - first);
    normalize(first, count, model_.weights().output_norm);
    model_.weights().output(space_.normalized.data(), logits.row(first).data(), count, threads_);
  }
}

void forward_pass::commit() {
  for (const sequence& s : sequences_)
    if (s.cache) s.cache->commit(s.tokens);
}

}  // namespace llama
