"""The small products of a window, with their gradients: `nextvec.kernels` under autograd.

They read a context of any format and write what the next large product takes, so that nothing is converted in between.

Letters in names: B windows of a batch, S context length, D dimensions, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nextvec import kernels
from nextvec.models.base import format_of_products


def score(heads_BHD: Tensor, vectors_BSD: Tensor, present_BS: Tensor | None) -> Tensor:
    """`kernels.score` with a gradient for the heads; the vectors are data."""
    assert not vectors_BSD.requires_grad
    scores_BHS: Tensor = _Score.apply(heads_BHD, vectors_BSD, present_BS)  # type: ignore[no-untyped-call]
    return scores_BHS


def combine(weights_BHS: Tensor, vectors_BSD: Tensor, present_BS: Tensor | None) -> tuple[Tensor, Tensor]:
    """`kernels.combine`, in the format of products, with a gradient for the weights; the vectors are data."""
    assert not vectors_BSD.requires_grad
    dtype = format_of_products(vectors_BSD)
    sums = _Combine.apply(weights_BHS, vectors_BSD, present_BS, dtype)  # type: ignore[no-untyped-call]
    sums_BHD, first_BD = sums
    return sums_BHD, first_BD


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads_BHD: Tensor, vectors_BSD: Tensor, present_BS: Tensor | None) -> Tensor:
        ctx.save_for_backward(vectors_BSD, present_BS)
        ctx.dtype = heads_BHD.dtype
        return kernels.score(heads_BHD, vectors_BSD, present_BS)

    @staticmethod
    def backward(ctx: Any, gradient_BHS: Tensor) -> tuple[Tensor, None, None]:
        gradient_BHD, _ = kernels.combine(gradient_BHS, *ctx.saved_tensors, dtype=ctx.dtype, heads_first=True)
        return gradient_BHD, None, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weights_BHS: Tensor, vectors_BSD: Tensor, present_BS: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(vectors_BSD, present_BS)
        ctx.set_materialize_grads(False)
        return kernels.combine(weights_BHS, vectors_BSD, present_BS, dtype=dtype)

    @staticmethod
    def backward(ctx: Any, sums_BHD: Tensor | None, first_BD: Tensor | None) -> tuple[Tensor, None, None, None]:
        vectors_BSD, present_BS = ctx.saved_tensors
        if sums_BHD is None:
            assert first_BD is not None
            sums_BHD, first_BD = first_BD[:, None], None
        elif first_BD is not None:
            first_BD = first_BD.contiguous()
        return kernels.score(sums_BHD, vectors_BSD, present_BS, more_BD=first_BD), None, None, None
