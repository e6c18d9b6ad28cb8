# SPDX-License-Identifier: Apache-2.0
"""Statistics from scipy and statsmodels: McNemar, Holm, Spearman, Brier score, calibration error.

To repeat, in a virtual environment with requirements.txt:

    python make_statistics_reference.py --output statistics.json

Brier score and calibration error follow the definitions written in the file; they are computed in
exact rational arithmetic, and the Brier score of two classes is checked against the mean squared
error of one of them (half of the sum over both).
"""

import argparse
import fractions
import math

import numpy
import scipy
import scipy.stats
import statsmodels
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from reference_attention import write_json

MCNEMAR_PAIRS = (
    (0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (2, 1), (0, 5), (5, 0), (6, 0), (0, 6), (5, 5), (5, 6),
    (1, 9), (2, 10), (3, 12), (12, 3), (4, 4), (7, 15), (10, 10), (10, 25), (20, 21), (0, 30),
    (30, 31), (40, 60), (60, 40), (50, 90), (100, 100), (200, 150), (0, 200), (300, 700),
    (500, 520), (1, 1100), (5000, 5200))
HOLM_VECTORS = (
    (0.04,), (0.01, 0.04), (0.04, 0.01), (0.01, 0.04, 0.03, 0.005), (0.5, 0.5, 0.5),
    (0.02, 0.02, 0.02, 0.9), (0.0, 1.0, 0.3), (1e-12, 0.2, 0.049, 0.051, 0.05),
    (0.9, 0.8, 0.7, 0.6, 0.5, 0.4), (0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205))
SPEARMAN_PAIRS = (
    ((1, 2, 3, 4, 5), (2, 4, 6, 8, 10)),
    ((1, 2, 3, 4, 5), (5, 4, 3, 2, 1)),
    ((1, 2, 3, 4, 5), (3, 1, 4, 1, 5)),
    ((1, 1, 2, 2, 3, 3), (1, 2, 3, 4, 5, 6)),
    ((0, 0, 0, 0, 1), (5, 3, 3, 3, 4)),
    ((0.1, -0.2, 0.3, 0.3, -1.5, 2.0, 0.1), (7, 7, -3, 2.5, 2.5, 9, 0)),
    ((10, 20), (3, -4)),
    ((-1e300, 0, 1e-300, 1e300), (1, 2, 2, 3)),
)
# (probabilities of the classes, index of the right class). The probabilities are binary fractions,
# exact in double, and no largest one but 1 lies on the edge of a bin.
CALIBRATION_SETS = (
    (((0.75, 0.25), 0), ((0.75, 0.25), 1), ((0.5625, 0.4375), 0), ((0.0625, 0.9375), 1)),
    (((1.0, 0.0), 0), ((1.0, 0.0), 1), ((0.0, 1.0), 1)),
    (((0.25, 0.125, 0.625), 2), ((0.375, 0.4375, 0.1875), 0), ((0.8125, 0.125, 0.0625), 0),
     ((0.34375, 0.34375, 0.3125), 1), ((0.125, 0.6875, 0.1875), 1),
     ((0.9375, 0.03125, 0.03125), 2)),
    (((0.28125, 0.234375, 0.25, 0.234375), 0), ((0.28125, 0.234375, 0.25, 0.234375), 3)),
    (((0.53125, 0.46875), 1),),
)


def exact_mcnemar(b, c):
    """The same p-value in integers: both tails of the binomial with p = 1/2, at most 1."""
    tail = sum(math.comb(b + c, i) for i in range(min(b, c) + 1))
    return float(min(fractions.Fraction(1), fractions.Fraction(2 * tail, 2 ** (b + c))))


def mcnemar_p(b, c):
    value = exact_mcnemar(b, c)
    if b + c > 0:
        binomial = scipy.stats.binomtest(b, b + c, 0.5).pvalue
        table = mcnemar([[0, b], [c, 0]], exact=True).pvalue
        assert math.isclose(binomial, value, rel_tol=1e-9), (b, c, binomial, value)
        assert math.isclose(min(1.0, table), value, rel_tol=1e-9), (b, c, table, value)
    return value


def brier(rows):
    total = sum((fractions.Fraction(p) - (index == label)) ** 2
                for probabilities, label in rows for index, p in enumerate(probabilities))
    return total / len(rows)


def calibration_error(rows, bins):
    members = [[] for _ in range(bins)]
    for probabilities, label in rows:
        confidence = fractions.Fraction(max(probabilities))
        right = probabilities.index(max(probabilities)) == label
        members[max(0, math.ceil(confidence * bins) - 1)].append((confidence, right))
    total = fractions.Fraction(0)
    for bin_rows in members:
        total += abs(sum(right for _, right in bin_rows) - sum(c for c, _ in bin_rows))
    return total / len(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="statistics.json")
    options = parser.parse_args()
    for rows in CALIBRATION_SETS:
        for probabilities, _ in rows:
            assert sum(fractions.Fraction(p) for p in probabilities) == 1
            assert max(probabilities) == 1 or fractions.Fraction(max(probabilities)) * 10 % 1 != 0
    write_json(options.output, {
        "about": "made by make_statistics_reference.py",
        "scipy": scipy.__version__, "statsmodels": statsmodels.__version__,
        "mcnemar": {
            "definition": "exact, two-sided: min(1, 2 P(X <= min(b, c))), X binomial(b + c, 1/2); "
                          "1 if b + c = 0",
            "cases": [{"b": b, "c": c, "p": mcnemar_p(b, c)} for b, c in MCNEMAR_PAIRS]},
        "holm": {
            "definition": "Holm's step-down adjusted p-values, in the order of the input",
            "cases": [{"p": list(p), "adjusted": [float(x) for x in
                                                  multipletests(p, method="holm")[1]]}
                      for p in HOLM_VECTORS]},
        "spearman": {
            "definition": "Pearson's correlation of the ranks, ties have the mean of their ranks",
            "cases": [{"x": list(x), "y": list(y),
                       "rho": float(scipy.stats.spearmanr(x, y).statistic)}
                      for x, y in SPEARMAN_PAIRS]},
        "calibration": {
            "brier_definition": "mean over rows of sum over classes of "
                                "(p_class - [class is right])^2",
            "calibration_error_definition":
                "confidence = the largest probability of a row, predicted = the first class that "
                "has it; bin i of 10 holds the confidences in (i/10, (i+1)/10], bin 0 also 0; sum "
                "over bins of rows_in_bin / rows * "
                "|accuracy in the bin - mean confidence in the bin|",
            "bins": 10,
            "cases": [{"probabilities": [list(p) for p, _ in rows],
                       "labels": [label for _, label in rows],
                       "brier": float(brier(rows)),
                       "calibration_error": float(calibration_error(rows, 10))}
                      for rows in CALIBRATION_SETS]}})
    assert numpy.isclose(float(brier(CALIBRATION_SETS[0])),
                         2 * numpy.mean([(p[1] - label) ** 2 for p, label in CALIBRATION_SETS[0]]))


if __name__ == "__main__":
    main()
