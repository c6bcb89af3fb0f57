"""Seen data: whether a model is scored on rows that its weights were trained on. Needs no torch.

The record of a checkpoint (`data/seen_rows.py`) is compared with the rows of the evaluated windows. From MAX_SEEN_SHARE
on, the verdict is red; below it, a note reports the count. A model with an unknown history is amber at best.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from nextvec.core.formatting import Status, format_percent, worst
from nextvec.evaluation.results import SeenData, SeenSplit, Verdict

if TYPE_CHECKING:
    from nextvec.data.seen_rows import SeenRows
    from nextvec.data.windows import WindowSet


def measure_seen(record: SeenRows, sets: Mapping[str, WindowSet]) -> SeenData:
    """Count the rows of each split's windows that the record contains."""
    splits = {}
    for name, windows in sets.items():
        rows, counts = record.count(windows)
        # The first run of a record is the model's own; the others are its ancestors.
        ancestors: dict[str, int] = {}
        for run, count in zip(record.runs[1:], counts[1:], strict=True):
            if count:
                ancestors[run.run] = ancestors.get(run.run, 0) + count
        splits[name] = SeenSplit(rows, counts[0] if counts else 0, ancestors)
    return SeenData(record.runs[0].run if record.runs else "", record.is_complete, splits)


def with_seen(verdict: Verdict, model: str, seen: SeenData) -> Verdict:
    """Return the verdict that takes seen data into account, with what was seen as its first sentence."""
    warning = seen_warning(model, seen)
    if not warning:
        return verdict
    # Scores on seen rows prove nothing, so a tainted verdict does not repeat them.
    sentence = warning if seen.status == Status.RED else f"{warning} {verdict.sentence}"
    return replace(verdict, status=worst([verdict.status, seen.status]), sentence=sentence)


def seen_warning(model: str, seen: SeenData) -> str:
    """Return the sentence on seen rows or an unknown history; empty if the model has a clean record."""
    tainted = [
        f"{format_percent(split.share)} of the {name} rows in training ({_origin(seen, split)})"
        for name, split in seen.splits.items()
        if split.is_tainted
    ]
    if tainted:
        more = "" if seen.is_history_known else " It may have seen more: not all of its training data are known."
        return f"{model} has seen {' and '.join(tainted)}, so whether it beats a baseline there proves nothing.{more}"
    if not seen.is_history_known:
        return f"Not all training data of {model} are known, so it may have seen the rows that it is scored on."
    return ""


def seen_notes(seen: SeenData) -> Iterator[str]:
    """Yield a note for each split with a few seen rows, too few to change the verdict."""
    for name, split in seen.splits.items():
        if split.seen and not split.is_tainted:
            yield f"{split.seen:,} of {split.rows:,} {name} rows were seen in training ({_origin(seen, split)})"


def _origin(seen: SeenData, split: SeenSplit) -> str:
    """Return the runs that trained on rows of a split."""
    run = [f"this run, '{seen.run}'"] if split.in_run else []
    return ", ".join([*run, *(f"ancestor '{name}'" for name in split.in_ancestors)])
