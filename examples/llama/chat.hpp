// SPDX-License-Identifier: Apache-2.0
// Chats: the two common formats, and a session of several turns in one cache.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "llama/sampler.hpp"
#include "llama/tokenizer.hpp"

namespace llama {

/// How turns are written.
enum class chat_format {
  none,    ///< not recognised
  chatml,  ///< <|im_start|>ROLE newline TEXT<|im_end|> newline
  llama3,  ///< <|start_header_id|>ROLE<|end_header_id|> two newlines TEXT<|eot_id|>
};

/// Recognises the format by the vocabulary's special tokens and, where a file has it, by its
/// template, which must speak of them.
/// @param chat_template metadata `tokenizer.chat_template`, or empty
chat_format recognise_chat(const tokenizer& tokens, std::string_view chat_template = {});

/// Writes turns as tokens. Texts are untrusted: special tokens spelled in them are plain text.
class chat_writer {
 public:
  /// @throws std::invalid_argument for chat_format::none, or if a special token of the format is
  ///         not in the vocabulary
  chat_writer(const tokenizer& tokens, chat_format format);

  /// What goes before the first turn: the bos, where the format has one.
  std::vector<int> begin() const;
  /// One whole turn. The format llama3 trims white space around the text, as its template does.
  std::vector<int> turn(std::string_view role, std::string_view text) const;
  /// What goes before the assistant's answer.
  std::vector<int> answer() const;
  /// What goes between an answer and the next turn. @param ended whether the answer ended with
  /// end_of_turn(), which then is in the sequence already
  std::vector<int> close(bool ended) const;
  /// The token that ends a turn.
  int end_of_turn() const { return end_; }

 private:
  void append_header(std::vector<int>& to, std::string_view role, std::string_view text) const;

  tokenizer tokens_;
  chat_format format_;
  int start_ = -1, header_end_ = -1, end_ = -1, bos_ = -1;
};

/// Several turns of one chat in one cache: each evaluates its new tokens only, and the initial
/// token stays the same one, so that a modifier of it acts alike in all.
class chat_session {
 public:
  /// @param system the system's text; with an empty one there is no such turn
  /// @throws as chat_writer
  chat_session(const model& m, const tokenizer& tokens, chat_format format,
               std::string_view system = {});

  /// Tokens that are in the sequence so far, the last answer's last one perhaps not yet evaluated.
  const kv_cache& cache() const { return cache_; }

  /// The answer to the user's text.
  /// @param emit  called with every token of the answer as it is chosen; an end is not passed on
  /// @throws as forward(), also when the context is full; the session then is as before
  template <attention_policy Policy, class Emit>
  std::string reply(std::string_view user, Policy&& policy, sampler& choose, int max_tokens,
                    workspace& space, Emit&& emit, executor_ref threads = {}) {
    std::vector<int> prompt = prompt_of(user);
    const auto accept = [&](int token) {
      if (is_end(token)) return false;
      emit(token);
      return true;
    };
    const std::int64_t before = cache_.length();
    std::vector<int> answer;
    try {
      answer = generate(model_, policy, prompt, cache_, choose, max_tokens, space, accept, threads);
    } catch (...) {
      cache_.truncate(before);
      throw;
    }
    return finish(std::move(answer));
  }

 private:
  bool is_end(int token) const;
  std::vector<int> prompt_of(std::string_view user) const;
  std::string finish(std::vector<int> answer);

  const model& model_;
  tokenizer tokens_;
  chat_writer writer_;
  kv_cache cache_;
  std::vector<int> pending_;  // in the sequence, but not in the cache
};

}  // namespace llama
