// SPDX-License-Identifier: Apache-2.0
// zerotune heads: the effect of every head, from one backward pass or by probing.
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>

#include "evaluator.hpp"
#include "failure.hpp"
#include "head_gradients.hpp"
#include "loaded_model.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "tuning_options.hpp"
#include "zerotune/tuning/json_writer.hpp"
#include "zerotune/tuning/loss.hpp"
#include "zerotune/tuning/splits.hpp"

namespace zerotune_cli {

namespace {

struct heads_options {
  model_options model;
  data_options data;
  probe_settings probe;
  std::string method = "gradient";
  std::string loss = "choices";
  bool compare = false;
  index_t rows = 64;
  std::uint64_t seed = 1;

  bool uses_gradient() const { return method == "gradient" || compare; }
  bool uses_probe() const { return method == "probe" || compare; }
};

/// Something that took a while.
template <class T>
struct timed {
  T value{};
  double seconds = 0;
};

template <class Work>
auto measure_time(const char* label, const Work& work) {
  progress bar(label);
  const auto start = std::chrono::steady_clock::now();
  timed<decltype(work(bar.callback()))> result;
  result.value = work(bar.callback());
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

/// The units of a profile by kind, and those that a search would scale.
struct selection {
  zerotune::head_kind kind;
  std::vector<index_t> units;
  index_t up, down;

  selection(const zerotune::head_profile& profile, double share)
      : kind(zerotune::dominant_kind(profile)),
        units(zerotune::select_units(profile, kind, share)),
        up(zerotune::count_of(profile, zerotune::head_kind::up)),
        down(zerotune::count_of(profile, zerotune::head_kind::down)) {}

  std::string summary() const {
    return std::to_string(up) + " up-effective, " + std::to_string(down) +
           " down-effective; dominant kind: " + name_of(kind);
  }
};

using measured_gradients = timed<unit_gradients>;
using measured_probe = timed<zerotune::head_profile>;

/// The gradients' effects beside those of probing: value and tie-breaker of its objective.
struct comparison {
  agreement value, tie;

  comparison(const unit_gradients& gradients, const zerotune::head_profile& probed) {
    std::vector<double> values, ties;
    const double direction = probed.probe_gamma < 1.0f ? -1.0 : 1.0;
    for (const zerotune::objective_score& effect : probed.effect) {
      values.push_back(direction * effect.value);
      ties.push_back(direction * effect.tie);
    }
    value = compare_effects(gradients.effect, values);
    tie = compare_effects(gradients.effect, ties);
  }
};

/// What the second number of an objective's score is.
const char* name_of_tie(zerotune::objective goal) {
  switch (goal) {
    case zerotune::objective::accuracy:
      return "likelihood";
    case zerotune::objective::likelihood:
      return "accuracy";
    case zerotune::objective::entropy:
      return "choice-entropy";
    case zerotune::objective::choice_entropy:
      break;
  }
  return "entropy";
}

nlohmann::ordered_json json_of(const agreement& a) {
  return {{"rank_correlation", a.rank_correlation},
          {"strongest", a.strongest},
          {"same_sign", a.same_sign}};
}

void print_text(const heads_options& options, const std::optional<measured_gradients>& gradients,
                const std::optional<measured_probe>& probe,
                const std::optional<comparison>& compared) {
  if (gradients) {
    const selection chosen(profile_of(gradients->value, options.probe.probe_gamma),
                           options.probe.share);
    std::fputs(format_gradients(gradients->value, chosen.units).c_str(), stdout);
    std::printf("loss %s: %.4f; %s; %lld rows forward and backward in %.1f s\n",
                options.loss.c_str(), gradients->value.loss, chosen.summary().c_str(),
                static_cast<long long>(gradients->value.rows), gradients->seconds);
  }
  if (probe) {
    const selection chosen(probe->value, options.probe.share);
    std::fputs(format_profile(probe->value, chosen.units).c_str(), stdout);
    std::printf("%s; %lld rows evaluated in %.1f s\n", chosen.summary().c_str(),
                static_cast<long long>(probe->value.forward_rows), probe->seconds);
  }
  if (!compared) return;
  const auto print = [](const char* name, const agreement& a) {
    std::printf(
        "gradient and probed %s: rank correlation %.3f; same sign in %.0f%% of the %lld "
        "strongest\n",
        name, a.rank_correlation, 100 * a.same_sign, static_cast<long long>(a.strongest));
  };
  print(options.probe.objective.c_str(), compared->value);
  print(name_of_tie(options.probe.options().goal), compared->tie);
}

nlohmann::ordered_json json_of_gradients(const heads_options& options,
                                         const measured_gradients& measured) {
  const unit_gradients& gradients = measured.value;
  const selection chosen(profile_of(gradients, options.probe.probe_gamma), options.probe.share);
  nlohmann::ordered_json json = {{"method", "gradient"},
                                 {"granularity", name_of(granularity_names(), gradients.unit)},
                                 {"loss", options.loss},
                                 {"layers", gradients.layers},
                                 {"heads", gradients.heads},
                                 {"rows", gradients.rows},
                                 {"forward_rows", gradients.rows},
                                 {"backward_rows", gradients.rows},
                                 {"seconds", measured.seconds},
                                 {"untouched", gradients.loss},
                                 {"up", chosen.up},
                                 {"down", chosen.down},
                                 {"kind", name_of(chosen.kind)},
                                 {"selected", chosen.units}};
  for (std::size_t unit = 0; unit < gradients.effect.size(); ++unit)
    json["units"].push_back({{"unit", unit},
                             {"effect", gradients.effect[unit]},
                             {"standard_error", gradients.standard_error[unit]},
                             {"direction", gradients.direction(static_cast<index_t>(unit))}});
  return json;
}

nlohmann::ordered_json json_of_probe(const heads_options& options, const measured_probe& measured,
                                     index_t rows) {
  const zerotune::head_profile& profile = measured.value;
  const selection chosen(profile, options.probe.share);
  nlohmann::ordered_json json = {{"method", "probe"},
                                 {"granularity", name_of(granularity_names(), profile.unit)},
                                 {"objective", options.probe.objective},
                                 {"probe_gamma", zerotune::impl::shortest(profile.probe_gamma)},
                                 {"layers", profile.layers},
                                 {"heads", profile.heads},
                                 {"rows", rows},
                                 {"forward_rows", profile.forward_rows},
                                 {"seconds", measured.seconds},
                                 {"untouched", profile.untouched.value},
                                 {"up", chosen.up},
                                 {"down", chosen.down},
                                 {"kind", name_of(chosen.kind)},
                                 {"selected", chosen.units}};
  for (index_t unit = 0; unit < static_cast<index_t>(profile.effect.size()); ++unit) {
    const zerotune::objective_score& effect = profile.effect[static_cast<std::size_t>(unit)];
    json["units"].push_back({{"unit", unit},
                             {"effect", effect.value},
                             {"tie", effect.tie},
                             {"direction", zerotune::direction(profile, unit)}});
  }
  return json;
}

void print_json(const heads_options& options, const std::optional<measured_gradients>& gradients,
                const std::optional<measured_probe>& probe,
                const std::optional<comparison>& compared, index_t rows) {
  nlohmann::ordered_json json =
      gradients ? json_of_gradients(options, *gradients) : json_of_probe(options, *probe, rows);
  if (compared) {
    json["probe"] = json_of_probe(options, *probe, rows);
    json["agreement"] = {{options.probe.objective, json_of(compared->value)},
                         {name_of_tie(options.probe.options().goal), json_of(compared->tie)}};
  }
  std::printf("%s\n", json.dump(1).c_str());
}

void run_heads(const heads_options& options) {
  const data_set data = read_rows(options.data.data);
  const zerotune::probe_options probe = options.probe.options();
  const zerotune::loss_weights loss = parse_loss(options.loss);
  if ((options.uses_gradient() && zerotune::is_supervised(loss)) ||
      (options.uses_probe() && zerotune::is_supervised(probe.goal)))
    data.require_labels("heads");
  const prompt_template prompts = prompt_template::from_option(options.data.prompt_template);
  const std::vector<index_t> labels = data.labels();
  const index_t rows = std::min(options.rows, static_cast<index_t>(labels.size()));
  const std::vector<index_t> examples =
      zerotune::make_splits(labels, {.profile = rows, .search = 0, .test = 0}, options.seed)
          .profile;
  const loaded_model model(options.model.model, options.model.products());
  host_evaluator host(model.model, model.tokens, prompts, data, {.threads = options.model.threads});
  std::optional<measured_gradients> gradients;
  if (options.uses_gradient())
    gradients = measure_time("gradient", [&](const zerotune::progress_callback& report) {
      const zerotune::gamma_table untouched(host.num_layers(), host.num_heads());
      return group_gradients(host.differentiate(untouched, examples, loss, report), probe.unit,
                             host.num_layers(), host.num_heads());
    });
  std::optional<measured_probe> probed;
  if (options.uses_probe())
    probed = measure_time("probing", [&](const zerotune::progress_callback& report) {
      return zerotune::profile_heads(host, examples, labels, probe, report);
    });
  std::optional<comparison> compared;
  if (options.compare) compared.emplace(gradients->value, probed->value);
  if (options.model.json)
    print_json(options, gradients, probed, compared, rows);
  else
    print_text(options, gradients, probed, compared);
}

}  // namespace

void add_heads(CLI::App& program) {
  CLI::App* const command = program.add_subcommand(
      "heads",
      "The effect of every head: does the model get better (up-effective) or worse "
      "(down-effective) when the head's attention to the initial token is amplified? Measured for "
      "all heads at once by one backward pass, or by probing, one unit at a time, as in the "
      "paper.");
  const auto options = std::make_shared<heads_options>();
  options->model.add(*command);
  options->data.add(*command);
  command
      ->add_option("--method", options->method,
                   "gradient: one forward and backward pass for all units, with a standard error "
                   "for each, of single heads unless --granularity says otherwise; probe: one "
                   "evaluation per unit")
      ->check(CLI::IsMember({"gradient", "probe"}))
      ->capture_default_str();
  command
      ->add_option("--loss", options->loss,
                   "what the gradient is of: choices (the right one's likelihood among them), "
                   "vocabulary (its likelihood), entropy, choice-entropy, or a mixture such as "
                   "choices=1,vocabulary=0.5")
      ->capture_default_str();
  options->probe.add(*command);
  command->add_flag("--compare", options->compare,
                    "measure by both methods and say how they agree");
  command
      ->add_option("--profile-rows", options->rows,
                   "rows to profile on, chosen by --seed; all rows if there are fewer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--seed", options->seed, "chooses the rows")->capture_default_str();
  command->callback([options, command] {
    // A gradient costs the same for all heads; only probing has a reason to take them together.
    if (options->method == "gradient" && command->count("--granularity") == 0)
      options->probe.granularity = "head";
    run_heads(*options);
  });
}

}  // namespace zerotune_cli
