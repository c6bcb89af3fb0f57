"""The common form of the default networks: a weighted mean of the context plus a learned correction.

    prediction = mean of the context, weighted by age and content (see `pooling`) + correction(context)

The correction's last layer starts at zero. A fresh network is therefore the decayed mean: its first evaluation is close
to that baseline, and it learns only what the baseline lacks.
"""

from __future__ import annotations

from torch import nn

from nextvec.models.base import LatentModel
from nextvec.models.pooling import QueryHead

BASE_DECAY = 0.85
"""The weight of a context vector relative to the next newer one, before training."""


class ResidualModel(LatentModel):
    """A network of this form, with the query as its second output; subclasses differ in how they read the context."""

    variant = "residual"

    def __init__(self, dimensions: int, *, dropout: float, zero_start: bool = True, query: bool = True) -> None:
        super().__init__(dimensions, dropout=dropout, zero_start=zero_start, query=query)
        if query:
            self.query_head = QueryHead(dimensions)


def zero_initialize(layer: nn.Linear) -> None:
    """Set a layer's weight and bias to zero, so that it outputs zero for any input."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
