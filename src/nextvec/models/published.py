"""AMN as published: the mean of the context, plus a learned correction. It can't tell a context's order.

    base     = mean of the context
    weighted = Σ softmax(query(base) · key(context) / √256) context
    output   = base + residual_net([base, weighted])

With the last layer at zero (`zero_start`) a fresh network is the context mean exactly: its first evaluation can't be
below that baseline. 1,510,912 parameters at D = 768.

The recurrent networks of the runbook: a two-layer LSTM, and a stack of residual GRU blocks.

LSTM 5,120,768 and GRU 7,095,552 parameters at D = 768. Both read the last present step.

The runbook's Transformer: four causal decoder layers whose memory is the input itself.

17,867,520 parameters at D = 768. Attention to the memory is causal as well, as in the networks that the runbook's
checkpoints come from: a step sees itself and what came before, so that the last present step of a padded context
gives what the shorter context gives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nextvec.models.base import (
    LatentModel,
    NormThenDropout,
    at_least_float32,
    last_present,
    mean_of_present,
    present_first,
)
from nextvec.models.layers import run_recurrent

AMN_KEY, AMN_WIDE, AMN_NARROW = 256, 512, 256


class OriginalAttentionMixture(LatentModel):
    """The runbook's AMN for any D and any context length."""

    name = "amn"
    variant = "original"

    def __init__(self, dimensions: int, *, dropout: float = 0.0, zero_start: bool = True) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start)
        self.context_encoder = nn.Linear(dimensions, AMN_KEY)
        self.query_encoder = nn.Linear(dimensions, AMN_KEY)
        last = nn.Linear(AMN_NARROW, dimensions)
        self.residual_net = nn.Sequential(
            nn.Linear(2 * dimensions, AMN_WIDE), nn.GELU(), NormThenDropout(AMN_WIDE, dropout),
            nn.Linear(AMN_WIDE, AMN_NARROW), nn.GELU(), NormThenDropout(AMN_NARROW, dropout),
            last,
        )  # fmt: skip
        if zero_start:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        base_BD = mean_of_present(context_BSD, mask_BS)
        weights_BS = self._attention(base_BD, context_BSD, mask_BS)
        weighted_BD = torch.einsum("bs,bsd->bd", weights_BS, context_BSD)
        residual_BD: Tensor = self.residual_net(torch.cat([base_BD, weighted_BD], dim=1))
        return base_BD + residual_BD

    def _attention(self, base_BD: Tensor, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        """The share (B, S) of each context vector in the mixture."""
        query_BK = self.query_encoder(base_BD)
        # query · (W c + b) = (query W) · c + query · b: the same scores without making S keys, a third of all the work.
        folded_BD = query_BK @ self.context_encoder.weight
        offset_B = query_BK @ self.context_encoder.bias
        scores_BS = torch.einsum("bsd,bd->bs", context_BSD, folded_BD) + offset_B[:, None]
        scores_BS = at_least_float32(scores_BS) / math.sqrt(AMN_KEY)
        if mask_BS is not None:
            scores_BS = scores_BS.masked_fill(~mask_BS, torch.finfo(scores_BS.dtype).min)
        return torch.softmax(scores_BS, dim=1)


RECURRENT_HIDDEN, LSTM_LAYERS, GRU_BLOCKS = 512, 2, 4


class OriginalLongShortTermMemory(LatentModel):
    """Two LSTM layers of 512 with dropout between them, then Linear 512→D."""

    name = "lstm"
    variant = "original"

    def __init__(self, dimensions: int, *, dropout: float = 0.2, zero_start: bool = False) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start)
        assert not zero_start, "only a network that corrects a base can start at zero"
        self.lstm = nn.LSTM(dimensions, RECURRENT_HIDDEN, LSTM_LAYERS, batch_first=True, dropout=dropout)
        self.output_proj = nn.Linear(RECURRENT_HIDDEN, dimensions)

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        context_BSD = present_first(context_BSD, mask_BS)
        hidden_BSH = run_recurrent(self.lstm, context_BSD)
        prediction_BD: Tensor = self.output_proj(last_present(hidden_BSH, mask_BS))
        return prediction_BD


class OriginalGatedRecurrent(LatentModel):
    """Linear D→512, four residual GRU blocks of 512, Linear 512→D."""

    name = "gru"
    variant = "original"

    def __init__(self, dimensions: int, *, dropout: float = 0.0, zero_start: bool = False) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start)
        assert not zero_start, "only a network that corrects a base can start at zero"
        self.input_proj = nn.Linear(dimensions, RECURRENT_HIDDEN)
        self.blocks = nn.ModuleList([Block(dropout) for _ in range(GRU_BLOCKS)])
        self.output_proj = nn.Linear(RECURRENT_HIDDEN, dimensions)

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        hidden_BSH = self.input_proj(present_first(context_BSD, mask_BS))
        for block in self.blocks:
            hidden_BSH = block(hidden_BSH)
        prediction_BD: Tensor = self.output_proj(last_present(hidden_BSH, mask_BS))
        return prediction_BD


class Block(nn.Module):
    """LayerNorm(x + dropout(GRU(x)))."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(RECURRENT_HIDDEN, RECURRENT_HIDDEN, batch_first=True)
        self.norm = nn.LayerNorm(RECURRENT_HIDDEN)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_BSH: Tensor) -> Tensor:  # noqa: D102
        output_BSH = run_recurrent(self.gru, input_BSH)
        result_BSH: Tensor = self.norm(input_BSH + self.dropout(output_BSH))
        return result_BSH


TRANSFORMER_HIDDEN, LAYERS, HEADS, FEED_FORWARD = 512, 4, 8, 2048
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
        self.input_proj = nn.Linear(dimensions, TRANSFORMER_HIDDEN)
        self.pos_encoder = _Positions()
        layer = nn.TransformerDecoderLayer(TRANSFORMER_HIDDEN, HEADS, FEED_FORWARD, dropout, batch_first=True)
        self.transformer_decoder = nn.TransformerDecoder(layer, LAYERS)
        self.head = nn.Sequential(
            nn.Linear(TRANSFORMER_HIDDEN, TRANSFORMER_HIDDEN),
            nn.GELU(),
            nn.LayerNorm(TRANSFORMER_HIDDEN),
            nn.Linear(TRANSFORMER_HIDDEN, dimensions),
        )

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
    rates = torch.exp(
        torch.arange(0, TRANSFORMER_HIDDEN, 2, dtype=torch.float32) * (-math.log(10000.0) / TRANSFORMER_HIDDEN)
    )
    return torch.stack([(positions * rates).sin(), (positions * rates).cos()], dim=2).flatten(1)


def _causal_mask(length: int, like: Tensor) -> Tensor:
    """(S, S): 0 where a step may look, −∞ at later steps; in the dtype and on the device of `like`."""
    forbidden = torch.full((length, length), -math.inf, dtype=like.dtype, device=like.device)
    return forbidden.triu(diagonal=1)
