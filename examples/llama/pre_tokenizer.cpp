// SPDX-License-Identifier: Apache-2.0
#include "llama/pre_tokenizer.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <new>
#include <utility>

namespace llama {
namespace {

// The expressions, where \s inside brackets stands for `space_ranges`. All repetitions are
// possessive (or give back one character), so that long runs cost linear time and no backtracking
// memory.

// White space as the Rust, Python and ICU engines see it; PCRE2's own \s also holds U+180E.
constexpr std::string_view space_ranges = R"(\t-\r\x{85}\p{Z})";

// Each ends with the runs of white space: up to the last one before a word, or whole at the end.
constexpr std::string_view gpt2_words =
    R"('(?:[stmd]|re|ve|ll)| ?+\p{L}++| ?+\p{N}++| ?+[^\s\p{L}\p{N}]++|[\s]+(?![^\s])|[\s]++)";

// Contractions in any case, words with one character in front, up to three digits, symbols with
// the line breaks after them, white space up to the last line break of a run.
constexpr std::string_view llama3_words =
    R"('(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+)"
    R"(| ?+[^\s\p{L}\p{N}]++[\r\n]*+|(?:(?:(?![\r\n])[\s])*+[\r\n]++)++|[\s]+(?![^\s])|[\s]++)";

// The same, but every digit is a word.
constexpr std::string_view qwen2_words =
    R"('(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N})"
    R"(| ?+[^\s\p{L}\p{N}]++[\r\n]*+|(?:(?:(?![\r\n])[\s])*+[\r\n]++)++|[\s]+(?![^\s])|[\s]++)";

// DeepSeek LLM lists its cased letters one by one: those of an older Unicode, less some blocks.
constexpr std::string_view deepseek_letters =
    R"([\s]?+(?:(?![\x{560}-\x{588}\x{10c7}-\x{10ff}\x{1c80}-\x{1c8f}\x{2d00}-\x{2d2f})"
    R"(\x{a790}-\x{a7fa}\x{ab30}-\x{ab6f}\x{10570}-\x{105bf}\x{16e40}-\x{16e7f})"
    R"(\x{1d400}-\x{1d7ff}\x{1df00}-\x{1dfff}])[\p{Lu}\p{Ll}\p{Lt}])++)";
constexpr std::string_view deepseek_punctuation =
    R"([\s]?+[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3001}\x{3002}]++)";
// The look-behind keeps a run from being tried at each of its characters.
constexpr std::string_view trailing_space = R"((?<![\s])[\s]++\z)";
constexpr std::string_view deepseek_east_asian =
    R"((?:(?![\s])[\x{800}-\x{9fa5}\x{ac00}-\x{d7ff}])++)";

struct code_deleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct match_deleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

std::string pcre2_message(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

// The length of the character at the front of `text` and its code point, 0 if there is none.
// Surrogates and overlong forms count as characters.
struct character {
  std::size_t length = 0;
  std::uint32_t code = 0;
};

character front_character(std::string_view text) {
  const auto at = [&](std::size_t i) { return std::uint32_t{static_cast<unsigned char>(text[i])}; };
  const std::uint32_t lead = at(0);
  if (lead < 0x80) return {1, lead};
  const auto length = static_cast<std::size_t>(std::countl_one(static_cast<unsigned char>(lead)));
  if (length < 2 || length > 4 || text.size() < length) return {};
  std::uint32_t code = lead & (0x7fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((at(i) & 0xc0) != 0x80) return {};
    code = code << 6 | (at(i) & 0x3f);
  }
  return code <= 0x10ffff ? character{length, code} : character{};
}

void append_utf8(std::string& text, std::uint32_t code) {
  const auto put = [&text](std::uint32_t byte) { text += static_cast<char>(byte); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xc0 | code >> 6);
  } else {
    if (code < 0x10000) {
      put(0xe0 | code >> 12);
    } else {
      put(0xf0 | code >> 18);
      put(0x80 | (code >> 12 & 0x3f));
    }
    put(0x80 | (code >> 6 & 0x3f));
  }
  put(0x80 | (code & 0x3f));
}

constexpr std::string_view replacement = "\xef\xbf\xbd";  // U+FFFD

// PCRE2 refuses surrogates. No expression tells them from U+FFFD, which is as long.
std::string without_surrogates(std::string_view text) {
  std::string result(text);
  for (std::size_t i = result.find('\xed'); i != result.npos; i = result.find('\xed', i + 1)) {
    if (static_cast<unsigned char>(result[i + 1]) >= 0xa0) result.replace(i, 3, replacement);
  }
  return result;
}

}  // namespace

std::string replace_invalid_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const character front = front_character(text);
    if (front.length == 0) {
      result += replacement;
      text.remove_prefix(1);
    } else {
      append_utf8(result, front.code);
      text.remove_prefix(front.length);
    }
  }
  return result;
}

struct pre_tokenizer::family {
  std::vector<std::string_view> names;  // as files spell `tokenizer.ggml.pre`
  std::vector<std::string_view> expressions;
  bool is_llama3;  // takes words that are tokens whole, begins with a bos
};

struct pre_tokenizer::expression {
  std::unique_ptr<pcre2_code, code_deleter> code;

  explicit expression(std::string_view pattern) {
    std::string expanded(pattern);
    for (std::size_t i = 0; (i = expanded.find("\\s", i)) != expanded.npos;) {
      expanded.replace(i, 2, space_ranges);
    }
    int error = 0;
    PCRE2_SIZE offset = 0;
    code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expanded.data()), expanded.size(),
                             PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr));
    if (!code) {
      throw tokenizer_error("pre_tokenizer: expression at " + std::to_string(offset) + ": " +
                            pcre2_message(error));
    }
  }

  // Cuts [begin, end) of the subject at both ends of every match and appends the pieces' ends. A
  // piece is a subject of its own: looking around stops at its ends.
  void cut(std::string_view subject, std::size_t begin, std::size_t end, pcre2_match_data* match,
           std::vector<std::size_t>& ends) const {
    const std::string_view piece = subject.substr(begin, end - begin);
    std::size_t position = 0;
    while (position < piece.size()) {
      // The text is well-formed; checking it again in every call would cost quadratic time.
      const int result =
          pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(piece.data()), piece.size(),
                      position, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, match, nullptr);
      if (result == PCRE2_ERROR_NOMATCH) break;
      if (result < 0) throw tokenizer_error("pre_tokenizer: " + pcre2_message(result));
      const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match);
      if (range[0] > position) ends.push_back(begin + range[0]);
      ends.push_back(begin + range[1]);
      position = range[1];
    }
    if (position < piece.size()) ends.push_back(end);
  }
};

const std::vector<pre_tokenizer::family>& pre_tokenizer::families() {
  static const std::vector<family> all{
      {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"},
       {R"(\p{N})", gpt2_words},
       false},
      {{"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "gigachat", "a.x-4.0", "mellum"},
       {gpt2_words},
       false},
      {{"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"}, {llama3_words}, true},
      {{"qwen2", "deepseek-r1-qwen", "stablelm2"}, {qwen2_words}, false},
      {{"deepseek-llm"},
       {R"([\r\n])", deepseek_letters, deepseek_punctuation, trailing_space, deepseek_east_asian,
        R"(\p{N}++)"},
       false},
  };
  return all;
}

const pre_tokenizer::family* pre_tokenizer::find(std::string_view name) {
  for (const family& candidate : families()) {
    const auto& names = candidate.names;
    if (std::find(names.begin(), names.end(), name) != names.end()) return &candidate;
  }
  return nullptr;
}

bool pre_tokenizer::supports(std::string_view name) { return find(name) != nullptr; }

std::string pre_tokenizer::supported_names() {
  std::string list;
  for (const family& candidate : families()) {
    for (const std::string_view name : candidate.names) {
      if (!list.empty()) list += ", ";
      list += name;
    }
  }
  return list;
}

pre_tokenizer::pre_tokenizer(std::string_view name) : family_(find(name)) {
  std::vector<expression> expressions;
  for (const std::string_view pattern : family_->expressions) expressions.emplace_back(pattern);
  expressions_ = std::make_shared<const std::vector<expression>>(std::move(expressions));
}

bool pre_tokenizer::ignores_merges() const { return family_->is_llama3; }
bool pre_tokenizer::adds_bos() const { return family_->is_llama3; }

std::vector<std::string_view> pre_tokenizer::split(std::string_view text) const {
  const std::string subject = without_surrogates(text);
  const std::unique_ptr<pcre2_match_data, match_deleter> match(pcre2_match_data_create(1, nullptr));
  if (!match) throw std::bad_alloc();
  std::vector<std::size_t> ends{text.size()};
  for (const expression& cutter : *expressions_) {
    std::vector<std::size_t> finer;
    finer.reserve(ends.size());
    std::size_t begin = 0;
    for (const std::size_t end : ends) {
      cutter.cut(subject, begin, end, match.get(), finer);
      begin = end;
    }
    ends = std::move(finer);
  }
  std::vector<std::string_view> words;
  words.reserve(ends.size());
  std::size_t begin = 0;
  for (const std::size_t end : ends) {
    words.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return words;
}

}  // namespace llama
