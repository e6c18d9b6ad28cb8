// SPDX-License-Identifier: Apache-2.0
#include "llama/vocabulary.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <utility>

#include "llama/sha256.hpp"

namespace llama {
namespace {

// Texts with which known models end a turn or a document.
// clang-format off
constexpr std::string_view end_texts[] = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]",
    "<|end_of_text|>", "<eos>", "<turn|>", "<|tool_response>", "<end_of_utterance>",
    "<｜end▁of▁sentence｜>", "[e~[",
};
// clang-format on

// Tokens around the gap in code completion: the file names one, or the first of the texts is it.
struct gap_token {
  std::string_view key;
  bool ends_generation;
  std::vector<std::string_view> texts;
};
const std::vector<gap_token> gap_tokens{
    {"tokenizer.ggml.fim_pre_token_id",
     false,
     {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
      "<|code_prefix|>", "<|prefix|>"}},
    {"tokenizer.ggml.fim_suf_token_id",
     false,
     {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
      "<|code_suffix|>", "<|suffix|>"}},
    {"tokenizer.ggml.fim_mid_token_id",
     false,
     {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>",
      "<|code_middle|>", "<|middle|>"}},
    {"tokenizer.ggml.fim_pad_token_id",
     true,
     {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}},
    {"tokenizer.ggml.fim_rep_token_id",
     true,
     {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"}},
    {"tokenizer.ggml.fim_sep_token_id", true, {"<|file_sep|>"}},
};

int find_text(const std::vector<vocabulary_token>& tokens, std::string_view text) {
  const auto found = std::find_if(tokens.begin(), tokens.end(),
                                  [text](const auto& token) { return token.text == text; });
  return found == tokens.end() ? -1 : static_cast<int>(found - tokens.begin());
}

// The id that `key` names, -1 if the file lacks the key.
int read_id(const gguf_file& file, std::string_view key, std::size_t num_tokens) {
  if (!file.contains(key)) return -1;
  return static_cast<int>(file.require_in(key, 0, static_cast<std::int64_t>(num_tokens) - 1));
}

void mark_special_tokens(const gguf_file& file, const vocabulary::settings& ids,
                         std::vector<vocabulary_token>& tokens) {
  const auto at = [&](int id) -> vocabulary_token& { return tokens[static_cast<std::size_t>(id)]; };
  for (vocabulary_token& token : tokens) {
    if (std::find(std::begin(end_texts), std::end(end_texts), token.text) == std::end(end_texts))
      continue;
    token.kind = token_kind::control;
    token.ends_generation = true;
  }
  for (const gap_token& gap : gap_tokens) {
    int id = read_id(file, gap.key, tokens.size());
    if (id < 0) {
      for (const std::string_view text : gap.texts) {
        id = find_text(tokens, text);
        if (id < 0) continue;
        at(id).kind = token_kind::control;
        break;
      }
    }
    if (id >= 0 && gap.ends_generation) at(id).ends_generation = true;
  }
  for (const std::string_view key :
       {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    if (const int id = read_id(file, key, tokens.size()); id >= 0) at(id).ends_generation = true;
  }
  if (ids.eos >= 0) at(ids.eos).ends_generation = true;
}

// Phi-3 was trained with its turn markers swallowing the white space that follows them.
void mark_stripping_tokens(const gguf_file& file, std::vector<vocabulary_token>& tokens) {
  std::string name(file.find<std::string_view>("general.name").value_or(""));
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (name.find("phi-3") == name.npos && name.find("phi3") == name.npos) return;
  for (vocabulary_token& token : tokens) {
    token.strips_right = token.is_reserved() || token.kind == token_kind::user_defined;
    if (token.text == "<unk>" || token.text == "<s>" || token.text == "<|endoftext|>") {
      token.strips_right = false;
    }
  }
}

token_kind to_kind(std::int32_t number) {
  return number >= 0 && number <= 6 ? static_cast<token_kind>(number) : token_kind::undefined;
}

}  // namespace

vocabulary::vocabulary(std::string_view where, std::vector<vocabulary_token> tokens, settings ids)
    : tokens_(std::move(tokens)), settings_(ids) {
  for (const int id : {ids.bos, ids.eos, ids.unknown}) {
    if (id < -1 || id >= size()) {
      throw format_error(where, "a token id below " + std::to_string(size()), std::to_string(id));
    }
  }
  index_.reserve(tokens_.size());
  for (int id = 0; id < size(); ++id) {
    const vocabulary_token& token = tokens_[static_cast<std::size_t>(id)];
    if (std::isnan(token.score)) {
      throw format_error(where, "a score", "NaN for token " + std::to_string(id));
    }
    const auto [first, is_new] = index_.emplace(token.text, id);
    if (!is_new) {
      throw format_error(
          where, "a text for each token",
          "one text for tokens " + std::to_string(first->second) + " and " + std::to_string(id));
    }
    if (token.is_reserved() || token.kind == token_kind::user_defined) special_.push_back(id);
  }
  std::stable_sort(special_.begin(), special_.end(),
                   [this](int a, int b) { return token(a).text.size() > token(b).text.size(); });
}

vocabulary vocabulary::from_gguf(const gguf_file& file, settings ids) {
  const auto texts = file.require<std::vector<std::string_view>>("tokenizer.ggml.tokens");
  const auto kinds = file.find<std::vector<std::int32_t>>("tokenizer.ggml.token_type");
  const auto scores = file.find<std::vector<float>>("tokenizer.ggml.scores");
  const auto expect_length = [&](std::string_view key, std::size_t found) {
    if (found != texts.size()) {
      throw format_error(file.name() + ": " + std::string(key),
                         std::to_string(texts.size()) + " elements", std::to_string(found));
    }
  };
  if (texts.size() > std::size_t{std::numeric_limits<std::int32_t>::max()}) {
    throw format_error(file.name() + ": tokenizer.ggml.tokens", "fewer than 2^31 tokens",
                       std::to_string(texts.size()));
  }
  if (kinds) expect_length("tokenizer.ggml.token_type", kinds->size());
  if (scores) expect_length("tokenizer.ggml.scores", scores->size());
  std::vector<vocabulary_token> tokens(texts.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    // Several tokens may be padding without a text; a name keeps them apart.
    tokens[i].text = texts[i].empty() ? "[EMPTY_" + std::to_string(i) + "]" : std::string(texts[i]);
    if (kinds) tokens[i].kind = to_kind((*kinds)[i]);
    if (scores) tokens[i].score = (*scores)[i];
  }

  const auto read_special = [&](std::string_view key, int& id) {
    if (id >= static_cast<int>(tokens.size())) id = -1;
    if (file.contains(key)) id = read_id(file, key, tokens.size());
  };
  read_special("tokenizer.ggml.bos_token_id", ids.bos);
  read_special("tokenizer.ggml.eos_token_id", ids.eos);
  read_special("tokenizer.ggml.unknown_token_id", ids.unknown);
  ids.add_bos = file.find<bool>("tokenizer.ggml.add_bos_token").value_or(ids.add_bos);
  ids.add_space_prefix =
      file.find<bool>("tokenizer.ggml.add_space_prefix").value_or(ids.add_space_prefix);
  mark_special_tokens(file, ids, tokens);
  mark_stripping_tokens(file, tokens);
  return vocabulary(file.name() + ": tokenizer.ggml", std::move(tokens), ids);
}

const vocabulary_token& vocabulary::token(int id) const {
  if (id < 0 || id >= size()) {
    throw std::out_of_range("token: id: expected 0 to " + std::to_string(size() - 1) + ", got " +
                            std::to_string(id));
  }
  return tokens_[static_cast<std::size_t>(id)];
}

int vocabulary::find(std::string_view text) const {
  const auto found = index_.find(text);
  return found == index_.end() ? -1 : found->second;
}

int vocabulary::find_plain(std::string_view text) const {
  const int id = find(text);
  return id >= 0 && !tokens_[static_cast<std::size_t>(id)].is_reserved() ? id : -1;
}

std::string vocabulary::hash() const {
  sha256 digest;
  for (const vocabulary_token& token : tokens_) {
    std::array<std::byte, 8> length;
    for (std::size_t i = 0; i < 8; ++i) {
      length[i] = static_cast<std::byte>(std::uint64_t{token.text.size()} >> (8 * i));
    }
    const auto kind = static_cast<std::byte>(token.kind);
    digest.update(length).update(token.text).update(std::span(&kind, 1));
  }
  return digest.hex();
}

}  // namespace llama
