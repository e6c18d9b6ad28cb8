// SPDX-License-Identifier: Apache-2.0
// A model file that is ready to run, with its tokenizer and what profiles say of it.
#pragma once

#include <string>

#include "llama/gguf.hpp"
#include "llama/model.hpp"
#include "llama/tokenizer.hpp"
#include "zerotune/tuning/gamma_table.hpp"
#include "zerotune/tuning/profile.hpp"

namespace zerotune_cli {

/// Owns everything that a command needs of a model.
struct loaded_model {
  llama::gguf_file file;
  llama::tokenizer tokens;
  llama::model model;
  llama::gemm_kind products;  ///< who multiplies

  /// @throws llama::format_error, std::system_error naming the file
  ///         std::invalid_argument if this build or CPU has not got such products
  explicit loaded_model(const std::string& path, llama::gemm_kind products = llama::default_gemm());

  /// Without the file's hash, which takes seconds for a large file.
  zerotune::model_description describe() const;
  /// What the bits of a result depend on beside the file: products and instruction set.
  std::string arithmetic() const;
};

/// The element type that most of the file's bytes are in, such as "q4_1"; empty without tensors.
std::string main_type(const llama::gguf_file& file);

/// The table that --gamma or --profile asks for, and what to say about it.
struct requested_gamma {
  zerotune::gamma_table table;  ///< empty: neither was given
  std::string template_text;    ///< that the profile was made with; empty if it does not say
};

/// @param gamma    text of --gamma, empty if not given
/// @param profile  file of --profile, empty if not given
/// Warnings go to standard error.
/// @throws usage_error for a gamma that is no number >= 0; zerotune::format_error for a malformed
///         profile; zerotune::invalid_argument for one that does not fit the model
requested_gamma read_gamma(const loaded_model& model, const std::string& gamma,
                           const std::string& profile);

}  // namespace zerotune_cli
