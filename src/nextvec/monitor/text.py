"""Figures in words and signs, as the view writes them.

A run's status in words, as every view says it.

What is new in a run since the last look, as plain lines: for a file or a pipe, where nothing can be redrawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from nextvec.core.events import Event, count, number, words
from nextvec.core.formatting import SYMBOLS, Status
from nextvec.monitor.state import RunState

BARS = "▁▂▃▄▅▆▇█"
LOST = "×"
"""Stands in a trend where a figure is NaN or infinite."""


def bar(value: float, low: float, high: float) -> str:
    """The height of a value between `low` and `high`, as one character."""
    part = (value - low) / (high - low) if high > low else 0.5
    return BARS[min(len(BARS) - 1, max(0, int(part * len(BARS))))]


def bounds(values: Sequence[float | None], smallest_span: float) -> tuple[float, float]:
    """The scale of a trend; never narrower than `smallest_span`, so that noise does not look like a movement."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    widen = max(0.0, smallest_span - (high - low)) / 2
    return low - widen, high + widen


def sparkline(values: Sequence[float | None], low: float, high: float, width: int) -> str:
    """At most `width` characters, one for each value or for the mean of several; a blank where there is none."""
    cells = min(len(values), width)
    edges = [len(values) * cell // cells for cell in range(cells + 1)] if cells else [0]
    return "".join(_cell(values[start:end], low, high) for start, end in pairwise(edges))


def _cell(values: Sequence[float | None], low: float, high: float) -> str:
    known = [value for value in values if value is not None]
    if not all(math.isfinite(value) for value in known):
        return LOST
    return bar(sum(known) / len(known), low, high) if known else " "


def duration(seconds: float) -> str:
    """A length of time in its two largest units: "45 s", "12 min", "2 h 05 min", "3 d 4 h"."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{hours // 24} d {hours % 24} h"


def figure(value: float | None, form: str) -> str:
    """A number in a format, "nan" and "inf" included; a dash where there is none."""
    return "–" if value is None else "nan" if math.isnan(value) else f"{value:{form}}"


def status_words(state: RunState) -> tuple[str, Status | None]:
    """A run's status in words, and the light before it where it has one."""
    if state.silent_for is not None:
        return f"{state.status}? no news for {duration(state.silent_for)}", Status.AMBER
    took = f" · trained {duration(state.seconds_trained)}" if state.seconds_trained else ""
    match state.status:
        case "waiting":
            return "no events yet", None
        case "starting":
            return "starting: measuring baselines", None
        case "running":
            return "running" + ("" if state.seconds_left is None else f" · {duration(state.seconds_left)} left"), None
        case "trained":
            return f"trained · judging{took.replace(' · trained', ' ·')}", None
        case "finished":
            return f"finished{took}", None
        case "interrupted":
            return f"interrupted{took}", Status.AMBER
        case ended:
            return f"{ended}{took}", Status.RED


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
            advice = f"; {verdict.advice}" if verdict.advice and verdict.status != Status.GREEN else ""
            yield f"{SYMBOLS[verdict.status]} {kind} at epoch {verdict.epoch}: {verdict.reason}{advice}"
    if before is None or (before.status, before.silent_for is None) != (now.status, now.silent_for is None):
        sentence, stoplight = status_words(now)
        yield " · ".join(
            filter(None, (f"{SYMBOLS[stoplight]} {sentence}" if stoplight else sentence, now.reason, now.diagnosis))
        )
    if now.verdict and (before is None or before.verdict is None):
        on_synthetic = " on synthetic data" if now.synthetic else ""
        yield f"{SYMBOLS[now.verdict[0]]} verdict{on_synthetic}: {now.verdict[1]}"
    if before is None or not before.criteria:
        for item in now.criteria:
            sign = SYMBOLS[Status.GREEN if item.passed else Status.RED]
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
