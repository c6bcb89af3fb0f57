"""A run's state as text: sparklines, durations, the status, and one line per new event for a file or a pipe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from nextvec.core.events import Event, count, number, words
from nextvec.core.formatting import SYMBOLS, Status, format_number, outcome_status, outcome_word, plain_text
from nextvec.monitor.state import Progress, RunState

BARS = "▁▂▃▄▅▆▇█"
NON_FINITE = "×"
"""Drawn in a sparkline for NaN and infinite values."""


def bar(value: float, low: float, high: float) -> str:
    """Return the height of a value between `low` and `high` as one character."""
    # The highest value has a fraction of 1 and falls into the last bar.
    fraction = (value - low) / (high - low) if high > low else 0.5
    return BARS[min(len(BARS) - 1, max(0, int(fraction * len(BARS))))]


def bounds(values: Sequence[float | None], min_span: float) -> tuple[float, float]:
    """Return the scale of a sparkline: at least `min_span` wide, so that noise does not look like a trend."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    widening = max(0.0, min_span - (high - low)) / 2
    return low - widening, high + widening


def sparkline(values: Sequence[float | None], low: float, high: float, width: int) -> str:
    """Return at most `width` characters, each for a value or the mean of several; blank if there is no value."""
    # Divide the values into sections of nearly equal length, one per character.
    cells = min(len(values), width)
    edges = [len(values) * cell // cells for cell in range(cells + 1)] if cells else [0]
    return "".join(_cell(values[start:end], low, high) for start, end in pairwise(edges))


def _cell(values: Sequence[float | None], low: float, high: float) -> str:
    known = [value for value in values if value is not None]
    if not all(math.isfinite(value) for value in known):
        return NON_FINITE
    return bar(sum(known) / len(known), low, high) if known else " "


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: "45 s", "12 min", "2 h 05 min", "3 d 4 h"."""
    # The limit of 59.5 prevents "60 s".
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{hours // 24} d {hours % 24} h"


def run_name(state: RunState) -> str:
    """Return the run's name, or a placeholder."""
    return words(state.info.name) or "unnamed run"


def status_text(state: RunState) -> tuple[str, Status | None]:
    """Return a run's status as text, and the stoplight status before it, if any."""
    progress = state.progress
    if progress.silent_seconds is not None:
        return f"{progress.status} (stalled? last event {duration(progress.silent_seconds)} ago)", Status.AMBER
    trained = f"trained {duration(progress.seconds_trained)}" if progress.seconds_trained else ""
    left = "" if progress.seconds_left is None else f"{duration(progress.seconds_left)} left"
    text, details, status = {
        "waiting": ("no events yet", "", None),
        "starting": ("starting", "fitting baselines", None),
        "running": ("running", left, None),
        "trained": ("evaluating", trained, None),
        "finished": ("finished", trained, None),
        "interrupted": ("interrupted", trained, Status.AMBER),
        "stopped": ("stopped", trained, Status.RED),
        "failed": ("failed", trained, Status.RED),
    }[progress.status]
    return " · ".join(filter(None, (text, details))), status


def rate_texts(progress: Progress) -> Iterator[str]:
    """Yield the learning rate, throughput and memory that are known."""
    if progress.learning_rate is not None:
        yield f"learning rate {progress.learning_rate:.3g}"
    if progress.windows_per_second is not None:
        yield f"{progress.windows_per_second:,.0f} windows/s"
    if progress.memory_mb is not None:
        yield f"memory {progress.memory_mb:,.0f} MB"


def event_lines(before: RunState | None, now: RunState) -> list[str]:
    """Return a line for every epoch, gate and outcome since `before`, and one for a changed status.

    If `before` is None, the lines report the last epoch and the present status.
    """
    name = f"{words(now.info.name) or now.info.path}{' (SYNTHETIC DATA)' if now.info.is_synthetic else ''}"
    lines = (*_epoch_lines(before, now), *_gate_lines(before, now), *_outcome_lines(before, now))
    return [f"{name}: {line}" for line in lines]


def _epoch_lines(before: RunState | None, now: RunState) -> Iterator[str]:
    known = before.progress.epochs if before else now.progress.epochs - 1
    for record in now.scores.records:
        if count(record.get("epoch")) > known:
            yield _epoch_line(record, now)


def _gate_lines(before: RunState | None, now: RunState) -> Iterator[str]:
    # A new observer sees the verdicts of the last epoch, not the whole history.
    if before is None:
        known = tuple(verdict for verdict in now.outcome.verdicts if verdict.epoch < now.progress.epochs)
    else:
        known = before.outcome.verdicts
    for verdict in now.outcome.verdicts:
        if verdict not in known:
            kind = "sentinel" if verdict.is_sentinel else "gate"
            advice = f". {verdict.advice}" if verdict.advice and verdict.status != Status.GREEN else ""
            yield f"{SYMBOLS[verdict.status]} {kind} at epoch {verdict.epoch}: {verdict.reason}{advice}"


def _outcome_lines(before: RunState | None, now: RunState) -> Iterator[str]:
    """Yield a line for a changed status, the verdict, and each success criterion."""
    if before is None or _status_key(before) != _status_key(now):
        text, status = status_text(now)
        marked = f"{SYMBOLS[status]} {text}" if status else text
        yield " · ".join(filter(None, (marked, now.outcome.reason, plain_text(now.outcome.diagnosis))))
    if now.outcome.verdict and (before is None or before.outcome.verdict is None):
        status, sentence = now.outcome.verdict
        yield f"{SYMBOLS[status]} verdict{' on synthetic data' if now.info.is_synthetic else ''}: {sentence}"
    if before is None or not before.outcome.criteria:
        for item in now.outcome.criteria:
            symbol = SYMBOLS[outcome_status(item.passed)]
            note = f" ({item.note})" if item.note else ""
            yield f"{symbol} {outcome_word(item.passed)} {item.name}: {item.measured}, required {item.required}{note}"


def _status_key(state: RunState) -> tuple[str, bool]:
    return state.progress.status, state.progress.silent_seconds is None


def _epoch_line(record: Event, state: RunState) -> str:
    """Return an epoch in one line, each score next to its best baseline."""
    parts = [f"epoch {count(record.get('epoch'))} of {state.progress.total_epochs or '?'}"]
    for split in ("val", "ood"):
        if (cosine := number(record.get(f"{split}_cosine"))) is None:
            continue
        name, baseline = state.scores.best_baselines.get(split, ("", None))
        reference = "baseline not measured" if baseline is None else f"over {name} {baseline:.4f}"
        gain = format_number(number(record.get(f"{split}_gain")), "+.4f")
        parts.append(f"{split} cosine {format_number(cosine)}, {gain} {reference}")
    return " · ".join(parts)
