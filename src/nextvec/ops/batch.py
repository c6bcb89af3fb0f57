"""Passes over the predictions of a batch and their targets, as the objective needs them.

Letters in names: B windows of a batch, D dimensions.

A pass over many tensors at once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from nextvec.ops.native import Vectors, compiled


def normalise(vectors_BD: Tensor, shortest: float) -> tuple[Tensor, Tensor]:
    """Vectors divided by their lengths, at least `shortest`, and these (B, 1); float32, or float64 as they are."""
    library = compiled(vectors_BD)
    if library is None:
        vectors_BD = vectors_BD.to(torch.promote_types(vectors_BD.dtype, torch.float32))
        length_B1 = torch.linalg.vector_norm(vectors_BD, dim=1, keepdim=True).clamp(min=shortest)
        return vectors_BD / length_B1, length_B1
    units_BD, length_B1 = torch.empty(vectors_BD.shape), torch.empty(len(vectors_BD), 1)
    vectors = Vectors.of(vectors_BD)
    library.nextvec_normalise(units_BD.data_ptr(), length_B1.data_ptr(), vectors, shortest, *vectors_BD.shape)
    return units_BD, length_B1


def lengths(vectors_BKD: Tensor, shortest: float) -> Tensor:
    """(B, K) the lengths of vectors of any format, at least `shortest`."""
    library = compiled(vectors_BKD)
    if library is None or not vectors_BKD.is_contiguous():
        vectors_BKD = vectors_BKD.to(torch.promote_types(vectors_BKD.dtype, torch.float32))
        length_BK: Tensor = torch.linalg.vector_norm(vectors_BKD, dim=-1).clamp(min=shortest)
        return length_BK
    length_BK = torch.empty(vectors_BKD.shape[:-1])
    vectors = vectors_BKD.flatten(0, -2)
    library.nextvec_normalise(None, length_BK.data_ptr(), Vectors.of(vectors), shortest, *vectors.shape)
    return length_BK


def compare(left_BD: Tensor, right_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Window by window: left · right, |left − right|² and |left|², (B,) each."""
    assert left_BD.shape == right_BD.shape, (left_BD.shape, right_BD.shape)
    library = _compiled(left_BD, right_BD)
    if library is None:
        squares_B = torch.linalg.vector_norm(left_BD, dim=1).square()
        return (left_BD * right_BD).sum(dim=1), torch.linalg.vector_norm(left_BD - right_BD, dim=1).square(), squares_B
    found_3B = torch.empty(3, len(left_BD))
    library.nextvec_compare(*_addresses(*found_3B, left_BD, right_BD), *left_BD.shape)
    products_B, distances_B, squares_B = found_3B
    return products_B, distances_B, squares_B


def moments(numbers_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Each dimension's mean and variance over the batch, (D,) each, the variance divided by B."""
    library = _compiled(numbers_BD)
    if library is None:
        mean_D = numbers_BD.mean(dim=0)
        return mean_D, (numbers_BD - mean_D).square().mean(dim=0)
    found_2D = torch.empty(2, numbers_BD.shape[1])
    library.nextvec_moments(*_addresses(*found_2D, numbers_BD), *numbers_BD.shape)
    mean_D, variance_D = found_2D
    return mean_D, variance_D


def measure_affine(numbers_BD: Tensor, shift_D: Tensor, slope_D: Tensor) -> tuple[Tensor, Tensor]:
    """For y = shift + slope ∘ x, window by window: x · y and |y|², (B,) each."""
    library = _compiled(numbers_BD, shift_D, slope_D)
    if library is None:
        found_BD = torch.addcmul(shift_D, numbers_BD, slope_D)
        return (numbers_BD * found_BD).sum(dim=1), torch.linalg.vector_norm(found_BD, dim=1).square()
    found_2B = torch.empty(2, len(numbers_BD))
    library.nextvec_measure_affine(*_addresses(*found_2B, numbers_BD, shift_D, slope_D), *numbers_BD.shape)
    along_B, square_B = found_2B
    return along_B, square_B


def multiply(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """A float32 product of two matrices that multiplies in `dtype` and adds up in float32."""
    if dtype != torch.bfloat16 or left.dtype != torch.float32 or not (left.is_cpu or left.is_cuda):
        return left @ right
    if left.is_cuda:
        return torch.mm(left.to(dtype), right.to(dtype), out_dtype=torch.float32)
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        return left @ right
    finally:
        settings.fp32_precision = before


def pair_both_ways(products_BB: Tensor, tau: float, group_B: Tensor | None) -> tuple[Tensor, Tensor]:
    """InfoNCE in both directions from the products of predictions (rows) with targets, and its gradient there.

    With `group_B` the other pairs of a row's group are left out. The gradient, (P + Q − 2·1) / (B·tau) with the
    softmax P by rows and Q by columns, takes the place of the products.
    """
    batch = len(products_BB)
    assert products_BB.shape == (batch, batch) and (group_B is None or len(group_B) == batch), products_BB.shape
    library = _compiled(products_BB)
    if library is not None and (group_B is None or group_B.dtype == torch.int32):
        room_2B = torch.empty(2, batch)
        group_B = None if group_B is None else group_B.contiguous()
        group = None if group_B is None else group_B.data_ptr()
        loss = library.nextvec_pair_both_ways(*_addresses(products_BB, *room_2B), group, tau, batch)
        return torch.tensor(loss), products_BB
    logits_BB = products_BB.div_(tau)
    if group_B is not None:
        same_BB = group_B[:, None] == group_B
        logits_BB.masked_fill_(same_BB.fill_diagonal_(False), -torch.inf)
    # On CUDA, log_softmax over columns takes 50 times as long as over rows; a logsumexp over columns does not.
    by_row_BB, by_column_BB = logits_BB.log_softmax(dim=1), logits_BB - logits_BB.logsumexp(dim=0)
    loss = -by_row_BB.diagonal().mean() - by_column_BB.diagonal().mean()
    gradient_BB = by_row_BB.exp_().add_(by_column_BB.exp_()).div_(tau * batch)
    gradient_BB.diagonal().sub_(2 / (tau * batch))
    return loss, gradient_BB


def mix(
    block_BD: Tensor | None, factor: Tensor, shift_D: Tensor, slope_D: Tensor, pull_B: Tensor, push: Tensor,
    units_BD: Tensor, targets_BD: Tensor, length_B1: Tensor,
) -> Tensor:  # fmt: skip
    """(factor · block + shift + (slope + pull) ∘ unit − push · target) / length; a block is overwritten."""
    rest = (shift_D, slope_D, units_BD, targets_BD, pull_B, push, length_B1)
    library = _compiled(units_BD, factor, *rest)
    if library is not None:
        mixed_BD = torch.zeros_like(units_BD) if block_BD is None else block_BD
        library.nextvec_mix(*_addresses(mixed_BD, factor, *rest), *units_BD.shape)
        return mixed_BD
    mixed_BD = torch.zeros_like(units_BD) if block_BD is None else block_BD.mul_(factor)
    mixed_BD += shift_D
    mixed_BD.addcmul_(units_BD, slope_D + pull_B[:, None])
    mixed_BD.addcmul_(targets_BD, -push)
    return mixed_BD.div_(length_B1)


def _compiled(*tensors: Tensor) -> ctypes.CDLL | None:
    """The library, where all tensors are float32 and in one piece."""
    if any(tensor.dtype != torch.float32 or not tensor.is_contiguous() for tensor in tensors):
        return None
    return compiled(*tensors)


def _addresses(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(tensor.data_ptr() for tensor in tensors)


CHUNK = 2**14
"""Numbers that a thread takes at a time."""


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """The length of all numbers of some tensors as one vector, 0-dim."""
    library = compiled(*tensors)
    if library is None or any(tensor.dtype != torch.float32 or not tensor.is_contiguous() for tensor in tensors):
        return torch.nn.utils.get_total_norm(tensors)
    length, counts = torch.empty(()), [tensor.numel() for tensor in tensors]
    room = (ctypes.c_double * sum(-(-count // CHUNK) for count in counts))()
    addresses = (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
    sizes = (ctypes.c_long * len(tensors))(*counts)
    library.nextvec_norm(length.data_ptr(), room, addresses, sizes, len(tensors), CHUNK)
    return length
