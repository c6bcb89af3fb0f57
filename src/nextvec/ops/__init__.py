"""Fused CPU operations for training steps, each with a PyTorch fallback.

The C code in `kernels.c` is compiled at first use and cached. Without a C compiler, outside Linux or on another device,
torch's own operations give the same numbers up to rounding. `backend` reports which of the two a device uses, and
`native_ops(False)` switches the C code off for a block of code. None of these functions records a gradient.
"""

from nextvec.ops.batch import (
    MIN_LENGTH,
    MixCoefficients,
    affine_products,
    compare_rows,
    lengths,
    mix,
    moments,
    multiply,
    normalize,
    symmetric_info_nce,
)
from nextvec.ops.native import backend, native_ops
from nextvec.ops.weights import WeightUpdate, norm, update_weights
from nextvec.ops.window import combine, reads_in_place, score

__all__ = [
    "MIN_LENGTH",
    "MixCoefficients",
    "WeightUpdate",
    "affine_products",
    "backend",
    "combine",
    "compare_rows",
    "lengths",
    "mix",
    "moments",
    "multiply",
    "native_ops",
    "norm",
    "normalize",
    "reads_in_place",
    "score",
    "symmetric_info_nce",
    "update_weights",
]
