// SPDX-License-Identifier: Apache-2.0
// What zerotune analyze measures, as plain structs, and its texts. The JSON that write_analysis
// makes has the structs' members by name, with these rules:
//
//     {"schema": "zerotune-analysis", "version": 1, "model": as in a profile, "template",
//      "data": {"name", "rows", "labelled", "attention_rows", "mean_prompt_tokens"}, "seed",
//      "initial_token": text, "gammas": [...], "probe_gammas": [...],
//      "sink_mass": [layers][heads],
//      "attention_entropy": {"own": [gammas][layers][heads], "all_heads": the same},
//      "untouched": MEASURED, "sweep": [MEASURED per gamma],
//      "groups": [{"name", "first_layer", "last_layer", "measured": [MEASURED per probe gamma]}],
//      "positions": [{"name", "measured": [...]}],
//      "heads": {"entropy": EFFECT, "loss": EFFECT, "rank_correlation"},
//      "key_form": [{"gamma", "factors": [layers][kv_heads] (null: none reaches the gamma),
//                    "spread": {"geometric_mean", "least", "median", "greatest": [layers][heads]},
//                    "measured": MEASURED}],
//      "cost": {"forward_rows", "backward_rows", "seconds"}, "warnings": [...]}
//     MEASURED: {"gamma", "entropy", "entropy_change": [low, high], and with labels "likelihood",
//                "loss", "loss_change": [low, high], and in the sweep "generated", "invalid"}
//     EFFECT: {"mean": [layers][heads], "standard_error": the same}
//
// Entropies are in nats. A change is that of the mean from the untouched model, with its 95%
// paired bootstrap interval; loss is -log of the right choice's share among the choices.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "zerotune/analysis/key_scale.hpp"
#include "zerotune/tuning/gradient_profile.hpp"
#include "zerotune/tuning/profile.hpp"

namespace zerotune_cli {

using zerotune::index_t;

/// What to measure.
struct analysis_plan {
  index_t rows = 64;            ///< of the data; all of them if there are fewer
  index_t attention_rows = 16;  ///< of those, whose attention is looked at query by query
  std::vector<float> gammas{0.25f, 0.5f, 1.0f, 2.0f, 4.0f};  ///< of all heads at once
  std::vector<float> probe_gammas{0.5f, 2.0f};  ///< of layer groups, positions, and the key form
  std::uint64_t seed = 1;
};

/// The model's answers under one change, and how they differ from the untouched model's.
struct measured {
  double gamma = 1;
  double entropy = 0;  ///< of the output, mean over the rows
  zerotune::interval entropy_change;
  std::optional<double> likelihood, loss;  ///< with labels
  std::optional<zerotune::interval> loss_change;
  std::optional<double> generated, invalid;  ///< where answers were generated
};

/// Layers [first, last] with all their heads.
struct layer_group {
  std::string name;
  index_t first = 0, last = 0;
  std::vector<measured> effects;
};

/// One token of every prompt, its attention scaled in all heads.
struct scaled_position {
  std::string name;
  std::vector<measured> effects;
};

/// The paper's key-state form, calibrated to a gamma.
struct key_form {
  double gamma = 1;
  std::vector<std::optional<double>> factors;  ///< [layers][kv_heads]
  std::vector<zerotune::gamma_spread> spread;  ///< [layers][heads]
  measured effect;
};

struct analysis {
  zerotune::model_description model;
  std::string template_text, data_name, initial_token;
  index_t rows = 0;
  index_t attention_rows = 0;
  bool labelled = false;
  double mean_prompt_tokens = 0;
  std::uint64_t seed = 1;
  std::vector<float> gammas, probe_gammas;

  std::vector<double> sink_mass;    ///< [layers][heads]
  std::vector<double> own_entropy;  ///< [gammas][layers][heads]: that head's gamma alone
  std::vector<double> all_entropy;  ///< [gammas][layers][heads]: all heads have the gamma
  measured untouched;
  std::vector<measured> sweep;  ///< all heads
  std::vector<layer_group> groups;
  std::vector<scaled_position> positions;
  zerotune::gradient_profile entropy_effect;
  std::optional<zerotune::gradient_profile> loss_effect;
  double rank_correlation = 0;  ///< of the two effects over heads
  std::vector<key_form> keys;
  zerotune::tuning_cost cost;
  std::vector<std::string> warnings;
};

class host_evaluator;
struct data_set;
struct loaded_model;
class prompt_template;

/// Measures everything. @param threads  of the host
/// @throws usage_error for rows of which some have labels and some have not, and prompts of a
///         single token
analysis run_analysis(const loaded_model& model, const prompt_template& prompts,
                      const data_set& data, const analysis_plan& plan, int threads);

/// JSON as above, ending in a newline.
std::string write_analysis(const analysis& result);

/// What people read.
std::string format_analysis(const analysis& result);

}  // namespace zerotune_cli
