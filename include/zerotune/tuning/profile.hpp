// SPDX-License-Identifier: Apache-2.0
// The tuning profile as plain structs (layer: tuning); json.hpp reads and writes it. Its schema is
// in docs/design.md, section 7.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "zerotune/core/error.hpp"
#include "zerotune/tuning/evaluator.hpp"
#include "zerotune/tuning/gamma_table.hpp"
#include "zerotune/tuning/statistics.hpp"

namespace zerotune {

inline constexpr const char* profile_schema = "zerotune-profile";
inline constexpr int profile_version = 1;

/// What identifies a model; an empty text or a count of 0 says nothing.
struct model_description {
  std::string architecture{};
  std::string name{};
  index_t layers = 0;
  index_t heads = 0;  ///< query heads
  index_t kv_heads = 0;
  std::string vocabulary_hash{};
  std::string file_hash{};
  std::string quantization{};  ///< of the weights in the file, such as q4_1
};

/// Rows of each split by id.
struct split_ids {
  std::vector<std::string> profile, search, test;
};

/// What tuning cost.
struct tuning_cost {
  index_t forward_rows = 0;
  index_t backward_rows = 0;
  double seconds = 0;
};

/// Shares of right and invalid answers with their intervals.
struct score_report {
  double likelihood = 0;
  double generated = 0;
  double invalid = 0;
  index_t rows = 0;
  std::optional<interval> likelihood_interval, generated_interval;
};

/// Untouched and tuned on the same rows.
struct comparison {
  score_report untouched, tuned;
  double mcnemar_likelihood = 1;  ///< p-values
  double mcnemar_generated = 1;
  std::optional<interval> difference_likelihood, difference_generated;  ///< tuned - untouched
};

/// One candidate as the search saw it.
struct candidate_report {
  std::string method;           ///< uniform, paper, gradient-select, descent or untouched
  std::string detail;           ///< such as "gamma 2" or "8 steps"
  std::optional<double> gamma;  ///< of a candidate from a grid
  double strength = 0;          ///< root mean square of log gamma
  index_t rows = 0;             ///< of the search split that it was judged on
  double objective = 0;
  double tie = 0;
  double divergence = 0;  ///< of the choices from the untouched model, nats
  double spread = 0;      ///< entropy of the predicted labels' shares, nats
  bool admitted = true;   ///< by the guards
  std::optional<score_report> scores;
};

/// One step of the descent.
struct step_report {
  index_t step = 0;
  double loss = 0;
  double gradient_norm = 0;
};

/// The effect of every head by gradient: d loss / d log gamma and its standard error over rows.
struct gradient_report {
  std::vector<double> mean, standard_error;  ///< [layers][heads], as the table
};

/// Random heads in place of the tuned ones, the same gammas.
struct control_report {
  std::uint64_t seed = 0;
  std::vector<index_t> units;  ///< where whole units were chosen; else empty
  score_report scores;
};

/// The effect of one unit as the profiling saw it.
struct unit_effect {
  index_t unit = 0;
  double effect = 0;
  double tie = 0;
  bool selected = false;
};

/// What the model answered, row by row.
struct answer_columns {
  std::vector<index_t> predicted;  ///< choice of the largest likelihood
  std::vector<index_t> generated;  ///< choice that the greedy continuation names; no_label: invalid
  friend bool operator==(const answer_columns&, const answer_columns&) = default;
};

/// The answers to every row of the test split, in its order.
struct test_outcomes {
  std::vector<index_t> label;
  answer_columns untouched, tuned;
  std::vector<std::string> classes;  ///< names of the choices if all rows share them
};

/// A setting of the run by its name, such as "descent.step-size", and its value as text.
struct profile_setting {
  std::string name, value;
  friend bool operator==(const profile_setting&, const profile_setting&) = default;
};

/// A tuning profile. Only the version and gamma are required; the rest is how it came about.
struct tuning_profile {
  int version = profile_version;
  model_description model;
  std::string form = "logits";
  gamma_table gamma;

  std::string template_text;
  std::uint64_t seed = 0;
  std::string method;
  std::optional<split_ids> splits;
  std::optional<tuning_cost> cost;
  std::optional<comparison> test, search;

  std::string chosen_method;         ///< the one that won, and
  std::string chosen_detail;         ///< which of its candidates
  std::string objective;             ///< of the search, such as accuracy or entropy
  std::optional<loss_weights> loss;  ///< of the gradient and the descent
  std::string granularity;           ///< head-index, layer or head; what `unit` counts
  std::string kind;                  ///< up or down
  double probe_gamma = 0;            ///< 0: not probed
  double share = 0;                  ///< of the units, at most
  std::vector<unit_effect> units;    ///< all of them
  std::optional<gradient_report> gradient;
  std::vector<step_report> descent;
  std::vector<candidate_report> candidates;
  std::optional<bool> placebo_equal;  ///< gamma = 1 through the whole machinery changed nothing
  std::vector<control_report> controls;
  std::vector<std::string> warnings;
  std::optional<test_outcomes> outcomes;
  std::vector<profile_setting> settings;  ///< what else is needed to repeat it, by name
};

inline namespace ZEROTUNE_ABI {

namespace impl {

inline void refuse_unless_equal(const char* what, const std::string& in_profile,
                                const std::string& in_model) {
  if (!in_profile.empty() && !in_model.empty() && in_profile != in_model)
    fail("check_profile", what, "'" + in_model + "' as the model has", "'" + in_profile + "'");
}

inline void refuse_unless_equal(const char* what, index_t in_profile, index_t in_model) {
  if (in_profile != 0 && in_model != 0 && in_profile != in_model)
    fail("check_profile", what, std::to_string(in_model) + " as the model has",
         std::to_string(in_profile));
}

}  // namespace impl

/// Does a profile fit a model? What either of them leaves open is not compared.
/// @return warnings: another file, or another quantisation, of what seems the same model
/// @throws invalid_argument if architecture, counts, vocabulary or the table's shape disagree, the
///         table holds an invalid gamma, or the form is unknown
inline std::vector<std::string> check_profile(const tuning_profile& profile,
                                              const model_description& model) {
  const model_description& made_for = profile.model;
  impl::refuse_unless_equal("profile model.architecture", made_for.architecture,
                            model.architecture);
  impl::refuse_unless_equal("profile model.layers", made_for.layers, model.layers);
  impl::refuse_unless_equal("profile model.heads", made_for.heads, model.heads);
  impl::refuse_unless_equal("profile model.kv_heads", made_for.kv_heads, model.kv_heads);
  impl::refuse_unless_equal("profile model.vocabulary_hash", made_for.vocabulary_hash,
                            model.vocabulary_hash);
  if (profile.gamma.empty())
    impl::fail("check_profile", "profile gamma", "a table of at least one layer and head", "none");
  impl::refuse_unless_equal("profile gamma dim 0 (layers)", profile.gamma.layers(), model.layers);
  impl::refuse_unless_equal("profile gamma dim 1 (heads)", profile.gamma.heads(), model.heads);
  profile.gamma.validate("check_profile");
  if (profile.form != "logits")
    impl::fail("check_profile", "profile form", "'logits'", "'" + profile.form + "'");
  std::vector<std::string> warnings;
  if (!made_for.file_hash.empty() && !model.file_hash.empty() &&
      made_for.file_hash != model.file_hash)
    warnings.push_back("the profile was made with another file of this model (another hash)");
  if (!made_for.quantization.empty() && !model.quantization.empty() &&
      made_for.quantization != model.quantization)
    warnings.push_back("the profile was made with weights in " + made_for.quantization +
                       ", this model has " + model.quantization);
  return warnings;
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
