// SPDX-License-Identifier: Apache-2.0
// Templates: fields, braces, and special tokens that only the template may name.
#include "zerotune/prompt_template.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "scratch.hpp"
#include "support/errors.hpp"
#include "zerotune/failure.hpp"

namespace {

using namespace zerotune_cli;
using test::mentions;

std::string joined(const std::vector<prompt_part>& parts) {
  std::string text;
  for (const prompt_part& part : parts) text += part.text;
  return text;
}

std::string refusal(const std::string& text) {
  try {
    prompt_template parsed(text, "--template");
  } catch (const usage_error& error) {
    return error.what();
  }
  return "";
}

const data_row row{"id", "T {text} }", "C", {"a", "b c"}, 1, 1};

TEST(prompt_template, replaces_fields_in_one_pass) {
  EXPECT_EQ(joined(prompt_template("{context}|{text}|{choices}|{text}", "t").render(row)),
            "C|T {text} }|a, b c|T {text} }");
  EXPECT_EQ(joined(prompt_template("{{text}} {{{text}}} }}{{", "t").render(row)),
            "{text} {T {text} }} }{");
  data_row bare = row;
  bare.context.clear();
  EXPECT_EQ(joined(prompt_template("[{context}] {text}", "t").render(bare)), "[] T {text} }");
}

TEST(prompt_template, mistakes_are_named) {
  EXPECT_TRUE(mentions(refusal("no field"), {"--template", "{text}"}));
  EXPECT_TRUE(mentions(refusal("{text} {label}"), {"byte 7", "{label}"}));
  EXPECT_TRUE(mentions(refusal("{text} {"), {"byte 7"}));
  EXPECT_TRUE(mentions(refusal("{text} }"), {"byte 7"}));
  EXPECT_TRUE(mentions(refusal("{text} { text}"), {"{ text}"}));
  EXPECT_TRUE(mentions(refusal("{text} \xff"), {"UTF-8"}));
}

TEST(prompt_template, a_file_loses_one_final_newline) {
  const test::scratch_folder folder;
  const std::string path = folder.write("t.txt", "A {text}\n\n");
  EXPECT_EQ(prompt_template::from_option("@" + path).text(), "A {text}\n");
  EXPECT_EQ(prompt_template::from_option("A {text}\n").text(), "A {text}\n");
  EXPECT_THROW(prompt_template::from_option("@" + folder.file("none")), usage_error);
}

TEST(prompt_template, shots_are_the_template_with_its_answer_and_a_blank_line) {
  const prompt_template prompts("Q: {text} A:", "t");
  const std::vector<data_row> shots{{"1", "one", "", {"x", "y"}, 1, 1},
                                    {"2", "two", "", {"x", "y"}, 0, 2}};
  EXPECT_EQ(joined(prompts.render(row, shots)), "Q: one A: y\n\nQ: two A: x\n\nQ: T {text} } A:");
}

class encoding : public testing::Test {
 protected:
  const llama::tokenizer tokens_ =
      llama::tokenizer::from_gguf(llama::gguf_file(test::small_model()));
  const int special_ = tokens_.find("<|im_start|>");

  std::vector<int> encode(std::vector<prompt_part> parts) const {
    return encode_prompt(tokens_, parts);
  }
};

TEST_F(encoding, special_tokens_are_parsed_in_the_template_only) {
  ASSERT_GE(special_, 0);
  const auto trusted = encode({{"<|im_start|>ab", true}});
  EXPECT_EQ(std::count(trusted.begin(), trusted.end(), special_), 1);
  const auto untrusted = encode({{"x ", true}, {"<|im_start|>ab", false}});
  EXPECT_EQ(std::count(untrusted.begin(), untrusted.end(), special_), 0);
  const auto both =
      encode({{"<|im_start|>", true}, {"<|im_start|>", false}, {"<|im_start|>", true}});
  EXPECT_EQ(std::count(both.begin(), both.end(), special_), 2);
  // Nor may a field and the template spell one together.
  const auto split = encode({{"<|im_", true}, {"start|>", false}});
  EXPECT_EQ(std::count(split.begin(), split.end(), special_), 0);
}

TEST_F(encoding, seams_between_template_and_fields_leave_no_trace) {
  const auto whole = encode({{"<|im_start|>one two three", true}});
  EXPECT_EQ(encode({{"<|im_start|>one t", true}, {"wo th", false}, {"ree", true}}), whole);
  EXPECT_EQ(whole, tokens_.encode_template("<|im_start|>one two three"));
}

TEST_F(encoding, answers_begin_with_a_space) {
  EXPECT_EQ(encode_answer(tokens_, "good"), tokens_.encode(" good"));
}

}  // namespace
