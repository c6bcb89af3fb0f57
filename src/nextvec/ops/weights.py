"""Operations over all weights of a network: the norm of the gradients, and one step of AdamW in one pass."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nextvec.ops.batch import float32_library

CHUNK = 2**12
"""Numbers that a thread takes at a time: its gradients, weights, moments and averages fit into the CPU's L2 cache."""


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the 2-norm of all numbers of several tensors as one vector, 0-dim."""
    library = float32_library(*tensors)
    if library is None:
        return torch.nn.utils.get_total_norm(tensors)
    result, counts = torch.empty(()), [tensor.numel() for tensor in tensors]
    # Every chunk of every tensor has a sum of its own, so that the result does not depend on the number of threads.
    chunk_sums = (ctypes.c_double * sum(-(-count // CHUNK) for count in counts))()
    addresses = (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
    sizes = (ctypes.c_long * len(tensors))(*counts)
    library.nextvec_norm(result.data_ptr(), chunk_sums, addresses, sizes, len(tensors), CHUNK)
    return result


class WeightUpdate(NamedTuple):
    """One tensor of weights, with what `update_weights` needs to change it."""

    weights: Tensor
    gradients: Tensor
    exp_avg: Tensor
    """Moving average of the gradients, in the state of `torch.optim.AdamW`."""
    exp_avg_sq: Tensor
    """Moving average of their squares."""
    average: Tensor | None
    """Moving average of the weights; None if nothing averages them."""
    step: Tensor
    """0-dim, the steps so far."""
    gradient_factor: float
    """Clips the gradients."""
    weight_decay: float


def update_weights(
    updates: Sequence[WeightUpdate], *, rate: float, betas: tuple[float, float], epsilon: float, average_decay: float
) -> bool:
    """Do one step of AdamW in place, with clipping and the average d · a + (1 − d) · w, in one pass over memory.

    Return False, and change nothing, if there is no C code for these tensors. The result is that of
    `torch.optim.AdamW` up to rounding.

    Source: Loshchilov & Hutter 2019, algorithm 2.
    """
    library = float32_library(*(tensor for update in updates for tensor in update[:6] if tensor is not None))
    if library is None:
        return False
    count = len(updates)
    # The order of the addresses in kernels.c.
    pointers = [None if tensor is None else tensor.data_ptr() for update in updates for tensor in update[:6]]
    addresses = (ctypes.c_void_p * len(pointers))(*pointers)
    counts = (ctypes.c_long * count)(*(update.weights.numel() for update in updates))
    gradient_factors = (ctypes.c_float * count)(*(update.gradient_factor for update in updates))
    weight_factors = (ctypes.c_float * count)(*(1 - rate * update.weight_decay for update in updates))
    library.nextvec_update_weights(
        addresses, counts, gradient_factors, weight_factors, rate, *betas, epsilon, 1 - average_decay, count, CHUNK
    )
    return True
