// SPDX-License-Identifier: Apache-2.0
#include "scoring.hpp"

#include <cstdint>
#include <utility>

namespace zerotune_cli {

namespace {

struct character {
  char32_t code = 0;     // U+FFFD for a byte that is no UTF-8
  std::size_t size = 1;  // bytes
  bool complete = true;  // false: the text ends within it
};

character decode(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t first = byte(at);
  if (first < 0x80) return {first, 1, true};
  const std::size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return {0xfffd, 1, true};
  char32_t code = first & (0xffu >> (size + 1));
  for (std::size_t i = 1; i < size; ++i) {
    if (at + i == text.size()) return {0xfffd, 1, false};
    if ((byte(at + i) & 0xc0) != 0x80) return {0xfffd, 1, true};
    code = (code << 6) | (byte(at + i) & 0x3fu);
  }
  return {code, size, true};
}

void encode(char32_t code, std::string& out) {
  const auto put = [&](char32_t value) { out += static_cast<char>(value); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xc0 | (code >> 6));
  } else {
    if (code < 0x10000) {
      put(0xe0 | (code >> 12));
    } else {
      put(0xf0 | (code >> 18));
      put(0x80 | ((code >> 12) & 0x3f));
    }
    put(0x80 | ((code >> 6) & 0x3f));
  }
  put(0x80 | (code & 0x3f));
}

bool in(char32_t code, char32_t first, char32_t last) { return first <= code && code <= last; }

char32_t lower(char32_t c) {
  if (in(c, 'A', 'Z')) return c + 32;
  if (in(c, 0xc0, 0xde) && c != 0xd7) return c + 32;                         // Latin-1
  if (in(c, 0x100, 0x12f) || in(c, 0x132, 0x137) || in(c, 0x14a, 0x177))     // Latin Extended-A:
    return c | 1;                                                            // even is upper case
  if (in(c, 0x139, 0x148) || in(c, 0x179, 0x17e)) return c % 2 ? c + 1 : c;  // odd is
  if (c == 0x178) return 0xff;
  if (in(c, 0x391, 0x3a9) && c != 0x3a2) return c + 32;  // Greek
  if (in(c, 0x410, 0x42f)) return c + 32;                // Cyrillic
  if (in(c, 0x400, 0x40f)) return c + 80;
  return c;
}

// Letters, digits, marks and everything that is not known to be something else.
bool is_word(char32_t c) {
  if (c < 0x80) return in(c, '0', '9') || in(c, 'A', 'Z') || in(c, 'a', 'z') || c == '_';
  if (in(c, 0x80, 0xbf))
    return c == 0xaa || c == 0xb2 || c == 0xb3 || c == 0xb5 || c == 0xb9 || c == 0xba;
  const bool other = c == 0xd7 || c == 0xf7 || in(c, 0x2000, 0x206f) || in(c, 0x2190, 0x2bff) ||
                     in(c, 0x3000, 0x3004) || in(c, 0x3008, 0x3020) || c == 0x3030 || c == 0xfeff ||
                     in(c, 0xff01, 0xff0f) || in(c, 0xff1a, 0xff20) || in(c, 0xff3b, 0xff40) ||
                     in(c, 0xff5b, 0xff65) || c == 0xfffd || in(c, 0x1f000, 0x1faff);
  return !other;
}

std::string_view trim_left(std::string_view text) {
  while (!text.empty()) {
    const character c = decode(text, 0);
    if (is_word(c.code)) break;
    text.remove_prefix(c.size);
  }
  return text;
}

// Whether `choice` begins `text` and no word goes on behind it. Both are folded.
bool begins(std::string_view text, std::string_view choice) {
  return !choice.empty() && text.starts_with(choice) &&
         (text.size() == choice.size() || !is_word(decode(text, choice.size()).code));
}

}  // namespace

std::string fold_case(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const character c = decode(text, i);
    if (c.code == 0xfffd)
      result.append(text, i, c.size);
    else
      encode(lower(c.code), result);
    i += c.size;
  }
  return result;
}

std::string_view trim(std::string_view text) {
  text = trim_left(text);
  std::size_t end = 0;  // behind the last character of a word
  for (std::size_t i = 0; i < text.size();) {
    const character c = decode(text, i);
    i += c.size;
    if (is_word(c.code)) end = i;
  }
  return text.substr(0, end);
}

std::string normalise(std::string_view text) { return fold_case(trim(text)); }

std::string_view first_line(std::string_view continuation) {
  return continuation.substr(0, continuation.find('\n'));
}

index_t parse_answer(std::string_view continuation, std::span<const std::string> choices) {
  const std::string answer = normalise(first_line(continuation));
  index_t best = zerotune::no_label;
  std::size_t longest = 0;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    if (choices[i].size() > longest && begins(answer, choices[i])) {
      best = static_cast<index_t>(i);
      longest = choices[i].size();
    }
  }
  return best;
}

bool is_settled(std::string_view continuation, std::span<const std::string> choices) {
  if (continuation.find('\n') != std::string_view::npos) return true;
  const std::string_view text = trim_left(continuation);
  for (std::size_t i = 0; i < text.size();) {
    const character c = decode(text, i);
    if (!c.complete) return false;
    i += c.size;
  }
  const std::string answer = fold_case(text);
  for (const std::string& choice : choices)
    if (!choice.empty() && choice.starts_with(answer)) return false;
  return true;
}

}  // namespace zerotune_cli
