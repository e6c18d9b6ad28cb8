// SPDX-License-Identifier: Apache-2.0
// usage: zerotune-requantise IN.gguf TYPE OUT.gguf
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "llama/mapped_file.hpp"
#include "requantise.hpp"

int main(int argc, char** argv) {
  constexpr const char* usage =
      "usage: zerotune-requantise IN.gguf TYPE OUT.gguf\n"
      "Writes a model with its matrices as TYPE: f16, q8_0 or q4_0.\n";
  if (argc == 2 && std::string_view(argv[1]) == "--help") {
    std::fputs(usage, stdout);
    return 0;
  }
  const std::string_view name = argc == 4 ? argv[2] : "";
  for (const llama::ggml_type type :
       {llama::ggml_type::f16, llama::ggml_type::q8_0, llama::ggml_type::q4_0}) {
    if (llama::layout_of(type).name != name) continue;
    try {
      const llama::mapped_file in(argv[1]);
      const std::string part = std::string(argv[3]) + ".part";
      std::ofstream out(part, std::ios::binary);
      zerotune_reproduce::requantise(in.bytes(), type, out);
      out.close();
      if (!out) throw std::runtime_error(part + ": cannot be written");
      std::filesystem::rename(part, argv[3]);
      return 0;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "zerotune-requantise: %s\n", error.what());
      return 1;
    }
  }
  std::fputs(usage, stderr);
  return 2;
}
