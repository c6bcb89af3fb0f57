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

from torch import nn

from nextvec.models.base import LatentModel
from nextvec.models.pooling import QueryHead

BASE_DECAY = 0.85
"""The decay that the base starts with."""


class ResidualModel(LatentModel):
    """A network of the form above; the subclasses differ in how they read the context."""

    variant = "residual"

    def __init__(self, dimensions: int, *, dropout: float, zero_start: bool = True, query: bool = True) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start, query=query)
        if query:
            self.query_head = QueryHead(dimensions)


def start_at_zero(layer: nn.Linear) -> None:
    """Make a layer say zero, whatever it reads."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
