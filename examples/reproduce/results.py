#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes docs/results.md from the JSON of finished runs and from nothing else.

  results.py --results DIR --output FILE            a page from the folder that run.py wrote
  results.py --results DIR --collect docs/results   also one small file per experiment
  results.py --results docs/results --notes docs/results/notes.md --output docs/results.md
"""

import argparse
import glob
import json
import os
import re
import sys
from collections import Counter, defaultdict

import experiments
import figures
from figures import SCORES, mean

LEVEL = 0.05
CLASSIFICATION = "classification"


def load(folder, quick=False):
    """All runs below a folder, by experiment: single files, or the lists that --collect wrote."""
    runs = defaultdict(dict)
    for path in sorted(glob.glob(os.path.join(folder, "**", "*.json"), recursive=True)):
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        for run in content.get("runs", [content]) if isinstance(content, dict) else []:
            if run.get("schema") == "zerotune-reproduction-run" and run["quick"] == quick:
                runs[run["experiment"]][experiments.digest(run["key"]), run["label"]] = run
            elif run.get("schema") == "zerotune-python-comparison":
                runs["python"][run["task"], run["seed"]] = run
    return {name: list(found.values()) for name, found in runs.items()}


def collect(runs, folder):
    """One file per experiment: figures, row ids and answers, no texts."""
    os.makedirs(folder, exist_ok=True)
    for name, found in runs.items():
        if name == "python":
            continue
        small = []
        for run in sorted(found, key=lambda r: (r["seed"], r["wording"], r["task"], r["method"],
                                                r["label"])):
            if "candidates" not in run or "candidates_in_all" in run:
                small.append(run)  # nothing to leave out, or a run from such a file
                continue
            full = max((c["rows"] for c in run["candidates"]), default=0)
            kept = [c for c in run["candidates"] if c["rows"] == full]
            rounded = [[round(value, 4) for value in row] for row in run["gamma"]]
            small.append({**run, "candidates": kept, "candidates_in_all": len(run["candidates"]),
                          "gamma": rounded, "descent": len(run.get("descent", []))})
        with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as file:
            file.write('{"runs": [\n')
            file.write(",\n".join(json.dumps(run, separators=(",", ":")) for run in small))
            file.write("\n]}\n")


# ---- text

def percent(value):
    return f"{100 * value:.1f}"


def points(value, interval=None):
    text = f"{100 * value:+.1f}"
    return text + (f" [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]" if interval else "")


def p_text(p):
    return f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}"


def table(header, rows, align=None):
    align = align or ["l"] + ["r"] * (len(header) - 1)
    line = "|".join(" --- " if a == "l" else " ---: " for a in align)
    lines = ["| " + " | ".join(header) + " |", f"|{line}|"]
    return "\n".join(lines + ["| " + " | ".join(str(c) for c in row) + " |" for row in rows])


def metric(run, split, side, name):
    return run["metrics"][split][side][name]


# ---- quality

class Quality:
    """The runs of the quality experiment by task and method, and what is derived from them."""

    def __init__(self, runs, tasks):
        self.tasks = [task["name"] for task in tasks["tasks"]]
        self.kinds = {task["name"]: task["kind"] for task in tasks["tasks"]}
        self.planned = len(tasks["seeds"]) * 3
        self.cells = defaultdict(dict)  # (task, method) -> {(wording, seed): run}
        for run in runs:
            self.cells[run["task"], run["method"]][run["wording"], run["seed"]] = run

    def runs(self, task, method):
        cells = self.cells[task, method]
        return [cells[key] for key in sorted(cells)]

    def gain_pairs(self, task, method, score):
        return [(figures.right(run, "untouched", score), figures.right(run, "tuned", score))
                for run in self.runs(task, method)]

    def duel_pairs(self, task, score):
        """The paper's procedure and auto on the same rows, where both were run."""
        paper, auto = self.cells[task, "paper"], self.cells[task, "auto"]
        return [(figures.right(paper[key], "tuned", score), figures.right(auto[key], "tuned", score))
                for key in sorted(paper.keys() & auto.keys())]

    def best_constant(self, task):
        """What the commonest label of the test rows would reach as the only answer."""
        return mean([figures.commonest_share(run["outcomes"]["test"]["label"])
                     for run in self.runs(task, "auto")])

    def classification(self):
        return [task for task in self.tasks if self.kinds[task] == CLASSIFICATION]

    def mean_over_tasks(self, pairs_of, without=()):
        """(mean, interval, tasks) of the difference over the classification tasks that were run."""
        cells = [figures.differences(pairs_of(task)) for task in self.classification()
                 if task not in without]
        cells = [found for found in cells if found]
        if not cells:
            return None
        value = mean([mean([mean(cell) for cell in found]) for found in cells])
        return value, figures.task_means_interval(cells), len(cells)

    def tests(self, pairs_of):
        """Per task with runs: (mean difference, interval, p, Holm's p)."""
        found = {}
        for task in self.tasks:
            pairs = pairs_of(task)
            if not pairs:
                continue
            cells = figures.differences(pairs)
            p, _, _ = figures.row_test(pairs)
            found[task] = [mean([mean(cell) for cell in cells]),
                           figures.two_level_interval(cells), p]
        for task, adjusted in zip(found, figures.holm([value[2] for value in found.values()])):
            found[task].append(adjusted)
        return found


def coverage(quality):
    rows = []
    for task in quality.tasks:
        row = [task, quality.kinds[task]]
        for method in experiments.METHODS:
            done = quality.cells[task, method].keys()
            row.append(f"{len(done)} of {quality.planned}" + ("" if done else ", not run"))
        cells = sorted(quality.cells[task, "auto"].keys() & quality.cells[task, "paper"].keys(),
                       key=lambda key: (key[1], key[0]))
        row.append(", ".join(f"s{seed} w{wording}" for wording, seed in cells) or "none")
        rows.append(row)
    return table(["task", "kind", "auto", "paper", "seed and wording with both"], rows,
                 ["l", "l", "r", "r", "l"])


def quality_table(quality):
    rows = []
    for task in quality.tasks:
        for method in experiments.METHODS:
            runs = quality.runs(task, method)
            if not runs:
                rows.append([task, method, 0] + ["not run"] + [""] * 6)
                continue
            cells = [task, method, len(runs)]
            for score in SCORES:
                gain = figures.differences(quality.gain_pairs(task, method, score))
                cells += [percent(mean([metric(r, "test", "untouched", score) for r in runs])),
                          percent(mean([metric(r, "test", "tuned", score) for r in runs])),
                          points(mean([mean(cell) for cell in gain]),
                                 figures.two_level_interval(gain))]
            cells.append(" to ".join(
                percent(mean([metric(r, "test", side, "invalid") for r in runs]))
                for side in ("untouched", "tuned")))
            rows.append(cells)
    return table(["task", "method", "runs", "likelihood: untouched", "tuned", "difference [95%]",
                  "generated: untouched", "tuned", "difference [95%]", "invalid answers"], rows,
                 ["l", "l"] + ["r"] * 8)


def constant_table(quality):
    """What always giving one answer would reach, and how near to that the answers are."""
    rows = []
    for task in quality.tasks:
        runs = quality.runs(task, "auto")
        if not runs:
            continue
        row = [task, percent(quality.best_constant(task))]
        row += [percent(mean([metric(run, "test", side, "likelihood") for run in runs]))
                for side in ("untouched", "tuned")]
        tests = [run["outcomes"]["test"] for run in runs]
        for measure in (lambda _, answers: figures.commonest_share(answers),
                        figures.balanced_accuracy):
            row += [percent(mean([measure(test["label"], test[side]["predicted"])
                                  for test in tests])) for side in ("untouched", "tuned")]
        rows.append(row)
    return table(["task", "best constant answer", "accuracy: untouched", "tuned",
                  "commonest answer: untouched", "tuned", "balanced accuracy: untouched", "tuned"],
                 rows)


def goals(quality):
    """The issue's goals as (what, found, reached)."""
    def verdict(good, tasks, planned):
        word = "reached" if good else "MISSED"
        return word if tasks == planned else f"{word} on {tasks} of {planned} tasks"

    def state(found, least):
        if found is None:
            return "not run", "not known"
        value, interval, tasks = found
        return (f"{points(value, interval)} points",
                verdict(value >= least, tasks, len(quality.classification())))
    rows = []
    for score, least in (("likelihood", 0.10), ("generated", 0.15)):
        found = quality.mean_over_tasks(
            lambda task, s=score: quality.gain_pairs(task, "auto", s))
        rows.append([f"auto over untouched, {score}, mean of the classification tasks: at least "
                     f"{100 * least:.0f} points", *state(found, least)])
    found = quality.mean_over_tasks(lambda task: quality.duel_pairs(task, "generated"))
    rows.append(["auto over the paper's procedure, generated, mean of the classification tasks: at "
                 "least 5 points", *state(found, 0.05)])
    losers, drops = [], []
    for score in SCORES:
        tests = quality.tests(lambda task, s=score: quality.gain_pairs(task, "auto", s))
        for task, (value, _, _, adjusted) in tests.items():
            if value < 0 and adjusted < LEVEL:
                losers.append(f"{task} ({score})")
            if value < -0.06:
                drops.append(f"{task} ({score}, {points(value)})")
    seen = sum(bool(quality.runs(task, "auto")) for task in quality.tasks)
    for what, found in (("no task loses significantly (Holm over the tasks)", losers),
                        ("no task loses more than 6 points", drops)):
        rows.append([what, ", ".join(found) or ("none" if seen else "not run"),
                     verdict(not found, seen, len(quality.tasks)) if seen else "not known"])
    return rows


def significance_table(quality, pairs_of):
    rows = []
    tests = {score: quality.tests(lambda task, s=score: pairs_of(task, s)) for score in SCORES}
    for task in quality.tasks:
        if task not in tests["likelihood"]:
            rows.append([task, "not run"] + [""] * 5)
            continue
        row = [task]
        for score in SCORES:
            value, interval, p, adjusted = tests[score][task]
            row += [points(value, interval), p_text(p),
                    p_text(adjusted) + (" *" if adjusted < LEVEL else "")]
        rows.append(row)
    return table(["task", "likelihood [95%]", "p", "Holm", "generated [95%]", "p", "Holm"], rows)


def search_beside_test(quality):
    rows = []
    for method in experiments.METHODS:
        for task in quality.tasks:
            runs = quality.runs(task, method)
            if not runs:
                continue
            row = [task, method]
            for score in SCORES:
                gains = {split: mean([metric(r, split, "tuned", score)
                                      - metric(r, split, "untouched", score) for r in runs])
                         for split in ("search", "test")}
                row += [points(gains["search"]), points(gains["test"]),
                        points(gains["search"] - gains["test"])]
            rows.append(row)
    return table(["task", "method", "likelihood: search", "test", "lost",
                  "generated: search", "test", "lost"], rows, ["l", "l"] + ["r"] * 6)


def chosen_table(quality):
    rows = []
    for task in quality.tasks:
        counts = Counter(run["chosen"]["method"] for run in quality.runs(task, "auto"))
        details = Counter(run["chosen"]["detail"] for run in quality.runs(task, "auto")
                          if run["chosen"]["method"] == "descent")
        rows.append([task,
                     ", ".join(f"{name} {n}" for name, n in counts.most_common()) or "not run",
                     ", ".join(f"{name} ({n})" for name, n in details.most_common())])
    return table(["task", "chosen by auto", "of the descent"], rows, ["l", "l", "l"])


def cost_table(groups):
    """[(name, runs)] to passes and seconds."""
    rows = []
    for name, runs in groups:
        if not runs:
            continue
        cost = [run["cost"] for run in runs]
        peak = max(run["measured"]["peak_bytes"] or 0 for run in runs) / 2**30
        rows.append([name, len(runs), f"{mean([c['forward_rows'] for c in cost]):.0f}",
                     f"{mean([c['backward_rows'] for c in cost]):.0f}",
                     f"{mean([r['measured']['cpu_seconds'] for r in runs]):.0f}",
                     f"{peak:.2f}" if peak else "not known"])
    return table(["", "runs", "rows forward", "rows backward", "CPU seconds", "peak GiB"], rows)


def did_not_work(quality):
    """Sentences about what failed, from the figures alone."""
    lines = []
    for score in SCORES:
        tests = quality.tests(lambda task, s=score: quality.gain_pairs(task, "auto", s))
        none = [f"{task} ({points(v[0])})" for task, v in tests.items() if v[3] >= LEVEL]
        if none:
            lines.append(f"By {score} `auto` changed nothing significantly on: {', '.join(none)}.")
        duels = quality.tests(lambda task, s=score: quality.duel_pairs(task, s))
        behind = [f"{task} ({points(v[0])})" for task, v in duels.items() if v[0] < 0]
        if behind:
            lines.append(f"By {score} the paper's procedure ended above `auto` on: "
                         f"{', '.join(behind)}.")
    poor = []
    for task in quality.tasks:
        for run in quality.runs(task, "auto"):
            for score in SCORES:
                change = metric(run, "test", "tuned", score) \
                    - metric(run, "test", "untouched", score)
                if change < -0.03:
                    poor.append(f"{task} w{run['wording']} s{run['seed']} ({score}, "
                                f"{points(change)})")
    if poor:
        lines.append("Single runs of `auto` that lost more than 3 points: " + ", ".join(poor) + ".")
    unable = {}
    for task in quality.tasks:
        runs = quality.runs(task, "auto")
        if runs:
            tuned = mean([metric(run, "test", "tuned", "likelihood") for run in runs])
            constant = quality.best_constant(task)
            if tuned < constant + 0.05:
                unable[task] = f"{task} ({percent(tuned)}, a constant answer {percent(constant)})"
    if unable:
        lines.append("Tasks that the model cannot do: even tuned it is not 5 points above one and the "
                     "same answer for every row, by likelihood: " + ", ".join(unable.values())
                     + ". They stay in every mean. What such a task gains is another constant answer.")
        gains = [quality.mean_over_tasks(
            lambda task, s=score: quality.gain_pairs(task, "auto", s), unable) for score in SCORES]
        if all(gains):
            lines.append("Without them the classification tasks gain "
                         + " and ".join(f"{points(value, interval)} ({score})" for
                                        (value, interval, _), score in zip(gains, SCORES))
                         + " points with `auto`.")
    failed = [f"{run['task']} {run['method']}" for runs in quality.cells.values()
              for run in runs.values() if run.get("placebo_equal") is False]
    lines.append("The placebo (gamma = 1 through the whole machinery) "
                 + ("FAILED in: " + ", ".join(failed) if failed else "changed no bit in any run")
                 + ".")
    return "\n".join("- " + line for line in lines)


def quality_section(runs, tasks):
    quality = Quality(runs, tasks)
    parts = [
        "## Quality: eight tasks, three wordings, three seeds",
        "64 rows to learn from, 128 to choose on, 200 to judge, which are read once, after the choice. "
        "Wordings, seeds and splits were fixed in `examples/reproduce/tasks.json` before any figure "
        "of a test split was seen. Accuracies in percent, differences in points. Intervals: bootstrap "
        "over wordings and seeds, then over rows.",
        "### What was run", coverage(quality),
        "### Goals", table(["goal", "found", ""], goals(quality), ["l", "l", "l"]),
        "### Untouched and tuned on the test split", quality_table(quality),
        "### Beside a constant answer",
        "`auto`, by likelihood. A task is done only where accuracy passes the best constant answer, the "
        "share of the commonest label. The commonest answer's share says how near to a constant the "
        "answers are; balanced accuracy is the mean over the classes, where a constant has one over their "
        "number.",
        constant_table(quality),
        "### What is significant: auto against untouched",
        "Exact McNemar test with the rows of the data as units (a row tested under several wordings or "
        "seeds counts once, for the side that was right more often); Holm's correction over the tasks; "
        "* below 0.05.",
        significance_table(quality, lambda task, s: quality.gain_pairs(task, "auto", s)),
        "### What is significant: the paper's procedure against untouched",
        significance_table(quality, lambda task, s: quality.gain_pairs(task, "paper", s)),
        "### What is significant: auto against the paper's procedure, same labelled rows",
        significance_table(quality, quality.duel_pairs),
        "### Search beside test",
        "The search split chose the table, so its gain is flattered; \"lost\" is how much of it the "
        "test split did not show.",
        search_beside_test(quality),
        "### What auto chose", chosen_table(quality),
        "### Passes and seconds",
        "Rows forward and backward of the search, each row under each table once; a paper's probe "
        "counts a row like any other. CPU seconds of the whole run, test split and placebo included; "
        "runs of one task and wording share answers that they both need, so the second method's "
        "seconds are a little below what it needs alone.",
        cost_table([(f"{task}, {method}", quality.runs(task, method))
                    for task in quality.tasks for method in experiments.METHODS]),
        "### What did not work", did_not_work(quality),
    ]
    return parts


# ---- the other experiments

TITLES = {
    "methods": "Every method",
    "learning-curve": "How many labelled rows",
    "descent": "Settings of the descent",
    "context": "Unrelated text before the question",
    "shots": "Solved examples before the question",
    "weights": "Formats of the weights",
    "decoding": "Greedy and drawn answers",
}


def natural(group):
    """A group's name with its numbers as numbers: 16 rows before 128 rows."""
    return [[(0, float(part), "") if part[:1].isdigit() else (1, 0.0, part)
             for part in re.findall(r"\d+\.?\d*|[^\d]+", text)] for text in group]


def plain_section(name, runs, planned):
    about = " ".join(experiments.EXPERIMENTS[name].__doc__.split())
    parts = [f"## {TITLES[name]}", f"{about} {len(runs)} of {planned} runs."]
    if not runs:
        return parts + ["Not run."]
    groups = defaultdict(list)
    for run in runs:
        groups[run["task"], run["label"] or run["method"], run["method"]].append(run)
    rows = []
    for (task, label, method), found in sorted(groups.items(), key=lambda g: natural(g[0])):
        row = [task, label + ("" if label == method else f", {method}"), len(found)]
        for score in SCORES:
            pairs = [(figures.right(run, "untouched", score), figures.right(run, "tuned", score))
                     for run in found]
            cells = figures.differences(pairs)
            p, _, _ = figures.row_test(pairs)
            row += [percent(mean([metric(r, "test", "untouched", score) for r in found])),
                    percent(mean([metric(r, "test", "tuned", score) for r in found])),
                    points(mean([mean(c) for c in cells]), figures.two_level_interval(cells)),
                    p_text(p)]
        row += [percent(mean([metric(r, "test", "tuned", "invalid") for r in found])),
                f"{mean([r['cost']['forward_rows'] for r in found]):.0f} + "
                f"{mean([r['cost']['backward_rows'] for r in found]):.0f}"]
        rows.append(row)
    parts.append(table(["task", "setting", "runs", "likelihood: untouched", "tuned",
                        "difference [95%]", "p", "generated: untouched", "tuned",
                        "difference [95%]", "p", "invalid", "rows forward + backward"], rows,
                       ["l", "l"] + ["r"] * 11))
    parts.append("p is McNemar's, as it is: not corrected for the number of rows of this table.")
    return parts


def heads_section(found, planned):
    """The gradient of every head beside its probe."""
    parts = ["## Every head: the gradient beside probing",
             " ".join(experiments.heads.__doc__.split()) + f" {len(found)} of {planned} runs."]
    if not found:
        return parts + ["Not run."]
    rows = []
    for run in found:
        agreed = run["agreement"]["likelihood"]
        gradient, probe = run["gradient"], run["probe"]
        rows.append([run["task"], run["rows"], len(gradient["effects"]),
                     f"{agreed['rank_correlation']:.3f}",
                     f"{100 * agreed['same_sign']:.0f}% of {agreed['strongest']}",
                     f"{gradient['forward_rows']} + {gradient['backward_rows']}",
                     probe["forward_rows"], f"{gradient['seconds']:.0f}",
                     f"{probe['seconds']:.0f}"])
    parts.append(table(["task", "rows", "heads", "rank correlation",
                        "same sign among the strongest", "gradient: rows forward + backward",
                        "probe: rows forward", "gradient: seconds", "probe: seconds"], rows))
    parts.append("Seconds are wall clock on "
                 f"{found[0]['measured']['threads']} threads. A probe keeps the activations below "
                 "the probed layer, so its rows cost about half of a full pass.")
    return parts


def python_section(found):
    """Seconds of the paper's procedure in Python beside the program's."""
    parts = ["## Against the paper's way in Python",
             "`examples/reproduce/paper_in_python.py`: PyTorch and transformers, float32, eager "
             "attention, on the same rows; seconds of processor time. The time of Python's whole is "
             "its rows times the median time of a row, measured on a sample; the program's time is "
             "that of a whole `zerotune tune` from nothing, test split and placebo included."]
    if not found:
        return parts + ["Not run."]
    for run in found:
        rows = []
        program = run.get("program", {})
        for size, seconds in run["seconds_per_row"].items():
            for unit, count in run["passes"].items():
                whole = seconds * count
                row = [f"batch {size}, probes by {unit}", count, f"{1000 * seconds:.0f}",
                       f"{whole:.0f}"]
                row += [f"{whole / program[m]['cpu_seconds']:.1f}" if m in program else "not run"
                        for m in ("paper", "auto")]
                rows.append(row)
        parts.append(f"{run['task']}, seed {run['seed']}, prompts of {run['prompt_tokens']:.0f} "
                     f"tokens, {run['threads']} thread(s).")
        parts.append(table(["Python", "rows", "ms a row", "seconds", "times tune --method paper",
                            "times tune --method auto"], rows))
        accuracy = []
        for method, one in program.items():
            test = one["test"]
            accuracy.append([f"zerotune {method}", f"{one['cpu_seconds']:.0f}",
                             one["cost"]["forward_rows"], one["cost"]["backward_rows"]]
                            + [percent(test["tuned"][score]) for score in SCORES])
        if "whole" in run:
            whole = run["whole"]
            accuracy.append(["Python, run to its end (probes by head-index, batch 1)",
                             f"{whole['cpu_seconds']:.0f}", run["passes"]["head-index"], 0]
                            + [percent(value) for value in whole["tuned"][:2]])
        if accuracy:
            parts.append(table(["", "CPU seconds", "rows forward", "rows backward",
                                "test, likelihood", "test, generated"], accuracy))
    return parts


def page(runs, tasks, notes):
    parts = [
        "# Results",
        "Written by `examples/reproduce/results.py` from the JSON of the runs; `bash "
        "examples/reproduce.sh` repeats them. Model: SmolLM2-135M-Instruct unless a run says "
        "otherwise. Every accuracy is given by likelihood (the likeliest choice) and generated (the "
        "greedy answer; one that names no choice is wrong). What was not run says so.",
    ]
    rounded = [run["key"].get("compute") == "bf16" for found in runs.values() for run in found
               if "key" in run]
    if any(rounded):
        parts.append(f"{sum(rounded)} of {len(rounded)} runs were made with `--compute bf16`, which "
                     "rounds the inputs of matrix products to bfloat16 and takes about half the time.")
    parts += quality_section(runs.get("quality", []), tasks)
    for name in TITLES:
        planned = len(experiments.plan(tasks, [name], False))
        parts += plain_section(name, runs.get(name, []), planned)
    parts += heads_section(runs.get("heads", []), len(experiments.plan(tasks, ["heads"], False)))
    parts += python_section(runs.get("python", []))
    if notes:
        parts.append(notes.strip())
    return "\n\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", required=True, metavar="DIR")
    parser.add_argument("--output", metavar="FILE")
    parser.add_argument("--collect", metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="the runs of --quick, no others")
    parser.add_argument("--notes", metavar="FILE", help="Markdown that ends the page")
    arguments = parser.parse_args()
    runs = load(arguments.results, arguments.quick)
    if arguments.collect:
        collect(runs, arguments.collect)
    if arguments.output:
        notes = ""
        if arguments.notes:
            with open(arguments.notes, encoding="utf-8") as file:
                notes = file.read()
        with open(arguments.output, "w", encoding="utf-8") as file:
            file.write(page(runs, experiments.load_tasks(), notes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
