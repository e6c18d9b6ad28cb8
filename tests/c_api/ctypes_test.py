#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The C interface from Python's ctypes, with the standard library only.

usage: ctypes_test.py libzerotune_c.so [--nm NM]
"""

import ctypes
import math
import os
import random
import struct
import subprocess
import sys
import unittest

LIBRARY = sys.argv[1] if len(sys.argv) > 1 else "libzerotune_c.so"
NM = sys.argv[3] if len(sys.argv) > 3 and sys.argv[2] == "--nm" else None
VARIABLE = "ZEROTUNE_INSTRUCTION_SET"

F32, F64, F16, BF16 = range(4)
I64, I32, F = ctypes.c_int64, ctypes.c_int32, ctypes.c_float


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("shape", I64 * 4), ("strides", I64 * 4), ("dtype", I32)]


class Options(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint64), ("softmax_scale", F), ("softcap", F), ("causal", I32),
                ("threads", I32), ("window", I64), ("gamma", ctypes.POINTER(F)),
                ("initial_pos", ctypes.POINTER(I64)), ("min_d", F),
                ("amplified_rows", ctypes.POINTER(I64))]


def load():
    library = ctypes.CDLL(LIBRARY)
    library.zt_last_error.restype = ctypes.c_char_p
    library.zt_instruction_set.restype = ctypes.c_char_p
    tensor, options = ctypes.POINTER(Tensor), ctypes.POINTER(Options)
    library.zt_attention.argtypes = [tensor] * 5 + [options]
    library.zt_attention_backward.argtypes = [tensor] * 9 + [ctypes.POINTER(F), options]
    library.zt_rescale_weights.argtypes = [tensor, options]
    library.zt_correct_output.argtypes = [tensor] * 5 + [options]
    return library


def encode(value, dtype):
    """A number as the bytes of its element type, rounded to nearest even."""
    if dtype == BF16:
        bits = struct.unpack("<I", struct.pack("<f", value))[0]
        return struct.pack("<H", ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) & 0xFFFF)
    return struct.pack("<" + "fde"[dtype], value)


def decode(data, dtype):
    if dtype == BF16:
        return struct.unpack("<f", b"\0\0" + data)[0]
    return struct.unpack("<" + "fde"[dtype], data)[0]


class Array:
    """A tensor that owns its memory; [batch, length, heads, dim] in memory where `swapped`."""

    def __init__(self, shape, dtype, values=None, swapped=False):
        self.count = math.prod(shape)
        self.width = {F32: 4, F64: 8, F16: 2, BF16: 2}[dtype]
        a, b, c, d = shape
        strides = (b * c * d, d, b * d, 1) if swapped else (b * c * d, c * d, d, 1)
        self.memory = ctypes.create_string_buffer(max(1, self.count * self.width))
        self.tensor = Tensor(ctypes.addressof(self.memory), (I64 * 4)(*shape),
                             (I64 * 4)(*strides), dtype)
        for i in range(self.count if values else 0):
            place = self.place(i)
            self.memory[place:place + self.width] = encode(values[i], dtype)

    def place(self, flat):
        offset = 0
        for extent, stride in reversed(list(zip(self.tensor.shape, self.tensor.strides))):
            offset += flat % extent * stride
            flat //= extent
        return offset * self.width

    def values(self):
        places = (self.place(i) for i in range(self.count))
        return [decode(self.memory.raw[p:p + self.width], self.tensor.dtype) for p in places]


def options(**fields):
    result = Options(size=ctypes.sizeof(Options))
    for name, value in fields.items():
        setattr(result, name, value)
    return result


B, H, HKV, Q, K, D = 2, 4, 2, 5, 9, 16


def reference(q, k, v, gamma, scale, q_len=Q, kv_len=K):
    """Causal attention with gamma on the initial token, from its definition."""
    out, lse = [], []
    for row in range(B * H * q_len):
        b, h, i = row // q_len // H, row // q_len % H, row % q_len
        kv = (b * HKV + h // (H // HKV)) * kv_len
        weights = []
        for j in range(kv_len - q_len + i + 1):
            logit = sum(q[row * D + c] * k[(kv + j) * D + c] for c in range(D)) * scale
            weights.append(math.exp(logit) * (gamma[h] if j == 0 else 1.0))
        total = math.fsum(weights)
        lse.append(math.log(total))
        for c in range(D):
            out.append(sum(w * v[(kv + j) * D + c] for j, w in enumerate(weights)) / total)
    return out, lse


class CInterface(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.library = load()
        name = cls.library.zt_instruction_set()
        assert name, cls.library.zt_last_error()
        print("instruction set:", name.decode())

    def check(self, code):
        self.assertEqual(code, 0, self.library.zt_last_error())

    def distance(self, actual, expected):
        return max(abs(a - e) for a, e in zip(actual, expected, strict=True))

    def inputs(self, q_type, kv_type, swapped=False, q_len=Q, kv_len=K):
        numbers = random.Random(7)
        def make(shape, dtype):
            return Array(shape, dtype, [numbers.uniform(-1, 1) for _ in range(math.prod(shape))],
                         swapped)
        return (make((B, H, q_len, D), q_type), make((B, HKV, kv_len, D), kv_type),
                make((B, HKV, kv_len, D), kv_type))

    def test_element_types(self):
        gamma = (0.25, 1.0, 4.0, 0.0)
        # The output's rounding; sums are float32 below float64.
        bounds = {F32: 2e-6, F64: 1e-14, F16: 2e-3, BF16: 1e-2}
        kinds = [(q, kv, out) for q in (F32, F16, BF16) for kv in (F32, F16, BF16)
                 for out in (F32, F16, BF16)] + [(F64, F64, F64)]
        for q_type, kv_type, out_type in kinds:
            for swapped in (False, True):
                q, k, v = self.inputs(q_type, kv_type, swapped)
                out = Array((B, H, Q, D), out_type, swapped=swapped)
                lse = Array((B, H, Q, 1), F64 if kv_type == F64 else F32)
                given = options(causal=1, gamma=(F * H)(*gamma), threads=3)
                self.check(self.library.zt_attention(q.tensor, k.tensor, v.tensor, out.tensor,
                                                     lse.tensor, given))
                expected, expected_lse = reference(q.values(), k.values(), v.values(), gamma,
                                                   D ** -0.5)
                with self.subTest(q=q_type, kv=kv_type, out=out_type, swapped=swapped):
                    self.assertLess(self.distance(out.values(), expected), bounds[out_type])
                    self.assertLess(self.distance(lse.values(), expected_lse), bounds[F32])

    def test_blocks_of_queries(self):
        """More queries than go by decode: panels, for bfloat16 of pairs or tiles where they are."""
        gamma, q_len, kv_len = (0.25, 1.0, 4.0, 0.0), 37, 70
        # bfloat16 rounds the weights where its products take them; design.md, section 6.
        bounds = {F32: (2e-6, 2e-6), F64: (1e-14, 2e-6), F16: (2e-3, 2e-6), BF16: (1e-2, 5e-3)}
        for kind, (bound, lse_bound) in bounds.items():
            q, k, v = self.inputs(kind, kind, q_len=q_len, kv_len=kv_len)
            results = []
            for threads in (1, 4):
                out, lse = Array((B, H, q_len, D), kind), Array((B, H, q_len, 1), F32)
                given = options(causal=1, gamma=(F * H)(*gamma), threads=threads)
                self.check(self.library.zt_attention(q.tensor, k.tensor, v.tensor, out.tensor,
                                                     lse.tensor, given))
                results.append((out.memory.raw, lse.memory.raw))
            expected, expected_lse = reference(q.values(), k.values(), v.values(), gamma,
                                               D ** -0.5, q_len, kv_len)
            with self.subTest(kind=kind):
                self.assertLess(self.distance(out.values(), expected), bound)
                self.assertLess(self.distance(lse.values(), expected_lse), lse_bound)
                self.assertEqual(results[0], results[1])

    def gradients(self, kv_type, out_type, threads):
        q, k, v = self.inputs(out_type, kv_type)
        numbers = random.Random(3)
        d_out = Array((B, H, Q, D), out_type,
                      [numbers.uniform(-1, 1) for _ in range(B * H * Q * D)])
        out, lse = Array((B, H, Q, D), out_type), Array((B, H, Q, 1), F32)
        given = options(causal=1, gamma=(F * H)(0.25, 1.0, 4.0, 0.0), threads=threads)
        self.check(self.library.zt_attention(q.tensor, k.tensor, v.tensor, out.tensor, lse.tensor,
                                             given))
        d_q, d_k, d_v = (Array(t.tensor.shape, t.tensor.dtype) for t in (q, k, v))
        d_log_gamma = (F * (B * H))()
        self.check(self.library.zt_attention_backward(
            q.tensor, k.tensor, v.tensor, out.tensor, lse.tensor, d_out.tensor, d_q.tensor,
            d_k.tensor, d_v.tensor, d_log_gamma, given))
        return d_q.values(), d_k.values(), d_v.values(), list(d_log_gamma)

    def test_gradients(self):
        one = self.gradients(F32, F32, 1)
        for threads in (2, 5):
            self.assertEqual(self.gradients(F32, F32, threads), one)
        for kv_type, out_type, bound in ((F64, F64, 1e-5), (BF16, F32, 2e-2), (F16, F16, 5e-3),
                                         (F32, BF16, 5e-2)):
            for a, b in zip(self.gradients(kv_type, out_type, 2), one):
                self.assertLess(self.distance(a, b), bound, (kv_type, out_type))

    def test_identity_is_bitwise(self):
        q, k, v = self.inputs(F32, F32)
        results = []
        for fields in ({}, {"gamma": (F * H)(1, 1, 1, 1)}, {"threads": 4}):
            out = Array((B, H, Q, D), F32)
            self.check(self.library.zt_attention(q.tensor, k.tensor, v.tensor, out.tensor, None,
                                                 options(**fields)))
            results.append(out.memory.raw)
        self.assertEqual(results[0], results[1])
        self.assertEqual(results[0], results[2])

    def test_dimensions_that_no_memory_holds_are_refused(self):
        """Tensors without elements, or whose rows are all the same, may say anything."""
        huge = 2**60
        one = ctypes.create_string_buffer(64)

        def tensor(*shape):
            strides = (I64 * 4)(0, 0, 0, 0)
            return Tensor(ctypes.addressof(one), (I64 * 4)(*shape), strides, F32)

        library = self.library
        q, k, v = tensor(1, 1, 1, 8), tensor(1, 1, 0, 8), tensor(1, 1, 0, huge)
        out, lse = tensor(1, 1, 1, huge), tensor(1, 1, 1, 1)
        d_q = Array((1, 1, 1, 8), F32)
        code = library.zt_attention_backward(q, k, v, out, lse, out, d_q.tensor,
                                             tensor(1, 1, 0, 8), v, None, None)
        self.assertEqual(code, 1)
        self.assertIn(b"value_dim", library.zt_last_error())
        wide = tensor(1, 1, 1, huge)
        written, sums = Array((1, 1, 1, 8), F32), Array((1, 1, 1, 1), F32)
        code = library.zt_correct_output(written.tensor, sums.tensor, wide, tensor(1, 1, 0, huge),
                                         tensor(1, 1, 0, 8), None)
        self.assertEqual(code, 1)
        self.assertIn(b"head_dim", library.zt_last_error())

    def test_errors_belong_to_their_thread(self):
        import threading
        self.assertEqual(self.library.zt_rescale_weights(None, None), 1)
        seen = []
        thread = threading.Thread(target=lambda: seen.append(self.library.zt_last_error()))
        thread.start()
        thread.join()
        self.assertEqual(seen, [b""])
        self.assertIn(b"zt_rescale_weights: weights", self.library.zt_last_error())

    def test_instruction_sets(self):
        """Each that this machine has gives the same numbers but for rounding; others are errors."""
        code = ("import ctypes, sys; l = ctypes.CDLL(sys.argv[1]);"
                "l.zt_instruction_set.restype = l.zt_last_error.restype = ctypes.c_char_p;"
                "print(l.zt_instruction_set(), l.zt_last_error(), l.zt_rescale_weights(None, None))")

        def run(value):
            return subprocess.run([sys.executable, "-c", code, LIBRARY], check=True, text=True,
                                  env={**os.environ, VARIABLE: value},
                                  capture_output=True).stdout

        self.assertIn("b'baseline' b''", run("baseline"))
        message = run("avx1024")
        self.assertTrue(message.startswith("None b'zerotune: environment " + VARIABLE), message)
        self.assertIn("got avx1024", message)
        self.assertTrue(message.rstrip().endswith(" 1"), message)

    @unittest.skipUnless(NM, "without nm")
    def test_only_the_interface_is_visible(self):
        text = subprocess.run([NM, "-D", "--defined-only", LIBRARY], check=True, text=True,
                              capture_output=True).stdout
        names = {line.split()[-1].split("@")[0] for line in text.splitlines()}
        self.assertEqual(names, {"zt_attention", "zt_attention_backward", "zt_rescale_weights",
                                 "zt_correct_output", "zt_last_error", "zt_instruction_set"})


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
