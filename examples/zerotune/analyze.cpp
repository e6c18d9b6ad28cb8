// SPDX-License-Identifier: Apache-2.0
// zerotune analyze: the paper's analyses of a model on some rows.
#include "analyze.hpp"

#include <cstdio>
#include <memory>

#include "failure.hpp"
#include "files.hpp"
#include "loaded_model.hpp"
#include "options.hpp"
#include "prompt_template.hpp"
#include "rows.hpp"
#include "zerotune/policy/limits.hpp"

namespace zerotune_cli {

namespace {

struct analyze_options {
  model_options model;
  data_options data;
  analysis_plan plan;
  std::string output;
};

void check_gammas(const char* option, const std::vector<float>& gammas) {
  for (std::size_t i = 0; i < gammas.size(); ++i) {
    if (!zerotune::impl::is_valid_gamma(gammas[i]))
      throw usage_error(std::string(option) + ": expected finite numbers >= 0, got " +
                        std::to_string(gammas[i]));
    for (std::size_t j = 0; j < i; ++j)
      if (gammas[j] == gammas[i])
        throw usage_error(std::string(option) + ": expected each gamma once, got " +
                          std::to_string(gammas[i]) + " twice");
  }
}

void run_analyze(const analyze_options& options) {
  check_gammas("--gammas", options.plan.gammas);
  check_gammas("--probe-gammas", options.plan.probe_gammas);
  const data_set data = read_rows(options.data.data);
  const prompt_template prompts = prompt_template::from_option(options.data.prompt_template);
  const loaded_model model(options.model.model, options.model.products());
  const analysis result = run_analysis(model, prompts, data, options.plan, options.model.threads);
  const std::string json = write_analysis(result);
  if (!options.output.empty()) write_file(options.output, json);
  if (options.model.json) {
    std::fputs(json.c_str(), stdout);
    return;
  }
  std::fputs(format_analysis(result).c_str(), stdout);
  if (!options.output.empty()) std::printf("Analysis: %s\n", options.output.c_str());
}

}  // namespace

void add_analyze(CLI::App& program) {
  CLI::App* const command = program.add_subcommand(
      "analyze",
      "The paper's analyses: sink mass per head, entropy of attention and output as gamma varies, "
      "the effect of every head and of shallow, middle and deep layers, scaling the initial token "
      "against scaling others, and how far the key form is from a gamma. Labels are optional. "
      "The defaults take 21 passes over the rows, two more that also go backward, and eight over "
      "--attention-rows of them: about a minute for a model of 135 million weights on 64 short "
      "rows and two cores.");
  const auto options = std::make_shared<analyze_options>();
  options->model.add(*command);
  options->data.add(*command);
  analysis_plan& plan = options->plan;
  command->add_option("--output", options->output, "write the analysis as JSON to this file")
      ->type_name("FILE");
  command->add_option("--rows", plan.rows, "rows to measure on, chosen by --seed")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  command
      ->add_option("--attention-rows", plan.attention_rows,
                   "of these, rows whose attention is looked at query by query")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  command->add_option("--gammas", plan.gammas, "of all heads, separated by commas")
      ->delimiter(',')
      ->capture_default_str();
  command
      ->add_option("--probe-gammas", plan.probe_gammas,
                   "of layer groups, token positions and the key form, separated by commas")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--seed", plan.seed, "of the rows and the intervals")->capture_default_str();
  command->callback([options] { run_analyze(*options); });
}

}  // namespace zerotune_cli
