// SPDX-License-Identifier: Apache-2.0
// Text as HTML: nothing that comes from a file can become markup.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace zerotune_cli {

/// Text for an element or a quoted attribute: & < > " ' are replaced by references, control
/// characters (and those that turn the direction of text) by U+FFFD. @pre the text is UTF-8
std::string escape_html(std::string_view text);

/// The beginning of a text of at most `bytes` bytes, with an ellipsis if something is left out; no
/// character of UTF-8 is cut.
std::string shorten(std::string_view text, std::size_t bytes);

/// Text as a paragraph. @param kind  its class in the style sheet: soft, good, bad or none
std::string paragraph(std::string_view text, std::string_view kind = "soft");

/// HTML in a box, and boxes beside each other.
std::string card(const std::string& html);
std::string cards(const std::string& html);

/// A table whose cells are HTML already, in a box that scrolls sideways. The first row is the head.
/// @param text_columns  columns from the left that are text; the others are numbers
std::string html_table(const std::vector<std::vector<std::string>>& rows,
                       std::size_t text_columns = 1);

/// A whole page that loads nothing. @param title  text  @param body  HTML
std::string html_page(std::string_view title, std::string_view body);

}  // namespace zerotune_cli
