// SPDX-License-Identifier: Apache-2.0
#include "llama/forward.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <stdexcept>
#include <string>

#include "llama/layer.hpp"
#include "llama/sequence_checks.hpp"

namespace llama {
namespace {

void check(const model_config& config, const sequence& s, std::size_t index) {
  const sequence_name name{"forward", "sequences", index};
  const auto length = static_cast<std::int64_t>(s.tokens.size());
  check_tokens(name, "tokens", s.tokens, config);
  check_logits_at(name, s.logits_at, length);
  const std::int64_t past = s.cache ? s.cache->length() : 0;
  check_length(name, "tokens", past + length, config);
  if (s.cache &&
      (s.cache->num_layers() != config.num_layers ||
       s.cache->num_kv_heads() != config.num_kv_heads || s.cache->head_dim() != config.head_dim))
    name.fail("cache", "one made for this model", "another shape");
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
      rope_angles(m.weights(), place.past + static_cast<std::int64_t>(i), space.cosines.row(row),
                  space.sines.row(row));
    }
  }
}

void forward_pass::project(int layer) {
  const model_config& config = model_.config();
  const layer_rows rows(model_, layer, threads_);
  for_each_block(num_rows_, [&](std::int64_t first, std::int64_t count) {
    rows.project(count, space_.residual.row(first).data(), space_.cosines.row(first).data(),
                 space_.sines.row(first).data(), space_.normalized.data(),
                 space_.qkv.row(first).data());
  });
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
  in.call.softmax_scale = 1.0f / std::sqrt(static_cast<float>(dim));
  in.call.q = {q, {1, config.num_heads, q_len, dim}, {q_len * stride, dim, stride, 1}};
  float* const out = space_.attended.data() + row * config.q_dim();
  in.call.out = {
      out, {1, config.num_heads, q_len, dim}, {q_len * config.q_dim(), dim, config.q_dim(), 1}};
  if (cache) {
    in.call.k = cache->keys(layer, kv_len);
    in.call.v = cache->values(layer, kv_len);
  } else {
    const float* const k = space_.qkv.data() + place.first_row * stride + config.q_dim();
    in.call.k = {k, {1, config.num_kv_heads, kv_len, dim}, {kv_len * stride, dim, stride, 1}};
    in.call.v = {k + config.kv_dim(),
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
  if (layer + 1 == model_.config().num_layers) {
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
  const layer_rows rows(model_, layer, threads_);
  for_each_block(num_rows_, [&](std::int64_t first, std::int64_t count) {
    float* const residual = space_.residual.row(first).data();
    rows.add_attention(count, space_.attended.row(first).data(), residual);
    rows.feed_forward(count, space_.normalized.data(), space_.activated.data(), residual);
  });
}

void forward_pass::write_logits(matrix& logits) {
  logits.resize(num_logits_, model_.config().vocabulary_size);
  const model_weights& weights = model_.weights();
  for_each_block(num_rows_, [&](std::int64_t first, std::int64_t count) {
    normalize_rows(space_.residual.row(first).data(), weights.output_norm,
                   model_.config().rms_epsilon, count, space_.normalized.data());
    weights.output(space_.normalized.data(), logits.row(first).data(), count, threads_);
  });
}

void forward_pass::save(matrix& residual) const {
  residual.resize(num_rows_, space_.residual.columns());
  std::copy_n(space_.residual.data(), residual.values().size(), residual.data());
}

void forward_pass::restore(const matrix& residual) {
  num_rows_ = residual.rows();
  std::ranges::copy(residual.values(), space_.residual.data());
}

void forward_pass::commit() {
  for (const sequence& s : sequences_)
    if (s.cache) s.cache->commit(s.tokens);
}

void forward_pass::take_back() {
  for (std::size_t i = 0; i < sequences_.size(); ++i)
    if (sequences_[i].cache) sequences_[i].cache->truncate(space_.placements[i].past);
}

}  // namespace llama
