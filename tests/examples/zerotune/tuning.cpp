// SPDX-License-Identifier: Apache-2.0
// Whole tuning runs on a small model: every method, journals, resuming, and what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "scratch.hpp"
#include "support/errors.hpp"
#include "zerotune/failure.hpp"
#include "zerotune/loaded_model.hpp"
#include "zerotune/tuning/json.hpp"
#include "zerotune/tuning_options.hpp"
#include "zerotune/tuning_run.hpp"
#include "zerotune/tuning_settings.hpp"

namespace {

using namespace zerotune_cli;
using test::mentions;

// The message of the usage_error that is thrown; "" if none is.
template <class Call>
std::string refusal(const Call& call) {
  try {
    call();
  } catch (const usage_error& error) {
    return error.what();
  }
  return "";
}

class tuning : public testing::Test {
 protected:
  static const loaded_model& model() {
    static const loaded_model loaded(test::small_model());
    return loaded;
  }

  tuning_plan plan(const std::string& method) const {
    search_settings settings;
    settings.method = method;
    settings.grid = {0.5f, 2};
    settings.search.descent.steps = 5;
    settings.search.descent.batch = 4;
    settings.search.race.first_rows = 4;
    settings.search.select = {.shares = {0.2}, .strengths = {2}};
    return {method, settings.options({}, 1, true), {6, 8, 10}, 1, 0, nullptr};
  }
  tuning_outcome run(const tuning_plan& what, int threads = 1) {
    host_evaluator host(model().model, model().tokens, prompts_, data_, {.threads = threads});
    return run_tuning(host, data_, what);
  }
  // Everything but the seconds.
  static std::string text_of(tuning_outcome outcome) {
    outcome.result.cost->seconds = 0;
    return zerotune::write_profile(outcome.result);
  }

  data_set data_ = parse_rows(test::sample_rows(30), "d.jsonl");
  const prompt_template prompts_{"<|im_start|>Review: {text}\nAnswer:", "t"};
  const test::scratch_folder folder_;
};

TEST_F(tuning, every_method_runs_and_says_what_it_chose) {
  for (const std::string& method : method_names()) {
    const tuning_outcome outcome = run(plan(method));
    const zerotune::tuning_profile profile =
        zerotune::read_profile(zerotune::write_profile(outcome.result));
    EXPECT_EQ(profile.method, method);
    EXPECT_FALSE(profile.chosen_method.empty());
    ASSERT_TRUE(profile.test && profile.search && profile.cost);
    EXPECT_EQ(profile.test->tuned.rows, 10);
    EXPECT_TRUE(profile.placebo_equal.value());
    EXPECT_EQ(profile.candidates.at(0).method, "untouched");
    EXPECT_EQ(profile.descent.empty(), method != "auto" && method != "descent");
    EXPECT_EQ(profile.gradient.has_value(), method != "uniform" && method != "paper");
    EXPECT_EQ(profile.cost->backward_rows > 0, profile.gradient.has_value());
    EXPECT_TRUE(mentions(format_outcome(outcome), {"untouched", "McNemar", "search", "test"}));
  }
}

// The answers in the profile are those that its scores count.
TEST_F(tuning, the_answers_to_every_test_row_are_kept) {
  const tuning_outcome outcome = run(plan("uniform"));
  const zerotune::tuning_profile& profile = outcome.result;
  ASSERT_TRUE(profile.outcomes);
  const auto check = [&](const zerotune::answer_columns& answers,
                         const zerotune::score_report& scores) {
    ASSERT_EQ(answers.predicted.size(), 10u);
    ASSERT_EQ(answers.generated.size(), 10u);
    double likelihood = 0, generated = 0, invalid = 0;
    for (std::size_t i = 0; i < 10; ++i) {
      const index_t row = outcome.splits.test[i];
      ASSERT_EQ(profile.outcomes->label[i], data_.rows[static_cast<std::size_t>(row)].label);
      likelihood += answers.predicted[i] == profile.outcomes->label[i];
      generated += answers.generated[i] == profile.outcomes->label[i];
      invalid += answers.generated[i] == zerotune::no_label;
    }
    EXPECT_DOUBLE_EQ(likelihood / 10, scores.likelihood);
    EXPECT_DOUBLE_EQ(generated / 10, scores.generated);
    EXPECT_DOUBLE_EQ(invalid / 10, scores.invalid);
  };
  check(profile.outcomes->untouched, profile.test->untouched);
  check(profile.outcomes->tuned, profile.test->tuned);
  EXPECT_EQ(profile.outcomes->classes, data_.rows.front().choices);
  data_.rows.front().choices.front() = "another";
  EXPECT_TRUE(run(plan("uniform")).result.outcomes->classes.empty());
}

// uniform: the untouched model and two gammas on 8 rows; paper: 14 head indices and the untouched
// model on 6 rows, then as uniform.
TEST_F(tuning, costs_what_it_should) {
  EXPECT_EQ(run(plan("uniform")).result.cost->forward_rows, 3 * 8);
  EXPECT_EQ(run(plan("paper")).result.cost->forward_rows, 15 * 6 + 3 * 8);
}

TEST_F(tuning, is_the_same_for_any_number_of_threads) {
  const std::string one = text_of(run(plan("auto"), 1));
  EXPECT_EQ(text_of(run(plan("auto"), 3)), one);
}

TEST_F(tuning, is_resumed_from_any_point_of_its_journal) {
  const std::string path = folder_.file("j");
  tuning_plan what = plan("auto");
  tuning_journal whole(path, "subject");
  what.journal = &whole;
  const std::string expected = text_of(run(what));
  const std::string journal = folder_.read("j");
  for (const double share : {0.1, 0.6, 1.0}) {
    folder_.write(
        "k",
        journal.substr(0, static_cast<std::size_t>(share * static_cast<double>(journal.size()))));
    tuning_journal part(folder_.file("k"), "subject");
    what.journal = &part;
    EXPECT_EQ(text_of(run(what, 2)), expected);
    // What is appended completes it: another run has nothing left to do.
    const std::size_t size = folder_.read("k").size();
    tuning_journal complete(folder_.file("k"), "subject");
    what.journal = &complete;
    EXPECT_EQ(text_of(run(what)), expected);
    EXPECT_EQ(folder_.read("k").size(), size);
  }
}

TEST_F(tuning, journals_of_something_else_and_damaged_ones_are_refused) {
  const std::string path = folder_.file("j");
  { const tuning_journal begun(path, "one"); }
  EXPECT_TRUE(mentions(refusal([&] { tuning_journal(path, "another"); }), {path, "one"}));
  folder_.write("j", "what is this\n");
  EXPECT_THROW(tuning_journal(path, "one"), zerotune::format_error);
  EXPECT_EQ(folder_.read("j"), "what is this\n");
  EXPECT_THROW(tuning_journal(folder_.file("no/such/folder"), "one"), output_error);
  // Gradients of another model's shape, with a right check.
  tuning_journal(folder_.file("k"), "one").sink().gradient({1, {}, {0}, {{0.5}, {1.0f, 2.0f}}, 0});
  tuning_journal foreign(folder_.file("k"), "one");
  tuning_plan what = plan("uniform");
  what.journal = &foreign;
  EXPECT_THROW(run(what), usage_error);
}

TEST_F(tuning, warns_when_most_answers_are_invalid) {
  // Made-up weights name no choice.
  const tuning_outcome outcome = run(plan("uniform"));
  ASSERT_GT(outcome.result.test->tuned.invalid, 0.5);
  EXPECT_TRUE(mentions(outcome.result.warnings.back(), {"none of the choices"}));
}

TEST_F(tuning, controls_are_the_same_gammas_on_other_heads) {
  tuning_plan what = plan("descent");
  what.controls = 5;
  const tuning_outcome outcome = run(what);
  if (outcome.search.chosen().gamma.is_identity()) {
    EXPECT_TRUE(outcome.result.controls.empty());
    EXPECT_TRUE(mentions(outcome.result.warnings.back(), {"controls"}));
  } else {
    EXPECT_EQ(outcome.result.controls.size(), 5u);
  }
}

TEST_F(tuning, without_labels_needs_an_objective_and_a_loss_without_labels) {
  for (data_row& row : data_.rows) row.label = zerotune::no_label;
  EXPECT_TRUE(mentions(refusal([&] { run(plan("auto")); }), {"d.jsonl:1", "label"}));
  probe_settings probe;
  probe.objective = "choice-entropy";
  search_settings settings;
  settings.search.descent.steps = 3;
  tuning_plan what = plan("auto");
  what.search = settings.options(probe, 1, true);
  EXPECT_EQ(what.search.descent.loss.choice_entropy, 1);
  const tuning_outcome outcome = run(what);
  EXPECT_FALSE(outcome.result.test);
  settings.loss = "choices";
  what.search = settings.options(probe, 1, true);
  EXPECT_TRUE(mentions(refusal([&] { run(what); }), {"label"}));
}

// A setting that is forgotten makes a run that cannot be repeated from its profile.
TEST_F(tuning, every_option_that_changes_a_search_is_among_the_settings) {
  const tuning_plan before = plan("auto");
  const auto settings = settings_of(before, data_);
  const std::vector<std::function<void(tuning_plan&)>> changes{
      [](tuning_plan& p) { p.search.methods.uniform = false; },
      [](tuning_plan& p) { p.search.methods.paper = false; },
      [](tuning_plan& p) { p.search.methods.gradient_select = false; },
      [](tuning_plan& p) { p.search.methods.descent = false; },
      [](tuning_plan& p) { p.search.grid.push_back(3); },
      [](tuning_plan& p) { p.search.profile = zerotune::profiling::probe; },
      [](tuning_plan& p) { p.search.probe.unit = zerotune::granularity::layer; },
      [](tuning_plan& p) { p.search.probe.gamma = 3; },
      [](tuning_plan& p) { p.search.probe.goal = zerotune::objective::entropy; },
      [](tuning_plan& p) { p.search.share = 0.7; },
      [](tuning_plan& p) { p.search.select.shares = {0.1}; },
      [](tuning_plan& p) { p.search.select.strengths = {1.25f}; },
      [](tuning_plan& p) { p.search.select.choices.pop_back(); },
      [](tuning_plan& p) { p.search.descent.steps = 7; },
      [](tuning_plan& p) { p.search.descent.step_size = 0.3; },
      [](tuning_plan& p) { p.search.descent.beta1 = 0.5; },
      [](tuning_plan& p) { p.search.descent.beta2 = 0.5; },
      [](tuning_plan& p) { p.search.descent.epsilon = 1; },
      [](tuning_plan& p) { p.search.descent.limit = 1; },
      [](tuning_plan& p) { p.search.descent.batch = 2; },
      [](tuning_plan& p) { p.search.descent.seed = 9; },
      [](tuning_plan& p) { p.search.descent.pull = 1; },
      [](tuning_plan& p) { p.search.descent.layer_sharing = 1; },
      [](tuning_plan& p) { p.search.descent.head_sharing = 1; },
      [](tuning_plan& p) { p.search.descent.keep.pop_back(); },
      [](tuning_plan& p) { p.search.descent.loss.choices = 3; },
      [](tuning_plan& p) { p.search.descent.loss.vocabulary = 3; },
      [](tuning_plan& p) { p.search.descent.loss.entropy = 3; },
      [](tuning_plan& p) { p.search.descent.loss.choice_entropy = 3; },
      [](tuning_plan& p) { p.search.watched_rows = 3; },
      [](tuning_plan& p) { p.search.patience = 9; },
      [](tuning_plan& p) { p.search.race.goal = zerotune::objective::entropy; },
      [](tuning_plan& p) { p.search.race.first_rows = 3; },
      [](tuning_plan& p) { p.search.race.growth = 3; },
      [](tuning_plan& p) { p.search.race.keep = 0.25; },
      [](tuning_plan& p) { p.search.race.margin = 0.25; },
      [](tuning_plan& p) { p.search.race.max_divergence = 3; },
      [](tuning_plan& p) { p.search.race.min_spread = 0.25; },
      [](tuning_plan& p) { p.sizes.profile = 5; },
      [](tuning_plan& p) { p.sizes.search = 5; },
      [](tuning_plan& p) { p.sizes.test = 5; },
      [](tuning_plan& p) { p.controls = 5; },
      [](tuning_plan& p) { p.data_hash = "another"; },
      [](tuning_plan& p) { p.arithmetic = "another"; },
      [](tuning_plan& p) { p.shots = "row-1"; }};
  for (std::size_t i = 0; i < changes.size(); ++i) {
    tuning_plan changed = before;
    changes[i](changed);
    EXPECT_NE(settings_of(changed, data_), settings) << "change " << i;
  }
  EXPECT_TRUE(std::is_sorted(settings.begin(), settings.end(),
                             [](const auto& a, const auto& b) { return a.name < b.name; }));
  EXPECT_EQ(run(before).result.settings, settings);
}

TEST(tuning_options, losses_are_parts_with_weights) {
  const zerotune::loss_weights loss = parse_loss("choices=1,vocabulary=0.5");
  EXPECT_EQ(loss.choices, 1);
  EXPECT_EQ(loss.vocabulary, 0.5);
  EXPECT_EQ(loss.entropy, 0);
  EXPECT_EQ(parse_loss("choice-entropy").choice_entropy, 1);
  for (const char* bad :
       {"", "choices,", "luck", "choices=", "choices=x", "choices=-1", "choices=0", "choices=1e999",
        "choices,choices", "choices=1 ", "choices=nan"})
    EXPECT_TRUE(mentions(refusal([&] { parse_loss(bad); }), {"--loss"})) << bad;
}

}  // namespace
