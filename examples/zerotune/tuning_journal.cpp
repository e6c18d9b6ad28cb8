// SPDX-License-Identifier: Apache-2.0
#include "tuning_journal.hpp"

#include <cerrno>
#include <system_error>
#include <utility>

#include "failure.hpp"
#include "files.hpp"

namespace zerotune_cli {

namespace fs = std::filesystem;

tuning_journal::tuning_journal(fs::path path, const std::string& subject) : path_(std::move(path)) {
  if (std::error_code error; fs::exists(path_, error)) {
    const std::string text = read_file(path_, std::size_t{1} << 30);
    contents_ = zerotune::read_journal(text, path_.string());
    if (contents_.good_bytes > 0 && contents_.subject != subject)
      throw usage_error(path_.string() +
                        ": expected a journal of this model, data, template and instruction set, "
                        "got one of another (" +
                        contents_.subject.substr(0, 512) + "); remove it or name another file");
    if (contents_.good_bytes < text.size()) fs::resize_file(path_, contents_.good_bytes, error);
    if (error) throw output_error(path_.string() + ": cannot be written: " + error.message());
  }
  file_.reset(std::fopen(path_.c_str(), "ab"));
  if (!file_)
    throw output_error(path_.string() +
                       ": cannot be written: " + std::generic_category().message(errno));
  if (contents_.good_bytes == 0) append(zerotune::write_journal_head(subject));
}

void tuning_journal::append(std::string_view line) {
  // The line must be with the system before the next piece of work begins.
  if (std::fwrite(line.data(), 1, line.size(), file_.get()) != line.size() ||
      std::fflush(file_.get()) != 0)
    throw output_error(path_.string() + ": cannot be written");
}

zerotune::record_sink tuning_journal::sink() {
  return {[this](const zerotune::evaluation_record& record) {
            append(zerotune::write_journal_line(record));
          },
          [this](const zerotune::gradient_record& record) {
            append(zerotune::write_journal_line(record));
          }};
}

}  // namespace zerotune_cli
