"""The networks as they were published: AMN, LSTM, GRU and Transformer, in the sizes of the runbook.

Parameters at D = 768: AMN 1,510,912, LSTM 5,120,768, GRU 7,095,552, Transformer 17,867,520. The tensors of a state dict
have the names that the original trainer wrote, so that its checkpoints load.

Letters in names: B windows of a batch, S context length, D dimensions, K key size, H hidden size.
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

AMN_KEY_SIZE, AMN_FIRST_HIDDEN, AMN_SECOND_HIDDEN = 256, 512, 256


class OriginalAttentionMixture(LatentModel):
    """AMN: the mean of the context plus a learned correction, blind to the order of the context.

        base       = mean of the context
        weighted   = Σ softmax(query(base) · key(context) / √256) context
        prediction = base + residual_net([base, weighted])

    With the last layer at zero (`zero_start`), a fresh network is exactly the context mean.
    """

    name = "amn"
    variant = "original"

    def __init__(self, dimensions: int, *, dropout: float = 0.0, zero_start: bool = True) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start)
        self.context_encoder = nn.Linear(dimensions, AMN_KEY_SIZE)
        self.query_encoder = nn.Linear(dimensions, AMN_KEY_SIZE)
        last_layer = nn.Linear(AMN_SECOND_HIDDEN, dimensions)
        self.residual_net = nn.Sequential(
            nn.Linear(2 * dimensions, AMN_FIRST_HIDDEN),
            nn.GELU(),
            NormThenDropout(AMN_FIRST_HIDDEN, dropout),
            nn.Linear(AMN_FIRST_HIDDEN, AMN_SECOND_HIDDEN),
            nn.GELU(),
            NormThenDropout(AMN_SECOND_HIDDEN, dropout),
            last_layer,
        )
        if zero_start:
            nn.init.zeros_(last_layer.weight)
            nn.init.zeros_(last_layer.bias)

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        # prediction = base + residual_net([base, weighted mean])
        base_BD = mean_of_present(context_BSD, mask_BS)
        weights_BS = self._attention(base_BD, context_BSD, mask_BS)
        weighted_BD = torch.einsum("bs,bsd->bd", weights_BS, context_BSD)
        residual_BD: Tensor = self.residual_net(torch.cat([base_BD, weighted_BD], dim=1))
        return base_BD + residual_BD

    def _attention(self, base_BD: Tensor, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        """Return the attention weights of the context vectors, (B, S)."""
        query_BK = self.query_encoder(base_BD)
        # query · (W c + b) = (query W) · c + query · b: the same scores without computing S keys, a third of the work.
        folded_BD = query_BK @ self.context_encoder.weight
        offset_B = query_BK @ self.context_encoder.bias
        scores_BS = torch.einsum("bsd,bd->bs", context_BSD, folded_BD) + offset_B[:, None]
        scores_BS = at_least_float32(scores_BS) / math.sqrt(AMN_KEY_SIZE)
        if mask_BS is not None:
            scores_BS = scores_BS.masked_fill(~mask_BS, torch.finfo(scores_BS.dtype).min)
        return torch.softmax(scores_BS, dim=1)


RECURRENT_HIDDEN, LSTM_LAYERS, GRU_BLOCKS = 512, 2, 4


class OriginalLongShortTermMemory(LatentModel):
    """Two LSTM layers of 512 with dropout between them, Linear 512→D at the last present step."""

    name = "lstm"
    variant = "original"

    def __init__(self, dimensions: int, *, dropout: float = 0.2, zero_start: bool = False) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start)
        assert not zero_start, "only a network that corrects a mean can start at zero"
        self.lstm = nn.LSTM(dimensions, RECURRENT_HIDDEN, LSTM_LAYERS, batch_first=True, dropout=dropout)
        self.output_proj = nn.Linear(RECURRENT_HIDDEN, dimensions)

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        context_BSD = present_first(context_BSD, mask_BS)
        hidden_BSH = run_recurrent(self.lstm, context_BSD)
        prediction_BD: Tensor = self.output_proj(last_present(hidden_BSH, mask_BS))
        return prediction_BD


class OriginalGatedRecurrent(LatentModel):
    """Linear D→512, four residual GRU blocks of 512, Linear 512→D at the last present step."""

    name = "gru"
    variant = "original"

    def __init__(self, dimensions: int, *, dropout: float = 0.0, zero_start: bool = False) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start)
        assert not zero_start, "only a network that corrects a mean can start at zero"
        self.input_proj = nn.Linear(dimensions, RECURRENT_HIDDEN)
        self.blocks = nn.ModuleList([GRUBlock(dropout) for _ in range(GRU_BLOCKS)])
        self.output_proj = nn.Linear(RECURRENT_HIDDEN, dimensions)

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        hidden_BSH = self.input_proj(present_first(context_BSD, mask_BS))
        for block in self.blocks:
            hidden_BSH = block(hidden_BSH)
        prediction_BD: Tensor = self.output_proj(last_present(hidden_BSH, mask_BS))
        return prediction_BD


class GRUBlock(nn.Module):
    """A residual block: LayerNorm(x + dropout(GRU(x)))."""

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
"""Rows of the position table in a state dict; those of a longer context are computed."""


class OriginalTransformer(LatentModel):
    """Linear D→512, sinusoidal positions, four decoder layers, and a head with one hidden layer.

    The decoder's memory is its own input. Attention to the memory is causal too, as in the networks that wrote the
    runbook's checkpoints: the last present step of a padded context then gives what the shorter context gives.
    """

    name = "transformer"
    variant = "original"
    constants = ("pos_encoder.pe",)

    def __init__(self, dimensions: int, *, dropout: float = 0.1, zero_start: bool = False) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start)
        assert not zero_start, "only a network that corrects a mean can start at zero"
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
        # With the flags torch does not inspect the masks' values, which would wait for the device.
        hidden_BSH = self.transformer_decoder(
            input_BSH, input_BSH, causal_SS, causal_SS, tgt_is_causal=True, memory_is_causal=True
        )
        prediction_BD: Tensor = self.head(last_present(hidden_BSH, mask_BS))
        return prediction_BD


class _Positions(nn.Module):
    """Adds the sinusoidal position table of Vaswani et al. 2017, section 3.5."""

    pe: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pe", sinusoids(0, TABLE_LENGTH)[None])

    def forward(self, input_BSH: Tensor) -> Tensor:
        length = input_BSH.shape[1]
        table_1SH = self.pe
        if length > TABLE_LENGTH:
            more_SH = sinusoids(TABLE_LENGTH, length).to(table_1SH)
            table_1SH = torch.cat([table_1SH, more_SH[None]], dim=1)
        return input_BSH + table_1SH[:, :length]


def sinusoids(start: int, end: int) -> Tensor:
    """Return rows start … end−1 of the position table, (end − start, 512).

    Columns alternate between sine and cosine; the wavelengths are 2π · 10000^(2i/512).
    """
    positions = torch.arange(start, end, dtype=torch.float32)[:, None]
    rates = torch.exp(
        torch.arange(0, TRANSFORMER_HIDDEN, 2, dtype=torch.float32) * (-math.log(10000.0) / TRANSFORMER_HIDDEN)
    )
    return torch.stack([(positions * rates).sin(), (positions * rates).cos()], dim=2).flatten(1)


def _causal_mask(length: int, like: Tensor) -> Tensor:
    """Return the mask (S, S): 0 for steps up to the row's own, −∞ for later ones; dtype and device as `like`."""
    mask_SS = torch.full((length, length), -math.inf, dtype=like.dtype, device=like.device)
    return mask_SS.triu(diagonal=1)
