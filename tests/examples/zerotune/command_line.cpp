// SPDX-License-Identifier: Apache-2.0
// The program from end to end: what it prints, what it writes, and its exit status. The program's
// path is in the environment variable ZEROTUNE_PROGRAM.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <sstream>
#include <string>

#include "llama/gemm.hpp"
#include "scratch.hpp"
#include "support/errors.hpp"
#include "zerotune/core/instruction_set.hpp"
#include "zerotune/tuning/json.hpp"

namespace {

using test::mentions;

struct outcome {
  int status = -1;
  std::string out, err;
};

class command_line : public testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("ZEROTUNE_PROGRAM");
    if (!path) GTEST_SKIP() << "ZEROTUNE_PROGRAM is not set";
    program_ = path;
    data_ = folder_.write("rows.jsonl", test::sample_rows(30));
    model_ = test::small_model();
  }

  static std::string quoted(const std::string& text) {
    std::string result = "'";
    for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return result + "'";
  }
  outcome run(const std::vector<std::string>& arguments, const std::string& input = "") const {
    std::string line = quoted(program_);
    for (const std::string& argument : arguments) line.append(" ").append(quoted(argument));
    folder_.write("in", input);
    line += " <" + quoted(folder_.file("in")) + " >" + quoted(folder_.file("out")) + " 2>" +
            quoted(folder_.file("err"));
    const int status = std::system(line.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, folder_.read("out"), folder_.read("err")};
  }
  // A command with the model, the data and a template.
  outcome run_on_data(std::vector<std::string> arguments) const {
    for (const std::string& argument :
         {std::string("--model"), model_, std::string("--data"), data_, std::string("--template"),
          std::string("<|im_start|>{text}:")})
      arguments.push_back(argument);
    return run(arguments);
  }
  outcome tune(const std::string& output, std::vector<std::string> more = {},
               const std::string& grid = "0.5,2") const {
    std::vector<std::string> arguments{"tune",
                                       "--output",
                                       folder_.file(output),
                                       "--profile-rows",
                                       "6",
                                       "--search-rows",
                                       "8",
                                       "--test-rows",
                                       "10",
                                       "--grid",
                                       grid};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_on_data(arguments);
  }

  test::scratch_folder folder_;
  std::string program_, data_, model_;
};

TEST_F(command_line, help_is_everywhere) {
  EXPECT_EQ(run({"--help"}).status, 0);
  for (const char* command :
       {"tokenize", "inspect", "generate", "evaluate", "heads", "tune", "analyze"}) {
    const outcome help = run({command, "--help"});
    EXPECT_EQ(help.status, 0) << command;
    EXPECT_TRUE(mentions(help.out, {"--model"})) << command;
  }
  const outcome report = run({"report", "--help"});
  EXPECT_EQ(report.status, 0);
  EXPECT_TRUE(mentions(report.out, {"profile", "--output", "--analysis", "--untouched"}));
  EXPECT_TRUE(mentions(run({"heads", "--help"}).out, {"--method", "probe", "gradient"}));
}

TEST_F(command_line, tokenize_prints_an_array_a_line) {
  const outcome result = run({"tokenize", "--model", model_}, "\"ab\"\n\"<|im_start|>\"\n\"\"\n");
  EXPECT_EQ(result.status, 0) << result.err;
  std::istringstream lines(result.out);
  std::string line;
  std::vector<nlohmann::json> ids;
  while (std::getline(lines, line)) ids.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(ids.size(), 3u);
  EXPECT_GE(ids[0].size(), 1u);
  EXPECT_GT(ids[1].size(), 1u);  // not parsed as a special token
  EXPECT_TRUE(ids[2].empty());
  const outcome wrong = run({"tokenize", "--model", model_}, "\"a\"\n[1]\n");
  EXPECT_EQ(wrong.status, 2);
  EXPECT_TRUE(mentions(wrong.err, {"standard input:2"}));
}

TEST_F(command_line, inspect_says_what_the_model_is) {
  const outcome result = run({"inspect", "--model", model_, "--json"});
  ASSERT_EQ(result.status, 0) << result.err;
  const nlohmann::json json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json.at("architecture"), "qwen2");
  EXPECT_EQ(json.at("heads"), 14);
  EXPECT_EQ(json.at("sink_mass").size(), json.at("layers").get<std::size_t>());
  EXPECT_EQ(json.at("sink_mass").at(0).size(), 14u);
  EXPECT_EQ(run({"inspect", "--model", model_}).status, 0);
  const char* const forced = std::getenv(zerotune::instruction_set_variable);
  EXPECT_EQ(json.at("instructions"), zerotune::name_of(zerotune::allowed_instruction_set()));
  EXPECT_EQ(json.at("cpu_instructions"), zerotune::name_of(zerotune::best_instruction_set()));
  if (forced) return;
  // The same program with less: the answer is the same within rounding, and it says so.
  for (const zerotune::instruction_set set : zerotune::instruction_sets) {
    if (!zerotune::is_supported(set)) break;
    setenv(zerotune::instruction_set_variable, zerotune::name_of(set), 1);
    const outcome other = run({"inspect", "--model", model_, "--json"});
    ASSERT_EQ(other.status, 0) << other.err;
    const nlohmann::json lower = nlohmann::json::parse(other.out);
    EXPECT_EQ(lower.at("instructions"), zerotune::name_of(set));
    for (std::size_t layer = 0; layer < json.at("sink_mass").size(); ++layer)
      for (std::size_t head = 0; head < 14; ++head)
        EXPECT_NEAR(lower.at("sink_mass")[layer][head].get<double>(),
                    json.at("sink_mass")[layer][head].get<double>(), 1e-3);
  }
  setenv(zerotune::instruction_set_variable, "sse9", 1);
  const outcome unknown = run({"inspect", "--model", model_});
  EXPECT_EQ(unknown.status, 2);
  EXPECT_TRUE(mentions(unknown.err, {zerotune::instruction_set_variable, "sse9", "baseline"}));
  unsetenv(zerotune::instruction_set_variable);
}

TEST_F(command_line, compute_bf16_runs_or_says_why_not) {
  const std::vector<std::string> wanted{"evaluate",   "--model", model_,   "--data",    data_,
                                        "--template", "{text}",  "--json", "--compute", "bf16"};
  if (!llama::is_available(llama::gemm_kind::onednn_bf16)) {
    const outcome refused = run(wanted);
    EXPECT_EQ(refused.status, 2);
    EXPECT_TRUE(mentions(refused.err, {"--compute bf16"}));
    return;
  }
  const outcome bf16 = run(wanted);
  ASSERT_EQ(bf16.status, 0) << bf16.err;
  EXPECT_EQ(nlohmann::json::parse(bf16.out).at("compute"), "bf16");
  if (std::getenv(zerotune::instruction_set_variable)) return;
  setenv(zerotune::instruction_set_variable, "baseline", 1);
  const outcome refused = run(wanted);
  unsetenv(zerotune::instruction_set_variable);
  EXPECT_EQ(refused.status, 2);
  EXPECT_TRUE(mentions(refused.err, {"--compute bf16", zerotune::instruction_set_variable}));
}

TEST_F(command_line, generate_is_repeatable_and_gamma_one_changes_nothing) {
  const std::vector<std::string> base{"generate", "--model",      model_, "--prompt",
                                      "ab cd",    "--max-tokens", "8",    "--json"};
  const outcome plain = run(base);
  ASSERT_EQ(plain.status, 0) << plain.err;
  EXPECT_TRUE(nlohmann::json::parse(plain.out).contains("text"));
  auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), base.begin(), base.end());
    return run(more);
  };
  EXPECT_EQ(with({"--gamma", "1"}).out, plain.out);
  EXPECT_EQ(with({"--threads", "3"}).out, plain.out);
  const auto drawn = with({"--temperature", "1.5", "--seed", "3"});
  EXPECT_EQ(drawn.status, 0) << drawn.err;
  EXPECT_EQ(with({"--temperature", "1.5", "--seed", "3"}).out, drawn.out);
}

TEST_F(command_line, chat_answers_every_turn) {
  const outcome chat = run({"generate", "--model", model_, "--chat", "--max-tokens", "3", "--json"},
                           "hello\nand again\n");
  ASSERT_EQ(chat.status, 0) << chat.err;
  EXPECT_EQ(std::count(chat.out.begin(), chat.out.end(), '\n'), 2);
}

TEST_F(command_line, evaluate_prints_scores_and_writes_predictions) {
  const outcome result =
      run_on_data({"evaluate", "--json", "--predictions", folder_.file("p.jsonl")});
  ASSERT_EQ(result.status, 0) << result.err;
  const nlohmann::json json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json.at("rows"), 30);
  for (const char* member : {"likelihood", "generated", "invalid", "entropy"})
    EXPECT_TRUE(json.contains(member)) << member;
  std::istringstream lines(folder_.read("p.jsonl"));
  std::string line;
  int rows = 0, right = 0;
  for (; std::getline(lines, line); ++rows) {
    const nlohmann::json row = nlohmann::json::parse(line);
    EXPECT_EQ(row.at("id"), "row-" + std::to_string(rows));
    EXPECT_EQ(row.at("loglik").size(), 2u);
    EXPECT_EQ(row.at("valid").get<bool>(), !row.at("generated").is_null());
    right += row.at("predicted") == row.at("label");
  }
  EXPECT_EQ(rows, 30);
  EXPECT_NEAR(json.at("likelihood").get<double>(), right / 30.0, 1e-12);
  EXPECT_EQ(run_on_data({"evaluate", "--shots", "2", "--gamma", "2"}).status, 0);
}

TEST_F(command_line, heads_measures_every_unit) {
  const outcome result = run_on_data({"heads", "--json", "--profile-rows", "4"});
  ASSERT_EQ(result.status, 0) << result.err;
  const nlohmann::json json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json.at("method"), "gradient");
  EXPECT_EQ(json.at("granularity"), "head");
  EXPECT_EQ(json.at("backward_rows"), 4);
  ASSERT_EQ(json.at("units").size(), 28u);
  for (const nlohmann::json& unit : json.at("units")) {
    EXPECT_GT(unit.at("standard_error").get<double>(), 0);
    EXPECT_EQ(unit.at("direction"), unit.at("effect").get<double>() > 0 ? 1 : -1);
  }
  const outcome probe =
      run_on_data({"heads", "--method", "probe", "--json", "--profile-rows", "4"});
  ASSERT_EQ(probe.status, 0) << probe.err;
  EXPECT_EQ(nlohmann::json::parse(probe.out).at("units").size(), 14u);
  const outcome text = run_on_data({"heads", "--granularity", "layer", "--profile-rows", "4"});
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_TRUE(mentions(text.out, {"layer 1", "std. error", "forward and backward"}));
  const outcome loss = run_on_data({"heads", "--loss", "wrong"});
  EXPECT_EQ(loss.status, 2);
  EXPECT_TRUE(mentions(loss.err, {"--loss", "wrong"}));
}

TEST_F(command_line, heads_compares_its_methods) {
  const std::vector<std::string> command{"heads", "--compare",      "--granularity",
                                         "layer", "--profile-rows", "4"};
  const outcome text = run_on_data(command);
  ASSERT_EQ(text.status, 0) << text.err;
  EXPECT_TRUE(mentions(text.out, {"rank correlation", "same sign", "accuracy", "likelihood"}));
  std::vector<std::string> as_json = command;
  as_json.push_back("--json");
  const outcome result = run_on_data(as_json);
  ASSERT_EQ(result.status, 0) << result.err;
  const nlohmann::json json = nlohmann::json::parse(result.out);
  EXPECT_EQ(json.at("probe").at("units").size(), json.at("units").size());
  EXPECT_LE(std::abs(json.at("agreement").at("likelihood").at("rank_correlation").get<double>()),
            1.0);
}

// Draws depend on seed and row alone. With the single likeliest token they are the greedy answers,
// which come from another piece of code.
TEST_F(command_line, evaluate_draws_answers_repeatably) {
  const auto predictions = [&](const std::string& name, std::vector<std::string> more) {
    more.insert(more.begin(), {"evaluate", "--limit", "8", "--predictions", folder_.file(name)});
    const outcome result = run_on_data(more);
    EXPECT_EQ(result.status, 0) << result.err;
    return folder_.read(name);
  };
  const std::string greedy = predictions("g", {});
  EXPECT_EQ(predictions("k", {"--temperature", "1", "--top-k", "1"}), greedy);
  const std::vector<std::string> hot{"--temperature", "2", "--seed", "5"};
  const std::string drawn = predictions("h", hot);
  EXPECT_NE(drawn, greedy);
  std::vector<std::string> threads = hot;
  threads.insert(threads.end(), {"--threads", "3"});
  EXPECT_EQ(predictions("t", threads), drawn);
  EXPECT_NE(predictions("s", {"--temperature", "2", "--seed", "6"}), drawn);
  // A row's draws do not depend on how many rows there are.
  std::vector<std::string> few{"evaluate", "--limit", "3", "--predictions", folder_.file("f")};
  few.insert(few.end(), hot.begin(), hot.end());
  EXPECT_EQ(run_on_data(few).status, 0);
  EXPECT_EQ(drawn.substr(0, folder_.read("f").size()), folder_.read("f"));
  EXPECT_NE(run_on_data({"evaluate", "--temperature", "1", "--top-p", "0"}).status, 0);
}

TEST_F(command_line, tune_writes_a_profile_that_evaluate_and_generate_take) {
  const outcome result = tune("p.json", {"--method", "paper", "--controls", "1"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_TRUE(mentions(result.out, {"untouched", "tuned", "McNemar", "Placebo", "bitwise equal"}));
  const zerotune::tuning_profile profile = zerotune::read_profile(folder_.read("p.json"));
  EXPECT_EQ(profile.model.architecture, "qwen2");
  EXPECT_EQ(profile.model.file_hash.size(), 64u);
  EXPECT_EQ(profile.gamma.heads(), 14);
  ASSERT_TRUE(profile.splits && profile.test && profile.cost && profile.placebo_equal);
  EXPECT_EQ(profile.splits->profile.size(), 6u);
  EXPECT_EQ(profile.splits->test.size(), 10u);
  EXPECT_EQ(profile.test->tuned.rows, 10);
  EXPECT_EQ(profile.cost->forward_rows, 15 * 6 + 3 * 8);
  EXPECT_TRUE(*profile.placebo_equal);
  EXPECT_EQ(profile.controls.size(), 1u);
  EXPECT_EQ(run_on_data({"evaluate", "--profile", folder_.file("p.json")}).status, 0);
  EXPECT_EQ(run({"generate", "--model", model_, "--prompt", "a", "--max-tokens", "2", "--profile",
                 folder_.file("p.json")})
                .status,
            0);
}

// The examples stand in every prompt, so none of them may be a row that is learned from or tested.
TEST_F(command_line, tune_takes_shots_out_of_the_splits) {
  ASSERT_EQ(tune("none.json", {"--method", "uniform"}).status, 0);
  const outcome result = tune(
      "two.json", {"--method", "uniform", "--shots", "2", "--journal", folder_.file("journal")});
  ASSERT_EQ(result.status, 0) << result.err;
  const zerotune::tuning_profile none = zerotune::read_profile(folder_.read("none.json"));
  const zerotune::tuning_profile two = zerotune::read_profile(folder_.read("two.json"));
  const auto shots_of = [](const zerotune::tuning_profile& profile) {
    for (const zerotune::profile_setting& setting : profile.settings)
      if (setting.name == "shots") return setting.value;
    return std::string("no such setting");
  };
  EXPECT_EQ(shots_of(none), "");
  const std::string shots = shots_of(two);
  ASSERT_EQ(std::count(shots.begin(), shots.end(), ','), 1) << shots;
  for (const auto* split : {&two.splits->profile, &two.splits->search, &two.splits->test})
    for (const std::string& id : *split)
      EXPECT_EQ(("," + shots + ",").find("," + id + ","), std::string::npos) << id;
  // A journal of other prompts is refused, and so are more examples than rows.
  const outcome other =
      tune("o.json", {"--method", "uniform", "--journal", folder_.file("journal")});
  EXPECT_EQ(other.status, 2);
  EXPECT_TRUE(mentions(other.err, {"journal"}));
  EXPECT_TRUE(mentions(tune("o.json", {"--shots", "30"}).err, {"--shots", "30"}));
}

TEST_F(command_line, tune_is_the_same_for_any_number_of_threads) {
  ASSERT_EQ(tune("one.json", {"--threads", "1", "--steps", "3"}).status, 0);
  ASSERT_EQ(tune("three.json", {"--threads", "3", "--steps", "3"}).status, 0);
  auto one = nlohmann::json::parse(folder_.read("one.json"));
  auto three = nlohmann::json::parse(folder_.read("three.json"));
  one["cost"].erase("seconds");
  three["cost"].erase("seconds");
  EXPECT_EQ(one, three);
}

TEST_F(command_line, tune_resumes_from_its_journal) {
  const std::vector<std::string> options{"--method", "uniform", "--journal", folder_.file("j")};
  ASSERT_EQ(tune("one.json", options).status, 0);
  const std::string journal = folder_.read("j");
  folder_.write("j", journal.substr(0, journal.size() / 2));
  ASSERT_EQ(tune("two.json", options).status, 0);
  auto one = nlohmann::json::parse(folder_.read("one.json"));
  auto two = nlohmann::json::parse(folder_.read("two.json"));
  one["cost"].erase("seconds");
  two["cost"].erase("seconds");
  EXPECT_EQ(one, two);
  folder_.write("j", "damaged\n");
  const outcome damaged = tune("three.json", options);
  EXPECT_EQ(damaged.status, 2);
  EXPECT_TRUE(mentions(damaged.err, {"j:1", "check"}));
  folder_.write("j", journal);
  folder_.write("rows.jsonl", test::sample_rows(31));
  const outcome other = tune("four.json", options);
  EXPECT_EQ(other.status, 2);
  EXPECT_TRUE(mentions(other.err, {"another", "remove it"}));
}

TEST_F(command_line, tune_with_gamma_one_alone_changes_nothing) {
  const outcome result = tune("p.json", {"--method", "uniform", "--json"}, "1");
  ASSERT_EQ(result.status, 0) << result.err;
  const zerotune::tuning_profile profile = zerotune::read_profile(result.out);
  EXPECT_TRUE(profile.gamma.is_identity());
  EXPECT_EQ(profile.method, "uniform");
  EXPECT_EQ(profile.test->untouched.likelihood, profile.test->tuned.likelihood);
  EXPECT_EQ(profile.test->mcnemar_generated, 1.0);
}

TEST_F(command_line, tune_without_labels_needs_an_objective_without_labels) {
  std::string rows = test::sample_rows(24);
  for (std::size_t at; (at = rows.find(", \"label\": ")) != std::string::npos;) rows.erase(at, 12);
  folder_.write("rows.jsonl", rows);
  const outcome refused = tune("p.json");
  EXPECT_EQ(refused.status, 2);
  EXPECT_TRUE(mentions(refused.err, {"rows.jsonl:1", "label"}));
  const outcome result = tune("p.json", {"--objective", "entropy", "--steps", "3", "--json"});
  ASSERT_EQ(result.status, 0) << result.err;
  EXPECT_FALSE(zerotune::read_profile(result.out).test.has_value());
}

TEST_F(command_line, analyze_writes_what_it_prints_as_json) {
  const std::vector<std::string> base{
      "analyze",        "--rows", "5",        "--attention-rows",    "2", "--gammas", "0.5,1",
      "--probe-gammas", "2",      "--output", folder_.file("a.json")};
  auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), base.begin(), base.end());
    return run_on_data(more);
  };
  const outcome text = with({});
  ASSERT_EQ(text.status, 0) << text.err;
  EXPECT_TRUE(mentions(text.out, {"deep", "initial", "sink mass", "key form", "Cost"}));
  auto first = nlohmann::json::parse(folder_.read("a.json"));
  const outcome printed = with({"--json", "--threads", "3"});
  ASSERT_EQ(printed.status, 0) << printed.err;
  EXPECT_EQ(printed.out, folder_.read("a.json"));
  auto second = nlohmann::json::parse(printed.out);
  first["cost"].erase("seconds");
  second["cost"].erase("seconds");
  EXPECT_EQ(first, second);  // whatever the threads
  EXPECT_EQ(first.at("sweep").size(), 2u);
  for (const char* wrong : {"-1", "nan", "1,1", "x"})
    EXPECT_EQ(run_on_data({"analyze", "--gammas", wrong}).status, 2) << wrong;
}

TEST_F(command_line, report_draws_what_the_other_commands_write) {
  ASSERT_EQ(tune("p.json").status, 0);
  ASSERT_EQ(run_on_data({"analyze", "--rows", "4", "--attention-rows", "1", "--gammas", "2",
                         "--probe-gammas", "2", "--output", folder_.file("a.json")})
                .status,
            0);
  ASSERT_EQ(run_on_data({"evaluate", "--predictions", folder_.file("u.jsonl")}).status, 0);
  ASSERT_EQ(run_on_data({"evaluate", "--profile", folder_.file("p.json"), "--predictions",
                         folder_.file("t.jsonl")})
                .status,
            0);
  const outcome result =
      run({"report", folder_.file("p.json"), "--output", folder_.file("r.html"), "--analysis",
           folder_.file("a.json"), "--untouched", folder_.file("u.jsonl"), "--tuned",
           folder_.file("t.jsonl"), "--data", data_});
  ASSERT_EQ(result.status, 0) << result.err;
  const std::string html = folder_.read("r.html");
  EXPECT_TRUE(mentions(html, {"<!DOCTYPE html>", "Sink mass", "10 rows. Rows of the test split",
                              "very bad", "Chosen gamma"}));
  EXPECT_EQ(html.find("://"), std::string::npos);
}

TEST_F(command_line, report_refuses_what_is_malformed) {
  folder_.write("broken.json", R"({"schema": "zerotune-profile", "version": 1, "gamma": [[1, 2])");
  folder_.write("good.json", R"({"schema": "zerotune-profile", "version": 1, "gamma": [[1, 2]]})");
  const std::string good = folder_.file("good.json"), page = folder_.file("r.html");
  const std::vector<std::vector<std::string>> cases{
      {"report", folder_.file("broken.json"), "--output", page},
      {"report", folder_.file("none.json"), "--output", page},
      {"report", good, "--output", page, "--analysis", folder_.file("broken.json")},
      {"report", good, "--output", page, "--untouched", data_},
      {"report", good},
      {"report", "--output", page}};
  for (const auto& arguments : cases) {
    const outcome result = run(arguments);
    EXPECT_EQ(result.status, 2) << result.err;
    EXPECT_NE(result.err, "");
    EXPECT_EQ(folder_.read("r.html"), "");
  }
  EXPECT_EQ(run({"report", good, "--output", folder_.file("no/such/folder")}).status, 1);
  EXPECT_EQ(run({"report", good, "--output", page}).status, 0);
}

TEST_F(command_line, a_profile_of_another_model_is_refused) {
  folder_.write("shape.json", R"({"schema": "zerotune-profile", "version": 1, "gamma": [[1, 2]]})");
  folder_.write("broken.json", R"({"schema": "zerotune-profile", "version": 1, "gamma": [[1, 2])");
  folder_.write("negative.json",
                R"({"schema": "zerotune-profile", "version": 1, "gamma": [[-1]]})");
  for (const char* name : {"shape.json", "broken.json", "negative.json", "none.json"}) {
    const outcome result = run_on_data({"evaluate", "--profile", folder_.file(name)});
    EXPECT_EQ(result.status, 2) << name;
    EXPECT_TRUE(mentions(result.err, {name})) << result.err;
    EXPECT_EQ(result.out, "") << name;
  }
}

TEST_F(command_line, mistakes_of_the_caller_end_with_two) {
  const std::vector<std::vector<std::string>> cases{
      {},
      {"no-such-command"},
      {"evaluate"},
      {"evaluate", "--unknown"},
      {"inspect", "--model", folder_.file("none.gguf")},
      {"inspect", "--model", data_},
      {"generate", "--model", model_},
      {"generate", "--model", model_, "--prompt", "a", "--gamma", "-1"},
      {"generate", "--model", model_, "--prompt", "a", "--gamma", "nan"},
      {"generate", "--model", model_, "--prompt", "a", "--gamma", "2x"},
      {"generate", "--model", model_, "--prompt", "a", "--top-p", "0"},
      {"evaluate", "--model", model_, "--data", folder_.file("none"), "--template", "{text}"},
      {"evaluate", "--model", model_, "--data", data_, "--template", "no field"},
      {"evaluate", "--model", model_, "--data", data_, "--template", "{text}", "--threads", "0"},
      {"tune", "--model", model_, "--data", data_, "--template", "{text}", "--output",
       folder_.file("o"), "--test-rows", "1000"},
  };
  for (const auto& arguments : cases) {
    const outcome result = run(arguments);
    EXPECT_EQ(result.status, 2) << (arguments.empty() ? "nothing" : arguments.back());
    EXPECT_NE(result.err, "") << (arguments.empty() ? "nothing" : arguments.back());
  }
}

TEST_F(command_line, a_file_that_cannot_be_written_ends_with_one) {
  const outcome result =
      run_on_data({"evaluate", "--limit", "2", "--predictions", folder_.file("no/such/folder")});
  EXPECT_EQ(result.status, 1);
  EXPECT_TRUE(mentions(result.err, {"no/such/folder"}));
}

}  // namespace
