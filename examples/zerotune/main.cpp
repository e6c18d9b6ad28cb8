// SPDX-License-Identifier: Apache-2.0
// zerotune: tunes a frozen model's attention to the initial token (docs/design.md, section 7).
// Exit status: 0, 2 for a caller's mistake, 1 for any other failure.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <system_error>

#include "failure.hpp"
#include "llama/format_error.hpp"
#include "options.hpp"
#include "zerotune/core/error.hpp"
#include "zerotune/core/version.hpp"

namespace {

int fail(int status, const char* message) {
  std::fprintf(stderr, "zerotune: %s\n", message);
  return status;
}

int run(int argc, char** argv) {
  CLI::App program(
      "Multiplies the attention that every token pays to the initial token by gamma, per head, and "
      "tunes gamma for a task (ZeroTuning, arXiv 2505.11739).",
      "zerotune");
  program.set_version_flag("--version", std::to_string(zerotune::version.major) + "." +
                                            std::to_string(zerotune::version.minor) + "." +
                                            std::to_string(zerotune::version.patch));
  program.require_subcommand(1);
  program.footer("zerotune COMMAND --help describes a command.");
  zerotune_cli::add_tokenize(program);
  zerotune_cli::add_inspect(program);
  zerotune_cli::add_generate(program);
  zerotune_cli::add_evaluate(program);
  zerotune_cli::add_heads(program);
  zerotune_cli::add_tune(program);
  zerotune_cli::add_analyze(program);
  zerotune_cli::add_report(program);
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return program.exit(error) == 0 ? 0 : 2;
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    return fail(1, "standard output cannot be written");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const zerotune_cli::output_error& error) {
    return fail(1, error.what());
  } catch (const zerotune_cli::usage_error& error) {
    return fail(2, error.what());
  } catch (const zerotune::format_error& error) {
    return fail(2, error.what());
  } catch (const llama::format_error& error) {
    return fail(2, error.what());
  } catch (const std::invalid_argument& error) {
    return fail(2, error.what());
  } catch (const std::system_error& error) {  // a model file that cannot be opened
    return fail(2, error.what());
  } catch (const std::bad_alloc&) {
    return fail(1, "out of memory");
  } catch (const std::exception& error) {
    return fail(1, error.what());
  }
}
