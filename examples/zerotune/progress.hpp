// SPDX-License-Identifier: Apache-2.0
// Progress on standard error: a bar with the time left on a terminal, plain lines otherwise.
#pragma once

#include <chrono>
#include <string>

#include "zerotune/tuning/evaluator.hpp"

namespace zerotune_cli {

/// Shows how far one phase of the work is. Nothing appears in the first second, so that quick work
/// stays quiet. Copies of callback() refer to this object.
class progress {
 public:
  explicit progress(std::string label);
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;
  /// Ends the bar's line.
  ~progress();

  void update(zerotune::index_t done, zerotune::index_t total);
  zerotune::progress_callback callback() {
    return [this](zerotune::index_t done, zerotune::index_t total) { update(done, total); };
  }

 private:
  using clock = std::chrono::steady_clock;
  std::string label_;
  bool terminal_;
  clock::time_point start_ = clock::now();
  clock::time_point shown_;
  bool visible_ = false;
};

/// "1:05" or "12 s".
std::string format_seconds(double seconds);

}  // namespace zerotune_cli
