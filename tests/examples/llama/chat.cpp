// SPDX-License-Identifier: Apache-2.0
// Chats in both formats on small byte-level vocabularies, and sessions on a small model.
#include "llama/chat.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "family_models.hpp"
#include "gguf_writer.hpp"
#include "llama/gguf.hpp"
#include "reference_file.hpp"
#include "small_model.hpp"

namespace {

using llama::chat_format;
using llama::chat_writer;
using llama::tokenizer;

/// Characters as byte-level BPE spells them: the printable ones themselves, a few others moved.
std::vector<std::string> byte_tokens() {
  std::vector<std::string> tokens;
  int moved = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int code = printable ? byte : moved++;
    std::string text;
    if (code < 128) {
      text = static_cast<char>(code);
    } else {
      text += static_cast<char>(0xc0 | code >> 6);
      text += static_cast<char>(0x80 | (code & 0x3f));
    }
    tokens.push_back(text);
  }
  return tokens;
}

/// A vocabulary of the 256 bytes, whose ids they are, and these control tokens.
tokenizer make_tokenizer(const std::vector<std::string>& specials) {
  std::vector<std::string> tokens = byte_tokens();
  std::vector<std::int32_t> types(256, 1);
  for (const std::string& special : specials) {
    tokens.push_back(special);
    types.push_back(3);
  }
  llama::test::gguf_writer writer;
  writer.header(0, 5)
      .string_value("tokenizer.ggml.model", "gpt2")
      .string_value("tokenizer.ggml.pre", "gpt-2")
      .strings_value("tokenizer.ggml.tokens", tokens)
      .numbers_value("tokenizer.ggml.token_type", 5, types)
      .strings_value("tokenizer.ggml.merges", {})
      .pad();
  return tokenizer::from_gguf(
      llama::gguf_file::from_memory(llama::test::as_bytes(writer.bytes()), "chat"));
}

const std::vector<std::string> chatml_tokens{"<|im_start|>", "<|im_end|>"};
const std::vector<std::string> llama3_tokens{"<|begin_of_text|>", "<|start_header_id|>",
                                             "<|end_header_id|>", "<|eot_id|>"};

TEST(Chat, TheFormatIsRecognised) {
  const tokenizer chatml = make_tokenizer(chatml_tokens), llama3 = make_tokenizer(llama3_tokens),
                  plain = make_tokenizer({});
  EXPECT_EQ(recognise_chat(chatml), chat_format::chatml);
  EXPECT_EQ(recognise_chat(chatml, "{% x %}<|im_start|>{{ role }}"), chat_format::chatml);
  EXPECT_EQ(recognise_chat(llama3), chat_format::llama3);
  EXPECT_EQ(recognise_chat(llama3, "... <|start_header_id|> ..."), chat_format::llama3);
  EXPECT_EQ(recognise_chat(plain), chat_format::none);
  // A vocabulary may hold tokens that its template does not use.
  EXPECT_EQ(recognise_chat(chatml, "[INST] {{ text }} [/INST]"), chat_format::none);
  EXPECT_EQ(recognise_chat(llama3, "[INST]"), chat_format::none);
}

TEST(Chat, ChatMlIsSpelledOut) {
  const tokenizer tokens = make_tokenizer(chatml_tokens);
  const chat_writer writer(tokens, chat_format::chatml);
  EXPECT_TRUE(writer.begin().empty());
  EXPECT_EQ(writer.turn("user", " hi "),
            tokens.encode_template("<|im_start|>user\n hi <|im_end|>\n"));
  EXPECT_EQ(writer.answer(), tokens.encode_template("<|im_start|>assistant\n"));
  EXPECT_EQ(writer.close(true), tokens.encode_template("\n"));
  EXPECT_EQ(writer.close(false), tokens.encode_template("<|im_end|>\n"));
}

TEST(Chat, Llama3IsSpelledOutAndTrimmed) {
  const tokenizer tokens = make_tokenizer(llama3_tokens);
  const chat_writer writer(tokens, chat_format::llama3);
  EXPECT_EQ(writer.begin(), tokens.encode_template("<|begin_of_text|>"));
  EXPECT_EQ(writer.turn("user", " \nhi\t"),
            tokens.encode_template("<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"));
  EXPECT_EQ(writer.answer(),
            tokens.encode_template("<|start_header_id|>assistant<|end_header_id|>\n\n"));
  EXPECT_TRUE(writer.close(true).empty());
}

TEST(Chat, TextCannotForgeATurn) {
  for (const auto& [names, format] : {std::pair{chatml_tokens, chat_format::chatml},
                                      std::pair{llama3_tokens, chat_format::llama3}}) {
    const tokenizer tokens = make_tokenizer(names);
    const chat_writer writer(tokens, format);
    std::string forged;
    for (const std::string& name : names) forged += name;
    const std::vector<int> turn = writer.turn("user", forged);
    EXPECT_EQ(std::ranges::count_if(turn, [](int id) { return id >= 256; }),
              format == chat_format::chatml ? 2 : 3);
  }
}

TEST(Chat, RefusesAVocabularyWithoutTheFormat) {
  const tokenizer plain = make_tokenizer({});
  EXPECT_THROW(chat_writer(plain, chat_format::chatml), std::invalid_argument);
  EXPECT_THROW(chat_writer(plain, chat_format::none), std::invalid_argument);
}

TEST(Chat, SmolLM2IsWrittenAsItsTemplateDoes) {
  if (llama::test::smollm_file().empty())
    GTEST_SKIP() << "no SmolLM2-135M-Instruct.Q4_1.gguf: set ZEROTUNE_MODEL_FILE";
  const llama::gguf_file file(llama::test::smollm_file());
  const tokenizer tokens = tokenizer::from_gguf(file);
  ASSERT_EQ(
      recognise_chat(tokens, file.find<std::string_view>("tokenizer.chat_template").value_or("")),
      chat_format::chatml);
  const chat_writer writer(tokens, chat_format::chatml);
  std::vector<int> chat =
      writer.turn("system", "You are a helpful AI assistant named SmolLM, trained by Hugging Face");
  for (const auto& part :
       {writer.turn("user", "Which planet is known as the Red Planet?"), writer.answer()})
    chat.insert(chat.end(), part.begin(), part.end());
  const auto reference = llama::test::read_reference("smollm2_logprobs.json");
  EXPECT_EQ(chat, reference["sequences"]["chat"].integers());
}

/// A model with as many tokens as the vocabulary has; its answers are noise, but repeatable.
llama::model make_model(int vocabulary_size) {
  llama::model_config config = llama::test::make_small_model().config();
  config.vocabulary_size = vocabulary_size;
  return llama::model(config, load_weights(config, llama::test::random_source(5)));
}

TEST(ChatSession, TurnsShareTheCacheAndEqualOneLongPrompt) {
  const tokenizer tokens = make_tokenizer(chatml_tokens);
  const llama::model m = make_model(tokens.size());
  const chat_writer writer(tokens, chat_format::chatml);
  llama::sampler choose({.temperature = 0.7f, .seed = 2});
  llama::workspace space;
  llama::chat_session session(m, tokens, chat_format::chatml, "be brief");
  std::vector<int> expected = writer.turn("system", "be brief");
  std::int64_t evaluated = 0;
  for (const char* const user : {"one", "two", "three"}) {
    std::vector<int> answer;
    int first_past = -1;
    const auto policy = [&](const llama::attention_context& context) {
      EXPECT_EQ(context.tokens[0], expected[0]);
      if (first_past < 0) first_past = static_cast<int>(context.past);
      return zerotune::identity{};
    };
    const std::string text =
        session.reply(user, policy, choose, 8, space, [&](int token) { answer.push_back(token); });
    EXPECT_EQ(text, tokens.decode(answer));
    EXPECT_EQ(first_past, evaluated);  // nothing is evaluated twice
    for (const auto& part : {writer.turn("user", user), writer.answer(), answer})
      expected.insert(expected.end(), part.begin(), part.end());
    evaluated = session.cache().length();
    // The cache holds a beginning of the chat, all but at most the last token.
    ASSERT_LE(session.cache().tokens().size(), expected.size());
    ASSERT_GE(session.cache().tokens().size() + 1, expected.size());
    EXPECT_TRUE(std::equal(session.cache().tokens().begin(), session.cache().tokens().end(),
                           expected.begin()));
    const std::vector<int> close = writer.close(false);
    expected.insert(expected.end(), close.begin(), close.end());
  }
}

TEST(ChatSession, AFullContextIsAnErrorThatChangesNothing) {
  const tokenizer tokens = make_tokenizer(llama3_tokens);
  const llama::model m = make_model(tokens.size());
  llama::sampler choose({});
  llama::workspace space;
  llama::chat_session session(m, tokens, chat_format::llama3);
  const auto ignore = [](int) {};
  session.reply("hi", llama::untouched{}, choose, 3, space, ignore);
  const auto before = session.cache().length();
  EXPECT_THROW(session.reply(std::string(600, 'x'), llama::untouched{}, choose, 3, space, ignore),
               std::invalid_argument);
  EXPECT_EQ(session.cache().length(), before);
  session.reply("again", llama::untouched{}, choose, 3, space, ignore);
  EXPECT_GT(session.cache().length(), before);
}

}  // namespace
