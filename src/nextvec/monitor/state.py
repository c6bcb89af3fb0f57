"""The state of a run as plain values: a pure function of its events and the time. No torch, numpy or recipe.

Unknown kinds of events are ignored and missing fields stay empty, so that a log of another version, a damaged log, or
the log of a run that has just started can be shown too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nextvec.core.events import Event, count, epoch_records, finite, last_event, mapping, objects, words
from nextvec.core.loss_terms import requested_shares
from nextvec.monitor.eta import seconds_per_epoch, silence, windows_per_second
from nextvec.monitor.outcome import Outcome
from nextvec.monitor.scores import Scores, last_record, newest_metrics
from nextvec.monitor.status import ENDED, RunStatus, run_status


@dataclass(frozen=True)
class RunInfo:
    """What is fixed when a run starts."""

    path: str = ""
    name: str = ""
    is_synthetic: bool = False
    """Whether the data is synthetic."""
    started: float | None = None
    """Start time in seconds since 1970."""
    model_summary: str = ""
    """Architecture, parameters, device and precision as text."""
    data_summary: str = ""
    """Embedding space, context and windows as text."""
    gates: tuple[Event, ...] = ()
    """The recipe's gates."""
    requested_shares: dict[str, float] = field(default_factory=dict)
    """Loss term → gradient share that its weight asks for."""

    @classmethod
    def from_events(cls, events: Sequence[Event], path: str = "", name: str = "") -> RunInfo:
        """Return the info of a run in folder `path`; `name` is used if the log has no name."""
        started = last_event(events, "started")
        recipe = mapping(started.get("recipe"))
        return cls(
            path=path,
            name=words(started.get("name")) or name,
            is_synthetic=started.get("synthetic") is True or words(started.get("space")).startswith("synthetic@"),
            started=finite(started.get("time")),
            model_summary=_model_summary(started, recipe),
            data_summary=_data_summary(started, recipe),
            gates=tuple(objects(recipe.get("gates"))),
            requested_shares=requested_shares(mapping(recipe.get("objective"))),
        )


@dataclass(frozen=True)
class Progress:
    """How far a run is, and how fast it trains."""

    status: RunStatus = "waiting"
    silent_seconds: float | None = None
    """Seconds since the last event, if longer than expected; else None."""
    epochs: int = 0
    """Finished epochs."""
    total_epochs: int | None = None
    step: int = 0
    total_steps: int | None = None
    fraction: float | None = None
    """Fraction of the whole run that is done, 0 to 1."""
    seconds_left: float | None = None
    seconds_trained: float = 0.0
    windows_per_second: float | None = None
    learning_rate: float | None = None
    memory_mb: float | None = None
    """Peak memory on the run's device so far."""

    @property
    def has_ended(self) -> bool:
        """Whether the run has ended; it continues only if it is resumed."""
        return self.status in ENDED

    @classmethod
    def from_events(cls, events: Sequence[Event], now: float) -> Progress:
        """Return the progress at the time `now`, in seconds since 1970."""
        started = last_event(events, "started")
        training = mapping(mapping(started.get("recipe")).get("training"))
        steps = [event for event in events if event["kind"] == "step"]
        records = epoch_records(events)
        status = run_status(events)[0]
        epochs = count(last_record(records).get("epoch"))
        total_epochs = count(training.get("epochs")) or None
        steps_per_epoch = count(started.get("steps_per_epoch"))
        step = max((count(event.get("step")) for event in events), default=0)

        # Epochs that are left, with the fraction of the current one that its steps report.
        left = None
        if total_epochs:
            current = step / steps_per_epoch - epochs if steps_per_epoch else 0.0
            left = max(0.0, total_epochs - epochs - min(1.0, max(0.0, current)))
        pace = seconds_per_epoch(events, records, steps, steps_per_epoch)
        is_running = status == "running"
        return cls(
            status=status,
            silent_seconds=None if status in ENDED else silence(events, now, pace if is_running else None),
            epochs=epochs,
            total_epochs=total_epochs,
            step=step,
            total_steps=steps_per_epoch * total_epochs if steps_per_epoch and total_epochs else None,
            fraction=1 - left / total_epochs if left is not None and total_epochs else None,
            seconds_left=left * pace if is_running and left is not None and pace is not None else None,
            seconds_trained=sum(finite(record.get("seconds")) or 0.0 for record in records),
            windows_per_second=windows_per_second(records, pace, steps_per_epoch * count(training.get("batch_size"))),
            learning_rate=finite(newest_metrics(steps, records).get("lr")),
            memory_mb=finite(last_record(records).get("memory_mb")),
        )


@dataclass(frozen=True)
class RunState:
    """Everything that a view of a run shows."""

    info: RunInfo = field(default_factory=RunInfo)
    progress: Progress = field(default_factory=Progress)
    scores: Scores = field(default_factory=Scores)
    outcome: Outcome = field(default_factory=Outcome)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def read_state(events: Sequence[Event], now: float, path: str = "", name: str = "") -> RunState:
    """Return the state of the run in folder `path` at the time `now`, in seconds since 1970.

    `name` is used if the log does not contain the run's name.
    """
    return RunState(
        RunInfo.from_events(events, path, name),
        Progress.from_events(events, now),
        Scores.from_events(events),
        Outcome.from_events(events),
    )


def _model_summary(started: Event, recipe: dict[str, Any]) -> str:
    parameters = count(started.get("parameters"))
    facts = (
        words(mapping(recipe.get("model")).get("kind")),
        f"{parameters:,} parameters" if parameters else "",
        " ".join(filter(None, (words(started.get("device")), words(started.get("precision"))))),
    )
    return " · ".join(filter(None, facts))


def _data_summary(started: Event, recipe: dict[str, Any]) -> str:
    context = count(mapping(recipe.get("data")).get("context"))
    windows = {words(split): count(total) for split, total in mapping(started.get("windows")).items()}
    facts = (
        words(started.get("space")),
        f"context {context}" if context else "",
        "windows: " + ", ".join(f"{split} {total:,}" for split, total in windows.items()) if windows else "",
    )
    return " · ".join(filter(None, facts))
