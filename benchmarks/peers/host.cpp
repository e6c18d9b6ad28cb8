// SPDX-License-Identifier: Apache-2.0
// The reference host's forward pass, timed on request, so that another process can interleave it
// with its own: next-token logits of some prompts, one thread.
//
//   benchmark_host MODEL.gguf fp32|bf16    reads commands from standard input, a line each:
//     prompts LENGTH TOKEN...              sets the prompts, all of LENGTH tokens
//     logits                               prints a line per prompt: the best token and its logit
//     run CALLS                            prints the seconds of this thread's time for one call
#include <cstdlib>
#include <exception>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "../interleaved.hpp"
#include "llama/gemm.hpp"
#include "llama/gguf.hpp"
#include "llama/model.hpp"

namespace {

class host {
 public:
  host(const char* path, llama::gemm_kind kind)
      : file_(path), model_(llama::model::from_gguf(file_, kind)) {}

  void set_prompts(std::istream& numbers) {
    std::size_t length = 0;
    numbers >> length;
    tokens_.clear();
    for (int token; numbers >> token;) tokens_.push_back(token);
    if (length == 0 || tokens_.size() % length != 0)
      throw std::invalid_argument("the tokens are not a multiple of LENGTH");
    last_ = static_cast<int>(length) - 1;
    prompts_.clear();
    for (std::size_t i = 0; i < tokens_.size(); i += length)
      prompts_.push_back({{tokens_.data() + i, length}, nullptr, {&last_, 1}});
  }
  void run() { llama::forward(model_, llama::untouched{}, prompts_, space_, logits_); }
  void print_logits() {
    run();
    for (std::int64_t i = 0; i < logits_.rows(); ++i) {
      const auto row = logits_.row(i);
      const auto best = std::max_element(row.begin(), row.end());
      std::printf("%d %.6f\n", static_cast<int>(best - row.begin()), static_cast<double>(*best));
    }
  }

 private:
  llama::gguf_file file_;
  llama::model model_;
  llama::workspace space_;
  llama::matrix logits_;
  std::vector<int> tokens_;
  std::vector<llama::sequence> prompts_;
  int last_ = 0;
};

bool obey(host& h, const std::string& line) {
  std::istringstream words(line);
  std::string command;
  words >> command;
  if (command == "prompts") {
    h.set_prompts(words);
  } else if (command == "logits") {
    h.print_logits();
  } else if (command == "run") {
    int calls = 1;
    words >> calls;
    std::printf("%.9f\n", bench::time_of([&] { h.run(); }, calls));
  } else {
    return false;
  }
  std::fflush(stdout);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string compute = argc == 3 ? argv[2] : "";
  if (compute != "fp32" && compute != "bf16") {
    std::fprintf(stderr, "usage: benchmark_host MODEL.gguf fp32|bf16\n");
    return 2;
  }
  try {
    const llama::gemm_kind kind =
        compute == "bf16" ? llama::gemm_kind::onednn_bf16 : llama::default_gemm();
    if (!llama::is_available(kind)) {
      std::fprintf(stderr, "benchmark_host: no product of type %s here\n", compute.c_str());
      return 3;
    }
    host h(argv[1], kind);
    std::printf("ready: %s\n", std::string(llama::name_of(kind)).c_str());
    std::fflush(stdout);
    for (std::string line; std::getline(std::cin, line);)
      if (!obey(h, line)) {
        std::fprintf(stderr, "benchmark_host: unknown command %s\n", line.c_str());
        return 2;
      }
    return EXIT_SUCCESS;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "benchmark_host: %s\n", e.what());
    return EXIT_FAILURE;
  }
}
