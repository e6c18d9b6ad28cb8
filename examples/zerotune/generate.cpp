// SPDX-License-Identifier: Apache-2.0
// zerotune generate: text from a prompt, or a conversation of several turns.
#include <unistd.h>

#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "failure.hpp"
#include "llama/chat.hpp"
#include "llama/sampler.hpp"
#include "llama/workspace.hpp"
#include "loaded_model.hpp"
#include "options.hpp"
#include "prompt_template.hpp"
#include "zerotune/core/thread_pool.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/tuning/json_writer.hpp"

namespace zerotune_cli {

namespace {

struct generate_options {
  model_options model;
  gamma_options gamma;
  std::string prompt;
  std::string system;
  bool chat = false;
  int max_tokens = 128;
  llama::sampler_options sampling;
};

// Prints an answer while its tokens arrive, or as one JSON object when it is complete.
class answer_printer {
 public:
  answer_printer(const llama::tokenizer& tokens, bool json) : tokens_(tokens), json_(json) {}

  void add(int token) {
    ids_.push_back(token);
    if (json_) return;
    const std::string text = tokens_.decode(ids_);
    if (text.size() > shown_) std::cout << std::string_view(text).substr(shown_);
    std::cout.flush();
    shown_ = text.size();
  }
  void end() {
    if (json_) {
      nlohmann::ordered_json json = {{"text", tokens_.decode(ids_)}};
      json["tokens"] = ids_;
      std::cout << json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    }
    std::cout << std::endl;
    ids_.clear();
    shown_ = 0;
  }

 private:
  const llama::tokenizer& tokens_;
  bool json_;
  std::vector<int> ids_;
  std::size_t shown_ = 0;
};

template <class Policy>
void continue_prompt(const loaded_model& model, const Policy& policy,
                     const generate_options& options) {
  const prompt_part part{options.prompt, true};
  const std::vector<int> prompt = encode_prompt(model.tokens, {&part, 1});
  zerotune::thread_pool pool(options.model.threads);
  llama::kv_cache cache(model.model.config());
  llama::sampler choose(options.sampling);
  llama::workspace space;
  answer_printer answer(model.tokens, options.model.json);
  if (!options.model.json) std::cout << options.prompt << std::flush;
  llama::generate(
      model.model, policy, prompt, cache, choose, options.max_tokens, space,
      [&](int token) {
        if (model.tokens.is_end_of_generation(token)) return false;
        answer.add(token);
        return true;
      },
      pool);
  answer.end();
}

template <class Policy>
void converse(const loaded_model& model, const Policy& policy, const generate_options& options) {
  const auto stated = model.file.find<std::string_view>("tokenizer.chat_template");
  const llama::chat_format format =
      llama::recognise_chat(model.tokens, stated.value_or(std::string_view()));
  if (format == llama::chat_format::none)
    throw usage_error(options.model.model +
                      ": --chat: expected a vocabulary and template of ChatML or Llama 3, got "
                      "neither");
  zerotune::thread_pool pool(options.model.threads);
  llama::chat_session session(model.model, model.tokens, format, options.system);
  llama::sampler choose(options.sampling);
  llama::workspace space;
  answer_printer answer(model.tokens, options.model.json);
  const bool terminal = isatty(STDIN_FILENO) != 0;
  std::string user = options.prompt;
  for (bool given = !user.empty();; given = false) {
    if (!given) {
      if (terminal) std::cerr << "> " << std::flush;
      if (!std::getline(std::cin, user)) break;
      if (user.empty()) continue;
    }
    session.reply(
        user, policy, choose, options.max_tokens, space, [&](int token) { answer.add(token); },
        pool);
    answer.end();
  }
}

template <class Policy>
void run_under(const loaded_model& model, const Policy& policy, const generate_options& options) {
  if (options.chat)
    converse(model, policy, options);
  else
    continue_prompt(model, policy, options);
}

void run_generate(const generate_options& options) {
  if (!options.chat && options.prompt.empty())
    throw usage_error("--prompt: expected a text (or --chat), got none");
  const loaded_model model(options.model.model, options.model.products());
  const zerotune::gamma_table gamma =
      read_gamma(model, options.gamma.gamma, options.gamma.profile).table;
  if (gamma.empty()) return run_under(model, llama::untouched{}, options);
  run_under(
      model,
      [&gamma](const llama::attention_context& context) {
        return zerotune::initial_token{gamma.row(context.layer)};
      },
      options);
}

}  // namespace

void add_generate(CLI::App& program) {
  CLI::App* const command = program.add_subcommand(
      "generate", "Text from a prompt, under --gamma or --profile; greedy unless --temperature.");
  const auto options = std::make_shared<generate_options>();
  options->model.add(*command);
  options->gamma.add(*command);
  command->add_option("--prompt", options->prompt,
                      "text to go on with; special tokens in it are parsed, except with --chat");
  command->add_flag("--chat", options->chat,
                    "a conversation: --prompt if given, then a line of standard input a turn "
                    "(ChatML and Llama 3 are recognised); the initial token stays the same one");
  command->add_option("--system", options->system, "the system's message of a conversation");
  command->add_option("--max-tokens", options->max_tokens, "most tokens to generate, a turn")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  command->add_option("--temperature", options->sampling.temperature, "0: greedy")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command->add_option("--top-k", options->sampling.top_k, "only the k likeliest tokens, 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--top-p", options->sampling.top_p,
                   "only the likeliest tokens that reach this share together")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--seed", options->sampling.seed, "of the draws")->capture_default_str();
  command->callback([options] { run_generate(*options); });
}

}  // namespace zerotune_cli
