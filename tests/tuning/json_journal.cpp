// SPDX-License-Identifier: Apache-2.0
// Journals: what is written is read back bit by bit, an unfinished end is left out, anything else
// that is wrong is refused with its line, and a search that is resumed ends where it would have.
#include "zerotune/tuning/json_journal.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/errors.hpp"
#include "tuning/linear_host.hpp"
#include "zerotune/tuning/search.hpp"

namespace {

using namespace zerotune;
using test::mentions;
using test::message_of;

constexpr double infinity = std::numeric_limits<double>::infinity();

evaluation_record some_answers() {
  return {0xfedcba9876543210ull,
          {true, true, false},
          {7, 0},
          {{1, no_label, {-0.1, -infinity, std::nextafter(-1.0, 0.0)}, 0, 1.0 / 3},
           {0, 0, {-1e-300, -745.1}, 0, 5e-324}},
          0.25};
}

gradient_record some_gradients() {
  return {3,
          {1, 0.5, 0, 0.1},
          {4, 9},
          {{0.1, infinity}, {1.5f, -0.0f, 1e-45f, std::nextafter(1.0f, 2.0f)}},
          1.5};
}

std::string some_journal() {
  return write_journal_head("a subject") + write_journal_line(some_answers()) +
         write_journal_line(some_gradients());
}

std::string refusal(const std::string& text) {
  try {
    read_journal(text, "j");
  } catch (const format_error& error) {
    return error.what();
  }
  return "";
}

// A line with a right check and any content.
std::string line_of(const std::string& json) {
  return impl::checked_line(nlohmann::ordered_json::parse(json));
}

TEST(json_journal, what_is_written_is_read_back) {
  const std::string text = some_journal();
  const journal_contents contents = read_journal(text);
  EXPECT_EQ(contents.subject, "a subject");
  EXPECT_EQ(contents.good_bytes, text.size());
  ASSERT_EQ(contents.evaluations.size(), 1u);
  const evaluation_record &answers = contents.evaluations[0], expected = some_answers();
  EXPECT_EQ(answers.table, expected.table);
  EXPECT_EQ(answers.examples, expected.examples);
  EXPECT_EQ(answers.results, expected.results);
  EXPECT_TRUE(answers.known.loglik && answers.known.generated && !answers.known.entropy);
  EXPECT_EQ(answers.seconds, 0.25);
  ASSERT_EQ(contents.gradients.size(), 1u);
  const gradient_record& gradients = contents.gradients[0];
  EXPECT_EQ(gradients.table, 3u);
  EXPECT_EQ(gradients.loss.vocabulary, 0.5);
  EXPECT_EQ(gradients.loss.choice_entropy, 0.1);
  EXPECT_EQ(gradients.examples, (std::vector<index_t>{4, 9}));
  EXPECT_EQ(gradients.values.loss, some_gradients().values.loss);
  EXPECT_EQ(gradients.values.gradient, some_gradients().values.gradient);
  EXPECT_TRUE(std::signbit(gradients.values.gradient[1]));
}

TEST(json_journal, lines_are_json) {
  const std::string line = write_journal_line(some_gradients());
  const nlohmann::json json = nlohmann::json::parse(line);
  EXPECT_EQ(json.at("kind"), "gradients");
  EXPECT_EQ(json.at("gradients").at(0), "3fc0000080000000");
  EXPECT_EQ(line.find('\n'), line.size() - 1);
}

// A process can be killed after any byte.
TEST(json_journal, an_unfinished_end_is_left_out) {
  const std::string text = some_journal();
  for (std::size_t size = 0; size <= text.size(); ++size) {
    const journal_contents contents = read_journal(text.substr(0, size));
    const std::size_t last = text.rfind('\n', size == 0 ? 0 : size - 1);
    EXPECT_EQ(contents.good_bytes, last == std::string::npos || size == 0 ? 0 : last + 1) << size;
    EXPECT_EQ(contents.gradients.size(), size == text.size() ? 1u : 0u);
  }
}

TEST(json_journal, every_changed_byte_is_noticed) {
  const std::string text = some_journal();
  for (std::size_t i = 0; i + 1 < text.size(); ++i) {
    std::string changed = text;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    EXPECT_TRUE(mentions(refusal(changed), {"j:", "check"})) << i;
  }
}

TEST(json_journal, what_is_no_journal_is_refused_with_its_line) {
  EXPECT_EQ(refusal(""), "");
  EXPECT_TRUE(mentions(refusal("\n"), {"j:1", "check"}));
  EXPECT_TRUE(mentions(refusal("{}\n"), {"j:1"}));
  EXPECT_TRUE(mentions(refusal(write_journal_line(some_answers())), {"j:1", "schema"}));
  EXPECT_TRUE(mentions(refusal(line_of(R"({"schema": "other", "version": 1, "subject": ""})")),
                       {"j:1", "schema"}));
  EXPECT_TRUE(
      mentions(refusal(line_of(R"({"schema": "zerotune-journal", "version": 2, "subject": ""})")),
               {"version"}));
  const auto after_head = [](const std::string& json) {
    return refusal(write_journal_head("s") + line_of(json));
  };
  EXPECT_TRUE(mentions(after_head(R"({"kind": "poem"})"), {"j:2", "kind"}));
  EXPECT_TRUE(mentions(after_head(R"({"what": 1})"), {"j:2", "kind"}));
  const std::string answers = R"({"kind": "answers", "table": "0f", "known": [true, true, true], )";
  EXPECT_EQ(
      after_head(answers + R"("examples": [1], "seconds": 1, "results": [[0, -1, 0, 0, []]]})"),
      "");
  for (const char* rest :
       {R"("examples": [1, 2], "seconds": 1, "results": [[0, 0, 0, 0, []]]})",
        R"("examples": [-1], "seconds": 1, "results": [[0, 0, 0, 0, []]]})",
        R"("examples": [1.5], "seconds": 1, "results": [[0, 0, 0, 0, []]]})",
        R"("examples": [1], "seconds": "x", "results": [[0, 0, 0, 0, []]]})",
        R"("examples": [1], "seconds": 1, "results": [[-2, 0, 0, 0, []]]})",
        R"("examples": [1], "seconds": 1, "results": [[0, 0, 0, []]]})",
        R"("examples": [1], "seconds": 1, "results": [[0, 0, 0, 0, ["one"]]]})",
        R"("examples": [1], "seconds": 1, "results": {}})", R"("examples": [1], "seconds": 1})"})
    EXPECT_TRUE(mentions(after_head(answers + rest), {"j:2"})) << rest;
  const std::string gradients =
      R"({"kind": "gradients", "table": "0f", "loss": [1, 0, 0, 0], "seconds": 1, )";
  EXPECT_EQ(after_head(gradients + R"("examples": [1], "losses": [1], "gradients": ["3f800000"]})"),
            "");
  for (const char* rest :
       {R"("examples": [1], "losses": [1, 2], "gradients": ["3f800000"]})",
        R"("examples": [1], "losses": [1], "gradients": []})",
        R"("examples": [1], "losses": [1], "gradients": ["3f80000"]})",
        R"("examples": [1], "losses": [1], "gradients": ["3f80000g"]})",
        R"("examples": [1], "losses": [1], "gradients": ["-f800000"]})",
        R"("examples": [1, 2], "losses": [1, 2], "gradients": ["3f800000", ""]})"})
    EXPECT_TRUE(mentions(after_head(gradients + rest), {"j:2"})) << rest;
  EXPECT_TRUE(mentions(after_head(R"({"kind": "answers", "table": "0x1"})"), {"j:2", "table"}));
  EXPECT_TRUE(mentions(after_head(R"({"kind": "answers", "table": ""})"), {"j:2", "table"}));
}

search_options everything() {
  search_options options;
  options.methods = {.uniform = true, .paper = true, .gradient_select = true, .descent = true};
  options.descent.steps = 10;
  options.descent.batch = 12;
  options.race.first_rows = 10;
  return options;
}

struct outcome_and_journal {
  search_outcome outcome;
  std::string journal;
  tuning_cost cost;
  index_t asked = 0;  // rows that the host had to answer
};

// The search with a journal that begins with `before`.
outcome_and_journal search_with(const std::string& before, int threads = 1) {
  test::linear_host host = test::make_linear_host(80);
  host.threads = threads;
  const journal_contents contents = read_journal(before);
  outcome_and_journal result{{}, before.substr(0, contents.good_bytes), {}, 0};
  if (contents.good_bytes == 0) result.journal = write_journal_head("test");
  recorded_evaluator<test::linear_host> recorded(
      host, {[&](const evaluation_record& record) { result.journal += write_journal_line(record); },
             [&](const gradient_record& record) { result.journal += write_journal_line(record); }});
  for (const auto& record : contents.evaluations) recorded.restore(record);
  for (const auto& record : contents.gradients) recorded.restore(record);
  result.outcome = search_table(recorded, test::rows_between(0, 30), test::rows_between(30, 80),
                                host.labels, everything());
  result.cost = recorded.cost();
  result.asked = host.rows_evaluated + host.rows_differentiated;
  return result;
}

void expect_equal(const search_outcome& a, const search_outcome& b) {
  EXPECT_EQ(a.race.chosen, b.race.chosen);
  EXPECT_EQ(a.chosen().gamma, b.chosen().gamma);
  ASSERT_EQ(a.candidates.size(), b.candidates.size());
  for (std::size_t i = 0; i < a.candidates.size(); ++i)
    EXPECT_EQ(a.candidates[i].gamma, b.candidates[i].gamma) << i;
  EXPECT_EQ(a.race.results, b.race.results);
}

TEST(json_journal, a_killed_search_is_resumed_to_the_same_end) {
  const outcome_and_journal whole = search_with("");
  for (const double share : {0.01, 0.2, 0.35, 0.5, 0.77, 0.999, 1.0}) {
    const std::size_t size =
        static_cast<std::size_t>(share * static_cast<double>(whole.journal.size()));
    const outcome_and_journal resumed = search_with(whole.journal.substr(0, size));
    expect_equal(resumed.outcome, whole.outcome);
    EXPECT_EQ(resumed.cost.forward_rows, whole.cost.forward_rows);
    EXPECT_EQ(resumed.cost.backward_rows, whole.cost.backward_rows);
    EXPECT_EQ(resumed.asked < whole.asked, share >= 0.2);
    EXPECT_EQ(resumed.asked == 0, share == 1.0);
  }
}

TEST(json_journal, a_resumed_search_may_have_other_threads) {
  const outcome_and_journal whole = search_with("");
  for (const int threads : {2, 5}) {
    expect_equal(search_with("", threads).outcome, whole.outcome);
    expect_equal(search_with(whole.journal.substr(0, whole.journal.size() / 3), threads).outcome,
                 whole.outcome);
  }
}

}  // namespace
