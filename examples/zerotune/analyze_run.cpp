// SPDX-License-Identifier: Apache-2.0
// run_analysis: every measurement of zerotune analyze in turn.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "analyze.hpp"
#include "analyze_attention.hpp"
#include "evaluator.hpp"
#include "failure.hpp"
#include "loaded_model.hpp"
#include "progress.hpp"
#include "table.hpp"
#include "zerotune/tuning/splits.hpp"

namespace zerotune_cli {

namespace {

using results = std::vector<zerotune::example_result>;

constexpr zerotune::quantities everything{.loglik = true, .generated = true, .entropy = true};
constexpr zerotune::quantities no_answers{.loglik = true, .generated = false, .entropy = true};

// The share of right choices falls in steps; a loss moves with every row.
double loss_of(const zerotune::example_result& result, index_t label) {
  const double largest = *std::max_element(result.loglik.begin(), result.loglik.end());
  double sum = 0;
  for (const double value : result.loglik) sum += std::exp(value - largest);
  return std::log(sum) + largest - result.loglik[static_cast<std::size_t>(label)];
}

class analyzer {
 public:
  analyzer(const loaded_model& model, const prompt_template& prompts, const data_set& data,
           const analysis_plan& plan, int threads)
      : model_(model),
        prompts_(prompts),
        plan_(plan),
        labels_(data.labels()),
        examples_(choose(data, labels_, plan)),
        host_(model.model, model.tokens, prompts, data, {.threads = threads}),
        probe_(model.model, model.tokens, prompts, data, examples_, threads) {
    out_.data_name = data.name;
    out_.labelled = !data.is_unlabelled();
  }

  analysis run() {
    const auto start = std::chrono::steady_clock::now();
    describe();
    measure_sweep();
    measure_groups();
    measure_positions();
    measure_keys();
    look_at_attention();
    measure_heads();
    out_.cost.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    warn();
    return std::move(out_);
  }

 private:
  static std::vector<index_t> choose(const data_set& data, const std::vector<index_t>& labels,
                                     const analysis_plan& plan) {
    const index_t rows = std::min(plan.rows, static_cast<index_t>(labels.size()));
    if (rows < 1) throw usage_error(data.name + ": expected at least one row, got none");
    return zerotune::make_splits(labels, {.profile = rows, .search = 0, .test = 0}, plan.seed)
        .profile;
  }

  index_t rows() const { return static_cast<index_t>(examples_.size()); }

  void describe() {
    out_.model = model_.describe();
    out_.template_text = prompts_.text();
    out_.rows = rows();
    out_.attention_rows = std::min(plan_.attention_rows, rows());
    out_.seed = plan_.seed;
    out_.gammas = plan_.gammas;
    out_.probe_gammas = plan_.probe_gammas;
    out_.initial_token = model_.tokens.piece(probe_.prompt(0).front());
    for (std::size_t i = 0; i < examples_.size(); ++i)
      out_.mean_prompt_tokens +=
          static_cast<double>(probe_.prompt(i).size()) / static_cast<double>(examples_.size());
  }

  measured compare(float gamma, const results& changed, bool generated = false) const {
    measured m;
    m.gamma = static_cast<double>(gamma);
    std::vector<double> entropy_before, entropy_after, loss_before, loss_after;
    double right = 0, right_generated = 0, invalid = 0;
    for (std::size_t i = 0; i < changed.size(); ++i) {
      entropy_before.push_back(untouched_[i].entropy);
      entropy_after.push_back(changed[i].entropy);
      invalid += !changed[i].valid();
      const index_t label = labels_[static_cast<std::size_t>(examples_[i])];
      if (!out_.labelled) continue;
      loss_before.push_back(loss_of(untouched_[i], label));
      loss_after.push_back(loss_of(changed[i], label));
      right += changed[i].predicted == label;
      right_generated += changed[i].generated == label;
    }
    const auto count = static_cast<double>(changed.size());
    const auto mean = [&](const std::vector<double>& values) {
      return std::accumulate(values.begin(), values.end(), 0.0) / count;
    };
    m.entropy = mean(entropy_after);
    m.entropy_change =
        zerotune::paired_bootstrap(entropy_before, entropy_after, {.seed = plan_.seed});
    if (generated) m.invalid = invalid / count;
    if (!out_.labelled) return m;
    m.likelihood = right / count;
    m.loss = mean(loss_after);
    m.loss_change = zerotune::paired_bootstrap(loss_before, loss_after, {.seed = plan_.seed});
    if (generated) m.generated = right_generated / count;
    return m;
  }

  // One bar for a measurement of several passes over the rows.
  class pass_bar {
   public:
    pass_bar(const char* label, std::size_t passes, index_t rows)
        : bar_(label), rows_(rows), total_(static_cast<index_t>(passes) * rows) {}
    zerotune::progress_callback next() {
      const index_t before = rows_ * passed_++;
      return [this, before](index_t done, index_t) { bar_.update(before + done, total_); };
    }

   private:
    progress bar_;
    index_t rows_, total_, passed_ = 0;
  };

  results evaluate(const zerotune::gamma_table& table, const zerotune::quantities& wanted,
                   pass_bar& bar) {
    out_.cost.forward_rows += rows();
    return host_.evaluate(table, examples_, wanted, bar.next());
  }

  void measure_sweep() {
    const auto ones = std::count(plan_.gammas.begin(), plan_.gammas.end(), 1.0f);
    pass_bar bar("gamma on all heads", plan_.gammas.size() + 1 - static_cast<std::size_t>(ones),
                 rows());
    const index_t layers = host_.num_layers(), heads = host_.num_heads();
    untouched_ = evaluate({layers, heads}, everything, bar);
    out_.untouched = compare(1.0f, untouched_, true);
    for (const float gamma : plan_.gammas)
      out_.sweep.push_back(
          gamma == 1.0f ? out_.untouched
                        : compare(gamma, evaluate({layers, heads, gamma}, everything, bar), true));
  }

  // Thirds of the layers, as even as they go; fewer groups of a model with fewer layers.
  void measure_groups() {
    const index_t layers = host_.num_layers(), heads = host_.num_heads();
    pass_bar bar("layer groups", 3 * plan_.probe_gammas.size(), rows());
    constexpr const char* names[] = {"shallow", "middle", "deep"};
    for (index_t g = 0; g < 3; ++g) {
      const index_t first = g * layers / 3, end = (g + 1) * layers / 3;
      if (first == end) continue;
      layer_group& group = out_.groups.emplace_back(layer_group{names[g], first, end - 1, {}});
      std::vector<index_t> chosen(static_cast<std::size_t>(end - first));
      std::iota(chosen.begin(), chosen.end(), first);
      for (const float gamma : plan_.probe_gammas)
        group.effects.push_back(
            compare(gamma, evaluate(zerotune::gamma_table::from({layers, chosen}, heads, gamma),
                                    no_answers, bar)));
    }
  }

  void measure_positions() {
    const std::pair<const char*, token_place> places[] = {{"initial", token_place::initial},
                                                          {"second", token_place::second},
                                                          {"middle", token_place::middle},
                                                          {"last", token_place::last}};
    pass_bar bar("token positions", std::size(places) * plan_.probe_gammas.size(), rows());
    for (const auto& [name, place] : places) {
      scaled_position& position = out_.positions.emplace_back(scaled_position{name, {}});
      for (const float gamma : plan_.probe_gammas) {
        position.effects.push_back(compare(gamma, probe_.scale_token(place, gamma, bar.next())));
        out_.cost.forward_rows += rows();
      }
    }
  }

  void measure_keys() {
    pass_bar bar("key form", plan_.probe_gammas.size(), rows());
    for (const float gamma : plan_.probe_gammas) {
      if (gamma == 0.0f) continue;  // no factor excludes a token
      key_form& form = out_.keys.emplace_back(probe_.calibrate(gamma, out_.attention_rows));
      form.effect = compare(gamma, probe_.scale_keys(form, bar.next()));
      out_.cost.forward_rows += out_.attention_rows + rows();
    }
  }

  void look_at_attention() {
    pass_bar bar("attention", plan_.gammas.size() + 1, out_.attention_rows);
    const attention_means base =
        probe_.observe(1.0f, plan_.gammas, out_.attention_rows, bar.next());
    out_.cost.forward_rows += out_.attention_rows;
    out_.sink_mass = base.sink_mass;
    out_.own_entropy = base.entropy;
    constexpr float as_it_is[] = {1.0f};
    for (const float gamma : plan_.gammas) {
      const attention_means seen = probe_.observe(gamma, as_it_is, out_.attention_rows, bar.next());
      out_.cost.forward_rows += out_.attention_rows;
      out_.all_entropy.insert(out_.all_entropy.end(), seen.entropy.begin(), seen.entropy.end());
    }
  }

  zerotune::gradient_profile effect_on(const zerotune::loss_weights& loss, const char* label) {
    progress bar(label);
    out_.cost.forward_rows += rows();
    out_.cost.backward_rows += rows();
    return zerotune::profile_gradient(host_, examples_, loss, bar.callback());
  }

  void measure_heads() {
    out_.entropy_effect = effect_on({.choices = 0, .entropy = 1}, "heads' effect on the entropy");
    if (!out_.labelled) return;
    out_.loss_effect = effect_on({.choices = 1}, "heads' effect on the loss");
    out_.rank_correlation = zerotune::spearman(out_.entropy_effect.mean, out_.loss_effect->mean);
  }

  void warn() {
    for (std::size_t i = 1; i < examples_.size(); ++i)
      if (probe_.prompt(i).front() != probe_.prompt(0).front()) {
        out_.warnings.push_back("the prompts do not all begin with the same token");
        break;
      }
    for (const key_form& form : out_.keys) {
      const auto missing = std::count(form.factors.begin(), form.factors.end(), std::nullopt);
      if (missing > 0)
        out_.warnings.push_back("key form, gamma " + format_number("%g", form.gamma) + ": " +
                                std::to_string(missing) + " of " +
                                std::to_string(form.factors.size()) +
                                " key-value heads have no factor that reaches it");
    }
  }

  const loaded_model& model_;
  const prompt_template& prompts_;
  const analysis_plan& plan_;
  std::vector<index_t> labels_, examples_;
  host_evaluator host_;
  attention_probe probe_;
  results untouched_;
  analysis out_;
};

}  // namespace

analysis run_analysis(const loaded_model& model, const prompt_template& prompts,
                      const data_set& data, const analysis_plan& plan, int threads) {
  return analyzer(model, prompts, data, plan, threads).run();
}

}  // namespace zerotune_cli
