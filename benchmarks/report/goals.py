# SPDX-License-Identifier: Apache-2.0
"""What zerotune wants to reach, and what a run reached, as ratios."""

import dataclasses
import typing

AMX = "AMX"  # Intel CPUs with tiles
DOT = "AVX512-BF16"  # CPUs with bfloat16 dot products twice as fast as float, and no tiles


def machine_kind(document):
    if "amx_bf16" in document["features"]:
        return AMX
    return DOT if "avx512_bf16" in document["features"] else None


@dataclasses.dataclass
class Goal:
    work: str
    must: float
    stretch: float
    select: typing.Callable  # from the run's document to [(name, value)]
    at_most: bool = False
    only: str | None = None  # kind of machine that the goal is for
    unit: str = "x"

    def verdict(self, values):
        if not values:
            return "not measured"
        worst = max(v for _, v in values) if self.at_most else min(v for _, v in values)

        def reaches(limit):
            return worst <= limit if self.at_most else worst >= limit

        if reaches(self.stretch):
            return "stretch met"
        return "met" if reaches(self.must) else "not met"


def matches(figure, wanted):
    """wanted: values, or functions that judge one."""
    return all(key in figure and (test(figure[key]) if callable(test) else figure[key] == test)
               for key, test in wanted.items())


def shape_name(figure):
    parts = []
    if "q_len" in figure and figure["q_len"] != 1:
        parts.append(str(figure["q_len"]))
    elif "kv_len" in figure:
        parts.append(f"{figure['kv_len'] // 1024}k keys")
    if "head_dim" in figure and figure.get("q_len") != 1:
        parts.append(f"d={figure['head_dim']}")
    if "kv_heads" in figure and figure.get("q_len") != 1:
        parts.append(f"{figure['heads']}/{figure['kv_heads']}")
    return " ".join(parts)


def own(program, name, label=shape_name, scale=1.0, **wanted):
    def select(document):
        figures = document["programs"].get(program, {}).get("figures", [])
        return [(label(f), f["median"] * scale) for f in figures
                if f["figure"] == name and matches(f, wanted)]

    return select


def decode_arithmetic(*wanted):
    """Rate of decode from a cache, as a share of what multiply-adds (for bfloat16, dot products at
    twice their rate) allow: wanted are (dtype, kv_len, bytes a second for each FLOP/s)."""

    def select(document):
        program = document["programs"].get("decode", {})
        fma = program.get("roofs", {}).get("fma")
        return [(type_name(f), f["rates"][0][0] / (fma * share))
                for f in program.get("figures", []) for dtype, kv_len, share in wanted
                if fma and f["figure"] == "warm" and f["rates"]
                and (f["dtype"], f["kv_len"]) == (dtype, kv_len)]

    return select


def peer(*names, label=shape_name, **wanted):
    def select(document):
        figures = document.get("peers", {}).get("figures", [])
        found = [f for f in figures if f["peer"] in names and matches(f, wanted)]
        # Of several peers the fastest counts, shape by shape.
        best = {}
        for f in found:
            key = label(f)
            best[key] = min(best.get(key, f["median"]), f["median"])
        return list(best.items())

    return select


def ggml(**wanted):
    """The faster of ggml's two ways, shape by shape."""

    def select(document):
        figures = document["programs"].get("ggml", {}).get("figures", [])
        best = {}
        for f in figures:
            if matches(f, wanted):
                key = f"{f['dtype']} {shape_name(f)}"
                best[key] = min(best.get(key, f["median"]), f["median"])
        return list(best.items())

    return select


def rescale_name(f):
    return f"[1,{f['heads']},{f['q_len']},{f['kv_len']}]"


def modifier_cost(document):
    """Percent that initial_token adds; what lies within the quartiles of the noise counts as 0."""
    figures = document["programs"].get("modifier", {}).get("figures", [])
    noise = {shape_name(f): f["quartiles"] for f in figures if f["figure"] == "noise"}
    result = []
    for f in figures:
        if f["figure"] == "cost" and shape_name(f) in noise:
            inside = f["quartiles"][0] <= noise[shape_name(f)][1]
            result.append((shape_name(f), 100 * (f["median"] - 1) if not inside else
                           min(0.0, 100 * (f["median"] - 1))))
    return result


def at_least(limit):
    return lambda value: value >= limit


def type_name(f):
    return f"{f['dtype']} {shape_name(f)}"


LONG = at_least(2048)

GOALS = [
    Goal("fp32 prefill / FMA roof, 2048, d=128", 0.72, 0.80, only=AMX, unit="",
         select=own("attention_prefill", "share", q_len=2048, head_dim=128)),
    Goal("fp32 prefill / FMA roof, 512, d=128", 0.60, 0.70, only=AMX, unit="",
         select=own("attention_prefill", "share", q_len=512, head_dim=128)),
    Goal("fp32 prefill / FMA roof, 2048, d=128", 0.85, 0.92, only=DOT, unit="",
         select=own("attention_prefill", "share", q_len=2048, head_dim=128)),
    Goal("fp32 prefill / FMA roof, 512, d=128", 0.76, 0.85, only=DOT, unit="",
         select=own("attention_prefill", "share", q_len=512, head_dim=128)),
    Goal("bf16 prefill / bf16 dot roof, 4096, d=128", 0.91, 0.94, only=DOT, unit="",
         select=own("attention_prefill", "dot_share", q_len=4096, head_dim=128)),
    Goal("bf16 prefill / bf16 dot roof, 2048, d=128", 0.87, 0.92, only=DOT, unit="",
         select=own("attention_prefill", "dot_share", q_len=2048, head_dim=128)),
    Goal("bf16 prefill / bf16 dot roof, 512, d=128", 0.77, 0.85, only=DOT, unit="",
         select=own("attention_prefill", "dot_share", q_len=512, head_dim=128)),
    Goal("with gamma vs SDPA with a mask, 512", 2.4, 3.0,
         peer("SDPA with mask", work="prefill", q_len=512)),
    Goal("with gamma vs SDPA with a mask, from 2048", 2.6, 3.3,
         peer("SDPA with mask", work="prefill", q_len=LONG)),
    Goal("vs SDPA causal without a modifier, 512", 2.3, 2.7,
         peer("SDPA causal", work="prefill", dtype="f32", q_len=512)),
    Goal("vs SDPA causal without a modifier, 2048", 1.5, 1.7,
         peer("SDPA causal", work="prefill", dtype="f32", q_len=2048)),
    Goal("vs SDPA causal without a modifier, 4096", 1.4, 1.6,
         peer("SDPA causal", work="prefill", dtype="f32", q_len=4096)),
    Goal("bf16 vs SDPA bf16, from 2048", 2.8, 3.3, only=DOT,
         select=peer("SDPA causal", work="prefill", dtype="bf16", q_len=LONG)),
    Goal("vs compiled FlexAttention", 1.9, 2.5, peer("FlexAttention", work="prefill")),
    Goal("vs vLLM f32, its packing included, 512", 1.4, 1.6,
         peer("vLLM", work="prefill", dtype="f32", q_len=512)),
    Goal("vs vLLM f32, its packing included, from 2048", 1.25, 1.4,
         peer("vLLM", work="prefill", dtype="f32", q_len=LONG)),
    Goal("vs vLLM bf16", 1.2, 1.5, only=AMX, select=peer("vLLM", work="prefill", dtype="bf16")),
    Goal("vs vLLM bf16", 2.5, 3.0, only=DOT, select=peer("vLLM", work="prefill", dtype="bf16")),
    Goal("vs ggml f32, d=64, from 2048", 3.5, 4.5, ggml(dtype="f32", head_dim=64, q_len=LONG)),
    Goal("vs ggml f32, d=128, from 2048", 2.7, 3.3, ggml(dtype="f32", head_dim=128, q_len=LONG)),
    Goal("bf16 prefill / own fp32, 2048, d=128", 3.5, 6.0, only=AMX,
         select=own("attention_prefill", "bf16", q_len=2048, head_dim=128)),
    Goal("bf16 prefill / own fp32, 2048, d=128", 2.0, 2.2, only=DOT,
         select=own("attention_prefill", "bf16", q_len=2048, head_dim=128)),
    Goal("decode f32 / read bandwidth, L3", 0.92, 0.97, only=AMX, unit="",
         select=own("decode", "warm", dtype="f32", kv_len=4096)),
    Goal("decode f32 / read bandwidth, memory", 0.82, 0.92, only=AMX, unit="",
         select=own("decode", "cold", dtype="f32", kv_len=at_least(16384))),
    # Two products of 4 heads: 2 FLOP a byte of a float cache. Lengths that fit a cache of 32 MiB.
    Goal("decode f32 and bf16 / what arithmetic allows, L3", 0.75, 0.88, only=DOT, unit="",
         select=decode_arithmetic(("f32", 1024, 1 / 2), ("bf16", 1024, 1 / 2))),
    Goal("decode f16 / what arithmetic allows, L3", 0.72, 0.85, only=DOT, unit="",
         select=decode_arithmetic(("f16", 1024, 1 / 4))),
    Goal("decode f32 and bf16 / read bandwidth, memory", 0.90, 1.0, only=DOT, unit="",
         select=own("decode", "cold", type_name, dtype=lambda x: x in ("f32", "bf16"),
                    kv_len=at_least(16384))),
    Goal("decode bf16, f16 / read bandwidth, L3", 0.85, 0.92, only=AMX, unit="",
         select=own("decode", "warm", type_name, dtype=lambda x: x in ("bf16", "f16"),
                    kv_len=4096)),
    Goal("decode bf16, f16 / read bandwidth, memory", 0.78, 0.90, only=AMX, unit="",
         select=own("decode", "cold", type_name, dtype=lambda x: x in ("bf16", "f16"),
                    kv_len=at_least(16384))),
    Goal("decode f16 / read bandwidth, memory", 0.75, 0.90, only=DOT, unit="",
         select=own("decode", "cold", dtype="f16", kv_len=at_least(16384))),
    Goal("decode vs SDPA f32, from 4k keys", 10, 14,
         peer("SDPA", work="decode", dtype="f32", kv_len=at_least(4096))),
    Goal("decode vs SDPA bf16, from 4k keys", 50, 100,
         peer("SDPA", work="decode", dtype="bf16", kv_len=at_least(4096))),
    Goal("decode vs vLLM and SGLang, from 4k keys", 2.8, 3.5,
         peer("vLLM", "SGLang", label=type_name, work="decode", kv_len=at_least(4096))),
    Goal("decode vs ggml, f32 and f16, GQA 4", 2.6, 3.5, ggml(q_len=1)),
    Goal("rescale / in-place-scale roof", 0.95, 1.0, unit="",
         select=own("rescale", "share", rescale_name, dtype="float")),
    Goal("rescale, causal / in-place-scale roof of all", 1.7, 2.0, unit="",
         select=own("rescale", "causal", rescale_name, dtype="float")),
    Goal("rescale vs `mul_` and `F.normalize`", 7, 12,
         peer("mul_ and F.normalize", work="rescale", label=rescale_name)),
    Goal("what gamma adds to the fused kernel, beyond the noise", 1.0, 0.0, modifier_cost,
         at_most=True, unit="%"),
    Goal("output correction / attention, 512", 4, 2, at_most=True, unit="%",
         select=own("correction", "percent", q_len=512)),
    Goal("output correction / attention, 2048", 1.5, 0.7, at_most=True, unit="%",
         select=own("correction", "percent", q_len=2048)),
    Goal("output correction / attention, decode", 0.2, 0.1, at_most=True, unit="%",
         select=own("correction", "percent", q_len=1, kv_len=at_least(4096))),
    Goal("two threads: prefill / one thread", 1.85, 1.95,
         own("threads", "gain", type_name, threads=2, work="prefill")),
    Goal("two threads: decode / the read roof of two", 0.82, 0.92, unit="",
         select=own("threads", "share", type_name, threads=2, work="decode")),
    Goal("backward / forward, with d log gamma", 3.0, 2.5, own("backward", "ratio"), at_most=True),
    Goal("reference host vs transformers fp32: fp32", 1.3, 1.5,
         peer("transformers fp32", label=lambda f: "8 prompts of 64", work="host", dtype="fp32")),
    Goal("reference host vs transformers fp32: bf16", 2.2, 3.0,
         peer("transformers fp32", label=lambda f: "8 prompts of 64", work="host", dtype="bf16")),
]


def goals_for(document):
    kind = machine_kind(document)
    return [goal for goal in GOALS if goal.only in (None, kind)]


def goals_elsewhere(document):
    kind = machine_kind(document)
    return [goal for goal in GOALS if goal.only not in (None, kind)]
