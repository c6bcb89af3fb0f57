"""What the default forms of all networks share: a base that already predicts, and a learned correction of it.

    prediction = mean of the context, weighted by age and content (see `mixture`) + correction(context)

The correction's last layer starts at zero, so that a fresh network is the decayed mean: its first evaluation can't be
far below that baseline, and what it learns is what the baseline lacks. A second output, the query, is for retrieval.

The small products of a window, with their gradients: `nextvec.kernels` under autograd.

They read a context of any format and write what the next large product takes, so that nothing is converted in between.

Letters in names: B windows of a batch, S context length, D dimensions, H heads.

LSTM and GRU step by step, for processors under autocast.

torch's own recurrent kernels run in float32 there, or raise where the processor has no bfloat16 form of them. With
plain matrix products, which autocast brings to bfloat16, an epoch takes a third of the time. The formulas are those of
`torch.nn.LSTM` and `torch.nn.GRU`; gates and states stay in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec import ops
from nextvec.models.base import format_of_products


def score(heads_BHD: Tensor, vectors_BSD: Tensor, present_BS: Tensor | None) -> Tensor:
    """`ops.score` with a gradient for the heads; the vectors are data."""
    assert not vectors_BSD.requires_grad
    scores_BHS: Tensor = _Score.apply(heads_BHD, vectors_BSD, present_BS)  # type: ignore[no-untyped-call]
    return scores_BHS


def combine(weights_BHS: Tensor, vectors_BSD: Tensor, present_BS: Tensor | None) -> tuple[Tensor, Tensor]:
    """`ops.combine`, in the format of products, with a gradient for the weights; the vectors are data."""
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
        return ops.score(heads_BHD, vectors_BSD, present_BS)

    @staticmethod
    def backward(ctx: Any, gradient_BHS: Tensor) -> tuple[Tensor, None, None]:
        gradient_BHD, _ = ops.combine(gradient_BHS, *ctx.saved_tensors, dtype=ctx.dtype, heads_first=True)
        return gradient_BHD, None, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weights_BHS: Tensor, vectors_BSD: Tensor, present_BS: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(vectors_BSD, present_BS)
        ctx.set_materialize_grads(False)
        return ops.combine(weights_BHS, vectors_BSD, present_BS, dtype=dtype)

    @staticmethod
    def backward(ctx: Any, sums_BHD: Tensor | None, first_BD: Tensor | None) -> tuple[Tensor, None, None, None]:
        vectors_BSD, present_BS = ctx.saved_tensors
        if sums_BHD is None:
            assert first_BD is not None
            sums_BHD, first_BD = first_BD[:, None], None
        elif first_BD is not None:
            first_BD = first_BD.contiguous()
        return ops.score(sums_BHD, vectors_BSD, present_BS, more_BD=first_BD), None, None, None


def run_recurrent(module: nn.LSTM | nn.GRU, input_BSD: Tensor) -> Tensor:
    """(B, S, H) the outputs of the last layer, as `module(input_BSD)[0]`: one direction, batch first."""
    if not (input_BSD.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
        output_BSH: Tensor = module(input_BSD)[0]
        return output_BSH
    step = _lstm_layer if isinstance(module, nn.LSTM) else _gru_layer
    for layer in range(module.num_layers):
        if layer:
            input_BSD = F.dropout(input_BSD, module.dropout, module.training)
        input_BSD = step(input_BSD, *(getattr(module, f"{name}_l{layer}") for name in _WEIGHTS))
    return input_BSD


_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _lstm_layer(input_BSD: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    gates_BSG = F.linear(input_BSD, weight_ih, bias_ih + bias_hh).float()
    hidden_BH = cell_BH = gates_BSG.new_zeros(len(input_BSD), weight_hh.shape[1])
    outputs = []
    for gates_BG in gates_BSG.unbind(1):
        enter, keep, new, show = (gates_BG + F.linear(hidden_BH, weight_hh)).chunk(4, dim=1)
        cell_BH = keep.sigmoid() * cell_BH + enter.sigmoid() * new.tanh()
        hidden_BH = show.sigmoid() * cell_BH.tanh()
        outputs.append(hidden_BH)
    return torch.stack(outputs, dim=1)


def _gru_layer(input_BSD: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    gates_BSG = F.linear(input_BSD, weight_ih, bias_ih).float()
    hidden_BH = gates_BSG.new_zeros(len(input_BSD), weight_hh.shape[1])
    outputs = []
    for gates_BG in gates_BSG.unbind(1):
        reset_in, keep_in, new_in = gates_BG.chunk(3, dim=1)
        reset, keep, new = F.linear(hidden_BH, weight_hh, bias_hh).float().chunk(3, dim=1)
        keep = (keep_in + keep).sigmoid()
        new = (new_in + (reset_in + reset).sigmoid() * new).tanh()
        hidden_BH = (1 - keep) * new + keep * hidden_BH
        outputs.append(hidden_BH)
    return torch.stack(outputs, dim=1)
