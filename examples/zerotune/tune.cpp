// SPDX-License-Identifier: Apache-2.0
// zerotune tune: finds a gamma table for a task and says what it brought on rows never looked at.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "failure.hpp"
#include "files.hpp"
#include "llama/sha256.hpp"
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
  search_settings search;
  std::string output;
  std::string journal;
  zerotune::split_sizes sizes;
  std::uint64_t seed = 1;
  index_t controls = 0;
  index_t shots = 0;
};

std::string ids_of(const std::vector<data_row>& rows) {
  std::string ids;
  for (const data_row& row : rows) ids += (ids.empty() ? "" : ",") + row.id;
  return ids;
}

// What a journal must agree on: all that answers and gradients depend on but table and row.
std::string journal_subject(const loaded_model& model, const tuning_plan& plan,
                            const prompt_template& prompts) {
  return "model " + model.file.file_hash() + ", data " + plan.data_hash + ", template " +
         llama::sha256::of(prompts.text()) + ", " + model.arithmetic() +
         (plan.shots.empty() ? "" : ", shots " + plan.shots);
}

// Moves the examples for the prompts out of the data, so that no row is its own example. They are
// the ones that evaluate takes with the same seed.
std::vector<data_row> take_shots(data_set& data, index_t count, std::uint64_t seed) {
  if (count == 0) return {};
  data.require_labels("--shots");
  if (count >= static_cast<index_t>(data.rows.size()))
    throw usage_error(data.name + ": --shots: expected fewer than the " +
                      std::to_string(data.rows.size()) + " rows, got " + std::to_string(count));
  std::vector<index_t> chosen = zerotune::stratified_order(data.labels(), seed);
  chosen.resize(static_cast<std::size_t>(count));
  std::vector<data_row> shots;
  for (const index_t row : chosen) shots.push_back(data.rows[static_cast<std::size_t>(row)]);
  std::sort(chosen.rbegin(), chosen.rend());
  for (const index_t row : chosen) data.rows.erase(data.rows.begin() + row);
  return shots;
}

void check(const tune_options& options) {
  if (options.search.method != "uniform" && options.sizes.profile < 1)
    throw usage_error("--profile-rows: expected at least 1 for --method " + options.search.method +
                      ", got 0");
  if (!(options.probe.share > 0)) throw usage_error("--share: expected a value in (0, 1], got 0");
}

void run_tune(const tune_options& options) {
  check(options);
  constexpr bool differentiable = zerotune::differentiable_evaluator<host_evaluator>;
  tuning_plan plan{options.search.method,
                   options.search.options(options.probe, options.seed, differentiable),
                   options.sizes, options.seed, options.controls};
  data_set data = read_rows(options.data.data);
  plan.data_hash = llama::sha256::of(read_file(options.data.data, std::size_t{1} << 30));
  const std::vector<data_row> shots = take_shots(data, options.shots, options.seed);
  plan.shots = ids_of(shots);
  const prompt_template prompts = prompt_template::from_option(options.data.prompt_template);
  const loaded_model model(options.model.model, options.model.products());
  plan.arithmetic = model.arithmetic();
  host_evaluator host(model.model, model.tokens, prompts, data,
                      {.threads = options.model.threads, .shots = shots});
  std::optional<tuning_journal> journal;
  if (!options.journal.empty())
    plan.journal = &journal.emplace(options.journal, journal_subject(model, plan, prompts));
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
      "Finds a gamma for every head for a task: three disjoint splits, candidate tables from the "
      "profile split, a choice on the search split; then reads the test split once and reports "
      "both scores with intervals and McNemar's test. Writes the profile as JSON.");
  const auto options = std::make_shared<tune_options>();
  options->model.add(*command);
  options->data.add(*command);
  command->add_option("--output", options->output, "the tuning profile to write")
      ->required()
      ->type_name("FILE");
  command
      ->add_option("--journal", options->journal,
                   "append every finished piece of work to this file, and go on from what it "
                   "already holds")
      ->type_name("FILE");
  options->search.add(*command);
  options->probe.add(*command);
  command
      ->add_option("--profile-rows", options->sizes.profile, "rows to measure and learn heads on")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--search-rows", options->sizes.search, "rows to choose on")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--test-rows", options->sizes.test, "rows to judge the result on, read once")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--shots", options->shots,
                   "few-shot examples before every prompt, taken from the data by --seed; they are "
                   "in no split")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "of the splits, minibatches, intervals and controls")
      ->capture_default_str();
  command
      ->add_option(
          "--controls", options->controls,
          "also evaluate the same gammas on random heads, with this many seeds (at least 5 "
          "say something)")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  command->callback([options] { run_tune(*options); });
}

}  // namespace zerotune_cli
