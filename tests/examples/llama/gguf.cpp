// SPDX-License-Identifier: Apache-2.0
#include "llama/gguf.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <random>
#include <system_error>

#include "gguf_writer.hpp"
#include "llama/sha256.hpp"
#include "reference_file.hpp"

namespace llama {
namespace {

using test::as_bytes;
using test::gguf_writer;

// One value of every type, two tensors, and a tensor of an unknown type.
std::string good_file() {
  gguf_writer writer;
  writer.header(3, 17)
      .string("u8")
      .u32(0)
      .number<std::uint8_t>(200)
      .string("i8")
      .u32(1)
      .number<std::int8_t>(-100)
      .string("u16")
      .u32(2)
      .number<std::uint16_t>(60000)
      .string("i16")
      .u32(3)
      .number<std::int16_t>(-30000)
      .u32_value("u32", 4000000000u)
      .string("i32")
      .u32(5)
      .number<std::int32_t>(-2000000000)
      .string("f32")
      .u32(6)
      .number(1.5f)
      .bool_value("yes", true)
      .string_value("text", "h\xc3\xa9llo")
      .string("u64")
      .u32(10)
      .u64(~std::uint64_t{0})
      .string("i64")
      .u32(11)
      .number<std::int64_t>(-5000000000)
      .string("f64")
      .u32(12)
      .number(0.25)
      .strings_value("texts", {"a", "", "bc"})
      .numbers_value<std::int32_t>("ints", 5, {1, -2, 3})
      .numbers_value("floats", 6, std::vector{0.5f, 1.0f})
      .string("nested")
      .u32(9)
      .u32(9)
      .u64(2)
      .u32(4)
      .u64(1)
      .u32(7)
      .u32(8)
      .u64(1)
      .string("x")
      .string("bad_bool")
      .u32(7)
      .number<std::uint8_t>(2)
      .tensor("first", {3, 2}, 0, 0)
      .tensor("exotic", {7}, 99, 32)
      .tensor("second", {32}, 8, 64)
      .pad();
  for (int i = 0; i < 6; ++i) writer.number(static_cast<float>(i));
  writer.pad().raw("abc").pad().raw(std::string(34, '\1'));
  return writer.bytes();
}

void open(const std::string& bytes) { gguf_file::from_memory(as_bytes(bytes), "file"); }

std::string message_of(const std::string& bytes) {
  try {
    open(bytes);
  } catch (const format_error& error) {
    return error.what();
  }
  return "accepted";
}

#define EXPECT_REFUSED(writer, part)                                                    \
  do {                                                                                  \
    const std::string message = message_of((writer).bytes());                           \
    EXPECT_NE(message.find("file: "), message.npos) << message;                         \
    EXPECT_NE(message.find(part), message.npos) << "'" << (part) << "' in " << message; \
  } while (false)

TEST(gguf, reads_values_of_every_type) {
  const std::string bytes = good_file();
  const auto file = gguf_file::from_memory(as_bytes(bytes));
  EXPECT_EQ(file.require<std::uint32_t>("u8"), 200u);
  EXPECT_EQ(file.require<std::int32_t>("i8"), -100);
  EXPECT_EQ(file.require<std::int64_t>("u16"), 60000);
  EXPECT_EQ(file.require<std::int32_t>("i16"), -30000);
  EXPECT_EQ(file.require<std::uint32_t>("u32"), 4000000000u);
  EXPECT_EQ(file.require<std::int32_t>("i32"), -2000000000);
  EXPECT_EQ(file.require<float>("f32"), 1.5f);
  EXPECT_TRUE(file.require<bool>("yes"));
  EXPECT_EQ(file.require<std::string_view>("text"), "h\xc3\xa9llo");
  EXPECT_EQ(file.require<std::uint64_t>("u64"), ~std::uint64_t{0});
  EXPECT_EQ(file.require<std::int64_t>("i64"), -5000000000);
  EXPECT_EQ(file.require<float>("f64"), 0.25f);
  EXPECT_EQ(file.require<std::vector<std::string_view>>("texts"),
            (std::vector<std::string_view>{"a", "", "bc"}));
  EXPECT_EQ(file.require<std::vector<std::int32_t>>("ints"), (std::vector{1, -2, 3}));
  EXPECT_EQ(file.require<std::vector<float>>("floats"), (std::vector{0.5f, 1.0f}));
  EXPECT_EQ(file.require_in("u8", 0, 200), 200);
  EXPECT_TRUE(file.contains("nested"));
  EXPECT_FALSE(file.contains("absent"));
  EXPECT_EQ(file.find<float>("absent"), std::nullopt);
}

TEST(gguf, refuses_values_of_another_type_or_range) {
  const std::string bytes = good_file();
  const auto file = gguf_file::from_memory(as_bytes(bytes));
  EXPECT_THROW(file.require<float>("absent"), format_error);
  EXPECT_THROW(file.require<std::int32_t>("u32"), format_error);
  EXPECT_THROW(file.require<std::uint32_t>("i8"), format_error);
  EXPECT_THROW(file.require<std::int64_t>("u64"), format_error);
  EXPECT_THROW(file.require<std::int32_t>("f32"), format_error);
  EXPECT_THROW(file.require<float>("u8"), format_error);
  EXPECT_THROW(file.require<bool>("u8"), format_error);
  EXPECT_THROW(file.require<bool>("bad_bool"), format_error);
  EXPECT_THROW(file.require<std::string_view>("yes"), format_error);
  EXPECT_THROW(file.find<std::string_view>("texts"), format_error);
  EXPECT_THROW(file.find<std::vector<std::string_view>>("text"), format_error);
  EXPECT_THROW(file.find<std::vector<float>>("ints"), format_error);
  EXPECT_THROW(file.find<std::vector<std::int32_t>>("nested"), format_error);
  EXPECT_THROW(file.require_in("u8", 0, 199), format_error);
  try {
    file.require<std::int32_t>("u32");
  } catch (const format_error& error) {
    EXPECT_STREQ(error.what(), "memory: u32: expected a signed 32-bit integer, found 4000000000");
  }
}

TEST(gguf, reads_tensors) {
  const std::string bytes = good_file();
  const auto file = gguf_file::from_memory(as_bytes(bytes));
  ASSERT_EQ(file.tensors().size(), 3u);
  const gguf_tensor& first = file.tensor("first");
  EXPECT_EQ(first.num_dims, 2);
  EXPECT_EQ(first.shape, (std::array<std::int64_t, 4>{3, 2, 1, 1}));
  ASSERT_EQ(first.bytes.size(), 24u);
  float last = 0;
  std::memcpy(&last, first.bytes.data() + 20, 4);
  EXPECT_EQ(last, 5.0f);
  EXPECT_EQ(file.tensor("second").bytes.size(), 34u);
  EXPECT_EQ(file.find_tensor("absent"), nullptr);
  EXPECT_THROW(file.tensor("absent"), format_error);
  EXPECT_THROW(file.tensor("exotic"), format_error);  // known to be there, refused on access
  EXPECT_THROW(file.find_tensor("exotic"), format_error);
}

TEST(gguf, every_truncation_is_refused) {
  const std::string bytes = good_file();
  ASSERT_NO_THROW(open(bytes));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const std::string part = bytes.substr(0, size);  // a buffer of its own, for the sanitizer
    EXPECT_THROW(open(part), format_error) << size;
  }
}

// No outcome but success or format_error, whatever a byte becomes.
TEST(gguf, every_changed_byte_is_survived) {
  const std::string bytes = good_file();
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (const int flip : {0x01, 0x80, 0xff}) {
      std::string changed = bytes;
      changed[i] = static_cast<char>(changed[i] ^ flip);
      try {
        const auto file = gguf_file::from_memory(as_bytes(changed));
        for (const gguf_tensor& tensor : file.tensors()) file.find_tensor(tensor.name);
        file.find<std::vector<std::string_view>>("texts");
        file.find<std::vector<std::int32_t>>("ints");
      } catch (const format_error&) {
      }
    }
  }
}

TEST(gguf, header_faults) {
  EXPECT_REFUSED(gguf_writer(), "the magic GGUF");
  EXPECT_REFUSED(gguf_writer().raw("GGML").u32(3).u64(0).u64(0), "the magic GGUF");
  EXPECT_REFUSED(gguf_writer().raw("GGUF").u32(2).u64(0).u64(0), "version 3");
  EXPECT_REFUSED(gguf_writer().raw("GGUF").u32(0x03000000).u64(0).u64(0), "little-endian");
  EXPECT_REFUSED(gguf_writer().header(0, ~std::uint64_t{0}), "metadata values");
  EXPECT_REFUSED(gguf_writer().header(~std::uint64_t{0}, 0), "number of tensors");
  EXPECT_REFUSED(gguf_writer().header(std::uint64_t{1} << 60, 0).pad(4096), "number of tensors");
  EXPECT_EQ(message_of(gguf_writer().header(0, 0).bytes()), "accepted");
}

TEST(gguf, metadata_faults) {
  const auto one = [] { return gguf_writer().header(0, 1); };
  EXPECT_REFUSED(one().u64(~std::uint64_t{0}).pad(64), "a key");
  EXPECT_REFUSED(one().string(std::string(70000, 'k')).u32(4).u32(0), "at most 65536 bytes");
  EXPECT_REFUSED(one().string("k").u32(13).u64(0).u64(0), "a value type");
  EXPECT_REFUSED(one().string("k").u32(8).u64(std::uint64_t{1} << 40).pad(64), "a string");
  EXPECT_REFUSED(one().string("k").u32(8).u64(100).pad(64), "a string");
  EXPECT_REFUSED(one().string("k").u32(9).u32(5).u64(std::uint64_t{1} << 62).pad(64),
                 "array elements");
  EXPECT_REFUSED(one().string("k").u32(9).u32(8).u64(1000).pad(64), "array elements");
  EXPECT_REFUSED(one().string("k").u32(9).u32(77).u64(1).pad(64), "a value type");
  EXPECT_REFUSED(gguf_writer().header(0, 2).u32_value("k", 1).u32_value("k", 2), "a second 'k'");
  gguf_writer deep = one();
  deep.string("k").u32(9);
  for (int depth = 0; depth < 100; ++depth) deep.u32(9).u64(1);
  EXPECT_REFUSED(deep.u32(5).u64(0), "arrays nested at most 4 deep");
  gguf_writer shallow = one();
  shallow.string("k").u32(9).u32(9).u64(1).u32(9).u64(1).u32(9).u64(1).u32(5).u64(1).u32(0);
  EXPECT_EQ(message_of(shallow.bytes()), "accepted");
}

TEST(gguf, tensor_faults) {
  const std::int64_t huge = std::int64_t{1} << 62;
  const auto tensor = [](const std::vector<std::int64_t>& shape, std::uint32_t type,
                         std::uint64_t offset) {
    return gguf_writer()
        .header(1, 0)
        .tensor("t", shape, type, offset)
        .pad()
        .raw(std::string(64, 'd'));
  };
  EXPECT_EQ(message_of(tensor({16}, 0, 0).bytes()), "accepted");
  EXPECT_REFUSED(tensor({}, 0, 0), "1 to 4 dimensions");
  EXPECT_REFUSED(tensor({1, 1, 1, 1, 1}, 0, 0), "1 to 4 dimensions");
  EXPECT_REFUSED(tensor({0}, 0, 0), "a positive dimension");
  EXPECT_REFUSED(tensor({-1}, 0, 0), "a positive dimension");
  EXPECT_REFUSED(tensor({huge, huge}, 0, 0), "within 63 bits");
  EXPECT_REFUSED(tensor({huge}, 0, 0), "within 63 bits");
  EXPECT_REFUSED(tensor({17}, 0, 0), "at most 64 bytes");
  EXPECT_REFUSED(tensor({31}, 8, 0), "whole blocks of q8_0");
  EXPECT_REFUSED(tensor({1}, 0, 16), "an aligned offset");
  EXPECT_REFUSED(tensor({1}, 0, 64), "an offset within the data");
  EXPECT_REFUSED(tensor({1}, 0, ~std::uint64_t{31}), "an offset within the data");
  EXPECT_REFUSED(tensor({16}, 0, 32), "at most 32 bytes");
  const auto two = [](std::uint64_t first, std::uint64_t second) {
    return gguf_writer()
        .header(2, 0)
        .tensor("a", {16}, 0, first)
        .tensor("b", {8}, 0, second)
        .pad()
        .raw(std::string(96, 'd'));
  };
  EXPECT_EQ(message_of(two(0, 64).bytes()), "accepted");
  EXPECT_EQ(message_of(two(32, 0).bytes()), "accepted");
  EXPECT_REFUSED(two(0, 32), "no overlap");
  EXPECT_REFUSED(two(0, 0), "no overlap");
  EXPECT_REFUSED(gguf_writer().header(2, 0).tensor("a", {1}, 0, 0).tensor("a", {1}, 0, 32),
                 "a second 'a'");
}

TEST(gguf, alignment) {
  const auto aligned = [](std::uint32_t alignment, std::uint64_t offset) {
    return gguf_writer()
        .header(1, 1)
        .u32_value("general.alignment", alignment)
        .tensor("t", {1}, 0, offset)
        .pad(64)
        .raw(std::string(128, 'd'));
  };
  EXPECT_EQ(message_of(aligned(64, 64).bytes()), "accepted");
  EXPECT_REFUSED(aligned(64, 32), "an aligned offset");
  EXPECT_REFUSED(aligned(0, 0), "a power of two");
  EXPECT_REFUSED(aligned(48, 0), "a power of two");
  EXPECT_REFUSED(aligned(0x80000000u, 0), "tensor data");
}

// What a transfer as text does to a binary file: bytes that are no UTF-8 become U+FFFD.
TEST(gguf, a_file_converted_as_text_is_refused) {
  gguf_writer writer;
  writer.header(0, 2).string("epsilon").u32(6).number(1e-6f).string_value("next", "value");
  std::string bytes = writer.bytes();
  const std::size_t stray = bytes.find('\xbd');
  ASSERT_NE(stray, bytes.npos);
  bytes.replace(stray, 1, "\xef\xbf\xbd");
  EXPECT_NE(message_of(bytes), "accepted");
}

TEST(gguf, missing_files_and_folders_are_system_errors) {
  EXPECT_THROW(gguf_file{"does/not/exist.gguf"}, std::system_error);
  EXPECT_THROW(gguf_file{std::filesystem::temp_directory_path()}, std::system_error);
}

class gguf_on_disk : public testing::Test {
 protected:
  std::filesystem::path path_ =
      std::filesystem::temp_directory_path() /
      ("zerotune_gguf_" + std::to_string(std::random_device{}()) + ".gguf");
  void write(const std::string& bytes) { std::ofstream(path_, std::ios::binary) << bytes; }
  ~gguf_on_disk() override { std::filesystem::remove(path_); }
};

TEST_F(gguf_on_disk, views_and_hash_equal_those_in_memory) {
  const std::string bytes = good_file();
  write(bytes);
  gguf_file copy = gguf_file(path_);  // the copy keeps the mapping alive
  const auto in_memory = gguf_file::from_memory(as_bytes(bytes));
  EXPECT_EQ(copy.require<std::string_view>("text"), "h\xc3\xa9llo");
  EXPECT_EQ(copy.tensor("first").bytes.size(), 24u);
  EXPECT_EQ(copy.file_hash(), in_memory.file_hash());
  EXPECT_EQ(copy.file_hash(), sha256::of(bytes));
  write("");
  EXPECT_THROW(gguf_file{path_}, format_error);
}

// Every 64th length of a real vocabulary's head and of its tail.
TEST(gguf, truncated_vocabularies_are_refused) {
  const auto files = test::vocabulary_files("ggml-vocab-qwen2.gguf");
  if (files.empty()) GTEST_SKIP() << "no ggml-vocab-qwen2.gguf below ZEROTUNE_DATA_DIR";
  const std::string bytes = test::read_file(files[0]);
  ASSERT_NO_THROW(open(bytes));
  const auto refuse = [&bytes](std::size_t size) {
    const std::vector<char> part(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_THROW(gguf_file::from_memory(std::as_bytes(std::span(part))), format_error) << size;
  };
  for (std::size_t size = 0; size < 32768; size += 64) refuse(size);
  for (std::size_t left = 1; left < 4096; left += 64) refuse(bytes.size() - left);
}

TEST(gguf, smollm_has_its_published_hash_and_tensors) {
  const auto path = test::smollm_file();
  if (path.empty()) GTEST_SKIP() << "no SmolLM2 file: set ZEROTUNE_MODEL_FILE";
  const gguf_file file(path);
  EXPECT_EQ(file.tensors().size(), 272u);
  EXPECT_EQ(file.require_in("llama.block_count", 1, 1000), 30);
  EXPECT_EQ(file.tensor("token_embd.weight").shape[0], 576);
  EXPECT_EQ(file.file_hash(), "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53");
}

// Examples of FIPS 180-4 and messages around the block size (by sha256sum).
TEST(sha256, known_digests) {
  EXPECT_EQ(sha256::of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256::of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256::of(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_EQ(sha256::of(std::string(55, 'a')),
            "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
  EXPECT_EQ(sha256::of(std::string(56, 'a')),
            "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a");
  EXPECT_EQ(sha256::of(std::string(64, 'a')),
            "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
  sha256 pieces;
  for (int i = 0; i < 1000; ++i) pieces.update(std::string(1000, 'a'));
  EXPECT_EQ(pieces.hex(), sha256::of(std::string(1000000, 'a')));
}

}  // namespace
}  // namespace llama
