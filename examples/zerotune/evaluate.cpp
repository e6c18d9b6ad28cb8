// SPDX-License-Identifier: Apache-2.0
// zerotune evaluate: both scores of a model on labelled rows.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <numeric>

#include "evaluator.hpp"
#include "failure.hpp"
#include "files.hpp"
#include "loaded_model.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "sampled_answers.hpp"
#include "table.hpp"
#include "zerotune/tuning/json_writer.hpp"
#include "zerotune/tuning/splits.hpp"

namespace zerotune_cli {

namespace {

using ordered_json = nlohmann::ordered_json;

struct evaluate_options {
  model_options model;
  data_options data;
  gamma_options gamma;
  index_t shots = 0;
  std::uint64_t seed = 1;
  index_t limit = 0;
  std::string predictions;
  llama::sampler_options sampling;
};

ordered_json prediction(const data_row& row, const row_answer& answer) {
  const zerotune::example_result& result = answer.result;
  ordered_json json = {{"id", row.id},
                       {"loglik", result.loglik},
                       {"entropy", result.entropy},
                       {"predicted", result.predicted}};
  json["generated"] = result.valid() ? ordered_json(result.generated) : ordered_json(nullptr);
  json["valid"] = result.valid();
  json["label"] = row.label == zerotune::no_label ? ordered_json(nullptr) : ordered_json(row.label);
  json["continuation"] = answer.continuation;
  return json;
}

// Share of rows that the likelihood divided by the choice's bytes gets right.
double accuracy_per_byte(const data_set& data, std::span<const index_t> examples,
                         std::span<const row_answer> answers) {
  double right = 0;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const data_row& row = data.rows[static_cast<std::size_t>(examples[i])];
    std::vector<double> scores = answers[i].result.loglik;
    for (std::size_t c = 0; c < scores.size(); ++c)
      scores[c] /= static_cast<double>(row.choices[c].size());
    right += zerotune::largest_choice(scores) == row.label;
  }
  return right / static_cast<double>(examples.size());
}

void run_evaluate(const evaluate_options& options) {
  data_set data = read_rows(options.data.data);
  const prompt_template prompts = prompt_template::from_option(options.data.prompt_template);
  const bool labelled = !data.is_unlabelled();
  std::vector<index_t> labels = data.labels();

  std::vector<index_t> examples(labels.size());
  std::iota(examples.begin(), examples.end(), index_t{0});
  std::vector<data_row> shots;
  if (options.shots > 0) {
    data.require_labels("--shots");
    if (options.shots >= static_cast<index_t>(examples.size()))
      throw usage_error(data.name + ": --shots: expected fewer than the " +
                        std::to_string(examples.size()) + " rows, got " +
                        std::to_string(options.shots));
    const std::vector<index_t> order = zerotune::stratified_order(labels, options.seed);
    for (index_t i = 0; i < options.shots; ++i) {
      const index_t row = order[static_cast<std::size_t>(i)];
      shots.push_back(data.rows[static_cast<std::size_t>(row)]);
      std::erase(examples, row);  // a row must not be its own example
    }
  }
  if (options.limit > 0 && options.limit < static_cast<index_t>(examples.size()))
    examples.resize(static_cast<std::size_t>(options.limit));

  const loaded_model model(options.model.model, options.model.products());
  const requested_gamma gamma = read_gamma(model, options.gamma.gamma, options.gamma.profile);
  if (!gamma.template_text.empty() && gamma.template_text != prompts.text())
    std::fprintf(stderr, "warning: %s was tuned with another template\n",
                 options.gamma.profile.c_str());
  host_evaluator host(model.model, model.tokens, prompts, data,
                      {.threads = options.model.threads, .shots = shots});
  const auto start = std::chrono::steady_clock::now();
  std::vector<row_answer> answers;
  {
    progress bar("evaluate");
    answers = host.answer(gamma.table, examples, bar.callback());
  }
  if (options.sampling.temperature > 0) {
    llama::sampler_options sampling = options.sampling;
    sampling.seed = options.seed;
    progress bar("drawing answers");
    const std::vector<row_answer> drawn =
        sample_answers(model.model, model.tokens, prompts, data,
                       {.threads = options.model.threads, .shots = shots}, gamma.table, examples,
                       sampling, bar.callback());
    for (std::size_t i = 0; i < answers.size(); ++i) {
      answers[i].result.generated = drawn[i].result.generated;
      answers[i].continuation = drawn[i].continuation;
    }
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  if (!options.predictions.empty()) {
    std::string lines;
    for (std::size_t i = 0; i < examples.size(); ++i)
      lines += prediction(data.rows[static_cast<std::size_t>(examples[i])], answers[i])
                   .dump(-1, ' ', false, ordered_json::error_handler_t::replace) +
               "\n";
    write_file(options.predictions, lines);
  }
  std::vector<zerotune::example_result> results;
  double entropy = 0, invalid = 0;
  for (const row_answer& answer : answers) {
    results.push_back(answer.result);
    entropy += answer.result.entropy / static_cast<double>(answers.size());
    invalid += !answer.result.valid();
  }
  invalid /= static_cast<double>(answers.size());
  ordered_json json;
  json["rows"] = examples.size();
  if (labelled) {
    const zerotune::score_report scores = report_scores(results, examples, labels);
    const double per_byte = accuracy_per_byte(data, examples, answers);
    json = zerotune::impl::write_scores(scores);
    json["likelihood_per_byte"] = per_byte;
    if (!options.model.json)
      std::fputs(
          format_table({{"score", "accuracy [95%]"},
                        {"likelihood", format_share(scores.likelihood, scores.likelihood_interval)},
                        {"likelihood per byte", format_share(per_byte, {})},
                        {"generated", format_share(scores.generated, scores.generated_interval)}})
              .c_str(),
          stdout);
  }
  json["invalid"] = invalid;
  json["entropy"] = entropy;
  json["prompt_tokens"] = host.mean_prompt_tokens();
  json["common_prefix"] = host.common_prefix();
  json["shots"] = options.shots;
  json["compute"] = options.model.compute;
  json["temperature"] = options.sampling.temperature;
  if (options.sampling.temperature > 0) {
    json["top_k"] = options.sampling.top_k;
    json["top_p"] = options.sampling.top_p;
  }
  json["seconds"] = seconds;
  if (options.model.json)
    std::printf("%s\n", json.dump(1).c_str());
  else
    std::printf(
        "%zu rows of %.0f tokens (%lld common) in %.1f s; invalid answers %.3f, "
        "entropy %.3f nats\n",
        examples.size(), host.mean_prompt_tokens(), static_cast<long long>(host.common_prefix()),
        seconds, invalid, entropy);
}

}  // namespace

void add_evaluate(CLI::App& program) {
  CLI::App* const command = program.add_subcommand(
      "evaluate",
      "Accuracy of a model on labelled rows by two scores: likelihood (the choice with the largest "
      "log-likelihood) and generated (the greedy answer; one that names no choice is invalid, and "
      "wrong).");
  const auto options = std::make_shared<evaluate_options>();
  options->model.add(*command);
  options->data.add(*command);
  options->gamma.add(*command);
  command
      ->add_option("--shots", options->shots,
                   "few-shot examples, taken from the data by --seed and not evaluated")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  command
      ->add_option("--temperature", options->sampling.temperature,
                   "above 0: the generated score is that of one drawn answer a row; 0: greedy")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command
      ->add_option("--top-k", options->sampling.top_k, "draw among the k likeliest tokens, 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--top-p", options->sampling.top_p,
                   "draw among the likeliest tokens that reach this share together")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "chooses the few-shot examples, and the draws")
      ->capture_default_str();
  command->add_option("--limit", options->limit, "evaluate only this many rows, 0 for all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--predictions", options->predictions,
                   "write every row's answer to this file, as JSON lines")
      ->type_name("FILE");
  command->callback([options] { run_evaluate(*options); });
}

}  // namespace zerotune_cli
