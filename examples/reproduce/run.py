#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the experiments of examples/reproduce.sh and writes one small JSON file per run.

Can be stopped at any time and started again: finished runs are skipped, and the one that was under way
goes on from its journal. The files hold figures and row ids, no texts of the data sets."""

import argparse
import fcntl
import glob
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import experiments

SCHEMA = "zerotune-reproduction-run"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def fail(text):
    print(f"reproduce: {text}", file=sys.stderr)
    sys.exit(2)


def file_hash(path):
    hash_ = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            hash_.update(block)
    return hash_.hexdigest()


def write_whole(path, text):
    """Writes a file so that it is there in full or not at all."""
    with open(path + ".part", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".part", path)


def share(answers, labels):
    return sum(answer == label for answer, label in zip(answers, labels)) / len(labels)


def clock(seconds):
    minutes = int(seconds + 59) // 60
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


class Stopped(Exception):
    """A signal asked the driver to stop."""


def stop(number, _frame):
    for other in SIGNALS:  # a second one must not disturb the end
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(number)


class Driver:
    def __init__(self, arguments):
        self.arguments = arguments
        self.tasks = experiments.load_tasks()
        self.child = None
        self.files = {task["name"]: os.path.join(arguments.data, task["data"])
                      for task in self.tasks["tasks"]}
        for path in (arguments.program, arguments.model):
            if not os.access(path, os.R_OK):
                fail(f"there is no file {path} that can be read")
        version = subprocess.run([arguments.program, "--version"], capture_output=True, text=True)
        if version.returncode != 0:
            fail(f"{arguments.program} --version failed: {version.stderr.strip()}")
        self.version = version.stdout.strip()
        self.program_hash = file_hash(arguments.program)
        self.model_hash = file_hash(arguments.model)
        self.data_hashes = {}
        self.characters = {}
        self.fillers = {}
        os.makedirs(os.path.join(arguments.results, "journals"), exist_ok=True)

    def prepare(self, runs):
        """Reads the data that the runs need, once."""
        for name in {run.task for run in runs}:
            path = self.files[name]
            if not os.access(path, os.R_OK):
                fail(f"there is no file {path} that can be read; --data DIR or ZEROTUNE_DATA_DIR "
                     "names the folder with the rows (tasks.json says which files)")
            with open(path, "rb") as file:
                data = file.read()
            self.data_hashes[name] = hashlib.sha256(data).hexdigest()
            rows = [json.loads(line) for line in data.splitlines() if line.strip()]
            sizes = [len(row["text"]) + len(row.get("context") or "") for row in rows]
            self.characters[name] = sum(sizes) / len(sizes)

    def work_of(self, run):
        """Rough share of a run in the whole, to say how long the others will take."""
        template = experiments.template_of(self.tasks, run)
        characters = self.characters[run.task] + len(template) + 4 * run.context
        characters *= 1 + run.shots
        rows = run.splits["profile"] * 12 + run.splits["search"] * 8 + run.splits["test"] * 2
        return characters * rows

    def key(self, run):
        return experiments.key_of(run, self.tasks, self.version, self.model_hash,
                                  self.data_hashes[run.task])

    def path(self, run):
        folder = os.path.join(self.arguments.results, run.experiment)
        return os.path.join(folder, f"{run.name()}.{experiments.digest(self.key(run))}.json")

    def template(self, run):
        """The run's prompt, with as much unrelated text in it as the run wants."""
        template = experiments.template_of(self.tasks, run)
        if not run.context:
            return template
        if run.context not in self.fillers:
            self.fillers[run.context] = self.filler(run.context)
        return experiments.with_context(template, self.fillers[run.context])

    def filler(self, tokens):
        """The longest beginning of the unrelated text that has at most so many tokens."""
        texts = [experiments.filler_words(count) for count in range(1, tokens + 1)]
        result = subprocess.run([self.arguments.program, "tokenize", "--model",
                                 self.arguments.model], input="\n".join(map(json.dumps, texts)),
                                capture_output=True, text=True, check=True)
        counts = [len(json.loads(line)) for line in result.stdout.splitlines()]
        return [text for text, count in zip(texts, counts) if count <= tokens][-1]

    def model(self, run):
        """The model's file, or one with its weights in another format, which is made if missing."""
        if not run.weights:
            return self.arguments.model
        path = os.path.join(self.arguments.results, "models",
                            f"{self.model_hash[:16]}.{run.weights}.gguf")
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            print(f"  making {os.path.basename(path)}", flush=True)
            subprocess.run([self.requantise(), self.arguments.model, run.weights, path],
                           check=True)
        return path

    def requantise(self):
        """The tool beside the program in its build folder."""
        folder = os.path.dirname(os.path.abspath(self.arguments.program))
        for path in (os.path.join(folder, "zerotune-requantise"),
                     os.path.join(folder, "..", "reproduce", "zerotune-requantise")):
            if os.access(path, os.X_OK):
                return path
        fail("the experiment weights needs zerotune-requantise beside the program; build the target "
             "zerotune_requantise")

    def journal(self, run):
        """One journal for all that shares answers: the same model, rows and prompt."""
        shared = {"model": self.model_hash, "weights": run.weights, "task": run.task,
                  "wording": run.wording, "shots": run.shots, "context": run.context,
                  "data": self.data_hashes[run.task], "program": self.version,
                  "method_version": experiments.METHOD_VERSION,
                  "seed": run.seed if run.shots else 0}
        if run.compute != "fp32":
            shared["compute"] = run.compute
        name = f"{run.task}.w{run.wording}.{experiments.digest(shared)}.jsonl"
        return os.path.join(self.arguments.results, "journals", name)

    def command(self, run, output):
        command = [self.arguments.program, "tune", "--json",
                   "--model", self.model(run),
                   "--data", self.files[run.task],
                   "--template", self.template(run),
                   "--output", output,
                   "--journal", self.journal(run),
                   "--threads", str(self.arguments.threads),
                   "--compute", run.compute,
                   "--method", run.method,
                   "--seed", str(run.seed)]
        for split in ("profile", "search", "test"):
            command += [f"--{split}-rows", str(run.splits[split])]
        if run.shots:
            command += ["--shots", str(run.shots)]
        for option, value in run.options.items():
            command += [f"--{option}", str(value)]
        return command

    def judge(self, run):
        """A run without tuning: both tables on the test rows of the run that found one."""
        base_path = self.path(experiments.tuned_by(run, self.arguments.quick))
        if not os.path.exists(base_path):
            print("  skipped: it needs the quality run of this task, seed and wording first")
            return False
        with open(base_path, encoding="utf-8") as file:
            base = json.load(file)
        if "outcomes" not in base:
            print("  skipped: the quality run does not say which rows it was tested on")
            return False
        ids = base["outcomes"]["ids"]
        with tempfile.TemporaryDirectory() as folder, \
                open(self.files[run.task], encoding="utf-8") as file:
            rows = {row["id"]: row for row in map(json.loads, filter(str.strip, file))}
            data, profile = os.path.join(folder, "rows"), os.path.join(folder, "profile")
            write_whole(data, "".join(json.dumps(rows[id_]) + "\n" for id_ in ids))
            write_whole(profile, json.dumps({"schema": "zerotune-profile", "version": 1,
                                             "gamma": base["gamma"]}))
            answers, parts = {}, []
            for side, more in (("untouched", []), ("tuned", ["--profile", profile])):
                answers[side], measured = self.evaluate(run, data, folder, more)
                parts.append(measured)
        labels = [rows[id_]["label"] for id_ in ids]
        result = {name: base[name] for name in ("chosen", "gamma", "cost", "candidates")}
        result.update(self.identity(run), placebo_equal=None, outcomes={
            "ids": ids, "test": {"label": labels, **answers}})
        result["metrics"] = {"test": {
            side: {"likelihood": share(found["predicted"], labels),
                   "generated": share(found["generated"], labels),
                   "invalid": found["generated"].count(None) / len(ids), "rows": len(ids)}
            for side, found in answers.items()}}
        result["measured"] = {
            "wall_seconds": sum(part["wall_seconds"] for part in parts),
            "cpu_seconds": sum(part["cpu_seconds"] for part in parts),
            "peak_bytes": max(part["peak_bytes"] for part in parts),
            "threads": self.arguments.threads}
        write_whole(self.path(run), json.dumps(result, indent=1) + "\n")
        return True

    def evaluate(self, run, data, folder, more):
        """The answers of `zerotune evaluate` to all rows, as columns."""
        output = os.path.join(folder, "predictions")
        command = [self.arguments.program, "evaluate", "--json", "--model", self.model(run),
                   "--data", data, "--template", self.template(run), "--predictions", output,
                   "--threads", str(self.arguments.threads), "--compute", run.compute,
                   "--seed", str(run.seed), *more]
        for option, value in run.options.items():
            command += [f"--{option}", str(value)]
        status, measured = self.call(command, subprocess.DEVNULL)
        if status != 0:
            raise RuntimeError(f"evaluate failed with status {status}")
        with open(output, encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        return {"predicted": [row["predicted"] for row in rows],
                "generated": [row["generated"] for row in rows]}, measured

    def agreement(self, run):
        """Every head by gradient and by probing."""
        command = [self.arguments.program, "heads", "--json", "--compare", "--model",
                   self.model(run), "--data", self.files[run.task], "--template",
                   self.template(run), "--threads", str(self.arguments.threads), "--compute",
                   run.compute, "--seed", str(run.seed), "--profile-rows",
                   str(run.splits["profile"])]
        for option, value in run.options.items():
            command += [f"--{option}", str(value)]
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            status, measured = self.call(command, subprocess.DEVNULL, output)
            if status != 0:
                print(f"  heads failed with status {status}", file=sys.stderr)
                return False
            output.seek(0)
            found = json.load(output)
        result = {**self.identity(run), "measured": measured, "agreement": found["agreement"],
                  "rows": found["rows"]}
        for name, one in (("gradient", found), ("probe", found["probe"])):
            result[name] = {"seconds": one["seconds"], "forward_rows": one["forward_rows"],
                            "backward_rows": one.get("backward_rows", 0), "up": one["up"],
                            "down": one["down"],
                            "effects": [float(f"{unit['effect']:.5g}") for unit in one["units"]]}
        write_whole(self.path(run), json.dumps(result, indent=1) + "\n")
        return True

    def call(self, command, errors, output=subprocess.DEVNULL):
        """Runs the program. Returns its status and what it used."""
        started = time.monotonic()
        self.child = subprocess.Popen(command, stdout=output, stderr=errors)
        try:
            _, status, used = os.wait4(self.child.pid, 0)
        except Stopped:
            self.child.terminate()
            _, status, used = os.wait4(self.child.pid, 0)
            self.interrupted = self.usage(started, used)
            raise
        finally:
            self.child = None
        return os.waitstatus_to_exitcode(status), self.usage(started, used)

    def usage(self, started, used):
        return {"wall_seconds": round(time.monotonic() - started, 1),
                "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
                "peak_bytes": used.ru_maxrss * 1024, "threads": self.arguments.threads}

    def add_spent(self, path, measured):
        """What a run used before it was interrupted counts as well."""
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                before = json.load(file)
            for name in ("wall_seconds", "cpu_seconds"):
                measured[name] = round(measured[name] + before[name], 1)
            measured["journal_known"] = before["journal_known"]
            measured["interrupted"] = before.get("interrupted", 0) + 1
        return measured

    def adopt(self, runs, folder):
        """Runs that a folder like docs/results holds count as finished here."""
        known = {}
        for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
            with open(path, encoding="utf-8") as file:
                for found in json.load(file).get("runs", []):
                    known[experiments.digest(found["key"])] = found
        taken = sum(self.take(run, known.get(experiments.digest(self.key(run)))) for run in runs)
        print(f"{taken} runs taken from {folder}")

    def take(self, run, found):
        """A finished run with the same key, of whichever experiment, as the result of this one."""
        path = self.path(run)
        if not found or os.path.exists(path):
            return False
        os.makedirs(os.path.dirname(path), exist_ok=True)
        result = {**found, **self.identity(run), "program_sha256": found["program_sha256"]}
        if found["experiment"] != run.experiment:
            result["run_of"] = found.get("run_of", found["experiment"])
        write_whole(path, json.dumps(result, indent=1) + "\n")
        return True

    def finished_elsewhere(self, run):
        """A finished run with the same key in another experiment's folder, or None."""
        digest = experiments.digest(self.key(run))
        for path in sorted(glob.glob(os.path.join(self.arguments.results, "*", f"*.{digest}.json"))):
            with open(path, encoding="utf-8") as file:
                return json.load(file)
        return None

    def execute(self, run):
        """One run. Returns False if it failed; what it printed is beside its result."""
        path = self.path(run)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if self.take(run, self.finished_elsewhere(run)):
            print("  the same run is finished in another experiment", flush=True)
            return True
        if run.command == "evaluate":
            return self.judge(run)
        if run.command == "heads":
            return self.agreement(run)
        output, log = path[:-5] + ".profile", path[:-5] + ".log"
        resumed = os.path.exists(self.journal(run))
        spent = path[:-5] + ".spent"
        try:
            with open(log, "w", encoding="utf-8") as errors:
                status, measured = self.call(self.command(run, output), errors)
        except Stopped:
            write_whole(spent, json.dumps(self.add_spent(
                spent, {**self.interrupted, "journal_known": resumed})))
            raise
        if status != 0:
            with open(log, encoding="utf-8", errors="replace") as file:
                last = file.read().strip().splitlines()[-1:]
            print(f"  failed with status {status}: {''.join(last)[:300]}", file=sys.stderr)
            return False
        with open(output, encoding="utf-8") as file:
            profile = json.load(file)
        measured = self.add_spent(spent, {**measured, "journal_known": resumed})
        write_whole(path, json.dumps(self.summary(run, profile, measured), indent=1) + "\n")
        for path in (output, log, spent):
            if os.path.exists(path):
                os.remove(path)
        return True

    def identity(self, run):
        return {"schema": SCHEMA, "version": 1, "experiment": run.experiment, "task": run.task,
                "wording": run.wording, "seed": run.seed, "method": run.method,
                "label": run.label, "quick": self.arguments.quick, "key": self.key(run),
                "program_sha256": self.program_hash}

    def summary(self, run, profile, measured):
        kept = ("chosen", "objective", "kind", "granularity", "probe_gamma", "share", "loss",
                "cost", "metrics", "descent", "placebo_equal", "controls", "warnings", "settings",
                "gamma")
        result = {**self.identity(run), "measured": measured}
        for name in kept:
            if name in profile:
                result[name] = profile[name]
        result["candidates"] = [
            {name: candidate[name] for name in
             ("method", "detail", "rows", "objective", "tie", "admitted")}
            for candidate in profile.get("candidates", [])]
        if "outcomes" in profile:
            result["outcomes"] = {"ids": profile["splits"]["test"], **profile["outcomes"]}
        return result

    def run_all(self):
        arguments = self.arguments
        runs = experiments.plan(self.tasks, arguments.only, arguments.quick, arguments.compute)
        if arguments.seed:
            runs = [run for run in runs if run.seed in arguments.seed]
        self.prepare(runs)
        if arguments.list:
            for run in runs:
                done = "done" if os.path.exists(self.path(run)) else "open"
                print(f"{done}  {run.experiment:15} {run.name()}")
            return 0
        lock = open(os.path.join(arguments.results, "lock"), "w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            fail(f"another run is writing to {arguments.results}")
        if arguments.known:
            self.adopt(runs, arguments.known)
        open_runs = [run for run in runs if not os.path.exists(self.path(run))]
        print(f"{len(runs)} runs, {len(runs) - len(open_runs)} of them finished before")
        left = sum(self.work_of(run) for run in open_runs)
        start, done, failed = time.monotonic(), 0.0, 0
        for number, run in enumerate(open_runs, len(runs) - len(open_runs) + 1):
            elapsed = time.monotonic() - start
            if arguments.minutes and elapsed > 60 * arguments.minutes:
                print(f"stopped after {clock(elapsed)}; start again to go on")
                return 1
            estimate = f", about {clock(elapsed / done * (left - done))} left" if done else ""
            print(f"[{number}/{len(runs)}] {run.experiment}: {run.name()} "
                  f"({time.strftime('%H:%M')}{estimate})", flush=True)
            failed += not self.execute(run)
            done += self.work_of(run)
        print(f"finished: {len(open_runs) - failed} runs in {clock(time.monotonic() - start)}"
              + (f", {failed} failed" if failed else ""))
        return 1 if failed else 0


def parse(argv):
    parser = argparse.ArgumentParser(prog="reproduce", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, metavar="FILE", help="the program zerotune")
    parser.add_argument("--model", required=True, metavar="FILE", help="GGUF file")
    parser.add_argument("--data", metavar="DIR", default=os.environ.get("ZEROTUNE_DATA_DIR", ""),
                        help="folder with the rows; by default ZEROTUNE_DATA_DIR")
    parser.add_argument("--results", required=True, metavar="DIR", help="where results go")
    parser.add_argument("--only", metavar="NAME", action="append",
                        choices=list(experiments.EXPERIMENTS), help="only this experiment; may be "
                        "given several times: " + ", ".join(experiments.EXPERIMENTS))
    parser.add_argument("--seed", metavar="N", type=int, action="append",
                        help="only runs with this seed; may be given several times")
    parser.add_argument("--quick", action="store_true", help="few tasks and rows: minutes")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--compute", choices=("fp32", "bf16"), default="fp32",
                        help="--compute of the program, default fp32; bf16 takes about half the time")
    parser.add_argument("--known", metavar="DIR",
                        help="a folder like docs/results, whose runs count as finished")
    parser.add_argument("--minutes", type=float, default=0, metavar="N",
                        help="begin no run after so many minutes")
    parser.add_argument("--list", action="store_true", help="print the runs and end")
    arguments = parser.parse_args(argv)
    if not arguments.data:
        fail("the rows of the tasks are not part of this project: --data DIR or "
             "ZEROTUNE_DATA_DIR must name the folder with them (examples/reproduce/tasks.json "
             "says which files, docs/results.md their form)")
    if os.path.isdir(os.path.join(arguments.data, "data")):
        arguments.data = os.path.join(arguments.data, "data")
    return arguments


def main():
    driver = Driver(parse(sys.argv[1:]))
    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        return driver.run_all()
    except Stopped as reason:
        print("stopped; start again to go on", file=sys.stderr)
        return 128 + reason.args[0]


if __name__ == "__main__":
    sys.exit(main())
