"""The state of a run as plain values: a pure function of its events and the time. No torch, numpy or recipe.

Unknown kinds of events are ignored and missing fields stay empty, so that a log of another version, a damaged log, or
the log of a run that has just started can be shown too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nextvec.core.events import Event, count, finite, mapping, objects, words
from nextvec.core.formatting import STATUSES, Status
from nextvec.core.loss_terms import requested_shares
from nextvec.monitor.eta import seconds_per_epoch, silence, windows_per_second
from nextvec.monitor.gates import GateVerdict, UpcomingGate, read_verdicts, upcoming_gates

RunStatus = Literal["waiting", "starting", "running", "trained", "finished", "interrupted", "stopped", "failed"]

ENDED: tuple[RunStatus, ...] = ("finished", "interrupted", "stopped", "failed")

_STATUS_AFTER_EVENT: dict[str, RunStatus] = {
    "started": "starting",
    "resumed": "running",
    "step": "running",
    "epoch": "running",
    "trained": "trained",
    "finished": "finished",
    "interrupted": "interrupted",
    "stopped": "stopped",
    "failed": "failed",
}


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
            learning_rate=finite(_newest_metrics(steps, records).get("lr")),
            memory_mb=finite(last_record(records).get("memory_mb")),
        )


@dataclass(frozen=True)
class Scores:
    """The metrics of a run's epochs, and the baselines on the same windows."""

    records: tuple[Event, ...] = ()
    """One per finished epoch."""
    latest: Event = field(default_factory=dict)
    """Metrics of the last finished epoch; in the first epoch, those reported so far."""
    best: Event = field(default_factory=dict)
    """Metrics of the best epoch so far."""
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    """Split → baseline → cosine."""
    best_baselines: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Split → name and cosine of the best baseline."""

    @classmethod
    def from_events(cls, events: Sequence[Event]) -> Scores:
        """Return the scores that the events report."""
        records = epoch_records(events)
        steps = [event for event in events if event["kind"] == "step"]
        baselines = _baselines(last_event(events, "baselines"))
        return cls(
            records=records,
            latest=last_record(records) or _newest_metrics(steps, records),
            best=_best_record(records, last_event(events, "start")),
            baselines=baselines,
            best_baselines=_best_baselines(baselines, records),
        )


@dataclass(frozen=True)
class Criterion:
    """A success criterion and its result."""

    name: str
    measured: str
    required: str
    passed: bool | None
    """None if it could not be assessed."""
    note: str


@dataclass(frozen=True)
class Outcome:
    """What gates, checks and the evaluation report about a run."""

    reason: str = ""
    """Why the run was stopped or failed."""
    diagnosis: str = ""
    """The most severe diagnosis, as it was last reported."""
    verdicts: tuple[GateVerdict, ...] = ()
    upcoming_gates: tuple[UpcomingGate, ...] = ()
    warnings: tuple[tuple[Status, str], ...] = ()
    """Warnings of the data check and of the run, the latest last."""
    success: bool | None = None
    criteria: tuple[Criterion, ...] = ()
    verdict: tuple[Status, str] | None = None
    """Status and sentence of the evaluation's verdict."""
    evaluation: Event = field(default_factory=dict)
    """The evaluation as its event contains it."""

    @classmethod
    def from_events(cls, events: Sequence[Event]) -> Outcome:
        """Return the outcome that the events report."""
        recipe = mapping(last_event(events, "started").get("recipe"))
        records = epoch_records(events)
        status, end = run_status(events)
        epochs = count(last_record(records).get("epoch"))
        total_epochs = count(mapping(recipe.get("training")).get("epochs")) or None
        evaluation = mapping(last_event(events, "evaluated").get("evaluation"))
        success = last_event(events, "success")
        return cls(
            reason=words(end.get("reason")),
            diagnosis=words(end.get("diagnosis")) or _diagnosis(events, records),
            verdicts=read_verdicts(events, records),
            upcoming_gates=() if status in (*ENDED, "trained") else upcoming_gates(recipe, epochs, total_epochs),
            warnings=_warnings(events),
            success=success["passed"] if isinstance(success.get("passed"), bool) else None,
            criteria=_criteria(success),
            verdict=_status_and_text(mapping(evaluation.get("verdict")), "sentence"),
            evaluation=evaluation,
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


def last_event(events: Sequence[Event], kind: str) -> Event:
    """Return the last event of a kind; an empty one if there is none."""
    return next((event for event in reversed(events) if event["kind"] == kind), {})


def last_record(records: Sequence[Event]) -> Event:
    """Return the metrics of the last finished epoch; empty before the first one ends."""
    return records[-1] if records else {}


def epoch_records(events: Iterable[Event]) -> tuple[Event, ...]:
    """Return one record per epoch, in order; the latest one if an epoch was logged twice."""
    # A resumed run can train an epoch again; the later record replaces the earlier one.
    by_epoch = {count(event.get("epoch")): event for event in events if event["kind"] == "epoch"}
    return tuple(by_epoch[epoch] for epoch in sorted(by_epoch))


def run_status(events: Iterable[Event]) -> tuple[RunStatus, Event]:
    """Return the status, and the event that stopped the run, if any.

    A stopped or failed run keeps its status until it is resumed: its best model is evaluated after the stop.
    """
    # Replay the events in order: each kind leads to one status.
    status: RunStatus = "waiting"
    cause: Event = {}
    for event in events:
        kind = event["kind"]
        if kind in _STATUS_AFTER_EVENT and (status not in ("stopped", "failed") or kind == "resumed"):
            status, cause = _STATUS_AFTER_EVENT[kind], event
    return status, cause if status in ("stopped", "failed") else {}


def _newest_metrics(steps: Sequence[Event], records: Sequence[Event]) -> Event:
    """Return the last step report, or the last epoch if that is newer."""
    if steps and count(steps[-1].get("step")) > count(last_record(records).get("step")):
        return steps[-1]
    return last_record(records)


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


def _best_record(records: Sequence[Event], start: Event) -> Event:
    """Return the last record that was marked as best; if none is marked, the start, which no epoch has improved.

    Without a start it is the record with the highest val cosine.
    """
    # Training marks the epoch whose weights it keeps, by the metric of the recipe.
    marked = [record for record in records if record.get("best") is True]
    if marked:
        return marked[-1]
    if records and start:
        return start
    scored = [record for record in records if finite(record.get("val_cosine")) is not None]
    return max(scored, key=lambda record: finite(record["val_cosine"]) or -math.inf, default={})


def _baselines(event: Event) -> dict[str, dict[str, float]]:
    return {
        words(split): {
            words(name): cosine for name, value in mapping(cosines).items() if (cosine := finite(value)) is not None
        }
        for split, cosines in mapping(event.get("cosines")).items()
    }


def _best_baselines(baselines: dict[str, dict[str, float]], records: Sequence[Event]) -> dict[str, tuple[str, float]]:
    """Return the best baseline of each split: as measured before training, else as the last epoch reports it."""
    best = {}
    for split in ("val", "ood"):
        cosines = baselines.get(split, {})
        # An epoch reports its best baseline as text: "ridge 0.5326".
        name, _, value = words(last_record(records).get(f"{split}_best_baseline")).rpartition(" ")
        if not cosines and value.replace(".", "", 1).isdecimal():
            cosines = {name: float(value)}
        if cosines:
            best[split] = max(cosines.items(), key=lambda item: item[1])
    return best


def _diagnosis(events: Sequence[Event], records: Sequence[Event]) -> str:
    """Return the first diagnosis made at the end or, before the end, after the last epoch."""
    diagnosed = last_event(events, "diagnosed") or last_record(records)
    diagnoses = objects(diagnosed.get("diagnoses"))
    if not diagnoses:
        return ""
    title, confidence, evidence, advice = (
        words(diagnoses[0].get(name)) for name in ("title", "confidence", "evidence", "advice")
    )
    return f"{title}{f' ({confidence})' if confidence else ''}: {evidence} {advice}".rstrip()


def _status_and_text(item: dict[str, Any], *keys: str) -> tuple[Status, str] | None:
    text = " ".join(filter(None, (words(item.get(key)) for key in keys)))
    return (Status(item["status"]), text) if item.get("status") in STATUSES else None


def _warnings(events: Sequence[Event]) -> tuple[tuple[Status, str], ...]:
    # Green findings are not warnings. Warnings of the run come after those of its data.
    checked = objects(last_event(events, "checked").get("findings"))
    findings = [_status_and_text(item, "message", "remedy") for item in checked]
    warnings = [
        _status_and_text({"status": Status.AMBER, **event}, "text") for event in events if event["kind"] == "warning"
    ]
    return tuple(item for item in (*findings, *warnings) if item is not None and item[0] != Status.GREEN and item[1])


def _criteria(success: Event) -> tuple[Criterion, ...]:
    return tuple(
        Criterion(
            name=words(item.get("name")),
            measured=words(item.get("measured")),
            required=words(item.get("required")),
            passed=passed if isinstance(passed := item.get("passed"), bool) or passed is None else False,
            note=words(item.get("note")),
        )
        for item in objects(success.get("criteria"))
    )
