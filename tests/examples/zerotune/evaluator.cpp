// SPDX-License-Identifier: Apache-2.0
// The host as an evaluator: against one row at a time without any sharing, and the same bits for
// any number of threads and any slice.
#include "zerotune/evaluator.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
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
#include "zerotune/table_order.hpp"

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

// Tables of a probe, among them the untouched one, and one that shares nothing.
TEST_F(host, many_tables_give_the_bits_of_each) {
  std::vector<gamma_table> tables;
  const auto& config = model().model.config();
  for (int layer = 0; layer < config.num_layers; ++layer)
    for (const int head : {0, 3, config.num_heads - 1}) {
      tables.emplace_back(config.num_layers, config.num_heads);
      tables.back()(layer, head) = 2.0f;
    }
  tables.emplace_back(config.num_layers, config.num_heads);
  tables.push_back(some_gamma());
  tables.push_back(tables.front());
  ASSERT_LT(order_tables(tables).work, 0.9);
  const zerotune::quantities all;
  for (const int threads : {1, 3}) {
    const auto evaluator = make(threads);
    index_t last = 0;
    const auto found =
        evaluator->evaluate_many(tables, rows_, all, [&](index_t done, index_t total) {
          EXPECT_GT(done, last);
          EXPECT_EQ(total, static_cast<index_t>(tables.size()) * 37);
          last = done;
        });
    EXPECT_EQ(last, static_cast<index_t>(tables.size()) * 37);
    ASSERT_EQ(found.size(), tables.size());
    for (std::size_t i = 0; i < tables.size(); ++i)
      EXPECT_EQ(found[i], evaluator->evaluate(tables[i], rows_, all, {})) << "table " << i;
  }
}

TEST_F(host, many_tables_without_a_common_prefix_give_the_bits_of_each) {
  const prompt_template prompts{"{text}", "t"};
  host_evaluator evaluator(model().model, model().tokens, prompts, data_, {.threads = 2});
  ASSERT_EQ(evaluator.common_prefix(), 0);
  const auto& config = model().model.config();
  std::vector<gamma_table> tables(3, gamma_table(config.num_layers, config.num_heads));
  tables[1](config.num_layers - 1, 2) = 4.0f;
  tables[2](config.num_layers - 1, 3) = 0.0f;
  const auto found = evaluator.evaluate_many(tables, rows_, {}, {});
  for (std::size_t i = 0; i < tables.size(); ++i)
    EXPECT_EQ(found[i], evaluator.evaluate(tables[i], rows_, {}, {})) << "table " << i;
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

// --- gradients -----------------------------------------------------------------------------------

// The rows that the tests differentiate: several lengths, both labels.
const std::vector<index_t> differentiated{0, 5, 6, 13, 20, 36};

TEST_F(host, losses_are_those_of_the_scores) {
  const auto evaluator = make();
  const gamma_table gamma = some_gamma();
  const auto scores = evaluator->evaluate(gamma, differentiated, {}, {});
  const zerotune::loss_weights mixture{
      .choices = 0.5, .vocabulary = 0.25, .entropy = 2, .choice_entropy = -1};
  const auto found = evaluator->differentiate(gamma, differentiated, mixture, {});
  ASSERT_EQ(found.loss.size(), differentiated.size());
  for (std::size_t i = 0; i < differentiated.size(); ++i) {
    const zerotune::example_result& score = scores[i];
    const auto label =
        static_cast<std::size_t>(data_.rows[static_cast<std::size_t>(differentiated[i])].label);
    const double expected = -0.5 * std::log(zerotune::choice_probabilities(score.loglik)[label]) -
                            0.25 * score.loglik[label] + 2 * score.entropy -
                            zerotune::choice_entropy(score.loglik);
    // Chunked and whole attention agree to rounding, not bit by bit.
    EXPECT_NEAR(found.loss[i], expected, 2e-3);
  }
}

class host_losses : public host, public testing::WithParamInterface<zerotune::loss_weights> {
 protected:
  // Many short choices: the made-up model gives two of them shares that are not 0 or 1.
  data_set choosing() const {
    data_set data = data_;
    for (data_row& row : data.rows) row.choices = {"a", "b", "c", "d", "ef", "g", "h", "i"};
    return data;
  }
};

// Against what differentiate() itself does not use: losses of evaluate() with gammas moved.
TEST_P(host_losses, gradients_are_central_differences) {
  const data_set data = choosing();
  host_evaluator evaluator(model().model, model().tokens, prompts_, data, {.threads = 2});
  gamma_table gamma = some_gamma();
  for (index_t layer = 0; layer < gamma.layers(); ++layer)
    for (index_t head = 0; head < gamma.heads(); ++head)
      gamma(layer, head) = 0.3f + 0.9f * gamma(layer, head);
  const zerotune::loss_weights& weights = GetParam();
  const auto units = static_cast<std::size_t>(gamma.layers() * gamma.heads());
  const auto found = evaluator.differentiate(gamma, differentiated, weights, {});
  ASSERT_EQ(found.gradient.size(), differentiated.size() * units);
  const auto losses = [&](const gamma_table& table) {
    std::vector<double> values;
    const auto scores = evaluator.evaluate(table, differentiated, {.generated = false}, {});
    for (std::size_t i = 0; i < scores.size(); ++i) {
      const auto label =
          static_cast<std::size_t>(data.rows[static_cast<std::size_t>(differentiated[i])].label);
      values.push_back(
          -weights.choices * std::log(zerotune::choice_probabilities(scores[i].loglik)[label]) -
          weights.vocabulary * scores[i].loglik[label] + weights.entropy * scores[i].entropy +
          weights.choice_entropy * zerotune::choice_entropy(scores[i].loglik));
    }
    return values;
  };
  double largest = 0;
  for (const float value : found.gradient)
    largest = std::max(largest, std::abs(static_cast<double>(value)));
  EXPECT_GT(largest, 1e-3);
  constexpr float step = 0.05f;
  for (const auto& [layer, head] : {std::pair{0, 0}, {0, 9}, {1, 2}, {1, 13}}) {
    // Two differences and their extrapolation: the error is of fourth order in the step.
    std::vector<double> slope(differentiated.size(), 0.0);
    for (const auto& [width, share] : {std::pair{step, 4.0 / 3.0}, {2 * step, -1.0 / 3.0}}) {
      gamma_table above = gamma, below = gamma;
      above(layer, head) *= std::exp(width);
      below(layer, head) *= std::exp(-width);
      const std::vector<double> up = losses(above), down = losses(below);
      for (std::size_t i = 0; i < slope.size(); ++i)
        slope[i] += share * (up[i] - down[i]) / (2.0 * static_cast<double>(width));
    }
    for (std::size_t i = 0; i < slope.size(); ++i)
      // Losses near 20 in single precision, divided by the step.
      EXPECT_NEAR(static_cast<double>(
                      found.gradient[i * units + static_cast<std::size_t>(layer * 14 + head)]),
                  slope[i], 2e-3 * largest + 5e-4)
          << "layer " << layer << " head " << head << " example " << i;
  }
}
INSTANTIATE_TEST_SUITE_P(
    each, host_losses,
    testing::Values(zerotune::loss_weights{}, zerotune::loss_weights{.choices = 0, .vocabulary = 1},
                    zerotune::loss_weights{.choices = 0, .entropy = 1},
                    zerotune::loss_weights{.choices = 0, .choice_entropy = 1},
                    zerotune::loss_weights{
                        .choices = 0.5, .vocabulary = 0.25, .entropy = 2, .choice_entropy = -1}));

TEST_F(host, gradients_are_the_same_bits_for_any_threads_and_slices) {
  const zerotune::loss_weights mixture{.choices = 1, .vocabulary = 1, .entropy = 1};
  const auto one = make(1)->differentiate(some_gamma(), rows_, mixture, {});
  const auto three = make(3);
  const auto other = three->differentiate(some_gamma(), rows_, mixture, {});
  EXPECT_EQ(other.loss, one.loss);
  EXPECT_EQ(other.gradient, one.gradient);
  const auto part =
      three->differentiate(some_gamma(), std::span(rows_).subspan(11, 9), mixture, {});
  const auto units = static_cast<std::ptrdiff_t>(part.gradient.size() / 9);
  EXPECT_TRUE(std::ranges::equal(part.loss, std::span(one.loss).subspan(11, 9)));
  EXPECT_TRUE(
      std::equal(part.gradient.begin(), part.gradient.end(), one.gradient.begin() + 11 * units));
}

TEST_F(host, gradients_of_an_example_do_not_depend_on_unneeded_choices) {
  const zerotune::loss_weights vocabulary{.choices = 0, .vocabulary = 1};
  const std::vector<index_t> examples{2, 4};  // both with the label 0
  const auto found = make()->differentiate(some_gamma(), examples, vocabulary, {});
  data_set fewer = data_;
  for (data_row& row : fewer.rows) row.choices.resize(row.label == 0 ? 1 : 2);
  host_evaluator other(model().model, model().tokens, prompts_, fewer, {});
  const auto expected = other.differentiate(some_gamma(), examples, vocabulary, {});
  EXPECT_EQ(found.gradient, expected.gradient);
}

TEST_F(host, gradients_report_their_progress) {
  index_t last = 0;
  make(2)->differentiate(some_gamma(), rows_, {}, [&](index_t done, index_t total) {
    EXPECT_GT(done, last);
    EXPECT_EQ(total, 37);
    last = done;
  });
  EXPECT_EQ(last, 37);
}

TEST_F(host, gradients_without_labels) {
  data_set data = data_;
  data.rows[3].label = zerotune::no_label;
  host_evaluator unlabelled(model().model, model().tokens, prompts_, data, {});
  const std::vector<index_t> rows{1, 3};
  for (const zerotune::loss_weights& needing :
       {zerotune::loss_weights{}, zerotune::loss_weights{.choices = 0, .vocabulary = 1}})
    EXPECT_TRUE(test::mentions(
        test::message_of([&] { unlabelled.differentiate(some_gamma(), rows, needing, {}); }),
        {"examples[1]", "label"}));
  const zerotune::loss_weights entropies{.choices = 0, .entropy = 1, .choice_entropy = 1};
  EXPECT_EQ(unlabelled.differentiate(some_gamma(), rows, entropies, {}).gradient,
            make()->differentiate(some_gamma(), rows, entropies, {}).gradient);
}

TEST_F(host, a_loss_without_weights_is_refused) {
  const auto evaluator = make();
  for (const double weight : {0.0, std::nan("")})
    EXPECT_TRUE(test::mentions(test::message_of([&] {
                                 evaluator->differentiate(some_gamma(), rows_, {.choices = weight},
                                                          {});
                               }),
                               {"weights"}));
  EXPECT_TRUE(test::mentions(
      test::message_of([&] { evaluator->differentiate(gamma_table(1, 2), rows_, {}, {}); }),
      {"layers, heads"}));
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
