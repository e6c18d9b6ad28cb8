# SPDX-License-Identifier: Apache-2.0
"""The statistics of docs/results.md, from the answers to single rows."""

import math
import random
from collections import Counter, defaultdict

SCORES = ("likelihood", "generated")
COLUMN = {"likelihood": "predicted", "generated": "generated"}


def right(run, side, score):
    """Per row of a run's test split whether the answer was right: {id: 0 or 1}."""
    outcomes = run["outcomes"]
    answers = outcomes["test"][side][COLUMN[score]]
    return {id_: int(answer == label)
            for id_, label, answer in zip(outcomes["ids"], outcomes["test"]["label"], answers)}


def differences(pairs):
    """[(before, after)], each {id: right}, to one list of differences per pair."""
    return [[after[id_] - before[id_] for id_ in before] for before, after in pairs]


def mean(values):
    return sum(values) / len(values) if values else float("nan")


def two_level_interval(cells, rounds=2000, seed=1):
    """95% percentile bootstrap of the mean of cells' means: draws cells (wordings and seeds) if there
    are several, then rows within each."""
    source = random.Random(seed)
    means = []
    for _ in range(rounds):
        drawn = source.choices(cells, k=len(cells)) if len(cells) > 1 else cells
        means.append(mean([sum(source.choices(cell, k=len(cell))) / len(cell) for cell in drawn]))
    means.sort()
    return means[int(0.025 * rounds)], means[int(0.975 * rounds) - 1]


def binomial_two_sided(few, many):
    """Exact two-sided sign test: `few` against `many` of their sum, each with probability 1/2."""
    total, least = few + many, min(few, many)
    tail = sum(math.comb(total, k) for k in range(least + 1))
    return min(1.0, 2 * tail / 2**total)


def row_test(pairs):
    """McNemar's exact test with data rows as units. A row that was tested under several wordings or
    seeds counts once, for the side that was right more often; with one cell this is McNemar's
    test itself. Returns (p, rows for `before`, rows for `after`)."""
    net = defaultdict(int)
    for before, after in pairs:
        for id_ in before:
            net[id_] += after[id_] - before[id_]
    worse = sum(value < 0 for value in net.values())
    better = sum(value > 0 for value in net.values())
    return binomial_two_sided(worse, better), worse, better


def holm(values):
    """Holm's adjusted p-values, in the order given."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = largest
    return adjusted


def task_means_interval(tasks, rounds=2000, seed=1):
    """95% bootstrap of the mean over fixed tasks of the mean over cells: as two_level_interval in
    every task."""
    source = random.Random(seed)
    means = []
    for _ in range(rounds):
        values = []
        for cells in tasks:
            drawn = source.choices(cells, k=len(cells)) if len(cells) > 1 else cells
            values.append(mean([sum(source.choices(c, k=len(c))) / len(c) for c in drawn]))
        means.append(mean(values))
    means.sort()
    return means[int(0.025 * rounds)], means[int(0.975 * rounds) - 1]


def commonest_share(answers):
    """The share of the commonest answer: of the labels, what always giving it would reach."""
    return max(Counter(answers).values()) / len(answers)


def balanced_accuracy(labels, answers):
    """The mean over the classes of how many of each are right: a constant answer has 1/classes."""
    return mean([mean([answer == label for label, answer in zip(labels, answers) if label == one])
                 for one in sorted(set(labels))])
