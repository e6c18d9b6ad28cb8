# SPDX-License-Identifier: Apache-2.0
"""Gradients of one attention layer with gamma per query head, from PyTorch's autograd in float64.

To repeat, in a virtual environment with requirements.txt:

    python make_attention_reference.py --output attention_gradients.json

Weights form, as the paper has it: softmax, initial token's column times gamma, row divided by its
sum. Inputs are multiples of 1/64 and so exact in every floating-point type. Query row i stands at
position kv_len - q_len + i and sees the keys up to it. loss = sum(out * dout). dlog_gamma is
gamma * dL/dgamma, that is dL/d log gamma, and 0 at gamma = 0. lse is that of the row with gamma:
log of the sum of the exponentials, the initial token's times gamma; lse_untouched is without gamma.
A row that sees the initial token only has the same output for every gamma, and at gamma = 0 its
lse is lse_untouched.
"""

import argparse

import numpy
import torch

from reference_attention import rounded, write_json

SEED = 42
CASES = (
    # name, batch, q_len, kv_len, head_dim, gamma of the query heads (two to a key-value head)
    ("queries_last", 1, 5, 7, 4, (0.25, 1.0, 3.0, 8.0)),
    ("square_with_zero", 2, 6, 6, 4, (0.0, 2.0, 1.0, 0.0)),
)


def sixty_fourths(generator, shape, bound):
    return torch.tensor(generator.integers(-64 * bound, 64 * bound + 1, shape) / 64.0)


def attention(q, k, v, gamma, scale):
    """out, lse, weights, lse_untouched for q [batch, heads, q_len, head_dim] and k, v [batch,
    kv_heads, kv_len, head_dim]."""
    group_size = q.shape[1] // k.shape[1]
    q_len, kv_len = q.shape[2], k.shape[2]
    keys, values = k.repeat_interleave(group_size, 1), v.repeat_interleave(group_size, 1)
    logits = torch.einsum("bhqd,bhkd->bhqk", q, keys) * scale
    offset = kv_len - q_len
    position = torch.arange(q_len).view(-1, 1) + offset
    logits = logits.masked_fill(torch.arange(kv_len).view(1, -1) > position, float("-inf"))
    weights = torch.softmax(logits, -1)
    lse = torch.logsumexp(logits, -1)
    factor = gamma.view(1, -1, 1, 1)
    unmodified = (position == 0).view(1, 1, -1, 1) & (factor == 0)
    scaled = torch.cat([weights[..., :1] * factor, weights[..., 1:]], -1)
    total = torch.where(unmodified, 1.0, scaled.sum(-1, keepdim=True))
    weights = torch.where(unmodified, weights, scaled / total)
    out = torch.einsum("bhqk,bhkd->bhqd", weights, values)
    return out, lse + torch.log(total.squeeze(-1)), weights, lse


def make_case(name, batch, q_len, kv_len, head_dim, gammas):
    generator = numpy.random.default_rng([SEED, kv_len])
    heads = len(gammas)
    kv_heads = heads // 2
    scale = head_dim ** -0.5
    q = sixty_fourths(generator, (batch, heads, q_len, head_dim), 3).requires_grad_(True)
    k = sixty_fourths(generator, (batch, kv_heads, kv_len, head_dim), 3).requires_grad_(True)
    v = sixty_fourths(generator, (batch, kv_heads, kv_len, head_dim), 2).requires_grad_(True)
    dout = sixty_fourths(generator, (batch, heads, q_len, head_dim), 1)
    gamma = torch.tensor(gammas, dtype=torch.float64, requires_grad=True)
    # Finite differences cannot step below gamma = 0, so they vary the others.
    assert torch.autograd.gradcheck(
        lambda *x: attention(*x, gamma.detach(), scale)[:2], (q, k, v))
    if min(gammas) > 0:
        assert torch.autograd.gradcheck(
            lambda x: attention(q.detach(), k, v, x, scale)[:2], (gamma,))

    out, lse, weights, lse_untouched = attention(q, k, v, gamma, scale)
    loss = (out * dout).sum()
    loss.backward()
    dlog_gamma = gamma.detach() * gamma.grad
    # The closed form of the design, as a check of autograd: sum of a'_0 <dout, v_0 - out>.
    values = v.detach().repeat_interleave(2, 1)
    closed = (weights[..., 0] * (dout * (values[:, :, :1] - out)).sum(-1)).sum((0, 2)).detach()
    assert torch.allclose(closed, dlog_gamma, rtol=0, atol=1e-13), (closed, dlog_gamma)

    document = {"name": name, "batch": batch, "num_heads": heads, "num_kv_heads": kv_heads,
                "q_len": q_len, "kv_len": kv_len, "head_dim": head_dim, "softmax_scale": scale,
                "gamma": list(gammas), "loss": rounded(loss.item(), 15)}
    for key, tensor in (("q", q), ("k", k), ("v", v), ("dout", dout), ("out", out), ("lse", lse),
                        ("lse_untouched", lse_untouched),
                        ("dq", q.grad), ("dk", k.grad), ("dv", v.grad),
                        ("dlog_gamma", dlog_gamma), ("initial_weights", weights[..., 0])):
        document[key] = {"shape": list(tensor.shape),
                         "data": rounded(tensor.detach().flatten().tolist(), 15)}
    return document


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="attention_gradients.json")
    options = parser.parse_args()
    write_json(options.output, {
        "about": "made by make_attention_reference.py",
        "torch": torch.__version__.split("+")[0],
        "layout": "row-major; q, dout, out, dq: [batch, num_heads, q_len, head_dim]; "
                  "k, v, dk, dv: [batch, num_kv_heads, kv_len, head_dim]; "
                  "lse, lse_untouched, initial_weights: [batch, num_heads, q_len]; "
                  "dlog_gamma: [num_heads]",
        "cases": [make_case(*case) for case in CASES]})


if __name__ == "__main__":
    main()
