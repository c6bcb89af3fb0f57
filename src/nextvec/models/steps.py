"""LSTM and GRU step by step, for processors under autocast.

torch's own recurrent kernels run in float32 there, or raise where the processor has no bfloat16 form of them. With
plain matrix products, which autocast brings to bfloat16, an epoch takes a third of the time. The formulas are those of
`torch.nn.LSTM` and `torch.nn.GRU`; gates and states stay in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
