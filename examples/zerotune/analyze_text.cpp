// SPDX-License-Identifier: Apache-2.0
// format_analysis: what zerotune analyze prints.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "analyze.hpp"
#include "progress.hpp"
#include "table.hpp"

namespace zerotune_cli {

namespace {

using table = std::vector<std::vector<std::string>>;

std::string change(double after, double before, const zerotune::interval& bounds) {
  return format_number("%+.3f", after - before) + " [" + format_number("%+.3f", bounds.low) + ", " +
         format_number("%+.3f", bounds.high) + "]";
}

std::vector<std::string> header(const char* first, bool labelled, bool generated = false) {
  std::vector<std::string> row{first, "gamma", "entropy", "change [95%]"};
  if (labelled) row.insert(row.end(), {"loss", "change [95%]", "likelihood"});
  if (generated && labelled) row.push_back("generated");
  if (generated) row.push_back("invalid");
  return row;
}

std::vector<std::string> line(const std::string& name, const measured& m,
                              const measured& untouched) {
  std::vector<std::string> row{name, format_number("%g", m.gamma), format_number("%.3f", m.entropy),
                               change(m.entropy, untouched.entropy, m.entropy_change)};
  if (m.loss)
    row.insert(row.end(),
               {format_number("%.3f", *m.loss), change(*m.loss, *untouched.loss, *m.loss_change),
                format_number("%.3f", *m.likelihood)});
  if (m.generated) row.push_back(format_number("%.3f", *m.generated));
  if (m.invalid) row.push_back(format_number("%.3f", *m.invalid));
  return row;
}

std::string format_measured(const analysis& a) {
  table sweep{header("all heads", a.labelled, true)};
  for (const measured& m : a.sweep) sweep.push_back(line("", m, a.untouched));
  table groups{header("layers", a.labelled)};
  for (const layer_group& group : a.groups)
    for (const measured& m : group.effects)
      groups.push_back(line(
          group.name + " (" + std::to_string(group.first) + "-" + std::to_string(group.last) + ")",
          m, a.untouched));
  table positions{header("token scaled", a.labelled)};
  for (const scaled_position& position : a.positions)
    for (const measured& m : position.effects)
      positions.push_back(line(position.name, m, a.untouched));
  return "Gamma on all heads\n" + format_table(sweep) + "\nLayer groups\n" + format_table(groups) +
         "\nThe initial token and others\n" + format_table(positions);
}

// Of a third of the layers.
double mean_of(const std::vector<double>& values, std::size_t first, std::size_t count) {
  const auto begin = values.begin() + static_cast<std::ptrdiff_t>(first);
  return std::accumulate(begin, begin + static_cast<std::ptrdiff_t>(count), 0.0) /
         static_cast<double>(count);
}

std::string format_attention(const analysis& a) {
  const auto heads = static_cast<std::size_t>(a.model.heads), units = a.sink_mass.size();
  table rows{{"layers", "sink mass"}};
  for (const float gamma : a.gammas)
    rows[0].push_back("H, gamma " + format_number("%g", static_cast<double>(gamma)));
  const auto add = [&](const std::string& name, std::size_t first, std::size_t count) {
    std::vector<std::string>& row = rows.emplace_back(1, name);
    row.push_back(format_number("%.3f", mean_of(a.sink_mass, first, count)));
    for (std::size_t g = 0; g < a.gammas.size(); ++g)
      row.push_back(format_number("%.3f", mean_of(a.all_entropy, g * units + first, count)));
  };
  for (const layer_group& group : a.groups)
    add(group.name, static_cast<std::size_t>(group.first) * heads,
        static_cast<std::size_t>(group.last - group.first + 1) * heads);
  add("all", 0, units);
  return "Attention: mass on the initial token \"" + a.initial_token + "\" and entropy, over " +
         std::to_string(a.attention_rows) + " rows\n" + format_table(rows);
}

// The heads that act most, with their standard errors.
std::string format_heads(const analysis& a) {
  const zerotune::gradient_profile& effect = a.loss_effect ? *a.loss_effect : a.entropy_effect;
  const char* const what = a.loss_effect ? "loss" : "output entropy";
  std::vector<std::size_t> order(effect.mean.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t x, std::size_t y) {
    return std::fabs(effect.mean[x]) > std::fabs(effect.mean[y]);
  });
  order.resize(std::min<std::size_t>(order.size(), 10));
  table rows{{"head", "d " + std::string(what) + " / d log gamma", "standard error", "sink mass"}};
  for (const std::size_t unit : order) {
    const std::size_t heads = static_cast<std::size_t>(effect.heads);
    rows.push_back(
        {"layer " + std::to_string(unit / heads) + " head " + std::to_string(unit % heads),
         format_number("%+.4f", effect.mean[unit]),
         format_number("%.4f", effect.standard_error[unit]),
         format_number("%.3f", a.sink_mass[unit])});
  }
  std::string text = "Heads that act most on the " + std::string(what) + "\n" + format_table(rows);
  if (a.loss_effect)
    text += "Rank correlation over all heads of the effects on loss and on output entropy: " +
            format_number("%.2f", a.rank_correlation) + "\n";
  return text;
}

std::string format_keys(const analysis& a) {
  table rows{header("form", a.labelled)};
  rows[0].insert(rows[0].begin() + 2, {"effective gamma, median head", "widest head"});
  for (const key_form& form : a.keys) {
    // A head's spread is judged by greatest / least.
    std::vector<zerotune::gamma_spread> spread;
    for (const zerotune::gamma_spread& s : form.spread)
      if (s.rows > 0) spread.push_back(s);
    if (spread.empty()) continue;
    std::sort(spread.begin(), spread.end(), [](const auto& x, const auto& y) {
      return x.greatest * y.least < y.greatest * x.least;
    });
    const auto shown = [](const zerotune::gamma_spread& s) {
      return format_number("%.3g", s.least) + " to " + format_number("%.3g", s.greatest);
    };
    std::vector<std::string> row = line("key", form.effect, a.untouched);
    row.insert(row.begin() + 2, {shown(spread[spread.size() / 2]), shown(spread.back())});
    rows.push_back(std::move(row));
    for (const scaled_position& position : a.positions)
      for (const measured& m : position.effects)
        if (position.name == "initial" && m.gamma == form.gamma) {
          std::vector<std::string> exact = line("logits", m, a.untouched);
          exact.insert(exact.begin() + 2, {"exact", "exact"});
          rows.push_back(std::move(exact));
        }
  }
  return "The key form beside the logits form, all heads\n" + format_table(rows);
}

}  // namespace

std::string format_analysis(const analysis& a) {
  std::string text = std::to_string(a.rows) + " rows of " +
                     format_number("%.0f", a.mean_prompt_tokens) +
                     " tokens; entropies in nats, changes against the untouched model\n\n";
  text.append(format_measured(a)).append("\n").append(format_attention(a));
  text.append("\n").append(format_heads(a));
  if (!a.keys.empty()) text.append("\n").append(format_keys(a));
  text += "\nCost: " + std::to_string(a.cost.forward_rows) + " rows forward, " +
          std::to_string(a.cost.backward_rows) + " backward, " + format_seconds(a.cost.seconds) +
          "\n";
  for (const std::string& warning : a.warnings) text += "Warning: " + warning + "\n";
  return text;
}

}  // namespace zerotune_cli
