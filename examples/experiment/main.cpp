// SPDX-License-Identifier: Apache-2.0
// An experiment of one's own: a modifier of attention in twenty lines, run on a real model.
//
//     zerotune-experiment --model SmolLM2-135M-Instruct.Q4_1.gguf --data reviews.jsonl
//
// The question: what if the upper half of the layers paid more, or less, attention to delimiters
// (line ends and punctuation), which are attention sinks as well?
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <concepts>
#include <cstdio>
#include <exception>
#include <fstream>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "llama/gguf.hpp"
#include "llama/model.hpp"
#include "llama/probability.hpp"
#include "llama/tokenizer.hpp"

namespace zt = zerotune;

// --- the modifier
// ---------------------------------------------------------------------------------

/// Adds a bias per key to the logits: log of the factor at delimiters, 0 elsewhere.
struct delimiter_bias {
  const float* biases;  // [positions of the sequence], or null: changes nothing

  template <std::floating_point Real>
  Real log_bias(zt::row, Real kv_pos) const {
    return biases ? static_cast<Real>(biases[static_cast<zt::index_t>(kv_pos)]) : Real(0);
  }
  zt::tile_effect effect(int, zt::range, zt::range) const {
    return biases ? zt::tile_effect::apply : zt::tile_effect::none;
  }
};

/// Chooses it for the upper half of the layers.
struct delimiter_policy {
  const std::vector<char>* is_delimiter;  // [vocabulary]
  float bias;                             // log of the factor
  std::vector<float> biases{};            // of the sequence at hand

  delimiter_bias operator()(const llama::attention_context& context) {
    if (2 * context.layer < context.num_layers) return {nullptr};
    biases.clear();
    for (const int token : context.tokens)
      biases.push_back((*is_delimiter)[static_cast<std::size_t>(token)] ? bias : 0.0f);
    return {biases.data()};
  }
};

// --- the evaluation
// -------------------------------------------------------------------------------

/// Whether a token is white space or punctuation throughout and not the initial token.
std::vector<char> find_delimiters(const llama::tokenizer& tokens) {
  std::vector<char> result;
  for (int id = 0; id < tokens.size(); ++id) {
    const std::string text = tokens.is_control(id) ? "" : tokens.piece(id);
    bool delimits = text.find_first_not_of(' ') != std::string::npos;
    for (const char c : text)
      delimits = delimits && (std::isspace(static_cast<unsigned char>(c)) != 0 ||
                              std::ispunct(static_cast<unsigned char>(c)) != 0);
    result.push_back(delimits);
  }
  return result;
}

struct example {
  std::vector<int> prompt;
  std::vector<std::vector<int>> choices;
  std::size_t label;
};

std::vector<example> read_examples(const std::string& path, std::size_t most,
                                   const llama::tokenizer& tokens) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + ": cannot be opened");
  std::vector<example> result;
  std::string line;
  for (int number = 1; result.size() < most && std::getline(file, line); ++number) {
    try {
      const auto row = nlohmann::json::parse(line);
      example e;
      e.prompt = tokens.encode_template("<|im_start|>Review: ");
      for (const int id : tokens.encode(row.at("text").get<std::string>())) e.prompt.push_back(id);
      for (const int id : tokens.encode("\nSentiment (positive or negative):"))
        e.prompt.push_back(id);
      for (const auto& choice : row.at("choices"))
        e.choices.push_back(tokens.encode(std::string(" ").append(choice.get<std::string>())));
      e.label = row.at("label").get<std::size_t>();
      if (e.label >= e.choices.size()) throw std::runtime_error("label is no index of choices");
      result.push_back(std::move(e));
    } catch (const std::exception& error) {
      throw std::runtime_error(path + ":" + std::to_string(number) + ": " + error.what());
    }
  }
  return result;
}

struct score {
  double accuracy = 0.0, log_likelihood = 0.0;
};

/// Log-likelihood of every choice after its prompt, which is evaluated once.
template <class Policy>
score evaluate(const llama::model& model, const std::vector<example>& examples, Policy&& policy) {
  llama::workspace space;
  llama::matrix logits;
  llama::kv_cache cache(model.config());
  score total;
  for (const example& e : examples) {
    const int last = static_cast<int>(e.prompt.size()) - 1;
    cache.truncate(0);
    const llama::sequence prompt{e.prompt, &cache, std::span(&last, 1)};
    llama::forward(model, policy, std::span(&prompt, 1), space, logits);
    std::vector<double> log_likelihoods;
    for (const std::vector<int>& choice : e.choices)
      log_likelihoods.push_back(llama::log_probability(logits.row(0), choice[0]));
    for (std::size_t i = 0; i < e.choices.size(); ++i) {
      // The first token's probability came with the prompt; each other needs those before it.
      const auto before = std::span(e.choices[i]).first(e.choices[i].size() - 1);
      if (before.empty()) continue;
      std::vector<int> at(before.size());
      std::iota(at.begin(), at.end(), 0);
      cache.truncate(last + 1);
      const llama::sequence rest{before, &cache, at};
      llama::forward(model, policy, std::span(&rest, 1), space, logits);
      for (std::size_t j = 0; j < at.size(); ++j)
        log_likelihoods[i] +=
            llama::log_probability(logits.row(static_cast<std::int64_t>(j)), e.choices[i][j + 1]);
    }
    const auto best = std::ranges::max_element(log_likelihoods) - log_likelihoods.begin();
    total.accuracy += best == static_cast<std::ptrdiff_t>(e.label);
    total.log_likelihood += log_likelihoods[e.label];
  }
  total.accuracy /= static_cast<double>(examples.size());
  total.log_likelihood /= static_cast<double>(examples.size());
  return total;
}

int main(int argc, char** argv) {
  CLI::App app("Scales the attention paid to delimiters in the upper half of the layers.");
  std::string model_path, data_path;
  std::size_t rows = 32;
  std::vector<float> factors{0.25f, 0.5f, 1.0f, 2.0f, 4.0f};
  app.add_option("--model", model_path, "GGUF file (llama or qwen2) that knows <|im_start|>")
      ->required();
  app.add_option("--data", data_path, "JSON lines {text, choices, label}")->required();
  app.add_option("--rows", rows, "How many of them")->capture_default_str();
  app.add_option("--factors", factors, "What to multiply the attention by")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    const llama::gguf_file file(model_path);
    const llama::tokenizer tokens = llama::tokenizer::from_gguf(file);
    const llama::model model = llama::model::from_gguf(file);
    const std::vector<example> examples = read_examples(data_path, rows, tokens);
    if (examples.empty()) throw std::runtime_error(data_path + ": expected rows, found none");
    const std::vector<char> is_delimiter = find_delimiters(tokens);
    const score plain = evaluate(model, examples, llama::untouched{});
    std::printf("%zu rows\n%-10s %8s %28s\n%-10s %8.3f %28.4f\n", examples.size(), "factor",
                "accuracy", "log-likelihood of the answer", "untouched", plain.accuracy,
                plain.log_likelihood);
    for (const float factor : factors) {
      delimiter_policy policy{&is_delimiter, std::log(factor)};
      const score s = evaluate(model, examples, policy);
      std::printf("%-10g %8.3f %28.4f\n", static_cast<double>(factor), s.accuracy,
                  s.log_likelihood);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "zerotune-experiment: %s\n", error.what());
    return 2;
  }
}
