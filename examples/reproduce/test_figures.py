# SPDX-License-Identifier: Apache-2.0
"""python3 -m unittest discover examples/reproduce: the statistics against published and SciPy's values,
and the driver's promises."""

import random
import unittest

import experiments
import figures


class Figures(unittest.TestCase):
    def test_sign_test_equals_scipys_binomtest(self):
        # scipy.stats.binomtest(few, few + many, 0.5).pvalue
        for few, many, p in ((0, 0, 1.0), (3, 12, 0.03515625), (5, 5, 1.0), (0, 6, 0.03125),
                             (10, 25, 0.016673847800120715)):
            self.assertAlmostEqual(figures.binomial_two_sided(few, many), p, places=12)

    def test_holm_equals_the_definition(self):
        # statsmodels.stats.multitest.multipletests(..., method="holm")
        found = figures.holm([0.01, 0.04, 0.03, 0.005])
        for value, expected in zip(found, [0.03, 0.06, 0.06, 0.02]):
            self.assertAlmostEqual(value, expected, places=12)

    def test_one_cell_is_mcnemars_test(self):
        before = {i: i % 2 for i in range(20)}
        after = {i: 1 if i < 14 else before[i] for i in range(20)}  # repairs the seven even ones
        self.assertEqual(figures.row_test([(before, after)])[1:], (0, 7))
        self.assertAlmostEqual(figures.row_test([(before, after)])[0], 2 / 2**7)

    def test_a_row_in_several_cells_counts_once(self):
        before, after = {"a": 0, "b": 1}, {"a": 1, "b": 0}
        self.assertEqual(figures.row_test([(before, after)] * 5)[1:], (1, 1))
        # Right in one cell and wrong in another: for neither side.
        self.assertEqual(figures.row_test([(before, after), (after, before)])[1:], (0, 0))

    def test_interval_of_one_cell_is_near_the_normal_one(self):
        source = random.Random(3)
        cell = [source.choice((-1, 0, 0, 0, 1, 1)) for _ in range(400)]
        centre = sum(cell) / 400
        spread = 1.96 * (sum((v - centre) ** 2 for v in cell) / 400 / 400) ** 0.5
        low, high = figures.two_level_interval([cell])
        self.assertAlmostEqual(low, centre - spread, delta=0.15 * spread)
        self.assertAlmostEqual(high, centre + spread, delta=0.15 * spread)

    def test_cells_that_differ_widen_the_interval(self):
        alike = [[0, 1] * 50] * 6
        apart = [[0] * 100] * 3 + [[1] * 100] * 3
        narrow, wide = figures.two_level_interval(alike), figures.two_level_interval(apart)
        self.assertGreater(wide[1] - wide[0], 4 * (narrow[1] - narrow[0]))

    def test_means_over_tasks_weigh_tasks_not_cells(self):
        low, high = figures.task_means_interval([[[1] * 10], [[0] * 10] * 5])
        self.assertEqual((low, high), (0.5, 0.5))

    def test_a_constant_answer_is_told_from_a_good_one(self):
        labels = [0] * 6 + [1] * 4
        self.assertEqual(figures.commonest_share(labels), 0.6)
        self.assertEqual(figures.balanced_accuracy(labels, [0] * 10), 0.5)
        self.assertEqual(figures.balanced_accuracy(labels, [0] * 3 + [1] * 7), 0.75)


class Experiments(unittest.TestCase):
    tasks = experiments.load_tasks()

    def test_runs_have_names_of_their_own(self):
        for quick in (False, True):
            runs = experiments.plan(self.tasks, [], quick)
            names = {(run.experiment, run.name()) for run in runs}
            self.assertEqual(len(names), len(runs))

    def test_keys_tell_apart_what_differs(self):
        runs = experiments.plan(self.tasks, ["quality", "context", "shots", "weights", "decoding",
                                             "heads"],
                                False)
        keys = {experiments.digest(experiments.key_of(run, self.tasks, "1", "m", run.task))
                for run in runs}
        # The runs of the other experiments without context, shots or weights are quality's.
        same = sum(r.tunes and not (r.context or r.shots or r.weights)
                   for r in runs if r.experiment != "quality")
        self.assertEqual(len(keys), len(runs) - same)

    def test_wordings_are_the_files(self):
        for task in self.tasks["tasks"]:
            self.assertEqual(len(task["templates"]), 3)
            self.assertEqual(len(set(task["templates"])), 3)

    def test_unrelated_text_stands_behind_the_initial_token(self):
        run = experiments.Run("context", "sst2", 1, 1, "auto", context=7)
        template = experiments.template_of(self.tasks, run)
        text = experiments.with_context(template, experiments.filler_words(7))
        self.assertTrue(text.startswith("<|im_start|>user\nThe ferry leaves the pier at seven\n"))
        self.assertTrue(text.endswith(template.split("user\n", 1)[1]))


if __name__ == "__main__":
    unittest.main()
