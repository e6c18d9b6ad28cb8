// SPDX-License-Identifier: Apache-2.0
#include "report_html.hpp"
#include "report_sections.hpp"
#include "table.hpp"

namespace zerotune_cli {

namespace {

using zerotune::tuning_profile;

class setting_list {
 public:
  void add(const std::string& name, const std::string& value) {
    if (value.empty()) return;
    html_ += "<tr><td>" + escape_html(name) + "</td><td><bdi>" +
             escape_html(shorten(value, 20000)) + "</bdi></td></tr>\n";
  }
  void add(const std::string& name, double value) {
    if (value != 0) add(name, format_number("%.6g", value));
  }
  std::string html() const {
    return "<div class=\"scroll\"><table class=\"keys\">" + html_ + "</table></div>";
  }

 private:
  std::string html_;
};

std::string ids(const char* name, const std::vector<std::string>& list) {
  std::string text;
  for (const std::string& id : list) text += (text.empty() ? "" : ", ") + id;
  return "<details><summary>" + std::string(name) + " split: " + std::to_string(list.size()) +
         " rows</summary><p class=\"small\"><bdi>" + escape_html(text) + "</bdi></p></details>\n";
}

std::string gamma_text(const zerotune::gamma_table& gamma) {
  std::string text;
  for (index_t layer = 0; layer < gamma.layers(); ++layer)
    for (index_t head = 0; head < gamma.heads(); ++head)
      text += format_number("%.9g", static_cast<double>(gamma(layer, head))) +
              (head + 1 < gamma.heads() ? " " : "\n");
  return "<details><summary>The table, a line per layer</summary><pre>" + text +
         "</pre></details>\n";
}

}  // namespace

std::string settings_section(const report_input& input) {
  const tuning_profile& p = input.profile;
  setting_list list;
  list.add("profile", input.profile_name);
  list.add("model", p.model.name);
  list.add("architecture", p.model.architecture);
  list.add("layers", static_cast<double>(p.gamma.layers()));
  list.add("heads", static_cast<double>(p.gamma.heads()));
  list.add("key-value heads", static_cast<double>(p.model.kv_heads));
  list.add("weights", p.model.quantization);
  list.add("model file, SHA-256", p.model.file_hash);
  list.add("vocabulary, SHA-256", p.model.vocabulary_hash);
  list.add("template", p.template_text);
  list.add("form", p.form);
  list.add("method", p.method);
  list.add("chosen", p.chosen_method.empty() ? "" : p.chosen_method + ", " + p.chosen_detail);
  list.add("objective", p.objective);
  if (!p.method.empty()) list.add("seed", std::to_string(p.seed));
  if (p.loss) {
    list.add("loss: choices", p.loss->choices);
    list.add("loss: vocabulary", p.loss->vocabulary);
    list.add("loss: entropy", p.loss->entropy);
    list.add("loss: entropy over the choices", p.loss->choice_entropy);
  }
  list.add("granularity", p.granularity);
  list.add("kind", p.kind);
  list.add("probe gamma", p.probe_gamma);
  list.add("share", p.share);
  for (const zerotune::profile_setting& setting : input.profile.settings)
    list.add(setting.name, setting.value);
  std::string html = card(list.html());
  if (p.splits)
    html += ids("profile", p.splits->profile) + ids("search", p.splits->search) +
            ids("test", p.splits->test);
  return html + gamma_text(p.gamma);
}

}  // namespace zerotune_cli
