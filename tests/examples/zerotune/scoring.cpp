// SPDX-License-Identifier: Apache-2.0
// What a continuation means: the rules of docs/design.md, section 7, one by one.
#include "zerotune/scoring.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "zerotune/tuning/random.hpp"

namespace {

using namespace zerotune_cli;
using zerotune::no_label;

index_t parse(const std::string& text, const std::vector<std::string>& choices) {
  std::vector<std::string> normal;
  for (const std::string& choice : choices) normal.push_back(normalise(choice));
  return parse_answer(text, normal);
}

TEST(scoring, a_choice_must_be_a_word_bounded_prefix) {
  const std::vector<std::string> choices{"negative", "positive"};
  EXPECT_EQ(parse(" positive", choices), 1);
  EXPECT_EQ(parse(" positive review", choices), 1);
  EXPECT_EQ(parse(" positive.", choices), 1);
  EXPECT_EQ(parse(" positive-ish", choices), 1);
  EXPECT_EQ(parse(" positively", choices), no_label);
  EXPECT_EQ(parse(" positive2", choices), no_label);
  EXPECT_EQ(parse(" posit", choices), no_label);
  EXPECT_EQ(parse(" It is positive", choices), no_label);
  EXPECT_EQ(parse("", choices), no_label);
  EXPECT_EQ(parse(" positive\xC3\xA9", choices), no_label);  // a letter follows
  EXPECT_EQ(parse(" positive\xE2\x80\x94so", choices), 1);   // a dash does
}

TEST(scoring, white_space_punctuation_and_case_do_not_count) {
  const std::vector<std::string> choices{"Negative", "positive"};
  EXPECT_EQ(parse("  \t**\"NEGATIVE\"**", choices), 0);
  EXPECT_EQ(parse("\xC2\xA0\xE2\x80\x9Cnegative\xE2\x80\x9D", choices), 0);
  EXPECT_EQ(parse("\xC3\x89T\xC3\x89", {"\xC3\xA9t\xC3\xA9"}), 0);                // French capitals
  EXPECT_EQ(parse("\xD0\x94\xD0\x90", {"\xD0\xB4\xD0\xB0"}), 0);                  // Cyrillic
  EXPECT_EQ(parse("\xCE\x9D\xCE\x91\xCE\x99", {"\xCE\xBD\xCE\xB1\xCE\xB9"}), 0);  // Greek
  EXPECT_EQ(parse("\xE5\xA5\xBD", {"\xE5\xA5\xBD", "x"}), 0);
}

TEST(scoring, the_longest_choice_wins) {
  EXPECT_EQ(parse("very bad indeed", {"very", "very bad", "bad"}), 1);
  EXPECT_EQ(parse("very badly", {"very", "very bad"}), 0);
  EXPECT_EQ(parse("a", {"A", "a."}), 0);  // equal once normalised: the lowest
}

TEST(scoring, only_the_first_line_counts) {
  EXPECT_EQ(parse("\npositive", {"positive"}), no_label);
  EXPECT_EQ(parse("positive\nnegative", {"negative", "positive"}), 1);
  EXPECT_EQ(first_line("a\nb\nc"), "a");
}

TEST(scoring, choices_in_brackets_and_without_words) {
  EXPECT_EQ(parse(" (B) because", {"(A)", "(B)"}), 1);
  EXPECT_EQ(parse(" +", {"+", "-"}), no_label);  // nothing is left of them
  EXPECT_EQ(parse("12", {"1", "12"}), 1);
}

TEST(scoring, invalid_utf8_is_harmless) {
  for (const char* text :
       {"\xff\xfe good", "good\xff", "\xC3", "good \xE2\x80", "\xF0\x9F\x98\x80"})
    (void)parse(text, {"good"});
  EXPECT_EQ(parse("\xff good", {"good"}), 0);
}

TEST(scoring, settled_means_that_nothing_can_change_it) {
  const std::vector<std::string> choices{"negative", "positive", "positive note"};
  EXPECT_FALSE(is_settled("", choices));
  EXPECT_FALSE(is_settled(" *", choices));
  EXPECT_FALSE(is_settled(" posi", choices));
  EXPECT_FALSE(is_settled(" positive", choices));
  EXPECT_FALSE(is_settled(" positive no", choices));
  EXPECT_TRUE(is_settled(" positive, no", choices));
  EXPECT_TRUE(is_settled(" positively", choices));
  EXPECT_TRUE(is_settled(" I", choices));
  EXPECT_TRUE(is_settled("\n", choices));
  EXPECT_FALSE(is_settled(" negative\xE2\x80", choices));
}

TEST(scoring, settled_holds_for_random_continuations) {
  const std::vector<std::string> choices{"a", "ab", "a b", "b a"},
      pieces{"a", "b", " ", "A", ".", "\n", "\xC3", "\xA9", "\xE2", "\x80", "\x94", "-"};
  zerotune::random_source random(5);
  int settled = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text, more;
    for (std::uint64_t i = random.below(6); i > 0; --i) text += pieces[random.below(pieces.size())];
    for (std::uint64_t i = random.below(4); i > 0; --i) more += pieces[random.below(pieces.size())];
    if (!is_settled(text, choices)) continue;
    ++settled;
    ASSERT_EQ(parse_answer(text, choices), parse_answer(text + more, choices))
        << '"' << text << "\" + \"" << more << '"';
  }
  EXPECT_GT(settled, 1000);
}

}  // namespace
