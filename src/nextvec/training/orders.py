"""What the main process of a run orders the others to do; `follow.py` is how they do it.

The first order is an OpenOrder. Orders are sent with `ProcessGroup.broadcast`, which does nothing in a run of one
process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nextvec.data.checks import CheckReport
from nextvec.evaluation.metrics import Predictor
from nextvec.evaluation.results import OffsetProfile
from nextvec.models.base import LatentModel
from nextvec.recipe import Recipe
from nextvec.training.run import Run
from nextvec.training.saved_state import current_state


@dataclass(frozen=True)
class OpenOrder:
    """Open the data of a run and build its network."""

    recipe: Recipe
    check: CheckReport


@dataclass(frozen=True)
class FitOrder:
    """Add up the moments of a share of the training windows, for the baselines."""


@dataclass(frozen=True)
class RestoreOrder:
    """Take over weights, optimizer, random generators and counts."""

    state: dict[str, Any]
    """The values of resume.pt."""


@dataclass(frozen=True)
class TrainOrder:
    """Train to the end of the current epoch."""

    history: list[dict[str, Any]]
    """The metrics of the finished epochs: a schedule may depend on them."""


@dataclass(frozen=True)
class ScoreOrder:
    """Score a share of a split's windows."""

    split: str
    model: LatentModel | None = None
    """None: the run's own network, or the average of its weights."""


@dataclass(frozen=True)
class MeasureOrder:
    """Measure a share of the predictors of an evaluation on a split."""

    split: str
    predictors: Mapping[str, Predictor]
    profiles: Mapping[str, OffsetProfile]


def restore_others(run: Run) -> None:
    """Give the other processes of a run the state of the main one."""
    if not run.processes.is_alone:
        run.processes.broadcast(RestoreOrder(current_state(run)))
