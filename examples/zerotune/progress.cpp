// SPDX-License-Identifier: Apache-2.0
#include "progress.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace zerotune_cli {

namespace {

constexpr auto quiet = std::chrono::seconds(1);           // before anything is shown
constexpr auto redraw = std::chrono::milliseconds(100);   // of the bar
constexpr auto line_interval = std::chrono::seconds(10);  // between plain lines

}  // namespace

std::string format_seconds(double seconds) {
  const long rounded = std::lround(std::clamp(seconds, 0.0, 3.6e6));
  char text[32];
  if (rounded < 60)
    std::snprintf(text, sizeof text, "%ld s", rounded);
  else if (rounded < 3600)
    std::snprintf(text, sizeof text, "%ld:%02ld", rounded / 60, rounded % 60);
  else
    std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", rounded / 3600, rounded / 60 % 60,
                  rounded % 60);
  return text;
}

progress::progress(std::string label)
    : label_(std::move(label)), terminal_(isatty(STDERR_FILENO) != 0), shown_(start_) {}

progress::~progress() {
  if (visible_ && terminal_) std::fputs("\r\033[K", stderr);
}

void progress::update(zerotune::index_t done, zerotune::index_t total) {
  const clock::time_point now = clock::now();
  if (total <= 0 || now - start_ < quiet) return;
  if (visible_ &&
      now - shown_ < (terminal_ ? clock::duration(redraw) : clock::duration(line_interval)))
    return;
  visible_ = true;
  shown_ = now;
  const double share = static_cast<double>(done) / static_cast<double>(total);
  const double passed = std::chrono::duration<double>(now - start_).count();
  const std::string left =
      done > 0 ? format_seconds(passed / share - passed) + " left" : std::string("starting");
  if (!terminal_) {
    std::fprintf(stderr, "%s: %lld of %lld rows, %s\n", label_.c_str(),
                 static_cast<long long>(done), static_cast<long long>(total), left.c_str());
    return;
  }
  constexpr int width = 30;
  const int filled = static_cast<int>(std::lround(share * width));
  std::string bar(static_cast<std::size_t>(filled), '#');
  bar.append(static_cast<std::size_t>(width - filled), '.');
  std::fprintf(stderr, "\r\033[K%s [%s] %lld/%lld, %s", label_.c_str(), bar.c_str(),
               static_cast<long long>(done), static_cast<long long>(total), left.c_str());
  std::fflush(stderr);
}

}  // namespace zerotune_cli
