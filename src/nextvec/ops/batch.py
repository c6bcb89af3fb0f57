"""Operations over a whole batch: what the objective needs of predictions and targets.

Letters in names: B windows of a batch, K vectors of a window, D dimensions.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nextvec.ops.native import StridedVectors, native_library

MIN_LENGTH = 1e-6
"""A vector shorter than this has no direction: normalization divides by at least this length."""


def normalize(vectors_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Return vectors divided by their lengths, and these lengths (B, 1), which are at least MIN_LENGTH.

    Both are float32, or float64 for float64 vectors.
    """
    library = native_library(vectors_BD)
    if library is None:
        vectors_BD = vectors_BD.to(torch.promote_types(vectors_BD.dtype, torch.float32))
        length_B1 = torch.linalg.vector_norm(vectors_BD, dim=1, keepdim=True).clamp(min=MIN_LENGTH)
        return vectors_BD / length_B1, length_B1
    units_BD, length_B1 = torch.empty(vectors_BD.shape), torch.empty(len(vectors_BD), 1)
    vectors = StridedVectors.of(vectors_BD)
    library.nextvec_normalize(units_BD.data_ptr(), length_B1.data_ptr(), vectors, MIN_LENGTH, *vectors_BD.shape)
    return units_BD, length_B1


def lengths(vectors_BKD: Tensor) -> Tensor:
    """Return the lengths (B, K) of vectors of any format, at least MIN_LENGTH."""
    library = native_library(vectors_BKD)
    if library is None or not vectors_BKD.is_contiguous():
        vectors_BKD = vectors_BKD.to(torch.promote_types(vectors_BKD.dtype, torch.float32))
        length_BK: Tensor = torch.linalg.vector_norm(vectors_BKD, dim=-1).clamp(min=MIN_LENGTH)
        return length_BK
    length_BK = torch.empty(vectors_BKD.shape[:-1])
    # The C function computes lengths only if the address of the units is null.
    rows = vectors_BKD.flatten(0, -2)
    library.nextvec_normalize(None, length_BK.data_ptr(), StridedVectors.of(rows), MIN_LENGTH, *rows.shape)
    return length_BK


def compare_rows(left_BD: Tensor, right_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for each window, left · right, |left − right|² and |left|², (B,) each."""
    assert left_BD.shape == right_BD.shape, (left_BD.shape, right_BD.shape)
    library = float32_library(left_BD, right_BD)
    if library is None:
        product_B = (left_BD * right_BD).sum(dim=1)
        distance_B = torch.linalg.vector_norm(left_BD - right_BD, dim=1).square()
        return product_B, distance_B, torch.linalg.vector_norm(left_BD, dim=1).square()
    product_B, distance_B, square_B = torch.empty(3, len(left_BD)).unbind()
    library.nextvec_compare_rows(*_addresses(product_B, distance_B, square_B, left_BD, right_BD), *left_BD.shape)
    return product_B, distance_B, square_B


def moments(vectors_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Return each dimension's mean and variance over the batch, (D,) each; the variance is divided by B."""
    library = float32_library(vectors_BD)
    if library is None:
        mean_D = vectors_BD.mean(dim=0)
        return mean_D, (vectors_BD - mean_D).square().mean(dim=0)
    mean_D, variance_D = torch.empty(2, vectors_BD.shape[1]).unbind()
    library.nextvec_moments(*_addresses(mean_D, variance_D, vectors_BD), *vectors_BD.shape)
    return mean_D, variance_D


def affine_products(vectors_BD: Tensor, shift_D: Tensor, slope_D: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for y = shift + slope ∘ x and each window x, the products x · y and |y|², (B,) each."""
    library = float32_library(vectors_BD, shift_D, slope_D)
    if library is None:
        affine_BD = torch.addcmul(shift_D, vectors_BD, slope_D)
        return (vectors_BD * affine_BD).sum(dim=1), torch.linalg.vector_norm(affine_BD, dim=1).square()
    product_B, square_B = torch.empty(2, len(vectors_BD)).unbind()
    library.nextvec_affine_products(*_addresses(product_B, square_B, vectors_BD, shift_D, slope_D), *vectors_BD.shape)
    return product_B, square_B


def multiply(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply two float32 matrices, or two stacks of them, in `dtype` (float32 or bfloat16).

    The sums and the result are float32.
    """
    if dtype != torch.bfloat16 or left.dtype != torch.float32 or not (left.is_cpu or left.is_cuda):
        return left @ right
    if left.is_cuda:
        product = torch.mm if left.ndim == 2 else torch.bmm
        return product(left.to(dtype), right.to(dtype), out_dtype=torch.float32)
    # On the CPU, oneDNN can multiply float32 matrices in bf16; the setting is global, so restore it afterwards.
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        return left @ right
    finally:
        settings.fp32_precision = before


def symmetric_info_nce(products_BB: Tensor, tau: float, group_B: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return symmetric InfoNCE and its gradient, from the products of predictions (rows) with targets (columns).

    With `group_B`, other pairs of a row's group are left out. The gradient is (P + Q − 2·1) / (B·tau) with P the
    softmax over rows and Q over columns. It overwrites `products_BB`.

    A stack of N blocks, (N, B, B) with `group_B` (N, B), gives the mean loss and the gradient of it, 1/N of each
    block's.
    """
    *stack, batch, _ = products_BB.shape
    assert products_BB.shape[-2] == products_BB.shape[-1], products_BB.shape
    assert group_B is None or group_B.shape == (*stack, batch), group_B.shape
    scale = tau * batch * math.prod(stack)
    library = float32_library(products_BB)
    if library is not None and (group_B is None or group_B.dtype == torch.int32):
        groups = None if group_B is None else group_B.contiguous().view(-1, batch)
        losses = [
            _block_info_nce(library, block_BB, tau, None if groups is None else groups[number])
            for number, block_BB in enumerate(products_BB.view(-1, batch, batch))
        ]
        return torch.tensor(sum(losses) / len(losses)), products_BB.div_(len(losses)) if stack else products_BB
    logits_BB = products_BB.div_(tau)
    if group_B is not None:
        same_group_BB = group_B[..., :, None] == group_B[..., None, :]
        same_group_BB.diagonal(dim1=-2, dim2=-1).fill_(False)
        logits_BB.masked_fill_(same_group_BB, -torch.inf)
    # On CUDA, log_softmax over columns takes 50 times as long as over rows; a logsumexp over columns does not.
    by_row_BB = logits_BB.log_softmax(dim=-1)
    by_column_BB = logits_BB - logits_BB.logsumexp(dim=-2, keepdim=True)
    # The pairs that belong together are on the diagonal.
    own_B, own_column_B = by_row_BB.diagonal(dim1=-2, dim2=-1), by_column_BB.diagonal(dim1=-2, dim2=-1)
    loss = -own_B.mean() - own_column_B.mean()
    gradient_BB = by_row_BB.exp_().add_(by_column_BB.exp_()).div_(scale)
    gradient_BB.diagonal(dim1=-2, dim2=-1).sub_(2 / scale)
    return loss, gradient_BB


def _block_info_nce(library: ctypes.CDLL, products_BB: Tensor, tau: float, group_B: Tensor | None) -> float:
    """Return `symmetric_info_nce` of one block, and overwrite `products_BB` by its gradient, in C."""
    batch = len(products_BB)
    row_log_sum_B, column_log_sum_B = torch.empty(2, batch)
    addresses = _addresses(products_BB, row_log_sum_B, column_log_sum_B)
    groups = None if group_B is None else group_B.data_ptr()
    loss: float = library.nextvec_symmetric_info_nce(*addresses, groups, tau, batch)
    return loss


@dataclass(frozen=True, kw_only=True)
class MixCoefficients:
    """What `mix` multiplies its blocks with."""

    block: Tensor
    """0-dim, the factor of the block."""
    shift_D: Tensor
    """Added to each row."""
    slope_D: Tensor
    """The factors of the units, by dimension."""
    units_B: Tensor
    """More factors of the units, by window."""
    targets: Tensor
    """0-dim, the factor of the targets, which are subtracted."""


def mix(
    block_BD: Tensor | None, units_BD: Tensor, targets_BD: Tensor, length_B1: Tensor, by: MixCoefficients
) -> Tensor:
    """Return (by.block · block + by.shift + (by.slope + by.units) ∘ units − by.targets · targets) / length, (B, D).

    A block is overwritten with the result; None stands for zeros.
    """
    # The order of the arguments in kernels.c.
    inputs = (by.block, by.shift_D, by.slope_D, units_BD, targets_BD, by.units_B, by.targets, length_B1)
    library = float32_library(units_BD, *inputs)
    if library is not None:
        mixed_BD = torch.zeros_like(units_BD) if block_BD is None else block_BD
        library.nextvec_mix(*_addresses(mixed_BD, *inputs), *units_BD.shape)
        return mixed_BD
    # The same sum with torch's operations, in place.
    mixed_BD = torch.zeros_like(units_BD) if block_BD is None else block_BD.mul_(by.block)
    mixed_BD += by.shift_D
    mixed_BD.addcmul_(units_BD, by.slope_D + by.units_B[:, None])
    mixed_BD.addcmul_(targets_BD, -by.targets)
    return mixed_BD.div_(length_B1)


def float32_library(*tensors: Tensor) -> ctypes.CDLL | None:
    """Return the C library if all tensors are float32, contiguous and on the CPU, else None."""
    # A plain loop: a generator would take as long as a small operation.
    for tensor in tensors:
        if tensor.dtype != torch.float32 or not tensor.is_cpu or not tensor.is_contiguous():
            return None
    return native_library()


def _addresses(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(tensor.data_ptr() for tensor in tensors)
