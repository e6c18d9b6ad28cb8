# SPDX-License-Identifier: Apache-2.0
"""zerotune's C interface (examples/c_api/zerotune.h) on PyTorch tensors, through ctypes."""

import ctypes

import torch

DTYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("shape", ctypes.c_int64 * 4),
        ("strides", ctypes.c_int64 * 4),
        ("dtype", ctypes.c_int32),
    ]


class Options(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint64),
        ("softmax_scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
        ("causal", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("window", ctypes.c_int64),
        ("gamma", ctypes.POINTER(ctypes.c_float)),
        ("initial_pos", ctypes.POINTER(ctypes.c_int64)),
        ("min_d", ctypes.c_float),
        ("amplified_rows", ctypes.POINTER(ctypes.c_int64)),
    ]


class Error(Exception):
    """A call failed; the text is zt_last_error()'s."""


def wrap(tensor):
    """A view of a tensor of four dimensions; the tensor must outlive it."""
    return Tensor(
        tensor.data_ptr(),
        (ctypes.c_int64 * 4)(*tensor.shape),
        (ctypes.c_int64 * 4)(*tensor.stride()),
        DTYPES[tensor.dtype],
    )


class Library:
    """libzerotune_c. Its methods return a function without arguments that makes one call: what
    it needs is prepared beforehand, so that a timed call is the library's own work."""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))
        self._library.zt_last_error.restype = ctypes.c_char_p
        self._library.zt_instruction_set.restype = ctypes.c_char_p

    def instruction_set(self):
        name = self._library.zt_instruction_set()
        if name is None:
            raise Error("the environment asks for an instruction set that is not there")
        return name.decode()

    def attention(self, q, k, v, out, gamma=None, causal=True):
        """gamma: one number for every head, or none."""
        options, kept = self._options(q.shape[1], gamma, causal)
        views = [wrap(x) for x in (q, k, v, out)]
        pointers = [ctypes.byref(x) for x in views]
        return self._bind(
            self._library.zt_attention,
            (*pointers, None, ctypes.byref(options)),
            (views, options, kept, q, k, v, out),
        )

    def rescale(self, weights, gamma):
        options, kept = self._options(weights.shape[1], gamma, causal=False)
        view = wrap(weights)
        return self._bind(
            self._library.zt_rescale_weights,
            (ctypes.byref(view), ctypes.byref(options)),
            (view, options, kept, weights),
        )

    def _options(self, num_heads, gamma, causal):
        options = Options(size=ctypes.sizeof(Options), causal=int(causal), threads=1)
        gammas = None
        if gamma is not None:
            gammas = (ctypes.c_float * num_heads)(*[gamma] * num_heads)
            options.gamma = gammas
        return options, gammas

    def _bind(self, function, arguments, kept):
        def call():
            if function(*arguments) != 0:
                raise Error(self._library.zt_last_error().decode())

        call.kept = kept  # what the arguments point to
        return call
