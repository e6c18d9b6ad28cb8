// SPDX-License-Identifier: Apache-2.0
// Writes tuning profiles as JSON (layer: tuning; a part of json.hpp).
#pragma once

#include <charconv>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "zerotune/tuning/profile.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

using ordered_json = nlohmann::ordered_json;

/// The double whose shortest text is that of the float: 0.3f is written as 0.3.
inline double shortest(float value) {
  char text[64] = {};
  const auto [end, error] = std::to_chars(text, text + sizeof(text) - 1, value);
  if (error != std::errc{}) return static_cast<double>(value);
  double result = 0;
  const auto read = std::from_chars(text, end, result);
  const bool same = read.ec == std::errc{} && static_cast<float>(result) == value;
  return same ? result : static_cast<double>(value);
}

inline ordered_json write_interval(const interval& value) {
  return ordered_json::array({value.low, value.high});
}

inline ordered_json write_scores(const score_report& scores) {
  ordered_json json = {{"likelihood", scores.likelihood},
                       {"generated", scores.generated},
                       {"invalid", scores.invalid},
                       {"rows", scores.rows}};
  if (scores.likelihood_interval)
    json["likelihood_interval"] = write_interval(*scores.likelihood_interval);
  if (scores.generated_interval)
    json["generated_interval"] = write_interval(*scores.generated_interval);
  return json;
}

inline ordered_json write_comparison(const comparison& value) {
  ordered_json json = {
      {"untouched", write_scores(value.untouched)},
      {"tuned", write_scores(value.tuned)},
      {"mcnemar_p",
       {{"likelihood", value.mcnemar_likelihood}, {"generated", value.mcnemar_generated}}}};
  ordered_json difference = ordered_json::object();
  if (value.difference_likelihood)
    difference["likelihood"] = write_interval(*value.difference_likelihood);
  if (value.difference_generated)
    difference["generated"] = write_interval(*value.difference_generated);
  if (!difference.empty()) json["difference_interval"] = std::move(difference);
  return json;
}

inline ordered_json write_model(const model_description& model) {
  ordered_json json = ordered_json::object();
  const auto text = [&](const char* key, const std::string& value) {
    if (!value.empty()) json[key] = value;
  };
  const auto count = [&](const char* key, index_t value) {
    if (value > 0) json[key] = value;
  };
  text("architecture", model.architecture);
  text("name", model.name);
  count("layers", model.layers);
  count("heads", model.heads);
  count("kv_heads", model.kv_heads);
  text("vocabulary_hash", model.vocabulary_hash);
  text("file_hash", model.file_hash);
  text("quantization", model.quantization);
  return json;
}

inline ordered_json write_candidate(const candidate_report& candidate) {
  ordered_json json = {{"method", candidate.method}, {"detail", candidate.detail}};
  if (candidate.gamma) json["gamma"] = shortest(static_cast<float>(*candidate.gamma));
  json["strength"] = candidate.strength;
  json["rows"] = candidate.rows;
  json["objective"] = candidate.objective;
  json["tie"] = candidate.tie;
  json["divergence"] = candidate.divergence;
  json["spread"] = candidate.spread;
  json["admitted"] = candidate.admitted;
  if (candidate.scores) json["scores"] = write_scores(*candidate.scores);
  return json;
}

/// Numbers [layers][heads], of the shape of the profile's table.
inline ordered_json write_heads(const std::vector<double>& values, const gamma_table& gamma) {
  ordered_json rows = ordered_json::array();
  const std::size_t heads = static_cast<std::size_t>(gamma.heads());
  for (std::size_t first = 0; first + heads <= values.size(); first += heads)
    rows.push_back(
        std::vector<double>(values.begin() + static_cast<std::ptrdiff_t>(first),
                            values.begin() + static_cast<std::ptrdiff_t>(first + heads)));
  return rows;
}

inline void write_search(const tuning_profile& profile, ordered_json& json) {
  if (profile.loss)
    json["loss"] = {{"choices", profile.loss->choices},
                    {"vocabulary", profile.loss->vocabulary},
                    {"entropy", profile.loss->entropy},
                    {"choice_entropy", profile.loss->choice_entropy}};
  if (profile.gradient)
    json["gradient"] = {
        {"mean", write_heads(profile.gradient->mean, profile.gamma)},
        {"standard_error", write_heads(profile.gradient->standard_error, profile.gamma)}};
  for (const step_report& step : profile.descent)
    json["descent"].push_back(
        {{"step", step.step}, {"loss", step.loss}, {"gradient_norm", step.gradient_norm}});
  for (const candidate_report& candidate : profile.candidates)
    json["candidates"].push_back(write_candidate(candidate));
}

/// Choices by index, null for no_label.
inline ordered_json write_choices(const std::vector<index_t>& choices) {
  ordered_json json = ordered_json::array();
  for (const index_t choice : choices)
    json.push_back(choice == no_label ? ordered_json(nullptr) : ordered_json(choice));
  return json;
}

inline ordered_json write_answers(const answer_columns& answers) {
  return {{"predicted", write_choices(answers.predicted)},
          {"generated", write_choices(answers.generated)}};
}

inline ordered_json write_outcomes(const test_outcomes& outcomes) {
  ordered_json json = {{"test",
                        {{"label", write_choices(outcomes.label)},
                         {"untouched", write_answers(outcomes.untouched)},
                         {"tuned", write_answers(outcomes.tuned)}}}};
  if (!outcomes.classes.empty()) json["classes"] = outcomes.classes;
  return json;
}

inline void write_history(const tuning_profile& profile, ordered_json& json) {
  const auto text = [&](const char* key, const std::string& value) {
    if (!value.empty()) json[key] = value;
  };
  text("template", profile.template_text);
  if (!profile.method.empty()) json["seed"] = profile.seed;
  text("method", profile.method);
  if (!profile.chosen_method.empty())
    json["chosen"] = {{"method", profile.chosen_method}, {"detail", profile.chosen_detail}};
  text("objective", profile.objective);
  text("granularity", profile.granularity);
  text("kind", profile.kind);
  if (profile.probe_gamma > 0) json["probe_gamma"] = profile.probe_gamma;
  if (profile.share > 0) json["share"] = profile.share;
  if (profile.splits)
    json["splits"] = {{"profile", profile.splits->profile},
                      {"search", profile.splits->search},
                      {"test", profile.splits->test}};
  if (profile.cost)
    json["cost"] = {{"forward_rows", profile.cost->forward_rows},
                    {"backward_rows", profile.cost->backward_rows},
                    {"seconds", profile.cost->seconds}};
  if (profile.test) json["metrics"]["test"] = write_comparison(*profile.test);
  if (profile.search) json["metrics"]["search"] = write_comparison(*profile.search);
  for (const unit_effect& unit : profile.units)
    json["units"].push_back({{"unit", unit.unit},
                             {"effect", unit.effect},
                             {"tie", unit.tie},
                             {"selected", unit.selected}});
  write_search(profile, json);
  if (profile.placebo_equal) json["placebo_equal"] = *profile.placebo_equal;
  for (const control_report& control : profile.controls)
    json["controls"].push_back({{"seed", control.seed},
                                {"units", control.units},
                                {"scores", write_scores(control.scores)}});
  if (!profile.warnings.empty()) json["warnings"] = profile.warnings;
  if (profile.outcomes) json["outcomes"] = write_outcomes(*profile.outcomes);
  for (const profile_setting& setting : profile.settings)
    json["settings"][setting.name] = setting.value;
}

}  // namespace impl

/// A profile as JSON text, ending in a newline; read_profile reads it back. Bytes that are not
/// UTF-8 become U+FFFD.
/// @throws invalid_argument if the table is empty or holds an invalid gamma
inline std::string write_profile(const tuning_profile& profile) {
  if (profile.gamma.empty())
    impl::fail("write_profile", "gamma", "a table of at least one layer and head", "none");
  profile.gamma.validate("write_profile");
  impl::ordered_json json = {{"schema", profile_schema}, {"version", profile_version}};
  if (impl::ordered_json model = impl::write_model(profile.model); !model.empty())
    json["model"] = std::move(model);
  json["form"] = profile.form;
  for (index_t layer = 0; layer < profile.gamma.layers(); ++layer) {
    impl::ordered_json row = impl::ordered_json::array();
    for (index_t head = 0; head < profile.gamma.heads(); ++head)
      row.push_back(impl::shortest(profile.gamma(layer, head)));
    json["gamma"].push_back(std::move(row));
  }
  impl::write_history(profile, json);
  return json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
