// SPDX-License-Identifier: Apache-2.0
#include "llama/bpe_tokenizer.hpp"

#include <algorithm>
#include <queue>
#include <tuple>
#include <utility>

namespace llama {
namespace {

// The alphabet: a printable Latin-1 byte is the character of its code; the others take the code
// points from 256 on, in order. All have one or two bytes of UTF-8.
bool is_printable(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

std::string to_utf8(int code) {
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

struct byte_alphabet {
  std::array<std::string, 256> characters;
  std::unordered_map<std::string_view, char> bytes;

  byte_alphabet() {
    int next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      auto& character = characters[static_cast<std::size_t>(byte)];
      character = to_utf8(is_printable(byte) ? byte : next++);
      bytes.emplace(character, static_cast<char>(byte));
    }
  }

  const std::string& operator[](char byte) const {
    return characters[static_cast<unsigned char>(byte)];
  }
};

const byte_alphabet& alphabet() {
  static const byte_alphabet instance;
  return instance;
}

std::uint64_t pair_key(int left, int right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

// A symbol of the word in a doubly linked list of positions.
struct node {
  int symbol;  // -1 once it has been merged into its left neighbour
  int previous;
  int next;
};

struct candidate {
  int rank;
  int left;  // position of the left node
  int left_symbol;
  int right_symbol;
  int result;

  // std::priority_queue takes the largest: the lowest rank, then the leftmost.
  bool operator<(const candidate& other) const {
    return std::tie(rank, left) > std::tie(other.rank, other.left);
  }
};

}  // namespace

bpe_tokenizer::bpe_tokenizer(const vocabulary& tokens, const std::vector<std::string_view>& merges,
                             pre_tokenizer splitter, std::string_view where)
    : tokens_(&tokens), splitter_(std::move(splitter)) {
  for (std::size_t byte = 0; byte < 256; ++byte) {
    byte_symbols_[byte] = intern(alphabet().characters[byte]);
  }
  merges_.reserve(merges.size());
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string_view text = merges[rank];
    const std::size_t space = text.find(' ', 1);
    if (space == text.npos || space + 1 == text.size()) {
      throw format_error(where, "two symbols with a space between them",
                         "'" + std::string(text) + "' at " + std::to_string(rank));
    }
    const std::string_view left = text.substr(0, space);
    const std::string_view right = text.substr(space + 1);
    const int result = intern(std::string(left) + std::string(right));
    merges_.emplace(pair_key(intern(left), intern(right)), merge{static_cast<int>(rank), result});
  }
}

int bpe_tokenizer::intern(std::string_view text) {
  if (const int id = tokens_->find_plain(text); id >= 0) return id;
  const auto [found, is_new] =
      other_symbols_.emplace(text, tokens_->size() + static_cast<int>(other_texts_.size()));
  if (is_new) other_texts_.emplace_back(text);
  return found->second;
}

void bpe_tokenizer::encode(std::string_view text, std::vector<int>& ids) const {
  const std::string valid = replace_invalid_utf8(text);
  for (const std::string_view word : splitter_.split(valid)) {
    if (splitter_.ignores_merges()) {
      std::string spelling;
      for (const char byte : word) spelling += alphabet()[byte];
      if (const int id = tokens_->find_plain(spelling); id >= 0) {
        ids.push_back(id);
        continue;
      }
    }
    merge_word(word, ids);
  }
}

void bpe_tokenizer::merge_word(std::string_view word, std::vector<int>& ids) const {
  std::vector<node> nodes(word.size());
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const int position = static_cast<int>(i);
    const int next = i + 1 < nodes.size() ? position + 1 : -1;
    nodes[i] = {byte_symbols_[static_cast<unsigned char>(word[i])], position - 1, next};
  }
  const auto at = [&nodes](int position) -> node& {
    return nodes[static_cast<std::size_t>(position)];
  };
  std::priority_queue<candidate> queue;
  const auto consider = [&](int left) {
    if (left < 0 || at(left).next < 0) return;
    const int left_symbol = at(left).symbol;
    const int right_symbol = at(at(left).next).symbol;
    const auto found = merges_.find(pair_key(left_symbol, right_symbol));
    if (found == merges_.end()) return;
    queue.push({found->second.rank, left, left_symbol, right_symbol, found->second.result});
  };
  for (int position = 0; position < static_cast<int>(nodes.size()); ++position) consider(position);
  while (!queue.empty()) {
    const candidate best = queue.top();
    queue.pop();
    node& left = at(best.left);
    // Either side may have been merged since.
    if (left.symbol != best.left_symbol || left.next < 0) continue;
    node& right = at(left.next);
    if (right.symbol != best.right_symbol) continue;
    left.symbol = best.result;
    right.symbol = -1;
    left.next = right.next;
    if (right.next >= 0) at(right.next).previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
  for (int position = nodes.empty() ? -1 : 0; position >= 0; position = at(position).next) {
    append_symbol(at(position).symbol, ids);
  }
}

// A symbol that is no token falls apart into those of its text's bytes that are tokens.
void bpe_tokenizer::append_symbol(int symbol, std::vector<int>& ids) const {
  if (symbol < tokens_->size()) return ids.push_back(symbol);
  for (const char& byte : other_texts_[static_cast<std::size_t>(symbol - tokens_->size())]) {
    if (const int id = tokens_->find_plain({&byte, 1}); id >= 0) ids.push_back(id);
  }
}

std::string bpe_tokenizer::decode(std::string_view token_text) {
  std::string bytes;
  while (!token_text.empty()) {
    const std::size_t length = static_cast<unsigned char>(token_text[0]) < 0x80 ? 1 : 2;
    const auto found = alphabet().bytes.find(token_text.substr(0, length));
    if (found != alphabet().bytes.end()) {
      bytes += found->second;
      token_text.remove_prefix(std::min(length, token_text.size()));
    } else {
      bytes += token_text[0];
      token_text.remove_prefix(1);
    }
  }
  return bytes;
}

}  // namespace llama
