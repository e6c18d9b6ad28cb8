// SPDX-License-Identifier: Apache-2.0
// zerotune tune: finds a gamma table for a task and says what it brought on rows never looked at.
#include <algorithm>
#include <cstdio>
#include <memory>

#include "failure.hpp"
#include "files.hpp"
#include "loaded_model.hpp"
#include "options.hpp"
#include "tuning_options.hpp"
#include "tuning_run.hpp"
#include "zerotune/tuning/json_writer.hpp"

namespace zerotune_cli {

namespace {

struct tune_options {
  model_options model;
  data_options data;
  probe_settings probe;
  std::string output;
  std::string method = "paper";
  tuning_plan plan;
};

void run_tune(const tune_options& options) {
  const data_set data = read_rows(options.data.data);
  const prompt_template prompts = prompt_template::from_option(options.data.prompt_template);
  tuning_plan plan = options.plan;
  plan.selects_heads = options.method == "paper";
  plan.probe = options.probe.options();
  plan.share = options.probe.share;
  plan.search.goal = plan.probe.goal;
  if (plan.selects_heads && plan.sizes.profile < 1)
    throw usage_error("--profile-rows: expected at least 1 for --method paper, got 0");
  if (!(plan.share > 0)) throw usage_error("--share: expected a value in (0, 1], got 0");
  const loaded_model model(options.model.model);
  host_evaluator host(model.model, model.tokens, prompts, data, {.threads = options.model.threads});
  tuning_outcome outcome = run_tuning(host, data, plan);
  outcome.result.model = model.describe();
  outcome.result.model.file_hash = model.file.file_hash();
  outcome.result.template_text = prompts.text();
  const std::string json = zerotune::write_profile(outcome.result);
  write_file(options.output, json);
  if (options.model.json) {
    std::fputs(json.c_str(), stdout);
    return;
  }
  std::fputs(format_outcome(outcome).c_str(), stdout);
  std::printf("Profile: %s\n", options.output.c_str());
}

}  // namespace

void add_tune(CLI::App& program) {
  CLI::App* const command = program.add_subcommand(
      "tune",
      "Finds gamma for a task as the paper does: three disjoint splits, a head profile, only the "
      "dominant kind of heads, a grid of gammas; then reads the test split once and reports both "
      "scores with intervals and McNemar's test. Writes the profile as JSON.");
  const auto options = std::make_shared<tune_options>();
  options->model.add(*command);
  options->data.add(*command);
  command->add_option("--output", options->output, "the tuning profile to write")
      ->required()
      ->type_name("FILE");
  command
      ->add_option("--method", options->method,
                   "paper: profile, select, search; uniform: search one gamma for all heads")
      ->check(CLI::IsMember({"paper", "uniform"}))
      ->capture_default_str();
  options->probe.add(*command);
  tuning_plan& plan = options->plan;
  command->add_option("--grid", plan.search.grid, "gammas to try, besides 1")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  command
      ->add_option("--max-divergence", plan.search.max_divergence,
                   "cap on the mean divergence of the choices from the untouched model, nats; for "
                   "the entropy objectives")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--profile-rows", plan.sizes.profile, "rows to profile heads on")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--search-rows", plan.sizes.search, "rows to search gamma on")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--test-rows", plan.sizes.test, "rows to judge the result on, read once")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--seed", plan.seed, "of the splits, intervals and controls")
      ->capture_default_str();
  command
      ->add_option("--controls", plan.controls,
                   "also evaluate this many random selections of as many heads, same gamma")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  command->callback([options] { run_tune(*options); });
}

}  // namespace zerotune_cli
