"""The status of a run: a pure function of its events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from nextvec.core.events import Event

RunStatus = Literal["waiting", "starting", "running", "trained", "finished", "interrupted", "stopped", "failed"]

ENDED: tuple[RunStatus, ...] = ("finished", "interrupted", "stopped", "failed")

_STATUS_AFTER_EVENT: dict[str, RunStatus] = {
    "started": "starting",
    "resumed": "running",
    "step": "running",
    "epoch": "running",
    "trained": "trained",
    "finished": "finished",
    "interrupted": "interrupted",
    "stopped": "stopped",
    "failed": "failed",
}


def run_status(events: Iterable[Event]) -> tuple[RunStatus, Event]:
    """Return the status, and the event that stopped the run, if any.

    A stopped or failed run keeps its status until it is resumed: its best model is evaluated after the stop.
    """
    # Replay the events in order: each kind leads to one status.
    status: RunStatus = "waiting"
    cause: Event = {}
    for event in events:
        kind = event["kind"]
        if kind in _STATUS_AFTER_EVENT and (status not in ("stopped", "failed") or kind == "resumed"):
            status, cause = _STATUS_AFTER_EVENT[kind], event
    return status, cause if status in ("stopped", "failed") else {}
