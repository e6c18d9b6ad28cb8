// SPDX-License-Identifier: Apache-2.0
// A folder for one test's files, and the small model that tests of the program run on.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "examples/llama/family_models.hpp"

namespace test {

/// A new folder that goes with this object.
class scratch_folder {
 public:
  scratch_folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "zerotune-XXXXXX").string();
    if (!mkdtemp(pattern.data())) throw std::runtime_error("no temporary folder");
    path_ = pattern;
  }
  scratch_folder(const scratch_folder&) = delete;
  scratch_folder& operator=(const scratch_folder&) = delete;
  ~scratch_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  std::string file(std::string_view name) const { return (path_ / name).string(); }
  std::string write(std::string_view name, std::string_view text) const {
    std::ofstream(file(name), std::ios::binary) << text;
    return file(name);
  }
  std::string read(std::string_view name) const {
    std::ostringstream text;
    text << std::ifstream(file(name), std::ios::binary).rdbuf();
    return text.str();
  }

 private:
  std::filesystem::path path_;
};

/// A model of the family Qwen 2.5 with made-up weights, written once per process.
inline const std::string& small_model() {
  static const scratch_folder folder;
  static const std::string path = [] {
    const std::vector<std::byte> bytes =
        llama_test::make_family_model(llama_test::model_family::qwen_2_5);
    return folder.write("model.gguf", {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }();
  return path;
}

/// Labelled rows of several lengths, two choices; some answers have several tokens.
inline std::string sample_rows(int rows) {
  static constexpr const char* words[] = {"fine", "dull", "long", "bright", "slow", "kind", "odd"};
  std::string text;
  for (int i = 0; i < rows; ++i) {
    std::string review;
    for (int w = 0; w <= i % 7; ++w) review += std::string(w ? " " : "") + words[(i * 3 + w) % 7];
    text += R"({"id": "row-)" + std::to_string(i) + R"(", "text": ")" + review +
            R"(", "choices": ["good", "very bad"], "label": )" + std::to_string(i % 2) + "}\n";
  }
  return text;
}

}  // namespace test
