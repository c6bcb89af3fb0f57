"""Products of a window's few heads with its few context vectors, read in the format in which they are stored.

A matrix library multiplies such small matrices slowly, and only after converting all vectors to one format.

Letters in names: B windows of a batch, H heads, S context length, D dimensions.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from nextvec.ops.native import StridedVectors, native_library

MAX_STACK_FLOATS = 2**17
"""The C code keeps at most this many floats of a window, as they are on a thread's stack (0.5 MB)."""


def reads_in_place(vectors_BSD: Tensor) -> bool:
    """Return whether the C code reads these vectors in their own format, so that the caller need not convert them."""
    return _fits_stack(vectors_BSD.shape[1], vectors_BSD.shape[2]) and native_library(vectors_BSD) is not None


def score(
    heads_BHD: Tensor, vectors_BSD: Tensor, present_BS: Tensor | None = None, *, extra_BD: Tensor | None = None
) -> Tensor:
    """Return the dot products (B, H, S) of each window's heads with its vectors, in float32.

    Heads and vectors may have different formats. The product with an absent vector (False in `present_BS`) is zero.
    `extra_BD`, float32, is added to each window's first head.
    """
    _check_shapes(heads_BHD.shape[0], heads_BHD.shape[2], vectors_BSD, present_BS)
    library = native_library(heads_BHD, vectors_BSD)
    (B, H, D), S = heads_BHD.shape, vectors_BSD.shape[1]
    # Fallback: one batched matrix product.
    if library is None or not _fits_stack(H, D):
        if extra_BD is not None:
            heads_BHD = _at_least_float32(heads_BHD)
            heads_BHD = torch.cat([heads_BHD[:, :1] + extra_BD[:, None], heads_BHD[:, 1:]], dim=1)
        return _at_least_float32(_bmm(heads_BHD, _zero_absent(vectors_BSD, present_BS).transpose(1, 2)))
    # Arguments stay referenced by these names until C is done with their memory.
    heads_BHD = heads_BHD if heads_BHD.stride(-1) == 1 else heads_BHD.contiguous()
    extra_BD = None if extra_BD is None else extra_BD.contiguous()
    present_BS = None if present_BS is None else present_BS.contiguous()
    scores_BHS = torch.empty(B, H, S)
    heads, vectors = StridedVectors.of(heads_BHD), StridedVectors.of(vectors_BSD)
    library.nextvec_score(scores_BHS.data_ptr(), heads, _address(extra_BD), vectors, _address(present_BS), B, H, S, D)
    return scores_BHS


def combine(
    weights_BHS: Tensor,
    vectors_BSD: Tensor,
    present_BS: Tensor | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    heads_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the sums of each window's vectors, weighted by each head; absent vectors count as zero.

    The sums are (B, H, D) in `dtype` (float32 or bfloat16). Those of the first head come a second time, as (B, D) in
    float32. With `heads_first` the sums are stored as (H, B, D), for a matrix product per head.
    """
    assert weights_BHS.shape[2] == vectors_BSD.shape[1], (weights_BHS.shape, vectors_BSD.shape)
    _check_shapes(weights_BHS.shape[0], vectors_BSD.shape[2], vectors_BSD, present_BS)
    library = native_library(weights_BHS, vectors_BSD)
    # The C code reads float32 weights, and writes float32 or bfloat16 sums.
    has_native_format = weights_BHS.dtype == torch.float32 and dtype in (torch.float32, torch.bfloat16)
    (B, H, S), D = weights_BHS.shape, vectors_BSD.shape[2]
    if library is None or not has_native_format or not _fits_stack(S, D):
        sums_BHD = _bmm(weights_BHS, _zero_absent(vectors_BSD, present_BS))
        return sums_BHD if dtype == torch.float32 else sums_BHD.to(dtype), _at_least_float32(sums_BHD[:, 0])
    weights_BHS = weights_BHS.contiguous()
    present_BS = None if present_BS is None else present_BS.contiguous()
    # The result is (B, H, D) in either memory layout.
    shape = (H, B, D) if heads_first else (B, H, D)
    sums_BHD = torch.empty(shape, dtype=dtype)
    if heads_first:
        sums_BHD = sums_BHD.transpose(0, 1)
    first_BD = torch.empty(B, D)
    sums, vectors = StridedVectors.of(sums_BHD), StridedVectors.of(vectors_BSD)
    library.nextvec_combine(
        sums, first_BD.data_ptr(), weights_BHS.data_ptr(), vectors, _address(present_BS), B, H, S, D
    )
    return sums_BHD, first_BD


def _fits_stack(rows: int, dimensions: int) -> bool:
    return rows * dimensions <= MAX_STACK_FLOATS


def _check_shapes(B: int, D: int, vectors_BSD: Tensor, present_BS: Tensor | None) -> None:
    """Assert what torch would refuse: C would read beyond the end of a tensor."""
    assert vectors_BSD.shape[0] == B and vectors_BSD.shape[2] == D, (B, D, vectors_BSD.shape)
    if present_BS is not None:
        assert present_BS.shape == vectors_BSD.shape[:2] and present_BS.dtype == torch.bool, present_BS.shape


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _zero_absent(vectors_BSD: Tensor, present_BS: Tensor | None) -> Tensor:
    """Set absent vectors to zero, and convert to float32 on the CPU, which multiplies it faster.

    float16 always becomes float32: a gradient in float16 would lose its small numbers.
    """
    if vectors_BSD.is_cpu or vectors_BSD.dtype == torch.float16:
        vectors_BSD = _at_least_float32(vectors_BSD)
    return vectors_BSD if present_BS is None else vectors_BSD.masked_fill(~present_BS[:, :, None], 0.0)


def _bmm(left: Tensor, vectors: Tensor) -> Tensor:
    """Multiply batches of matrices in the format of `vectors`, without autocast."""
    kind = vectors.device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        return torch.bmm(left.to(vectors.dtype), vectors)


def _at_least_float32(tensor: Tensor) -> Tensor:
    """Convert half precision to float32; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
