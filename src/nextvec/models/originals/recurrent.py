"""The recurrent networks of the runbook: a two-layer LSTM, and a stack of residual GRU blocks.

LSTM 5,120,768 and GRU 7,095,552 parameters at D = 768. Both read the last present step.
"""

from __future__ import annotations

from torch import Tensor, nn

from nextvec.models.base import LatentModel, last_present, present_first
from nextvec.models.steps import run_recurrent

HIDDEN, LSTM_LAYERS, GRU_BLOCKS = 512, 2, 4


class OriginalLongShortTermMemory(LatentModel):
    """Two LSTM layers of 512 with dropout between them, then Linear 512→D."""

    name = "lstm"
    variant = "original"

    def __init__(self, dimensions: int, *, dropout: float = 0.2, zero_start: bool = False) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start)
        assert not zero_start, "only a network that corrects a base can start at zero"
        self.lstm = nn.LSTM(dimensions, HIDDEN, LSTM_LAYERS, batch_first=True, dropout=dropout)
        self.output_proj = nn.Linear(HIDDEN, dimensions)

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
        self.input_proj = nn.Linear(dimensions, HIDDEN)
        self.blocks = nn.ModuleList([Block(dropout) for _ in range(GRU_BLOCKS)])
        self.output_proj = nn.Linear(HIDDEN, dimensions)

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
        self.gru = nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.norm = nn.LayerNorm(HIDDEN)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_BSH: Tensor) -> Tensor:  # noqa: D102
        output_BSH = run_recurrent(self.gru, input_BSH)
        result_BSH: Tensor = self.norm(input_BSH + self.dropout(output_BSH))
        return result_BSH
