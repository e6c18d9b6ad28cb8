// SPDX-License-Identifier: Apache-2.0
// Errors: what a caller's mistake becomes (layer: core). With exceptions it is thrown; without
// them it is handed to a handler that must not return.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "zerotune/core/config.hpp"
#include "zerotune/core/types.hpp"

namespace zerotune {

/// A caller's mistake: a wrong shape, stride, option or gamma. Nothing has been written when it is
/// thrown. The message reads `function: argument dim (name): expected X, got Y`.
class invalid_argument : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// Untrusted input that is not what it should be (a profile, for example).
class format_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Called with the message instead of throwing where exceptions are disabled. It must not return;
/// if it does, the program is ended with std::abort.
using error_handler = void (*)(const char* message);

namespace detail {
inline void print_and_abort(const char* message) {
  std::fputs(message, stderr);
  std::fputc('\n', stderr);
  std::abort();
}
inline error_handler current_error_handler = print_and_abort;
}  // namespace detail

/// Installs the handler that errors go to where exceptions are disabled; returns the former one.
/// Not thread-safe: install it before the first call.
inline error_handler set_error_handler(error_handler handler) {
  const error_handler former = detail::current_error_handler;
  detail::current_error_handler = handler ? handler : detail::print_and_abort;
  return former;
}

inline namespace ZEROTUNE_ABI {
namespace impl {

/// A number as messages show it: short, and -1e-9 is not -0.
inline std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.7g", value);
  return text;
}

template <class Error>
[[noreturn]] inline void raise(const std::string& message) {
#if ZEROTUNE_EXCEPTIONS
  throw Error(message);
#else
  zerotune::detail::current_error_handler(message.c_str());
  std::abort();
#endif
}

[[noreturn]] inline void fail(const char* function, const std::string& what,
                              const std::string& expected, const std::string& got) {
  raise<invalid_argument>(std::string(function) + ": " + what + ": expected " + expected +
                          ", got " + got);
}

}  // namespace impl
}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
