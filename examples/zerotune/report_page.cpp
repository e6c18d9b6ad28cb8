// SPDX-License-Identifier: Apache-2.0
#include "report_page.hpp"

#include "report_html.hpp"
#include "report_rows.hpp"
#include "report_sections.hpp"

namespace zerotune_cli {

std::string make_report(const report_input& input, index_t examples) {
  const zerotune::tuning_profile& p = input.profile;
  const struct {
    const char *id, *title;
    std::string html;
  } sections[] = {
      {"before-after", "Before and after", before_after_section(input)},
      {"heat-maps", "Heads", heat_maps_section(input)},
      {"curves", "Curves", curves_section(input)},
      {"classes", "Per class", per_class_section(input)},
      {"confusion", "Confusion", confusion_section(input)},
      {"examples", "Examples that changed", changed_section(input, examples)},
      {"search", "Search", search_section(p)},
      {"cost", "Cost of the search", cost_section(input)},
      {"settings", "Settings, to repeat it", settings_section(input)},
  };
  const std::string model = p.model.name.empty() ? "a model" : p.model.name;
  std::string body = "<h1>Attention to the initial token, tuned</h1>\n<p class=\"soft\"><bdi>" +
                     escape_html(model) + "</bdi>, " + std::to_string(p.gamma.layers()) +
                     " layers of " + std::to_string(p.gamma.heads()) + " heads";
  if (!p.chosen_method.empty())
    body += "; found by " + escape_html(p.chosen_method) + ", " + escape_html(p.chosen_detail);
  body += "</p>\n<section id=\"summary\">\n" + summary_section(input) + "</section>\n<nav>";
  for (const auto& section : sections)
    body += "<a href=\"#" + std::string(section.id) + "\">" + section.title + "</a>\n";
  body += "</nav>\n";
  for (const auto& section : sections)
    body += "<section id=\"" + std::string(section.id) + "\">\n<h2>" + section.title + "</h2>\n" +
            section.html + "</section>\n";
  return html_page("zerotune: " + model, body);
}

}  // namespace zerotune_cli
