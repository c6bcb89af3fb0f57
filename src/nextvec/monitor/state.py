"""Where a run stands, as plain values: a pure function of its events and the time. No torch, no numpy, no recipe.

Events of unknown kinds are passed over, missing fields leave their place empty: a log of another version, or of a run
that has just begun, can be watched too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nextvec.core.events import Event, count, finite, mapping, objects, words
from nextvec.core.formatting import STATUSES, Status
from nextvec.core.loss_terms import requested_shares
from nextvec.monitor.eta import rate, seconds_per_epoch, silence
from nextvec.monitor.gates import GateToCome, Verdict, gates_to_come, read_verdicts

RunStatus = Literal["waiting", "starting", "running", "trained", "finished", "interrupted", "stopped", "failed"]

ENDED: tuple[RunStatus, ...] = ("finished", "interrupted", "stopped", "failed")


@dataclass(frozen=True)
class Criterion:
    """One thing that the run had to reach."""

    name: str
    figure: str
    wanted: str
    passed: bool
    beside: str


@dataclass(frozen=True)
class RunState:
    """Everything that a view of a run shows."""

    path: str
    name: str
    synthetic: bool = False
    status: RunStatus = "waiting"
    reason: str = ""
    """Why it was stopped or failed."""
    diagnosis: str = ""
    """What is wrong with it, as it was last said; the worst and surest first."""
    silent_for: float | None = None
    """Seconds since the last event, where that is strangely long."""
    trained: str = ""
    """What is trained, and where; in words."""
    data: str = ""
    """What it is trained on, in words."""
    epochs: int = 0
    """Finished epochs."""
    total_epochs: int | None = None
    started: float | None = None
    """When it began, in seconds since 1970."""
    step: int = 0
    total_steps: int | None = None
    part: float | None = None
    """How much of the whole run is done, 0 to 1."""
    seconds_left: float | None = None
    seconds_trained: float = 0.0
    rate: float | None = None
    """Windows per second."""
    lr: float | None = None
    memory: float | None = None
    """The most megabytes that it has held so far, on its device."""
    records: tuple[Event, ...] = ()
    """One for each finished epoch."""
    latest: Event = field(default_factory=dict)
    """The last finished epoch's figures or, in the first epoch, those so far."""
    best: Event = field(default_factory=dict)
    """The record of the best epoch so far."""
    asked: dict[str, float] = field(default_factory=dict)
    """Term of the objective → the share of influence that its weight asks for."""
    best_baselines: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Split → name and cosine of the best baseline."""
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    """Split → baseline → cosine."""
    gates: tuple[Event, ...] = ()
    """The recipe's gates."""
    verdicts: tuple[Verdict, ...] = ()
    to_come: tuple[GateToCome, ...] = ()
    warnings: tuple[tuple[Status, str], ...] = ()
    """What the data check and the run itself warned of, the latest last."""
    success: bool | None = None
    criteria: tuple[Criterion, ...] = ()
    verdict: tuple[Status, str] | None = None
    """The judgement's light and sentence."""
    evaluation: Event = field(default_factory=dict)
    """All of the judgement, as its event holds it."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen, unless somebody resumes the run."""
        return self.status in ENDED

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def read_state(events: Sequence[Event], now: float, path: str = "", name: str = "") -> RunState:
    """The state of the run in folder `path` at the time `now` (seconds since 1970); `name` is for a run without one."""
    if not events:
        return RunState(path, name)
    started, recipe = _last(events, "started"), mapping(_last(events, "started").get("recipe"))
    training, objective = mapping(recipe.get("training")), mapping(recipe.get("objective"))
    steps = [event for event in events if event["kind"] == "step"]
    records = _records(events)
    status, end = _status(events)
    total_epochs = count(training.get("epochs")) or None
    steps_per_epoch = count(started.get("steps_per_epoch"))
    step = max((count(event.get("step")) for event in events), default=0)
    epochs = count(records[-1].get("epoch")) if records else 0
    rest = None
    if total_epochs:
        begun = step / steps_per_epoch - epochs if steps_per_epoch else 0.0
        rest = max(0.0, total_epochs - epochs - min(1.0, max(0.0, begun)))
    pace = seconds_per_epoch(events, records, steps, steps_per_epoch)
    last_figures = steps[-1] if steps and count(steps[-1].get("step")) > count(_step_of(records)) else _tail(records)
    evaluation = mapping(_last(events, "evaluated").get("evaluation"))
    success = _last(events, "success")
    return RunState(
        path=path,
        name=words(started.get("name")) or name,
        synthetic=started.get("synthetic") is True or words(started.get("space")).startswith("synthetic@"),
        status=status,
        reason=words(end.get("reason")),
        diagnosis=words(end.get("diagnosis")) or _diagnosis(events, records),
        silent_for=None if status in ENDED else silence(events, now, pace if status == "running" else None),
        trained=_trained(started, recipe),
        data=_data(started, recipe),
        epochs=epochs,
        total_epochs=total_epochs,
        started=finite(started.get("time")),
        step=step,
        total_steps=steps_per_epoch * total_epochs if steps_per_epoch and total_epochs else None,
        part=1 - rest / total_epochs if rest is not None and total_epochs else None,
        seconds_left=rest * pace if status == "running" and rest is not None and pace is not None else None,
        seconds_trained=sum(finite(record.get("seconds")) or 0.0 for record in records),
        rate=rate(records, pace, steps_per_epoch * count(training.get("batch_size"))),
        lr=finite(last_figures.get("lr")),
        memory=finite(_tail(records).get("memory_mb")),
        records=records,
        latest=_tail(records) or last_figures,
        best=_best(records),
        asked=requested_shares(objective),
        best_baselines=_best_baselines(_last(events, "baselines"), records),
        baselines=_baselines(_last(events, "baselines")),
        gates=tuple(objects(recipe.get("gates"))),
        verdicts=read_verdicts(events, records),
        to_come=() if status in (*ENDED, "trained") else gates_to_come(recipe, epochs, total_epochs),
        warnings=_warnings(_last(events, "checked"), events),
        success=success["passed"] if isinstance(success.get("passed"), bool) else None,
        criteria=_criteria(success),
        verdict=_lit(mapping(evaluation.get("verdict"))),
        evaluation=evaluation,
    )


def _last(events: Sequence[Event], kind: str) -> Event:
    return next((event for event in reversed(events) if event["kind"] == kind), {})


def _tail(records: Sequence[Event]) -> Event:
    return records[-1] if records else {}


def _step_of(records: Sequence[Event]) -> Any:
    return _tail(records).get("step")


def _records(events: Iterable[Event]) -> tuple[Event, ...]:
    """One record for each epoch, the latest where an epoch stands twice, in order."""
    by_epoch = {count(event.get("epoch")): event for event in events if event["kind"] == "epoch"}
    return tuple(by_epoch[epoch] for epoch in sorted(by_epoch))


_STATUS_AFTER: dict[str, RunStatus] = {
    "started": "starting", "resumed": "running", "step": "running", "epoch": "running", "trained": "trained",
    "finished": "finished", "interrupted": "interrupted", "stopped": "stopped", "failed": "failed",
}  # fmt: skip


def _status(events: Iterable[Event]) -> tuple[RunStatus, Event]:
    """The status, and the event that stopped the run. One that was stopped or failed stays so until it is resumed."""
    status: RunStatus = "waiting"
    cause: Event = {}
    for event in events:
        kind = event["kind"]
        if kind in _STATUS_AFTER and (status not in ("stopped", "failed") or kind == "resumed"):
            status, cause = _STATUS_AFTER[kind], event
    return status, cause if status in ("stopped", "failed") else {}


def _trained(started: Event, recipe: dict[str, Any]) -> str:
    parameters = count(started.get("parameters"))
    facts = (
        words(mapping(recipe.get("model")).get("kind")),
        f"{parameters:,} parameters" if parameters else "",
        " ".join(filter(None, (words(started.get("device")), words(started.get("precision"))))),
    )
    return " · ".join(filter(None, facts))


def _data(started: Event, recipe: dict[str, Any]) -> str:
    context = count(mapping(recipe.get("data")).get("context"))
    windows = {words(split): count(total) for split, total in mapping(started.get("windows")).items()}
    facts = (
        words(started.get("space")),
        f"context {context}" if context else "",
        "windows: " + ", ".join(f"{split} {total:,}" for split, total in windows.items()) if windows else "",
    )
    return " · ".join(filter(None, facts))


def _best(records: Sequence[Event]) -> Event:
    """The last record that was the best when it was made; by val cosine where none says so."""
    marked = [record for record in records if record.get("best") is True]
    if marked:
        return marked[-1]
    scored = [record for record in records if finite(record.get("val_cosine")) is not None]
    return max(scored, key=lambda record: finite(record["val_cosine"]) or -math.inf, default={})


def _best_baselines(event: Event, records: Sequence[Event]) -> dict[str, tuple[str, float]]:
    """The best baseline of each split, as measured before training or, if that is missing, as the last record says."""
    best = {}
    measured = _baselines(event)
    for split in ("val", "ood"):
        known = measured.get(split, {})
        name, _, figure = words(_tail(records).get(f"{split}_best_baseline")).rpartition(" ")
        if not known and figure.replace(".", "", 1).isdecimal():
            known = {name: float(figure)}
        if known:
            best[split] = max(known.items(), key=lambda item: item[1])
    return best


def _baselines(event: Event) -> dict[str, dict[str, float]]:
    return {
        words(split): {
            words(name): level for name, value in mapping(found).items() if (level := finite(value)) is not None
        }
        for split, found in mapping(event.get("cosines")).items()
    }


def _diagnosis(events: Sequence[Event], records: Sequence[Event]) -> str:
    """The first of the diagnoses made at the end or, before it, after the last epoch."""
    at_end = _last(events, "diagnosed")
    found = objects(at_end.get("diagnoses")) if at_end else objects(_tail(records).get("diagnoses"))
    if not found:
        return ""
    sureness = words(found[0].get("sureness"))
    told = f"{words(found[0].get('name'))}{f' ({sureness})' if sureness else ''}: {words(found[0].get('seen'))}"
    return "; ".join(filter(None, (told, words(found[0].get("advice")))))


def _lit(item: dict[str, Any], *keys: str) -> tuple[Status, str] | None:
    text = " ".join(filter(None, (words(item.get(key)) for key in keys or ("sentence",))))
    return (item["status"], text) if item.get("status") in STATUSES else None


def _warnings(checked: Event, events: Iterable[Event]) -> tuple[tuple[Status, str], ...]:
    lit = (_lit(finding, "message", "remedy") for finding in objects(checked.get("findings")))
    own = (words(event.get("text")) for event in events if event["kind"] == "warning")
    return (
        *(item for item in lit if item is not None and item[0] != Status.GREEN),
        *((Status.AMBER, text) for text in own if text),
    )


def _criteria(success: Event) -> tuple[Criterion, ...]:
    return tuple(
        Criterion(
            words(item.get("name")), words(item.get("figure")), words(item.get("wanted")), item.get("passed") is True,
            words(item.get("beside")),
        )
        for item in objects(success.get("criteria"))
    )  # fmt: skip
