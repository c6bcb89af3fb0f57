"""The metrics of a run's epochs and its baselines, as its events report them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from nextvec.core.events import Event, count, epoch_records, finite, last_event, mapping, words


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
            latest=last_record(records) or newest_metrics(steps, records),
            best=_best_record(records, last_event(events, "start")),
            baselines=baselines,
            best_baselines=_best_baselines(baselines, records),
        )


def last_record(records: Sequence[Event]) -> Event:
    """Return the metrics of the last finished epoch; empty before the first one ends."""
    return records[-1] if records else {}


def newest_metrics(steps: Sequence[Event], records: Sequence[Event]) -> Event:
    """Return the last step report, or the last epoch if that is newer."""
    if steps and count(steps[-1].get("step")) > count(last_record(records).get("step")):
        return steps[-1]
    return last_record(records)


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
