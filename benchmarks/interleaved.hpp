// SPDX-License-Identifier: Apache-2.0
// Ratios of two times from interleaved samples: A B B A, so that a drifting clock cancels.
#pragma once

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace bench {

/// This thread's time on a core, in seconds: most of this runs on one thread, and a shared machine
/// takes its core away for milliseconds at a time.
inline double now() {
  timespec t;
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// The time that passes, in seconds: where several threads work together.
inline double wall_now() {
  timespec t;
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

template <class Body>
double time_of(const Body& body, int calls, double (*clock)() = now) {
  const double begin = clock();
  for (int i = 0; i < calls; ++i) body();
  return (clock() - begin) / calls;
}

/// Few samples and no long shapes, where ZEROTUNE_BENCHMARK_QUICK is set: to see that all runs.
inline bool is_quick() { return std::getenv("ZEROTUNE_BENCHMARK_QUICK") != nullptr; }

/// Sorted ratios time(a) / time(b), one a round, and the fastest time of each.
struct ratios {
  std::vector<double> sorted;
  double fastest_a = 1e30, fastest_b = 1e30;

  double at(double fraction) const {
    return sorted[static_cast<std::size_t>(fraction * static_cast<double>(sorted.size() - 1))];
  }
  double median() const { return at(0.5); }
};

/// Samples of about a millisecond: short enough that most are not interrupted.
/// @param untimed  calls before every sample. 1 where a and b leave the data in the caches of
///                 different cores: what is compared is one call of many, as a model's layers make
template <class A, class B>
ratios compare(const A& a, const B& b, int rounds = 31, double sample_seconds = 1e-3,
               double (*clock)() = now, int untimed = 0) {
  if (is_quick()) rounds = std::min(rounds, 3);
  a();
  b();  // one untimed run each
  const auto calls = [&](const auto& body) {
    const double once = std::min(time_of(body, 1, clock), time_of(body, 1, clock));
    return std::clamp(static_cast<int>(sample_seconds / std::max(once, 1e-9)), 1, 1 << 20);
  };
  const int calls_a = calls(a), calls_b = calls(b);
  ratios result;
  for (int round = 0; round < rounds; ++round) {
    const auto sample = [&](const auto& body, int calls_of) {
      for (int i = 0; i < untimed; ++i) body();
      return time_of(body, calls_of, clock);
    };
    const double a1 = sample(a, calls_a), b1 = sample(b, calls_b);
    const double b2 = time_of(b, calls_b, clock), a2 = sample(a, calls_a);
    result.sorted.push_back((a1 + a2) / (b1 + b2));
    result.fastest_a = std::min({result.fastest_a, a1, a2});
    result.fastest_b = std::min({result.fastest_b, b1, b2});
  }
  std::sort(result.sorted.begin(), result.sorted.end());
  return result;
}

/// "1.03 [0.99, 1.08]": median and quartiles.
inline void print_ratio(const ratios& r) {
  std::printf("%6.3f [%6.3f, %6.3f]", r.median(), r.at(0.25), r.at(0.75));
}

}  // namespace bench
