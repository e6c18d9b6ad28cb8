// SPDX-License-Identifier: Apache-2.0
// zerotune analyze on a small model: attention against softmax in double, passes against single
// rows without caches or batches, and the file that comes out.
#include "zerotune/analyze.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "llama/probability.hpp"
#include "llama/workspace.hpp"
#include "scratch.hpp"
#include "zerotune/analyze_attention.hpp"
#include "zerotune/evaluator.hpp"
#include "zerotune/failure.hpp"
#include "zerotune/loaded_model.hpp"
#include "zerotune/tuning/splits.hpp"

namespace {

using namespace zerotune_cli;
using table = std::vector<double>;

constexpr float scaled = 2.5f;
// Attention of the host in float, and of its inputs in another layer's rounding.
constexpr double tolerance = 1e-3;

// log 2.5 on one position, in a modifier of the test's own.
struct bias_at {
  index_t position;
  template <class Batch>
  Batch log_bias(zerotune::row, Batch kv_pos) const {
    using zerotune::select;
    return select(kv_pos == Batch(static_cast<zerotune::impl::value_of<Batch>>(position)),
                  Batch(static_cast<zerotune::impl::value_of<Batch>>(std::log(2.5))),
                  Batch(static_cast<zerotune::impl::value_of<Batch>>(0)));
  }
  zerotune::tile_effect effect(int, zerotune::range, zerotune::range) const {
    return zerotune::tile_effect::apply;
  }
};

class analysis_of_small_model : public testing::Test {
 protected:
  static const loaded_model& model() {
    static const loaded_model loaded(test::small_model());
    return loaded;
  }
  static const llama::model_config& config() { return model().model.config(); }
  const data_set data_ = parse_rows(test::sample_rows(9), "d.jsonl");
  const prompt_template prompts_{"<|im_start|>Review: {text}\nAnswer:", "t"};
  const std::vector<index_t> rows_{3, 0, 5, 8, 1};

  attention_probe probe(int threads = 1) const {
    return {model().model, model().tokens, prompts_, data_, rows_, threads};
  }
  std::vector<int> prompt(index_t row) const {
    return encode_prompt(model().tokens,
                         prompts_.render(data_.rows[static_cast<std::size_t>(row)]));
  }
  static std::size_t units() {
    return static_cast<std::size_t>(config().num_layers * config().num_heads);
  }

  // Softmax in double of one record's logits, exp of the first times gamma: [heads][q][k].
  static std::vector<std::vector<table>> weights(const llama::attention_record& record,
                                                 double gamma) {
    std::vector<std::vector<table>> all;
    for (index_t h = 0; h < record.q.extent(1); ++h) {
      std::vector<table>& of_head = all.emplace_back();
      for (index_t i = 0; i < record.q.extent(2); ++i) {
        table& row = of_head.emplace_back();
        double sum = 0;
        for (index_t j = 0; j <= i; ++j) {
          double dot = 0;
          for (index_t d = 0; d < record.q.extent(3); ++d)
            dot += static_cast<double>(record.q(0, h, i, d)) *
                   static_cast<double>(record.k(0, h / config().group_size(), j, d));
          row.push_back(std::exp(dot / std::sqrt(static_cast<double>(config().head_dim))) *
                        (j == 0 ? gamma : 1.0));
          sum += row.back();
        }
        for (double& weight : row) weight /= sum;
      }
    }
    return all;
  }

  // Mean over all queries but the first of all chosen rows: [layers][heads].
  template <class Use>
  table mean_over_queries(float applied, double gamma, const Use& use) const {
    table sums(units());
    double queries = 0;
    for (const index_t row : rows_) {
      const std::vector<int> tokens = prompt(row);
      queries += static_cast<double>(tokens.size() - 1);
      llama::workspace space;
      llama::matrix logits;
      const llama::sequence sequence{tokens, nullptr, {}};
      llama::forward(
          model().model,
          [&](const llama::attention_context&) { return zerotune::initial_token{applied}; },
          {&sequence, 1}, space, logits, {},
          [&](const llama::attention_record& record, const auto&) {
            const auto found = weights(record, gamma);
            for (std::size_t h = 0; h < found.size(); ++h)
              for (std::size_t i = 1; i < found[h].size(); ++i)
                sums[static_cast<std::size_t>(record.context.layer) * found.size() + h] +=
                    use(found[h][i]);
          });
    }
    for (double& sum : sums) sum /= queries;
    return sums;
  }
  static double entropy(const table& weights) {
    double sum = 0;
    for (const double weight : weights)
      if (weight > 0) sum -= weight * std::log(weight);
    return sum;
  }

  // Entropy and log-likelihoods of a row, each token by a pass of its own.
  template <class Policy>
  zerotune::example_result alone(index_t row, const Policy& policy_of) const {
    zerotune::example_result result;
    const std::vector<int> start = prompt(row);
    const auto policy = policy_of(static_cast<index_t>(start.size()));
    const auto after = [&](const std::vector<int>& tokens) {
      llama::workspace space;
      llama::matrix logits;
      const int last = static_cast<int>(tokens.size()) - 1;
      const llama::sequence sequence{tokens, nullptr, {&last, 1}};
      llama::forward(model().model, policy, {&sequence, 1}, space, logits);
      return std::vector<float>(logits.values().begin(), logits.values().end());
    };
    result.entropy = llama::entropy(after(start));
    for (const std::string& choice : data_.rows[static_cast<std::size_t>(row)].choices) {
      std::vector<int> tokens = start;
      double sum = 0;
      for (const int token : encode_answer(model().tokens, choice)) {
        sum += llama::log_probability(after(tokens), token);
        tokens.push_back(token);
      }
      result.loglik.push_back(sum);
    }
    return result;
  }
  void expect_near(const std::vector<zerotune::example_result>& found,
                   const std::vector<zerotune::example_result>& expected) const {
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      EXPECT_NEAR(found[i].entropy, expected[i].entropy, tolerance) << i;
      ASSERT_EQ(found[i].loglik.size(), expected[i].loglik.size());
      for (std::size_t c = 0; c < found[i].loglik.size(); ++c)
        EXPECT_NEAR(found[i].loglik[c], expected[i].loglik[c], tolerance) << i;
    }
  }
};

void expect_all_near(const table& found, std::span<const double> expected, double slack) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], slack) << i;
}

TEST_F(analysis_of_small_model, attention_is_that_of_softmax_in_double) {
  const float grid[] = {0.25f, 1.0f, 4.0f};
  const attention_means found = probe().observe(1.0f, grid, static_cast<index_t>(rows_.size()), {});
  constexpr double slack = 1e-5;  // float q.k and LSE
  expect_all_near(found.sink_mass,
                  mean_over_queries(1.0f, 1.0, [](const table& w) { return w.front(); }), slack);
  ASSERT_EQ(found.entropy.size(), 3 * units());
  for (std::size_t g = 0; g < 3; ++g)
    expect_all_near(mean_over_queries(1.0f, static_cast<double>(grid[g]), entropy),
                    std::span(found.entropy).subspan(g * units(), units()), slack);
}

TEST_F(analysis_of_small_model, an_applied_gamma_reaches_the_later_layers) {
  const float as_it_is[] = {1.0f};
  const attention_means found =
      probe().observe(scaled, as_it_is, static_cast<index_t>(rows_.size()), {});
  const table expected = mean_over_queries(scaled, static_cast<double>(scaled), entropy);
  expect_all_near(found.entropy, expected, 1e-5);
  const table own = mean_over_queries(1.0f, static_cast<double>(scaled), entropy);
  double largest = 0;
  for (std::size_t u = 0; u < units(); ++u)
    largest = std::max(largest, std::fabs(own[u] - expected[u]));
  EXPECT_GT(largest, 1e-3);
}

TEST_F(analysis_of_small_model, scaled_tokens_are_those_they_are_called) {
  const std::pair<token_place, index_t (*)(index_t)> places[] = {
      {token_place::initial, [](index_t) -> index_t { return 0; }},
      {token_place::second, [](index_t) -> index_t { return 1; }},
      {token_place::middle, [](index_t length) -> index_t { return length / 2; }},
      {token_place::last, [](index_t length) -> index_t { return length - 1; }}};
  for (const auto& [place, position] : places) {
    std::vector<zerotune::example_result> expected;
    for (const index_t row : rows_)
      expected.push_back(alone(row, [at = position](index_t length) {
        return [p = at(length)](const llama::attention_context&) { return bias_at{p}; };
      }));
    expect_near(probe().scale_token(place, scaled, {}), expected);
  }
}

TEST_F(analysis_of_small_model, results_do_not_depend_on_threads) {
  EXPECT_EQ(probe(1).scale_token(token_place::middle, 2.0f, {}),
            probe(3).scale_token(token_place::middle, 2.0f, {}));
  const float grid[] = {1.0f};
  EXPECT_EQ(probe(1).observe(1.0f, grid, 5, {}).entropy,
            probe(3).observe(1.0f, grid, 5, {}).entropy);
}

TEST_F(analysis_of_small_model, key_factors_meet_the_gamma_in_the_mean) {
  const key_form form = probe().calibrate(scaled, static_cast<index_t>(rows_.size()));
  const auto group = static_cast<std::size_t>(config().group_size());
  ASSERT_EQ(form.spread.size(), units());
  ASSERT_EQ(form.factors.size(), units() / group);
  // Independently: the log of the effective gamma is (c - 1) times the logit of the initial token.
  std::vector<table> logits(units());
  for (const index_t row : rows_) {
    const std::vector<int> tokens = prompt(row);
    llama::workspace space;
    llama::matrix ignored;
    const llama::sequence sequence{tokens, nullptr, {}};
    llama::forward(
        model().model, llama::untouched{}, {&sequence, 1}, space, ignored, {},
        [&](const llama::attention_record& record, const auto&) {
          for (index_t h = 0; h < record.q.extent(1); ++h)
            for (index_t i = 1; i < record.q.extent(2); ++i) {
              double dot = 0;
              for (index_t d = 0; d < record.q.extent(3); ++d)
                dot += static_cast<double>(record.q(0, h, i, d)) *
                       static_cast<double>(record.k(0, h / config().group_size(), 0, d));
              logits[static_cast<std::size_t>(record.context.layer * config().num_heads + h)]
                  .push_back(dot / std::sqrt(static_cast<double>(config().head_dim)));
            }
        });
  }
  std::size_t reached = 0;
  for (std::size_t g = 0; g < form.factors.size(); ++g) {
    if (!form.factors[g]) continue;
    ++reached;
    double sum = 0, count = 0;
    for (std::size_t u = g * group; u < (g + 1) * group; ++u) {
      table effective;
      for (const double logit : logits[u]) {
        effective.push_back((*form.factors[g] - 1) * logit);
        sum += effective.back();
        ++count;
      }
      const auto [least, greatest] = std::minmax_element(effective.begin(), effective.end());
      EXPECT_NEAR(std::log(form.spread[u].least), *least, 1e-3 * (1 + std::fabs(*least)));
      EXPECT_NEAR(std::log(form.spread[u].greatest), *greatest, 1e-3 * (1 + std::fabs(*greatest)));
    }
    EXPECT_NEAR(sum / count, std::log(2.5), 2e-3);
  }
  EXPECT_GT(reached, 0u);
}

TEST_F(analysis_of_small_model, scaled_keys_scale_the_initial_logit) {
  // Factors of 1 are the untouched model; others are a logit times c, in a modifier of our own.
  key_form form;
  form.factors.assign(units() / static_cast<std::size_t>(config().group_size()), 1.0);
  const auto plain = probe().scale_token(token_place::initial, 1.0f, {});
  EXPECT_EQ(probe().scale_keys(form, {}), plain);
  form.factors.assign(form.factors.size(), std::nullopt);
  EXPECT_EQ(probe().scale_keys(form, {}), plain);
  form.factors.assign(form.factors.size(), 1.5);
  struct scaled_logit {
    float transform_logit(zerotune::row, float kv_pos, float logit) const {
      return kv_pos == 0 ? 1.5f * logit : logit;
    }
    double transform_logit(zerotune::row, double kv_pos, double logit) const {
      return kv_pos == 0 ? 1.5 * logit : logit;
    }
    zerotune::tile_effect effect(int, zerotune::range, zerotune::range) const {
      return zerotune::tile_effect::apply;
    }
  };
  std::vector<zerotune::example_result> expected;
  for (const index_t row : rows_)
    expected.push_back(alone(row, [](index_t) {
      return [](const llama::attention_context&) { return scaled_logit{}; };
    }));
  expect_near(probe().scale_keys(form, {}), expected);
}

analysis_plan small_plan() {
  return {.rows = 6, .attention_rows = 2, .gammas = {0.5f, 1.0f, 2.0f}, .probe_gammas = {2.0f}};
}

TEST_F(analysis_of_small_model, the_whole_fits_together) {
  const analysis a = run_analysis(model(), prompts_, data_, small_plan(), 1);
  ASSERT_EQ(a.sweep.size(), 3u);
  EXPECT_EQ(a.sweep[1].entropy, a.untouched.entropy);
  EXPECT_EQ(a.sweep[1].entropy_change, (zerotune::interval{0, 0}));
  // Two ways to the same thing: a gamma on all heads as a table, and as a span of one token.
  ASSERT_EQ(a.positions.size(), 4u);
  EXPECT_NEAR(a.positions[0].effects[0].entropy, a.sweep[2].entropy, tolerance);
  EXPECT_NEAR(*a.positions[0].effects[0].loss, *a.sweep[2].loss, tolerance);
  // The groups are all layers, each once.
  index_t next = 0;
  for (const layer_group& group : a.groups) {
    EXPECT_EQ(group.first, next);
    next = group.last + 1;
  }
  EXPECT_EQ(next, config().num_layers);
  // The loss and its gradient, straight from the evaluator.
  host_evaluator host(model().model, model().tokens, prompts_, data_, {});
  const std::vector<index_t> labels = data_.labels();
  const auto chosen =
      zerotune::make_splits(labels, {.profile = 6, .search = 0, .test = 0}, 1).profile;
  const zerotune::gamma_table ones(config().num_layers, config().num_heads);
  const auto values = host.differentiate(ones, chosen, {.choices = 1}, {});
  double loss = 0;
  for (const double value : values.loss) loss += value / 6;
  EXPECT_NEAR(*a.untouched.loss, loss, tolerance);
  ASSERT_TRUE(a.loss_effect.has_value());
  EXPECT_NEAR(a.loss_effect->loss, loss, 1e-9);
  EXPECT_EQ(a.cost.backward_rows, 12);
  // 3 of the sweep, 3 groups (or fewer), 4 positions, 1 key form, 2 gradients; 1 + 4 of 2 rows.
  EXPECT_EQ(a.cost.forward_rows,
            6 * (3 + static_cast<index_t>(a.groups.size()) + 4 + 1 + 2) + 2 * (1 + 4));
}

TEST_F(analysis_of_small_model, the_file_has_the_documented_members) {
  const analysis a = run_analysis(model(), prompts_, data_, small_plan(), 1);
  const nlohmann::json json = nlohmann::json::parse(write_analysis(a));
  EXPECT_EQ(json.at("schema"), "zerotune-analysis");
  EXPECT_EQ(json.at("version"), 1);
  EXPECT_EQ(json.at("data").at("rows"), 6);
  EXPECT_EQ(json.at("initial_token"), "<|im_start|>");
  const auto layers = static_cast<std::size_t>(config().num_layers);
  const auto heads = static_cast<std::size_t>(config().num_heads);
  const auto expect_table = [&](const nlohmann::json& rows, std::size_t columns) {
    ASSERT_EQ(rows.size(), layers);
    for (const auto& row : rows) EXPECT_EQ(row.size(), columns);
  };
  expect_table(json.at("sink_mass"), heads);
  EXPECT_EQ(json.at("sink_mass").at(1).at(2), a.sink_mass[heads + 2]);
  for (const char* kind : {"own", "all_heads"}) {
    const auto& tables = json.at("attention_entropy").at(kind);
    ASSERT_EQ(tables.size(), 3u);
    for (const auto& of_gamma : tables) expect_table(of_gamma, heads);
  }
  for (const char* effect : {"entropy", "loss"})
    for (const char* member : {"mean", "standard_error"})
      expect_table(json.at("heads").at(effect).at(member), heads);
  EXPECT_GE(json.at("heads").at("rank_correlation"), -1.0);
  ASSERT_EQ(json.at("sweep").size(), 3u);
  for (const char* member : {"gamma", "entropy", "entropy_change", "likelihood", "loss",
                             "loss_change", "generated", "invalid"})
    EXPECT_TRUE(json.at("sweep").at(0).contains(member)) << member;
  ASSERT_EQ(json.at("key_form").size(), 1u);
  expect_table(json.at("key_form").at(0).at("factors"),
               static_cast<std::size_t>(config().num_kv_heads));
  for (const char* member : {"geometric_mean", "least", "median", "greatest"})
    expect_table(json.at("key_form").at(0).at("spread").at(member), heads);
  EXPECT_EQ(json.at("positions").size(), 4u);
  EXPECT_EQ(json.at("groups").size(), a.groups.size());
}

TEST_F(analysis_of_small_model, labels_are_not_needed) {
  std::string text = test::sample_rows(4);
  for (std::size_t at; (at = text.find(", \"label\": ")) != std::string::npos;) text.erase(at, 12);
  const data_set unlabelled = parse_rows(text, "u.jsonl");
  const analysis a = run_analysis(model(), prompts_, unlabelled, small_plan(), 1);
  EXPECT_EQ(a.rows, 4);
  EXPECT_FALSE(a.untouched.loss || a.untouched.likelihood || a.loss_effect);
  const nlohmann::json json = nlohmann::json::parse(write_analysis(a));
  EXPECT_FALSE(json.at("heads").contains("loss"));
  EXPECT_NE(format_analysis(a).find("output entropy"), std::string::npos);
}

TEST_F(analysis_of_small_model, a_prompt_of_one_token_is_refused) {
  const data_set data = parse_rows(R"({"id": "x", "text": "", "choices": ["a", "b"]})", "s.jsonl");
  const prompt_template prompts("<|im_start|>{text}", "t");
  EXPECT_THROW(run_analysis(model(), prompts, data, {}, 1), usage_error);
}

}  // namespace
