"""The runbook's Transformer: four causal decoder layers whose memory is the input itself.

17,867,520 parameters at D = 768. Attention to the memory is causal as well, as in the networks that the runbook's
checkpoints come from: a step sees itself and what came before, so that the last present step of a padded context
gives what the shorter context gives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nextvec.models.base import LatentModel, last_present, present_first

HIDDEN, LAYERS, HEADS, FEED_FORWARD = 512, 4, 8, 2048
TABLE_LENGTH = 100
"""Positions in a state dict; longer contexts compute the ones beyond."""


class OriginalTransformer(LatentModel):
    """Linear D→512, sinusoidal positions, the decoder, and a head with one hidden layer."""

    name = "transformer"
    variant = "original"
    constants = ("pos_encoder.pe",)

    def __init__(self, dimensions: int, *, dropout: float = 0.1, zero_start: bool = False) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start)
        assert not zero_start, "only a network that corrects a base can start at zero"
        self.input_proj = nn.Linear(dimensions, HIDDEN)
        self.pos_encoder = _Positions()
        layer = nn.TransformerDecoderLayer(HIDDEN, HEADS, FEED_FORWARD, dropout, batch_first=True)
        self.transformer_decoder = nn.TransformerDecoder(layer, LAYERS)
        self.head = nn.Sequential(
            nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, dimensions)
        )  # fmt: skip

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        context_BSD = present_first(context_BSD, mask_BS)
        input_BSH = self.pos_encoder(self.input_proj(context_BSD))
        causal_SS = _causal_mask(input_BSH.shape[1], input_BSH)
        # Saying that the masks are causal spares torch looking at their values, which would wait for the device.
        hidden_BSH = self.transformer_decoder(
            input_BSH, input_BSH, causal_SS, causal_SS, tgt_is_causal=True, memory_is_causal=True
        )
        prediction_BD: Tensor = self.head(last_present(hidden_BSH, mask_BS))
        return prediction_BD


class _Positions(nn.Module):
    """Adds the sinusoidal table of Vaswani et al. 2017, section 3.5."""

    pe: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pe", sinusoids(0, TABLE_LENGTH)[None])

    def forward(self, input_BSH: Tensor) -> Tensor:
        length = input_BSH.shape[1]
        table = self.pe
        if length > TABLE_LENGTH:
            beyond = sinusoids(TABLE_LENGTH, length).to(table)
            table = torch.cat([table, beyond[None]], dim=1)
        return input_BSH + table[:, :length]


def sinusoids(start: int, end: int) -> Tensor:
    """Rows start … end−1 of the table (end − start, 512): sine and cosine in turn, 10000^(2i/512) as wave lengths."""
    positions = torch.arange(start, end, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, HIDDEN, 2, dtype=torch.float32) * (-math.log(10000.0) / HIDDEN))
    return torch.stack([(positions * rates).sin(), (positions * rates).cos()], dim=2).flatten(1)


def _causal_mask(length: int, like: Tensor) -> Tensor:
    """(S, S): 0 where a step may look, −∞ at later steps; in the dtype and on the device of `like`."""
    forbidden = torch.full((length, length), -math.inf, dtype=like.dtype, device=like.device)
    return forbidden.triu(diagonal=1)
