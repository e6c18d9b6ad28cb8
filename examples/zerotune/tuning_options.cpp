// SPDX-License-Identifier: Apache-2.0
#include "tuning_options.hpp"

#include <algorithm>
#include <charconv>

#include "failure.hpp"
#include "table.hpp"
#include "zerotune/policy/limits.hpp"

namespace zerotune_cli {

using zerotune::index_t;

std::string name_of_unit(zerotune::granularity unit, index_t heads, index_t index) {
  switch (unit) {
    case zerotune::granularity::head_index:
      return "head " + std::to_string(index);
    case zerotune::granularity::layer:
      return "layer " + std::to_string(index);
    case zerotune::granularity::head:
      break;
  }
  return "layer " + std::to_string(index / heads) + " head " + std::to_string(index % heads);
}

void probe_settings::add(CLI::App& command) {
  command
      .add_option("--granularity", granularity,
                  "what is probed as one: a head index across all layers, a layer, or a head")
      ->check(CLI::IsMember(keys_of(granularity_names())))
      ->capture_default_str();
  command
      .add_option("--objective", objective,
                  "accuracy (mean of both scores) or likelihood of the answer on labelled rows, or "
                  "the least entropy of the next token or among the choices, which needs no label "
                  "and is not accuracy")
      ->check(CLI::IsMember(keys_of(objective_names())))
      ->capture_default_str();
  command.add_option("--probe-gamma", probe_gamma, "gamma of the probed heads")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  command
      .add_option("--share", share,
                  "the most units to select, as a share of all, of the dominant "
                  "kind")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
}

zerotune::loss_weights parse_loss(std::string_view text) {
  zerotune::loss_weights loss{0, 0, 0, 0};
  const std::map<std::string_view, double*> parts{{"choices", &loss.choices},
                                                  {"vocabulary", &loss.vocabulary},
                                                  {"entropy", &loss.entropy},
                                                  {"choice-entropy", &loss.choice_entropy}};
  const auto wrong = [&](const char* expected) {
    return usage_error("--loss: expected " + std::string(expected) + ", got \"" +
                       std::string(text.substr(0, 200)) + "\"");
  };
  for (std::size_t begin = 0, end; begin <= text.size(); begin = end + 1) {
    end = std::min(text.find(',', begin), text.size());
    const std::string_view part = text.substr(begin, end - begin);
    const std::string_view name = part.substr(0, part.find('='));
    const auto found = parts.find(name);
    if (found == parts.end())
      throw wrong("choices, vocabulary, entropy or choice-entropy, each with a weight or without");
    if (*found->second != 0) throw wrong("each part once");
    double weight = 1;
    if (name.size() < part.size()) {
      const char* const last = part.data() + part.size();
      const auto [stop, error] = std::from_chars(part.data() + name.size() + 1, last, weight);
      if (error != std::errc{} || stop != last || !(weight > 0) ||
          !zerotune::impl::is_finite(weight))
        throw wrong("weights that are finite and > 0");
    }
    *found->second = weight;
  }
  return loss;
}

const std::vector<std::string>& method_names() {
  static const std::vector<std::string> names{"auto", "uniform", "paper", "gradient-select",
                                              "descent"};
  return names;
}

void search_settings::add(CLI::App& command) {
  command
      .add_option(
          "--method", method,
          "uniform: one gamma for all heads; paper: head profile, dominant kind, one gamma; "
          "gradient-select: the strongest heads by gradient, each in its direction; "
          "descent: every head by gradient descent; auto: all of them in a race on the "
          "search split")
      ->check(CLI::IsMember(method_names()))
      ->capture_default_str();
  command
      .add_option("--profiling", profiling,
                  "how the paper's procedure learns what its units do: probe, one evaluation per "
                  "unit, or gradient; by default probe, and gradient with --method auto")
      ->check(CLI::IsMember({"probe", "gradient"}));
  command
      .add_option(
          "--loss", loss,
          "of gradients: choices (the answer among the choices), vocabulary (in the whole "
          "vocabulary), entropy, choice-entropy, with weights, as choices=1,vocabulary=0.5; "
          "by default choices,vocabulary, or the objective if that is an entropy")
      ->type_name("PARTS");
  command
      .add_option("--grid", grid,
                  "gammas to try, besides 1; by default 0.3,0.5,0.7,1.4,2,2.5,3,4, and "
                  "0.5,1.5,2.5,4 with --method auto")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 1e6));
  zerotune::descent_options& descent = search.descent;
  command.add_option("--steps", descent.steps, "of the descent, at most")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  command.add_option("--step-size", descent.step_size, "of the descent, on log gamma")
      ->check(CLI::Range(1e-6, 10.0))
      ->capture_default_str();
  command.add_option("--batch", descent.batch, "rows of a step of the descent; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command.add_option("--limit", descent.limit, "of |log gamma| in the descent")
      ->check(CLI::Range(1e-3, 80.0))
      ->capture_default_str();
  command
      .add_option("--patience", search.patience,
                  "snapshots that may be no better before the descent ends")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--pull", descent.pull, "of the descent towards the untouched model")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      .add_option("--layer-sharing", descent.layer_sharing,
                  "pull of the descent towards one gamma per layer")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      .add_option("--head-sharing", descent.head_sharing,
                  "pull of the descent towards one gamma per head index")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  zerotune::race_options& race = search.race;
  command
      .add_option("--race-rows", race.first_rows,
                  "search rows of the first round, after which the poorer candidates are dropped; "
                  "0: no rounds, as always for uniform and paper")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      .add_option("--margin", race.margin,
                  "candidates behind the best by less than this many standard errors count as "
                  "equal: untouched is preferred, then the better likelihood; not for uniform and "
                  "paper")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      .add_option("--max-divergence", race.max_divergence,
                  "cap on the mean divergence of the choices from the untouched model, nats; for "
                  "the entropy objectives")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      .add_option("--min-spread", race.min_spread,
                  "least entropy of the predicted labels, as a share of the untouched model's; for "
                  "the entropy objectives")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
}

zerotune::search_options search_settings::options(const probe_settings& probe, std::uint64_t seed,
                                                  bool differentiable) const {
  zerotune::search_options result = search;
  const bool all = method == "auto";
  result.methods = {.uniform = all || method == "uniform",
                    .paper = all || method == "paper",
                    .gradient_select = (all && differentiable) || method == "gradient-select",
                    .descent = (all && differentiable) || method == "descent"};
  result.probe = probe.options();
  result.share = probe.share;
  result.race.goal = result.probe.goal;
  const bool by_gradient = profiling.empty() ? all && differentiable : profiling == "gradient";
  result.profile = by_gradient ? zerotune::profiling::gradient : zerotune::profiling::probe;
  if (method == "uniform" || method == "paper") {  // as published: all rows, the best one wins
    result.race.first_rows = 0;
    result.race.margin = 0;
  }
  if (!grid.empty())
    result.grid = grid;
  else if (all)
    result.grid = {0.5f, 1.5f, 2.5f, 4.0f};  // a race has room for the better part of a grid
  result.descent.seed = seed;
  if (!loss.empty())
    result.descent.loss = parse_loss(loss);
  else if (result.race.goal == zerotune::objective::entropy)
    result.descent.loss = {.choices = 0, .entropy = 1};
  else if (result.race.goal == zerotune::objective::choice_entropy)
    result.descent.loss = {.choices = 0, .choice_entropy = 1};
  return result;
}

std::string format_profile(const zerotune::head_profile& profile,
                           const std::vector<index_t>& selected) {
  std::vector<std::vector<std::string>> rows{{"unit", "effect", "tie-breaker", "kind", "selected"}};
  for (index_t unit = 0; unit < static_cast<index_t>(profile.effect.size()); ++unit) {
    const zerotune::objective_score& effect = profile.effect[static_cast<std::size_t>(unit)];
    const int kind = zerotune::direction(profile, unit);
    const bool chosen = std::find(selected.begin(), selected.end(), unit) != selected.end();
    rows.push_back({name_of_unit(profile.unit, profile.heads, unit),
                    format_number("%+.4f", effect.value), format_number("%+.4f", effect.tie),
                    kind > 0   ? "up"
                    : kind < 0 ? "down"
                               : "none",
                    chosen ? "yes" : ""});
  }
  return format_table(rows);
}

}  // namespace zerotune_cli
