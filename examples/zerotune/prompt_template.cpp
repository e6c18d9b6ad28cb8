// SPDX-License-Identifier: Apache-2.0
#include "prompt_template.hpp"

#include <algorithm>
#include <utility>

#include "failure.hpp"
#include "files.hpp"
#include "llama/pre_tokenizer.hpp"

namespace zerotune_cli {

prompt_template::prompt_template(std::string text, const std::string& where)
    : text_(std::move(text)) {
  if (llama::replace_invalid_utf8(text_) != text_)
    throw usage_error(where + ": expected UTF-8, got other bytes");
  std::string literal;
  bool has_text = false;
  const auto flush = [&] {
    if (!literal.empty()) parts_.push_back({std::exchange(literal, {}), field::none});
  };
  for (std::size_t i = 0; i < text_.size(); ++i) {
    const char c = text_[i];
    if (c != '{' && c != '}') {
      literal += c;
      continue;
    }
    if (i + 1 < text_.size() && text_[i + 1] == c) {
      literal += c;
      ++i;
      continue;
    }
    const std::size_t end = c == '{' ? text_.find('}', i) : std::string::npos;
    const std::string name =
        end == std::string::npos ? std::string() : text_.substr(i + 1, end - i - 1);
    const std::string position = " at byte " + std::to_string(i);
    if (end == std::string::npos)
      throw usage_error(where + position + ": expected '" + c + c + "' for a brace, got one '" + c +
                        "'");
    field kind = field::none;
    if (name == "text") kind = field::text;
    if (name == "context") kind = field::context;
    if (name == "choices") kind = field::choices;
    if (kind == field::none)
      throw usage_error(where + position + ": expected {text}, {context} or {choices}, got {" +
                        name.substr(0, 64) + "}");
    has_text = has_text || kind == field::text;
    flush();
    parts_.push_back({{}, kind});
    i = end;
  }
  flush();
  if (!has_text) throw usage_error(where + ": expected {text} in it, got none");
}

prompt_template prompt_template::from_option(const std::string& value) {
  if (value.empty() || value.front() != '@') return prompt_template(value, "--template");
  const std::string path = value.substr(1);
  std::string text = read_file(path, std::size_t{1} << 20);
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  return prompt_template(std::move(text), path);
}

std::vector<prompt_part> prompt_template::render(const data_row& row) const {
  std::vector<prompt_part> result;
  for (const part& p : parts_) {
    switch (p.name) {
      case field::none:
        result.push_back({p.literal, true});
        break;
      case field::text:
        result.push_back({row.text, false});
        break;
      case field::context:
        result.push_back({row.context, false});
        break;
      case field::choices: {
        std::string list;
        for (const std::string& choice : row.choices) list += (list.empty() ? "" : ", ") + choice;
        result.push_back({std::move(list), false});
        break;
      }
    }
  }
  return result;
}

std::vector<prompt_part> prompt_template::render(const data_row& row,
                                                 std::span<const data_row> examples) const {
  std::vector<prompt_part> result;
  const auto append = [&](std::vector<prompt_part> parts) {
    std::move(parts.begin(), parts.end(), std::back_inserter(result));
  };
  for (const data_row& example : examples) {
    append(render(example));
    result.push_back({" " + example.choices[static_cast<std::size_t>(example.label)], false});
    result.push_back({"\n\n", true});
  }
  append(render(row));
  return result;
}

std::vector<int> encode_parts(const llama::tokenizer& tokens, std::span<const prompt_part> parts) {
  std::vector<int> ids;
  std::string plain;
  const auto flush = [&] {
    if (plain.empty()) return;
    const std::vector<int> more = tokens.encode(plain);
    ids.insert(ids.end(), more.begin(), more.end());
    plain.clear();
  };
  for (const prompt_part& part : parts) {
    std::size_t done = 0;
    if (part.is_template) {
      for (const int id : tokens.encode_template(part.text)) {
        if (!tokens.is_control(id)) continue;
        const std::string spelling = tokens.piece(id);
        const std::size_t at = part.text.find(spelling, done);
        if (spelling.empty() || at == std::string::npos) continue;
        plain.append(part.text, done, at - done);
        flush();
        ids.push_back(id);
        done = at + spelling.size();
      }
    }
    plain.append(part.text, done);
  }
  flush();
  return ids;
}

std::vector<int> encode_prompt(const llama::tokenizer& tokens, std::span<const prompt_part> parts) {
  std::vector<int> ids = encode_parts(tokens, parts);
  if (tokens.add_bos() && tokens.bos_id() >= 0 && (ids.empty() || ids[0] != tokens.bos_id()))
    ids.insert(ids.begin(), tokens.bos_id());
  return ids;
}

std::vector<int> encode_answer(const llama::tokenizer& tokens, const std::string& text) {
  const std::vector<int> probe = tokens.encode("a");
  const bool adds_space = !probe.empty() && tokens.piece(probe[0]).starts_with(' ');
  return tokens.encode(adds_space ? text : " " + text);
}

}  // namespace zerotune_cli
