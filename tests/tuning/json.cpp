// SPDX-License-Identifier: Apache-2.0
// Profiles as JSON: what is written is read back; what is not a profile is refused with its place.
#include "zerotune/tuning/json.hpp"

#include <gtest/gtest.h>

#if defined(__linux__)
#include <sys/resource.h>
#endif

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/errors.hpp"

namespace {

using namespace zerotune;
using test::mentions;
using test::message_of;

// The message of the format_error that reading throws; "" if it returns.
std::string refusal(const std::string& text, const json_limits& limits = {}) {
  try {
    read_profile(text, "p.json", limits);
  } catch (const format_error& error) {
    return error.what();
  }
  return "";
}

std::string profile_with(const std::string& members) {
  return R"({"schema": "zerotune-profile", "version": 1, "gamma": [[1, 2], [0.5, 0]])" +
         (members.empty() ? "" : ", " + members) + "}";
}

tuning_profile full_profile() {
  tuning_profile p;
  p.model = {"llama", "a model", 2, 3, 1, "abc", "def", "q4_1"};
  p.gamma = gamma_table::from(2, 3, {{0, 1}, {1, 2}}, 0.3f);
  p.gamma(1, 0) = 1e-38f;
  p.gamma(1, 1) = 3.4e38f;
  p.template_text = "Text: {text}\n\"quoted\" \xC3\xA9";
  p.seed = 18446744073709551615ull;
  p.method = "paper";
  p.splits = {{"a", "b"}, {"c"}, {"d", "e", "f"}};
  p.cost = {640, 0, 12.5};
  const score_report scores{0.5, 0.25, 0.125, 8, interval{0.1, 0.9}, interval{0, 0.5}};
  p.test = {scores, scores, 0.5, 1, interval{-0.5, 0.5}, interval{0, 0}};
  p.search = {scores, scores, 1, 1, {}, {}};
  p.objective = "accuracy";
  p.granularity = "head-index";
  p.kind = "up";
  p.probe_gamma = 2;
  p.share = 0.4;
  p.units = {{0, 0.125, -0.5, true}, {1, -0.25, 0, false}};
  p.chosen_method = "descent";
  p.chosen_detail = "8 steps";
  p.loss = {1, 0.5, 0, 0.25};
  p.gradient = {{-1, 2, 0.5, 0, 1e-9, 3}, {0.1, 0.2, 0.3, 0.4, 0.5, 0.6}};
  p.descent = {{1, 2.5, 0.125}, {2, 2.25, 0.0625}};
  p.candidates = {{"uniform", "gamma 0.3", 0.3f, 1.2, 32, 0.75, -1, 0.1, 0.6, true, scores},
                  {"descent", "8 steps", {}, 0.4, 128, 0.5, -2, 0, 0.1, false, {}}};
  p.placebo_equal = true;
  p.controls = {{7, {1, 2}, scores}};
  p.warnings = {"look out"};
  p.outcomes = {
      {0, 1, no_label}, {{0, 0, 1}, {no_label, 1, 0}}, {{1, 1, 1}, {0, 1, 2}}, {"n", "y"}};
  p.settings = {{"descent.steps", "48"}, {"grid", "0.5,2"}};
  return p;
}

TEST(json, what_is_written_is_read_back) {
  const tuning_profile before = full_profile();
  const std::string text = write_profile(before);
  const tuning_profile after = read_profile(text);
  EXPECT_EQ(after.gamma, before.gamma);
  EXPECT_EQ(after.template_text, before.template_text);
  EXPECT_EQ(after.seed, before.seed);
  ASSERT_TRUE(after.splits && after.cost && after.test && after.search);
  EXPECT_EQ(after.splits->test, before.splits->test);
  EXPECT_EQ(after.cost->forward_rows, 640);
  EXPECT_EQ(after.test->tuned.generated_interval, before.test->tuned.generated_interval);
  EXPECT_EQ(after.test->mcnemar_likelihood, 0.5);
  EXPECT_EQ(after.controls.at(0).units, before.controls.at(0).units);
  ASSERT_TRUE(after.gradient && after.loss);
  EXPECT_EQ(after.gradient->standard_error, before.gradient->standard_error);
  EXPECT_EQ(after.loss->choice_entropy, 0.25);
  EXPECT_EQ(after.candidates.at(0).gamma, before.candidates.at(0).gamma);
  EXPECT_FALSE(after.candidates.at(1).gamma || after.candidates.at(1).admitted);
  ASSERT_TRUE(after.outcomes);
  EXPECT_EQ(after.outcomes->label, before.outcomes->label);
  EXPECT_EQ(after.outcomes->untouched, before.outcomes->untouched);
  EXPECT_EQ(after.outcomes->tuned, before.outcomes->tuned);
  EXPECT_EQ(after.outcomes->classes, before.outcomes->classes);
  EXPECT_EQ(after.settings, before.settings);
  // Everything else: the second text is the first.
  EXPECT_EQ(write_profile(after), text);
}

TEST(json, has_the_members_of_the_schema) {
  const nlohmann::json json = nlohmann::json::parse(write_profile(full_profile()));
  EXPECT_EQ(json.at("schema"), "zerotune-profile");
  EXPECT_EQ(json.at("version"), 1);
  EXPECT_EQ(json.at("form"), "logits");
  EXPECT_EQ(json.at("gamma").at(0).dump(), "[1.0,0.3,1.0]");
  EXPECT_EQ(json.at("model").at("vocabulary_hash"), "abc");
  EXPECT_EQ(json.at("splits").at("profile").dump(), R"(["a","b"])");
  EXPECT_EQ(json.at("cost").at("backward_rows"), 0);
  const auto& test = json.at("metrics").at("test");
  for (const char* side : {"untouched", "tuned"})
    for (const char* member : {"likelihood", "generated", "invalid", "rows"})
      EXPECT_TRUE(test.at(side).contains(member));
  EXPECT_TRUE(test.at("mcnemar_p").contains("generated"));
  EXPECT_TRUE(json.at("metrics").contains("search"));
}

TEST(json, only_schema_version_and_gamma_are_required) {
  const tuning_profile p = read_profile(profile_with(""));
  EXPECT_EQ(p.gamma(0, 1), 2.0f);
  EXPECT_EQ(p.gamma(1, 1), 0.0f);
  EXPECT_EQ(p.form, "logits");
  EXPECT_TRUE(check_profile(p, {"llama", "", 2, 2, 1, "x", "y", "f16"}).empty());
  for (const char* text :
       {R"({"version": 1, "gamma": [[1]]})", R"({"schema": "zerotune-profile", "gamma": [[1]]})",
        R"({"schema": "zerotune-profile", "version": 1})"})
    EXPECT_TRUE(mentions(refusal(text), {"p.json", "member"})) << text;
}

TEST(json, settings_of_any_depth_are_joined_by_dots) {
  const tuning_profile p =
      read_profile(profile_with(R"("settings": {"b": {"c": {"d": 0.5}, "e": [1, 2]}, "a": "x"})"));
  EXPECT_EQ(p.settings,
            (std::vector<profile_setting>{{"a", "x"}, {"b.c.d", "0.5"}, {"b.e", "[1,2]"}}));
}

TEST(json, outcomes_need_the_test_split_and_its_length) {
  const auto with = [](const std::string& splits, const std::string& generated) {
    return profile_with(splits + R"("outcomes": {"test": {"label": [0, 1], "untouched": )" +
                        R"({"predicted": [0, 0], "generated": [null, 1]}, "tuned": )" +
                        R"({"predicted": [0, 1], "generated": )" + generated + "}}}");
  };
  const std::string splits = R"("splits": {"test": ["a", "b"]}, )";
  EXPECT_EQ(refusal(with(splits, "[0, null]")), "");
  EXPECT_EQ(read_profile(with(splits, "[0, null]")).outcomes->tuned.generated,
            (std::vector<index_t>{0, no_label}));
  EXPECT_TRUE(mentions(refusal(with("", "[0, 1]")), {"p.json", "outcomes", "splits"}));
  EXPECT_TRUE(
      mentions(refusal(with(splits, "[0]")), {"outcomes.test.tuned.generated", "2 answers"}));
  EXPECT_TRUE(mentions(refusal(with(splits, "[0, -1]")), {"tuned.generated[1]", ">= 0"}));
}

TEST(json, unknown_members_are_ignored_and_duplicates_refused) {
  EXPECT_EQ(refusal(profile_with(R"("later": {"deep": [1, "x", null]})")), "");
  EXPECT_EQ(refusal(profile_with(R"("model": null)")), "");
  EXPECT_TRUE(mentions(refusal(profile_with(R"("form": "logits", "form": "keys")")),
                       {"p.json", "form", "twice"}));
  EXPECT_TRUE(mentions(refusal(profile_with(R"("x": {"a": 1, "b": 2, "a": 3})")), {"\"a\""}));
}

TEST(json, other_schemas_and_versions_are_refused) {
  EXPECT_TRUE(mentions(refusal(R"({"schema": "other", "version": 1, "gamma": [[1]]})"),
                       {"schema", "other"}));
  for (const char* version : {"0", "2", "1.0", "-1", "\"1\"", "18446744073709551616"})
    EXPECT_TRUE(mentions(refusal(R"({"schema": "zerotune-profile", "gamma": [[1]], "version": )" +
                                 std::string(version) + "}"),
                         {"version"}))
        << version;
}

#if defined(__linux__)
// A first row of 20,000 numbers and as many empty rows: their product would be 1.6 GB.
TEST(json, a_table_is_not_made_before_its_rows_agree) {
  std::string gamma = "[[1";
  for (int i = 1; i < 20000; ++i) gamma += ",1";
  gamma += "]";
  for (int i = 1; i < 20000; ++i) gamma += ",[]";
  const auto peak = [] {
    rusage use{};
    getrusage(RUSAGE_SELF, &use);
    return use.ru_maxrss / 1024;  // MiB
  };
  const long before = peak();
  EXPECT_TRUE(
      mentions(refusal(R"({"schema": "zerotune-profile", "version": 1, "gamma": )" + gamma + "]}"),
               {"gamma[1]", "20000"}));
  EXPECT_LT(peak() - before, 300);
}
#endif

TEST(json, gammas_that_are_none_are_refused_with_their_place) {
  const auto with = [](const std::string& gamma) {
    return refusal(R"({"schema": "zerotune-profile", "version": 1, "gamma": )" + gamma + "}");
  };
  EXPECT_EQ(with("[[0, 1e38, 5e-324]]"), "");
  for (const char* bad : {"-1", "-1e-300", "1e39", "1e308", "null", "\"2\"", "true", "[2]", "{}"})
    EXPECT_TRUE(mentions(with("[[1, 1], [1, " + std::string(bad) + "]]"), {"gamma[1][1]"})) << bad;
  for (const char* bad : {"NaN", "inf", "Infinity", "-inf", "1e999", "0x1", "1.", ".5", "+1"})
    EXPECT_TRUE(mentions(with("[[" + std::string(bad) + "]]"), {"p.json", "expected JSON"})) << bad;
  for (const char* bad : {"[]", "[[]]", "[[1], []]", "[[1], [1, 2]]", "[1, 2]", "{}", "3", "null"})
    EXPECT_TRUE(mentions(with(bad), {"gamma"})) << bad;
}

TEST(json, members_of_the_wrong_type_are_named) {
  const struct {
    const char* member;
    const char* place;
  } cases[] = {{R"("model": 3)", "model"},
               {R"("model": {"layers": -2})", "model.layers"},
               {R"("model": {"layers": 1e99})", "model.layers"},
               {R"("model": {"layers": 18446744073709551615})", "model.layers"},
               {R"("model": {"architecture": ["llama"]})", "model.architecture"},
               {R"("template": 5)", "template"},
               {R"("seed": -1)", "seed"},
               {R"("splits": {"test": ["a", 3]})", "splits.test[1]"},
               {R"("cost": {"seconds": "long"})", "cost.seconds"},
               {R"("metrics": {"test": {"untouched": {}}})", "metrics.test"},
               {R"("candidates": [{"gamma": -1}])", "candidates[0].gamma"},
               {R"("candidates": [{"rows": 0.5}])", "candidates[0].rows"},
               {R"("descent": [{"step": -1}])", "descent[0].step"},
               {R"("loss": {"choices": "x"})", "loss.choices"},
               {R"("gradient": {"mean": [[1, 2]], "standard_error": []})", "gradient.mean"},
               {R"("gradient": {"mean": [[1, 2], [1]], "standard_error": []})", "gradient.mean[1]"},
               {R"("chosen": {"method": 1})", "chosen.method"},
               {R"("units": [{"selected": 1}])", "units[0].selected"},
               {R"("controls": [{"units": [-1], "scores": {}}])", "controls[0].units[0]"},
               {R"("metrics": {"test": {"untouched": {"generated_interval": [0]}, "tuned": {}}})",
                "generated_interval"}};
  for (const auto& c : cases)
    EXPECT_TRUE(mentions(refusal(profile_with(c.member)), {"p.json", c.place}))
        << c.member << ": " << refusal(profile_with(c.member));
}

TEST(json, every_truncation_is_a_typed_error) {
  const std::string text = write_profile(full_profile());
  const std::size_t end = text.find_last_of('}');
  for (std::size_t size = 0; size <= end; ++size)
    ASSERT_NE(refusal(text.substr(0, size)), "") << size;
  EXPECT_EQ(refusal(text.substr(0, end + 1)), "");
  EXPECT_NE(refusal(text + "x"), "");
}

TEST(json, every_changed_byte_is_read_or_refused) {
  const std::string text = write_profile(full_profile());
  for (std::size_t i = 0; i < text.size(); i += 3)
    for (const char c : {'\0', '"', '{', ']', '-', '9', '\xff'}) {
      std::string other = text;
      other[i] = c;
      (void)refusal(other);  // any other exception, or a sanitizer's report, fails the test
    }
}

TEST(json, limits_hold) {
  const std::string deep(100000, '[');
  EXPECT_TRUE(mentions(refusal(deep), {"nested", "32"}));
  EXPECT_TRUE(mentions(
      refusal(profile_with("\"x\": " + std::string(40, '[') + std::string(40, ']'))), {"nested"}));
  const std::string text =
      profile_with(R"("template": "01234567890123456789", "warnings": ["a", "b", "c"])");
  EXPECT_EQ(refusal(text), "");
  EXPECT_TRUE(mentions(refusal(text, {.string_bytes = 16}), {"string", "20"}));
  EXPECT_TRUE(mentions(refusal(text, {.elements = 2}), {"elements"}));
  EXPECT_TRUE(mentions(refusal(text, {.bytes = 20}), {"at most 20 bytes"}));
  EXPECT_TRUE(mentions(refusal(profile_with("\"x\": \"\xff\"")), {"expected JSON"}));
}

TEST(json, a_gradient_that_is_no_number_is_read_back_as_such) {
  tuning_profile profile = full_profile();
  ASSERT_TRUE(profile.gradient);
  profile.gradient->mean[1] = std::numeric_limits<double>::quiet_NaN();
  const tuning_profile back = read_profile(write_profile(profile));
  EXPECT_TRUE(std::isnan(back.gradient->mean[1]));
  EXPECT_EQ(back.gradient->mean[0], profile.gradient->mean[0]);
}

TEST(json, a_profile_without_gamma_cannot_be_written) {
  EXPECT_TRUE(mentions(message_of([] { write_profile({}); }), {"write_profile", "gamma"}));
  tuning_profile p;
  p.gamma = gamma_table(1, 1);
  p.gamma(0, 0) = -1;
  EXPECT_TRUE(mentions(message_of([&] { write_profile(p); }), {"gamma[0][0]"}));
}

TEST(check_profile, refuses_what_disagrees) {
  const tuning_profile p = full_profile();
  const model_description model = p.model;
  EXPECT_TRUE(check_profile(p, model).empty());
  const auto with = [&](auto change) {
    model_description other = model;
    change(other);
    return message_of([&] { check_profile(p, other); });
  };
  EXPECT_TRUE(mentions(with([](auto& m) { m.architecture = "qwen2"; }),
                       {"architecture", "llama", "qwen2"}));
  EXPECT_TRUE(mentions(with([](auto& m) { m.layers = 3; }), {"layers", "3", "2"}));
  EXPECT_TRUE(mentions(with([](auto& m) { m.heads = 4; }), {"heads"}));
  EXPECT_TRUE(mentions(with([](auto& m) { m.kv_heads = 3; }), {"kv_heads"}));
  EXPECT_TRUE(mentions(with([](auto& m) { m.vocabulary_hash = "x"; }), {"vocabulary_hash"}));
  tuning_profile table_only;
  table_only.gamma = gamma_table(2, 4);
  EXPECT_TRUE(mentions(message_of([&] { check_profile(table_only, model); }), {"dim 1", "heads"}));
  table_only.gamma = gamma_table(2, 3);
  table_only.form = "keys";
  EXPECT_TRUE(mentions(message_of([&] { check_profile(table_only, model); }), {"form", "keys"}));
}

TEST(check_profile, another_file_is_a_warning) {
  const tuning_profile p = full_profile();
  model_description other = p.model;
  other.file_hash = "other";
  EXPECT_EQ(check_profile(p, other).size(), 1u);
  other.quantization = "f16";
  EXPECT_EQ(check_profile(p, other).size(), 2u);
}

}  // namespace
