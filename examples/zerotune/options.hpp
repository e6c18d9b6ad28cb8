// SPDX-License-Identifier: Apache-2.0
// Options that several commands share, and how a command joins the program.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "llama/gemm.hpp"

namespace zerotune_cli {

/// What every command that runs a model takes.
struct model_options {
  std::string model;
  std::string compute = "fp32";
  int threads = default_threads();
  bool json = false;

  static int default_threads();
  /// Adds --model; --compute, --threads and --json if wanted.
  void add(CLI::App& command, bool runs = true);
  /// What --compute asks for. @throws usage_error if this build or CPU has not got it
  llama::gemm_kind products() const;
};

/// Labelled examples and how a prompt is made of them.
struct data_options {
  std::string data;
  std::string prompt_template;
  void add(CLI::App& command);
};

/// --gamma or --profile.
struct gamma_options {
  std::string gamma;
  std::string profile;
  void add(CLI::App& command);
};

void add_tokenize(CLI::App& program);
void add_inspect(CLI::App& program);
void add_generate(CLI::App& program);
void add_evaluate(CLI::App& program);
void add_heads(CLI::App& program);
void add_tune(CLI::App& program);
void add_analyze(CLI::App& program);
void add_report(CLI::App& program);

}  // namespace zerotune_cli
