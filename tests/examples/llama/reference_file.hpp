// SPDX-License-Identifier: Apache-2.0
// Where the tests of the reference host find models and committed references, and a reader of the
// references' JSON: objects, arrays, numbers and strings without escapes.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace llama::test {

inline std::filesystem::path environment_path(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

/// The folder of committed references.
inline std::filesystem::path references() {
  return std::filesystem::path(__FILE__).parent_path() / ".." / ".." / "references";
}

/// Files by this name below `models/ggml-vocab`: of ZEROTUNE_DATA_DIR, then of the cache.
inline std::vector<std::filesystem::path> vocabulary_files(const std::string& name) {
  std::vector<std::filesystem::path> found;
  for (const auto& folder : {environment_path("ZEROTUNE_DATA_DIR") / "models" / "ggml-vocab",
                             environment_path("HOME") / ".cache" / "zerotune" / "ggml-vocab"}) {
    if (std::filesystem::exists(folder / name)) found.push_back(folder / name);
  }
  return found;
}

/// SmolLM2-135M-Instruct as GGUF: ZEROTUNE_MODEL_FILE, else in the cache; empty if it is not there.
inline std::filesystem::path smollm_file() {
  std::filesystem::path path = environment_path("ZEROTUNE_MODEL_FILE");
  if (path.empty()) {
    path = environment_path("HOME") / ".cache/zerotune/SmolLM2-135M-Instruct.Q4_1.gguf";
  }
  return std::filesystem::exists(path) ? path : std::filesystem::path();
}

/// A file of the stories260K model below ZEROTUNE_DATA_DIR; empty if it is not there.
inline std::filesystem::path stories_file(const std::string& name) {
  const auto path = environment_path("ZEROTUNE_DATA_DIR") / "models" / "stories260K" / name;
  return std::filesystem::exists(path) ? path : std::filesystem::path();
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error("cannot open " + path.string());
  return {std::istreambuf_iterator<char>(stream), {}};
}

struct json {
  std::string text;  // of a string or a number
  std::vector<json> items;
  std::map<std::string, json> members;

  const json& operator[](const std::string& key) const { return members.at(key); }
  bool contains(const std::string& key) const { return members.count(key) != 0; }
  int integer() const { return std::stoi(text); }
  std::vector<int> integers() const {
    std::vector<int> result;
    for (const json& item : items) result.push_back(item.integer());
    return result;
  }
};

inline json parse_json(std::string_view& rest) {
  const auto skip = [&rest] { rest.remove_prefix(rest.find_first_not_of(" \n\r\t,:")); };
  json value;
  skip();
  if (rest[0] == '"') {
    const std::size_t end = rest.find('"', 1);
    value.text = rest.substr(1, end - 1);
    rest.remove_prefix(end + 1);
  } else if (rest[0] == '[' || rest[0] == '{') {
    const bool is_object = rest[0] == '{';
    rest.remove_prefix(1);
    for (skip(); rest[0] != ']' && rest[0] != '}'; skip()) {
      json item = parse_json(rest);
      if (is_object) {
        value.members[item.text] = parse_json(rest);
      } else {
        value.items.push_back(std::move(item));
      }
    }
    rest.remove_prefix(1);
  } else {
    const std::size_t end = rest.find_first_of(",]} \n");
    value.text = rest.substr(0, end);
    rest.remove_prefix(end);
  }
  return value;
}

inline json read_reference(const std::string& name) {
  const std::string text = read_file(references() / name);
  std::string_view rest = text;
  return parse_json(rest);
}

inline std::string decode_base64(std::string_view text) {
  constexpr std::string_view digits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  unsigned bits = 0;
  int num_bits = 0;
  for (const char c : text) {
    if (c == '=') break;
    bits = (bits << 6 | static_cast<unsigned>(digits.find(c))) & 0xffffff;
    num_bits += 6;
    if (num_bits >= 8) bytes += static_cast<char>(bits >> (num_bits -= 8));
  }
  return bytes;
}

}  // namespace llama::test
