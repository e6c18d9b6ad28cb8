// SPDX-License-Identifier: Apache-2.0
// zerotune inspect: what a model file holds, and how much attention its heads pay to the initial
// token.
#include <cmath>
#include <cstdio>
#include <memory>

#include "failure.hpp"
#include "llama/cpu.hpp"
#include "llama/workspace.hpp"
#include "loaded_model.hpp"
#include "options.hpp"
#include "prompt_template.hpp"
#include "table.hpp"
#include "zerotune/core/thread_pool.hpp"
#include "zerotune/tuning/json_writer.hpp"

namespace zerotune_cli {

namespace {

using zerotune::index_t;

struct inspect_options {
  model_options model;
  std::string prompt =
      "The committee read the report twice before it voted, and nobody was surprised by the "
      "result: eleven members were in favour, two against, and one had gone home.";
  bool hash = false;
};

// [layers][heads], mean over the queries that see more than the initial token.
std::vector<std::vector<double>> measure_sink_mass(const loaded_model& model,
                                                   std::span<const int> tokens, int threads) {
  const llama::model_config& config = model.model.config();
  std::vector<std::vector<double>> mass(
      static_cast<std::size_t>(config.num_layers),
      std::vector<double>(static_cast<std::size_t>(config.num_heads)));
  const auto observe = [&](const llama::attention_record& record, const auto&) {
    for (index_t head = 0; head < record.q.extent(1); ++head) {
      const index_t kv_head = head / config.group_size();
      double sum = 0;
      for (index_t i = 1; i < record.q.extent(2); ++i) {
        double logit = 0;
        for (index_t d = 0; d < record.q.extent(3); ++d)
          logit += static_cast<double>(record.q(0, head, i, d)) *
                   static_cast<double>(record.k(0, kv_head, 0, d));
        // The weight is recovered from the row's logsumexp: no row of weights is ever stored.
        sum += std::exp(logit * static_cast<double>(record.softmax_scale) -
                        static_cast<double>(record.lse(0, head, i)));
      }
      mass[static_cast<std::size_t>(record.context.layer)][static_cast<std::size_t>(head)] =
          sum / static_cast<double>(record.q.extent(2) - 1);
    }
  };
  zerotune::thread_pool pool(threads);
  llama::workspace space;
  llama::matrix logits;
  const llama::sequence sequence{tokens, nullptr, {}};
  llama::forward(model.model, llama::untouched{}, {&sequence, 1}, space, logits, pool, observe);
  return mass;
}

void run_inspect(const inspect_options& options) {
  const loaded_model model(options.model.model, options.model.products());
  const llama::model_config& config = model.model.config();
  zerotune::model_description description = model.describe();
  if (options.hash) description.file_hash = model.file.file_hash();
  const prompt_part part{options.prompt, true};
  const std::vector<int> tokens = encode_prompt(model.tokens, {&part, 1});
  if (tokens.size() < 2)
    throw usage_error("--prompt: expected a text of at least two tokens, got " +
                      std::to_string(tokens.size()));
  const auto mass = measure_sink_mass(model, tokens, options.model.threads);
  const std::string initial = model.tokens.piece(tokens.front());

  if (options.model.json) {
    nlohmann::ordered_json json = zerotune::impl::write_model(description);
    json["head_dim"] = config.head_dim;
    json["embedding_dim"] = config.embedding_dim;
    json["ffn_dim"] = config.ffn_dim;
    json["context_length"] = config.context_length;
    json["vocabulary_size"] = config.vocabulary_size;
    json["instructions"] = zerotune::name_of(llama::instruction_set());
    json["cpu_instructions"] = zerotune::name_of(zerotune::best_instruction_set());
    json["products"] = name_of(model.products);
    json["initial_token"] = initial;
    json["prompt_tokens"] = tokens.size();
    json["sink_mass"] = mass;
    std::printf("%s\n", json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return;
  }
  std::printf("model         %s (%s, %s)\n", config.name.c_str(), config.architecture.c_str(),
              description.quantization.c_str());
  std::printf("layers        %d\n", config.num_layers);
  std::printf("heads         %d query, %d key and value, of %d\n", config.num_heads,
              config.num_kv_heads, config.head_dim);
  std::printf("embedding     %d, feed-forward %d\n", config.embedding_dim, config.ffn_dim);
  std::printf("context       %d tokens, vocabulary %d\n", config.context_length,
              config.vocabulary_size);
  std::printf("vocabulary    sha256 %s\n", description.vocabulary_hash.c_str());
  if (options.hash) std::printf("file          sha256 %s\n", description.file_hash.c_str());
  std::printf("instructions  %s in use, the CPU has %s\n",
              zerotune::name_of(llama::instruction_set()),
              zerotune::name_of(zerotune::best_instruction_set()));
  std::printf("products      %s\n\n", std::string(name_of(model.products)).c_str());
  std::printf("Sink mass: mean attention to the initial token \"%s\" over %zu tokens\n",
              initial.c_str(), tokens.size());
  std::vector<std::vector<std::string>> rows{{"layer"}};
  for (int head = 0; head < config.num_heads; ++head)
    rows[0].push_back("head " + std::to_string(head));
  rows[0].push_back("mean");
  for (std::size_t layer = 0; layer < mass.size(); ++layer) {
    std::vector<std::string>& row = rows.emplace_back(1, std::to_string(layer));
    double sum = 0;
    for (const double value : mass[layer]) {
      row.push_back(format_number("%.3f", value));
      sum += value;
    }
    row.push_back(format_number("%.3f", sum / static_cast<double>(mass[layer].size())));
  }
  std::fputs(format_table(rows).c_str(), stdout);
}

}  // namespace

void add_inspect(CLI::App& program) {
  CLI::App* const command = program.add_subcommand(
      "inspect",
      "Architecture and heads of a model, the instruction set in use, and the sink mass of every "
      "head: its mean attention to the initial token.");
  const auto options = std::make_shared<inspect_options>();
  options->model.add(*command);
  command->add_option("--prompt", options->prompt,
                      "text that the sink mass is measured on; special tokens in it are parsed");
  command->add_flag("--hash", options->hash, "also the hash of the whole file");
  command->callback([options] { run_inspect(*options); });
}

}  // namespace zerotune_cli
