// SPDX-License-Identifier: Apache-2.0
// Reads and writes tuning profiles as JSON (layer: tuning, outside the umbrella; needs
// nlohmann/json). A profile that is read is not trusted: see read_profile.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "zerotune/tuning/json_limits.hpp"
#include "zerotune/tuning/profile.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {
namespace impl {

/// A value of a profile and where it stands, so that a message can name it.
class profile_node {
 public:
  profile_node(const nlohmann::json& value, std::string where)
      : value_(&value), where_(std::move(where)) {}

  const nlohmann::json& value() const { return *value_; }

  [[noreturn]] void wrong(const std::string& expected) const {
    raise<format_error>(where_ + ": expected " + expected + ", got " + shown());
  }

  /// A member; null if there is none, or if it is null.
  const nlohmann::json* find(const char* key) const {
    if (!value_->is_object()) wrong("an object");
    const auto it = value_->find(key);
    return it == value_->end() || it->is_null() ? nullptr : &*it;
  }
  profile_node member(const char* key) const {
    const nlohmann::json* found = find(key);
    if (!found) raise<format_error>(where_ + ": expected a member \"" + key + "\", got none");
    return {*found, where_ + "." + key};
  }
  profile_node element(std::size_t i) const {
    return {(*value_)[i], where_ + "[" + std::to_string(i) + "]"};
  }
  std::size_t size() const {
    if (!value_->is_array()) wrong("an array");
    return value_->size();
  }

  /// A measured value: NaN is written as null.
  double measured() const {
    return value_->is_null() ? std::numeric_limits<double>::quiet_NaN() : number();
  }
  double number() const {
    if (!value_->is_number()) wrong("a number");
    const double number = value_->get<double>();
    if (!is_finite(number)) wrong("a finite number");
    return number;
  }
  index_t count() const {
    if (!value_->is_number_unsigned() ||
        value_->get<std::uint64_t>() > std::uint64_t{std::numeric_limits<std::int64_t>::max()})
      wrong("an integer >= 0");
    return value_->get<index_t>();
  }
  std::uint64_t unsigned_number() const {
    if (!value_->is_number_unsigned()) wrong("an integer >= 0");
    return value_->get<std::uint64_t>();
  }
  bool boolean() const {
    if (!value_->is_boolean()) wrong("true or false");
    return value_->get<bool>();
  }
  const std::string& text() const {
    if (!value_->is_string()) wrong("a string");
    return value_->get_ref<const std::string&>();
  }
  float gamma() const {
    const double number = this->number();
    if (!(number >= 0) || number > double{std::numeric_limits<float>::max()})
      wrong("a finite gamma >= 0");
    return static_cast<float>(number);
  }
  interval interval_value() const {
    if (size() != 2) wrong("an array of two numbers");
    return {element(0).number(), element(1).number()};
  }

 private:
  std::string shown() const {
    if (value_->is_number()) return value_->dump();
    return std::string("a value of type ") + value_->type_name();
  }

  const nlohmann::json* value_;
  std::string where_;
};

/// Calls `use(node)` with a member if there is one.
template <class Use>
void if_member(const profile_node& node, const char* key, const Use& use) {
  if (node.find(key)) use(node.member(key));
}
inline void take(const profile_node& node, const char* key, std::string& target) {
  if_member(node, key, [&](const profile_node& member) { target = member.text(); });
}
inline void take(const profile_node& node, const char* key, index_t& target) {
  if_member(node, key, [&](const profile_node& member) { target = member.count(); });
}
inline void take(const profile_node& node, const char* key, double& target) {
  if_member(node, key, [&](const profile_node& member) { target = member.number(); });
}
inline void take(const profile_node& node, const char* key, std::optional<interval>& target) {
  if_member(node, key, [&](const profile_node& member) { target = member.interval_value(); });
}
template <class T, class Read>
void take_list(const profile_node& node, const char* key, std::vector<T>& target,
               const Read& read) {
  if_member(node, key, [&](const profile_node& member) {
    const std::size_t size = member.size();
    target.reserve(size);
    for (std::size_t i = 0; i < size; ++i) target.push_back(read(member.element(i)));
  });
}

inline gamma_table read_gamma(const profile_node& node) {
  const std::size_t layers = node.size();
  const std::size_t heads = layers > 0 ? node.element(0).size() : 0;
  if (layers == 0 || heads == 0) node.wrong("at least one layer of at least one head");
  // Before memory is taken: a long first row and many empty ones would ask for their product.
  for (std::size_t layer = 0; layer < layers; ++layer)
    if (const profile_node row = node.element(layer); row.size() != heads)
      row.wrong("an array of " + std::to_string(heads) + " gammas");
  gamma_table table(static_cast<index_t>(layers), static_cast<index_t>(heads));
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const profile_node row = node.element(layer);
    for (std::size_t head = 0; head < heads; ++head)
      table(static_cast<index_t>(layer), static_cast<index_t>(head)) = row.element(head).gamma();
  }
  return table;
}

inline score_report read_scores(const profile_node& node) {
  score_report scores;
  take(node, "likelihood", scores.likelihood);
  take(node, "generated", scores.generated);
  take(node, "invalid", scores.invalid);
  take(node, "rows", scores.rows);
  take(node, "likelihood_interval", scores.likelihood_interval);
  take(node, "generated_interval", scores.generated_interval);
  return scores;
}

inline comparison read_comparison(const profile_node& node) {
  comparison result;
  result.untouched = read_scores(node.member("untouched"));
  result.tuned = read_scores(node.member("tuned"));
  if_member(node, "mcnemar_p", [&](const profile_node& p) {
    take(p, "likelihood", result.mcnemar_likelihood);
    take(p, "generated", result.mcnemar_generated);
  });
  if_member(node, "difference_interval", [&](const profile_node& difference) {
    take(difference, "likelihood", result.difference_likelihood);
    take(difference, "generated", result.difference_generated);
  });
  return result;
}

inline candidate_report read_candidate(const profile_node& node) {
  candidate_report candidate;
  take(node, "method", candidate.method);
  take(node, "detail", candidate.detail);
  if_member(node, "gamma",
            [&](const profile_node& n) { candidate.gamma = static_cast<double>(n.gamma()); });
  take(node, "strength", candidate.strength);
  take(node, "rows", candidate.rows);
  take(node, "objective", candidate.objective);
  take(node, "tie", candidate.tie);
  take(node, "divergence", candidate.divergence);
  take(node, "spread", candidate.spread);
  if_member(node, "admitted", [&](const profile_node& n) { candidate.admitted = n.boolean(); });
  if_member(node, "scores", [&](const profile_node& n) { candidate.scores = read_scores(n); });
  return candidate;
}

/// Numbers [layers][heads], of the shape of the profile's table.
inline std::vector<double> read_heads(const profile_node& node, const gamma_table& gamma) {
  const std::size_t layers = static_cast<std::size_t>(gamma.layers());
  const std::size_t heads = static_cast<std::size_t>(gamma.heads());
  if (node.size() != layers) node.wrong("an array of " + std::to_string(layers) + " layers");
  std::vector<double> values;
  values.reserve(layers * heads);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const profile_node row = node.element(layer);
    if (row.size() != heads) row.wrong("an array of " + std::to_string(heads) + " numbers");
    for (std::size_t head = 0; head < heads; ++head) values.push_back(row.element(head).measured());
  }
  return values;
}

inline void read_search(const profile_node& root, tuning_profile& profile) {
  if_member(root, "loss", [&](const profile_node& node) {
    loss_weights& loss = profile.loss.emplace(loss_weights{0, 0, 0, 0});
    take(node, "choices", loss.choices);
    take(node, "vocabulary", loss.vocabulary);
    take(node, "entropy", loss.entropy);
    take(node, "choice_entropy", loss.choice_entropy);
  });
  if_member(root, "gradient", [&](const profile_node& node) {
    gradient_report& gradient = profile.gradient.emplace();
    gradient.mean = read_heads(node.member("mean"), profile.gamma);
    gradient.standard_error = read_heads(node.member("standard_error"), profile.gamma);
  });
  take_list(root, "descent", profile.descent, [](const profile_node& node) {
    step_report step;
    take(node, "step", step.step);
    take(node, "loss", step.loss);
    take(node, "gradient_norm", step.gradient_norm);
    return step;
  });
  take_list(root, "candidates", profile.candidates, read_candidate);
}

/// Answers to the rows of the test split, in its order.
inline test_outcomes read_outcomes(const profile_node& node, std::size_t rows) {
  const auto column = [rows](const profile_node& choices) {
    if (choices.size() != rows) choices.wrong("an array of " + std::to_string(rows) + " answers");
    std::vector<index_t> values;
    for (std::size_t i = 0; i < rows; ++i)
      values.push_back(choices.value()[i].is_null() ? no_label : choices.element(i).count());
    return values;
  };
  const auto answers = [&](const profile_node& side) {
    return answer_columns{column(side.member("predicted")), column(side.member("generated"))};
  };
  const profile_node test = node.member("test");
  test_outcomes outcomes{column(test.member("label")),
                         answers(test.member("untouched")),
                         answers(test.member("tuned")),
                         {}};
  take_list(node, "classes", outcomes.classes,
            [](const profile_node& name) { return name.text(); });
  return outcomes;
}

/// A member of an object of any depth as a setting: nested keys are joined by dots.
inline void read_settings(const nlohmann::json& value, const std::string& name,
                          std::vector<profile_setting>& settings) {
  if (value.is_object())
    for (const auto& [key, member] : value.items())
      read_settings(member, name.empty() ? key : name + "." + key, settings);
  else
    settings.push_back({name, value.is_string() ? value.get<std::string>() : value.dump()});
}

inline void read_history(const profile_node& root, tuning_profile& profile) {
  const auto text = [](const profile_node& node) { return node.text(); };
  take(root, "template", profile.template_text);
  if_member(root, "seed", [&](const profile_node& n) { profile.seed = n.unsigned_number(); });
  take(root, "method", profile.method);
  take(root, "objective", profile.objective);
  take(root, "granularity", profile.granularity);
  take(root, "kind", profile.kind);
  take(root, "probe_gamma", profile.probe_gamma);
  take(root, "share", profile.share);
  if_member(root, "splits", [&](const profile_node& node) {
    split_ids& splits = profile.splits.emplace();
    take_list(node, "profile", splits.profile, text);
    take_list(node, "search", splits.search, text);
    take_list(node, "test", splits.test, text);
  });
  if_member(root, "cost", [&](const profile_node& node) {
    tuning_cost& cost = profile.cost.emplace();
    take(node, "forward_rows", cost.forward_rows);
    take(node, "backward_rows", cost.backward_rows);
    take(node, "seconds", cost.seconds);
  });
  if_member(root, "metrics", [&](const profile_node& node) {
    if_member(node, "test", [&](const profile_node& n) { profile.test = read_comparison(n); });
    if_member(node, "search", [&](const profile_node& n) { profile.search = read_comparison(n); });
  });
  take_list(root, "units", profile.units, [](const profile_node& node) {
    unit_effect unit;
    take(node, "unit", unit.unit);
    take(node, "effect", unit.effect);
    take(node, "tie", unit.tie);
    if_member(node, "selected", [&](const profile_node& n) { unit.selected = n.boolean(); });
    return unit;
  });
  if_member(root, "chosen", [&](const profile_node& node) {
    take(node, "method", profile.chosen_method);
    take(node, "detail", profile.chosen_detail);
  });
  read_search(root, profile);
  if_member(root, "placebo_equal",
            [&](const profile_node& node) { profile.placebo_equal = node.boolean(); });
  take_list(root, "controls", profile.controls, [](const profile_node& node) {
    control_report control;
    if_member(node, "seed", [&](const profile_node& n) { control.seed = n.unsigned_number(); });
    take_list(node, "units", control.units, [](const profile_node& n) { return n.count(); });
    control.scores = read_scores(node.member("scores"));
    return control;
  });
  take_list(root, "warnings", profile.warnings, text);
  if_member(root, "outcomes", [&](const profile_node& node) {
    if (!profile.splits) node.wrong("splits beside outcomes");
    profile.outcomes = read_outcomes(node, profile.splits->test.size());
  });
  if (const nlohmann::json* settings = root.find("settings"))
    read_settings(*settings, "", profile.settings);
}

}  // namespace impl

/// Reads a profile. The text is not trusted: nothing is allocated for what it does not hold.
/// Members that this version does not know are ignored; a member that is there twice is refused.
/// @param where  begins every message: the name of the file
/// @throws format_error for what is not JSON, exceeds a limit, has another schema or version, or
///         holds a value of the wrong type; a gamma that is no number, negative or beyond float
inline tuning_profile read_profile(std::string_view text, const std::string& where = "profile",
                                   const json_limits& limits = {}) {
  const nlohmann::json document = parse_json(text, where, limits);
  const impl::profile_node root(document, where);
  if (!document.is_object()) root.wrong("an object");
  const impl::profile_node schema = root.member("schema");
  if (schema.text() != profile_schema)
    impl::raise<format_error>(where + ".schema: expected \"" + profile_schema + "\", got \"" +
                              schema.text().substr(0, 64) + "\"");
  const impl::profile_node version = root.member("version");
  if (version.count() != profile_version)
    version.wrong("version " + std::to_string(profile_version));
  tuning_profile profile;
  profile.gamma = impl::read_gamma(root.member("gamma"));
  impl::take(root, "form", profile.form);
  impl::if_member(root, "model", [&](const impl::profile_node& node) {
    model_description& model = profile.model;
    impl::take(node, "architecture", model.architecture);
    impl::take(node, "name", model.name);
    impl::take(node, "layers", model.layers);
    impl::take(node, "heads", model.heads);
    impl::take(node, "kv_heads", model.kv_heads);
    impl::take(node, "vocabulary_hash", model.vocabulary_hash);
    impl::take(node, "file_hash", model.file_hash);
    impl::take(node, "quantization", model.quantization);
  });
  impl::read_history(root, profile);
  return profile;
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune

#include "zerotune/tuning/json_writer.hpp"
