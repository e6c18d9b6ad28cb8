// SPDX-License-Identifier: Apache-2.0
// zerotune report: a tuning profile as one HTML file that needs nothing else.
#include <cstdio>
#include <memory>

#include "files.hpp"
#include "options.hpp"
#include "report_input.hpp"
#include "report_page.hpp"

namespace zerotune_cli {

namespace {

struct report_options {
  report_files files;
  std::string output;
  index_t examples = 30;
};

void run_report(const report_options& options) {
  write_file(options.output, make_report(read_report(options.files), options.examples));
  std::printf("Report: %s\n", options.output.c_str());
}

}  // namespace

void add_report(CLI::App& program) {
  CLI::App* const command = program.add_subcommand(
      "report",
      "A tuning profile as one HTML file that loads nothing: heat maps of gamma, effect and sink "
      "mass, gamma curves, both scores before and after, per class and as confusion, examples that "
      "changed, what the search cost, and every setting needed to repeat it.");
  const auto options = std::make_shared<report_options>();
  report_files& files = options->files;
  command->add_option("profile", files.profile, "tuning profile, as tune writes it")
      ->required()
      ->type_name("FILE");
  command->add_option("--output", options->output, "the HTML file to write")
      ->required()
      ->type_name("FILE");
  command->add_option("--analysis", files.analysis, "analysis of the same model, from analyze")
      ->type_name("FILE");
  command
      ->add_option("--untouched", files.untouched,
                   "predictions of evaluate without a gamma; needs --tuned")
      ->type_name("FILE");
  command
      ->add_option("--tuned", files.tuned,
                   "predictions of evaluate with --profile; needs --untouched")
      ->type_name("FILE");
  command
      ->add_option("--data", files.data,
                   "the rows, for the names of the choices and the texts of the examples")
      ->type_name("FILE");
  command->add_option("--examples", options->examples, "show at most this many changed examples")
      ->check(CLI::Range(0, 10000))
      ->capture_default_str();
  command->callback([options] { run_report(*options); });
}

}  // namespace zerotune_cli
