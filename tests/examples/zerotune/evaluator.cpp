// SPDX-License-Identifier: Apache-2.0
// The host as an evaluator: against one row at a time without any sharing, and the same bits for
// any number of threads and any slice.
#include "zerotune/evaluator.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "llama/probability.hpp"
#include "llama/workspace.hpp"
#include "scratch.hpp"
#include "support/errors.hpp"
#include "zerotune/failure.hpp"
#include "zerotune/loaded_model.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/scoring.hpp"

namespace {

using namespace zerotune_cli;
using zerotune::gamma_table;

class host : public testing::Test {
 protected:
  static const loaded_model& model() {
    static const loaded_model loaded(test::small_model());
    return loaded;
  }
  const data_set data_ = parse_rows(test::sample_rows(37), "d.jsonl");
  const prompt_template prompts_{"<|im_start|>Review: {text}\nAnswer:", "t"};
  std::vector<index_t> rows_ = [] {
    std::vector<index_t> rows;
    for (index_t i = 0; i < 37; ++i) rows.push_back(i);
    return rows;
  }();

  std::unique_ptr<host_evaluator> make(int threads = 1) const {
    return std::make_unique<host_evaluator>(model().model, model().tokens, prompts_, data_,
                                            host_evaluator::options{.threads = threads});
  }
  gamma_table some_gamma() const {
    const auto& config = model().model.config();
    gamma_table table(config.num_layers, config.num_heads);
    for (index_t layer = 0; layer < table.layers(); ++layer)
      for (index_t head = 0; head < table.heads(); ++head)
        table(layer, head) = 0.5f * static_cast<float>((layer * 5 + head * 3) % 9);
    return table;
  }

  // log p of tokens after a prompt, each by a pass of its own over everything before it.
  double loglik(std::vector<int> prompt, const std::vector<int>& answer,
                const gamma_table& gamma) const {
    double sum = 0;
    for (const int token : answer) {
      sum += llama::log_probability(logits_after(prompt, gamma).row(0), token);
      prompt.push_back(token);
    }
    return sum;
  }
  llama::matrix logits_after(const std::vector<int>& prompt, const gamma_table& gamma) const {
    llama::workspace space;
    llama::matrix logits;
    const int last = static_cast<int>(prompt.size()) - 1;
    const llama::sequence sequence{prompt, nullptr, {&last, 1}};
    llama::forward(
        model().model,
        [&](const llama::attention_context& c) {
          return zerotune::initial_token{gamma.row(c.layer)};
        },
        {&sequence, 1}, space, logits);
    return logits;
  }
};

TEST_F(host, scores_equal_one_row_at_a_time) {
  const auto evaluator = make();
  EXPECT_GT(evaluator->common_prefix(), 3);
  const gamma_table gamma = some_gamma();
  const auto answers = evaluator->answer(gamma, rows_, {});
  for (const index_t i : {0, 5, 6, 20, 36}) {
    const data_row& row = data_.rows[static_cast<std::size_t>(i)];
    const row_answer& answer = answers[static_cast<std::size_t>(i)];
    std::vector<int> prompt = encode_prompt(model().tokens, prompts_.render(row));
    // Chunked and whole attention agree to rounding, not bit by bit.
    constexpr double tolerance = 1e-3;
    for (std::size_t c = 0; c < 2; ++c)
      EXPECT_NEAR(answer.result.loglik[c],
                  loglik(prompt, encode_answer(model().tokens, row.choices[c]), gamma), tolerance);
    EXPECT_NEAR(answer.result.entropy, llama::entropy(logits_after(prompt, gamma).row(0)),
                tolerance);
    std::vector<int> ids;
    std::size_t longest = 0;
    for (const std::string& choice : row.choices)
      longest = std::max(longest, encode_answer(model().tokens, choice).size());
    while (ids.size() < longest + 2 && model().tokens.decode(ids).find('\n') == std::string::npos) {
      const int next = llama::argmax(logits_after(prompt, gamma).row(0));
      if (model().tokens.is_end_of_generation(next)) break;
      ids.push_back(next);
      prompt.push_back(next);
    }
    EXPECT_EQ(answer.continuation, first_line(model().tokens.decode(ids)));
  }
}

TEST_F(host, answers_are_the_same_bits_for_any_threads_and_slices) {
  const zerotune::quantities all;
  const auto one = make(1)->evaluate(some_gamma(), rows_, all, {});
  const auto three = make(3);
  EXPECT_EQ(three->evaluate(some_gamma(), rows_, all, {}), one);
  const auto part = three->evaluate(some_gamma(), std::span(rows_).subspan(11, 9), all, {});
  EXPECT_TRUE(std::equal(part.begin(), part.end(), one.begin() + 11));
}

TEST_F(host, gamma_one_is_the_untouched_model) {
  const auto evaluator = make();
  const gamma_table ones(evaluator->num_layers(), evaluator->num_heads());
  EXPECT_EQ(evaluator->evaluate(ones, rows_, {}, {}), evaluator->evaluate_untouched(rows_, {}, {}));
  EXPECT_NE(evaluator->evaluate(some_gamma(), rows_, {}, {}),
            evaluator->evaluate_untouched(rows_, {}, {}));
}

TEST_F(host, stopping_early_does_not_change_what_was_generated) {
  const auto evaluator = make();
  const gamma_table gamma = some_gamma();
  const auto whole = evaluator->answer(gamma, rows_, {});
  const auto early = evaluator->evaluate(gamma, rows_, {}, {});
  for (std::size_t i = 0; i < rows_.size(); ++i) EXPECT_EQ(early[i], whole[i].result);
}

TEST_F(host, computes_only_what_is_wanted) {
  const auto evaluator = make();
  const auto results = evaluator->evaluate(
      some_gamma(), rows_, {.loglik = false, .generated = false, .entropy = true}, {});
  EXPECT_TRUE(results[0].loglik.empty());
  EXPECT_EQ(results[0].generated, zerotune::no_label);
  EXPECT_GT(results[0].entropy, 0);
}

TEST_F(host, mistakes_are_named) {
  const auto evaluator = make();
  EXPECT_TRUE(test::mentions(
      test::message_of([&] { evaluator->evaluate(gamma_table(1, 2), rows_, {}, {}); }),
      {"layers, heads", "(1, 2)"}));
  const std::vector<index_t> outside{37};
  EXPECT_TRUE(test::mentions(
      test::message_of([&] { evaluator->evaluate(some_gamma(), outside, {}, {}); }), {"37"}));
  data_set data = data_;
  data.rows[4].text = std::string(200000, 'x');
  try {
    host_evaluator refused(model().model, model().tokens, prompts_, data, {});
    FAIL();
  } catch (const usage_error& error) {
    EXPECT_TRUE(test::mentions(error.what(), {"d.jsonl:5", "row-4", "tokens"}));
  }
}

}  // namespace
