# SPDX-License-Identifier: Apache-2.0
"""ZeroTuning's attention written in eager PyTorch as the paper does it.

Nothing here comes from the library, and nothing uses its form (a bias of log gamma on the logit):
the weights are computed by a softmax, the column of the initial token is multiplied by gamma of its
head, and the row is divided by its new sum. `patched` puts it into the Llama and Qwen2 models of
transformers in place of their eager attention.
"""

import contextlib

import torch
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2


def rescaled_weights(weights, gamma, query_offset):
    """Multiply column 0 of [batch, heads, q_len, kv_len] by gamma[head] and renormalise the rows.

    Query row i stands at position query_offset + i; the row at position 0 sees the initial token
    only and stays as it is, whatever gamma (0 as well).
    """
    q_len = weights.shape[-2]
    factor = gamma.to(weights.dtype).view(1, -1, 1, 1)
    scaled = torch.cat([weights[..., :1] * factor, weights[..., 1:]], dim=-1)
    only_initial = (torch.arange(q_len) + query_offset == 0).view(1, 1, -1, 1)
    total = torch.where(only_initial, 1.0, scaled.sum(dim=-1, keepdim=True))
    return torch.where(only_initial, weights, scaled / total)


def attention_with(gamma_table, sink_mass=None):
    """An attention function for transformers; gamma_table is [layers][heads], or None for gamma = 1
    without any rescaling. sink_mass, a dict, receives per layer the weight on position 0, averaged
    over the query rows after the first, as a list over heads."""

    def forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
        group_size = query.shape[1] // key.shape[1]
        keys = key.repeat_interleave(group_size, dim=1)
        values = value.repeat_interleave(group_size, dim=1)
        q_len, kv_len = query.shape[2], keys.shape[2]
        logits = torch.einsum("bhqd,bhkd->bhqk", query, keys) * scaling
        offset = kv_len - q_len
        visible = torch.arange(kv_len).view(1, -1) <= torch.arange(q_len).view(-1, 1) + offset
        logits = logits.masked_fill(~visible, float("-inf"))
        softmax_type = torch.promote_types(query.dtype, torch.float32)
        weights = torch.softmax(logits, dim=-1, dtype=softmax_type)
        if gamma_table is not None:
            weights = rescaled_weights(weights, gamma_table[module.layer_idx], offset)
        if sink_mass is not None and q_len > 1:
            sink_mass[module.layer_idx] = weights[0, :, 1:, 0].mean(dim=-1).tolist()
        out = torch.einsum("bhqk,bhkd->bhqd", weights.to(query.dtype), values)
        return out.transpose(1, 2).contiguous(), weights

    return forward


@contextlib.contextmanager
def patched(gamma_table, sink_mass=None):
    """Within the block, eager attention of the Llama and Qwen2 models is `attention_with(...)`."""
    modules = (modeling_llama, modeling_qwen2)
    originals = [module.eager_attention_forward for module in modules]
    try:
        for module in modules:
            module.eager_attention_forward = attention_with(gamma_table, sink_mass)
        yield
    finally:
        for module, original in zip(modules, originals):
            module.eager_attention_forward = original


def in_float64(model):
    """The model with its float32 weights, computing in float64.

    transformers' RMSNorm casts to float32 whatever the model's type; here it does not. The rotary
    angles stay in float32, as transformers has them.
    """
    def normalise(module):
        def forward(states):
            scale = torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
            return module.weight * (states * scale)
        return forward

    model = model.to(torch.float64)
    for module in model.modules():
        if isinstance(module, (modeling_llama.LlamaRMSNorm, modeling_qwen2.Qwen2RMSNorm)):
            module.forward = normalise(module)
    return model


def log_probabilities(model, tokens):
    """log_softmax over the whole vocabulary at every position: [len(tokens), vocabulary]."""
    logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
    softmax_type = torch.promote_types(logits.dtype, torch.float32)
    return torch.log_softmax(logits.to(softmax_type), dim=-1)


def entropy(log_probs):
    """Entropy in nats of a row of log-probabilities."""
    return -(log_probs.exp() * log_probs).sum(dim=-1)


def rounded(value, digits=6):
    """Nested lists of numbers with a fixed number of decimals, so that the files stay small."""
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
    return value if isinstance(value, int) else round(float(value), digits)


def positions_of(length, count):
    """Up to `count` positions spread over a sequence, the first and the last among them."""
    if count == 1 or length == 1:
        return [length - 1]
    return sorted({(length - 1) * i // (count - 1) for i in range(count)})


def record(log_probs, positions, top_count, random_count, generator):
    """Values of one forward pass: per position the argmax and the log-probabilities of the most
    likely tokens and of some random others, and the entropy at the last position."""
    rows = []
    for position in positions:
        row = log_probs[position]
        top = torch.topk(row, top_count).indices.tolist()
        others = []
        while len(others) < random_count:
            token = int(generator.integers(row.shape[0]))
            if token not in top and token not in others:
                others.append(token)
        tokens = top + others
        rows.append({
            "position": position,
            "argmax": int(row.argmax()),
            "margin": rounded(float(row[top[0]] - row[top[1]])),
            "tokens": tokens,
            "logprobs": rounded(row[tokens].tolist()),
        })
    return {"entropy": rounded(float(entropy(log_probs[-1]))), "rows": rows}


def write_json(path, document):
    """One line per record of the inner lists: small files, and diffs that can be read."""
    import json

    def dump(value, depth):
        pad = " " * (depth + 1)
        simple = json.dumps(value, ensure_ascii=True)
        if len(simple) <= 96 or not isinstance(value, (dict, list)):
            return simple
        if isinstance(value, list) and not any(isinstance(v, (dict, list)) for v in value):
            return json.dumps(value, separators=(",", ":"))
        if isinstance(value, list):
            inner = [pad + dump(v, depth + 1) for v in value]
            return "[\n" + ",\n".join(inner) + "\n" + " " * depth + "]"
        inner = [f"{pad}{json.dumps(k)}: {dump(v, depth + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(inner) + "\n" + " " * depth + "}"

    with open(path, "w", encoding="utf-8") as file:
        file.write(dump(document, 0) + "\n")
