"""Rules of the data check about targets and contexts: does each target follow its context?

`window_files` are the facts of an import of .npz windows, which knows every window; the other statistics are measured
on a sample of any store.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nextvec.core.formatting import Status
from nextvec.data.checks.findings import Finding, Statistics, make_finding

MIN_WRONG_WINDOWS = 3
"""Fewer windows whose target is at a wrong place may be a coincidence, such as a repeated text."""
MAX_WRONG_SHARE = {Status.AMBER: 0.001, Status.RED: 0.01}
"""Share of a file's windows whose target may be at a wrong place, for each status above green. Overlapping windows show
each one, so the shares are small."""
MAX_IN_CONTEXT_SHARE = {Status.AMBER: 0.02, Status.RED: 0.05}
"""Share of windows whose target may repeat a vector of its context: real documents repeat texts such as headings."""
MIN_SHARING = 0.02
"""Share of windows that share a vector with another window, below which a file counts as not linked."""
FOREIGN_ERRORS = 4.0
"""Targets of other documents are reported if their estimated share is above this many standard errors."""
MAX_FOREIGN_SHARE = {Status.AMBER: 0.1, Status.RED: 0.2}
"""Estimated share of targets of other documents, for each status above green. Measured on sound windows of real text:
0.00 to 0.05."""
NEWEST_FIRST_T = 3.5
"""Contexts are newest first if the oldest vector is more similar to the target by this many standard errors."""


def check_window_files(statistics: Statistics) -> Iterator[Finding]:
    """Report what the import of a file of windows found out about it."""
    for facts in statistics.get("window_files", ()):
        yield from describe_file(facts)


def describe_file(facts: dict[str, Any]) -> Iterator[Finding]:
    """Return the findings on the windows of one imported file; `facts` are those of `describe_windows`."""
    known = facts["windows"] - facts["crossing"] - facts["targets"]["unknown"]
    for place, outcome in (
        ("in_context", "targets in context"),
        ("before", "contexts newest first"),
        ("skipped", "targets skip chunks"),
        ("foreign", "targets of other windows"),
    ):
        count = facts["targets"][place]
        status = _status(count, max(known, 1), MAX_WRONG_SHARE if place != "in_context" else MAX_IN_CONTEXT_SHARE)
        if status is not Status.GREEN:
            share = count / max(known, 1)
            yield make_finding(outcome, status, file=facts["file"], count=count, windows=known, share=share)
    windows = facts["windows"] - facts["crossing"]
    if windows > 1 and facts["sharing"] < MIN_SHARING * windows:
        outcome = "windows not linked, documents known" if facts["has_documents"] else "windows not linked"
        status = Status.GREEN if facts["has_documents"] else Status.AMBER
        yield make_finding(outcome, status, file=facts["file"], count=windows - facts["sharing"], windows=windows)
    elif facts["near_equal_distance"] is not None and facts["linked"]:
        yield make_finding("windows linked by near-equal vectors", Status.GREEN, **facts)
    if facts["crossing"]:
        share = facts["crossing"] / facts["windows"]
        status = Status.GREEN if facts["borders"] == "labels" else Status.AMBER
        yield make_finding(f"windows across borders by {facts['borders']}", status, share=share, **facts)
    if facts["padded"]:
        yield make_finding("padded contexts", Status.GREEN, share=facts["padded"] / facts["windows"], **facts)


def check_targets(statistics: Statistics) -> Iterator[Finding]:
    """Check that no target repeats a vector of its context."""
    for name, split in statistics["splits"].items():
        targets = split.get("targets")
        if targets is None:
            continue
        share = targets["near"] / targets["windows"]
        status = _status(targets["near"], targets["windows"], MAX_IN_CONTEXT_SHARE)
        measured = {"split": name, "share": share, **targets}
        yield make_finding(
            "target repeats its context" if status is not Status.GREEN else "targets new", status, **measured
        )


def check_lone_windows(statistics: Statistics) -> Iterator[Finding]:
    """Check the order of windows that are not linked: are contexts newest first, are targets of other documents?

    Real documents of S + 1 chunks are no evidence, because their last chunk differs from the others: only windows from
    a file whose windows don't overlap are.
    """
    for name in [split for facts in statistics.get("window_files", ()) for split in _unlinked_splits(facts)]:
        lone = (statistics["splits"].get(name, {}).get("targets") or {}).get("lone")
        if lone is None:
            continue
        if lone["oldest_minus_last"] > 0 and lone["oldest_minus_last_t"] > NEWEST_FIRST_T:
            yield make_finding("lone contexts newest first", Status.RED, split=name, **lone)
            continue
        share, error = lone["foreign_share"], lone["foreign_share_error"]
        if share is not None and share > FOREIGN_ERRORS * error and share > MAX_FOREIGN_SHARE[Status.AMBER]:
            status = Status.RED if share > MAX_FOREIGN_SHARE[Status.RED] else Status.AMBER
            yield make_finding("lone targets of other documents", status, split=name, share=share, error=error)


def _status(count: int, windows: int, thresholds: dict[Status, float]) -> Status:
    """Return the worst status whose threshold is exceeded; green for a few windows."""
    if count < min(MIN_WRONG_WINDOWS, windows):
        return Status.GREEN
    return next((status for status in (Status.RED, Status.AMBER) if count > thresholds[status] * windows), Status.GREEN)


def _unlinked_splits(facts: dict[str, Any]) -> tuple[str, ...]:
    """Return the splits of a file whose windows do not show where most targets are; val may be divided from train."""
    if facts["targets"]["unknown"] <= 0.5 * facts["windows"]:
        return ()
    return ("train", "val") if facts["split"] == "train" else (facts["split"],)
