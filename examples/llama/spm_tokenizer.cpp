// SPDX-License-Identifier: Apache-2.0
#include "llama/spm_tokenizer.hpp"

#include <algorithm>
#include <bit>
#include <queue>

namespace llama {
namespace {

constexpr std::string_view space_mark = "\xe2\x96\x81";  // U+2581, a space in token texts

// A piece of the text in a doubly linked list of positions.
struct node {
  std::string_view text;  // empty once it has been merged into its left neighbour
  int previous;
  int next;
};

struct candidate {
  float score;
  int left;          // position of the left node
  std::size_t size;  // bytes of both texts

  // std::priority_queue takes the largest: the best score, then the leftmost.
  bool operator<(const candidate& other) const {
    return score < other.score || (score == other.score && left > other.left);
  }
};

// The length of a character by its first byte alone; a stray byte counts as a character.
std::size_t character_length(char lead) {
  const int ones = std::countl_one(static_cast<unsigned char>(lead));
  return ones < 2 ? 1 : static_cast<std::size_t>(std::min(ones, 4));
}

std::string byte_text(int byte) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  const auto digit = [&](int value) { return digits[static_cast<std::size_t>(value)]; };
  return {'<', '0', 'x', digit(byte >> 4), digit(byte & 15), '>'};
}

}  // namespace

spm_tokenizer::spm_tokenizer(const vocabulary& tokens, std::string_view where) : tokens_(&tokens) {
  for (int byte = 0; byte < 256; ++byte) {
    int id = tokens.find(byte_text(byte));
    if (id < 0) id = tokens.find(std::string(1, static_cast<char>(byte)));
    if (id < 0) id = tokens.ids().unknown;
    if (id < 0)
      throw format_error(where, "a token " + byte_text(byte) + " or an unknown one", "none");
    byte_tokens_[static_cast<std::size_t>(byte)] = id;
  }
  for (int id = 0; id < tokens.size(); ++id) {
    longest_ = std::max(longest_, tokens.token(id).text.size());
  }
}

void spm_tokenizer::encode(std::string_view text, std::vector<int>& ids) const {
  std::string marked;
  marked.reserve(text.size() + text.size() / 2);
  for (const char c : text) c == ' ' ? marked += space_mark : marked += c;

  std::vector<node> nodes;
  nodes.reserve(text.size());
  for (std::string_view rest = marked; !rest.empty();) {
    const std::string_view front = rest.substr(0, character_length(rest[0]));
    const int position = static_cast<int>(nodes.size());
    rest.remove_prefix(front.size());
    nodes.push_back({front, position - 1, rest.empty() ? -1 : position + 1});
  }
  const auto at = [&nodes](int position) -> node& {
    return nodes[static_cast<std::size_t>(position)];
  };
  // Neighbours lie side by side in `marked`.
  const auto join = [](std::string_view left, std::string_view right) {
    return std::string_view(left.data(), left.size() + right.size());
  };
  std::priority_queue<candidate> queue;
  const auto consider = [&](int left) {
    if (left < 0 || at(left).next < 0) return;
    const std::string_view joint = join(at(left).text, at(at(left).next).text);
    const int id = joint.size() <= longest_ ? tokens_->find_plain(joint) : -1;
    if (id >= 0) queue.push({tokens_->token(id).score, left, joint.size()});
  };
  for (int position = 0; position < static_cast<int>(nodes.size()); ++position) consider(position);
  while (!queue.empty()) {
    const candidate best = queue.top();
    queue.pop();
    node& left = at(best.left);
    // Either side may have been merged since; then the joint text has another length.
    if (left.text.empty() || left.next < 0) continue;
    node& right = at(left.next);
    if (left.text.size() + right.text.size() != best.size) continue;
    left.text = join(left.text, right.text);
    right.text = {};
    left.next = right.next;
    if (right.next >= 0) at(right.next).previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
  for (int position = nodes.empty() ? -1 : 0; position >= 0; position = at(position).next) {
    const std::string_view piece = at(position).text;
    if (const int id = tokens_->find_plain(piece); id >= 0) {
      ids.push_back(id);
    } else {
      for (const char byte : piece) ids.push_back(byte_tokens_[static_cast<unsigned char>(byte)]);
    }
  }
}

std::string spm_tokenizer::decode(std::string_view token_text) {
  std::string text;
  while (!token_text.empty()) {
    const bool is_space = token_text.starts_with(space_mark);
    text += is_space ? ' ' : token_text[0];
    token_text.remove_prefix(is_space ? space_mark.size() : 1);
  }
  return text;
}

int spm_tokenizer::byte_of(std::string_view token_text) {
  for (int byte = 0; byte < 256; ++byte) {
    if (token_text == byte_text(byte)) return byte;
  }
  return -1;
}

}  // namespace llama
