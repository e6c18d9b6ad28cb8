// SPDX-License-Identifier: Apache-2.0
#include "llama/chat.hpp"

#include <stdexcept>

namespace llama {
namespace {

struct special_tokens {
  std::string_view start, header_end, end, bos;
};

special_tokens special_tokens_of(chat_format format) {
  if (format == chat_format::chatml) return {"<|im_start|>", "", "<|im_end|>", ""};
  return {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>"};
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view space = " \t\n\v\f\r";
  const std::size_t first = text.find_first_not_of(space);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(space) + 1 - first);
}

void append(std::vector<int>& to, const std::vector<int>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

}  // namespace

chat_format recognise_chat(const tokenizer& tokens, std::string_view chat_template) {
  for (const chat_format format : {chat_format::llama3, chat_format::chatml}) {
    const special_tokens names = special_tokens_of(format);
    const bool spoken_of =
        chat_template.empty() || chat_template.find(names.start) != std::string_view::npos;
    if (spoken_of && tokens.find(names.start) >= 0 && tokens.find(names.end) >= 0 &&
        (names.header_end.empty() || tokens.find(names.header_end) >= 0))
      return format;
  }
  return chat_format::none;
}

chat_writer::chat_writer(const tokenizer& tokens, chat_format format)
    : tokens_(tokens), format_(format) {
  if (format == chat_format::none)
    throw std::invalid_argument("chat_writer: format: expected chatml or llama3, got none");
  const auto id_of = [&](std::string_view name) {
    if (name.empty()) return -1;
    const int id = tokens.find(name);
    if (id < 0)
      throw std::invalid_argument("chat_writer: tokens: expected " + std::string(name) +
                                  " in the vocabulary, got none");
    return id;
  };
  const special_tokens names = special_tokens_of(format);
  start_ = id_of(names.start);
  header_end_ = id_of(names.header_end);
  end_ = id_of(names.end);
  bos_ = id_of(names.bos);
}

std::vector<int> chat_writer::begin() const {
  return bos_ >= 0 ? std::vector<int>{bos_} : std::vector<int>{};
}

// A stretch without special tokens is tokenised as one, as it would be in the whole text.
void chat_writer::append_header(std::vector<int>& to, std::string_view role,
                                std::string_view text) const {
  to.push_back(start_);
  if (format_ == chat_format::chatml) {
    append(to, tokens_.encode(std::string(role) + "\n" + std::string(text)));
    return;
  }
  append(to, tokens_.encode(role));
  to.push_back(header_end_);
  append(to, tokens_.encode("\n\n" + std::string(trim(text))));
}

std::vector<int> chat_writer::turn(std::string_view role, std::string_view text) const {
  std::vector<int> result;
  append_header(result, role, text);
  append(result, close(false));
  return result;
}

std::vector<int> chat_writer::answer() const {
  std::vector<int> result;
  append_header(result, "assistant", {});
  return result;
}

std::vector<int> chat_writer::close(bool ended) const {
  std::vector<int> result;
  if (!ended) result.push_back(end_);
  if (format_ == chat_format::chatml) append(result, tokens_.encode("\n"));
  return result;
}

chat_session::chat_session(const model& m, const tokenizer& tokens, chat_format format,
                           std::string_view system)
    : model_(m), tokens_(tokens), writer_(tokens, format), cache_(m.config()) {
  pending_ = writer_.begin();
  if (!system.empty()) append(pending_, writer_.turn("system", system));
}

bool chat_session::is_end(int token) const {
  return token == writer_.end_of_turn() || tokens_.is_end_of_generation(token);
}

std::vector<int> chat_session::prompt_of(std::string_view user) const {
  std::vector<int> prompt = pending_;
  append(prompt, writer_.turn("user", user));
  append(prompt, writer_.answer());
  return prompt;
}

std::string chat_session::finish(std::vector<int> answer) {
  pending_.clear();
  bool ended = false;
  if (!answer.empty()) {
    // Another end than that of a turn gives way to it.
    ended = answer.back() == writer_.end_of_turn();
    if (ended || !is_end(answer.back())) pending_.push_back(answer.back());
    if (is_end(answer.back())) answer.pop_back();
  }
  append(pending_, writer_.close(ended));
  return tokens_.decode(answer);
}

}  // namespace llama
