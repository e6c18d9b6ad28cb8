#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/references/dequantize.json: GGUF blocks and the floats that they stand for.

To repeat, in a virtual environment:

    pip install gguf==0.19.0 numpy
    python make_dequantize_reference.py

The values come from the gguf package's numpy code. Blocks are random bytes, so that every bit of a
scale, a minimum and a quant matters, with float16 scales replaced by numbers of ordinary size; the
types that the package can also quantise get blocks made from normal variates as well. Per type:
`blocks` (base64) and `values` (base64 of float32, little-endian).
"""

import argparse
import base64
import json
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

# Offsets of the float16 scales and minima in a block.
SCALES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}
QUANTISABLE = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
NUM_BLOCKS = 3


def random_blocks(name: str, generator: np.random.Generator) -> np.ndarray:
    """Returns NUM_BLOCKS blocks of random bits [NUM_BLOCKS, bytes of a block]."""
    _, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    blocks = generator.integers(0, 256, (NUM_BLOCKS, size), dtype=np.uint8)
    for offset in SCALES[name]:
        scale = generator.normal(0, 0.05, (NUM_BLOCKS, 1)).astype(np.float16)
        scale[-1] = np.float16(2.0**-20)  # a subnormal
        blocks[:, offset : offset + 2] = scale.view(np.uint8)
    return blocks


def blocks_of(name: str, generator: np.random.Generator) -> np.ndarray:
    """Returns the test blocks of a type as bytes."""
    if name == "F32":
        return generator.normal(0, 1, 32).astype(np.float32).view(np.uint8)
    if name in ("F16", "BF16"):
        special = np.array(
            [
                0,
                0x8000,
                1,
                0x8001,
                0x03FF,
                0x0400,
                0x7BFF,
                0xFBFF,
                0x3C00,
                0x3F80,
                0x7F80 if name == "BF16" else 0x7C00,
            ],
            dtype=np.uint16,
        )
        ordinary = generator.integers(0, 0x7800, 21, dtype=np.uint16)
        return np.concatenate([special, ordinary]).view(np.uint8)
    blocks = random_blocks(name, generator).reshape(-1)
    if name in QUANTISABLE:
        normal = generator.normal(0, 1, (1, 64)).astype(np.float32)
        blocks = np.concatenate([blocks, quantize(normal, GGMLQuantizationType[name]).reshape(-1)])
    return blocks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "dequantize.json")
    arguments = parser.parse_args()
    generator = np.random.default_rng(1)
    reference = {}
    for name in ["F32", "F16", "BF16", *SCALES]:
        blocks = blocks_of(name, generator)
        kind = GGMLQuantizationType[name]
        values = dequantize(
            (
                blocks.view(np.float32)
                if name == "F32"
                else blocks.view(np.float16) if name == "F16" else blocks
            ),
            kind,
        )
        reference[name.lower()] = {
            "number": int(kind),
            "blocks": base64.b64encode(blocks.tobytes()).decode(),
            "values": base64.b64encode(values.astype("<f4").tobytes()).decode(),
        }
    lines = ",\n".join(
        f"{json.dumps(name)}:{json.dumps(entry)}" for name, entry in reference.items()
    )
    arguments.output.write_text(f"{{{lines}}}\n")
    print(f"{arguments.output.name}: {len(reference)} types")


if __name__ == "__main__":
    main()
