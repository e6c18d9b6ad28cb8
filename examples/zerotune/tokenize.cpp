// SPDX-License-Identifier: Apache-2.0
// zerotune tokenize: JSON strings, a line each, to JSON arrays of token ids.
#include <iostream>
#include <memory>
#include <string>

#include "failure.hpp"
#include "llama/gguf.hpp"
#include "llama/tokenizer.hpp"
#include "options.hpp"
#include "zerotune/tuning/json_limits.hpp"

namespace zerotune_cli {

namespace {

constexpr zerotune::json_limits line_limits{
    .bytes = 64u << 20, .depth = 2, .string_bytes = 64u << 20, .elements = 1};

// As std::getline, but a line without end does not take all memory.
bool read_line(std::istream& in, std::string& line, const std::string& where) {
  line.clear();
  std::streambuf& buffer = *in.rdbuf();
  for (int c = buffer.sbumpc(); c != std::char_traits<char>::eof(); c = buffer.sbumpc()) {
    if (c == '\n') return true;
    line += static_cast<char>(c);
    if (line.size() > line_limits.bytes)
      throw usage_error(where + ": expected at most " + std::to_string(line_limits.bytes) +
                        " bytes, got more");
  }
  return !line.empty();
}

void run_tokenize(const model_options& options) {
  const llama::tokenizer tokens = llama::tokenizer::from_gguf(llama::gguf_file(options.model));
  std::string line, where = "standard input:1";
  for (std::size_t number = 1; read_line(std::cin, line, where); ++number) {
    nlohmann::json text;
    try {
      text = zerotune::parse_json(line, where, line_limits);
    } catch (const zerotune::format_error& error) {
      throw usage_error(error.what());
    }
    if (!text.is_string())
      throw usage_error(where + ": expected a JSON string, got " + text.type_name());
    const nlohmann::json ids = tokens.encode(text.get_ref<const std::string&>());
    std::cout << ids.dump() << '\n';
    where = "standard input:" + std::to_string(number + 1);
  }
  std::cout.flush();
}

}  // namespace

void add_tokenize(CLI::App& program) {
  CLI::App* const command = program.add_subcommand(
      "tokenize",
      "Reads JSON strings, a line each, from standard input and prints a JSON array of token ids "
      "for each. Special tokens are not parsed and no bos is added; a vocabulary-only file will "
      "do.");
  const auto options = std::make_shared<model_options>();
  options->add(*command, false);
  command->add_flag("--json", options->json, "the output is JSON with or without it");
  command->callback([options] { run_tokenize(*options); });
}

}  // namespace zerotune_cli
