# SPDX-License-Identifier: Apache-2.0
"""Small GGUF models with the attention of three model families and weights made from a hash.

To repeat (needs numpy only):

    python make_family_models.py --output DIR

The files are the same on every machine, byte for byte; tests/examples/llama/family_models.cpp makes
the same ones in C++. README.md beside this file has the recipe. The weights are not trained: the
models say nothing sensible, but every one of their numbers depends on all that is in the file.
"""

import argparse
import dataclasses
import hashlib
import pathlib
import struct

import numpy

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
VOCABULARY = 512

# Type name -> (number in GGUF, elements of a block, bytes of a block, exponent, float16 fields).
# `exponent` makes the standard deviation of a weight about 0.05. The float16 fields of a block are
# (offset, exponent above the tensor's, sign bit); None as exponent leaves a subnormal.
TYPES = {
    "f32": (0, 1, 4, -4, ()),
    "f16": (1, 1, 2, -4, ()),
    "bf16": (30, 1, 2, -4, ()),
    "q4_0": (2, 32, 18, -7, ((0, 0, 0),)),
    "q4_1": (3, 32, 20, -7, ((0, 0, 0), (2, 3, 1))),
    "q5_0": (6, 32, 22, -8, ((0, 0, 0),)),
    "q5_1": (7, 32, 24, -8, ((0, 0, 0), (2, 4, 1))),
    "q8_0": (8, 32, 34, -11, ((0, 0, 0),)),
    "q4_k": (12, 256, 144, -13, ((0, 0, 0), (2, 3, 0))),
    "q5_k": (13, 256, 176, -14, ((0, 0, 0), (2, 4, 0))),
    "q6_k": (14, 256, 210, -15, ((208, None, 0),)),
}
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")

# Llama 3.1's frequency factors (theta 500000, head_dim 128, factor 8, low 1, high 4, context 8192)
# are 1 before index 29 and 8 from index 35 on; between them these float32 bit patterns, so that no
# machine's pow can change a byte. `llama3_factors` computes them.
SMOOTH_FACTORS = (0x3F9A8ED5, 0x3FC6D64A, 0x4001AF1E, 0x402C732D, 0x406BCACB, 0x40A83C05)
SMOOTH_BEGIN = 29


@dataclasses.dataclass(frozen=True)
class Family:
    """What distinguishes a model; `types` has a row per layer in the order of MATRICES."""
    name: str
    seed: int
    architecture: str
    embedding: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    context: int
    theta: float
    epsilon: float
    pre_tokenizer: str
    special: tuple
    add_bos: bool
    bos: int
    eos: int
    embedding_type: str
    output_type: str | None  # None: the output is the embedding
    embedding_shift: int
    attention_shift: int  # of attn_q and attn_k, so that the logits have a spread of 1 to 3
    types: tuple

    @property
    def layers(self):
        return len(self.types)


FAMILIES = (
    Family("llama_3_1", 1, "llama", 512, 8, 2, 128, 768, 131072, 500000.0, 1e-5, "llama-bpe",
           ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|eot_id|>"),
           True, 508, 509, "q8_0", "q6_k", 4, 0,
           (("q4_k", "f32", "f16", "q6_k", "q5_k", "q4_0", "q5_1"),
            ("q8_0", "q4_1", "bf16", "q5_0", "q4_k", "q6_k", "q8_0"),
            ("f16", "q5_k", "q6_k", "q4_0", "bf16", "q5_1", "q4_1"))),
    Family("qwen_2_5", 2, "qwen2", 896, 14, 2, 64, 512, 32768, 1000000.0, 1e-6, "qwen2",
           ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_pad|>"),
           False, 508, 510, "q8_0", None, 1, 0,
           (("q5_0", "q8_0", "q4_1", "f16", "q4_0", "q5_1", "q4_k"),
            ("bf16", "f32", "q5_0", "q8_0", "q4_1", "q4_0", "q6_k"))),
    Family("deepseek_r1_distill_qwen", 3, "qwen2", 1536, 12, 2, 128, 512, 131072, 10000.0, 1e-6,
           "deepseek-r1-qwen",
           ("<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
            "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"),
           True, 508, 509, "q4_k", "q6_k", 4, -1,
           (("q4_k", "q4_k", "q6_k", "q4_k", "q4_k", "q4_k", "q6_k"),
            ("q5_k", "q8_0", "f16", "q5_k", "q6_k", "q5_k", "q4_0"))),
)


def mix(value):
    """The finaliser of SplitMix64, on a Python integer or an array of uint64."""
    mask = numpy.uint64(MASK) if isinstance(value, numpy.ndarray) else MASK
    one = numpy.uint64 if isinstance(value, numpy.ndarray) else int
    value = ((value ^ (value >> one(30))) * one(0xBF58476D1CE4E5B9)) & mask
    value = ((value ^ (value >> one(27))) * one(0x94D049BB133111EB)) & mask
    return value ^ (value >> one(31))


def hashes(seed, tensor, count):
    """Element i is mix(mix(seed * 2^32 + tensor) + (i + 1) * GOLDEN), modulo 2^64."""
    base = numpy.uint64(mix((seed << 32) + tensor))
    with numpy.errstate(over="ignore"):
        return mix(base + numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(GOLDEN))


def float_data(type_name, hashed, exponent, centre):
    """centre + k * 2^exponent with k uniform over as many signed bits as the type holds exactly."""
    bits = {"f32": 16, "f16": 11, "bf16": 8}[type_name]
    k = (hashed >> numpy.uint64(64 - bits)).astype(numpy.int64) - (1 << (bits - 1))
    values = centre + k * 2.0 ** (exponent - (bits - 1))
    if type_name == "f32":
        return values.astype("<f4").tobytes()
    if type_name == "f16":
        return values.astype("<f2").tobytes()
    return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()


def block_data(type_name, seed, tensor, blocks, shift):
    """Blocks of hashed bytes; of their float16 fields the ten low bits are hashed."""
    _, _, size, exponent, fields = TYPES[type_name]
    words = -(-size // 8)
    raw = hashes(seed, tensor, blocks * words).astype("<u8").view(numpy.uint8)
    raw = raw.reshape(blocks, words * 8)[:, :size].copy()
    for offset, above, sign in fields:
        biased = 0 if above is None else exponent + shift + above + 15
        raw[:, offset + 1] = (raw[:, offset + 1] & 3) | (biased << 2) | (sign << 7)
    return raw.tobytes()


def llama3_factors(theta=500000.0, head_dim=128, factor=8.0, low=1.0, high=4.0, context=8192):
    """rope_freqs.weight as llama.cpp's converter computes it from Llama 3.1's rope_scaling."""
    result = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * numpy.pi * theta ** (i / head_dim)
        if wavelength < context / high:
            result.append(1.0)
        elif wavelength > context / low:
            result.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            result.append(1 / ((1 - smooth) / factor + smooth))
    return numpy.array(result, dtype="<f4")


def rope_factors():
    bits = [0x3F800000] * SMOOTH_BEGIN + list(SMOOTH_FACTORS)
    return numpy.array(bits + [0x41000000] * (64 - len(bits)), dtype="<u4")


def vocabulary(family):
    """Tokens, their types and the merges: 256 bytes, 252 pairs of letters, 4 special tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = [chr(byte if byte in printable else 256 + others.index(byte))
                  for byte in range(256)]
    pairs = [(chr(97 + i // 26), chr(97 + i % 26)) for i in range(252)]
    tokens = characters + [a + b for a, b in pairs] + list(family.special)
    return tokens, [1] * 508 + [3] * 4, [f"{a} {b}" for a, b in pairs]


def tensor_list(family):
    """(name, shape with the row length first, type, shift, centre) in the order of the file."""
    embedding, kv = family.embedding, family.kv_heads * family.head_dim
    query, hidden = family.heads * family.head_dim, family.feed_forward
    shapes = {"attn_q": (embedding, query), "attn_k": (embedding, kv), "attn_v": (embedding, kv),
              "attn_output": (query, embedding), "ffn_gate": (embedding, hidden),
              "ffn_up": (embedding, hidden), "ffn_down": (hidden, embedding)}
    result = [("token_embd.weight", (embedding, VOCABULARY), family.embedding_type,
               family.embedding_shift, 0)]
    for layer, types in enumerate(family.types):
        prefix = f"blk.{layer}."
        result.append((prefix + "attn_norm.weight", (embedding,), "f32", 2, 1))
        result.append((prefix + "ffn_norm.weight", (embedding,), "f32", 2, 1))
        for matrix, type_name in zip(MATRICES, types):
            shift = family.attention_shift if matrix in ("attn_q", "attn_k") else 0
            result.append((f"{prefix}{matrix}.weight", shapes[matrix], type_name, shift, 0))
        if family.architecture == "qwen2":
            for matrix in ("attn_q", "attn_k", "attn_v"):
                result.append((f"{prefix}{matrix}.bias", (shapes[matrix][1],), "f32", 3, 0))
    result.append(("output_norm.weight", (embedding,), "f32", 2, 1))
    if family.output_type:
        result.append(("output.weight", (embedding, VOCABULARY), family.output_type, 0, 0))
    if family.architecture == "llama":
        result.append(("rope_freqs.weight", (family.head_dim // 2,), "f32", 0, 0))
    return result


def tensor_data(family, index, name, shape, type_name, shift, centre):
    if name == "rope_freqs.weight":
        return rope_factors().tobytes()
    count = int(numpy.prod(shape))
    _, per_block, _, exponent, _ = TYPES[type_name]
    assert shape[0] % per_block == 0, (name, shape, type_name)
    if per_block > 1:
        return block_data(type_name, family.seed, index, count // per_block, shift)
    return float_data(type_name, hashes(family.seed, index, count), exponent + shift, centre)


def string(text):
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def entries(family):
    """The metadata in the order of the file, encoded: key, type, value."""
    def u32(key, value):
        return string(key) + struct.pack("<II", 4, value)

    def f32(key, value):
        return string(key) + struct.pack("<If", 6, value)

    def boolean(key, value):
        return string(key) + struct.pack("<IB", 7, value)

    def text(key, value):
        return string(key) + struct.pack("<I", 8) + string(value)

    def texts(key, values):
        return (string(key) + struct.pack("<IIQ", 9, 8, len(values))
                + b"".join(string(value) for value in values))

    def i32s(key, values):
        return (string(key) + struct.pack("<IIQ", 9, 5, len(values))
                + struct.pack(f"<{len(values)}i", *values))

    arch = family.architecture
    tokens, types, merges = vocabulary(family)
    result = [
        text("general.architecture", arch),
        text("general.name", family.name),
        u32("general.quantization_version", 2),
        u32(arch + ".block_count", family.layers),
        u32(arch + ".context_length", family.context),
        u32(arch + ".embedding_length", family.embedding),
        u32(arch + ".feed_forward_length", family.feed_forward),
        u32(arch + ".attention.head_count", family.heads),
        u32(arch + ".attention.head_count_kv", family.kv_heads),
        f32(arch + ".rope.freq_base", family.theta),
        f32(arch + ".attention.layer_norm_rms_epsilon", family.epsilon),
    ]
    if arch == "llama":
        result += [u32("llama.attention.key_length", family.head_dim),
                   u32("llama.attention.value_length", family.head_dim),
                   u32("llama.rope.dimension_count", family.head_dim),
                   u32("llama.vocab_size", VOCABULARY)]
    return result + [
        text("tokenizer.ggml.model", "gpt2"),
        text("tokenizer.ggml.pre", family.pre_tokenizer),
        texts("tokenizer.ggml.tokens", tokens),
        i32s("tokenizer.ggml.token_type", types),
        texts("tokenizer.ggml.merges", merges),
        u32("tokenizer.ggml.bos_token_id", family.bos),
        u32("tokenizer.ggml.eos_token_id", family.eos),
        boolean("tokenizer.ggml.add_bos_token", family.add_bos),
    ]


def padded(data):
    return data + bytes(-len(data) % 32)


def make_model(family):
    """The whole GGUF v3 file."""
    metadata, tensors = entries(family), tensor_list(family)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(metadata)
    body = b""
    for index, (name, shape, type_name, shift, centre) in enumerate(tensors):
        head += string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", TYPES[type_name][0], len(body))
        body += padded(tensor_data(family, index, name, shape, type_name, shift, centre))
    return padded(head) + body


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for the models")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        data = make_model(family)
        path = options.output / f"{family.name}.gguf"
        path.write_bytes(data)
        print(hashlib.sha256(data).hexdigest(), len(data), path.name)


if __name__ == "__main__":
    main()
