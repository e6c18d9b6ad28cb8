// SPDX-License-Identifier: Apache-2.0
// zerotune report: all sections are there, nothing is loaded, hostile text stays text, and files
// that are wrong are named.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>

#include "scratch.hpp"
#include "support/errors.hpp"
#include "zerotune/failure.hpp"
#include "zerotune/report_charts.hpp"
#include "zerotune/report_html.hpp"
#include "zerotune/report_page.hpp"
#include "zerotune/tuning/json.hpp"

namespace {

using namespace zerotune_cli;
using test::mentions;

const std::string hostile = "<script>alert(1)</script>\"'>&<img src=x onerror=y>\x01\xe2\x80\xae";

// A profile of 2 layers of 3 heads with everything that a report looks at.
zerotune::tuning_profile full_profile(const std::string& text = "plain") {
  zerotune::tuning_profile p;
  p.gamma = zerotune::gamma_table(2, 3);
  p.gamma(0, 1) = 2.0f;
  p.gamma(1, 2) = 0.25f;
  p.model = {"llama", text, 2, 3, 1, "abc", "def", "q4_1"};
  p.template_text = text;
  p.seed = 7;
  p.method = "auto";
  p.chosen_method = "paper";
  p.chosen_detail = "gamma 2";
  p.objective = "accuracy";
  p.granularity = "head-index";
  p.probe_gamma = 2;
  p.splits = {{"a"}, {"b"}, {"t1", "t2", "t3", text}};
  p.cost = {1234, 56, 78};
  zerotune::comparison c;
  c.untouched = {0.25, 0.5, 0.125, 4, zerotune::interval{0.1, 0.4}, zerotune::interval{0.2, 0.7}};
  c.tuned = {0.75, 0.625, 0.0, 4, zerotune::interval{0.6, 0.9}, zerotune::interval{0.4, 0.8}};
  c.mcnemar_likelihood = 0.0123;
  c.mcnemar_generated = 0.875;
  p.test = c;
  p.search = c;
  for (index_t unit = 0; unit < 3; ++unit)
    p.units.push_back({unit, 0.1 * static_cast<double>(1 - unit), 0, unit == 0});
  p.gradient = {{1, -2, 0, 0.5, 0.25, -0.125}, std::vector<double>(6, 0.1)};
  p.loss = {1, 0.5, 0, 0};
  p.descent = {{1, 2.5, 0.3}, {2, 2.25, 0.2}};
  for (const double gamma : {0.5, 2.0, 4.0}) {
    zerotune::candidate_report candidate;
    candidate.method = "paper";
    candidate.detail = text + " gamma";
    candidate.gamma = gamma;
    candidate.strength = 0.5;
    candidate.rows = 4;
    candidate.scores = c.tuned;
    p.candidates.push_back(candidate);
  }
  p.placebo_equal = true;
  p.controls = {{3, {1}, c.untouched}};
  p.warnings = {text};
  return p;
}

std::string prediction(const std::string& id, int label, int predicted, const char* generated,
                       const std::string& continuation = "") {
  const nlohmann::json json = {{"id", id},
                               {"label", label},
                               {"predicted", predicted},
                               {"generated", nlohmann::json::parse(generated)},
                               {"continuation", continuation}};
  return json.dump() + "\n";
}

class report : public testing::Test {
 protected:
  std::string write_profile(const zerotune::tuning_profile& profile) const {
    return folder_.write("p.json", zerotune::write_profile(profile));
  }
  std::string page(const report_files& files) const { return make_report(read_report(files), 30); }

  // What the call throws, as text.
  static std::string failure(const std::function<void()>& call) {
    try {
      call();
    } catch (const usage_error& error) {
      return error.what();
    } catch (const zerotune::format_error& error) {
      return error.what();
    }
    return "";
  }

  // t1 becomes right, t2 wrong, t3 stays; "other" is not in the test split.
  report_files with_predictions(const std::string& text = "said") const {
    report_files files;
    files.profile = write_profile(full_profile(text));
    files.untouched = folder_.write(
        "u.jsonl", prediction("t1", 0, 1, "null", text) + prediction("t2", 1, 1, "1") +
                       prediction("t3", 1, 1, "1") + prediction("other", 0, 1, "1"));
    files.tuned = folder_.write("t.jsonl",
                                prediction("other", 0, 0, "0") + prediction("t1", 0, 0, "0", text) +
                                    prediction("t2", 1, 0, "0") + prediction("t3", 1, 1, "1"));
    nlohmann::json rows[] = {{{"id", "t1"}, {"text", text}, {"label", 0}},
                             {{"id", "t2"}, {"text", "two"}, {"label", 1}},
                             {{"id", "t3"}, {"text", "three"}, {"label", 1}}};
    std::string lines;
    for (nlohmann::json& row : rows) {
      row["choices"] = {text, "no"};
      lines += row.dump() + "\n";
    }
    files.data = folder_.write("d.jsonl", lines);
    return files;
  }

  test::scratch_folder folder_;
};

// Elements that may be in a page, by their names in its tags.
void expect_inert(const std::string& html) {
  EXPECT_EQ(html.find("://"), std::string::npos);
  for (const char* word : {"<script", "<img", "<link", "<iframe", "@import", "url(", "javascript:"})
    EXPECT_EQ(html.find(word), std::string::npos) << word;
  const std::regex tag("<(/?)([A-Za-z][A-Za-z0-9]*)([^<>]*)>");
  int open = 0;
  for (std::sregex_iterator at(html.begin(), html.end(), tag), end; at != end; ++at) {
    const std::string name = (*at)[2];
    EXPECT_FALSE(std::regex_search((*at)[3].first, (*at)[3].second,
                                   std::regex("\\s(on[a-z]+|src|srcset|action|data)=")));
    if (name == "meta" || (*at)[3].str().ends_with("/")) continue;
    open += (*at)[1].length() == 0 ? 1 : -1;
  }
  EXPECT_EQ(open, 0);  // every element that begins ends
  for (const char* href = html.c_str(); (href = std::strstr(href, "href=\"")) != nullptr; ++href)
    EXPECT_EQ(href[6], '#');
}

constexpr const char* section_ids[] = {"summary", "before-after", "heat-maps", "curves",
                                       "classes", "confusion",    "examples",  "search",
                                       "cost",    "settings"};

TEST_F(report, has_every_section_and_loads_nothing) {
  const std::string html = page(with_predictions());
  for (const char* id : section_ids)
    EXPECT_NE(html.find("<section id=\"" + std::string(id) + "\">"), std::string::npos) << id;
  expect_inert(html);
  EXPECT_TRUE(mentions(html, {"0.250", "0.750", "significant", "0.0123", "not significant", "1234",
                              "1:18", "q4_1", "def"}));
}

TEST_F(report, hostile_text_stays_text) {
  const std::string html = page(with_predictions(hostile));
  expect_inert(html);
  EXPECT_NE(html.find("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&gt;&amp;&lt;img"),
            std::string::npos);
  EXPECT_EQ(html.find('\x01'), std::string::npos);
  EXPECT_EQ(html.find("\xe2\x80\xae"), std::string::npos);  // would turn the text's direction
}

TEST_F(report, a_minimal_profile_has_all_sections_too) {
  report_files files;
  files.profile =
      folder_.write("m.json", R"({"schema": "zerotune-profile", "version": 1, "gamma": [[1, 1]]})");
  const std::string html = page(files);
  for (const char* id : section_ids)
    EXPECT_NE(html.find("<section id=\"" + std::string(id) + "\">"), std::string::npos) << id;
  expect_inert(html);
  EXPECT_TRUE(mentions(html, {"changes nothing", "--untouched", "no test"}));
}

TEST_F(report, heat_maps_have_a_cell_per_head) {
  const std::string html = page(with_predictions());
  const auto count = [&](const std::string& text) {
    std::size_t found = 0;
    for (std::size_t at = 0; (at = html.find(text, at)) != std::string::npos; ++at) ++found;
    return found;
  };
  EXPECT_EQ(count("<title>layer 1, head 2: "), 3u);  // gamma, gradient, units
  EXPECT_EQ(count("<title>layer 1, head 2: 0.25</title>"), 1u);
  EXPECT_EQ(count("<title>layer 0, head 1: 2</title>"), 2u);     // gamma, and -gradient
  EXPECT_EQ(count("<title>layer 1, head 2: -0.1</title>"), 1u);  // of head index 2
}

TEST_F(report, only_rows_of_the_test_split_count) {
  const report_input input = read_report(with_predictions());
  ASSERT_EQ(input.outcomes.size(), 3u);
  EXPECT_EQ(input.outcomes[0].id, "t1");
  EXPECT_EQ(input.outcomes[0].untouched.generated, zerotune::no_label);
  EXPECT_EQ(input.outcomes[0].tuned.generated, 0);
  const std::string html = make_report(input, 30);
  EXPECT_TRUE(mentions(html, {"2 of 3 rows have another answer: 1 better, 1 worse", "three"}) ==
              false);  // a row whose answer stays is not an example
  EXPECT_TRUE(mentions(html, {"2 of 3 rows have another answer: 1 better, 1 worse", "two"}));
  EXPECT_TRUE(mentions(make_report(input, 1), {"the first 1 are shown"}));
}

TEST_F(report, classes_and_confusion_count_right) {
  const std::string html = page(with_predictions());
  // Class "no": 2 rows; likelihood and generated 1.000 before and 0.500 after, none invalid.
  EXPECT_NE(html.find("<bdi>no</bdi></td><td>2</td><td>1.000</td><td>0.500</td><td>1.000</td>"
                      "<td>0.500</td><td>0.000</td><td>0.000</td>"),
            std::string::npos);
  // Class "said": 1 row, its generated answer invalid before.
  EXPECT_NE(html.find("<bdi>said</bdi></td><td>1</td><td>0.000</td><td>1.000</td><td>0.000</td>"
                      "<td>1.000</td><td>1.000</td><td>0.000</td>"),
            std::string::npos);
  EXPECT_TRUE(mentions(html, {"Generated, untouched", "Likelihood, tuned", "<i>invalid</i>"}));
}

TEST_F(report, rows_outside_the_test_split_are_called_so) {
  report_files files;
  zerotune::tuning_profile profile = full_profile();
  profile.splits->test = {"elsewhere"};
  files.profile = write_profile(profile);
  files.untouched = folder_.write("u.jsonl", prediction("x", 0, 1, "null"));
  files.tuned = folder_.write("t.jsonl", prediction("x", 0, 0, "0"));
  EXPECT_TRUE(mentions(page(files), {"may have been used to choose the table"}));
}

TEST_F(report, a_profile_may_bring_its_own_outcomes_and_settings) {
  nlohmann::json json = nlohmann::json::parse(zerotune::write_profile(full_profile()));
  json["outcomes"] = {
      {"classes", {"yes", "no"}},
      {"test",
       {{"label", {0, 1, 1, 0}},
        {"untouched", {{"predicted", {1, 1, 1, 0}}, {"generated", {nullptr, 1, 1, 0}}}},
        {"tuned", {{"predicted", {0, 1, 1, 0}}, {"generated", {0, 1, 1, 0}}}}}}};
  json["settings"] = {{"descent", {{"steps", 8}, {"rate", 0.15}}}, {"data", "<b>d.jsonl</b>"}};
  report_files files;
  files.profile = folder_.write("o.json", json.dump());
  const report_input input = read_report(files);
  ASSERT_EQ(input.outcomes.size(), 4u);
  EXPECT_EQ(input.outcomes[0].untouched.generated, zerotune::no_label);
  const std::string html = make_report(input, 30);
  EXPECT_TRUE(mentions(html, {"descent.steps", "descent.rate", "0.15", "&lt;b&gt;d.jsonl",
                              "<bdi>yes</bdi>", "1 of 4 rows have another answer: 1 better"}));
  json["outcomes"]["test"]["label"] = {0, 1};
  files.profile = folder_.write("o.json", json.dump());
  EXPECT_TRUE(
      mentions(failure([&] { read_report(files); }), {"o.json.outcomes.test.label", "4 answers"}));
}

nlohmann::json small_analysis() {
  const nlohmann::json one = {{"gamma", 1},      {"entropy", 2.5}, {"entropy_change", {-0.1, 0.1}},
                              {"likelihood", 0}, {"loss", 1.5},    {"loss_change", {-0.2, 0.2}}};
  const nlohmann::json table = {{0.5, 0.25, 0.125}, {0, 1, 0.75}};
  return {
      {"schema", "zerotune-analysis"},
      {"version", 1},
      {"sink_mass", table},
      {"heads", {{"entropy", {{"mean", table}}}, {"loss", {{"mean", table}}}}},
      {"untouched", one},
      {"sweep", {one}},
      {"groups", {{{"name", "<i>g"}, {"first_layer", 0}, {"last_layer", 1}, {"measured", {one}}}}},
      {"positions", {{{"name", "initial"}, {"measured", {one}}}}}};
}

TEST_F(report, an_analysis_brings_sink_mass_and_curves) {
  report_files files = with_predictions();
  files.analysis = folder_.write("a.json", small_analysis().dump());
  const std::string html = page(files);
  EXPECT_TRUE(mentions(html, {"Sink mass", "<title>layer 1, head 2: 0.75</title>", "Layer groups",
                              "&lt;i&gt;g", "Gamma on all heads"}));
  expect_inert(html);
}

TEST_F(report, malformed_files_are_named) {
  report_files files = with_predictions();
  const auto expect_failure = [&](const char* name, const std::string& text,
                                  std::string report_files::*file,
                                  std::initializer_list<std::string> parts) {
    report_files wrong = files;
    wrong.*file = folder_.write(name, text);
    const std::string message = failure([&] { read_report(wrong); });
    EXPECT_TRUE(mentions(message, {name})) << message;
    EXPECT_TRUE(mentions(message, parts)) << message;
  };
  expect_failure("no.json", "{", &report_files::profile, {"expected JSON"});
  expect_failure("schema.json", R"({"schema": "x", "version": 1, "gamma": [[1]]})",
                 &report_files::profile, {"zerotune-profile"});
  expect_failure("nan.json", R"({"schema": "zerotune-profile", "version": 1, "gamma": [["1"]]})",
                 &report_files::profile, {"gamma[0][0]"});
  nlohmann::json analysis = small_analysis();
  analysis["sink_mass"] = {{1, 2, 3}};
  expect_failure("shape.json", analysis.dump(), &report_files::analysis, {"sink_mass", "2 layers"});
  analysis = small_analysis();
  analysis["sweep"][0].erase("entropy");
  expect_failure("member.json", analysis.dump(), &report_files::analysis, {"sweep[0]", "entropy"});
  expect_failure("profile.json", zerotune::write_profile(full_profile()), &report_files::analysis,
                 {"zerotune-analysis"});
  expect_failure("line.jsonl", prediction("t1", 0, 0, "0") + "oops\n", &report_files::tuned,
                 {"line.jsonl:2"});
  expect_failure("twice.jsonl", prediction("t1", 0, 0, "0") + prediction("t1", 0, 0, "0"),
                 &report_files::tuned, {"twice.jsonl:2", "t1"});
  expect_failure("less.jsonl", prediction("t1", 0, 0, "0"), &report_files::tuned, {"t2"});
  expect_failure(
      "label.jsonl",
      prediction("t1", 1, 0, "0") + prediction("t2", 1, 0, "0") + prediction("t3", 1, 0, "0"),
      &report_files::tuned, {"t1", "label"});
  files.tuned.clear();
  EXPECT_TRUE(mentions(failure([&] { read_report(files); }), {"--untouched", "--tuned"}));
}

TEST(html, text_is_cut_between_characters) {
  EXPECT_EQ(shorten("abc", 3), "abc");
  EXPECT_EQ(shorten("ab\xc3\xa4", 3), "ab \xe2\x80\xa6");
  EXPECT_EQ(escape_html("a\tb\nc"), "a\tb\nc");
  EXPECT_EQ(escape_html("\xc2\x85"), "\xef\xbf\xbd");
}

TEST(charts, numbers_stay_finite_for_odd_input) {
  line_chart chart{"t", "x", "y", true, std::nullopt, {{"c", {{0, 5}, {0, 5}}}}};
  for (const std::string& svg : {draw(chart), draw(line_chart{})}) {
    EXPECT_EQ(svg.find("nan"), std::string::npos) << svg;
    EXPECT_EQ(svg.find("inf"), std::string::npos) << svg;
  }
  heat_map map{"t", "n", 1, 2, {0, 1e38}, heat_map::scale::around_one};
  EXPECT_EQ(draw(map).find("nan"), std::string::npos);
  EXPECT_NE(draw(heat_map{"t", "n", 1, 300, std::vector<double>(300), heat_map::scale::share})
                .find("Too many"),
            std::string::npos);
}

}  // namespace
