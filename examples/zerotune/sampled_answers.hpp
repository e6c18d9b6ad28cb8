// SPDX-License-Identifier: Apache-2.0
// Answers that are drawn from the model instead of taken greedily, for the question what decoding
// does to tuning.
#pragma once

#include <span>
#include <vector>

#include "evaluator.hpp"
#include "llama/sampler.hpp"

namespace zerotune_cli {

/// A continuation of every example's prompt by `sampling`, and the choice that it names. A row's
/// draws depend on the seed and on its index alone, so answers are the same for any number of
/// threads and any slice of the rows. One row at a time on each thread: slower than greedy batches.
/// @param gamma  the table; empty: the untouched model
/// @return per example result.generated and continuation; the rest is left at its default
/// @throws usage_error as host_evaluator does; std::invalid_argument as llama::sampler does
std::vector<row_answer> sample_answers(const llama::model& model, const llama::tokenizer& tokens,
                                       const prompt_template& prompts, const data_set& data,
                                       const host_evaluator::options& settings,
                                       const zerotune::gamma_table& gamma,
                                       std::span<const index_t> examples,
                                       const llama::sampler_options& sampling,
                                       const zerotune::progress_callback& progress = {});

}  // namespace zerotune_cli
