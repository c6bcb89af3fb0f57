"""The outcome of a run: what gates, checks and the evaluation report, as its events contain it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nextvec.core.events import Event, count, epoch_records, last_event, mapping, objects, words
from nextvec.core.formatting import STATUSES, Status
from nextvec.monitor.gates import GateVerdict, UpcomingGate, read_verdicts, upcoming_gates
from nextvec.monitor.scores import last_record
from nextvec.monitor.status import ENDED, run_status


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
