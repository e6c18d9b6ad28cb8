// SPDX-License-Identifier: Apache-2.0
#include "report_input.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "failure.hpp"
#include "files.hpp"
#include "report_html.hpp"
#include "zerotune/tuning/json.hpp"

namespace zerotune_cli {

namespace {

using zerotune::impl::if_member;
using zerotune::impl::profile_node;
using zerotune::impl::take;

constexpr std::size_t most_prediction_bytes = std::size_t{1} << 30;

// ---- analysis

measured read_measured(const profile_node& node) {
  measured m;
  const auto optional = [&](const char* key, std::optional<double>& to) {
    if_member(node, key, [&](const profile_node& member) { to = member.number(); });
  };
  m.gamma = static_cast<double>(node.member("gamma").gamma());
  m.entropy = node.member("entropy").number();
  m.entropy_change = node.member("entropy_change").interval_value();
  optional("likelihood", m.likelihood);
  optional("loss", m.loss);
  optional("generated", m.generated);
  optional("invalid", m.invalid);
  take(node, "loss_change", m.loss_change);
  return m;
}

std::vector<measured> read_all(const profile_node& node) {
  std::vector<measured> all;
  for (std::size_t i = 0; i < node.size(); ++i) all.push_back(read_measured(node.element(i)));
  return all;
}

analysis_report read_analysis(const std::string& file, const zerotune::gamma_table& gamma) {
  const zerotune::json_limits limits;
  const nlohmann::json document = zerotune::parse_json(read_file(file, limits.bytes), file, limits);
  const profile_node root(document, file);
  const profile_node schema = root.member("schema");
  if (schema.text() != "zerotune-analysis") schema.wrong("\"zerotune-analysis\"");
  const profile_node version = root.member("version");
  if (version.count() != 1) version.wrong("version 1");
  analysis_report a;
  a.sink_mass = zerotune::impl::read_heads(root.member("sink_mass"), gamma);
  const profile_node heads = root.member("heads");
  a.entropy_effect = zerotune::impl::read_heads(heads.member("entropy").member("mean"), gamma);
  if_member(heads, "loss", [&](const profile_node& node) {
    a.loss_effect = zerotune::impl::read_heads(node.member("mean"), gamma);
  });
  a.untouched = read_measured(root.member("untouched"));
  a.sweep = read_all(root.member("sweep"));
  zerotune::impl::take_list(root, "groups", a.groups, [](const profile_node& node) {
    return layer_group{node.member("name").text(), node.member("first_layer").count(),
                       node.member("last_layer").count(), read_all(node.member("measured"))};
  });
  zerotune::impl::take_list(root, "positions", a.positions, [](const profile_node& node) {
    return scaled_position{node.member("name").text(), read_all(node.member("measured"))};
  });
  if_member(root, "data", [&](const profile_node& node) {
    take(node, "rows", a.rows);
    take(node, "name", a.data_name);
  });
  return a;
}

// ---- predictions

index_t read_choice(const profile_node& node, const char* key) {
  return node.find(key) ? node.member(key).count() : zerotune::no_label;
}

struct prediction {
  index_t label = zerotune::no_label;
  row_outcome::answer answer;
};

// By id, and the ids in their order.
std::map<std::string, prediction> read_predictions(const std::string& file,
                                                   std::vector<std::string>& ids) {
  const std::string text = read_file(file, most_prediction_bytes);
  std::map<std::string, prediction> all;
  std::size_t line = 0;
  for (std::size_t begin = 0, end; begin < text.size(); begin = end + 1) {
    end = std::min(text.find('\n', begin), text.size());
    ++line;
    const std::string_view part = std::string_view(text).substr(begin, end - begin);
    if (part.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = file + ":" + std::to_string(line);
    const nlohmann::json document = zerotune::parse_json(part, where);
    const profile_node node(document, where);
    prediction p;
    p.label = read_choice(node, "label");
    p.answer.predicted = node.member("predicted").count();
    p.answer.generated = read_choice(node, "generated");
    take(node, "continuation", p.answer.continuation);
    const std::string& id = node.member("id").text();
    if (!all.emplace(id, std::move(p)).second)
      throw usage_error(where + ": expected each id once, got \"" + id + "\" twice");
    ids.push_back(id);
  }
  return all;
}

void add_predictions(const report_files& files, report_input& input) {
  std::vector<std::string> ids, tuned_ids;
  auto untouched = read_predictions(files.untouched, ids);
  auto tuned = read_predictions(files.tuned, tuned_ids);
  std::set<std::string> test;
  if (input.profile.splits)
    for (const std::string& id : input.profile.splits->test)
      if (untouched.contains(id)) test.insert(id);
  for (const std::string& id : ids) {
    if (!test.empty() && !test.contains(id)) continue;
    const auto after = tuned.find(id);
    if (after == tuned.end())
      throw usage_error(files.tuned + ": expected the rows of " + files.untouched +
                        ", got none \"" + shorten(id, 64) + "\"");
    prediction& before = untouched.at(id);
    if (before.label != after->second.label)
      throw usage_error(files.tuned + ": row \"" + shorten(id, 64) + "\": expected the label of " +
                        files.untouched + ", got another");
    input.outcomes.push_back(
        {id, before.label, std::move(before.answer), std::move(after->second.answer)});
  }
  if (input.outcomes.empty())
    throw usage_error(files.untouched + ": expected predictions, got none");
  input.outcomes_note =
      test.empty() ? "None of these rows is in the profile's test split: they may have been used "
                     "to choose the table."
                   : "Rows of the test split only.";
}

// ---- outcomes within the profile

void add_own_outcomes(report_input& input) {
  const zerotune::test_outcomes& outcomes = *input.profile.outcomes;
  for (std::size_t i = 0; i < outcomes.label.size(); ++i) {
    const auto answer = [i](const zerotune::answer_columns& answers) {
      return row_outcome::answer{answers.predicted[i], answers.generated[i], {}};
    };
    input.outcomes.push_back({input.profile.splits->test[i], outcomes.label[i],
                              answer(outcomes.untouched), answer(outcomes.tuned)});
  }
  input.classes = outcomes.classes;
  if (!input.outcomes.empty()) input.outcomes_note = "Rows of the test split only.";
}

void read_data(const std::string& file, report_input& input) {
  input.data = read_rows(file);
  const std::vector<data_row>& rows = input.data->rows;
  for (const data_row& row : rows)
    if (row.choices != rows.front().choices) return;
  input.classes = rows.front().choices;
}

}  // namespace

report_input read_report(const report_files& files) {
  if (files.untouched.empty() != files.tuned.empty())
    throw usage_error("--untouched and --tuned: expected both or neither, got one");
  report_input input;
  input.profile_name = files.profile;
  const zerotune::json_limits limits;
  input.profile =
      zerotune::read_profile(read_file(files.profile, limits.bytes), files.profile, limits);
  if (!files.analysis.empty()) input.analysis = read_analysis(files.analysis, input.profile.gamma);
  if (!files.untouched.empty())
    add_predictions(files, input);
  else if (input.profile.outcomes)
    add_own_outcomes(input);
  if (!files.data.empty()) read_data(files.data, input);
  return input;
}

}  // namespace zerotune_cli
