// SPDX-License-Identifier: Apache-2.0
// Rows: what is read, and that everything else is refused with file and line.
#include "zerotune/rows.hpp"

#include <gtest/gtest.h>

#include <string>

#include "support/errors.hpp"
#include "zerotune/failure.hpp"

namespace {

using namespace zerotune_cli;
using test::mentions;

std::string refusal(const std::string& text) {
  try {
    parse_rows(text, "d.jsonl");
  } catch (const usage_error& error) {
    return error.what();
  }
  return "";
}

TEST(rows, are_read_with_and_without_optional_members) {
  const data_set data = parse_rows(
      "{\"id\": \"a\", \"text\": \"t\\u00e9\", \"choices\": [\"x\", \"y\"], \"label\": 1}\r\n"
      "\n"
      "{\"id\": 7, \"text\": \"\", \"context\": \"c\", \"choices\": [\"z\"], \"more\": [1]}",
      "d.jsonl");
  ASSERT_EQ(data.rows.size(), 2u);
  EXPECT_EQ(data.rows[0].text, "t\xC3\xA9");
  EXPECT_EQ(data.rows[0].label, 1);
  EXPECT_EQ(data.rows[1].id, "7");
  EXPECT_EQ(data.rows[1].context, "c");
  EXPECT_EQ(data.rows[1].label, zerotune::no_label);
  EXPECT_EQ(data.where(1), "d.jsonl:3");
}

TEST(rows, equal_choices_are_one_answer_and_the_first_stands_for_it) {
  const data_set data =
      parse_rows(R"({"id": "a", "text": "t", "choices": ["up", "down", "up", "same"], "label": 2})"
                 "\n"
                 R"({"id": "b", "text": "t", "choices": ["up", "down", "up", "same"], "label": 3})",
                 "d.jsonl");
  EXPECT_EQ(data.rows[0].choices.size(), 4u);
  EXPECT_EQ(data.rows[0].label, 0);
  EXPECT_EQ(data.rows[1].label, 3);
}

TEST(rows, mistakes_name_file_and_line) {
  const std::string good = R"({"id": "a", "text": "t", "choices": ["x", "y"], "label": 0})";
  const struct {
    const char* row;
    const char* what;
  } cases[] = {
      {"{", "expected JSON"},
      {"[1]", "JSON object"},
      {"null", "JSON object"},
      {"{\"id\": \"b\", \"text\": \"\xff\", \"choices\": [\"x\"]}", "expected JSON"},
      {R"({"text": "t", "choices": ["x"]})", "id"},
      {R"({"id": true, "text": "t", "choices": ["x"]})", "id"},
      {R"({"id": "b", "choices": ["x"]})", "text"},
      {R"({"id": "b", "text": 3, "choices": ["x"]})", "text"},
      {R"({"id": "b", "text": "t", "context": 4, "choices": ["x"]})", "context"},
      {R"({"id": "b", "text": "t"})", "choices"},
      {R"({"id": "b", "text": "t", "choices": []})", "choices"},
      {R"({"id": "b", "text": "t", "choices": "x"})", "choices"},
      {R"({"id": "b", "text": "t", "choices": ["x", 2]})", "choices[1]"},
      {R"({"id": "b", "text": "t", "choices": ["x", ""]})", "choices[1]"},
      {R"({"id": "b", "text": "t", "choices": ["x"], "label": 1})", "label"},
      {R"({"id": "b", "text": "t", "choices": ["x"], "label": -1})", "label"},
      {R"({"id": "b", "text": "t", "choices": ["x"], "label": 0.5})", "label"},
      {R"({"id": "b", "text": "t", "choices": ["x"], "label": "x"})", "label"},
      {R"({"id": "b", "text": "t", "choices": ["x"], "label": 18446744073709551616})", "label"},
      {R"({"id": "a", "text": "t", "choices": ["x"]})", "line 1"},
      {R"({"id": "b", "id": "c", "text": "t", "choices": ["x"]})", "twice"},
  };
  for (const auto& c : cases)
    EXPECT_TRUE(mentions(refusal(good + "\n" + c.row), {"d.jsonl:2", c.what}))
        << c.row << ": " << refusal(good + "\n" + c.row);
}

TEST(rows, sizes_are_limited) {
  EXPECT_TRUE(mentions(refusal(R"({"id": "a", "text": ")" + std::string(5 << 20, 'x') + "\"}"),
                       {"d.jsonl:1", "bytes"}));
  EXPECT_TRUE(mentions(refusal(std::string(100000, '[')), {"d.jsonl:1", "nested"}));
}

TEST(rows, a_command_that_needs_labels_names_the_row) {
  const data_set data = parse_rows(
      "{\"id\": \"a\", \"text\": \"t\", \"choices\": [\"x\"], \"label\": 0}\n"
      "{\"id\": \"b\", \"text\": \"t\", \"choices\": [\"x\"]}\n",
      "d.jsonl");
  try {
    data.require_labels("heads");
    FAIL();
  } catch (const usage_error& error) {
    EXPECT_TRUE(mentions(error.what(), {"d.jsonl:2", "\"b\"", "heads", "label"}));
  }
  EXPECT_THROW(data.is_unlabelled(), usage_error);
}

TEST(rows, files_that_cannot_be_read_are_named) {
  for (const char* path : {"/no/such/file.jsonl", "/tmp"}) {
    try {
      read_rows(path);
      FAIL();
    } catch (const usage_error& error) {
      EXPECT_TRUE(mentions(error.what(), {path}));
    }
  }
}

}  // namespace
