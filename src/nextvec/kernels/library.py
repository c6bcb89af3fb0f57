"""The compiled code as functions that take addresses, or the reason why there is none."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from nextvec.kernels.compiling import NotCompiledError, load

_FORMATS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_allowed = True


def allow(compiled: bool) -> None:
    """Whether the compiled code may be used; True at first."""
    global _allowed
    _allowed = compiled


def how(device: torch.device) -> str:
    """What makes the passes on a device, in a few words."""
    if device.type != "cpu" or not _allowed:
        return "torch"
    library = _library()
    return f"torch ({library})" if isinstance(library, str) else "compiled code"


class Vectors(ctypes.Structure):
    """`struct vectors` of kernels.c: where vectors of a tensor of three dimensions lie."""

    _fields_ = (
        ("start", ctypes.c_void_p),
        ("format", ctypes.c_long),
        ("first", ctypes.c_long),
        ("second", ctypes.c_long),
    )

    @classmethod
    def of(cls, tensor: Tensor) -> Vectors:
        """Those of a tensor, its last dimension in one piece."""
        return cls(tensor.data_ptr(), _FORMATS[tensor.dtype], tensor.stride(0), tensor.stride(1))


@cache
def _library() -> ctypes.CDLL | str:
    """The compiled code, or why there is none."""
    try:
        library = load()
    except NotCompiledError as error:
        return str(error)
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, f"nextvec_{name}")
        function.argtypes, function.restype = [_TYPES[letter] for letter in arguments], None
    library.nextvec_pair_both_ways.restype = ctypes.c_double
    return library


_TYPES = {"V": ctypes.POINTER(Vectors), "a": ctypes.c_void_p, "n": ctypes.c_long, "f": ctypes.c_float}
_ARGUMENTS = {
    "score": "aVaVannnn", "combine": "VaaVannnn", "normalise": "aaVfnn", "compare": "aaaaann", "moments": "aaann",
    "measure_affine": "aaaaann", "pair_both_ways": "aaaafn", "mix": "aaaaaaaaann",
    "predict_one": "aVaann",
    "norm": "aaaann",
}  # fmt: skip
"""For each function of kernels.c its arguments: vectors, addresses, whole numbers, float32."""


def compiled(*tensors: Tensor) -> ctypes.CDLL | None:
    """The library, where these tensors lie on the processor in formats that it knows, their vectors in one piece."""
    if not _allowed or any(not tensor.is_cpu or tensor.dtype not in _FORMATS for tensor in tensors):
        return None
    if tensors and tensors[-1].ndim and tensors[-1].stride(-1) != 1:
        return None
    library = _library()
    return None if isinstance(library, str) else library
