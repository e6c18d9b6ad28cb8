// SPDX-License-Identifier: Apache-2.0
// Runs a model on the sequences and gamma tables of a file of reference log-probabilities.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "llama/model.hpp"
#include "llama/probability.hpp"
#include "reference_file.hpp"
#include "zerotune/policy/initial_token.hpp"
#include "zerotune/tuning/gamma_table.hpp"

namespace llama::test {

/// The policy of a gamma table.
struct table_policy {
  const zerotune::gamma_table* table;
  zerotune::initial_token operator()(const attention_context& context) const {
    return zerotune::initial_token{table->row(context.layer)};
  }
};

/// The gamma table that a case of a reference file writes in one of four ways.
inline zerotune::gamma_table table_of(const json& written, int layers, int heads) {
  if (written.contains("uniform"))
    return zerotune::gamma_table(layers, heads, std::stof(written["uniform"].text));
  zerotune::gamma_table table(layers, heads);
  if (written.contains("table"))
    for (int layer = 0; layer < layers; ++layer)
      for (int head = 0; head < heads; ++head)
        table(layer, head) = std::stof(written["table"]
                                           .items.at(static_cast<std::size_t>(layer))
                                           .items.at(static_cast<std::size_t>(head))
                                           .text);
  if (written.contains("heads"))
    for (const json& pair : written["heads"].items)
      table(pair.items.at(0).integer(), pair.items.at(1).integer()) =
          std::stof(written["ones_except"].text);
  if (written.contains("layers"))
    for (const json& layer : written["layers"].items)
      for (int head = 0; head < heads; ++head)
        table(layer.integer(), head) = std::stof(written["ones_except"].text);
  return table;
}

/// How far a model is from the reference.
struct deviation {
  double log_probability = 0.0, entropy = 0.0;
  double sum = 0.0;  ///< of the differences of log-probabilities
  int num_values = 0, wrong_argmax = 0;
};

/// Compares one sequence under one policy with the entry of a reference file. The likeliest token
/// counts where its lead is more than the tolerance could take away.
template <attention_policy Policy>
void compare(const model& m, Policy&& policy, const std::vector<int>& tokens, const json& entry,
             double tolerance, deviation& worst) {
  std::vector<int> at;
  for (const json& row : entry["rows"].items) at.push_back(row["position"].integer());
  const int last = static_cast<int>(tokens.size()) - 1;
  std::vector<int> wanted = at;
  if (std::ranges::find(wanted, last) == wanted.end()) wanted.push_back(last);
  std::ranges::sort(wanted);
  const sequence run{tokens, nullptr, wanted};
  workspace space;
  matrix logits;
  forward(m, policy, std::span(&run, 1), space, logits);
  for (const json& row : entry["rows"].items) {
    const auto index = std::ranges::find(wanted, row["position"].integer()) - wanted.begin();
    const std::span<const float> values = logits.row(index);
    const std::vector<int> expected_tokens = row["tokens"].integers();
    for (std::size_t i = 0; i < expected_tokens.size(); ++i) {
      const double expected = std::stod(row["logprobs"].items.at(i).text);
      const double difference = std::abs(log_probability(values, expected_tokens[i]) - expected);
      worst.log_probability = std::max(worst.log_probability, difference);
      worst.sum += difference;
      ++worst.num_values;
    }
    if (std::stod(row["margin"].text) > 2 * tolerance && argmax(values) != row["argmax"].integer())
      ++worst.wrong_argmax;
  }
  const double expected = std::stod(entry["entropy"].text);
  worst.entropy =
      std::max(worst.entropy, std::abs(entropy(logits.row(logits.rows() - 1)) - expected));
}

/// All sequences of all cases. A reference is a file's root or one of its families.
inline void expect_reference(const model& m, const json& reference, double tolerance) {
  const int layers = m.config().num_layers, heads = m.config().num_heads;
  ASSERT_EQ(reference["layers"].integer(), layers);
  ASSERT_EQ(reference["heads"].integer(), heads);
  ASSERT_EQ(reference["kv_heads"].integer(), m.config().num_kv_heads);
  ASSERT_EQ(reference["vocabulary"].integer(), m.config().vocabulary_size);
  for (const auto& [name, written] : reference["cases"].members) {
    SCOPED_TRACE(name);
    const zerotune::gamma_table table = table_of(written, layers, heads);
    deviation worst;
    for (const auto& [key, sequence_tokens] : reference["sequences"].members) {
      const std::vector<int> tokens = sequence_tokens.integers();
      const json& entry = reference["values"][name][key];
      if (name == "untouched") compare(m, untouched{}, tokens, entry, tolerance, worst);
      compare(m, table_policy{&table}, tokens, entry, tolerance, worst);
    }
    EXPECT_LE(worst.log_probability, tolerance);
    EXPECT_LE(worst.entropy, tolerance);
    EXPECT_EQ(worst.wrong_argmax, 0);
    ::testing::Test::RecordProperty("max_difference_" + name,
                                    std::to_string(worst.log_probability));
    if (environment_path("ZEROTUNE_TEST_VERBOSE") != "")
      std::printf("%-12s %6d values, |d log p| mean %.2e max %.2e, |d entropy| %.2e\n",
                  name.c_str(), worst.num_values, worst.sum / worst.num_values,
                  worst.log_probability, worst.entropy);
  }
}

}  // namespace llama::test
