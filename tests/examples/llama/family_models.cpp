// SPDX-License-Identifier: Apache-2.0
#include "family_models.hpp"

#include <array>
#include <bit>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "family_facts.hpp"

namespace llama_test {
namespace {

using std::uint32_t;
using std::uint64_t;

// --- bytes -------------------------------------------------------------------------------------

class byte_writer {
 public:
  template <class T>
  void number(T value) {
    const auto bits = std::bit_cast<std::array<std::byte, sizeof(T)>>(value);
    if constexpr (std::endian::native == std::endian::little) {
      bytes_.insert(bytes_.end(), bits.begin(), bits.end());
    } else {
      bytes_.insert(bytes_.end(), bits.rbegin(), bits.rend());
    }
  }
  void raw(std::span<const std::byte> data) {
    bytes_.insert(bytes_.end(), data.begin(), data.end());
  }
  void raw(std::string_view text) { raw(std::as_bytes(std::span(text))); }
  void string(std::string_view text) {
    number(static_cast<uint64_t>(text.size()));
    raw(text);
  }
  void pad() { bytes_.resize((bytes_.size() + 31) / 32 * 32); }
  void reserve(std::size_t num_bytes) { bytes_.reserve(num_bytes); }

  std::size_t size() const { return bytes_.size(); }
  std::span<const std::byte> bytes() const { return bytes_; }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

// --- weights -----------------------------------------------------------------------------------

// The finaliser of SplitMix64.
constexpr uint64_t mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

// The hashes of one tensor, in order.
class hash_stream {
 public:
  hash_stream(uint64_t seed, uint64_t tensor) : state_(mix((seed << 32) + tensor)) {}
  uint64_t next() { return mix(state_ += 0x9E3779B97F4A7C15u); }

 private:
  uint64_t state_;
};

// 2^exponent, for the exponents of normal floats.
float power_of_two(int exponent) {
  return std::bit_cast<float>(static_cast<uint32_t>(exponent + 127) << 23);
}

// The uppermost `bits` bits of a hash as a signed number.
float signed_bits(uint64_t hash, int bits) {
  const auto top = static_cast<std::int32_t>(hash >> (64 - bits));
  return static_cast<float>(top - (1 << (bits - 1)));
}

// The float16 of a float that is 0 or a normal float16 and needs no rounding.
std::uint16_t exact_half(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 31 << 15;
  if ((bits << 1) == 0) return static_cast<std::uint16_t>(sign);
  return static_cast<std::uint16_t>(sign | ((((bits & 0x7FFFFFFFu) >> 13) - ((127u - 15u) << 10))));
}

struct tensor_spec {
  std::string name;
  std::vector<uint64_t> shape;  // the row's length first
  element type;
  int shift = 0;
  float centre = 0;

  std::size_t num_elements() const {
    std::size_t product = 1;
    for (const uint64_t extent : shape) product *= static_cast<std::size_t>(extent);
    return product;
  }
};

void write_floats(byte_writer& out, const tensor_spec& tensor, hash_stream hashes) {
  const int exponent = format_of(tensor.type).exponent + tensor.shift;
  const int bits = tensor.type == element::f32 ? 16 : tensor.type == element::f16 ? 11 : 8;
  const float unit = power_of_two(exponent - (bits - 1));
  for (std::size_t i = 0; i < tensor.num_elements(); ++i) {
    const float value = tensor.centre + signed_bits(hashes.next(), bits) * unit;
    if (tensor.type == element::f32) {
      out.number(value);
    } else if (tensor.type == element::f16) {
      out.number(exact_half(value));
    } else {
      out.number(static_cast<std::uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
    }
  }
}

void write_blocks(byte_writer& out, const tensor_spec& tensor, hash_stream hashes) {
  const block_format format = format_of(tensor.type);
  std::array<std::byte, 216> block{};  // the largest block, rounded up to whole hashes
  for (std::size_t b = 0; b < tensor.num_elements() / format.num_elements; ++b) {
    for (std::size_t at = 0; at < format.num_bytes; at += 8) {
      const uint64_t hash = hashes.next();
      for (std::size_t i = 0; i < 8; ++i) block[at + i] = static_cast<std::byte>(hash >> (8 * i));
    }
    for (std::size_t f = 0; f < format.num_fields; ++f) {
      const half_field& field = format.fields[f];
      const int biased =
          field.above == subnormal ? 0 : format.exponent + tensor.shift + field.above + 15;
      std::byte& high = block[field.offset + 1];
      high = (high & std::byte{3}) | static_cast<std::byte>(biased << 2) |
             static_cast<std::byte>(field.negative ? 0x80 : 0);
    }
    out.raw(std::span(block).first(format.num_bytes));
  }
}

// Llama 3.1's frequency factors; the six in between as bits, which no machine's pow can change.
void write_rope_factors(byte_writer& out, std::size_t count) {
  constexpr std::array<uint32_t, 6> smooth = {0x3F9A8ED5, 0x3FC6D64A, 0x4001AF1E,
                                              0x402C732D, 0x406BCACB, 0x40A83C05};
  constexpr std::size_t begin = 29;
  for (std::size_t i = 0; i < count; ++i) {
    if (i < begin) {
      out.number(1.0f);
    } else if (i < begin + smooth.size()) {
      out.number(smooth[i - begin]);
    } else {
      out.number(8.0f);
    }
  }
}

std::vector<tensor_spec> tensors_of(const family_facts& facts) {
  using enum element;
  const uint64_t embedding = facts.embedding, hidden = facts.feed_forward;
  const uint64_t query = uint64_t{facts.heads} * facts.head_dim;
  const uint64_t kv = uint64_t{facts.kv_heads} * facts.head_dim;
  const int shift = facts.attention_shift;
  std::vector<tensor_spec> list;
  list.push_back({"token_embd.weight",
                  {embedding, vocabulary_size},
                  facts.embedding_type,
                  facts.embedding_shift});
  for (std::size_t layer = 0; layer < facts.layers.size(); ++layer) {
    const layer_types& types = facts.layers[layer];
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    list.push_back({prefix + "attn_norm.weight", {embedding}, f32, 2, 1.0f});
    list.push_back({prefix + "ffn_norm.weight", {embedding}, f32, 2, 1.0f});
    list.push_back({prefix + "attn_q.weight", {embedding, query}, types.query, shift});
    list.push_back({prefix + "attn_k.weight", {embedding, kv}, types.key, shift});
    list.push_back({prefix + "attn_v.weight", {embedding, kv}, types.value});
    list.push_back({prefix + "attn_output.weight", {query, embedding}, types.output});
    list.push_back({prefix + "ffn_gate.weight", {embedding, hidden}, types.gate});
    list.push_back({prefix + "ffn_up.weight", {embedding, hidden}, types.up});
    list.push_back({prefix + "ffn_down.weight", {hidden, embedding}, types.down});
    if (facts.architecture == "qwen2") {
      list.push_back({prefix + "attn_q.bias", {query}, f32, 3});
      list.push_back({prefix + "attn_k.bias", {kv}, f32, 3});
      list.push_back({prefix + "attn_v.bias", {kv}, f32, 3});
    }
  }
  list.push_back({"output_norm.weight", {embedding}, f32, 2, 1.0f});
  if (facts.output_type != none)
    list.push_back({"output.weight", {embedding, vocabulary_size}, facts.output_type});
  if (facts.architecture == "llama")
    list.push_back({"rope_freqs.weight", {facts.head_dim / 2}, f32});
  return list;
}

// --- metadata ----------------------------------------------------------------------------------

// Entries in the order in which they are written, counted.
class metadata_writer {
 public:
  void u32(std::string_view key, uint32_t value) { entry(key, 4).number(value); }
  void f32(std::string_view key, float value) { entry(key, 6).number(value); }
  void boolean(std::string_view key, bool value) {
    entry(key, 7).number(static_cast<std::uint8_t>(value));
  }
  void text(std::string_view key, std::string_view value) { entry(key, 8).string(value); }
  void texts(std::string_view key, const std::vector<std::string>& values) {
    byte_writer& out = array(key, 8, values.size());
    for (const std::string& value : values) out.string(value);
  }
  void i32s(std::string_view key, const std::vector<std::int32_t>& values) {
    byte_writer& out = array(key, 5, values.size());
    for (const std::int32_t value : values) out.number(value);
  }

  uint64_t count() const { return count_; }
  std::span<const std::byte> bytes() const { return out_.bytes(); }

 private:
  byte_writer& entry(std::string_view key, uint32_t type) {
    ++count_;
    out_.string(key);
    out_.number(type);
    return out_;
  }
  byte_writer& array(std::string_view key, uint32_t type, std::size_t size) {
    entry(key, 9).number(type);
    out_.number(static_cast<uint64_t>(size));
    return out_;
  }

  byte_writer out_;
  uint64_t count_ = 0;
};

// The character that stands for a byte in byte-level vocabularies, in UTF-8.
std::string byte_character(unsigned byte) {
  const auto printable = [](unsigned b) {
    return (b >= 33 && b < 127) || (b >= 161 && b < 173) || b >= 174;
  };
  unsigned code = byte;
  if (!printable(byte)) {
    code = 256;
    for (unsigned b = 0; b < byte; ++b) code += printable(b) ? 0u : 1u;
  }
  if (code < 128) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0u | (code >> 6)), static_cast<char>(0x80u | (code & 63u))};
}

void write_vocabulary(metadata_writer& out, const family_facts& facts) {
  std::vector<std::string> tokens, merges;
  for (unsigned byte = 0; byte < 256; ++byte) tokens.push_back(byte_character(byte));
  for (int i = 0; i < 252; ++i) {
    const std::string left(1, static_cast<char>('a' + i / 26));
    const std::string right(1, static_cast<char>('a' + i % 26));
    tokens.push_back(left + right);
    merges.push_back(left + " " + right);
  }
  std::vector<std::int32_t> types(tokens.size(), 1);
  for (const std::string_view special : facts.special) {
    tokens.emplace_back(special);
    types.push_back(3);
  }
  out.text("tokenizer.ggml.model", "gpt2");
  out.text("tokenizer.ggml.pre", facts.pre_tokenizer);
  out.texts("tokenizer.ggml.tokens", tokens);
  out.i32s("tokenizer.ggml.token_type", types);
  out.texts("tokenizer.ggml.merges", merges);
  out.u32("tokenizer.ggml.bos_token_id", facts.bos);
  out.u32("tokenizer.ggml.eos_token_id", facts.eos);
  out.boolean("tokenizer.ggml.add_bos_token", facts.add_bos);
}

metadata_writer metadata_of(const family_facts& facts) {
  const std::string arch(facts.architecture);
  metadata_writer out;
  out.text("general.architecture", arch);
  out.text("general.name", facts.name);
  out.u32("general.quantization_version", 2);
  out.u32(arch + ".block_count", static_cast<uint32_t>(facts.layers.size()));
  out.u32(arch + ".context_length", facts.context);
  out.u32(arch + ".embedding_length", facts.embedding);
  out.u32(arch + ".feed_forward_length", facts.feed_forward);
  out.u32(arch + ".attention.head_count", facts.heads);
  out.u32(arch + ".attention.head_count_kv", facts.kv_heads);
  out.f32(arch + ".rope.freq_base", facts.theta);
  out.f32(arch + ".attention.layer_norm_rms_epsilon", facts.epsilon);
  if (arch == "llama") {
    out.u32("llama.attention.key_length", facts.head_dim);
    out.u32("llama.attention.value_length", facts.head_dim);
    out.u32("llama.rope.dimension_count", facts.head_dim);
    out.u32("llama.vocab_size", vocabulary_size);
  }
  write_vocabulary(out, facts);
  return out;
}

}  // namespace

std::string_view name_of(model_family family) { return facts_of(family).name; }

std::vector<std::byte> make_family_model(model_family family) {
  const family_facts facts = facts_of(family);
  const metadata_writer metadata = metadata_of(facts);
  const std::vector<tensor_spec> tensors = tensors_of(facts);
  byte_writer head, body;
  head.raw("GGUF");
  head.number(uint32_t{3});
  head.number(static_cast<uint64_t>(tensors.size()));
  head.number(metadata.count());
  head.raw(metadata.bytes());
  for (std::size_t index = 0; index < tensors.size(); ++index) {
    const tensor_spec& tensor = tensors[index];
    head.string(tensor.name);
    head.number(static_cast<uint32_t>(tensor.shape.size()));
    for (const uint64_t extent : tensor.shape) head.number(extent);
    head.number(static_cast<uint32_t>(tensor.type));
    head.number(static_cast<uint64_t>(body.size()));
    const hash_stream hashes(facts.seed, index);
    if (tensor.name == "rope_freqs.weight") {
      write_rope_factors(body, tensor.num_elements());
    } else if (format_of(tensor.type).num_elements > 1) {
      write_blocks(body, tensor, hashes);
    } else {
      write_floats(body, tensor, hashes);
    }
    body.pad();
  }
  head.pad();
  head.reserve(head.size() + body.size());
  head.raw(body.bytes());
  return head.take();
}

}  // namespace llama_test
