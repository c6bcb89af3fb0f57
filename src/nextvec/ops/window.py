"""The small products of a window: its few heads with its few vectors, in whatever format each of them is.

Letters in names: B windows of a batch, H heads, S vectors of a window, D dimensions.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from nextvec.ops.native import Vectors, compiled

MOST = 2**17
"""Numbers that a pass may keep of one window: they lie on a thread's stack."""


def read(vectors_BSD: Tensor) -> bool:
    """Whether the compiled passes read these vectors as they are, in their own format."""
    return vectors_BSD.shape[1] * vectors_BSD.shape[2] <= MOST and compiled(vectors_BSD) is not None


def score(
    heads_BHD: Tensor, vectors_BSD: Tensor, present_BS: Tensor | None = None, *, more_BD: Tensor | None = None
) -> Tensor:
    """(B, H, S) products of each window's heads with its vectors, float32; zero where no vector is present.

    Heads and vectors may have different formats. `more_BD`, float32, is added to the first head of each window.
    """
    _check(heads_BHD.shape[0], heads_BHD.shape[2], vectors_BSD, present_BS)
    library = compiled(heads_BHD, vectors_BSD)
    if library is None or heads_BHD.shape[1] * heads_BHD.shape[2] > MOST:
        if more_BD is not None:
            heads_BHD = _float32(heads_BHD)
            heads_BHD = torch.cat([heads_BHD[:, :1] + more_BD[:, None], heads_BHD[:, 1:]], dim=1)
        return _float32(_multiply(heads_BHD, _present(vectors_BSD, present_BS).transpose(1, 2)))
    heads_BHD = heads_BHD if heads_BHD.stride(-1) == 1 else heads_BHD.contiguous()
    more_BD = None if more_BD is None else more_BD.contiguous()
    present_BS = None if present_BS is None else present_BS.contiguous()
    (windows, heads, size), steps = heads_BHD.shape, vectors_BSD.shape[1]
    scores_BHS = torch.empty(windows, heads, steps)
    library.nextvec_score(
        scores_BHS.data_ptr(), Vectors.of(heads_BHD), _address(more_BD), Vectors.of(vectors_BSD),
        _address(present_BS), windows, heads, steps, size,
    )  # fmt: skip
    return scores_BHS


def combine(
    weights_BHS: Tensor,
    vectors_BSD: Tensor,
    present_BS: Tensor | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    heads_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """The sums of each window's vectors with the weights of each head; those not present count as zero.

    Gives (B, H, D) in `dtype` (float32 or bfloat16), and those of the first head once more, (B, D) in float32.
    `heads_first` is how the sums lie in memory, for a product head by head.
    """
    assert weights_BHS.shape[2] == vectors_BSD.shape[1], (weights_BHS.shape, vectors_BSD.shape)
    _check(weights_BHS.shape[0], vectors_BSD.shape[2], vectors_BSD, present_BS)
    library = compiled(weights_BHS, vectors_BSD)
    known = weights_BHS.dtype == torch.float32 and dtype in (torch.float32, torch.bfloat16)
    if library is None or not known or vectors_BSD.shape[1] * vectors_BSD.shape[2] > MOST:
        sums_BHD = _multiply(weights_BHS, _present(vectors_BSD, present_BS))
        return sums_BHD if dtype == torch.float32 else sums_BHD.to(dtype), _float32(sums_BHD[:, 0])
    weights_BHS = weights_BHS.contiguous()
    present_BS = None if present_BS is None else present_BS.contiguous()
    (windows, heads, steps), size = weights_BHS.shape, vectors_BSD.shape[2]
    sums = (heads, windows, size) if heads_first else (windows, heads, size)
    sums_BHD = torch.empty(sums, dtype=dtype)
    if heads_first:
        sums_BHD = sums_BHD.transpose(0, 1)
    first_BD = torch.empty(windows, size)
    library.nextvec_combine(
        Vectors.of(sums_BHD), first_BD.data_ptr(), weights_BHS.data_ptr(), Vectors.of(vectors_BSD),
        _address(present_BS), windows, heads, steps, size,
    )  # fmt: skip
    return sums_BHD, first_BD


def _check(windows: int, size: int, vectors_BSD: Tensor, present_BS: Tensor | None) -> None:
    """What torch would refuse, C would not notice."""
    assert vectors_BSD.shape[0] == windows and vectors_BSD.shape[2] == size, (windows, size, vectors_BSD.shape)
    if present_BS is not None:
        assert present_BS.shape == vectors_BSD.shape[:2] and present_BS.dtype == torch.bool, present_BS.shape


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _present(vectors_BSD: Tensor, present_BS: Tensor | None) -> Tensor:
    """The vectors, zero where they are absent; on a processor at least float32, which is quicker there.

    float16 always becomes float32: a gradient in float16 would lose its small numbers.
    """
    if vectors_BSD.is_cpu or vectors_BSD.dtype == torch.float16:
        vectors_BSD = _float32(vectors_BSD)
    return vectors_BSD if present_BS is None else vectors_BSD.masked_fill(~present_BS[:, :, None], 0.0)


def _multiply(left: Tensor, vectors: Tensor) -> Tensor:
    """Their products in the vectors' own format, whatever autocast says."""
    kind = vectors.device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        return torch.bmm(left.to(vectors.dtype), vectors)


def _float32(tensor: Tensor) -> Tensor:
    """In float32; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
