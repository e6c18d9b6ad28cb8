// SPDX-License-Identifier: Apache-2.0
#include "tuning_settings.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "tuning_options.hpp"

namespace zerotune_cli {

namespace {

// The shortest text that is read back as the same number.
template <class Number>
std::string text_of(Number value) {
  char text[64];
  const auto [end, error] = std::to_chars(text, text + sizeof text, value);
  return error == std::errc{} ? std::string(text, end) : std::string();
}

template <class T>
std::string list_of(const std::vector<T>& values) {
  std::string text;
  for (const T& value : values) text += (text.empty() ? "" : ",") + text_of(value);
  return text;
}

const char* name_of(zerotune::head_choice choice) {
  switch (choice) {
    case zerotune::head_choice::up:
      return "up";
    case zerotune::head_choice::down:
      return "down";
    case zerotune::head_choice::both:
      break;
  }
  return "both";
}

class setting_list {
 public:
  void add(std::string_view name, std::string value) {
    settings_.push_back({std::string(name), std::move(value)});
  }
  template <class Number>
    requires std::is_arithmetic_v<Number>
  void add(std::string_view name, Number value) { add(name, text_of(value)); }
  template <class Number>
  void add(std::string_view name, const std::vector<Number>& values) {
    add(name, list_of(values));
  }

  void add_methods(const zerotune::search_options& search) {
    std::string names;
    const auto method = [&](bool used, const char* name) {
      if (used) names += (names.empty() ? "" : ",") + std::string(name);
    };
    method(search.methods.uniform, "uniform");
    method(search.methods.paper, "paper");
    method(search.methods.gradient_select, "gradient-select");
    method(search.methods.descent, "descent");
    add("methods", std::move(names));
    add("grid", search.grid);
  }
  void add_paper(const zerotune::search_options& search) {
    add("profiling", search.profile == zerotune::profiling::probe ? "probe" : "gradient");
    add("granularity", zerotune_cli::name_of(granularity_names(), search.probe.unit));
    add("probe-gamma", search.probe.gamma);
    add("probe-objective", zerotune_cli::name_of(objective_names(), search.probe.goal));
    add("share", search.share);
  }
  void add_gradient_select(const zerotune::gradient_select_options& select) {
    add("select.shares", select.shares);
    add("select.strengths", select.strengths);
    std::string choices;
    for (const zerotune::head_choice choice : select.choices)
      choices += (choices.empty() ? "" : ",") + std::string(name_of(choice));
    add("select.choices", std::move(choices));
  }
  void add_descent(const zerotune::search_options& search) {
    const zerotune::descent_options& descent = search.descent;
    add("descent.steps", descent.steps);
    add("descent.step-size", descent.step_size);
    add("descent.beta1", descent.beta1);
    add("descent.beta2", descent.beta2);
    add("descent.epsilon", descent.epsilon);
    add("descent.limit", descent.limit);
    add("descent.batch", descent.batch);
    add("descent.seed", descent.seed);
    add("descent.pull", descent.pull);
    add("descent.layer-sharing", descent.layer_sharing);
    add("descent.head-sharing", descent.head_sharing);
    add("descent.keep", descent.keep);
    add("descent.watched-rows", search.watched_rows);
    add("descent.patience", search.patience);
  }
  void add_loss(const zerotune::loss_weights& loss) {
    add("loss.choices", loss.choices);
    add("loss.vocabulary", loss.vocabulary);
    add("loss.entropy", loss.entropy);
    add("loss.choice-entropy", loss.choice_entropy);
  }
  void add_race(const zerotune::race_options& race) {
    add("race.objective", zerotune_cli::name_of(objective_names(), race.goal));
    add("race.first-rows", race.first_rows);
    add("race.growth", race.growth);
    add("race.keep", race.keep);
    add("race.margin", race.margin);
    add("race.max-divergence", race.max_divergence);
    add("race.min-spread", race.min_spread);
  }

  // By name, as a file that is read gives them.
  std::vector<zerotune::profile_setting> take() {
    std::sort(settings_.begin(), settings_.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    return std::move(settings_);
  }

 private:
  std::vector<zerotune::profile_setting> settings_;
};

}  // namespace

std::vector<zerotune::profile_setting> settings_of(const tuning_plan& plan, const data_set& data) {
  setting_list list;
  if (!plan.arithmetic.empty()) list.add("arithmetic", plan.arithmetic);
  list.add("data.file", std::filesystem::path(data.name).filename().string());
  list.add("data.rows", data.rows.size());
  if (!plan.data_hash.empty()) list.add("data.sha256", plan.data_hash);
  list.add("profile-rows", plan.sizes.profile);
  list.add("search-rows", plan.sizes.search);
  list.add("test-rows", plan.sizes.test);
  list.add("controls", plan.controls);
  list.add("shots", plan.shots);
  list.add_methods(plan.search);
  if (plan.search.methods.paper) list.add_paper(plan.search);
  if (plan.search.methods.gradient_select) list.add_gradient_select(plan.search.select);
  list.add_loss(plan.search.descent.loss);
  if (plan.search.methods.descent) list.add_descent(plan.search);
  list.add_race(plan.search.race);
  return list.take();
}

}  // namespace zerotune_cli
