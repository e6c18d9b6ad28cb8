// SPDX-License-Identifier: Apache-2.0
// A fibre: a function with a stack of its own that can be left and entered again. Boost.Context
// where there is (ZEROTUNE_TEST_BOOST_CONTEXT), else ucontext. Tells the address sanitizer of every
// switch, and the thread sanitizer that each fibre is a thread.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(ZEROTUNE_TEST_BOOST_CONTEXT)
#include <boost/context/detail/fcontext.hpp>
#else
#include <ucontext.h>
#endif

#include "../../support/sanitizers.hpp"

#if ZEROTUNE_TEST_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// ZEROTUNE_TEST_TSAN: the bodies are compiled with the thread sanitizer, this file never is: a
// function that returns on another stack than it was entered on would confuse it.
#if defined(ZEROTUNE_TEST_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace zerotune_test {

class fibre {
 public:
  static constexpr std::size_t stack_bytes = 128 * 1024;
  static constexpr std::size_t guard_bytes = 4096;

  fibre() {
    void* const memory = ::mmap(nullptr, stack_bytes + guard_bytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<char*>(memory);
    ::mprotect(base_, guard_bytes, PROT_NONE);
  }
  fibre(const fibre&) = delete;
  fibre& operator=(const fibre&) = delete;
  ~fibre() {
    forget_frames();
    ::munmap(base_, stack_bytes + guard_bytes);
#if defined(ZEROTUNE_TEST_TSAN)
    if (tsan_fibre_) __tsan_destroy_fiber(tsan_fibre_);
#endif
  }

  bool done() const { return done_; }

  /// Makes the fibre ready to run function(argument).
  void start(void (*function)(void*), void* argument) {
    function_ = function;
    argument_ = argument;
    done_ = false;
    forget_frames();
#if defined(ZEROTUNE_TEST_TSAN)
    // A new thread for the sanitizer; mapping the stack anew clears what it knew of the old one.
    if (tsan_fibre_) __tsan_destroy_fiber(tsan_fibre_);
    ::mmap(stack(), stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
           -1, 0);
    tsan_fibre_ = __tsan_create_fiber(0);
#endif
#if defined(ZEROTUNE_TEST_BOOST_CONTEXT)
    context_ = boost::context::detail::make_fcontext(stack() + stack_bytes, stack_bytes, &entry);
#else
    ::getcontext(&context_);
    context_.uc_stack.ss_sp = stack();
    context_.uc_stack.ss_size = stack_bytes;
    context_.uc_link = nullptr;
    const auto self = reinterpret_cast<std::uintptr_t>(this);
    ::makecontext(&context_, reinterpret_cast<void (*)()>(&entry), 2,
                  static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
#endif
  }

  /// From the scheduler into the fibre.
  void resume() {
#if ZEROTUNE_TEST_ADDRESS_SANITIZER
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, stack(), stack_bytes);
#endif
#if defined(ZEROTUNE_TEST_TSAN)
    tsan_scheduler_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(tsan_fibre_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(ZEROTUNE_TEST_BOOST_CONTEXT)
    context_ = boost::context::detail::jump_fcontext(context_, this).fctx;
#else
    ::swapcontext(&scheduler_, &context_);
#endif
#if ZEROTUNE_TEST_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  /// From the fibre back to the scheduler.
  void leave() {
#if ZEROTUNE_TEST_ADDRESS_SANITIZER
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(done_ ? nullptr : &fake_stack, scheduler_stack_,
                                   scheduler_stack_bytes_);
#endif
#if defined(ZEROTUNE_TEST_TSAN)
    __tsan_switch_to_fiber(tsan_scheduler_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(ZEROTUNE_TEST_BOOST_CONTEXT)
    scheduler_ = boost::context::detail::jump_fcontext(scheduler_, nullptr).fctx;
#else
    ::swapcontext(&context_, &scheduler_);
#endif
#if ZEROTUNE_TEST_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(fake_stack, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
  }

 private:
#if defined(ZEROTUNE_TEST_BOOST_CONTEXT)
  static void entry(boost::context::detail::transfer_t from) {
    auto* const self = static_cast<fibre*>(from.data);
    self->scheduler_ = from.fctx;
    self->run();
  }
  boost::context::detail::fcontext_t context_{}, scheduler_{};
#else
  static void entry(unsigned high, unsigned low) {
    reinterpret_cast<fibre*>((static_cast<std::uintptr_t>(high) << 32) | low)->run();
  }
  ucontext_t context_{}, scheduler_{};
#endif
  void run() {
#if ZEROTUNE_TEST_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack_, &scheduler_stack_bytes_);
#endif
    function_(argument_);
    done_ = true;
    leave();
    std::abort();
  }
  /// The address sanitizer remembers the frames of a fibre that was left for good, also for whoever
  /// is given these addresses next.
  void forget_frames() const {
#if ZEROTUNE_TEST_ADDRESS_SANITIZER
    __asan_unpoison_memory_region(stack(), stack_bytes);
#endif
  }
  char* stack() const { return base_ + guard_bytes; }

  char* base_ = nullptr;
  void (*function_)(void*) = nullptr;
  void* argument_ = nullptr;
  bool done_ = true;
  const void* scheduler_stack_ = nullptr;
  std::size_t scheduler_stack_bytes_ = 0;
  void* tsan_fibre_ = nullptr;
  void* tsan_scheduler_ = nullptr;
};

}  // namespace zerotune_test
