// SPDX-License-Identifier: Apache-2.0
#include "scheduler/scheduler.hpp"

#include <algorithm>
#include <exception>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>

#include "scheduler/fibre.hpp"

namespace zerotune_test {
namespace {

#if defined(ZEROTUNE_TEST_TSAN)
void acquire(void* address) { __tsan_acquire(address); }
void release(void* address) { __tsan_release(address); }
constexpr bool keep_memory = true;  // freed memory would come back with an old thread's shadow
#else
void acquire(void*) {}
void release(void*) {}
constexpr bool keep_memory = false;
#endif

}  // namespace

class block_scheduler {
 public:
  block_scheduler(int threads, std::size_t shared_limit, kernel_body body, void* argument, order o,
                  unsigned seed)
      : order_(o),
        random_(seed),
        fibres_(std::make_unique<fibre[]>(static_cast<std::size_t>(threads))),
        lanes_(static_cast<std::size_t>(threads)),
        shared_limit_(shared_limit),
        body_(body),
        argument_(argument) {
    if (threads < 1 || threads % 32 != 0 || threads > 1024)
      throw std::logic_error("the size of a block must be a multiple of 32 in [32, 1024]");
  }
  ~block_scheduler() {
    acquire(this);
    retire();
    for (const piece& p : kept_) std::free(p.data);
  }

  void run(std::int64_t block, std::vector<std::vector<access>>* trace) {
    retire();
    const std::size_t threads = lanes_.size();
    std::vector<std::size_t> sequence(threads);
    if (trace) trace->assign(threads, {});
    for (std::size_t i = 0; i < threads; ++i) {
      lanes_[i] = {this,
                   static_cast<int>(i),
                   static_cast<int>(threads),
                   block,
                   lane::running,
                   0,
                   nullptr,
                   0,
                   trace ? &(*trace)[i] : nullptr};
      fibres_[i].start(&enter, &lanes_[i]);
      sequence[i] = order_ == order::reverse ? threads - 1 - i : i;
    }
    for (std::size_t alive = threads; alive > 0;) {
      if (order_ == order::random) std::shuffle(sequence.begin(), sequence.end(), random_);
      bool any = false;
      for (const std::size_t i : sequence) {
        if (lanes_[i].state != lane::running) continue;
        any = true;
        ++switches_;
        fibres_[i].resume();
        if (error_) std::rethrow_exception(error_);
        if (fibres_[i].done()) {
          lanes_[i].state = lane::finished;
          --alive;
        }
      }
      if (!any) fail_deadlock();
    }
    shared_bytes_ = std::max(shared_bytes_, shared_used());
  }

  void barrier(lane& l, int line) {
    l.line = line;
    l.state = lane::in_barrier;
    release(&barrier_);
    if (std::all_of(lanes_.begin(), lanes_.end(),
                    [](const lane& o) { return o.state == lane::in_barrier; })) {
      for (lane& o : lanes_) {
        if (o.line != line) fail("threads wait at different barriers", line, o.line);
        o.state = lane::running;
      }
    } else {
      fibre_of(l).leave();
    }
    acquire(&barrier_);
  }

  void collective(lane& l, void* frame, void (*combine)(void**), int line, bool orders_memory) {
    l.line = line;
    l.frame = frame;
    l.state = lane::in_collective;
    lane* const warp = &lanes_[static_cast<std::size_t>(l.thread) & ~std::size_t{31}];
    if (orders_memory) release(warp);
    if (std::all_of(warp, warp + 32,
                    [](const lane& o) { return o.state == lane::in_collective; })) {
      void* frames[32];
      for (int i = 0; i < 32; ++i) {
        if (warp[i].line != line) fail("lanes wait at different collectives", line, warp[i].line);
        frames[i] = warp[i].frame;
        warp[i].state = lane::running;
      }
      if (combine) combine(frames);
    } else {
      fibre_of(l).leave();
    }
    if (orders_memory) acquire(warp);
  }

  void* shared(lane& l, std::size_t bytes) {
    const auto index = static_cast<std::size_t>(l.shared_pieces++);
    if (index == pieces_.size()) {
      void* memory = nullptr;
      if (::posix_memalign(&memory, 16, std::max<std::size_t>(bytes, 1))) throw std::bad_alloc();
      auto* const data = static_cast<char*>(memory);
      std::fill(data, data + bytes, char(0xff));  // NaN in every element type
      pieces_.push_back({data, bytes});
      release(data);
      if (shared_used() > shared_limit_)
        throw std::logic_error("shared memory: the kernel takes " + std::to_string(shared_used()) +
                               " bytes, the launch asks for " + std::to_string(shared_limit_));
    }
    if (pieces_[index].bytes != bytes)
      throw std::logic_error("threads disagree on a piece of shared memory");
    acquire(pieces_[index].data);
    return pieces_[index].data;
  }

  bool is_shared(const void* address) const {
    const auto* const byte = static_cast<const char*>(address);
    return std::any_of(pieces_.begin(), pieces_.end(),
                       [&](const piece& p) { return byte >= p.data && byte < p.data + p.bytes; });
  }

  launch_statistics statistics() const { return {shared_bytes_, switches_}; }

 private:
  struct piece {
    char* data;
    std::size_t bytes;
  };

  static void enter(void* argument) {
    auto* const l = static_cast<lane*>(argument);
    block_scheduler* const self = l->scheduler;
    try {
      self->body_(self->argument_, *l);
    } catch (...) {
      self->error_ = std::current_exception();
    }
    release(self);
  }
  fibre& fibre_of(const lane& l) { return fibres_[static_cast<std::size_t>(l.thread)]; }
  std::size_t shared_used() const {
    std::size_t used = 0;
    for (const piece& p : pieces_) used += (p.bytes + 15) & ~std::size_t{15};
    return used;
  }
  void retire() {
    for (const piece& p : pieces_) {
      if (keep_memory)
        kept_.push_back(p);
      else
        std::free(p.data);
    }
    pieces_.clear();
  }
  [[noreturn]] static void fail(const char* what, int line, int other) {
    throw std::logic_error(std::string(what) + ": lines " + std::to_string(line) + " and " +
                           std::to_string(other));
  }
  [[noreturn]] void fail_deadlock() const {
    std::string message = "deadlock (divergent barrier or collective):";
    int shown = 0, finished = 0;
    for (const lane& l : lanes_) {
      if (l.state == lane::finished)
        ++finished;
      else if (shown++ < 3)
        message += " thread " + std::to_string(l.thread) + " at line " + std::to_string(l.line) +
                   (l.state == lane::in_barrier ? " (block)" : " (warp)");
    }
    throw std::logic_error(message + "; finished threads: " + std::to_string(finished));
  }

  order order_;
  std::mt19937 random_;
  std::unique_ptr<fibre[]> fibres_;
  std::vector<lane> lanes_;
  std::vector<piece> pieces_, kept_;
  std::size_t shared_limit_, shared_bytes_ = 0;
  long switches_ = 0;
  std::exception_ptr error_;
  kernel_body body_;
  void* argument_;
  char barrier_ = 0;
};

void meet_barrier(lane& l, int line) { l.scheduler->barrier(l, line); }
void meet_collective(lane& l, void* frame, void (*combine)(void**), int line, bool orders_memory) {
  l.scheduler->collective(l, frame, combine, line, orders_memory);
}
void* shared_piece(lane& l, std::size_t bytes) { return l.scheduler->shared(l, bytes); }
bool is_shared(const lane& l, const void* address) { return l.scheduler->is_shared(address); }

launch_statistics run_blocks(std::int64_t blocks, int threads, std::size_t shared_limit,
                             kernel_body body, void* argument, order o, unsigned seed,
                             std::vector<std::vector<access>>* trace) {
  block_scheduler scheduler(threads, shared_limit, body, argument, o, seed);
  for (std::int64_t i = 0; i < blocks; ++i) scheduler.run(i, i == 0 ? trace : nullptr);
  return scheduler.statistics();
}

}  // namespace zerotune_test
