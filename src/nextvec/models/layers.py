"""Layers that several networks share: the products of a window with gradients, and recurrent networks under autocast.

`score` and `combine` are the operations of `nextvec.ops` as autograd functions. They read a context in the format in
which it is stored and write the format of the next large matrix product, so that nothing is converted in between.

`run_recurrent` computes an LSTM or GRU step by step on a CPU under autocast. torch's own recurrent kernels run in
float32 there, or fail on CPUs without bfloat16. With plain matrix products, which autocast runs in bfloat16, an epoch
takes a third of the time. The formulas are those of `torch.nn.LSTM` and `torch.nn.GRU`; gates and states stay float32.

Letters in names: B windows of a batch, S context length, D dimensions, H heads (of a window) or hidden size (of a
recurrent network), G gates.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec import ops
from nextvec.models.base import matmul_dtype


def score(heads_BHD: Tensor, vectors_BSD: Tensor, present_BS: Tensor | None) -> Tensor:
    """Apply `ops.score` with a gradient for the heads; the vectors are data and have none."""
    assert not vectors_BSD.requires_grad
    scores_BHS: Tensor = _Score.apply(heads_BHD, vectors_BSD, present_BS)  # type: ignore[no-untyped-call]
    return scores_BHS


def combine(weights_BHS: Tensor, vectors_BSD: Tensor, present_BS: Tensor | None) -> tuple[Tensor, Tensor]:
    """Apply `ops.combine` with a gradient for the weights; the vectors are data and have none.

    The sums (B, H, D) have the format of matrix products; the copy of the first head's (B, D) is float32.
    """
    assert not vectors_BSD.requires_grad
    dtype = matmul_dtype(vectors_BSD)
    sums_BHD, first_BD = _Combine.apply(weights_BHS, vectors_BSD, present_BS, dtype)  # type: ignore[no-untyped-call]
    return sums_BHD, first_BD


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads_BHD: Tensor, vectors_BSD: Tensor, present_BS: Tensor | None) -> Tensor:
        # The gradient is returned in the heads' own format, which may be bfloat16.
        ctx.save_for_backward(vectors_BSD, present_BS)
        ctx.dtype = heads_BHD.dtype
        return ops.score(heads_BHD, vectors_BSD, present_BS)

    # d(h · v)/dh = v: the gradient at the heads is a weighted sum of the vectors.
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
        # An unused output gives None instead of a block of zeros.
        ctx.set_materialize_grads(False)
        return ops.combine(weights_BHS, vectors_BSD, present_BS, dtype=dtype)

    # d(w · v)/dw = v: the gradient at the weights is a product with each vector. The first head has two outputs; their
    # gradients are added. Either output may be unused, and then its gradient is None.
    @staticmethod
    def backward(
        ctx: Any, sums_gradient_BHD: Tensor | None, first_gradient_BD: Tensor | None
    ) -> tuple[Tensor, None, None, None]:
        vectors_BSD, present_BS = ctx.saved_tensors
        if sums_gradient_BHD is None:
            assert first_gradient_BD is not None
            sums_gradient_BHD, first_gradient_BD = first_gradient_BD[:, None], None
        gradient_BHS = ops.score(sums_gradient_BHD, vectors_BSD, present_BS, extra_BD=first_gradient_BD)
        return gradient_BHS, None, None, None


_WEIGHT_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""The tensors of one layer of `torch.nn.LSTM` and `torch.nn.GRU`; ih: input to hidden, hh: hidden to hidden."""


def run_recurrent(module: nn.LSTM | nn.GRU, input_BSD: Tensor) -> Tensor:
    """Return the outputs of the last layer (B, S, H), as `module(input_BSD)[0]`; one direction, batch first."""
    if not (input_BSD.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
        output_BSH: Tensor = module(input_BSD)[0]
        return output_BSH
    run_layer = _lstm_layer if isinstance(module, nn.LSTM) else _gru_layer
    # Dropout applies between layers, as in torch: not before the first and not after the last.
    for layer in range(module.num_layers):
        if layer:
            input_BSD = F.dropout(input_BSD, module.dropout, module.training)
        input_BSD = run_layer(input_BSD, *(getattr(module, f"{name}_l{layer}") for name in _WEIGHT_NAMES))
    return input_BSD


def _lstm_layer(input_BSD: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    # The part of the gates that comes from the input does not depend on the state: one product for all steps.
    input_gates_BSG = F.linear(input_BSD, weight_ih, bias_ih + bias_hh).float()
    hidden_BH = cell_BH = input_gates_BSG.new_zeros(len(input_BSD), weight_hh.shape[1])
    outputs = []
    for input_gates_BG in input_gates_BSG.unbind(1):
        # gates = W_ih x + W_hh h + biases, split in torch's order: input, forget, cell, output.
        gates_BG = input_gates_BG + F.linear(hidden_BH, weight_hh)
        input_gate_BH, forget_gate_BH, new_cell_BH, output_gate_BH = gates_BG.chunk(4, dim=1)
        # c = σ(f) ∘ c + σ(i) ∘ tanh(g);  h = σ(o) ∘ tanh(c)
        cell_BH = forget_gate_BH.sigmoid() * cell_BH + input_gate_BH.sigmoid() * new_cell_BH.tanh()
        hidden_BH = output_gate_BH.sigmoid() * cell_BH.tanh()
        outputs.append(hidden_BH)
    return torch.stack(outputs, dim=1)


def _gru_layer(input_BSD: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    input_gates_BSG = F.linear(input_BSD, weight_ih, bias_ih).float()
    hidden_BH = input_gates_BSG.new_zeros(len(input_BSD), weight_hh.shape[1])
    outputs = []
    for input_gates_BG in input_gates_BSG.unbind(1):
        # The reset gate applies to the state's part of the new state only, so both parts stay apart until then.
        input_reset_BH, input_update_BH, input_new_BH = input_gates_BG.chunk(3, dim=1)
        reset_BH, update_BH, new_BH = F.linear(hidden_BH, weight_hh, bias_hh).float().chunk(3, dim=1)
        # z = σ(…);  n = tanh(W x + σ(r) ∘ (U h));  h = (1 − z) ∘ n + z ∘ h
        update_BH = (input_update_BH + update_BH).sigmoid()
        new_BH = (input_new_BH + (input_reset_BH + reset_BH).sigmoid() * new_BH).tanh()
        hidden_BH = (1 - update_BH) * new_BH + update_BH * hidden_BH
        outputs.append(hidden_BH)
    return torch.stack(outputs, dim=1)
