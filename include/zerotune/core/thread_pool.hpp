// SPDX-License-Identifier: Apache-2.0
// thread_pool: an executor over std::thread (layer: core).
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "zerotune/core/error.hpp"
#include "zerotune/core/executor.hpp"

namespace zerotune {
inline namespace ZEROTUNE_ABI {

/// A fixed number of threads, the caller's among them. Between calls they look out for the next one
/// for some ten microseconds, then they sleep: a call of less than a millisecond would otherwise
/// spend a tenth of its time on waking them. Several threads may call parallel_for at once: they
/// take turns. A call from inside a body, of this pool or of another, never waits for a turn: it
/// runs serially where the pool is at work already.
class thread_pool {
 public:
  /// @param num_threads  threads that work on a call, the caller's included; at least 1
  /// @throws invalid_argument if num_threads < 1; std::system_error if a thread cannot be started
  explicit thread_pool(int num_threads) {
    if (num_threads < 1)
      impl::fail("thread_pool", "num_threads", "at least 1", std::to_string(num_threads));
    workers_.reserve(static_cast<std::size_t>(num_threads - 1));
#if ZEROTUNE_EXCEPTIONS
    try {
      start(num_threads - 1);
    } catch (...) {  // no thread to be had: end those that were
      stop();
      throw;
    }
#else
    start(num_threads - 1);
#endif
  }
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;
  ~thread_pool() { stop(); }

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// @throws whatever a body throws: the first exception, once all running bodies have ended; the
  ///         bodies that had not begun by then are not called
  template <class Body>
  void parallel_for(index_t count, const Body& body) {
    if (count <= 0) return;
    std::unique_lock turn(turn_, std::defer_lock);
    if (workers_.empty() || count == 1 || !take(turn)) {
      for (index_t i = 0; i < count; ++i) body(i);
      return;
    }
    job work{count, &body, [](const void* b, index_t i) { (*static_cast<const Body*>(b))(i); }};
    {
      const std::lock_guard lock(mutex_);
      job_ = &work;
      generation_.fetch_add(1, std::memory_order_relaxed);
    }
    wake_.notify_all();
    run(work);
    std::unique_lock lock(mutex_);
    job_ = nullptr;  // nobody begins with it any more
    if (busy_ != 0) {
      lock.unlock();
      look_out([this] { return busy_.load(std::memory_order_relaxed) == 0; });
      lock.lock();
      idle_.wait(lock, [this] { return busy_ == 0; });
    }
#if ZEROTUNE_EXCEPTIONS
    if (work.error) std::rethrow_exception(work.error);
#endif
  }

 private:
  struct job {
    index_t count;
    const void* body;
    void (*call)(const void*, index_t);
    std::atomic<index_t> next{0};
    std::exception_ptr error{};
  };

  void start(int count) {
    for (int i = 0; i < count; ++i) workers_.emplace_back([this] { serve(); });
  }
  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      generation_.fetch_add(1, std::memory_order_relaxed);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  /// The pools whose bodies this thread is in, from the inside out.
  struct nesting {
    const thread_pool* pool;
    const nesting* outer;
  };
  static const nesting*& innermost() {
    thread_local const nesting* pools = nullptr;
    return pools;
  }
  /// Whether this thread runs a body of this pool, perhaps inside one of another pool.
  bool works_here() const {
    for (const nesting* at = innermost(); at; at = at->outer)
      if (at->pool == this) return true;
    return false;
  }
  /// Takes the turn; inside a body only if it is free, since whoever has it may wait for that body.
  bool take(std::unique_lock<std::mutex>& turn) const {
    if (innermost()) return !works_here() && turn.try_lock();
    turn.lock();
    return true;
  }

  void run(job& work) {
    const nesting here{this, innermost()};
    innermost() = &here;
    for (index_t i; (i = work.next.fetch_add(1, std::memory_order_relaxed)) < work.count;) {
#if ZEROTUNE_EXCEPTIONS
      try {
        work.call(work.body, i);
      } catch (...) {
        work.next.store(work.count, std::memory_order_relaxed);
        const std::lock_guard lock(mutex_);
        if (!work.error) work.error = std::current_exception();
      }
#else
      work.call(work.body, i);
#endif
    }
    innermost() = here.outer;
  }

  /// Until `ready`, or for a while. It only saves the sleep: whoever looks out takes the lock
  /// afterwards and asks again.
  template <class Ready>
  static void look_out(const Ready& ready) {
    constexpr int turns = 1000;  // of some 40 to 140 cycles
    for (int i = 0; i < turns && !ready(); ++i) ZEROTUNE_SPIN_PAUSE();
  }

  void serve() {
    std::uint64_t seen = 0;
    for (;;) {
      look_out([&] { return generation_.load(std::memory_order_relaxed) != seen; });
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || (job_ && generation_ != seen); });
      if (stopping_) return;
      seen = generation_.load(std::memory_order_relaxed);
      job* const work = job_;
      ++busy_;
      lock.unlock();
      run(*work);
      lock.lock();
      if (--busy_ == 0) idle_.notify_one();
    }
  }

  std::vector<std::thread> workers_;
  std::mutex turn_;  // one call at a time
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  job* job_ = nullptr;
  // Written under the mutex, looked at without it.
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<int> busy_{0};
  bool stopping_ = false;
};

}  // namespace ZEROTUNE_ABI
}  // namespace zerotune
