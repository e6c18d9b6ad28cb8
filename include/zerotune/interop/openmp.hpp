// SPDX-License-Identifier: Apache-2.0
// openmp_executor: an executor over OpenMP's threads (layer: interop).
#pragma once

#include <atomic>
#include <exception>
#include <string>
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "zerotune/core/error.hpp"
#include "zerotune/core/executor.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

namespace impl {
template <class Body>
inline constexpr bool has_openmp =
#if defined(_OPENMP)
    true;
#else
    false;
#endif
}  // namespace impl

/// Runs calls on a team of OpenMP's threads; inside another parallel region OpenMP's rules hold.
/// Using it without -fopenmp is a compile error, never a silent serial run.
class openmp_executor {
 public:
  /// @param num_threads  size of the team; 0 leaves it to OpenMP (OMP_NUM_THREADS)
  /// @throws invalid_argument if num_threads < 0
  explicit openmp_executor(int num_threads = 0) : num_threads_(num_threads) {
    if (num_threads < 0)
      impl::fail("openmp_executor", "num_threads", "at least 0", std::to_string(num_threads));
  }

  /// Threads of a team that is formed now.
  int num_threads() const {
#if defined(_OPENMP)
    if (num_threads_ == 0) return omp_get_max_threads();
#endif
    return num_threads_;
  }

  /// @throws whatever a body throws: the first exception, once all running bodies have ended; the
  ///         bodies that had not begun by then are not called
  template <class Body>
  void parallel_for(index_t count, const Body& body) const {
    static_assert(impl::has_openmp<Body>,
                  "zerotune: openmp_executor needs OpenMP: compile and link with -fopenmp (CMake: "
                  "find_package(OpenMP) and OpenMP::OpenMP_CXX), or use thread_pool");
#if defined(_OPENMP)
#if ZEROTUNE_EXCEPTIONS
    std::atomic<bool> failed{false};
    std::exception_ptr error;
    const auto call = [&](index_t i) {
      if (failed.load(std::memory_order_relaxed)) return;
      try {
        body(i);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    };
#else
    const auto& call = body;
#endif
    const int team = num_threads();
#pragma omp parallel for schedule(dynamic) num_threads(team)
    for (index_t i = 0; i < count; ++i) call(i);
#if ZEROTUNE_EXCEPTIONS
    if (error) std::rethrow_exception(error);
#endif
#else
    static_cast<void>(count);
    static_cast<void>(body);
#endif
  }

 private:
  int num_threads_ = 0;
};

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
