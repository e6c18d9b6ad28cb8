// SPDX-License-Identifier: Apache-2.0
// What the files of host_evaluator share.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "evaluator.hpp"
#include "llama/backward.hpp"
#include "llama/forward_each.hpp"
#include "llama/workspace.hpp"
#include "zerotune/policy/initial_token.hpp"

namespace zerotune_cli {

/// A row as tokens.
struct host_evaluator::prepared_row {
  std::vector<int> prompt;
  std::vector<std::vector<int>> choices;
  std::vector<std::string> answers;  // the choices as parse_answer() takes them
  index_t label = zerotune::no_label;
  std::size_t most_new_tokens = 0;
};

struct host_evaluator::request {
  zerotune::quantities wanted;
  bool whole_continuation = false;
};

/// One thread's memory.
struct host_evaluator::worker {
  llama::workspace space;
  std::vector<llama::kv_cache> caches;  // one per row of a batch
  std::vector<llama::kv_cache> prefix;  // one, of evaluate_many()
  llama::forward_each_workspace each_space;
  llama::matrix prompt_logits;  // [rows of the batch, vocabulary]
  llama::matrix logits;
  llama::backward_workspace backward_space;
};

/// Takes a worker for as long as it lives; there are never more than running threads.
class host_evaluator::lease {
 public:
  explicit lease(host_evaluator& owner) : owner_(owner) {
    const std::lock_guard lock(owner_.mutex_);
    if (!owner_.idle_.empty()) {
      worker_ = std::move(owner_.idle_.back());
      owner_.idle_.pop_back();
    }
  }
  ~lease() {
    if (!worker_) return;
    const std::lock_guard lock(owner_.mutex_);
    owner_.idle_.push_back(std::move(worker_));  // has the room: see the constructor of the owner
  }
  worker& get() {
    if (!worker_) worker_ = std::make_unique<worker>();
    return *worker_;
  }

 private:
  host_evaluator& owner_;
  std::unique_ptr<worker> worker_;
};

std::vector<zerotune::example_result> results_of(std::vector<row_answer> answers);

/// The policy of a gamma table, which must outlive it.
inline auto policy_of(const zerotune::gamma_table& gamma) {
  return [&gamma](const llama::attention_context& context) {
    return zerotune::initial_token{gamma.row(context.layer)};
  };
}

}  // namespace zerotune_cli
