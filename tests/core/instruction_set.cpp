// SPDX-License-Identifier: Apache-2.0
#include "zerotune/core/instruction_set.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

namespace {

namespace zt = zerotune;
using zt::instruction_set;

class environment {
 public:
  explicit environment(const char* value) {
    if (const char* const former = std::getenv(zt::instruction_set_variable)) former_ = former;
    setenv(zt::instruction_set_variable, value, 1);
  }
  ~environment() { setenv(zt::instruction_set_variable, former_.c_str(), 1); }
  environment(const environment&) = delete;
  environment& operator=(const environment&) = delete;

 private:
  std::string former_;
};

// What the operating system says of the CPU, by other means than ours.
std::set<std::string> listed_flags() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("flags", 0) == 0) {
      std::istringstream words(line.substr(line.find(':') + 1));
      std::set<std::string> flags;
      for (std::string word; words >> word;) flags.insert(word);
      return flags;
    }
  return {};
}

TEST(instruction_set, supported_is_what_the_system_lists) {
  const std::set<std::string> flags = listed_flags();
  if (flags.empty()) GTEST_SKIP() << "/proc/cpuinfo lists no flags";
  const auto has = [&](std::initializer_list<const char*> names) {
    for (const char* name : names)
      if (!flags.contains(name)) return false;
    return true;
  };
  const bool avx2 = has({"avx2", "fma", "f16c"});
  const bool avx512 = avx2 && has({"avx512f", "avx512bw", "avx512dq", "avx512vl"});
  const bool bf16 = avx512 && has({"avx512_bf16"});
  EXPECT_TRUE(zt::is_supported(instruction_set::baseline));
  EXPECT_EQ(zt::is_supported(instruction_set::avx2), avx2);
  EXPECT_EQ(zt::is_supported(instruction_set::avx512), avx512);
  EXPECT_EQ(zt::is_supported(instruction_set::avx512_bf16), bf16);
  // The kernel may refuse tiles that the CPU has.
  EXPECT_TRUE(!zt::is_supported(instruction_set::amx_bf16) ||
              (bf16 && has({"amx_tile", "amx_bf16"})));
}

TEST(instruction_set, best_is_the_last_that_is_supported) {
  for (const instruction_set set : zt::instruction_sets)
    EXPECT_EQ(zt::is_supported(set), set <= zt::best_instruction_set()) << zt::name_of(set);
}

TEST(instruction_set, the_environment_forces_a_lower_one) {
  for (const instruction_set set : zt::instruction_sets) {
    if (set > zt::best_instruction_set()) break;
    const environment forced(zt::name_of(set));
    EXPECT_EQ(zt::allowed_instruction_set(), set) << zt::name_of(set);
  }
  const environment empty("");
  EXPECT_EQ(zt::allowed_instruction_set(), zt::best_instruction_set());
}

#if ZEROTUNE_EXCEPTIONS
TEST(instruction_set, another_name_is_an_error_that_lists_them) {
  const environment forced("sse9");
  try {
    zt::allowed_instruction_set();
    FAIL() << "expected an error";
  } catch (const zt::invalid_argument& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("ZEROTUNE_INSTRUCTION_SET"), std::string::npos) << message;
    EXPECT_NE(message.find("baseline"), std::string::npos) << message;
    EXPECT_NE(message.find("got sse9"), std::string::npos) << message;
  }
}
#endif

}  // namespace
