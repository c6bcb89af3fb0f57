"""What is new in a run since the last look, as plain lines: for a file or a pipe, where nothing can be redrawn."""

from __future__ import annotations

from collections.abc import Iterator

from nextvec.events import Event
from nextvec.fields import count, number, words
from nextvec.lights import SHAPES
from nextvec.watch.state import RunState
from nextvec.watch.status import status_words
from nextvec.watch.words import figure


def news(before: RunState | None, now: RunState) -> list[str]:
    """Lines on every epoch and gate since `before`, and on a new status; the present state alone if that is None."""
    name = f"{words(now.name) or now.path}{' (SYNTHETIC DATA)' if now.synthetic else ''}"
    return [f"{name}: {line}" for line in _lines(before, now)]


def _lines(before: RunState | None, now: RunState) -> Iterator[str]:
    known_epochs = before.epochs if before else now.epochs - 1
    known_verdicts = before.verdicts if before else tuple(v for v in now.verdicts if v.epoch < now.epochs)
    for record in now.records:
        if count(record.get("epoch")) > known_epochs:
            yield _epoch_line(record, now)
    for verdict in now.verdicts:
        if verdict not in known_verdicts:
            kind = "sentinel" if verdict.of_sentinel else "gate"
            advice = f"; {verdict.advice}" if verdict.advice and verdict.light != "green" else ""
            yield f"{SHAPES[verdict.light]} {kind} at epoch {verdict.epoch}: {verdict.reason}{advice}"
    if before is None or (before.status, before.silent_for is None) != (now.status, now.silent_for is None):
        sentence, light = status_words(now)
        yield " · ".join(
            filter(None, (f"{SHAPES[light]} {sentence}" if light else sentence, now.reason, now.diagnosis))
        )
    if now.verdict and (before is None or before.verdict is None):
        on_synthetic = " on synthetic data" if now.synthetic else ""
        yield f"{SHAPES[now.verdict[0]]} verdict{on_synthetic}: {now.verdict[1]}"
    if before is None or not before.criteria:
        for item in now.criteria:
            sign = SHAPES["green" if item.passed else "red"]
            beside = f" ({item.beside})" if item.beside else ""
            yield f"{sign} {'pass' if item.passed else 'FAIL'} {item.name}: {item.figure}, wanted {item.wanted}{beside}"


def _epoch_line(record: Event, state: RunState) -> str:
    """An epoch in one line; each score beside its baseline."""
    parts = [f"epoch {count(record.get('epoch'))} of {state.total_epochs or '?'}"]
    for split in ("val", "ood"):
        if (cosine := number(record.get(f"{split}_cosine"))) is None:
            continue
        name, level = state.best_baselines.get(split, ("", None))
        over = "baseline not measured" if level is None else f"over {name} {level:.4f}"
        gain = figure(number(record.get(f"{split}_gain")), "+.4f")
        parts.append(f"{split} cosine {cosine:.4f}, {gain} {over}")
    return " · ".join(parts)
