"""How fast a run trains: seconds per epoch, windows per second, and whether it seems to have stalled."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from nextvec.core.events import Event, count, finite

MIN_SILENCE_SECONDS = 300.0
"""A shorter silence is never reported: a slow validation can take that long."""
SETUP_SILENCE_SECONDS = 900.0
"""The limit if no steps report, while baselines are fitted or the model is evaluated: both can take minutes."""
PACE_EPOCHS = 5
"""Epochs whose median duration predicts the next ones: few enough to follow a change of load."""


def seconds_per_epoch(
    events: Sequence[Event], records: Sequence[Event], steps: Sequence[Event], steps_per_epoch: int
) -> float | None:
    """Return the duration of an epoch with its validation: the median of recent epochs, else by the steps."""
    # Durations between the ends of epochs include validation, which `seconds` of an epoch does not.
    resumed = [at for event in events if event["kind"] == "resumed" and (at := finite(event.get("time"))) is not None]
    durations = []
    recent = records[-PACE_EPOCHS - 1 :]
    for before, record in zip([{}, *recent], recent, strict=False):
        start, end = finite(before.get("time")), finite(record.get("time"))
        # Time between two epochs counts unless the run was interrupted between them.
        if start is not None and end is not None and end > start and not any(start < at < end for at in resumed):
            durations.append(end - start)
        elif (seconds := finite(record.get("seconds"))) is not None:
            durations.append(seconds)
    if durations:
        return median(durations[-PACE_EPOCHS:])
    return _seconds_per_step(steps) * steps_per_epoch or None


def _seconds_per_step(steps: Sequence[Event]) -> float:
    """Return the median over pairs of step reports, so that a pause between two of them does not count."""
    points = [(count(event.get("step")), finite(event.get("time")) or 0.0) for event in steps]
    paces = [
        (time - last_time) / (step - last_step)
        for (last_step, last_time), (step, time) in pairwise(points)
        if step > last_step and last_time
    ]
    return median(paces) if paces else 0.0


def silence(events: Sequence[Event], now: float, pace: float | None) -> float | None:
    """Return the seconds since the last event if that is longer than expected, else None.

    A training run logs twenty step reports per epoch, so a whole epoch (`pace` seconds) without one is suspicious.
    """
    # A damaged log may have no times at all; then nothing can be reported.
    last = max((at for event in events if (at := finite(event.get("time"))) is not None), default=None)
    limit = SETUP_SILENCE_SECONDS if pace is None else max(MIN_SILENCE_SECONDS, pace)
    return now - last if last is not None and now - last > limit else None


def windows_per_second(records: Sequence[Event], pace: float | None, windows_per_epoch: int) -> float | None:
    """Return the rate that the last epoch reports; in the first epoch, the rate that the steps give."""
    reported = finite((records[-1] if records else {}).get("windows_per_second"))
    return windows_per_epoch / pace if reported is None and pace and windows_per_epoch else reported
