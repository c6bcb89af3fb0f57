"""The protocol of an experiment tracker, and the trackers that exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from nextvec.errors import InputError, MissingExtraError, did_you_mean

TRACKERS = {
    "tensorboard": ("tensorboard", "nextvec.trackers.tensorboard:TensorBoardTracker"),
    "trackio": ("trackio", "nextvec.trackers.trackio:TrackioTracker"),
    "wandb": ("wandb", "nextvec.trackers.wandb:WandbTracker"),
    "mlflow": ("mlflow", "nextvec.trackers.mlflow:MlflowTracker"),
}
"""Name → its library, and the class that writes to it. Each name is also the name of the extra."""

PROJECT = "nextvec"
"""Project or experiment of the tracked runs, unless the library's environment variable names another one."""

Values = Mapping[str, bool | int | float | str]


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told when a process starts to train or resumes."""

    path: Path
    """The run folder."""
    name: str
    """Name for people."""
    id: str
    """Identifies the tracked run: eight hexadecimal digits, the same after every resume."""
    tags: Sequence[str] = ()
    config: Values = field(default_factory=dict)
    """Hyperparameters and facts: dotted name → value."""
    epochs: int = 0
    """Epochs that were already sent; 0 for a new run."""


@dataclass(frozen=True)
class OpenedRun:
    """What a tracker answers when it has opened a run."""

    place: str
    """Where to look at the tracked run: a URL, or a command."""
    epochs: int | None = None
    """The last epoch that the library has stored; None if it cannot be asked."""


class Tracker(Protocol):
    """Writes a run to one library. A tracker works in a process of its own, so it may block, print or fail."""

    def on_start(self, run: TrackedRun) -> OpenedRun:
        """Open the tracked run, or continue it."""

    def on_epoch(self, epoch: int, time: float, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a finished epoch. `time` is its end in seconds since 1970."""

    def on_end(self, state: str, time: float, metrics: Mapping[str, float], facts: Mapping[str, str]) -> None:
        """Write the evaluation and close the tracked run.

        `state` is "finished", "interrupted", "stopped", "failed" or, after any other end, "unfinished".
        """


def require_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names, each once. Raises InputError for an unknown one, MissingExtraError without its library."""
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"--tracker {name}: unknown tracker.{did_you_mean(name, TRACKERS)}")
        if not is_installed(name):
            raise MissingExtraError(TRACKERS[name][0], name, f"--tracker {name}")
    return tuple(dict.fromkeys(names))


def is_installed(name: str) -> bool:
    """Return whether a tracker's library is installed."""
    spec = find_spec(TRACKERS[name][0])
    # A folder of that name in the working directory, such as the one that wandb writes, is not the library.
    return spec is not None and spec.origin is not None


def open_tracker(name: str) -> Tracker:
    """Import a tracker's library and return the tracker."""
    module, _, cls = TRACKERS[name][1].partition(":")
    tracker: Tracker = getattr(import_module(module), cls)()
    return tracker
