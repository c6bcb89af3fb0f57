"""One prediction of AMN, without the operations that a batch needs: every weight is read once."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from nextvec.ops.native import Vectors, compiled
from nextvec.ops.window import MOST

_SIZES = ("ages", "heads", "key", "wide", "narrow")


class MixtureNetwork(ctypes.Structure):
    """`struct mixture_network` of kernels.c."""

    _fields_ = (
        *((f"tensor{number}", ctypes.c_void_p) for number in range(14)),
        *((name, ctypes.c_long) for name in _SIZES),
    )


def predict_one(
    context_1SD: Tensor, present_1S: Tensor | None, weights: Sequence[Tensor], sizes: Sequence[int]
) -> Tensor | None:
    """(1, D) AMN's raw prediction for one window, or None where this isn't compiled for it.

    `weights` are the 14 tensors of the struct in its order, all of one format and in one piece, `sizes` the numbers of
    ages, heads, key, wide and narrow layer. There is no gradient.
    """
    library = compiled(weights[0], context_1SD)
    _, steps, dimensions = context_1SD.shape
    _, heads, key, *_ = sizes
    if library is None or weights[0].dtype != torch.float32 or (steps + heads + 3) * (dimensions + heads * key) > MOST:
        return None
    assert present_1S is None or present_1S.shape == (1, steps), present_1S.shape
    prediction_1D = torch.empty(1, context_1SD.shape[2])
    network = MixtureNetwork(*(tensor.data_ptr() for tensor in weights), *sizes)
    present = None if present_1S is None else present_1S.contiguous()
    library.nextvec_predict_one(
        prediction_1D.data_ptr(), Vectors.of(context_1SD), None if present is None else present.data_ptr(),
        ctypes.byref(network), steps, dimensions,
    )  # fmt: skip
    return prediction_1D
