// SPDX-License-Identifier: Apache-2.0
// A journal of a search as JSON lines (layer: tuning, outside the umbrella; needs nlohmann/json): a
// head that says what it is of, then a line per record, each with a check of its bytes. Lines are
// only ever appended, so a killed search leaves at most one unfinished line at the end.
#pragma once

#include <bit>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "zerotune/tuning/json.hpp"
#include "zerotune/tuning/recorded_evaluator.hpp"

namespace zerotune {

inline constexpr const char* journal_schema = "zerotune-journal";
inline constexpr int journal_version = 1;

/// What a journal holds.
struct journal_contents {
  std::string subject;  ///< what the head says it is of
  std::vector<evaluation_record> evaluations;
  std::vector<gradient_record> gradients;
  std::size_t good_bytes = 0;  ///< up to the end of the last complete line; 0: not even a head
};

inline namespace ZEROTUNE_ABI {
namespace impl {

inline constexpr std::string_view check_prefix = "{\"check\":\"";

inline std::string hex_of(std::uint64_t value) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

/// FNV-1a.
inline std::uint64_t check_of(std::string_view bytes) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return hash;
}

/// The object's text with a check of its own bytes as first member, and a newline.
inline std::string checked_line(const ordered_json& object) {
  const std::string rest =
      "," + object.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace).substr(1);
  return std::string(check_prefix) + hex_of(check_of(rest)) + "\"" + rest + "\n";
}

/// JSON has no infinities; a log-likelihood may be one.
inline ordered_json write_double(double value) {
  if (is_finite(value)) return value;
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(value);
  if (bits << 12 != 0) return "nan";
  return bits >> 63 == 0 ? "inf" : "-inf";
}

inline double read_double(const profile_node& node) {
  if (!node.value().is_string()) return node.number();
  const std::string& text = node.text();
  constexpr double infinity = std::numeric_limits<double>::infinity();
  if (text == "inf") return infinity;
  if (text == "-inf") return -infinity;
  if (text != "nan") node.wrong("a number, \"inf\", \"-inf\" or \"nan\"");
  return std::numeric_limits<double>::quiet_NaN();
}

inline std::uint64_t read_hex(const profile_node& node, std::string_view text) {
  std::uint64_t value = 0;
  const char* const end = text.data() + text.size();
  if (std::from_chars(text.data(), end, value, 16).ptr != end || text.empty() || text.size() > 16)
    node.wrong("hexadecimal digits");
  return value;
}

/// Index of a choice, or no_label.
inline index_t read_choice(const profile_node& node) {
  if (node.value().is_number_integer() && node.value() == no_label) return no_label;
  return node.count();
}

inline std::vector<index_t> read_examples(const profile_node& record) {
  std::vector<index_t> examples;
  take_list(record, "examples", examples, [](const profile_node& n) { return n.count(); });
  return examples;
}

/// An array with an element for each example.
inline profile_node member_of_size(const profile_node& record, const char* key, std::size_t size) {
  const profile_node node = record.member(key);
  if (node.size() != size) node.wrong("an array of " + std::to_string(size) + " elements");
  return node;
}

inline evaluation_record read_evaluation(const profile_node& node) {
  evaluation_record record;
  record.table = read_hex(node.member("table"), node.member("table").text());
  const profile_node known = member_of_size(node, "known", 3);
  record.known = {known.element(0).boolean(), known.element(1).boolean(),
                  known.element(2).boolean()};
  record.examples = read_examples(node);
  record.seconds = node.member("seconds").number();
  const profile_node results = member_of_size(node, "results", record.examples.size());
  for (std::size_t i = 0; i < record.examples.size(); ++i) {
    const profile_node entry = results.element(i);
    if (entry.size() != 5) entry.wrong("an array of 5 elements");
    example_result result{read_choice(entry.element(0)),
                          read_choice(entry.element(1)),
                          {},
                          read_double(entry.element(2)),
                          read_double(entry.element(3))};
    const profile_node loglik = entry.element(4);
    for (std::size_t c = 0; c < loglik.size(); ++c)
      result.loglik.push_back(read_double(loglik.element(c)));
    record.results.push_back(std::move(result));
  }
  return record;
}

inline std::vector<float> read_floats(const profile_node& node) {
  const std::string_view text = node.text();
  if (text.size() % 8 != 0) node.wrong("eight hexadecimal digits for each value");
  std::vector<float> values;
  values.reserve(text.size() / 8);
  for (std::size_t i = 0; i < text.size(); i += 8)
    values.push_back(
        std::bit_cast<float>(static_cast<std::uint32_t>(read_hex(node, text.substr(i, 8)))));
  return values;
}

inline gradient_record read_gradient(const profile_node& node) {
  gradient_record record;
  record.table = read_hex(node.member("table"), node.member("table").text());
  const profile_node loss = member_of_size(node, "loss", 4);
  record.loss = {loss.element(0).number(), loss.element(1).number(), loss.element(2).number(),
                 loss.element(3).number()};
  record.examples = read_examples(node);
  record.seconds = node.member("seconds").number();
  const std::size_t rows = record.examples.size();
  const profile_node losses = member_of_size(node, "losses", rows);
  const profile_node gradients = member_of_size(node, "gradients", rows);
  for (std::size_t i = 0; i < rows; ++i) {
    record.values.loss.push_back(read_double(losses.element(i)));
    const std::vector<float> values = read_floats(gradients.element(i));
    if (i > 0 && record.values.gradient.size() != i * values.size())
      gradients.element(i).wrong("as many values as for the examples before it");
    record.values.gradient.insert(record.values.gradient.end(), values.begin(), values.end());
  }
  return record;
}

inline void read_journal_head(const profile_node& root, journal_contents& contents) {
  if (root.member("schema").text() != journal_schema)
    root.member("schema").wrong(std::string("\"") + journal_schema + "\"");
  if (root.member("version").count() != journal_version)
    root.member("version").wrong("version " + std::to_string(journal_version));
  contents.subject = root.member("subject").text();
}

}  // namespace impl

/// The first line of a journal. @param subject  identifies what the records are of: a journal of
/// something else must not be resumed
inline std::string write_journal_head(const std::string& subject) {
  return impl::checked_line(
      {{"schema", journal_schema}, {"version", journal_version}, {"subject", subject}});
}

/// A record as one line.
inline std::string write_journal_line(const evaluation_record& record) {
  impl::ordered_json results = impl::ordered_json::array();
  for (const example_result& result : record.results) {
    impl::ordered_json loglik = impl::ordered_json::array();
    for (const double value : result.loglik) loglik.push_back(impl::write_double(value));
    results.push_back(impl::ordered_json::array(
        {result.predicted, result.generated, impl::write_double(result.entropy),
         impl::write_double(result.choice_entropy), std::move(loglik)}));
  }
  return impl::checked_line(
      {{"kind", "answers"},
       {"table", impl::hex_of(record.table)},
       {"known", {record.known.loglik, record.known.generated, record.known.entropy}},
       {"examples", record.examples},
       {"seconds", record.seconds},
       {"results", std::move(results)}});
}
inline std::string write_journal_line(const gradient_record& record) {
  const std::size_t rows = record.examples.size();
  impl::ordered_json losses = impl::ordered_json::array(), gradients = impl::ordered_json::array();
  const std::size_t units = rows > 0 ? record.values.gradient.size() / rows : 0;
  for (std::size_t i = 0; i < rows; ++i) {
    losses.push_back(impl::write_double(record.values.loss[i]));
    std::string text;
    for (std::size_t unit = 0; unit < units; ++unit) {
      const float value = record.values.gradient[i * units + unit];
      text += impl::hex_of(std::bit_cast<std::uint32_t>(value)).substr(8);
    }
    gradients.push_back(std::move(text));
  }
  return impl::checked_line({{"kind", "gradients"},
                             {"table", impl::hex_of(record.table)},
                             {"loss",
                              {record.loss.choices, record.loss.vocabulary, record.loss.entropy,
                               record.loss.choice_entropy}},
                             {"examples", record.examples},
                             {"seconds", record.seconds},
                             {"losses", std::move(losses)},
                             {"gradients", std::move(gradients)}});
}

/// Reads a journal. The text is not trusted. What follows the last newline was not finished and is
/// left out.
/// @param where  begins every message: the name of the file
/// @throws format_error naming the line that fails its check, is no JSON, exceeds a limit, or is no
///         record; for a head that is missing or of another schema or version
inline journal_contents read_journal(std::string_view text, const std::string& where = "journal",
                                     const json_limits& limits = {}) {
  journal_contents contents;
  std::size_t number = 0;
  while (contents.good_bytes < text.size()) {
    const std::size_t end = text.find('\n', contents.good_bytes);
    if (end == std::string_view::npos) break;
    const std::string_view line = text.substr(contents.good_bytes, end - contents.good_bytes);
    const std::string place = where + ":" + std::to_string(++number);
    constexpr std::size_t digits = 16, prefix = impl::check_prefix.size();
    const bool checks = line.size() > prefix + digits + 1 &&
                        line.substr(0, prefix) == impl::check_prefix &&
                        line[prefix + digits] == '"' &&
                        line.substr(prefix, digits) ==
                            impl::hex_of(impl::check_of(line.substr(prefix + digits + 1)));
    if (!checks)
      impl::raise<format_error>(place +
                                ": expected a line whose check fits its bytes, got another");
    const nlohmann::json document = parse_json(line, place, limits);
    const impl::profile_node root(document, place);
    if (number == 1) {
      impl::read_journal_head(root, contents);
    } else if (const std::string& kind = root.member("kind").text(); kind == "answers") {
      contents.evaluations.push_back(impl::read_evaluation(root));
    } else if (kind == "gradients") {
      contents.gradients.push_back(impl::read_gradient(root));
    } else {
      root.member("kind").wrong("\"answers\" or \"gradients\"");
    }
    contents.good_bytes = end + 1;
  }
  return contents;
}

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
