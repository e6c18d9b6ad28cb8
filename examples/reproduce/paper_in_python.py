#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The paper's tuning (arXiv 2505.11739, sections 4 and 5) in plain PyTorch and transformers, timed
beside the program.

Independent of the library: eager attention, the weights' first column times gamma, rows
divided by their new sum; one row at a time, or left-padded batches. The procedure: probe every unit
(a head index across all layers, or a single head) with gamma 2 on the profile rows, take the dominant
kind, scale its strongest 40% by each gamma of a grid on the search rows, judge the best on the test
rows. The rows are those of a profile that `zerotune tune` wrote, so all see the same data.

By default a sample of rows is timed and the whole is that many passes: time per row times rows. With
--whole the procedure is run to its end (unit: head index) and its accuracy given. All seconds are
seconds of processor time, as the machine may be shared.

Without PyTorch it makes an environment below --environment and installs requirements.txt into it.
"""

import argparse
import glob
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv

HERE = os.path.dirname(os.path.abspath(__file__))
GRID = (0.3, 0.5, 0.7, 1.4, 2.0, 2.5, 3.0, 4.0)
PROBE_GAMMA = 2.0
SHARE = 0.4


def in_environment(folder):
    """Starts this script again in an environment of its own if PyTorch is missing here."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
        return
    except ImportError:
        pass
    python = os.path.join(folder, "bin", "python")
    if os.environ.get("ZEROTUNE_IN_ENVIRONMENT"):
        sys.exit("paper_in_python: PyTorch and transformers are missing in " + folder)
    if not os.path.exists(python):
        print("making an environment with PyTorch in", folder, file=sys.stderr)
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r",
                    os.path.join(HERE, "requirements.txt")], check=True)
    os.execve(python, [python, *sys.argv], {**os.environ, "ZEROTUNE_IN_ENVIRONMENT": "1"})


class Host:
    """A transformers model whose attention to the first token can be scaled per head."""

    def __init__(self, path, threads):
        import torch
        import transformers
        from transformers.models.llama import modeling_llama
        torch.set_num_threads(threads)
        self.torch = torch
        folder, name = os.path.split(os.path.abspath(path))
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager").eval()
        self.layers = self.model.config.num_hidden_layers
        self.heads = self.model.config.num_attention_heads
        self.untouched()
        self.starts = None  # first real column of every sequence of a left-padded batch
        modeling_llama.eager_attention_forward = self.attention

    def untouched(self):
        self.gamma = [None] * self.layers

    def scale(self, units, gamma):
        """Every (layer, head) of `units` by gamma, all others as they are."""
        table = self.torch.ones(self.layers, self.heads)
        for layer, head in units:
            table[layer, head] = gamma
        self.gamma = [None if bool((row == 1).all()) else row for row in table]

    def attention(self, module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
        torch = self.torch
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        logits = query @ key.transpose(2, 3) * scaling
        if attention_mask is not None:
            logits = logits + attention_mask
        weights = torch.softmax(logits, dim=-1, dtype=torch.float32)
        gamma = self.gamma[module.layer_idx]
        if gamma is not None:
            gamma = gamma.view(1, -1, 1, 1)
            if self.starts is None:
                weights[..., :1] *= gamma
            else:
                at = self.starts.view(-1, 1, 1, 1).expand(*weights.shape[:3], 1)
                weights = weights.scatter(-1, at, weights.gather(-1, at) * gamma)
            weights = weights / weights.sum(-1, keepdim=True)
        return (weights @ value).transpose(1, 2).contiguous(), weights

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False)

    def answer(self, rows):
        """[(predicted, generated or None)] of prepared rows, all in one batch."""
        torch = self.torch
        longest = max(len(row["prompt"]) for row in rows)
        pad = self.tokenizer.eos_token_id or 0
        ids = torch.tensor([[pad] * (longest - len(r["prompt"])) + r["prompt"] for r in rows])
        starts = torch.tensor([longest - len(row["prompt"]) for row in rows])
        mask = (torch.arange(longest).view(1, -1) >= starts.view(-1, 1)).long()
        self.starts = starts if len(rows) > 1 else None
        arguments = {} if len(rows) == 1 else {
            "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        with torch.inference_mode():
            out = self.model(ids, use_cache=True, **arguments)
            logits = out.logits[:, -1]
            predicted = [self.likeliest(row, logits[i]) for i, row in enumerate(rows)]
            generated = self.generate(rows, logits, out.past_key_values, mask)
        return list(zip(predicted, generated))

    def likeliest(self, row, logits):
        shares = self.torch.log_softmax(logits, dim=-1)
        if all(len(choice) == 1 for choice in row["choices"]):
            scores = [float(shares[choice[0]]) for choice in row["choices"]]
        else:
            scores = [self.log_likelihood(row["prompt"], choice) for choice in row["choices"]]
        return max(range(len(scores)), key=lambda i: scores[i])

    def log_likelihood(self, prompt, choice):
        starts, self.starts = self.starts, None
        out = self.model(self.torch.tensor([prompt + choice[:-1]]))
        shares = self.torch.log_softmax(out.logits[0, len(prompt) - 1:], dim=-1)
        self.starts = starts
        return sum(float(shares[i, token]) for i, token in enumerate(choice))

    def generate(self, rows, logits, cache, mask):
        """Greedy, until an answer is settled for every row."""
        torch = self.torch
        texts, running = [[] for _ in rows], [True] * len(rows)
        for step in range(max(len(c) for row in rows for c in row["choices"]) + 2):
            tokens = logits.argmax(-1)
            for i, row in enumerate(rows):
                if not running[i]:
                    continue
                if int(tokens[i]) == self.tokenizer.eos_token_id:
                    running[i] = False
                    continue
                texts[i].append(int(tokens[i]))
                text = normal(self.tokenizer.decode(texts[i]))
                running[i] = any(name.startswith(text) for name in row["names"])
            if not any(running):
                break
            mask = torch.cat([mask, torch.ones(len(rows), 1, dtype=torch.long)], dim=1)
            arguments = {} if len(rows) == 1 else {
                "attention_mask": mask, "position_ids": mask.sum(1, keepdim=True) - 1}
            out = self.model(tokens.view(-1, 1), past_key_values=cache, use_cache=True, **arguments)
            logits = out.logits[:, -1]
        answers = []
        for row, ids in zip(rows, texts):
            text = normal(self.tokenizer.decode(ids).split("\n")[0])
            fitting = [i for i, name in enumerate(row["names"])
                       if text == name or text.startswith(name) and not text[len(name)].isalnum()]
            answers.append(max(fitting, key=lambda i: len(row["names"][i])) if fitting else None)
        return answers


def normal(text):
    return text.strip(" \t\r\n.,;:!?\"'()*").lower()


def prepare(host, row, template):
    parts = {"text": row["text"], "context": row.get("context") or "",
             "choices": ", ".join(row["choices"])}
    return {"prompt": host.encode(template.format(**parts)), "label": row["label"],
            "choices": [host.encode(" " + choice) for choice in row["choices"]],
            "names": [normal(choice) for choice in row["choices"]]}


def batches(rows, size):
    rows = sorted(rows, key=lambda row: len(row["prompt"])) if size > 1 else rows
    return [rows[i:i + size] for i in range(0, len(rows), size)]


def scores(host, rows, size):
    """(accuracy by likelihood, generated, share of invalid answers)."""
    likely = said = invalid = 0
    for batch in batches(rows, size):
        for row, (predicted, generated) in zip(batch, host.answer(batch)):
            likely += predicted == row["label"]
            said += generated == row["label"]
            invalid += generated is None
    return likely / len(rows), said / len(rows), invalid / len(rows)


def value(found):
    return (found[0] + found[1]) / 2


def tune(host, splits, size, progress):
    """The paper's whole procedure with a head index as unit. Returns (units, gamma)."""
    host.untouched()
    before = value(scores(host, splits["profile"], size))
    effect = []
    for head in range(host.heads):
        progress(f"probe {head + 1} of {host.heads}")
        host.scale([(layer, head) for layer in range(host.layers)], PROBE_GAMMA)
        effect.append(value(scores(host, splits["profile"], size)) - before)
    up = sum(e > 0 for e in effect) >= sum(e < 0 for e in effect)
    order = sorted(range(host.heads), key=lambda head: -effect[head] if up else effect[head])
    chosen = [head for head in order[:max(1, round(SHARE * host.heads))]
              if (effect[head] > 0 if up else effect[head] < 0)]
    units = [(layer, head) for head in chosen for layer in range(host.layers)]
    host.untouched()
    best = (value(scores(host, splits["search"], size)), 1.0)
    for gamma in GRID:
        progress(f"gamma {gamma:g} on heads {chosen}")
        host.scale(units, gamma)
        best = max(best, (value(scores(host, splits["search"], size)), gamma),
                   key=lambda pair: pair[0])
    return units, best[1]


def passes(splits, units):
    """Rows that the procedure runs through the model, test rows aside."""
    return (1 + units) * len(splits["profile"]) + (1 + len(GRID)) * len(splits["search"])


def timed(host, rows, size):
    start = time.process_time()
    scores(host, rows, size)
    return (time.process_time() - start) / len(rows)


def program_run(arguments, template, method, seed):
    """The program's own tuning from nothing: seconds of its process and its profile."""
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "profile.json")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([arguments.program, "tune", "--model", arguments.model, "--data",
                        arguments.data, "--template", template, "--output", output, "--json",
                        "--threads", str(arguments.threads), "--compute", arguments.compute,
                        "--method", method,
                        "--seed", str(seed)], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        with open(output, encoding="utf-8") as file:
            profile = json.load(file)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_seconds": seconds, "cost": profile["cost"], "test": profile["metrics"]["test"]}


def finished_runs(folder, name, profile):
    """The same from runs that examples/reproduce.sh has finished. A method that came second shares
    answers with the first (the untouched model's), so its seconds are a little too few."""
    found = {}
    for path in sorted(glob.glob(os.path.join(folder, "quality", f"{name}.*.json"))):
        with open(path, encoding="utf-8") as file:
            run = json.load(file)
        if run["seed"] == profile["seed"] and not run["quick"] and \
                run["key"]["template"] == hashlib.sha256(profile["template"].encode()).hexdigest():
            found[run["method"]] = {"cpu_seconds": run["measured"]["cpu_seconds"],
                                    "shares_answers": run["measured"]["journal_known"],
                                    "cost": run["cost"], "test": run["metrics"]["test"]}
    return found


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="FILE", help="GGUF file")
    parser.add_argument("--data", required=True, metavar="FILE", help="rows, JSON lines")
    parser.add_argument("--profile", required=True, metavar="FILE",
                        help="profile of `zerotune tune` on the same rows: its splits and template")
    parser.add_argument("--program", metavar="FILE",
                        help="also time `zerotune tune`, auto and paper, from nothing")
    parser.add_argument("--compute", choices=("fp32", "bf16"), default="fp32",
                        help="--compute of the program; Python computes in float32")
    parser.add_argument("--runs", metavar="DIR",
                        help="in place of --program: take them from a results folder of "
                             "examples/reproduce.sh")
    parser.add_argument("--rows", type=int, default=32, help="rows to time")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds of timing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--whole", action="store_true", help="run the procedure to its end")
    parser.add_argument("--output", metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--environment", default="build-reproduce/venv", metavar="DIR")
    return parser.parse_args()


def main():
    arguments = parse()
    in_environment(arguments.environment)
    with open(arguments.profile, encoding="utf-8") as file:
        profile = json.load(file)
    with open(arguments.data, encoding="utf-8") as file:
        rows = {row["id"]: row for row in map(json.loads, filter(str.strip, file))}
    host = Host(arguments.model, arguments.threads)
    splits = {name: [prepare(host, rows[id_], profile["template"]) for id_ in ids]
              for name, ids in profile["splits"].items()}
    sample = splits["profile"][:arguments.rows]
    host.scale([(layer, head) for layer in range(host.layers) for head in range(host.heads)], 2.0)
    timed(host, sample[:4], 1)
    per_row = {1: [], 8: []}
    for _ in range(arguments.rounds):
        for size, found in per_row.items():
            found.append(timed(host, sample, size))
    result = {"schema": "zerotune-python-comparison", "threads": arguments.threads,
              "task": os.path.basename(arguments.data), "seed": profile["seed"],
              "compute": arguments.compute,
              "prompt_tokens": sum(len(r["prompt"]) for r in sample) / len(sample),
              "seconds_per_row": {str(size): statistics.median(found)
                                  for size, found in per_row.items()},
              "rounds": {str(size): found for size, found in per_row.items()},
              "passes": {"head-index": passes(splits, host.heads),
                         "head": passes(splits, host.heads * host.layers)}}
    print(json.dumps(result, indent=1), flush=True)
    if arguments.whole:
        start = time.process_time()
        units, gamma = tune(host, splits, 1, lambda text: print(" ", text, file=sys.stderr))
        whole = {"cpu_seconds": time.process_time() - start, "gamma": gamma,
                 "heads": sorted({head for _, head in units})}
        host.untouched()
        whole["untouched"] = scores(host, splits["test"], 1)
        host.scale(units, gamma)
        whole["tuned"] = scores(host, splits["test"], 1)
        result["whole"] = whole
        print(json.dumps(whole, indent=1), flush=True)
    if arguments.program or arguments.runs:
        task = os.path.splitext(os.path.basename(arguments.data))[0]
        result["program"] = finished_runs(arguments.runs, task, profile) if arguments.runs else {
            method: program_run(arguments, profile["template"], method, profile["seed"])
            for method in ("auto", "paper")}
        for method, run in result["program"].items():
            for size, seconds in result["seconds_per_row"].items():
                for unit, count in result["passes"].items():
                    ratio = seconds * count / run["cpu_seconds"]
                    print(f"{method} against Python, batch {size}, unit {unit}: {ratio:.1f} times")
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
            file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
