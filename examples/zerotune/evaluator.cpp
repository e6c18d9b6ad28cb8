// SPDX-License-Identifier: Apache-2.0
#include "evaluator.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "evaluator_parts.hpp"
#include "failure.hpp"
#include "llama/probability.hpp"
#include "scoring.hpp"
#include "table_order.hpp"

namespace zerotune_cli {

namespace {

// Enough rows that reading the weights for one generated token is paid by many, and that products
// have the hundreds of rows at which they are fastest; few enough tokens (of prompts, most of it
// keys and values) and rows of logits that the memory stays small. No result depends on a batch.
constexpr std::size_t most_rows = 64, fewest_rows = 16;
constexpr std::size_t most_tokens = 2048;
constexpr std::size_t most_logits = 256;

// Tables that leave more than this share of the layers to be computed are evaluated in turn, which
// runs the common prefix once per table rather than once per batch.
constexpr double most_work = 0.95;

const zerotune::quantities everything{.loglik = true, .generated = true, .entropy = true};

}  // namespace

host_evaluator::host_evaluator(const llama::model& model, const llama::tokenizer& tokens,
                               const prompt_template& prompts, const data_set& data,
                               options settings)
    : model_(model), tokens_(tokens), pool_(settings.threads) {
  idle_.reserve(static_cast<std::size_t>(settings.threads));
  rows_.resize(data.rows.size());
  pool_.parallel_for(static_cast<index_t>(rows_.size()), [&](index_t i) {
    const data_row& row = data.rows[static_cast<std::size_t>(i)];
    prepared_row& prepared = rows_[static_cast<std::size_t>(i)];
    prepared.label = row.label;
    prepared.prompt = encode_prompt(tokens, prompts.render(row, settings.shots));
    std::size_t longest = 0;
    for (const std::string& choice : row.choices) {
      prepared.choices.push_back(encode_answer(tokens, choice));
      prepared.answers.push_back(normalise(choice));
      longest = std::max(longest, prepared.choices.back().size());
    }
    prepared.most_new_tokens = longest + 2;
    const std::size_t needed = prepared.prompt.size() + prepared.most_new_tokens;
    if (prepared.prompt.empty() || needed > static_cast<std::size_t>(model.config().context_length))
      throw usage_error(data.where(i) + ": row \"" + row.id + "\": expected a prompt of 1 to " +
                        std::to_string(model.config().context_length) +
                        " tokens with its answer, got " + std::to_string(needed));
  });
  for (const prepared_row& row : rows_) {
    // One token of each prompt must be left to run.
    const std::span<const int> own = std::span(row.prompt).first(row.prompt.size() - 1);
    if (&row == &rows_.front()) prefix_.assign(own.begin(), own.end());
    const auto differ = std::mismatch(prefix_.begin(), prefix_.end(), own.begin(), own.end()).first;
    prefix_.erase(differ, prefix_.end());
  }
}

host_evaluator::~host_evaluator() = default;

double host_evaluator::mean_prompt_tokens() const {
  double sum = 0;
  for (const prepared_row& row : rows_) sum += static_cast<double>(row.prompt.size());
  return rows_.empty() ? 0 : sum / static_cast<double>(rows_.size());
}

std::vector<std::span<const index_t>> host_evaluator::batches(
    std::span<const index_t> examples) const {
  check(examples);
  const auto tokens_of = [&](index_t example) {
    return rows_[static_cast<std::size_t>(example)].prompt.size();
  };
  std::size_t all = 0;
  for (const index_t example : examples) all += tokens_of(example);
  const auto parts_of = [](std::size_t total, std::size_t most) {
    return (total + most - 1) / most;
  };
  std::size_t count = std::max(parts_of(examples.size(), most_rows), parts_of(all, most_tokens));
  // As many for every thread, if that leaves them large enough.
  const auto threads = static_cast<std::size_t>(pool_.num_threads());
  count = std::max(
      count, std::min(parts_of(count, threads) * threads, parts_of(examples.size(), fewest_rows)));
  // Of about as many tokens each.
  std::vector<std::span<const index_t>> result;
  std::size_t begin = 0, tokens = 0;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    tokens += tokens_of(examples[i]);
    if (i + 1 < examples.size() && tokens * count < (result.size() + 1) * all) continue;
    result.push_back(examples.subspan(begin, i + 1 - begin));
    begin = i + 1;
  }
  return result;
}

void host_evaluator::give_caches(std::span<const index_t> examples, worker& w) const {
  // The longest row gets the largest cache, so that they hold little more together than the
  // largest batch needs.
  while (w.caches.size() < examples.size()) w.caches.emplace_back(model_.config());
  std::ranges::sort(w.caches, std::greater<>(), &llama::kv_cache::capacity);
  std::vector<std::pair<std::size_t, std::size_t>> order;  // tokens, index
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const prepared_row& row = rows_[static_cast<std::size_t>(examples[i])];
    order.emplace_back(row.prompt.size() + row.most_new_tokens, i);
  }
  std::ranges::sort(order, std::greater<>());
  std::vector<llama::kv_cache> sorted = std::move(w.caches);
  w.caches.clear();
  for (std::size_t i = 0; i < sorted.size(); ++i) w.caches.emplace_back(model_.config());
  for (std::size_t rank = 0; rank < sorted.size(); ++rank)
    w.caches[rank < order.size() ? order[rank].second : rank] = std::move(sorted[rank]);
  for (const auto& [tokens, index] : order) {
    w.caches[index].truncate(0);
    w.caches[index].reserve(static_cast<std::int64_t>(tokens));
  }
}

template <class Policy>
std::vector<row_answer> host_evaluator::run(const Policy& policy, std::span<const index_t> examples,
                                            const request& wanted,
                                            const zerotune::progress_callback& progress) {
  std::vector<row_answer> answers(examples.size());
  const std::vector<std::span<const index_t>> parts = batches(examples);
  llama::kv_cache prefix(model_.config());
  if (!prefix_.empty() && !examples.empty()) {
    lease borrowed(*this);
    const llama::sequence sequence{prefix_, &prefix, {}};
    llama::forward(model_, policy, {&sequence, 1}, borrowed.get().space, borrowed.get().logits,
                   pool_);
  }
  index_t done = 0;
  std::mutex reporting;
  pool_.parallel_for(static_cast<index_t>(parts.size()), [&](index_t i) {
    const std::span<const index_t> part = parts[static_cast<std::size_t>(i)];
    const std::size_t offset = static_cast<std::size_t>(part.data() - examples.data());
    lease borrowed(*this);
    run_batch(policy, prefix_.empty() ? nullptr : &prefix, part, wanted, borrowed.get(),
              std::span(answers).subspan(offset, part.size()));
    if (!progress) return;
    const std::lock_guard lock(reporting);
    done += static_cast<index_t>(part.size());
    progress(done, static_cast<index_t>(examples.size()));
  });
  return answers;
}

std::vector<llama::sequence> host_evaluator::begin_batch(std::span<const index_t> examples,
                                                         worker& w, std::vector<int>& last) const {
  give_caches(examples, w);
  std::vector<llama::sequence> sequences;
  last.resize(examples.size());
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const prepared_row& row = rows_[static_cast<std::size_t>(examples[i])];
    const std::span<const int> rest = std::span(row.prompt).subspan(prefix_.size());
    last[i] = static_cast<int>(rest.size()) - 1;
    sequences.push_back({rest, &w.caches[i], {&last[i], 1}});
  }
  return sequences;
}

template <class Policy>
void host_evaluator::run_batch(const Policy& policy, const llama::kv_cache* prefix,
                               std::span<const index_t> examples, const request& wanted, worker& w,
                               std::span<row_answer> answers) {
  std::vector<int> last;
  const std::vector<llama::sequence> sequences = begin_batch(examples, w, last);
  if (prefix)
    for (const llama::sequence& s : sequences) s.cache->assign_prefix(*prefix, prefix->length());
  llama::forward(model_, policy, sequences, w.space, w.prompt_logits);
  finish_batch(policy, examples, wanted, w, answers);
}

template <class AnswersOf, class Report>
void host_evaluator::run_tables(std::span<const zerotune::gamma_table> gammas,
                                const table_order& order, std::span<const index_t> examples,
                                const request& wanted, worker& w, const AnswersOf& answers_of,
                                const Report& report) {
  std::vector<int> last;
  const std::vector<llama::sequence> sequences = begin_batch(examples, w, last);
  if (w.prefix.empty()) w.prefix.emplace_back(model_.config());
  const llama::sequence prefix{prefix_, &w.prefix.front(), {}};
  if (!prefix_.empty())
    for (const llama::sequence& s : sequences) s.cache->commit(prefix_);
  const auto policy = [&](std::size_t i) { return policy_of(gammas[order.tables[i]]); };
  llama::forward_each(model_, policy, order.shared, prefix_.empty() ? nullptr : &prefix, sequences,
                      w.each_space, w.prompt_logits, [&](std::size_t i) {
                        finish_batch(policy(i), examples, wanted, w, answers_of(order.tables[i]));
                        report();
                      });
}

template <class Policy>
void host_evaluator::finish_batch(const Policy& policy, std::span<const index_t> examples,
                                  const request& wanted, worker& w, std::span<row_answer> answers) {
  if (wanted.wanted.entropy)
    for (std::size_t i = 0; i < examples.size(); ++i)
      answers[i].result.entropy = llama::entropy(w.prompt_logits.row(static_cast<std::int64_t>(i)));
  if (wanted.wanted.loglik) score_choices(policy, examples, w, answers);
  if (wanted.wanted.generated) generate(policy, examples, wanted.whole_continuation, w, answers);
}

template <class Policy>
void host_evaluator::score_choices(const Policy& policy, std::span<const index_t> examples,
                                   worker& w, std::span<row_answer> answers) {
  std::size_t most = 0;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    const prepared_row& row = rows_[static_cast<std::size_t>(examples[i])];
    const std::span<const float> logits =
        std::as_const(w.prompt_logits).row(static_cast<std::int64_t>(i));
    const double lse = llama::log_sum_exp(logits);
    for (const std::vector<int>& choice : row.choices)
      answers[i].result.loglik.push_back(
          static_cast<double>(logits[static_cast<std::size_t>(choice.front())]) - lse);
    most = std::max(most, row.choices.size());
  }
  // The other tokens of longer choices, one choice of some rows at a time, on the prompt's cache.
  std::size_t longest = 0;
  for (const index_t example : examples)
    for (const std::vector<int>& choice : rows_[static_cast<std::size_t>(example)].choices)
      longest = std::max(longest, choice.size());
  std::vector<int> positions(longest);
  std::iota(positions.begin(), positions.end(), 0);
  std::vector<llama::sequence> sequences;
  std::vector<std::size_t> asking;
  std::size_t logits = 0;
  const auto ask = [&](std::size_t c) {
    if (asking.empty()) return;
    llama::forward(model_, policy, sequences, w.space, w.logits);
    std::int64_t next = 0;
    for (const std::size_t i : asking) {
      const prepared_row& row = rows_[static_cast<std::size_t>(examples[i])];
      for (std::size_t t = 1; t < row.choices[c].size(); ++t)
        answers[i].result.loglik[c] +=
            llama::log_probability(std::as_const(w.logits).row(next++), row.choices[c][t]);
      w.caches[i].truncate(static_cast<std::int64_t>(row.prompt.size()));
    }
    sequences.clear();
    asking.clear();
    logits = 0;
  };
  for (std::size_t c = 0; c < most; ++c) {
    for (std::size_t i = 0; i < examples.size(); ++i) {
      const prepared_row& row = rows_[static_cast<std::size_t>(examples[i])];
      if (c >= row.choices.size() || row.choices[c].size() < 2) continue;
      const std::span<const int> asked = std::span(row.choices[c]).first(row.choices[c].size() - 1);
      if (logits + asked.size() > most_logits) ask(c);
      asking.push_back(i);
      sequences.push_back(
          {asked, &w.caches[i], std::span(std::as_const(positions)).first(asked.size())});
      logits += asked.size();
    }
    ask(c);
  }
  for (row_answer& answer : answers) {
    answer.result.predicted = zerotune::largest_choice(answer.result.loglik);
    answer.result.choice_entropy = zerotune::choice_entropy(answer.result.loglik);
  }
}

template <class Policy>
void host_evaluator::generate(const Policy& policy, std::span<const index_t> examples, bool whole,
                              worker& w, std::span<row_answer> answers) {
  struct continuation {
    std::size_t index;
    std::vector<int> ids;
  };
  std::vector<continuation> running;
  for (std::size_t i = 0; i < examples.size(); ++i) running.push_back({i, {}});
  const llama::matrix* logits = &w.prompt_logits;
  std::vector<llama::sequence> sequences;
  constexpr int at_end = 0;
  while (!running.empty()) {
    std::vector<continuation> still;
    for (std::size_t r = 0; r < running.size(); ++r) {
      continuation& c = running[r];
      const prepared_row& row = rows_[static_cast<std::size_t>(examples[c.index])];
      const int token = llama::argmax(logits->row(static_cast<std::int64_t>(r)));
      const bool ended = tokens_.is_end_of_generation(token);
      if (!ended) c.ids.push_back(token);
      std::string text = tokens_.decode(c.ids);
      if (!ended && c.ids.size() < row.most_new_tokens && text.find('\n') == std::string::npos &&
          (whole || !is_settled(text, row.answers))) {
        still.push_back(std::move(c));
        continue;
      }
      row_answer& answer = answers[c.index];
      answer.result.generated = parse_answer(text, row.answers);
      if (whole) answer.continuation = first_line(text);
    }
    running = std::move(still);
    if (running.empty()) break;
    sequences.clear();
    for (const continuation& c : running)
      sequences.push_back({{&c.ids.back(), 1}, &w.caches[c.index], {&at_end, 1}});
    llama::forward(model_, policy, sequences, w.space, w.logits);
    logits = &w.logits;
  }
}

void host_evaluator::check(std::span<const index_t> examples) const {
  for (std::size_t i = 0; i < examples.size(); ++i)
    if (examples[i] < 0 || examples[i] >= static_cast<index_t>(rows_.size()))
      throw zerotune::invalid_argument(
          "host_evaluator: examples[" + std::to_string(i) + "]: expected an index in [0, " +
          std::to_string(rows_.size()) + "), got " + std::to_string(examples[i]));
}

void host_evaluator::check(const zerotune::gamma_table& gamma) const {
  if (gamma.layers() != num_layers() || gamma.heads() != num_heads())
    throw zerotune::invalid_argument(
        "host_evaluator: gamma dims (layers, heads): expected (" + std::to_string(num_layers()) +
        ", " + std::to_string(num_heads()) + "), got (" + std::to_string(gamma.layers()) + ", " +
        std::to_string(gamma.heads()) + ")");
  gamma.validate("host_evaluator");
}

std::vector<zerotune::example_result> results_of(std::vector<row_answer> answers) {
  std::vector<zerotune::example_result> results;
  results.reserve(answers.size());
  for (row_answer& answer : answers) results.push_back(std::move(answer.result));
  return results;
}

std::vector<zerotune::example_result> host_evaluator::evaluate(
    const zerotune::gamma_table& gamma, std::span<const index_t> examples,
    const zerotune::quantities& wanted, const zerotune::progress_callback& progress) {
  check(gamma);
  return results_of(run(policy_of(gamma), examples, {wanted, false}, progress));
}

std::vector<std::vector<zerotune::example_result>> host_evaluator::evaluate_many(
    std::span<const zerotune::gamma_table> gammas, std::span<const index_t> examples,
    const zerotune::quantities& wanted, const zerotune::progress_callback& progress) {
  for (const zerotune::gamma_table& gamma : gammas) check(gamma);
  const table_order order = order_tables(gammas);
  const auto total = static_cast<index_t>(gammas.size() * examples.size());
  std::vector<std::vector<zerotune::example_result>> results;
  if (order.work > most_work) {
    for (const zerotune::gamma_table& gamma : gammas) {
      const auto before = static_cast<index_t>(results.size() * examples.size());
      zerotune::progress_callback part;
      if (progress) part = [&](index_t done, index_t) { progress(before + done, total); };
      results.push_back(evaluate(gamma, examples, wanted, part));
    }
    return results;
  }
  std::vector<std::vector<row_answer>> answers(gammas.size(),
                                               std::vector<row_answer>(examples.size()));
  const std::vector<std::span<const index_t>> parts = batches(examples);
  index_t done = 0;
  std::mutex reporting;
  pool_.parallel_for(static_cast<index_t>(parts.size()), [&](index_t i) {
    const std::span<const index_t> part = parts[static_cast<std::size_t>(i)];
    const auto offset = static_cast<std::size_t>(part.data() - examples.data());
    lease borrowed(*this);
    run_tables(
        gammas, order, part, {wanted, false}, borrowed.get(),
        [&](std::size_t table) { return std::span(answers[table]).subspan(offset, part.size()); },
        [&] {
          if (!progress) return;
          const std::lock_guard lock(reporting);
          done += static_cast<index_t>(part.size());
          progress(done, total);
        });
  });
  for (std::vector<row_answer>& each : answers) results.push_back(results_of(std::move(each)));
  return results;
}

std::vector<zerotune::example_result> host_evaluator::evaluate_untouched(
    std::span<const index_t> examples, const zerotune::quantities& wanted,
    const zerotune::progress_callback& progress) {
  return results_of(run(llama::untouched{}, examples, {wanted, false}, progress));
}

std::vector<row_answer> host_evaluator::answer(const zerotune::gamma_table& gamma,
                                               std::span<const index_t> examples,
                                               const zerotune::progress_callback& progress) {
  if (gamma.empty()) return run(llama::untouched{}, examples, {everything, true}, progress);
  check(gamma);
  return run(policy_of(gamma), examples, {everything, true}, progress);
}

static_assert(zerotune::many_evaluator<host_evaluator>);

}  // namespace zerotune_cli
