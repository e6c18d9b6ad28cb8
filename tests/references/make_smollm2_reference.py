# SPDX-License-Identifier: Apache-2.0
"""Reference values of SmolLM2-135M-Instruct (Q4_1) with and without gamma, from PyTorch.

To repeat, in a virtual environment with requirements.txt:

    python make_smollm2_reference.py --model SmolLM2-135M-Instruct.Q4_1.gguf \
        --output smollm2_logprobs.json --gradients smollm2_gradients.json

transformers reads the GGUF file, dequantises it to float32 and runs it; the attention with gamma is
reference_attention.py. "untouched" is transformers' own eager attention (its softmax is in float32
always). The values are those of the float32 weights computed in float64. The same is done in
float32, and the greatest difference among the written log-probabilities is "float32_difference":
what rounding alone does, and so the least tolerance that makes sense. Takes a minute on two cores.
"""

import argparse
import hashlib
import pathlib

import numpy
import torch
import transformers

from reference_attention import (entropy, in_float64, log_probabilities, patched, positions_of,
                                 record, rounded, write_json)

MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SEED = 20250511
INITIAL_TOKEN = 1  # <|im_start|>

PROSE = """The lighthouse keeper wrote the weather down every morning, because his father had done
so before him, and because nobody else on the island would remember whether it had rained. On the
clear days he could see the mainland, a thin grey line with a white church on it, and he wondered
who lived there now. When the supply boat came he asked the crew for news, and they told him about
weddings and elections and the price of fish. He listened carefully, thanked them, and carried the
boxes up the stairs one by one. In the evening he lit the lamp, opened the book, and wrote a single
sentence: the wind has turned to the north, and the birds have already gone. Then he sat by the
window until the tide came back and covered the rocks again."""
CHAT = """<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
<|im_start|>user
Which planet is known as the Red Planet?<|im_end|>
<|im_start|>assistant
"""
REVIEW = """<|im_start|>Review: a gorgeous, witty, seductive movie.
Sentiment (positive or negative): positive"""
CAPITAL = """<|im_start|>user
What is the capital of France?<|im_end|>
<|im_start|>assistant
"""


def load(path):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32, attn_implementation="eager")
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32, name
    return model.eval()


def make_sequences(tokenizer, vocabulary_size):
    generator = numpy.random.default_rng(SEED)
    prose = [INITIAL_TOKEN] + tokenizer.encode(" ".join(PROSE.split()), add_special_tokens=False)
    assert len(prose) >= 130, len(prose)
    noise = generator.integers(17, vocabulary_size, 16).tolist()
    return {
        "one": [INITIAL_TOKEN],
        "two": [INITIAL_TOKEN, prose[1]],
        "random17": [INITIAL_TOKEN] + noise,
        "prose64": prose[:64],
        "prose130": prose[:130],
        "chat": tokenizer.encode(CHAT, add_special_tokens=False),
        "review": tokenizer.encode(REVIEW, add_special_tokens=False),
    }


def make_cases(layers, heads):
    """Name -> {"gamma": how it is written in the file, "table": [layers][heads] or None}."""
    generator = numpy.random.default_rng(SEED + 1)
    table = numpy.round(generator.uniform(0.2, 5.0, (layers, heads)), 3)
    zero_heads = [[0, 0], [0, 7], [3, 4], [9, 8], [14, 2], [20, 5], [29, 0]]
    zeros = numpy.ones((layers, heads))
    for layer, head in zero_heads:
        zeros[layer, head] = 0.0
    zero_layer = numpy.ones((layers, heads))
    zero_layer[5, :] = 0.0
    cases = {"untouched": ({}, None)}
    for gamma in (0.3, 2.0, 4.0):
        cases[f"uniform_{gamma:g}"] = ({"uniform": gamma}, numpy.full((layers, heads), gamma))
    cases["table"] = ({"table": table.tolist()}, table)
    cases["zero_heads"] = ({"ones_except": 0.0, "heads": zero_heads}, zeros)
    cases["zero_layer"] = ({"ones_except": 0.0, "layers": [5]}, zero_layer)
    return cases


def forward(model, tokens, table):
    if table is None:
        return log_probabilities(model, tokens)
    dtype = next(model.parameters()).dtype
    with patched(torch.tensor(table, dtype=dtype)):
        return log_probabilities(model, tokens)


def gradient(model, tokens, table, loss_name):
    """(loss, dL/d log gamma) through autograd, gamma entering as exp(log gamma)."""
    dtype = next(model.parameters()).dtype
    log_gamma = torch.log(torch.tensor(table, dtype=dtype)).requires_grad_(True)
    with patched(log_gamma.exp()):
        if loss_name == "nll_last_token":
            loss = -log_probabilities(model, tokens[:-1])[-1, tokens[-1]]
        else:
            loss = entropy(log_probabilities(model, tokens)[-1])
    loss.backward()
    return float(loss.detach()), log_gamma.grad


def greedy(model, tokenizer, prompt, count):
    tokens = tokenizer.encode(prompt, add_special_tokens=False)
    for _ in range(count):
        tokens.append(int(log_probabilities(model, tokens)[-1].argmax()))
    return tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--output", default="smollm2_logprobs.json")
    parser.add_argument("--gradients", default="smollm2_gradients.json")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    digest = hashlib.sha256(options.model.read_bytes()).hexdigest()
    if digest != MODEL_SHA256:
        parser.error(f"{options.model}: sha256 is {digest}, expected {MODEL_SHA256}")

    tokenizer = transformers.AutoTokenizer.from_pretrained(
        str(options.model.parent), gguf_file=options.model.name)
    single, double = load(options.model), in_float64(load(options.model))
    config = single.config
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    sequences = make_sequences(tokenizer, config.vocab_size)
    cases = make_cases(layers, heads)
    with torch.no_grad():
        continuation = greedy(single, tokenizer, CAPITAL, 8)
        print("greedy:", repr(tokenizer.decode(continuation)))

    head = {"about": "made by make_smollm2_reference.py", "model_sha256": MODEL_SHA256,
            "layers": layers, "heads": heads, "kv_heads": config.num_key_value_heads,
            "vocabulary": config.vocab_size, "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__}
    document = dict(head)
    document["sequences"] = sequences
    document["cases"] = {name: written for name, (written, _) in cases.items()}
    values = {}
    largest = {name: 0.0 for name in cases}
    everywhere = dict(largest)
    stock_difference = 0.0
    with torch.no_grad():
        for name, (_, table) in cases.items():
            values[name] = {}
            generator = numpy.random.default_rng(SEED + 2)
            for key, tokens in sequences.items():
                exact = forward(double, tokens, table)
                if table is None:
                    ones = forward(double, tokens, numpy.ones((layers, heads)))
                    stock_difference = max(stock_difference, float((ones - exact).abs().max()))
                    if len(tokens) > 1:
                        mean = -float(exact[torch.arange(len(tokens) - 1), tokens[1:]].mean())
                        print(f"{key}: {len(tokens)} tokens, nats per token {mean:.3f}")
                entry = record(exact, positions_of(len(tokens), 4), 12, 12, generator)
                difference = (forward(single, tokens, table) - exact).abs()
                everywhere[name] = max(everywhere[name], float(difference.max()))
                for row in entry["rows"]:
                    written = difference[row["position"], row["tokens"]]
                    largest[name] = max(largest[name], float(written.max()))
                values[name][key] = entry
            print(f"{name}: float32 - float64 at most {largest[name]:.1e} among the written "
                  f"values, {everywhere[name]:.1e} in the whole vocabulary at all positions")
        print(f"stock eager attention - patched at gamma 1: at most {stock_difference:.2e}")
        mass = {}
        with patched(None, mass):
            log_probabilities(double, sequences["prose64"])
    document["float32_difference"] = {name: float(f"{v:.2g}") for name, v in largest.items()}
    document["greedy"] = {"prompt_and_continuation": continuation, "generated": 8,
                          "text": tokenizer.decode(continuation)}
    document["sink_mass"] = {
        "sequence": "prose64", "case": "untouched",
        "definition": "attention weight on position 0, mean over query rows > 0, [layer][head]",
        "values": rounded([mass[layer] for layer in range(layers)])}
    document["values"] = values
    write_json(options.output, document)

    table = cases["table"][1]
    ones = numpy.ones((layers, heads))
    answer = tokenizer.encode(CAPITAL + "Paris", add_special_tokens=False)
    entries = []
    for sequence, tokens, name, gamma, loss_name in (
            ("prose64", sequences["prose64"], "ones", ones, "nll_last_token"),
            ("review", sequences["review"], "ones", ones, "nll_last_token"),
            ("capital", answer, "ones", ones, "nll_last_token"),
            ("review", sequences["review"], "table", table, "nll_last_token"),
            ("chat", sequences["chat"], "ones", ones, "entropy_last_position")):
        loss, exact = gradient(double, tokens, gamma, loss_name)
        single_loss, approximate = gradient(single, tokens, gamma, loss_name)
        difference = float((exact - approximate).abs().max())
        print(f"gradient {sequence} {name} {loss_name}: loss {loss:.6f} ({single_loss:.6f}), "
              f"largest {float(exact.abs().max()):.4f}, float32 - float64 {difference:.1e}")
        entries.append({"sequence": sequence, "tokens": tokens, "gamma": name, "loss": loss_name,
                        "value": round(loss, 7), "float32_difference": float(f"{difference:.2g}"),
                        "dlog_gamma": rounded(exact.tolist(), 9)})
    write_json(options.gradients, head | {
        "losses": {
            "nll_last_token": "-log p(tokens[-1] | tokens[:-1]), the forward pass sees tokens[:-1]",
            "entropy_last_position": "entropy in nats of the next-token distribution after tokens"},
        "gamma_tables": {"ones": {"uniform": 1.0}, "table": {"table": table.tolist()}},
        "precision": "float32 weights, float64 arithmetic; float32_difference: the same in float32",
        "entries": entries})


if __name__ == "__main__":
    main()
