// SPDX-License-Identifier: Apache-2.0
#include "report_rows.hpp"

#include <algorithm>
#include <array>
#include <map>

#include "report_html.hpp"
#include "table.hpp"

namespace zerotune_cli {

namespace {

using answer = row_outcome::answer;
using zerotune::no_label;

constexpr const char* missing =
    "<p class=\"soft\">No predictions were given. <code>zerotune evaluate --predictions</code> "
    "writes them, once without a gamma and once with <code>--profile</code>; pass both files with "
    "<code>--untouched</code> and <code>--tuned</code>.</p>\n";

constexpr std::size_t most_classes = 40;  // a confusion matrix of more says nothing to the eye

std::string class_name(const report_input& input, index_t choice) {
  if (choice == no_label) return "<i>invalid</i>";
  const auto index = static_cast<std::size_t>(choice);
  if (index < input.classes.size())
    return "<bdi>" + escape_html(shorten(input.classes[index], 60)) + "</bdi>";
  return "choice " + std::to_string(choice);
}

// Choices that occur as label or answer, in order.
std::vector<index_t> classes_of(const report_input& input) {
  std::map<index_t, bool> seen;
  for (const row_outcome& row : input.outcomes)
    for (const index_t choice : {row.label, row.untouched.predicted, row.untouched.generated,
                                 row.tuned.predicted, row.tuned.generated})
      if (choice != no_label) seen[choice] = true;
  for (std::size_t i = 0; i < input.classes.size(); ++i) seen[static_cast<index_t>(i)] = true;
  std::vector<index_t> classes;
  for (const auto& entry : seen) classes.push_back(entry.first);
  return classes;
}

bool has_labels(const report_input& input) {
  return std::any_of(input.outcomes.begin(), input.outcomes.end(),
                     [](const row_outcome& row) { return row.label != no_label; });
}

std::string note(const report_input& input) {
  return "<p class=\"soft\">" + std::to_string(input.outcomes.size()) + " rows. " +
         escape_html(input.outcomes_note) + "</p>\n";
}

std::string share_of(index_t right, index_t rows) {
  return format_number("%.3f", static_cast<double>(right) / static_cast<double>(rows));
}

std::string matrix(const report_input& input, const std::string& title, answer row_outcome::*when,
                   index_t answer::*score, const std::vector<index_t>& classes) {
  std::vector<index_t> columns = classes;
  if (score == &answer::generated) columns.push_back(no_label);
  std::map<std::pair<index_t, index_t>, index_t> counts;
  std::map<index_t, index_t> totals;
  for (const row_outcome& row : input.outcomes) {
    if (row.label == no_label) continue;
    ++counts[{row.label, row.*when.*score}];
    ++totals[row.label];
  }
  std::string html = "<div class=\"card\"><h3>" + escape_html(title) +
                     "</h3><div class=\"scroll\"><table class=\"confusion\"><tr><th "
                     "class=\"t\">label</th>";
  for (const index_t column : columns) html += "<th>" + class_name(input, column) + "</th>";
  html += "</tr>\n";
  for (const index_t label : classes) {
    if (totals[label] == 0) continue;
    html += "<tr><th class=\"t\">" + class_name(input, label) + "</th>";
    for (const index_t column : columns) {
      const index_t count = counts[{label, column}];
      const double share = static_cast<double>(count) / static_cast<double>(totals[label]);
      const char* const colour = column == label ? "--good" : "--bad";
      html += "<td style=\"background:color-mix(in srgb,var(" + std::string(colour) + ") " +
              format_number("%.0f", 45 * share) + "%,transparent)\">" + std::to_string(count) +
              "</td>";
    }
    html += "</tr>\n";
  }
  return html + "</table></div></div>\n";
}

// Whether the generated answer, or failing that the likelier choice, is right.
int rightness(const row_outcome& row, const answer& given) {
  return 2 * (given.generated == row.label) + (given.predicted == row.label);
}

std::string answer_text(const report_input& input, const data_row* data, const answer& given) {
  const auto name = [&](index_t choice) {
    if (data && choice != no_label && static_cast<std::size_t>(choice) < data->choices.size())
      return "<bdi>" + escape_html(shorten(data->choices[static_cast<std::size_t>(choice)], 120)) +
             "</bdi>";
    return class_name(input, choice);
  };
  std::string text = "likelier: " + name(given.predicted) + "; generated: " + name(given.generated);
  if (!given.continuation.empty())
    text += " (\xe2\x80\x9c<bdi>" + escape_html(shorten(given.continuation, 120)) +
            "</bdi>\xe2\x80\x9d)";
  return text;
}

}  // namespace

std::string per_class_section(const report_input& input) {
  if (!has_labels(input)) return missing;
  std::map<index_t, std::array<index_t, 7>> counts;  // rows, 2 x (likelihood, generated, invalid)
  for (const row_outcome& row : input.outcomes) {
    if (row.label == no_label) continue;
    std::array<index_t, 7>& count = counts[row.label];
    ++count[0];
    std::size_t at = 1;
    for (const answer* given : {&row.untouched, &row.tuned}) {
      count[at] += given->predicted == row.label;
      count[at + 1] += given->generated == row.label;
      count[at + 2] += given->generated == no_label;
      at += 3;
    }
  }
  std::vector<std::vector<std::string>> rows{
      {"class", "rows", "likelihood untouched", "likelihood tuned", "generated untouched",
       "generated tuned", "invalid untouched", "invalid tuned"}};
  for (const auto& [label, count] : counts)
    rows.push_back({class_name(input, label), std::to_string(count[0]),
                    share_of(count[1], count[0]), share_of(count[4], count[0]),
                    share_of(count[2], count[0]), share_of(count[5], count[0]),
                    share_of(count[3], count[0]), share_of(count[6], count[0])});
  return note(input) + "<div class=\"cards\"><div class=\"card\">" + html_table(rows) +
         "</div></div>\n";
}

std::string confusion_section(const report_input& input) {
  if (!has_labels(input)) return missing;
  const std::vector<index_t> classes = classes_of(input);
  if (classes.size() > most_classes)
    return "<p class=\"soft\">" + std::to_string(classes.size()) +
           " classes are too many to show.</p>\n";
  return "<p class=\"soft\">Rows are labels, columns the model's answers; the colour is the share "
         "of the label's rows.</p>\n<div class=\"cards\">" +
         matrix(input, "Generated, untouched", &row_outcome::untouched, &answer::generated,
                classes) +
         matrix(input, "Generated, tuned", &row_outcome::tuned, &answer::generated, classes) +
         matrix(input, "Likelihood, untouched", &row_outcome::untouched, &answer::predicted,
                classes) +
         matrix(input, "Likelihood, tuned", &row_outcome::tuned, &answer::predicted, classes) +
         "</div>\n";
}

std::string changed_section(const report_input& input, index_t limit) {
  if (input.outcomes.empty()) return missing;
  std::map<std::string, const data_row*> texts;
  if (input.data)
    for (const data_row& row : input.data->rows) texts[row.id] = &row;
  std::string html;
  index_t changed = 0, better = 0, worse = 0;
  for (const row_outcome& row : input.outcomes) {
    const answer &before = row.untouched, &after = row.tuned;
    if (before.predicted == after.predicted && before.generated == after.generated) continue;
    const int change = row.label == no_label ? 0 : rightness(row, after) - rightness(row, before);
    better += change > 0;
    worse += change < 0;
    if (changed++ >= limit) continue;
    const auto found = texts.find(row.id);
    const data_row* const data = found == texts.end() ? nullptr : found->second;
    html += "<div class=\"example" +
            std::string(change > 0   ? " fixed"
                        : change < 0 ? " broken"
                                     : "") +
            "\"><p><b><bdi>" + escape_html(shorten(row.id, 80)) + "</bdi></b>";
    if (row.label != no_label) {
      const bool known = data && static_cast<std::size_t>(row.label) < data->choices.size();
      html +=
          ", label " +
          (known
               ? "<bdi>" +
                     escape_html(shorten(data->choices[static_cast<std::size_t>(row.label)], 120)) +
                     "</bdi>"
               : class_name(input, row.label));
    }
    html += change > 0   ? " <span class=\"good\">better</span>"
            : change < 0 ? " <span class=\"bad\">worse</span>"
                         : "";
    html += "</p>\n";
    if (data) html += "<p><bdi>" + escape_html(shorten(data->text, 400)) + "</bdi></p>\n";
    html += "<p class=\"soft small\">untouched: " + answer_text(input, data, before) + "</p>\n";
    html += "<p class=\"soft small\">tuned: " + answer_text(input, data, after) + "</p></div>\n";
  }
  std::string text = "<p>" + std::to_string(changed) + " of " +
                     std::to_string(input.outcomes.size()) + " rows have another answer";
  if (has_labels(input))
    text += ": " + std::to_string(better) + " better, " + std::to_string(worse) + " worse";
  text +=
      changed > limit ? "; the first " + std::to_string(limit) + " are shown.</p>\n" : ".</p>\n";
  return text + html;
}

}  // namespace zerotune_cli
