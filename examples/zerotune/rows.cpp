// SPDX-License-Identifier: Apache-2.0
#include "rows.hpp"

#include <algorithm>
#include <unordered_map>

#include "failure.hpp"
#include "files.hpp"
#include "zerotune/tuning/json_limits.hpp"

namespace zerotune_cli {

namespace {

constexpr zerotune::json_limits line_limits{
    .bytes = 4u << 20, .depth = 8, .string_bytes = 4u << 20, .elements = 10000};
constexpr std::size_t max_rows = 1000000;
constexpr std::size_t max_choices = 1000;

[[noreturn]] void wrong(const std::string& where, const std::string& what,
                        const std::string& expected, const std::string& got) {
  throw usage_error(where + ": " + what + ": expected " + expected + ", got " + got);
}

const std::string& text_member(const nlohmann::json& row, const char* key,
                               const std::string& where) {
  const auto found = row.find(key);
  if (found == row.end()) wrong(where, key, "a string", "nothing");
  if (!found->is_string()) wrong(where, key, "a string", found->type_name());
  return found->get_ref<const std::string&>();
}

std::vector<std::string> read_choices(const nlohmann::json& row, const std::string& where) {
  const auto found = row.find("choices");
  if (found == row.end()) wrong(where, "choices", "an array of strings", "nothing");
  if (!found->is_array()) wrong(where, "choices", "an array of strings", found->type_name());
  if (found->empty() || found->size() > max_choices)
    wrong(where, "choices", "1 to " + std::to_string(max_choices), std::to_string(found->size()));
  std::vector<std::string> choices;
  for (const nlohmann::json& choice : *found) {
    const std::string name = "choices[" + std::to_string(choices.size()) + "]";
    if (!choice.is_string()) wrong(where, name, "a string", choice.type_name());
    const std::string& text = choice.get_ref<const std::string&>();
    if (text.empty()) wrong(where, name, "a text", "an empty string");
    choices.push_back(text);
  }
  return choices;
}

data_row read_row(std::string_view line, const std::string& where) {
  nlohmann::json json;
  try {
    json = zerotune::parse_json(line, where, line_limits);
  } catch (const zerotune::format_error& error) {
    throw usage_error(error.what());
  }
  if (!json.is_object()) wrong(where, "row", "a JSON object", json.type_name());
  data_row row;
  const auto id = json.find("id");
  row.id =
      id != json.end() && id->is_number_integer() ? id->dump() : text_member(json, "id", where);
  row.text = text_member(json, "text", where);
  if (const auto context = json.find("context"); context != json.end() && !context->is_null())
    row.context = text_member(json, "context", where);
  row.choices = read_choices(json, where);
  if (const auto label = json.find("label"); label != json.end() && !label->is_null()) {
    const std::string expected = "an index in [0, " + std::to_string(row.choices.size()) + ")";
    if (!label->is_number_unsigned()) {
      const bool is_number = label->is_number();
      wrong(where, "label", expected, is_number ? label->dump() : label->type_name());
    }
    if (label->get<std::uint64_t>() >= row.choices.size())
      wrong(where, "label", expected, label->dump());
    // Public data sets hold rows with a choice given twice. Both are one answer, and the first of
    // equals is what a prediction names.
    const std::string& right = row.choices[label->get<std::size_t>()];
    row.label = static_cast<index_t>(std::find(row.choices.begin(), row.choices.end(), right) -
                                     row.choices.begin());
  }
  return row;
}

}  // namespace

std::vector<index_t> data_set::labels() const {
  std::vector<index_t> result;
  for (const data_row& row : rows) result.push_back(row.label);
  return result;
}

std::string data_set::where(index_t row) const {
  return name + ":" + std::to_string(rows[static_cast<std::size_t>(row)].line);
}

void data_set::require_labels(std::string_view command) const {
  for (const data_row& row : rows)
    if (row.label == zerotune::no_label)
      wrong(name + ":" + std::to_string(row.line), "row \"" + row.id + "\"",
            "a label, which " + std::string(command) + " needs", "none");
}

bool data_set::is_unlabelled() const {
  const auto labelled = [](const data_row& row) { return row.label != zerotune::no_label; };
  if (std::none_of(rows.begin(), rows.end(), labelled)) return true;
  require_labels("a file with other labelled rows");
  return false;
}

data_set parse_rows(std::string_view text, std::string name) {
  data_set data{std::move(name), {}};
  std::unordered_map<std::string, std::size_t> lines;  // of the ids
  std::size_t number = 0;
  while (!text.empty()) {
    ++number;
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = data.name + ":" + std::to_string(number);
    if (data.rows.size() >= max_rows)
      wrong(where, "rows", "at most " + std::to_string(max_rows), "more");
    data_row row = read_row(line, where);
    row.line = number;
    const auto [before, is_new] = lines.emplace(row.id, number);
    if (!is_new)
      wrong(where, "id", "one not given before",
            "\"" + row.id.substr(0, 64) + "\" as in line " + std::to_string(before->second));
    data.rows.push_back(std::move(row));
  }
  return data;
}

data_set read_rows(const std::filesystem::path& path) {
  data_set data = parse_rows(read_file(path, std::size_t{1} << 30), path.string());
  if (data.rows.empty()) throw usage_error(path.string() + ": expected rows, got none");
  return data;
}

}  // namespace zerotune_cli
