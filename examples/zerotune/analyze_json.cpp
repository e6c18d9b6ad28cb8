// SPDX-License-Identifier: Apache-2.0
// write_analysis: the schema is in analyze.hpp.
#include "analyze.hpp"
#include "zerotune/tuning/json_writer.hpp"

namespace zerotune_cli {

namespace {

using ordered_json = nlohmann::ordered_json;

ordered_json write_gammas(const std::vector<float>& gammas) {
  ordered_json json = ordered_json::array();
  for (const float gamma : gammas) json.push_back(zerotune::impl::shortest(gamma));
  return json;
}

// Values of one table, rows of `columns`.
template <class Value>
ordered_json write_table(const std::vector<Value>& values, index_t columns) {
  ordered_json rows = ordered_json::array();
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i % static_cast<std::size_t>(columns) == 0) rows.push_back(ordered_json::array());
    rows.back().push_back(values[i]);
  }
  return rows;
}

ordered_json write_tables(const std::vector<double>& values, index_t layers, index_t heads) {
  const auto size = static_cast<std::ptrdiff_t>(layers * heads);
  ordered_json tables = ordered_json::array();
  for (auto at = values.begin(); at != values.end(); at += size)
    tables.push_back(write_table(std::vector<double>(at, at + size), heads));
  return tables;
}

ordered_json write_measured(const measured& m) {
  ordered_json json = {{"gamma", zerotune::impl::shortest(static_cast<float>(m.gamma))},
                       {"entropy", m.entropy},
                       {"entropy_change", zerotune::impl::write_interval(m.entropy_change)}};
  if (m.likelihood) json["likelihood"] = *m.likelihood;
  if (m.loss) json["loss"] = *m.loss;
  if (m.loss_change) json["loss_change"] = zerotune::impl::write_interval(*m.loss_change);
  if (m.generated) json["generated"] = *m.generated;
  if (m.invalid) json["invalid"] = *m.invalid;
  return json;
}

ordered_json write_all(const std::vector<measured>& effects) {
  ordered_json json = ordered_json::array();
  for (const measured& m : effects) json.push_back(write_measured(m));
  return json;
}

ordered_json write_effect(const zerotune::gradient_profile& effect) {
  return {{"mean", write_table(effect.mean, effect.heads)},
          {"standard_error", write_table(effect.standard_error, effect.heads)}};
}

ordered_json write_key_form(const key_form& form, const zerotune::model_description& model) {
  ordered_json json = {{"gamma", zerotune::impl::shortest(static_cast<float>(form.gamma))}};
  std::vector<ordered_json> factors;
  for (const std::optional<double>& factor : form.factors)
    factors.push_back(factor ? ordered_json(zerotune::impl::shortest(static_cast<float>(*factor)))
                             : ordered_json(nullptr));
  json["factors"] = write_table(factors, model.kv_heads);
  const auto member = [&](double zerotune::gamma_spread::*value) {
    std::vector<double> values;
    for (const zerotune::gamma_spread& spread : form.spread) values.push_back(spread.*value);
    return write_table(values, model.heads);
  };
  json["spread"] = {{"geometric_mean", member(&zerotune::gamma_spread::geometric_mean)},
                    {"least", member(&zerotune::gamma_spread::least)},
                    {"median", member(&zerotune::gamma_spread::median)},
                    {"greatest", member(&zerotune::gamma_spread::greatest)}};
  json["measured"] = write_measured(form.effect);
  return json;
}

}  // namespace

std::string write_analysis(const analysis& a) {
  const index_t layers = a.model.layers, heads = a.model.heads;
  ordered_json json = {{"schema", "zerotune-analysis"}, {"version", 1}};
  json["model"] = zerotune::impl::write_model(a.model);
  json["template"] = a.template_text;
  json["data"] = {{"name", a.data_name},
                  {"rows", a.rows},
                  {"labelled", a.labelled},
                  {"attention_rows", a.attention_rows},
                  {"mean_prompt_tokens", a.mean_prompt_tokens}};
  json["seed"] = a.seed;
  json["initial_token"] = a.initial_token;
  json["gammas"] = write_gammas(a.gammas);
  json["probe_gammas"] = write_gammas(a.probe_gammas);
  json["sink_mass"] = write_table(a.sink_mass, heads);
  json["attention_entropy"] = {{"own", write_tables(a.own_entropy, layers, heads)},
                               {"all_heads", write_tables(a.all_entropy, layers, heads)}};
  json["untouched"] = write_measured(a.untouched);
  json["sweep"] = write_all(a.sweep);
  json["groups"] = ordered_json::array();
  for (const layer_group& group : a.groups)
    json["groups"].push_back({{"name", group.name},
                              {"first_layer", group.first},
                              {"last_layer", group.last},
                              {"measured", write_all(group.effects)}});
  json["positions"] = ordered_json::array();
  for (const scaled_position& position : a.positions)
    json["positions"].push_back(
        {{"name", position.name}, {"measured", write_all(position.effects)}});
  json["heads"] = {{"entropy", write_effect(a.entropy_effect)}};
  if (a.loss_effect) {
    json["heads"]["loss"] = write_effect(*a.loss_effect);
    json["heads"]["rank_correlation"] = a.rank_correlation;
  }
  json["key_form"] = ordered_json::array();
  for (const key_form& form : a.keys) json["key_form"].push_back(write_key_form(form, a.model));
  json["cost"] = {{"forward_rows", a.cost.forward_rows},
                  {"backward_rows", a.cost.backward_rows},
                  {"seconds", a.cost.seconds}};
  json["warnings"] = a.warnings;
  return json.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace zerotune_cli
