# SPDX-License-Identifier: Apache-2.0
"""Reference values of the models of make_family_models.py, from PyTorch and transformers.

To repeat, in a virtual environment with requirements.txt:

    python make_family_reference.py --output family_logprobs.json

The GGUF files are read and dequantised by the gguf package. Their tensors go into LlamaForCausalLM
and Qwen2ForCausalLM that are configured here, with transformers' own rope scaling for Llama 3.1, so
that rope_freqs.weight, the order of the rows of attn_q and attn_k, and the biases are checked by
code that knows nothing of this project. Values are float32 weights computed in float64;
"float32_difference" is the greatest difference of the written values when computed in float32.

--sensitivity changes one thing at a time and prints how far the values move; --check-loader lets
transformers load the GGUF files by itself and compares.
"""

import argparse
import hashlib
import pathlib
import tempfile

import gguf
import numpy
import torch
import transformers

from make_family_models import FAMILIES, VOCABULARY, llama3_factors, make_model, rope_factors
from reference_attention import (in_float64, log_probabilities, patched, positions_of, record,
                                 rounded, write_json)

SEED = 31
LENGTHS = {"one": 1, "two": 2, "random17": 17, "random64": 64, "random300": 300}
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
         "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj"}


def read_tensors(path):
    """Name -> float32 array with the row length last, through the gguf package."""
    result = {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        shape = tuple(int(x) for x in reversed(tensor.shape))
        result[tensor.name] = numpy.asarray(values, dtype=numpy.float32).reshape(shape)
        assert numpy.isfinite(result[tensor.name]).all(), tensor.name
    return result


def to_rotate_half(weight, heads):
    """Llama's rotary pairs are neighbours in GGUF; transformers has them half a head apart."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def build(family, tensors, rope=None, permute=True, biases=True):
    """The model in transformers; the last three arguments serve --sensitivity."""
    llama = family.architecture == "llama"
    common = {"vocab_size": VOCABULARY, "hidden_size": family.embedding,
              "intermediate_size": family.feed_forward, "num_hidden_layers": family.layers,
              "num_attention_heads": family.heads, "num_key_value_heads": family.kv_heads,
              "head_dim": family.head_dim, "max_position_embeddings": family.context,
              "rms_norm_eps": family.epsilon, "tie_word_embeddings": family.output_type is None,
              "attn_implementation": "eager", "dtype": torch.float32}
    if rope is None:
        rope = {"rope_theta": family.theta}
        rope |= LLAMA3_ROPE if llama else {"rope_type": "default"}
    if llama:
        config = transformers.LlamaConfig(rope_parameters=rope, **common)
        model = transformers.LlamaForCausalLM(config)
    else:
        config = transformers.Qwen2Config(rope_parameters=rope, use_sliding_window=False, **common)
        model = transformers.Qwen2ForCausalLM(config)
    state = {"model.embed_tokens.weight": tensors["token_embd.weight"],
             "model.norm.weight": tensors["output_norm.weight"],
             "lm_head.weight": tensors.get("output.weight", tensors["token_embd.weight"])}
    for name, values in tensors.items():
        if not name.startswith("blk."):
            continue
        _, layer, part, kind = name.split(".")
        if llama and permute and part in ("attn_q", "attn_k"):
            values = to_rotate_half(values, family.heads if part == "attn_q" else family.kv_heads)
        if kind == "bias" and not biases:
            values = numpy.zeros_like(values)
        state[f"model.layers.{layer}.{NAMES[part]}.{kind}"] = values
    model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in state.items()}, strict=True)
    return model.eval()


def make_sequences(family):
    generator = numpy.random.default_rng([SEED, family.seed])
    tokens = [family.bos] + generator.integers(0, VOCABULARY, max(LENGTHS.values()) - 1).tolist()
    return {name: tokens[:length] for name, length in LENGTHS.items()}


def make_cases(family):
    generator = numpy.random.default_rng([SEED, family.seed, 1])
    shape = (family.layers, family.heads)
    table = numpy.round(generator.uniform(0.2, 5.0, shape), 3)
    zero_heads = [[0, 0], [0, family.heads - 1], [family.layers - 1, 3]]
    zeros = numpy.ones(shape)
    for layer, head in zero_heads:
        zeros[layer, head] = 0.0
    return {"untouched": ({}, None),
            "uniform_3": ({"uniform": 3.0}, numpy.full(shape, 3.0)),
            "table": ({"table": table.tolist()}, table),
            "zero_heads": ({"ones_except": 0.0, "heads": zero_heads}, zeros)}


def forward(model, tokens, table):
    if table is None:
        return log_probabilities(model, tokens)
    with patched(torch.tensor(table, dtype=next(model.parameters()).dtype)):
        return log_probabilities(model, tokens)


def gradient(model, tokens, table):
    """L = -log p(tokens[-1] | tokens[:-1]) and dL/d log gamma."""
    log_gamma = torch.log(torch.tensor(table, dtype=torch.float64)).requires_grad_(True)
    with patched(log_gamma.exp()):
        loss = -log_probabilities(model, tokens[:-1])[-1, tokens[-1]]
    loss.backward()
    return float(loss.detach()), log_gamma.grad.tolist()


def reference(family, data, tensors):
    single, double = build(family, tensors), in_float64(build(family, tensors))
    sequences, cases = make_sequences(family), make_cases(family)
    document = {"file": family.name + ".gguf", "sha256": hashlib.sha256(data).hexdigest(),
                "bytes": len(data), "architecture": family.architecture,
                "layers": family.layers, "heads": family.heads, "kv_heads": family.kv_heads,
                "head_dim": family.head_dim, "embedding": family.embedding,
                "vocabulary": VOCABULARY, "sequences": sequences,
                "cases": {name: written for name, (written, _) in cases.items()},
                "float32_difference": {}, "values": {}}
    generator = numpy.random.default_rng([SEED, family.seed, 2])
    with torch.no_grad():
        for name, (_, table) in cases.items():
            largest = 0.0
            values = document["values"][name] = {}
            for key, tokens in sequences.items():
                exact = forward(double, tokens, table)
                entry = record(exact, positions_of(len(tokens), 3), 6, 8, generator)
                single_values = forward(single, tokens, table)
                for row in entry["rows"]:
                    at = (row["position"], row["tokens"])
                    largest = max(largest, float((single_values[at] - exact[at]).abs().max()))
                values[key] = entry
            document["float32_difference"][name] = float(f"{largest:.2g}")
        mass = {}
        ones = torch.ones(family.layers, family.heads, dtype=torch.float64)
        with patched(ones, mass):
            same = log_probabilities(double, sequences["random64"])
        stock = log_probabilities(double, sequences["random64"])
        print(f"{family.name}: stock - patched at gamma 1 {float((same - stock).abs().max()):.1e}, "
              f"float32 {document['float32_difference']}")
    document["sink_mass"] = {"sequence": "random64", "case": "untouched",
                             "values": rounded([mass[layer] for layer in range(family.layers)])}
    document["gradients"] = []
    for key in ("random17", "random64"):
        for case, table in (("untouched", numpy.ones((family.layers, family.heads))),
                            ("table", cases["table"][1])):
            loss, gradients = gradient(double, sequences[key], table)
            document["gradients"].append({"sequence": key, "case": case, "value": round(loss, 7),
                                          "dlog_gamma": rounded(gradients, 9)})
    return document


def print_sensitivity(family, tensors):
    """How far the log-probabilities of random64 and random300 move when one thing is wrong."""
    llama = family.architecture == "llama"
    default = {"rope_theta": family.theta, "rope_type": "default"}
    changes = {"other theta": {"rope": default | {"rope_theta": 3 * family.theta}}}
    if llama:
        changes["no rope scaling"] = {"rope": default}
        changes["rows not permuted"] = {"permute": False}
    else:
        changes["no biases"] = {"biases": False}
    sequences = make_sequences(family)
    table = make_cases(family)["table"][1]
    right = build(family, tensors)
    with torch.no_grad():
        for key in ("random64", "random300"):
            tokens = sequences[key]
            base = forward(right, tokens, None)[-1]
            moves = {name: build(family, tensors, **change) for name, change in changes.items()}
            results = {name: log_probabilities(model, tokens)[-1] for name, model in moves.items()}
            results["gamma table"] = forward(right, tokens, table)[-1]
            reversed_table = table[:, ::-1].copy()
            results["gamma table's heads reversed"] = (
                base + forward(right, tokens, reversed_table)[-1] - results["gamma table"])
            for name, values in results.items():
                print(f"  {key}: {name}: mean {float((values - base).abs().mean()):.4f}, "
                      f"max {float((values - base).abs().max()):.4f}")


def check_loader(family, path, tensors):
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32, attn_implementation="eager")
    ours = build(family, tensors, rope={"rope_theta": family.theta, "rope_type": "default"})
    differing = [name for name, value in ours.state_dict().items()
                 if not torch.equal(value, loaded.state_dict()[name])]
    print(f"  loader: {len(ours.state_dict())} tensors, {len(differing)} differ {differing[:3]}; "
          f"heads {loaded.config.num_attention_heads}/{loaded.config.num_key_value_heads}, "
          f"{loaded.config.rope_parameters}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="family_logprobs.json")
    parser.add_argument("--sensitivity", action="store_true")
    parser.add_argument("--check-loader", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(2)
    # transformers' own frequencies, divided by the unscaled ones, are the factors in the file.
    assert numpy.array_equal(rope_factors().view("<f4"), llama3_factors())
    document = {"about": "made by make_family_reference.py",
                "torch": torch.__version__.split("+")[0],
                "transformers": transformers.__version__,
                "gradient_loss": "-log p(tokens[-1] | tokens[:-1]), the forward pass sees "
                                 "tokens[:-1]",
                "families": {}}
    with tempfile.TemporaryDirectory() as folder:
        for family in FAMILIES:
            path = pathlib.Path(folder) / f"{family.name}.gguf"
            data = make_model(family)
            path.write_bytes(data)
            tensors = read_tensors(path)
            if family.architecture == "llama":
                rotary = build(family, tensors).model.rotary_emb.inv_freq.double().numpy()
                plain = family.theta ** (-numpy.arange(0, family.head_dim, 2) / family.head_dim)
                assert numpy.allclose(plain / rotary, tensors["rope_freqs.weight"], rtol=1e-5)
            document["families"][family.name] = reference(family, data, tensors)
            if options.sensitivity:
                print_sensitivity(family, tensors)
            if options.check_loader:
                check_loader(family, path, tensors)
    write_json(options.output, document)


if __name__ == "__main__":
    main()
