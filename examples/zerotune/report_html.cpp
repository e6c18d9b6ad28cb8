// SPDX-License-Identifier: Apache-2.0
#include "report_html.hpp"

namespace zerotune_cli {

namespace {

// Control characters of ASCII but tab and newline.
bool is_control(char c) {
  const auto code = static_cast<unsigned char>(c);
  return (code < 0x20 && c != '\t' && c != '\n') || code == 0x7f;
}

// Bytes of a C1 control, or of a mark that turns the direction of what follows, at the beginning.
std::size_t invisible_bytes(std::string_view text) {
  const auto byte = [&](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  if (byte(0) == 0xc2 && byte(1) >= 0x80 && byte(1) <= 0x9f) return 2;
  const bool embeds = byte(1) == 0x80 && byte(2) >= 0xaa && byte(2) <= 0xae;    // U+202A-202E
  const bool isolates = byte(1) == 0x81 && byte(2) >= 0xa6 && byte(2) <= 0xa9;  // U+2066-2069
  return byte(0) == 0xe2 && (embeds || isolates) ? 3 : 0;
}

constexpr const char* replacement = "\xef\xbf\xbd";

constexpr const char* style = R"css(
:root{color-scheme:light dark;--ink:#1d2329;--soft:#59636e;--paper:#fbfbfa;--card:#fff;--line:#d9dde1;
--up:#c2410c;--down:#1d5fc4;--mass:#0f766e;--good:#15803d;--bad:#b91c1c;--grid:#e6e8ea;
--s0:#1d5fc4;--s1:#c2410c;--s2:#0f766e;--s3:#7c3aed;--s4:#a16207;--s5:#be185d}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7ea;--soft:#a0a9b3;--paper:#14171a;--card:#1b1f23;
--line:#363d44;--up:#fb923c;--down:#6ea8ff;--mass:#2dd4bf;--good:#4ade80;--bad:#f87171;--grid:#2a3036;
--s0:#6ea8ff;--s1:#fb923c;--s2:#2dd4bf;--s3:#b794ff;--s4:#e0b43c;--s5:#f472b6}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1232px;margin:0 auto;padding:20px 16px 60px}
h1{font-size:1.55rem;line-height:1.25;margin:0 0 4px}
h2{font-size:1.15rem;margin:34px 0 8px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:.95rem;margin:0 0 6px}
p{margin:6px 0;max-width:80ch}
.soft{color:var(--soft)}.good{color:var(--good)}.bad{color:var(--bad)}
.small{font-size:.86rem}
nav{display:flex;flex-wrap:wrap;gap:2px 14px;margin:12px 0 0;font-size:.88rem}
a{color:var(--down)}
.cards{display:flex;flex-wrap:wrap;gap:14px;align-items:flex-start;margin:10px 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:12px;max-width:100%;
min-width:0}
.wide{width:100%}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{padding:4px 10px 4px 0;text-align:right;vertical-align:top;border-bottom:1px solid var(--line)}
td{white-space:nowrap}
th{font-weight:600;color:var(--soft);vertical-align:bottom}
tr:last-child>td{border-bottom:0}
.t{text-align:left}
td.t{white-space:normal;overflow-wrap:break-word;max-width:22em}
.scroll>table:not(.keys) tr>:first-child{position:sticky;left:0;background:var(--card)}
.keys td{text-align:left;overflow-wrap:anywhere;white-space:pre-wrap}
.keys td:first-child{white-space:normal;color:var(--soft);min-width:8em;overflow-wrap:normal}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;font:.84rem/1.45 ui-monospace,monospace}
.confusion{table-layout:fixed}
.confusion td,.confusion th{border:1px solid var(--line);padding:5px 7px;text-align:center;
white-space:normal;overflow-wrap:break-word}
.example{border-left:3px solid var(--line);padding:2px 0 2px 10px;margin:0 0 12px;max-width:80ch}
.example.fixed{border-color:var(--good)}.example.broken{border-color:var(--bad)}
.example p{margin:2px 0;overflow-wrap:anywhere;white-space:pre-wrap}
svg{display:block;max-width:100%;height:auto}
svg text{fill:var(--soft);font:11px system-ui,sans-serif}
.cell{fill:var(--grid)}.up{fill:var(--up)}.down{fill:var(--down)}.mass{fill:var(--mass)}
.axis{stroke:var(--soft);stroke-width:1;fill:none}.grid{stroke:var(--grid);stroke-width:1}
.legend{display:flex;flex-wrap:wrap;gap:0 14px;font-size:.82rem;color:var(--soft);margin-top:4px}
.dot{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:5px}
summary{cursor:pointer;color:var(--down)}
@media(max-width:600px){main{padding:14px 10px 40px}.card{padding:10px}th,td{padding-right:8px}}
@media print{nav{display:none}.card{break-inside:avoid}}
)css";

}  // namespace

std::string escape_html(std::string_view text) {
  std::string html;
  html.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (const std::size_t hidden = invisible_bytes(text.substr(i)); hidden > 0) {
      html += replacement;
      i += hidden - 1;
    } else if (is_control(c)) {
      html += replacement;
    } else if (c == '&') {
      html += "&amp;";
    } else if (c == '<') {
      html += "&lt;";
    } else if (c == '>') {
      html += "&gt;";
    } else if (c == '"') {
      html += "&quot;";
    } else if (c == '\'') {
      html += "&#39;";
    } else {
      html += c;
    }
  }
  return html;
}

std::string shorten(std::string_view text, std::size_t bytes) {
  if (text.size() <= bytes) return std::string(text);
  std::size_t end = bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return std::string(text.substr(0, end)) + " \xe2\x80\xa6";
}

std::string paragraph(std::string_view text, std::string_view kind) {
  return "<p class=\"" + std::string(kind) + "\">" + escape_html(text) + "</p>\n";
}

std::string card(const std::string& html) { return "<div class=\"card\">" + html + "</div>\n"; }
std::string cards(const std::string& html) { return "<div class=\"cards\">" + html + "</div>\n"; }

std::string html_table(const std::vector<std::vector<std::string>>& rows,
                       std::size_t text_columns) {
  std::string html = "<div class=\"scroll\"><table>\n";
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const char* const tag = r == 0 ? "th" : "td";
    html += "<tr>";
    for (std::size_t c = 0; c < rows[r].size(); ++c) {
      html.append("<").append(tag).append(c < text_columns ? " class=\"t\">" : ">");
      html.append(rows[r][c]).append("</").append(tag).append(">");
    }
    html += "</tr>\n";
  }
  return html + "</table></div>\n";
}

std::string html_page(std::string_view title, std::string_view body) {
  std::string html =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      // Even if something got past the escaping, nothing may run or be loaded.
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\">\n<title>";
  html.append(escape_html(title)).append("</title>\n<style>").append(style);
  html.append("</style>\n</head>\n<body>\n<main>\n").append(body);
  return html + "</main>\n</body>\n</html>\n";
}

}  // namespace zerotune_cli
