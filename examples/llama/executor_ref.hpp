// SPDX-License-Identifier: Apache-2.0
// A reference to any zerotune::executor, so that compiled functions can take one.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <thread>

#include "zerotune/core/executor.hpp"
#include "zerotune/core/types.hpp"

namespace llama {

/// Refers to an executor that must outlive it; runs serially if default-constructed. Cheap to
/// copy, and itself a zerotune::executor.
class executor_ref {
 public:
  executor_ref() = default;

  template <zerotune::executor Executor>
    requires(!std::same_as<Executor, executor_ref>)
  executor_ref(Executor& executor)
      : executor_(std::addressof(executor)),
        num_threads_(threads_of(executor)),
        run_([](void* target, zerotune::index_t count, body_ref body) {
          static_cast<Executor*>(target)->parallel_for(
              count, [body](zerotune::index_t i) { body.call(body.target, i); });
        }) {}

  /// Bodies that may run at once: what the executor says, or as many as the machine has threads.
  std::int64_t num_threads() const { return num_threads_; }

  template <class Body>
  void parallel_for(zerotune::index_t count, const Body& body) const {
    if (!run_ || count == 1) {
      for (zerotune::index_t i = 0; i < count; ++i) body(i);
      return;
    }
    run_(executor_, count, {&body, [](const void* target, zerotune::index_t i) {
                              (*static_cast<const Body*>(target))(i);
                            }});
  }

 private:
  struct body_ref {
    const void* target;
    void (*call)(const void*, zerotune::index_t);
  };
  template <class Executor>
  static std::int64_t threads_of(const Executor& executor) {
    if constexpr (requires { executor.num_threads(); })
      return static_cast<std::int64_t>(executor.num_threads());
    else if constexpr (std::same_as<Executor, zerotune::serial_executor>)
      return 1;
    else
      return static_cast<std::int64_t>(std::thread::hardware_concurrency());
  }

  void* executor_ = nullptr;
  std::int64_t num_threads_ = 1;
  void (*run_)(void*, zerotune::index_t, body_ref) = nullptr;
};

static_assert(zerotune::executor<executor_ref>);

}  // namespace llama
