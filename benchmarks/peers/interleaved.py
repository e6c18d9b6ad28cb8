# SPDX-License-Identifier: Apache-2.0
"""Ratios of two times from interleaved samples, A B B A, as in ../interleaved.hpp."""

import statistics
import time


def quartiles(values):
    """Lower quartile, median, upper quartile."""
    values = sorted(values)
    last = len(values) - 1
    return [values[int(fraction * last)] for fraction in (0.25, 0.5, 0.75)]


def thread_time(body, calls):
    """Seconds of this thread's time for one call: everything here runs on one thread."""
    begin = time.thread_time()
    for _ in range(calls):
        body()
    return (time.thread_time() - begin) / calls


def compare(a, b, seconds=1.0, sample_seconds=2e-3, most_rounds=31, time_a=None, time_b=None):
    """Ratios time(a) / time(b) of about `seconds` of samples.

    time_a and time_b, as thread_time, measure calls of a and b where these do not run here."""
    time_a, time_b = time_a or thread_time, time_b or thread_time

    def one(time_of, body):
        time_of(body, 1)  # untimed
        return max(min(time_of(body, 1), time_of(body, 1)), 1e-9)

    once_a, once_b = one(time_a, a), one(time_b, b)
    calls_a = max(1, int(sample_seconds / once_a))
    calls_b = max(1, int(sample_seconds / once_b))
    rounds = int(seconds / (2 * (calls_a * once_a + calls_b * once_b)))
    rounds = min(most_rounds, max(3, rounds))
    ratios, times_a, times_b = [], [], []
    for _ in range(rounds):
        a1, b1 = time_a(a, calls_a), time_b(b, calls_b)
        b2, a2 = time_b(b, calls_b), time_a(a, calls_a)
        ratios.append((a1 + a2) / (b1 + b2))
        times_a += [a1, a2]
        times_b += [b1, b2]
    low, median, high = quartiles(ratios)
    return {
        "median": median,
        "quartiles": [low, high],
        "least": min(ratios),
        "rounds": rounds,
        "seconds": [statistics.median(times_a), statistics.median(times_b)],
    }
