// SPDX-License-Identifier: Apache-2.0
#include "sampled_answers.hpp"

#include <algorithm>
#include <mutex>
#include <string>

#include "failure.hpp"
#include "llama/workspace.hpp"
#include "scoring.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/tuning/random.hpp"

namespace zerotune_cli {

namespace {

struct task {
  const llama::model& model;
  const llama::tokenizer& tokens;
  const prompt_template& prompts;
  const data_set& data;
  std::span<const data_row> shots;
  const llama::sampler_options& sampling;
};

template <class Policy>
row_answer sample(const task& t, const Policy& policy, index_t example) {
  const data_row& row = t.data.rows[static_cast<std::size_t>(example)];
  const std::vector<int> prompt = encode_prompt(t.tokens, t.prompts.render(row, t.shots));
  std::vector<std::string> answers;
  std::size_t most = 0;
  for (const std::string& choice : row.choices) {
    answers.push_back(normalise(choice));
    most = std::max(most, encode_answer(t.tokens, choice).size());
  }
  most += 2;
  if (prompt.empty() ||
      prompt.size() + most > static_cast<std::size_t>(t.model.config().context_length))
    throw usage_error(t.data.where(example) + ": row \"" + row.id + "\": the prompt of " +
                      std::to_string(prompt.size()) + " tokens does not fit into the context");
  llama::sampler_options own = t.sampling;
  // Neighbouring seeds and rows must not share their draws.
  own.seed = zerotune::random_source(zerotune::random_source(t.sampling.seed).next() +
                                     static_cast<std::uint64_t>(example))
                 .next();
  llama::sampler choose(own);
  llama::kv_cache cache(t.model.config());
  llama::workspace space;
  std::vector<int> ids;
  std::string text;
  llama::generate(t.model, policy, prompt, cache, choose, static_cast<int>(most), space,
                  [&](int token) {
                    if (t.tokens.is_end_of_generation(token)) return false;
                    ids.push_back(token);
                    text = t.tokens.decode(ids);
                    return text.find('\n') == std::string::npos;
                  });
  row_answer answer;
  answer.result.generated = parse_answer(text, answers);
  answer.continuation = first_line(text);
  return answer;
}

}  // namespace

std::vector<row_answer> sample_answers(const llama::model& model, const llama::tokenizer& tokens,
                                       const prompt_template& prompts, const data_set& data,
                                       const host_evaluator::options& settings,
                                       const zerotune::gamma_table& gamma,
                                       std::span<const index_t> examples,
                                       const llama::sampler_options& sampling,
                                       const zerotune::progress_callback& progress) {
  const task t{model, tokens, prompts, data, settings.shots, sampling};
  std::vector<row_answer> answers(examples.size());
  zerotune::thread_pool pool(settings.threads);
  std::mutex reporting;
  index_t done = 0;
  pool.parallel_for(static_cast<index_t>(examples.size()), [&](index_t i) {
    const auto at = static_cast<std::size_t>(i);
    answers[at] = gamma.empty() ? sample(t, llama::untouched{}, examples[at])
                                : sample(
                                      t,
                                      [&gamma](const llama::attention_context& context) {
                                        return zerotune::initial_token{gamma.row(context.layer)};
                                      },
                                      examples[at]);
    if (!progress) return;
    const std::lock_guard lock(reporting);
    progress(++done, static_cast<index_t>(examples.size()));
  });
  return answers;
}

}  // namespace zerotune_cli
