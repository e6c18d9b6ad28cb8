// SPDX-License-Identifier: Apache-2.0
// backward() against PyTorch's gradients, and against central differences of a naive model in
// double; what must not change a gradient; what is refused.
#include "llama/backward.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

#include "family_models.hpp"
#include "llama/gguf.hpp"
#include "llama/probability.hpp"
#include "naive_model.hpp"
#include "reference_cases.hpp"
#include "small_model.hpp"
#include "zerotune/core/thread_pool.hpp"
#include "zerotune/policy/softcap.hpp"

namespace {

using llama::activations;
using llama::backward;
using llama::backward_options;
using llama::backward_workspace;
using llama::logit_rows;
using llama::token_tree;
using llama::test::make_small_model;
using llama::test::random_tokens;
using llama::test::table_policy;

// --- losses, from logits in double ---------------------------------------------------------------

/// weight * -log p(target) of row `row`, or, without a target, the entropy of its distribution.
struct loss_term {
  int row = 0;
  int target = -1;
  double weight = 1;
};

std::vector<double> log_softmax(std::vector<double> logits) {
  const double largest = *std::ranges::max_element(logits);
  double sum = 0;
  for (const double value : logits) sum += std::exp(value - largest);
  for (double& value : logits) value -= largest + std::log(sum);
  return logits;
}

double value_of(const loss_term& term, const std::vector<double>& log_p) {
  if (term.target >= 0) return -term.weight * log_p[static_cast<std::size_t>(term.target)];
  double entropy = 0;
  for (const double lp : log_p) entropy -= std::exp(lp) * lp;
  return term.weight * entropy;
}

double slope_of(const loss_term& term, const std::vector<double>& log_p, std::size_t i) {
  const double p = std::exp(log_p[i]);
  if (term.target >= 0)
    return term.weight * (p - (static_cast<std::size_t>(term.target) == i ? 1.0 : 0.0));
  return -p * (term.weight * log_p[i] + value_of(term, log_p));
}

/// A tree with what it is asked for; `logits_at` are the rows of the terms.
struct example {
  std::vector<int> trunk;
  std::vector<std::vector<int>> branches;
  std::vector<loss_term> terms;

  std::vector<std::span<const int>> branch_spans() const {
    return {branches.begin(), branches.end()};
  }
  std::vector<int> rows() const {
    std::vector<int> result;
    for (const loss_term& term : terms)
      if (result.empty() || result.back() != term.row) result.push_back(term.row);
    return result;
  }
  /// The tokens that a row sees, itself included.
  std::vector<int> path(int row) const {
    std::vector<int> tokens = trunk;
    auto left = static_cast<std::size_t>(row) + 1;
    if (left <= trunk.size()) return {trunk.begin(), trunk.begin() + static_cast<long>(left)};
    left -= trunk.size();
    for (const std::vector<int>& branch : branches) {
      if (left <= branch.size()) {
        tokens.insert(tokens.end(), branch.begin(), branch.begin() + static_cast<long>(left));
        return tokens;
      }
      left -= branch.size();
    }
    return tokens;
  }
};

struct outcome {
  std::vector<float> gradient;
  std::vector<double> loss;
  std::vector<std::vector<float>> logits;
  friend bool operator==(const outcome&, const outcome&) = default;
};

template <class Policy>
outcome run(const llama::model& m, Policy&& policy, const std::vector<example>& examples,
            const backward_options& options = {}, backward_workspace&& space = {}) {
  std::vector<std::vector<std::span<const int>>> branches;
  std::vector<std::vector<int>> rows;
  std::vector<token_tree> trees;
  for (const example& each : examples) {
    branches.push_back(each.branch_spans());
    rows.push_back(each.rows());
  }
  for (std::size_t i = 0; i < examples.size(); ++i)
    trees.push_back({examples[i].trunk, branches[i], rows[i]});
  outcome result;
  result.gradient.assign(
      examples.size() * static_cast<std::size_t>(m.config().num_layers * m.config().num_heads),
      -77.0f);
  const auto loss = [&](std::size_t index, const logit_rows& logits) {
    EXPECT_EQ(index, result.loss.size());
    ASSERT_EQ(logits.count, static_cast<std::int64_t>(rows[index].size()));
    result.loss.push_back(0);
    result.logits.emplace_back(logits.data, logits.data + logits.count * logits.vocabulary_size);
    for (std::int64_t i = 0; i < logits.count; ++i) {
      const std::span<float> row = logits.row(i);
      const std::vector<double> log_p = log_softmax({row.begin(), row.end()});
      std::vector<double> slope(row.size(), 0.0);
      for (const loss_term& term : examples[index].terms) {
        if (term.row != rows[index][static_cast<std::size_t>(i)]) continue;
        result.loss.back() += value_of(term, log_p);
        for (std::size_t j = 0; j < row.size(); ++j) slope[j] += slope_of(term, log_p, j);
      }
      for (std::size_t j = 0; j < row.size(); ++j) row[j] = static_cast<float>(slope[j]);
    }
  };
  backward(m, policy, trees, loss, space, result.gradient, options);
  return result;
}

/// |found - expected| / |expected|, Euclidean, and the largest difference relative to the largest
/// expected value.
struct relative_error {
  double norm = 0, largest = 0;
};

relative_error compare(std::span<const float> found, const std::vector<double>& expected) {
  EXPECT_EQ(found.size(), expected.size());
  double squares = 0, difference = 0, worst = 0, largest = 0;
  for (std::size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
    const double d = static_cast<double>(found[i]) - expected[i];
    squares += expected[i] * expected[i];
    difference += d * d;
    worst = std::max(worst, std::abs(d));
    largest = std::max(largest, std::abs(expected[i]));
  }
  EXPECT_GT(largest, 0.0);
  return {std::sqrt(difference / squares), worst / largest};
}

void expect_close(std::span<const float> found, const std::vector<double>& expected,
                  double tolerance) {
  const relative_error error = compare(found, expected);
  EXPECT_LE(error.norm, tolerance);
  EXPECT_LE(error.largest, tolerance);
  if (llama::test::environment_path("ZEROTUNE_TEST_VERBOSE") != "")
    std::printf("relative error %.2e, largest %.2e\n", error.norm, error.largest);
}

// --- PyTorch -------------------------------------------------------------------------------------

std::vector<double> flat(const llama::test::json& rows) {
  std::vector<double> values;
  for (const auto& row : rows.items)
    for (const auto& value : row.items) values.push_back(std::stod(value.text));
  return values;
}

/// -log p(last token | the others), or the entropy after all of them.
example last_token_loss(std::vector<int> tokens, bool entropy) {
  const int last = tokens.back();
  if (!entropy) tokens.pop_back();
  const int row = static_cast<int>(tokens.size()) - 1;
  return {std::move(tokens), {}, {{row, entropy ? -1 : last, 1.0}}};
}

// Single precision moves SmolLM2's gradients by 6e-6 in all (written in the file).
constexpr double reference_tolerance = 1e-4;
// Eight bits of mantissa in weights, activations and gradients; 0.035 was seen.
constexpr double bf16_tolerance = 0.15;

class Smollm2Gradients : public testing::TestWithParam<llama::gemm_kind> {};

TEST_P(Smollm2Gradients, AreThoseOfPyTorch) {
  if (llama::test::smollm_file().empty())
    GTEST_SKIP() << "no SmolLM2-135M-Instruct.Q4_1.gguf: set ZEROTUNE_MODEL_FILE";
  if (!llama::is_available(GetParam()))
    GTEST_SKIP() << "this build or CPU has not got " << name_of(GetParam());
  const double tolerance =
      GetParam() == llama::gemm_kind::onednn_bf16 ? bf16_tolerance : reference_tolerance;
  const llama::gguf_file file(llama::test::smollm_file());
  const llama::model m = llama::model::from_gguf(file, GetParam());
  const auto reference = llama::test::read_reference("smollm2_gradients.json");
  const int layers = m.config().num_layers, heads = m.config().num_heads;
  ASSERT_EQ(reference["entries"].items.size(), 5u);
  for (const auto& entry : reference["entries"].items) {
    SCOPED_TRACE(entry["sequence"].text + " " + entry["gamma"].text);
    const zerotune::gamma_table table =
        llama::test::table_of(reference["gamma_tables"][entry["gamma"].text], layers, heads);
    const outcome found = run(m, table_policy{&table},
                              {last_token_loss(entry["tokens"].integers(),
                                               entry["loss"].text == "entropy_last_position")});
    EXPECT_NEAR(found.loss[0], std::stod(entry["value"].text),
                GetParam() == llama::gemm_kind::onednn_bf16 ? 0.5 : 1e-4);
    expect_close(found.gradient, flat(entry["dlog_gamma"]), tolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Products, Smollm2Gradients,
                         testing::Values(llama::gemm_kind::eigen, llama::gemm_kind::onednn,
                                         llama::gemm_kind::onednn_bf16),
                         [](const auto& tested) {
                           std::string name(name_of(tested.param));
                           std::erase(name, '-');
                           return name;
                         });

// Scaled rotation, an output of its own, biases, tied output, groups of four to seven heads.
class FamilyGradients : public testing::TestWithParam<llama_test::model_family> {};

TEST_P(FamilyGradients, AreThoseOfPyTorch) {
  const std::vector<std::byte> bytes = llama_test::make_family_model(GetParam());
  const llama::gguf_file file = llama::gguf_file::from_memory(bytes);
  const llama::model m = llama::model::from_gguf(file);
  const auto all = llama::test::read_reference("family_logprobs.json");
  const auto& family = all["families"][std::string(name_of(GetParam()))];
  ASSERT_GE(family["gradients"].items.size(), 4u);
  for (const auto& entry : family["gradients"].items) {
    SCOPED_TRACE(entry["sequence"].text + " " + entry["case"].text);
    const zerotune::gamma_table table = llama::test::table_of(
        family["cases"][entry["case"].text], m.config().num_layers, m.config().num_heads);
    const outcome found =
        run(m, table_policy{&table},
            {last_token_loss(family["sequences"][entry["sequence"].text].integers(), false)});
    EXPECT_NEAR(found.loss[0], std::stod(entry["value"].text), 1e-3);
    expect_close(found.gradient, flat(entry["dlog_gamma"]), reference_tolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, FamilyGradients, testing::ValuesIn(llama_test::all_families),
                         [](const auto& tested) { return std::string(name_of(tested.param)); });

// --- central differences -------------------------------------------------------------------------

constexpr int small_layers = 3, small_heads = 6;

double naive_loss(const llama::test::naive_model& naive, const example& e,
                  const std::vector<double>& gamma) {
  double loss = 0;
  for (const loss_term& term : e.terms)
    loss += value_of(term, log_softmax(naive.logits(e.path(term.row), gamma)));
  return loss;
}

std::vector<double> central_differences(const example& e, const zerotune::gamma_table& table) {
  const llama::test::random_source source(1);
  const llama::model m = make_small_model();
  const llama::test::naive_model naive(m.config(), source);
  std::vector<double> gamma, result;
  for (const float value : table.values()) gamma.push_back(static_cast<double>(value));
  constexpr double step = 1e-4;  // the error is below 1e-7 in double
  for (double& value : gamma) {
    const double before = value;
    value = before * std::exp(step);
    const double above = naive_loss(naive, e, gamma);
    value = before * std::exp(-step);
    const double below = naive_loss(naive, e, gamma);
    value = before;
    result.push_back((above - below) / (2 * step));
  }
  return result;
}

/// A prompt of 9 tokens with answers of 1, 3 and 2 tokens; losses everywhere.
example branched_example() {
  const std::vector<int> trunk = random_tokens(9, 211, 21);
  return {trunk,
          {{5}, {100, 7, 8}, {42, 43}},
          {{3, 17, 0.5},
           {8, 5, 1.0},
           {8, -1, 0.3},
           {9, 60, -0.8},
           {10, 7, 0.7},
           {12, -1, 0.9},
           {13, 43, 1.1}}};
}

zerotune::gamma_table mixed_table() {
  zerotune::gamma_table table(small_layers, small_heads);
  for (int layer = 0; layer < small_layers; ++layer)
    for (int head = 0; head < small_heads; ++head)
      table(layer, head) = 0.25f + 0.4f * static_cast<float>((layer * 7 + head * 5) % 11);
  return table;
}

// Sums of some hundred products in single precision, 30 products deep.
constexpr double difference_tolerance = 1e-5;

class Differences : public testing::TestWithParam<float> {};

TEST_P(Differences, OfANaiveModelAtOneGamma) {
  const zerotune::gamma_table table(small_layers, small_heads, GetParam());
  const llama::model m = make_small_model();
  const example e = branched_example();
  const outcome found = run(m, table_policy{&table}, {e});
  expect_close(found.gradient, central_differences(e, table), difference_tolerance);
}
INSTANTIATE_TEST_SUITE_P(Backward, Differences, testing::Values(0.3f, 1.0f, 3.0f));

TEST(Backward, IsTheDifferencesOfANaiveModelAtATable) {
  const llama::model m = make_small_model();
  const zerotune::gamma_table table = mixed_table();
  const example e = branched_example();
  expect_close(run(m, table_policy{&table}, {e}).gradient, central_differences(e, table),
               difference_tolerance);
}

TEST(Backward, TheUntouchedModelHasTheGradientAtOne) {
  const llama::model m = make_small_model();
  const zerotune::gamma_table ones(small_layers, small_heads);
  const std::vector<example> examples{branched_example()};
  EXPECT_EQ(run(m, llama::untouched{}, examples), run(m, table_policy{&ones}, examples));
}

TEST(Backward, GammaZeroHasNoGradient) {
  const llama::model m = make_small_model();
  zerotune::gamma_table table(small_layers, small_heads);
  table(1, 4) = 0.0f;
  const outcome found = run(m, table_policy{&table}, {branched_example()});
  for (std::size_t i = 0; i < found.gradient.size(); ++i)
    EXPECT_EQ(found.gradient[i] == 0.0f, i == 1 * 6 + 4) << i;
}

TEST(Backward, TheInitialTokenAloneHasNoGradient) {
  const llama::model m = make_small_model();
  const outcome found = run(m, llama::untouched{}, {example{{1}, {}, {{0, 5, 1.0}}}});
  for (const float value : found.gradient) EXPECT_EQ(value, 0.0f);
}

TEST(Backward, OtherModifiersAreDifferentiatedToo) {
  // With a softcap, gamma doubled is the difference of two passes.
  const llama::model m = make_small_model();
  const zerotune::gamma_table table = mixed_table();
  const auto capped = [](const zerotune::gamma_table& gamma) {
    return [&gamma](const llama::attention_context& context) {
      return zerotune::compose(zerotune::softcap{0.7f},
                               zerotune::initial_token{gamma.row(context.layer)});
    };
  };
  const std::vector<example> examples{branched_example()};
  const outcome found = run(m, capped(table), examples);
  EXPECT_NE(found.gradient, run(m, table_policy{&table}, examples).gradient);
  constexpr float step = 0.02f;
  for (const auto& [layer, head] : {std::pair{0, 1}, {1, 5}, {2, 0}, {2, 4}}) {
    zerotune::gamma_table above = table, below = table;
    above(layer, head) *= std::exp(step);
    below(layer, head) *= std::exp(-step);
    const double difference =
        run(m, capped(above), examples).loss[0] - run(m, capped(below), examples).loss[0];
    // The losses are near 20 and right to 2e-6 of that.
    EXPECT_NEAR(
        static_cast<double>(found.gradient[static_cast<std::size_t>(layer * small_heads + head)]),
        difference / (2.0 * static_cast<double>(step)), 1e-3);
  }
}

// --- what must not change a gradient -------------------------------------------------------------

std::vector<example> several_examples() {
  std::vector<example> examples{branched_example()};
  for (const int length : {2, 33, 70, 1, 130})
    examples.push_back({random_tokens(length, 211, static_cast<std::uint64_t>(length)),
                        {},
                        {{length - 1, 7, 1.0}}});
  examples.push_back(
      {random_tokens(40, 211, 3), {{1, 2, 3, 4}, {9}}, {{20, 4, 1.0}, {43, 9, 1.0}}});
  examples.push_back({random_tokens(12, 211, 4), {{1, 2}}, {{13, 4, 1.0}}});
  return examples;
}

class BackwardProducts : public testing::TestWithParam<llama::gemm_kind> {
 protected:
  void SetUp() override {
    if (!llama::is_available(GetParam()))
      GTEST_SKIP() << "this build or CPU has not got " << name_of(GetParam());
  }
};
INSTANTIATE_TEST_SUITE_P(Backward, BackwardProducts,
                         testing::Values(llama::gemm_kind::eigen, llama::gemm_kind::onednn,
                                         llama::gemm_kind::onednn_bf16));

TEST_P(BackwardProducts, ABatchGivesWhatItsTreesGiveAlone) {
  const llama::model m = make_small_model(1, GetParam());
  const zerotune::gamma_table table = mixed_table();
  const std::vector<example> examples = several_examples();
  const outcome all = run(m, table_policy{&table}, examples);
  outcome alone;
  for (const example& each : examples) {
    const outcome one = run(m, table_policy{&table}, {each});
    alone.gradient.insert(alone.gradient.end(), one.gradient.begin(), one.gradient.end());
    alone.loss.push_back(one.loss[0]);
    alone.logits.push_back(one.logits[0]);
  }
  EXPECT_EQ(all, alone);
}

TEST_P(BackwardProducts, ThreadsChangeNothing) {
  const llama::model m = make_small_model(1, GetParam());
  const zerotune::gamma_table table = mixed_table();
  const outcome serial = run(m, table_policy{&table}, several_examples());
  for (const int count : {2, 5}) {
    zerotune::thread_pool pool(count);
    EXPECT_EQ(run(m, table_policy{&table}, several_examples(), {.threads = pool}), serial);
  }
}

TEST_P(BackwardProducts, RecomputedActivationsAreTheSame) {
  const llama::model m = make_small_model(1, GetParam());
  const zerotune::gamma_table table = mixed_table();
  EXPECT_EQ(run(m, table_policy{&table}, several_examples(), {.layers = activations::recomputed}),
            run(m, table_policy{&table}, several_examples()));
}

TEST(Backward, LogitsAreThoseOfForward) {
  const llama::model m = make_small_model();
  const zerotune::gamma_table table = mixed_table();
  const std::vector<int> tokens = random_tokens(50, 211, 5);
  const std::vector<int> at{0, 20, 49};
  const outcome found =
      run(m, table_policy{&table}, {{tokens, {}, {{0, 1, 1.0}, {20, 1, 1.0}, {49, 1, 1.0}}}});
  const llama::sequence sequence{tokens, nullptr, at};
  llama::workspace space;
  llama::matrix logits;
  llama::forward(m, table_policy{&table}, {&sequence, 1}, space, logits);
  EXPECT_TRUE(std::ranges::equal(found.logits[0], logits.values()));
}

TEST(Backward, BranchesAreSequencesThatShareTheirBeginning) {
  const llama::model m = make_small_model();
  const zerotune::gamma_table table = mixed_table();
  const example tree = branched_example();
  const outcome found = run(m, table_policy{&table}, {tree});
  std::vector<double> sum(found.gradient.size(), 0.0);
  for (const loss_term& term : tree.terms) {
    const std::vector<int> path = tree.path(term.row);
    const int last = static_cast<int>(path.size()) - 1;
    const outcome one =
        run(m, table_policy{&table}, {{path, {}, {{last, term.target, term.weight}}}});
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(one.gradient[i]);
  }
  expect_close(found.gradient, sum, 1e-5);
}

TEST(Backward, APolicySeesEachBranchAsItsSequence) {
  const llama::model m = make_small_model();
  const example tree = branched_example();
  int calls = 0;
  const auto policy = [&](const llama::attention_context& context) {
    ++calls;
    EXPECT_EQ(context.sequence, 0);
    EXPECT_EQ(context.num_layers, 3);
    const int end = static_cast<int>(context.tokens.size());
    EXPECT_TRUE(std::ranges::equal(context.tokens, tree.path(end == 9    ? 8
                                                             : end == 10 ? 9
                                                             : end == 12 ? 12
                                                                         : 14)));
    return zerotune::identity{};
  };
  run(m, policy, {tree});
  EXPECT_EQ(calls, 2 * 3 * 4);
}

TEST(Backward, AWorkspaceMayBeUsedAgain) {
  const llama::model m = make_small_model();
  const std::vector<example> examples = several_examples();
  const outcome expected = run(m, llama::untouched{}, {examples[0]});
  backward_workspace space;
  std::vector<float> gradient(18), larger(18 * 2);
  const std::vector<int> tokens = random_tokens(90, 211, 5), at{88};
  const auto nothing = [](std::size_t, const logit_rows& logits) {
    std::fill_n(logits.data, logits.count * logits.vocabulary_size, 1.0f);
  };
  const std::vector<token_tree> trees{{tokens, {}, at}, {tokens, {}, at}};
  backward(m, llama::untouched{}, trees, nothing, space, larger);
  EXPECT_EQ(run(m, llama::untouched{}, {examples[0]}, {}, std::move(space)), expected);
}

TEST(Backward, NoTreeIsNothing) {
  EXPECT_EQ(run(make_small_model(), llama::untouched{}, {}), outcome{});
}

TEST(Backward, StaysWithinItsMemory) {
  const llama::model m = make_small_model();
  const std::vector<int> tokens = random_tokens(100, 211, 5), at{99};
  const std::vector<token_tree> trees{{tokens, {}, at}, {tokens, {}, at}, {tokens, {}, at}};
  std::vector<float> gradient(18 * 3);
  for (const activations layers : {activations::kept, activations::recomputed}) {
    backward_workspace s;
    backward(m, llama::untouched{}, trees, [](std::size_t, const logit_rows&) {}, s, gradient,
             {.layers = layers});
    std::size_t numbers = 0;
    const auto add = [&](const llama::matrix& each) { numbers += each.values().size(); };
    for (const auto& layer : s.layers)
      for (const auto* each :
           {&layer.qkv, &layer.attended, &layer.lse, &layer.middle, &layer.gate_up})
        add(*each);
    for (const auto& each : s.residual) add(each);
    for (const auto* each :
         {&s.cosines, &s.sines, &s.normalized, &s.activated, &s.d_residual, &s.d_attended, &s.d_qkv,
          &s.d_activated, &s.d_gate_up, &s.d_normalized})
      add(*each);
    const std::size_t bound = llama::backward_bytes(m.config(), 300, layers);
    EXPECT_LE(numbers * sizeof(float), bound);
    EXPECT_GE(numbers * sizeof(float), bound / 2);
  }
  EXPECT_LT(llama::backward_bytes(m.config(), 300, activations::recomputed),
            llama::backward_bytes(m.config(), 300, activations::kept));
}

// --- mistakes ------------------------------------------------------------------------------------

void expect_refused(const std::string& message, const token_tree& tree, std::size_t size = 18) {
  const llama::model m = make_small_model();
  backward_workspace space;
  std::vector<float> gradient(size);
  try {
    backward(
        m, llama::untouched{}, std::span(&tree, 1), [](std::size_t, const logit_rows&) {}, space,
        gradient);
    FAIL() << "not refused: " << message;
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
  }
}

TEST(Backward, RefusesMistakes) {
  const std::vector<int> tokens{1, 2, 3}, bad{1, 211}, none, too_long(513, 1), at{2}, beyond{4},
      falling{2, 1};
  const std::vector<int> one{9}, rest(510, 1);
  const std::vector<std::span<const int>> empty_branch{one, none}, bad_branch{bad},
      long_branch{rest};
  expect_refused("trees[0] trunk: expected at least one", {none, {}, at});
  expect_refused("trunk[1]: expected a value in [0, 211), got 211", {bad, {}, at});
  expect_refused("context_length = 512, got 513", {too_long, {}, at});
  expect_refused("branches[1]: expected at least one", {tokens, empty_branch, at});
  expect_refused("branches[0][1]", {tokens, bad_branch, at});
  expect_refused("branches[0]: expected at most context_length = 512, got 513",
                 {tokens, long_branch, at});
  expect_refused("logits_at: expected at least one", {tokens, {}, none});
  expect_refused("logits_at[0]: expected a value in [0, 3), got 4", {tokens, {}, beyond});
  expect_refused("logits_at[1]: expected more than 2, got 1", {tokens, {}, falling});
  expect_refused("gradient size", {tokens, {}, at}, 17);
}

TEST(Backward, AThrowingLossLeavesTheWorkspaceUsable) {
  const llama::model m = make_small_model();
  const std::vector<int> tokens = random_tokens(20, 211, 5), at{19};
  const token_tree tree{tokens, {}, at};
  backward_workspace space;
  std::vector<float> gradient(18);
  EXPECT_THROW(
      backward(
          m, llama::untouched{}, std::span(&tree, 1),
          [](std::size_t, const logit_rows&) { throw std::runtime_error("no"); }, space, gradient),
      std::runtime_error);
  const std::vector<example> examples{branched_example()};
  EXPECT_EQ(run(m, llama::untouched{}, examples, {}, std::move(space)),
            run(m, llama::untouched{}, examples));
}

}  // namespace
