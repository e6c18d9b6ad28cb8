// SPDX-License-Identifier: Apache-2.0
// Reading JSON that is not trusted (layer: tuning, outside the umbrella; needs nlohmann/json):
// size, depth, strings and arrays are limited and duplicate keys refused before a value is built.
// No exception is needed, so it works with -fno-exceptions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "zerotune/core/error.hpp"

namespace zerotune {

/// What a JSON text may hold.
struct json_limits {
  std::size_t bytes = std::size_t{64} << 20;        ///< of the whole text
  std::size_t depth = 32;                           ///< of nested arrays and objects
  std::size_t string_bytes = std::size_t{1} << 20;  ///< of one string or key
  std::size_t elements = std::size_t{1} << 20;      ///< of one array or object
};

inline namespace ZEROTUNE_ABI {
namespace impl {

/// Goes over a JSON text without keeping it, and stops at the first thing that is not allowed.
class json_guard {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  explicit json_guard(const json_limits& limits) : limits_(limits) {}

  bool null() { return count(); }
  bool boolean(bool) { return count(); }
  bool number_integer(number_integer_t) { return count(); }
  bool number_unsigned(number_unsigned_t) { return count(); }
  bool number_float(number_float_t, const string_t&) { return count(); }
  bool binary(binary_t&) { return stop("binary data"); }
  bool string(string_t& text) { return length(text) && count(); }
  bool start_object(std::size_t) { return count() && enter(); }
  bool start_array(std::size_t) { return count() && enter(); }
  bool end_object() { return leave(); }
  bool end_array() { return leave(); }
  bool key(string_t& name) {
    if (!length(name)) return false;
    if (!levels_.back().keys.insert(name).second)
      return stop("the key \"" + shortened(name) + "\" twice in one object");
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) {
    const std::string_view what = e.what();
    const std::size_t colon = what.find(": ");  // past the library's name of the exception
    return stop("at byte " + std::to_string(position) + ": " +
                std::string(colon == std::string_view::npos ? what : what.substr(colon + 2)));
  }

  /// What was found; empty if nothing is wrong.
  const std::string& problem() const { return problem_; }

 private:
  struct level {
    std::size_t elements = 0;
    std::set<std::string> keys;
  };

  static std::string shortened(const std::string& text) {
    return text.size() <= 64 ? text : text.substr(0, 64) + "...";
  }
  bool stop(std::string problem) {
    if (problem_.empty()) problem_ = std::move(problem);
    return false;
  }
  bool length(const string_t& text) {
    return text.size() <= limits_.string_bytes ||
           stop("a string of " + std::to_string(text.size()) + " bytes, more than " +
                std::to_string(limits_.string_bytes));
  }
  bool count() {
    if (levels_.empty() || ++levels_.back().elements <= limits_.elements) return true;
    return stop("more than " + std::to_string(limits_.elements) + " elements in one array");
  }
  bool enter() {
    if (levels_.size() >= limits_.depth)
      return stop("arrays or objects nested deeper than " + std::to_string(limits_.depth));
    levels_.emplace_back();
    return true;
  }
  bool leave() {
    levels_.pop_back();
    return true;
  }

  json_limits limits_;
  std::vector<level> levels_;
  std::string problem_;
};

}  // namespace impl

/// Parses a text that is not trusted.
/// @param where  begins every message: the name of the file, or file:line
/// @throws format_error for anything that is not JSON or exceeds a limit, and for a key that an
///         object has twice (two readers would understand it differently)
inline nlohmann::json parse_json(std::string_view text, const std::string& where,
                                 const json_limits& limits = {}) {
  if (text.size() > limits.bytes)
    impl::raise<format_error>(where + ": expected at most " + std::to_string(limits.bytes) +
                              " bytes, got " + std::to_string(text.size()));
  impl::json_guard guard(limits);
  const bool good = nlohmann::json::sax_parse(text.begin(), text.end(), &guard);
  if (!good || !guard.problem().empty())
    impl::raise<format_error>(where + ": expected JSON, got " +
                              (guard.problem().empty() ? "something else" : guard.problem()));
  nlohmann::json value = nlohmann::json::parse(text.begin(), text.end(), nullptr, false);
  if (value.is_discarded())
    impl::raise<format_error>(where + ": expected JSON, got something else");
  return value;
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
