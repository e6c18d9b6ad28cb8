// SPDX-License-Identifier: Apache-2.0
#include "llama/tokenizer.hpp"

#include <optional>
#include <utility>

#include "llama/bpe_tokenizer.hpp"
#include "llama/spm_tokenizer.hpp"

namespace llama {
namespace {

// Positions in a text are ints, also where a space has become three bytes.
constexpr std::size_t max_text_bytes = std::size_t{512} << 20;

// A stretch of text, or a special token found in it.
struct fragment {
  std::string_view text;
  int token = -1;
};

// White space of the C locale.
std::string_view strip_left(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t\n\v\f\r");
  return text.substr(begin == text.npos ? text.size() : begin);
}

// Cuts out the occurrences of each special token in turn, the longest first. A token that strips
// swallows the white space to its right.
std::vector<fragment> find_special_tokens(const vocabulary& tokens, std::string_view text,
                                          bool parse_reserved) {
  std::vector<fragment> fragments;
  if (!text.empty()) fragments.push_back({text});
  for (const int id : tokens.special_tokens()) {
    const vocabulary_token& special = tokens.token(id);
    if (special.is_reserved() && !parse_reserved) continue;
    if (special.text.size() > text.size()) continue;
    std::vector<fragment> finer;
    for (const fragment& whole : fragments) {
      std::string_view rest = whole.text;
      std::size_t found = whole.token < 0 ? rest.find(special.text) : rest.npos;
      if (found == rest.npos) {
        finer.push_back(whole);
        continue;
      }
      for (; found != rest.npos; found = rest.find(special.text)) {
        if (found > 0) finer.push_back({rest.substr(0, found)});
        finer.push_back({{}, id});
        rest.remove_prefix(found + special.text.size());
        if (special.strips_right) rest = strip_left(rest);
      }
      if (!rest.empty()) finer.push_back({rest});
    }
    fragments = std::move(finer);
  }
  return fragments;
}

}  // namespace

// Built in place: the two tokenizers refer to `tokens`. Exactly one of them is there.
struct tokenizer::state {
  explicit state(vocabulary&& read) : tokens(std::move(read)) {}

  vocabulary tokens;
  std::optional<bpe_tokenizer> bpe;
  std::optional<spm_tokenizer> spm;
};

tokenizer tokenizer::from_gguf(const gguf_file& file) {
  const auto model = file.require<std::string_view>("tokenizer.ggml.model");
  if (model == "llama") {
    vocabulary::settings defaults{.bos = 1, .eos = 2, .unknown = 0};
    defaults.add_bos = defaults.add_space_prefix = true;
    return sentencepiece(vocabulary::from_gguf(file, defaults), file.name());
  }
  if (model != "gpt2") {
    throw format_error(file.name() + ": tokenizer.ggml.model", "'gpt2' or 'llama'",
                       "'" + std::string(model) + "'");
  }
  const auto pre = file.find<std::string_view>("tokenizer.ggml.pre");
  if (!pre || !pre_tokenizer::supports(*pre)) {
    throw format_error(file.name() + ": tokenizer.ggml.pre",
                       "one of " + pre_tokenizer::supported_names(),
                       pre ? "'" + std::string(*pre) + "'" : "none");
  }
  pre_tokenizer splitter(*pre);
  vocabulary::settings defaults;
  defaults.add_bos = splitter.adds_bos();
  const auto shared = std::make_shared<state>(vocabulary::from_gguf(file, defaults));
  constexpr std::string_view merges = "tokenizer.ggml.merges";
  shared->bpe.emplace(shared->tokens, file.require<std::vector<std::string_view>>(merges),
                      std::move(splitter), file.name() + ": " + std::string(merges));
  return tokenizer(shared);
}

tokenizer tokenizer::sentencepiece(vocabulary tokens, std::string_view where) {
  const auto shared = std::make_shared<state>(std::move(tokens));
  shared->spm.emplace(shared->tokens, where);
  return tokenizer(shared);
}

std::vector<int> tokenizer::encode(std::string_view text, reserved_tokens reserved) const {
  if (text.size() > max_text_bytes) {
    throw tokenizer_error("encode: text: expected at most " + std::to_string(max_text_bytes) +
                          " bytes, got " + std::to_string(text.size()));
  }
  std::vector<int> ids;
  const bool parse = reserved == reserved_tokens::are_parsed;
  bool wants_space = state_->tokens.ids().add_space_prefix;
  for (const fragment& part : find_special_tokens(state_->tokens, text, parse)) {
    if (part.token >= 0) {
      ids.push_back(part.token);
      wants_space = state_->tokens.ids().add_space_prefix;
    } else if (state_->bpe) {
      state_->bpe->encode(part.text, ids);
    } else {
      state_->spm->encode((wants_space ? " " : "") + std::string(part.text), ids);
      wants_space = false;
    }
  }
  return ids;
}

std::vector<int> tokenizer::encode(std::string_view text) const {
  return encode(text, reserved_tokens::are_text);
}

std::vector<int> tokenizer::encode_template(std::string_view text) const {
  return encode(text, reserved_tokens::are_parsed);
}

std::string tokenizer::piece(int id) const {
  const vocabulary_token& token = state_->tokens.token(id);
  switch (token.kind) {
    case token_kind::control:
    case token_kind::unknown:
    case token_kind::user_defined:
      return token.text;
    case token_kind::byte: {
      const int byte = spm_tokenizer::byte_of(token.text);
      return byte < 0 ? token.text : std::string(1, static_cast<char>(byte));
    }
    case token_kind::normal:
      return state_->bpe ? bpe_tokenizer::decode(token.text) : spm_tokenizer::decode(token.text);
    case token_kind::unused:
    case token_kind::undefined:
      break;
  }
  return {};
}

std::string tokenizer::decode(std::span<const int> ids) const {
  std::string text;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    std::string next = piece(ids[i]);
    const bool has_prefix = i == 0 && state_->spm && state_->tokens.ids().add_space_prefix;
    if (has_prefix && next.starts_with(' ')) next.erase(0, 1);
    text += next;
  }
  return text;
}

int tokenizer::size() const { return state_->tokens.size(); }
int tokenizer::bos_id() const { return state_->tokens.ids().bos; }
int tokenizer::eos_id() const { return state_->tokens.ids().eos; }
bool tokenizer::add_bos() const { return state_->tokens.ids().add_bos; }
bool tokenizer::is_control(int id) const {
  return state_->tokens.token(id).kind == token_kind::control;
}
bool tokenizer::is_end_of_generation(int id) const {
  return state_->tokens.token(id).ends_generation;
}
int tokenizer::find(std::string_view text) const { return state_->tokens.find(text); }
std::string tokenizer::vocabulary_hash() const { return state_->tokens.hash(); }

}  // namespace llama
