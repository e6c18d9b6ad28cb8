// SPDX-License-Identifier: Apache-2.0
// The journal file of a tuning run: every finished evaluation and gradient is appended, so that a
// run that was killed goes on where it was.
#pragma once

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "zerotune/tuning/json_journal.hpp"
#include "zerotune/tuning/recorded_evaluator.hpp"

namespace zerotune_cli {

class tuning_journal {
 public:
  /// Reads the journal if there is one and cuts off an unfinished line at its end; begins it if
  /// there is none.
  /// @param subject  of what the records are; a journal of something else is refused
  /// @throws usage_error for a journal of something else, or a file that cannot be read;
  ///         zerotune::format_error for one that is damaged; output_error if it cannot be written
  tuning_journal(std::filesystem::path path, const std::string& subject);

  /// What was read.
  const zerotune::journal_contents& contents() const { return contents_; }

  /// Appends every record from now on. The journal must outlive it.
  /// Its functions throw output_error.
  zerotune::record_sink sink();

 private:
  struct closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  void append(std::string_view line);

  std::filesystem::path path_;
  zerotune::journal_contents contents_;
  std::unique_ptr<std::FILE, closer> file_;
};

}  // namespace zerotune_cli
