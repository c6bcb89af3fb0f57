"""How fast a run goes: seconds of an epoch, windows per second, and whether it has fallen silent."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from nextvec.core.events import Event, count, finite

SHORTEST_SILENCE, FIRST_SILENCE = 300.0, 900.0
"""Seconds without an event that are never strange, and that are strange where no steps report: in the first epoch and
while baselines are fitted or the model is judged."""
RECENT = 5
"""Epochs whose median says how long the next ones will take."""


def seconds_per_epoch(
    events: Sequence[Event], records: Sequence[Event], steps: Sequence[Event], steps_per_epoch: int
) -> float | None:
    """Seconds that an epoch takes with its validation: the median of the last ones or, before any, by its steps."""
    pauses = [at for event in events if event["kind"] == "resumed" and (at := finite(event.get("time"))) is not None]
    lengths = []
    recent = records[-RECENT - 1 :]
    for before, record in zip([{}, *recent], recent, strict=False):
        start, end = finite(before.get("time")), finite(record.get("time"))
        if start is not None and end is not None and end > start and not any(start < at < end for at in pauses):
            lengths.append(end - start)
        elif (seconds := finite(record.get("seconds"))) is not None:
            lengths.append(seconds)
    if lengths:
        return median(lengths[-RECENT:])
    return _seconds_per_step(steps) * steps_per_epoch or None


def _seconds_per_step(steps: Sequence[Event]) -> float:
    """The median over the reports of steps: a pause between two of them does not count."""
    points = [(count(event.get("step")), finite(event.get("time")) or 0.0) for event in steps]
    paces = [
        (time - before) / (step - last) for (last, before), (step, time) in pairwise(points) if step > last and before
    ]
    return median(paces) if paces else 0.0


def silence(events: Sequence[Event], now: float, pace: float | None) -> float | None:
    """Seconds since the last event if something should have happened since: an epoch has twenty steps that report."""
    last = max((at for event in events if (at := finite(event.get("time"))) is not None), default=None)
    patience = FIRST_SILENCE if pace is None else max(SHORTEST_SILENCE, pace)
    return now - last if last is not None and now - last > patience else None


def rate(records: Sequence[Event], pace: float | None, windows_per_epoch: int) -> float | None:
    """Windows per second in the last epoch or, in the first one, as its pace says."""
    known = finite((records[-1] if records else {}).get("windows_per_second"))
    return windows_per_epoch / pace if known is None and pace and windows_per_epoch else known
