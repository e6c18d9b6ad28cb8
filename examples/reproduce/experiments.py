# SPDX-License-Identifier: Apache-2.0
"""The experiments of examples/reproduce.sh: which runs there are, and in which order.

A run is one call of `zerotune tune`, or for the experiment "decoding" two of `zerotune evaluate`, for
"heads" one of `zerotune heads`. All that
its result depends on is in its key, so a finished run is found again, and one with other settings is
another run."""

import hashlib
import json
import os
from dataclasses import dataclass, field

HERE = os.path.dirname(os.path.abspath(__file__))

# Raised whenever a change of the program changes what `tune` chooses or how it scores.
METHOD_VERSION = 1

METHODS = ("auto", "paper")

# Text that has nothing to do with any task, for the experiment with extra context; as many words of
# it as fit into the number of tokens, from the beginning again where it ends.
FILLER = (
    "The ferry leaves the pier at seven and again at noon. On most days the water is flat and the "
    "crossing takes half an hour. A man sells rolls and coffee from a cart beside the ticket window, "
    "and the gulls wait on the roof above him. In winter the timetable has fewer lines and the cart "
    "stays under its green cover. The island has one road, which goes around it once, past the "
    "school, the mill and the two farms. Bicycles can be borrowed at the harbour for the day. From "
    "the hill in the middle one sees the whole coast, the bridge in the north and, when the air is "
    "clear, the chimneys of the town. The path to the top is dry and not steep. Sheep lie across it "
    "and get up slowly. At five the last boat goes back, and the lamps along the quay are lit.")


@dataclass
class Run:
    experiment: str
    task: str
    wording: int  # from 1
    seed: int
    method: str
    label: str = ""  # what differs from the experiment's other runs, as in "step 0.05"
    splits: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)  # of `tune`, without the leading dashes
    shots: int = 0
    context: int = 0  # tokens of text that has nothing to do with the task, before the prompt
    weights: str = ""  # "": the model's file as it is
    compute: str = "fp32"  # --compute of the program
    # tune, or evaluate: judges the table of the quality experiment under other decoding, or heads
    command: str = "tune"

    @property
    def tunes(self):
        return self.command == "tune"

    def name(self):
        parts = [self.task, f"w{self.wording}", f"s{self.seed}", self.method]
        if self.label:
            parts.append("".join(c if c.isalnum() or c in ".+" else "-" for c in self.label))
        return ".".join(parts)


def load_tasks():
    with open(os.path.join(HERE, "tasks.json"), encoding="utf-8") as file:
        return json.load(file)


def template_of(tasks, run):
    """The wording as it is in tasks.json."""
    for task in tasks["tasks"]:
        if task["name"] == run.task:
            return task["templates"][run.wording - 1]
    raise KeyError(run.task)


def filler_words(count):
    words = FILLER.split()
    return " ".join(words[i % len(words)] for i in range(count))


def with_context(template, filler):
    """Puts the filler between the initial token and the question."""
    turn = "user\n"
    at = template.index(turn) + len(turn)
    return template[:at] + filler + "\n" + template[at:]


def quality(tasks, quick):
    """Every task, wording and seed: auto and the paper's procedure."""
    names = [task["name"] for task in tasks["tasks"]]
    blocks = [(seed, wording) for seed in tasks["seeds"] for wording in (1, 2, 3)]
    if quick:
        names, blocks = ["sst2", "agnews", "piqa"], blocks[:1]
    for seed, wording in blocks:
        for name in names:
            for method in METHODS:
                yield Run("quality", name, wording, seed, method)


def methods(tasks, quick):
    """Every method of `tune`, and the searches without labels, on tasks of two and four classes."""
    variants = [(m, m, {}) for m in ("uniform", "paper", "gradient-select", "descent", "auto")]
    variants += [
        ("auto", "entropy", {"objective": "entropy"}),
        ("auto", "choice entropy", {"objective": "choice-entropy"}),
        ("auto", "likelihood", {"objective": "likelihood"}),
        ("paper", "paper by head", {"granularity": "head"}),
        ("paper", "paper by layer", {"granularity": "layer"}),
    ]
    for seed in tasks["seeds"][: 1 if quick else 3]:
        for name in ("sst2", "agnews"):
            for method, label, options in variants:
                if quick and label == "paper by head":
                    continue  # 270 probes
                yield Run("methods", name, 1, seed, method, label, options=options)


def learning_curve(tasks, quick):
    """8 to 256 labelled rows, a third of them to learn from and the others to choose on."""
    sizes = (8, 32) if quick else (8, 16, 32, 64, 128, 256)
    for seed in tasks["seeds"][: 1 if quick else 3]:
        for name in ("sst2", "agnews"):
            for rows in sizes:
                profile = max(2, round(rows / 3))
                yield Run("learning-curve", name, 1, seed, "auto", f"{rows} rows",
                          splits={"profile": profile, "search": rows - profile})


def descent(tasks, quick):
    """Step size, early stopping, sharing and pull of the descent, one changed at a time."""
    variants = [("as it is", {})]
    for option, values in (
        ("step-size", (0.05, 0.3)),
        ("patience", (1, 100)),
        ("batch", (4, 16)),
        ("pull", (0.01, 0.1)),
        ("layer-sharing", (0.01, 0.1)),
        ("head-sharing", (0.01, 0.1)),
    ):
        for value in values[:1] if quick else values:
            variants.append((f"{option} {value}", {option: value}))
    for seed in tasks["seeds"][: 1 if quick else 3]:
        for name in ("agnews",) if quick else ("sst2", "agnews"):
            for label, options in variants:
                yield Run("descent", name, 1, seed, "descent", label, options=options)


def context(tasks, quick):
    """0 to 300 tokens of unrelated text between the initial token and the question."""
    for name in ("sst2", "agnews"):
        for tokens in (0, 100) if quick else (0, 100, 200, 300):
            for method in METHODS:
                yield Run("context", name, 1, 1, method, f"{tokens} tokens", context=tokens)


def shots(tasks, quick):
    """0, 1 and 2 solved examples before the question."""
    for name in ("sst2", "agnews"):
        for count in (0, 1) if quick else (0, 1, 2):
            for method in METHODS:
                yield Run("shots", name, 1, 1, method, f"{count} shots", shots=count)


def weights(tasks, quick):
    """The model's weights in other formats, requantised from the file."""
    for name in ("sst2",) if quick else ("sst2", "agnews"):
        for kind in ("q4_0", "q8_0") if quick else ("", "q4_0", "q8_0", "f16"):
            for method in METHODS:
                yield Run("weights", name, 1, 1, method, kind or "as in the file", weights=kind)


def decoding(tasks, quick):
    """Drawn answers in place of greedy ones, under the table that auto found in the quality experiment
    (seed 1, wording 1, which must have been run), on the same test rows."""
    variants = [("greedy", {"temperature": 0}),
                ("top-k 40, temperature 1", {"temperature": 1, "top-k": 40}),
                ("top-p 0.9, temperature 1", {"temperature": 1, "top-p": 0.9})]
    for name in ("sst2", "agnews"):
        for label, options in variants:
            yield Run("decoding", name, 1, 1, "auto", label, options=options,
                      command="evaluate")


def heads(tasks, quick):
    """All heads of the model by one backward pass and by probing each alone, on the same rows, and how
    the two agree: the gradient of the loss among the choices beside the probed likelihood."""
    for name in ("sst2",) if quick else ("sst2", "agnews"):
        yield Run("heads", name, 1, 1, "heads", splits={"search": 0, "test": 0},
                  options={"granularity": "head", "objective": "likelihood", "probe-gamma": 2},
                  command="heads")


EXPERIMENTS = {
    "quality": quality,
    "methods": methods,
    "learning-curve": learning_curve,
    "descent": descent,
    "context": context,
    "shots": shots,
    "weights": weights,
    "decoding": decoding,
    "heads": heads,
}

QUICK_SPLITS = {"profile": 16, "search": 32, "test": 40}
QUICK_OPTIONS = {"steps": 16}


def plan(tasks, only, quick, compute="fp32"):
    """All runs of the experiments in `only` (or of all of them), each with its splits and options."""
    runs = []
    for name, make in EXPERIMENTS.items():
        if only and name not in only:
            continue
        for run in make(tasks, quick):
            run.compute = compute
            run.splits = {**tasks["splits"], **(QUICK_SPLITS if quick else {}), **run.splits}
            if quick and run.tunes:
                run.options = {**QUICK_OPTIONS, **run.options}
            runs.append(run)
    return runs


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def tuned_by(run, quick):
    """The run of the quality experiment whose table a run without tuning judges."""
    return Run("quality", run.task, run.wording, run.seed, run.method, splits=run.splits,
               options=dict(QUICK_OPTIONS) if quick else {}, compute=run.compute)


def key_of(run, tasks, version, model_hash, data_hash):
    """What a run's result depends on."""
    key = {
        "method_version": METHOD_VERSION,
        "program": version,
        "model": model_hash,
        "data": data_hash,
        "template": sha256(template_of(tasks, run).encode()),
        "task": run.task,
        "wording": run.wording,
        "seed": run.seed,
        "method": run.method,
        "splits": run.splits,
        "options": run.options,
        "shots": run.shots,
        "context": run.context,
        "weights": run.weights,
    }
    if run.compute != "fp32":
        key["compute"] = run.compute
    if run.context:
        key["filler"] = sha256(FILLER.encode())
    if not run.tunes:
        key["command"] = run.command
    return key


def digest(key):
    return sha256(json.dumps(key, sort_keys=True).encode())[:10]
