"""The terms of the objective: names, recipe fields, labels, and the gradient share that each weight asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nextvec.core.events import finite


@dataclass(frozen=True)
class LossTerm:
    """A term of the objective."""

    name: str
    """As in `loss_mse` and `share_mse`, the metrics of an epoch."""
    field: str
    """Its weight in a recipe's `[objective]`."""
    label: str


LOSS_TERMS = (
    LossTerm("mse", "mse", "MSE"),
    LossTerm("info", "info_nce", "InfoNCE"),
    LossTerm("moment", "moment", "Moment"),
    LossTerm("variance", "variance", "Variance"),
)
SUPERVISED_TERMS = ("mse", "info")
"""Terms that compare a prediction with its own target; the others only match the statistics of a batch."""


def term_weights(objective: Mapping[str, Any]) -> dict[str, float]:
    """Return term name → weight for each term whose weight in a recipe's `[objective]` is above zero."""
    weights = {}
    for term in LOSS_TERMS:
        weight = finite(objective.get(term.field))  # a damaged log can contain any value here
        if weight is not None and weight > 0:
            weights[term.name] = weight
    return weights


def requested_shares(objective: Mapping[str, Any]) -> dict[str, float]:
    """Return term name → the fraction of the gradient norm that its weight asks for; the shares add up to 1."""
    weights = term_weights(objective)
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
