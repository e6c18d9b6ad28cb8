// SPDX-License-Identifier: Apache-2.0
#include "llama/llama2c.hpp"

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <utility>

#include "llama/mapped_file.hpp"
#include "llama/spm_tokenizer.hpp"

namespace llama {
namespace {

static_assert(std::endian::native == std::endian::little, "llama2.c files are read as they lie");

// Reads from front to back and never beyond the end.
class cursor {
 public:
  cursor(std::span<const std::byte> bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  std::span<const std::byte> rest() const { return bytes_; }

  [[noreturn]] void fail(const std::string& expected, const std::string& found) const {
    throw format_error(name_, expected, found);
  }

  template <class T>
  T read(const std::string& what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  std::span<const std::byte> take(std::size_t size, const std::string& what) {
    if (size > bytes_.size()) {
      fail(what + " of " + std::to_string(size) + " bytes",
           std::to_string(bytes_.size()) + " bytes to the end of the file");
    }
    const auto front = bytes_.first(size);
    bytes_ = bytes_.subspan(size);
    return front;
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& name_;
};

// The number of floats of a shape, whose bytes fit into 62 bits.
std::size_t product(const cursor& input, std::initializer_list<std::size_t> factors) {
  constexpr std::size_t limit = std::size_t{1} << 60;  // floats
  std::size_t result = 1;
  for (const std::size_t factor : factors) {
    if (result > limit / factor) input.fail("tensors below 2^62 bytes", "larger ones");
    result *= factor;
  }
  return result;
}

std::vector<float> take_floats(cursor& input, const std::string& what,
                               std::initializer_list<std::size_t> shape) {
  const std::size_t count = product(input, shape);
  const auto bytes = input.take(count * sizeof(float), what);
  std::vector<float> values(count);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

}  // namespace

llama2c_checkpoint parse_llama2c_checkpoint(std::span<const std::byte> bytes,
                                            const std::string& name) {
  cursor input(bytes, name);
  const auto read_dim = [&](const std::string& what) {
    constexpr std::int32_t most = 1 << 24;
    const auto number = input.read<std::int32_t>(what);
    if (number < 1 || number > most) {
      input.fail(what + " from 1 to " + std::to_string(most), std::to_string(number));
    }
    return static_cast<std::size_t>(number);
  };
  llama2c_checkpoint model{};
  model.embedding_dim = read_dim("an embedding dimension");
  model.hidden_dim = read_dim("a hidden dimension");
  model.num_layers = read_dim("a number of layers");
  model.num_heads = read_dim("a number of heads");
  model.num_kv_heads = read_dim("a number of key-value heads");
  const std::int64_t vocabulary_size = input.read<std::int32_t>("a vocabulary size");
  model.has_own_classifier = vocabulary_size < 0;
  const std::int64_t num_tokens = vocabulary_size < 0 ? -vocabulary_size : vocabulary_size;
  if (num_tokens < 1 || num_tokens > (1 << 24)) {
    input.fail("a vocabulary size up to 2^24", std::to_string(vocabulary_size));
  }
  model.vocabulary_size = static_cast<std::size_t>(num_tokens);
  model.context_length = read_dim("a context length");
  if (model.embedding_dim % model.num_heads != 0 ||
      (model.embedding_dim / model.num_heads) % 2 != 0) {
    input.fail("heads of an even dimension", std::to_string(model.num_heads) + " heads of " +
                                                 std::to_string(model.embedding_dim) + " elements");
  }
  if (model.num_heads % model.num_kv_heads != 0) {
    input.fail("key-value heads that divide the heads",
               std::to_string(model.num_kv_heads) + " for " + std::to_string(model.num_heads));
  }
  model.head_dim = model.embedding_dim / model.num_heads;

  const std::size_t layers = model.num_layers;
  const std::size_t dim = model.embedding_dim;
  const std::size_t kv_dim = model.num_kv_heads * model.head_dim;
  model.token_embedding = take_floats(input, "token_embedding", {model.vocabulary_size, dim});
  model.attention_norm = take_floats(input, "attention_norm", {layers, dim});
  model.wq = take_floats(input, "wq", {layers, dim, dim});
  model.wk = take_floats(input, "wk", {layers, kv_dim, dim});
  model.wv = take_floats(input, "wv", {layers, kv_dim, dim});
  model.wo = take_floats(input, "wo", {layers, dim, dim});
  model.ffn_norm = take_floats(input, "ffn_norm", {layers, dim});
  model.w1 = take_floats(input, "w1", {layers, model.hidden_dim, dim});
  model.w2 = take_floats(input, "w2", {layers, dim, model.hidden_dim});
  model.w3 = take_floats(input, "w3", {layers, model.hidden_dim, dim});
  model.final_norm = take_floats(input, "final_norm", {dim});
  const std::size_t rotary = product(input, {model.context_length, model.head_dim});
  input.take(rotary * sizeof(float),
             "rotary tables");  // cosines, then sines, of half the head each
  model.classifier = model.has_own_classifier
                         ? take_floats(input, "classifier", {model.vocabulary_size, dim})
                         : model.token_embedding;
  if (!input.rest().empty()) {
    input.fail("the end of the file", std::to_string(input.rest().size()) + " more bytes");
  }
  return model;
}

llama2c_checkpoint read_llama2c_checkpoint(const std::filesystem::path& path) {
  return parse_llama2c_checkpoint(mapped_file(path).bytes(), path.string());
}

tokenizer parse_llama2c_tokenizer(std::span<const std::byte> bytes, std::size_t vocabulary_size,
                                  const std::string& name) {
  constexpr std::size_t num_bytes = 256;
  constexpr std::size_t first_byte = 3;
  cursor input(bytes, name);
  if (vocabulary_size < first_byte + num_bytes) {
    input.fail("at least 259 tokens", std::to_string(vocabulary_size));
  }
  const auto longest = input.read<std::int32_t>("the longest length");
  const std::size_t least_bytes = sizeof(float) + sizeof(std::int32_t);
  if (vocabulary_size > input.rest().size() / least_bytes) {
    input.fail(std::to_string(vocabulary_size) + " tokens",
               std::to_string(input.rest().size()) + " bytes");
  }
  std::vector<vocabulary_token> tokens(vocabulary_size);
  for (std::size_t id = 0; id < vocabulary_size; ++id) {
    tokens[id].score = input.read<float>("a score");
    const auto length = input.read<std::int32_t>("a length");
    if (length < 0 || length > longest) {
      input.fail("lengths from 0 to " + std::to_string(longest), std::to_string(length));
    }
    // The file has plain spaces where a SentencePiece vocabulary has U+2581.
    for (const std::byte byte : input.take(static_cast<std::size_t>(length), "a token")) {
      const char c = static_cast<char>(byte);
      c == ' ' ? tokens[id].text += "\xe2\x96\x81" : tokens[id].text += c;
    }
    if (id >= first_byte && id < first_byte + num_bytes) {
      const auto expected = static_cast<int>(id - first_byte);
      if (spm_tokenizer::byte_of(tokens[id].text) != expected) {
        input.fail("the token of byte " + std::to_string(expected) + " at " + std::to_string(id),
                   "'" + tokens[id].text + "'");
      }
      tokens[id].kind = token_kind::byte;
    }
  }
  if (!input.rest().empty()) {
    input.fail("the end of the file after " + std::to_string(vocabulary_size) + " tokens",
               std::to_string(input.rest().size()) + " more bytes");
  }
  // The file wraps the markers in line breaks.
  tokens[0].text = "<unk>";
  tokens[1].text = "<s>";
  tokens[2].text = "</s>";
  tokens[0].kind = token_kind::unknown;
  tokens[1].kind = tokens[2].kind = token_kind::control;
  tokens[1].ends_generation = tokens[2].ends_generation = true;  // stories follow one another
  vocabulary::settings ids{.bos = 1, .eos = 2, .unknown = 0};
  ids.add_bos = ids.add_space_prefix = true;
  return tokenizer::sentencepiece(vocabulary(name, std::move(tokens), ids), name);
}

tokenizer read_llama2c_tokenizer(const std::filesystem::path& path, std::size_t vocabulary_size) {
  return parse_llama2c_tokenizer(mapped_file(path).bytes(), vocabulary_size, path.string());
}

}  // namespace llama
