"""The recurrent networks in their default form: the published trunk, which corrects a weighted mean of the context.

LSTM: two layers of 512. GRU: four residual blocks of 512. The last state steers the weights of the mean (see `pooling`)
and is projected to the correction. Vectors are scaled to length √D first, so that their elements are about 1 instead of
1/√D.

Letters in names: B windows of a batch, S context length, D dimensions, H hidden size.
"""

from __future__ import annotations

from torch import Tensor, nn

from nextvec.models.base import last_present, present_first
from nextvec.models.layers import run_recurrent
from nextvec.models.pooling import Mixture
from nextvec.models.published import GRU_BLOCKS, LSTM_LAYERS, RECURRENT_HIDDEN, GRUBlock
from nextvec.models.residual import BASE_DECAY, ResidualModel, zero_initialize


class _Recurrent(ResidualModel):
    """Everything but the trunk."""

    def __init__(self, dimensions: int, *, dropout: float, zero_start: bool, query: bool) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start, query=query)
        self.mixture = Mixture(dimensions, RECURRENT_HIDDEN, (BASE_DECAY,))
        self.norm = nn.LayerNorm(RECURRENT_HIDDEN)
        self.dropout = nn.Dropout(dropout)
        self.output_proj = nn.Linear(RECURRENT_HIDDEN, dimensions)
        if zero_start:
            zero_initialize(self.output_proj)

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        # The trunk reads left-aligned contexts, so that its last present state is that of the shorter context.
        scaled_BSD = present_first(context_BSD, mask_BS) * self.dimensions**0.5
        state_BH = self.dropout(self.norm(last_present(self._trunk(scaled_BSD), mask_BS)))
        # prediction = weighted mean + correction
        correction_BD: Tensor = self.output_proj(state_BH)
        base_BD: Tensor = self.mixture(state_BH, context_BSD, mask_BS)[:, 0]
        return base_BD + correction_BD

    def _trunk(self, scaled_BSD: Tensor) -> Tensor:
        """Return the state after each step, (B, S, H)."""
        raise NotImplementedError


class LongShortTermMemory(_Recurrent):
    """Two LSTM layers of 512."""

    name = "lstm"

    def __init__(self, dimensions: int, *, dropout: float = 0.2, zero_start: bool = True, query: bool = True) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start, query=query)
        self.lstm = nn.LSTM(dimensions, RECURRENT_HIDDEN, LSTM_LAYERS, batch_first=True, dropout=dropout)

    def _trunk(self, scaled_BSD: Tensor) -> Tensor:
        return run_recurrent(self.lstm, scaled_BSD)


class GatedRecurrent(_Recurrent):
    """Four residual GRU blocks of 512."""

    name = "gru"

    def __init__(self, dimensions: int, *, dropout: float = 0.2, zero_start: bool = True, query: bool = True) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start, query=query)
        self.input_proj = nn.Linear(dimensions, RECURRENT_HIDDEN)
        # Each block adds its input to its output and normalizes the sum.
        self.blocks = nn.ModuleList([GRUBlock(dropout) for _ in range(GRU_BLOCKS)])

    def _trunk(self, scaled_BSD: Tensor) -> Tensor:
        hidden_BSH: Tensor = self.input_proj(scaled_BSD)
        for block in self.blocks:
            hidden_BSH = block(hidden_BSH)
        return hidden_BSH
