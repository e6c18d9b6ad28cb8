// SPDX-License-Identifier: Apache-2.0
#include "llama/tokenizer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <iterator>
#include <random>
#include <sstream>

#include "gguf_writer.hpp"
#include "llama/sha256.hpp"
#include "reference_file.hpp"

namespace llama {
namespace {

using test::as_bytes;
using test::gguf_writer;
using test::json;

// The same text under another `tokenizer.ggml.pre`.
std::string with_pre_tokenizer(const std::string& file, const std::string& name) {
  const std::string key = "tokenizer.ggml.pre";
  const std::size_t value = file.find(key) + key.size() + 4;  // behind the type
  std::uint64_t length = 0;
  std::memcpy(&length, file.data() + value, sizeof(length));
  return file.substr(0, value) + gguf_writer().string(name).bytes() +
         file.substr(value + sizeof(length) + length);
}

// A parameter as a test's name.
std::string underscored(const testing::TestParamInfo<std::string>& parameter) {
  std::string name = parameter.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

std::string escape(std::string_view text) {
  std::ostringstream out;
  for (const char c : text) {
    const int byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      out << c;
    } else {
      out << "\\x" << std::hex << byte;
    }
  }
  return out.str().substr(0, 200);
}

class against_llama_cpp : public testing::TestWithParam<std::string> {
 protected:
  // The file with the bytes that the reference was made from; empty if there is none.
  static std::string find_file(const json& reference) {
    std::vector<std::filesystem::path> files = test::vocabulary_files(reference["file"].text);
    if (GetParam() == "smollm") files = {test::smollm_file()};
    for (const auto& path : files) {
      if (path.empty()) continue;
      std::string bytes = test::read_file(path);
      if (sha256::of(bytes) == reference["sha256"].text) return bytes;
    }
    return {};
  }
};

std::vector<int> expand(const json& ranges) {
  std::vector<int> ids;
  for (const json& range : ranges.items) {
    for (int id = range.items[0].integer(); id <= range.items[1].integer(); ++id) ids.push_back(id);
  }
  return ids;
}

TEST_P(against_llama_cpp, agrees_on_every_string_and_token) {
  const json reference = test::read_reference("tokenizer_" + GetParam() + ".json");
  std::string bytes = find_file(reference);
  if (bytes.empty()) {
    GTEST_SKIP() << "no " << reference["file"].text << " with the reference's SHA-256 below "
                 << "ZEROTUNE_DATA_DIR or ~/.cache/zerotune";
  }
  if (!reference["pre"].text.empty()) bytes = with_pre_tokenizer(bytes, reference["pre"].text);
  const auto file = gguf_file::from_memory(as_bytes(bytes), GetParam());
  const tokenizer tokens = tokenizer::from_gguf(file);

  ASSERT_EQ(tokens.size(), reference["size"].integer());
  EXPECT_EQ(tokens.bos_id(), reference["bos"].integer());
  EXPECT_EQ(tokens.eos_id(), reference["eos"].integer());
  EXPECT_EQ(tokens.add_bos(), reference["add_bos"].integer() != 0);
  std::vector<int> control;
  std::vector<int> ends;
  sha256 pieces;
  for (int id = 0; id < tokens.size(); ++id) {
    if (tokens.is_control(id)) control.push_back(id);
    if (tokens.is_end_of_generation(id)) ends.push_back(id);
    const std::string piece = tokens.piece(id);
    pieces.update(gguf_writer().u64(piece.size()).bytes()).update(piece);
  }
  EXPECT_EQ(control, expand(reference["control"]));
  EXPECT_EQ(ends, expand(reference["ends"]));
  EXPECT_EQ(pieces.hex(), reference["pieces_sha256"].text);

  int mismatches = 0;
  for (const json& test_case : reference["cases"].items) {
    const std::string text = test::decode_base64(test_case["text"].text);
    const std::vector<int> plain = test_case["plain"].integers();
    const std::vector<int> parsed =
        test_case.contains("parsed") ? test_case["parsed"].integers() : plain;
    if (tokens.encode(text) != plain || tokens.encode_template(text) != parsed) ++mismatches;
    EXPECT_EQ(tokens.encode(text), plain) << escape(text);
    EXPECT_EQ(tokens.encode_template(text), parsed) << escape(text);
  }
  EXPECT_EQ(mismatches, 0) << "of " << reference["cases"].items.size();
  EXPECT_GE(reference["cases"].items.size(), 200u);
}

INSTANTIATE_TEST_SUITE_P(tokenizer, against_llama_cpp,
                         testing::Values("smollm", "llama-bpe", "qwen2", "gpt-2", "deepseek-llm",
                                         "deepseek-r1-qwen", "llama-spm", "phi-3"),
                         underscored);

class golden : public testing::TestWithParam<std::string> {};

// llama.cpp's own goldens: inputs between separator lines, one line of ids for each.
TEST_P(golden, ids_equal_the_committed_ones) {
  const std::string name = "ggml-vocab-" + GetParam() + ".gguf";
  const json reference = test::read_reference("tokenizer_" + GetParam() + ".json");
  std::filesystem::path found;
  for (const auto& path : test::vocabulary_files(name)) {
    if (sha256::of(test::read_file(path)) == reference["sha256"].text) found = path;
  }
  if (found.empty()) GTEST_SKIP() << "no intact " << name;
  const tokenizer tokens = tokenizer::from_gguf(gguf_file(found));
  const std::string inputs = test::read_file(found.string() + ".inp");
  std::istringstream outputs(test::read_file(found.string() + ".out"));
  const std::string separator = "\n__ggml_vocab_test__\n";
  std::string line;
  int count = 0;
  for (std::size_t begin = 0; std::getline(outputs, line); ++count) {
    const std::size_t end = inputs.find(separator, begin);
    ASSERT_NE(end, inputs.npos);
    std::istringstream numbers(line);
    const std::vector<int> expected{std::istream_iterator<int>(numbers), {}};
    const std::string text = inputs.substr(begin, end - begin);
    EXPECT_EQ(tokens.encode(text), expected) << escape(text);
    begin = end + separator.size();
  }
  EXPECT_GT(count, 40);
}

INSTANTIATE_TEST_SUITE_P(tokenizer, golden,
                         testing::Values("llama-bpe", "qwen2", "gpt-2", "deepseek-llm", "llama-spm",
                                         "phi-3"),
                         underscored);

// A small byte-level vocabulary: all bytes, some merges, a control and a user-defined token.
struct small_vocabulary {
  std::string pre = "gpt-2";
  std::string model = "gpt2";
  std::vector<std::string> tokens;
  std::vector<std::int32_t> kinds;
  std::vector<std::string> merges{"a a", "aa aa", "b c", "a bc", "\xc4\xa0 a", "< e", "<e >"};

  small_vocabulary() {
    for (int byte = 0, next = 256; byte < 256; ++byte) {
      const bool printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
      const int code = printable ? byte : next++;
      std::string text(1, static_cast<char>(code));
      if (code >= 0x80) {
        text = {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
      }
      tokens.push_back(text);
    }
    for (const char* text : {"aa", "aaaa", "bc", "abc",
                             "\xc4\xa0"
                             "a",
                             "<e"})
      tokens.push_back(text);
    kinds.assign(tokens.size(), 1);
    add("<e>", 3);
    add("<user>", 4);
  }

  void add(const std::string& text, std::int32_t kind) {
    tokens.push_back(text);
    kinds.push_back(kind);
  }

  std::string file() const {
    gguf_writer writer;
    writer.header(0, 6)
        .string_value("tokenizer.ggml.model", model)
        .string_value("tokenizer.ggml.pre", pre)
        .strings_value("tokenizer.ggml.tokens", tokens)
        .numbers_value("tokenizer.ggml.token_type", 5, kinds)
        .strings_value("tokenizer.ggml.merges", merges)
        .u32_value("tokenizer.ggml.eos_token_id", 262);
    return writer.bytes();
  }

  tokenizer build() const {
    const std::string bytes = file();
    return tokenizer::from_gguf(gguf_file::from_memory(as_bytes(bytes), "small"));
  }
};

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const format_error& error) {
    return error.what();
  }
  return "no format_error";
}

TEST(tokenizer, merges_by_rank_then_from_the_left) {
  const tokenizer tokens = small_vocabulary().build();
  const int aa = tokens.find("aa");
  const int aaaa = tokens.find("aaaa");
  EXPECT_EQ(tokens.encode("aaaaaaa"), (std::vector{aaaa, aa, tokens.find("a")}));
  EXPECT_EQ(tokens.encode("abc"), (std::vector{tokens.find("abc")}));
  EXPECT_EQ(tokens.encode("aabc"), (std::vector{aa, tokens.find("bc")}));
  EXPECT_EQ(tokens.encode(""), std::vector<int>());
}

// Merges spell "<e>" here, but data must not be able to end the turn.
TEST(tokenizer, reserved_tokens_come_from_templates_only) {
  const tokenizer tokens = small_vocabulary().build();
  const int end = tokens.find("<e>");
  ASSERT_TRUE(tokens.is_control(end));
  EXPECT_TRUE(tokens.is_end_of_generation(end));
  EXPECT_EQ(tokens.encode("<e>"),
            (std::vector{tokens.find("<"), tokens.find("e"), tokens.find(">")}));
  EXPECT_EQ(tokens.encode_template("a<e>"), (std::vector{tokens.find("a"), end}));
  EXPECT_EQ(tokens.encode("<user>"), (std::vector{tokens.find("<user>")}));
  EXPECT_EQ(tokens.decode(tokens.encode_template("a<e><user>")), "a<e><user>");
}

TEST(tokenizer, unsupported_or_inconsistent_vocabularies_are_named) {
  small_vocabulary unknown_pre;
  unknown_pre.pre = "klingon";
  const std::string message = message_of([&] { unknown_pre.build(); });
  for (const char* part : {"small", "tokenizer.ggml.pre", "'klingon'", "smollm", "llama-bpe",
                           "qwen2", "gpt-2", "deepseek-llm", "deepseek-r1-qwen"}) {
    EXPECT_NE(message.find(part), message.npos) << part << " in " << message;
  }
  small_vocabulary unknown_model;
  unknown_model.model = "bert";
  EXPECT_NE(message_of([&] { unknown_model.build(); }).find("'bert'"), message.npos);
  small_vocabulary twice;
  twice.add("aa", 1);
  EXPECT_NE(message_of([&] { twice.build(); }).find("one text for tokens"), message.npos);
  small_vocabulary too_few_kinds;
  too_few_kinds.kinds.pop_back();
  EXPECT_NE(message_of([&] { too_few_kinds.build(); }).find("token_type"), message.npos);
  small_vocabulary bad_merge;
  bad_merge.merges.push_back("aa");
  EXPECT_NE(message_of([&] { bad_merge.build(); }).find("tokenizer.ggml.merges"), message.npos);
  small_vocabulary no_end;
  no_end.tokens.resize(262);
  no_end.kinds.resize(262);
  EXPECT_NE(message_of([&] { no_end.build(); }).find("eos_token_id"), message.npos);
  EXPECT_THROW(small_vocabulary().build().piece(-1), std::out_of_range);
  EXPECT_THROW(small_vocabulary().build().piece(1000), std::out_of_range);
}

// No outcome but success or format_error, whatever a byte becomes.
TEST(tokenizer, every_changed_byte_of_a_vocabulary_is_survived) {
  const std::string bytes = small_vocabulary().file();
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (const int flip : {0x01, 0x80}) {
      std::string changed = bytes;
      changed[i] = static_cast<char>(changed[i] ^ flip);
      try {
        const tokenizer tokens = tokenizer::from_gguf(gguf_file::from_memory(as_bytes(changed)));
        for (int id = 0; id < tokens.size(); ++id) tokens.piece(id);
        tokens.decode(tokens.encode_template("aaabc<e> \xff<user>"));
      } catch (const format_error&) {
      }
    }
  }
}

TEST(tokenizer, vocabulary_hash_tells_vocabularies_apart) {
  small_vocabulary other_text;
  other_text.tokens[260] = "zz";
  small_vocabulary other_kind;
  other_kind.kinds[260] = 6;
  const std::string hash = small_vocabulary().build().vocabulary_hash();
  EXPECT_EQ(hash.size(), 64u);
  EXPECT_EQ(hash, small_vocabulary().build().vocabulary_hash());
  EXPECT_NE(hash, other_text.build().vocabulary_hash());
  EXPECT_NE(hash, other_kind.build().vocabulary_hash());
}

const std::vector<std::string> all_pre_tokenizers{"smollm", "llama-bpe",    "qwen2",
                                                  "gpt-2",  "deepseek-llm", "deepseek-r1-qwen"};

TEST(tokenizer, random_bytes_come_back) {
  std::mt19937 random(1);
  const auto pick = [&random](std::size_t count) { return random() % count; };
  const std::vector<std::string> parts{" ",
                                       "\n",
                                       "\r",
                                       "\t",
                                       "a",
                                       "Z",
                                       "7",
                                       "'s",
                                       "!",
                                       "<e>",
                                       "\xc2\xa0",
                                       "\xe3\x80\x80",
                                       "\xe4\xbd\xa0",
                                       "\xf0\x9f\x98\x80",
                                       "\xd9\xa1",
                                       "\xcc\x81",
                                       std::string(1, '\0')};
  for (const std::string& pre : all_pre_tokenizers) {
    small_vocabulary vocabulary;
    vocabulary.pre = pre;
    const tokenizer tokens = vocabulary.build();
    for (int round = 0; round < 500; ++round) {
      std::string valid;
      std::string bytes;
      for (std::size_t i = pick(40); i > 0; --i) {
        valid += parts[pick(parts.size())];
        bytes +=
            pick(3) == 0 ? parts[pick(parts.size())] : std::string(1, static_cast<char>(pick(256)));
      }
      EXPECT_EQ(tokens.decode(tokens.encode(valid)), valid);
      // Bytes that are no characters come back as U+FFFD, all others as they were.
      const std::string once = replace_invalid_utf8(bytes);
      EXPECT_EQ(tokens.decode(tokens.encode(bytes)), once) << escape(bytes);
      EXPECT_EQ(replace_invalid_utf8(once), once);
    }
  }
}

TEST(tokenizer, invalid_utf8_becomes_replacement_characters) {
  const std::string mark = "\xef\xbf\xbd";
  EXPECT_EQ(replace_invalid_utf8("a\xff"
                                 "b"),
            "a" + mark + "b");
  EXPECT_EQ(replace_invalid_utf8("\xe2\x82"), mark + mark);
  EXPECT_EQ(replace_invalid_utf8("\xc1\xbf"), "\x7f");
  EXPECT_EQ(replace_invalid_utf8("\xed\xa0\x80"), "\xed\xa0\x80");
  EXPECT_EQ(replace_invalid_utf8("\xf4\x90\x80\x80"), mark + mark + mark + mark);
  EXPECT_EQ(replace_invalid_utf8("\xf8\x88\x80\x80\x80"), mark + mark + mark + mark + mark);
}

// A megabyte of one character must take linear time in the expressions and n log n in the merges.
TEST(tokenizer, long_runs_take_seconds_at_most) {
  const std::size_t length = std::size_t{1} << 18;  // squared, a run would take a minute
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& pre : all_pre_tokenizers) {
    small_vocabulary vocabulary;
    vocabulary.pre = pre;
    const tokenizer tokens = vocabulary.build();
    EXPECT_EQ(tokens.encode(std::string(length, 'a')).size(), length / 4) << pre;
    for (const std::string unit :
         {" ", "\n", "1", "!", "'", " \n", "\xe4\xbd\xa0", "\xff", "\xed\xa0\x80", "<e"}) {
      std::string text;
      while (text.size() < length) text += unit;
      for (const char* tail : {"", "1"}) {
        EXPECT_FALSE(tokens.encode(text + tail).empty()) << pre << " " << escape(unit);
      }
    }
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_LT(seconds.count(), 150) << "quadratic time";
}

TEST(tokenizer, sentencepiece_needs_bytes_or_an_unknown_token) {
  std::vector<vocabulary_token> tokens(1);
  tokens[0].text = "a";
  EXPECT_THROW(tokenizer::sentencepiece(vocabulary("here", tokens, {}), "here"), format_error);
  vocabulary::settings ids;
  ids.unknown = 0;
  const tokenizer unknown = tokenizer::sentencepiece(vocabulary("here", tokens, ids), "here");
  EXPECT_EQ(unknown.encode("ab"), (std::vector{0, 0}));
  tokens[0].score = std::nanf("");
  EXPECT_THROW(vocabulary("here", tokens, {}), format_error);
}

}  // namespace
}  // namespace llama
