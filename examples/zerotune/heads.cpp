// SPDX-License-Identifier: Apache-2.0
// zerotune heads: the effect of every head, found by probing.
#include <cstdio>
#include <memory>

#include "evaluator.hpp"
#include "failure.hpp"
#include "loaded_model.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "tuning_options.hpp"
#include "zerotune/tuning/json_writer.hpp"
#include "zerotune/tuning/splits.hpp"

namespace zerotune_cli {

namespace {

struct heads_options {
  model_options model;
  data_options data;
  probe_settings probe;
  std::string method = "probe";
  index_t rows = 64;
  std::uint64_t seed = 1;
};

void run_heads(const heads_options& options) {
  if (options.method == "gradient")
    throw usage_error(
        "--method gradient: this version measures heads by probing only; use --method probe");
  const data_set data = read_rows(options.data.data);
  const zerotune::probe_options probe = options.probe.options();
  if (probe.goal == zerotune::objective::accuracy) data.require_labels("heads");
  const prompt_template prompts = prompt_template::from_option(options.data.prompt_template);
  const std::vector<index_t> labels = data.labels();
  const index_t rows = std::min(options.rows, static_cast<index_t>(labels.size()));
  const std::vector<index_t> examples =
      zerotune::make_splits(labels, {.profile = rows, .search = 0, .test = 0}, options.seed)
          .profile;
  const loaded_model model(options.model.model);
  host_evaluator host(model.model, model.tokens, prompts, data, {.threads = options.model.threads});
  zerotune::head_profile profile;
  {
    progress bar("probing");
    profile = zerotune::profile_heads(host, examples, labels, probe, bar.callback());
  }
  const zerotune::head_kind kind = zerotune::dominant_kind(profile);
  const std::vector<index_t> selected = zerotune::select_units(profile, kind, options.probe.share);
  const index_t up = zerotune::count_of(profile, zerotune::head_kind::up);
  const index_t down = zerotune::count_of(profile, zerotune::head_kind::down);
  if (!options.model.json) {
    std::fputs(format_profile(profile, selected).c_str(), stdout);
    std::printf("%lld up-effective, %lld down-effective; dominant kind: %s; %lld rows evaluated\n",
                static_cast<long long>(up), static_cast<long long>(down), name_of(kind),
                static_cast<long long>(profile.forward_rows));
    return;
  }
  nlohmann::ordered_json json = {{"method", "probe"},
                                 {"granularity", options.probe.granularity},
                                 {"objective", options.probe.objective},
                                 {"probe_gamma", zerotune::impl::shortest(probe.gamma)},
                                 {"layers", profile.layers},
                                 {"heads", profile.heads},
                                 {"rows", rows},
                                 {"forward_rows", profile.forward_rows},
                                 {"untouched", profile.untouched.value},
                                 {"up", up},
                                 {"down", down},
                                 {"kind", name_of(kind)},
                                 {"selected", selected}};
  for (index_t unit = 0; unit < static_cast<index_t>(profile.effect.size()); ++unit) {
    const zerotune::objective_score& effect = profile.effect[static_cast<std::size_t>(unit)];
    json["units"].push_back({{"unit", unit},
                             {"effect", effect.value},
                             {"tie", effect.tie},
                             {"direction", zerotune::direction(profile, unit)}});
  }
  std::printf("%s\n", json.dump(1).c_str());
}

}  // namespace

void add_heads(CLI::App& program) {
  CLI::App* const command = program.add_subcommand(
      "heads",
      "The effect of every head: does the model get better (up-effective) or worse "
      "(down-effective) when the head's attention to the initial token is amplified? Measured by "
      "probing, one unit at a time, as in the paper.");
  const auto options = std::make_shared<heads_options>();
  options->model.add(*command);
  options->data.add(*command);
  command
      ->add_option("--method", options->method,
                   "probe: one evaluation per unit (gradient: not in this version)")
      ->check(CLI::IsMember({"probe", "gradient"}))
      ->capture_default_str();
  options->probe.add(*command);
  command
      ->add_option("--profile-rows", options->rows,
                   "rows to profile on, chosen by --seed; all rows if there are fewer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--seed", options->seed, "chooses the rows")->capture_default_str();
  command->callback([options] { run_heads(*options); });
}

}  // namespace zerotune_cli
