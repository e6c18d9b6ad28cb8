// SPDX-License-Identifier: Apache-2.0
// What a model's free answer means (docs/design.md, section 7): trimmed of white space and
// punctuation, case folded, it names the longest choice that is a word-bounded prefix of it.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "zerotune/tuning/evaluator.hpp"

namespace zerotune_cli {

using zerotune::index_t;

/// Lower case for Latin, Greek and Cyrillic letters; the rest, invalid UTF-8 included, unchanged.
/// Depends on no locale.
std::string fold_case(std::string_view text);

/// Without the white space and punctuation at both ends.
std::string_view trim(std::string_view text);

/// How texts are compared: trimmed, then case folded.
std::string normalise(std::string_view text);

/// The part of a continuation that counts: up to the first newline.
std::string_view first_line(std::string_view continuation);

/// The choice that a continuation names, no_label if none: among the normalised choices that are a
/// prefix of the normalised first line and end there at a word's boundary the longest, the lowest
/// of equals.
/// @param choices  as normalise() returns them; an empty one is never named
index_t parse_answer(std::string_view continuation, std::span<const std::string> choices);

/// Whether parse_answer() would say the same however the continuation went on, so that a search
/// need not generate the rest.
bool is_settled(std::string_view continuation, std::span<const std::string> choices);

}  // namespace zerotune_cli
