// SPDX-License-Identifier: Apache-2.0
#include "llama/weights.hpp"

#include <algorithm>
#include <cmath>

#include "llama/dequantize.hpp"
#include "llama/format_error.hpp"
#include "llama/gguf.hpp"

namespace llama {
namespace {

class gguf_source final : public tensor_source {
 public:
  explicit gguf_source(const gguf_file& file) : file_(file) {}

  bool contains(std::string_view name) const override { return file_.find_tensor(name) != nullptr; }

  void read(std::string_view name, matrix& to) const override {
    const gguf_tensor& tensor = file_.tensor(name);
    if (tensor.shape[0] != to.columns() || tensor.shape[1] != to.rows() || tensor.shape[2] != 1 ||
        tensor.shape[3] != 1)
      throw format_error(file_.name() + ": tensor " + std::string(name),
                         describe(to.columns(), to.rows()),
                         describe(tensor.shape[0], tensor.shape[1]) +
                             (tensor.num_dims > 2 ? " and more dimensions" : ""));
    dequantize(*find_ggml_type(tensor.type_number), tensor.bytes, to.values());
  }

 private:
  static std::string describe(std::int64_t length, std::int64_t rows) {
    return "rows of " + std::to_string(length) + ", " + std::to_string(rows) + " of them";
  }
  const gguf_file& file_;
};

/// Rows of matrices one after another, as one matrix.
struct stack {
  matrix rows, part;
  std::int64_t filled = 0;

  stack(std::int64_t count, std::int64_t columns) : rows(count, columns) {}
  void append(const tensor_source& source, const std::string& name, std::int64_t count) {
    part.resize(count, rows.columns());
    source.read(name, part);
    std::copy_n(part.data(), count * rows.columns(), rows.row(filled).data());
    filled += count;
  }
};

/// Brings the rows of each head from the order (0, 1), (2, 3), ... to (0, d/2), (1, d/2 + 1), ...;
/// d = rope_dim. Scores do not change, since q and k are reordered alike.
void split_pairs(const model_config& config, std::int64_t heads, float* rows,
                 std::int64_t columns) {
  const std::int64_t half = config.rope_dim / 2;
  std::vector<float> turned(static_cast<std::size_t>(config.rope_dim * columns));
  for (std::int64_t head = 0; head < heads; ++head) {
    float* const first = rows + head * config.head_dim * columns;
    for (std::int64_t i = 0; i < config.rope_dim; ++i)
      std::copy_n(first + i * columns, columns, turned.data() + (i % 2 * half + i / 2) * columns);
    std::copy(turned.begin(), turned.end(), first);
  }
}

linear load_qkv(const model_config& config, const tensor_source& source, const std::string& prefix,
                gemm_kind kind) {
  const std::int64_t q = config.q_dim(), kv = config.kv_dim();
  stack weights(q + 2 * kv, config.embedding_dim), bias(q + 2 * kv, 1);
  weights.append(source, prefix + "attn_q.weight", q);
  weights.append(source, prefix + "attn_k.weight", kv);
  weights.append(source, prefix + "attn_v.weight", kv);
  bool any_bias = false;
  for (const char* const part : {"q", "k", "v"}) {
    const std::string name = prefix + "attn_" + part + ".bias";
    const std::int64_t count = *part == 'q' ? q : kv;
    matrix row(1, count);
    if (source.contains(name)) {
      source.read(name, row);
      any_bias = true;
    } else {
      std::fill_n(row.data(), count, 0.0f);
    }
    std::copy_n(row.data(), count, bias.rows.row(bias.filled).data());
    bias.filled += count;
  }
  if (config.pairing == rope_pairing::interleaved)
    for (stack* const each : {&weights, &bias}) {
      const std::int64_t columns = each->rows.columns();
      split_pairs(config, config.num_heads, each->rows.data(), columns);
      split_pairs(config, config.num_kv_heads, each->rows.row(q).data(), columns);
    }
  return linear(kind, weights.rows, any_bias ? bias.rows.values() : std::span<const float>());
}

std::vector<double> rope_frequencies(const model_config& config, const tensor_source& source) {
  const int half = config.rope_dim / 2;
  matrix factors(1, half);
  if (source.contains("rope_freqs.weight"))
    source.read("rope_freqs.weight", factors);
  else
    std::fill_n(factors.data(), half, 1.0f);
  std::vector<double> result;
  for (int i = 0; i < half; ++i) {
    const double factor = static_cast<double>(factors.data()[i]);
    if (!std::isfinite(factor) || !(factor > 0.0))
      throw format_error("tensor rope_freqs.weight[" + std::to_string(i) + "]",
                         "a finite value > 0", std::to_string(factor));
    result.push_back(std::pow(static_cast<double>(config.rope_base), -2.0 * i / config.rope_dim) /
                     (factor * static_cast<double>(config.rope_scale)));
  }
  return result;
}

}  // namespace

void model_weights::embed(int token, std::span<float> row) const {
  if (embedding.rows() == 0)
    output.weights().unpack_row(token, row);
  else
    std::ranges::copy(embedding.row(token), row.begin());
}

model_weights load_weights(const model_config& config, const tensor_source& source,
                           gemm_kind kind) {
  check_config(config, "load_weights");
  const auto read = [&](const std::string& name, std::int64_t rows, std::int64_t columns) {
    matrix values(rows, columns);
    source.read(name, values);
    return values;
  };
  model_weights weights;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    layer_weights loaded;
    loaded.attention_norm = read(prefix + "attn_norm.weight", 1, config.embedding_dim);
    loaded.qkv = load_qkv(config, source, prefix, kind);
    loaded.attention_output =
        linear(kind, read(prefix + "attn_output.weight", config.embedding_dim, config.q_dim()));
    loaded.ffn_norm = read(prefix + "ffn_norm.weight", 1, config.embedding_dim);
    stack gate_up(2 * std::int64_t{config.ffn_dim}, config.embedding_dim);
    gate_up.append(source, prefix + "ffn_gate.weight", config.ffn_dim);
    gate_up.append(source, prefix + "ffn_up.weight", config.ffn_dim);
    loaded.gate_up = linear(kind, gate_up.rows, {}, 2);
    loaded.down =
        linear(kind, read(prefix + "ffn_down.weight", config.embedding_dim, config.ffn_dim));
    weights.layers.push_back(std::move(loaded));
  }
  weights.output_norm = read("output_norm.weight", 1, config.embedding_dim);
  matrix embedding = read("token_embd.weight", config.vocabulary_size, config.embedding_dim);
  if (source.contains("output.weight")) {
    weights.output =
        linear(kind, read("output.weight", config.vocabulary_size, config.embedding_dim));
    weights.embedding = std::move(embedding);
  } else {
    weights.output = linear(kind, embedding);
    if (!weights.output.weights().can_unpack()) weights.embedding = std::move(embedding);
  }
  weights.rope_frequencies = rope_frequencies(config, source);
  return weights;
}

model_weights load_weights(const model_config& config, const gguf_file& file, gemm_kind kind) {
  return load_weights(config, gguf_source(file), kind);
}

}  // namespace llama
