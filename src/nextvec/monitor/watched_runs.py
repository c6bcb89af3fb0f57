"""Watching runs in the terminal, and their last state as a result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rich.console import Group

from nextvec.core.console import Console
from nextvec.core.display import Displayable
from nextvec.core.formatting import format_number
from nextvec.core.table import Cell, Column, Row, Table, View
from nextvec.monitor.dashboard import runs_view
from nextvec.monitor.discovery import existing_states, find_runs
from nextvec.monitor.state import RunState
from nextvec.monitor.terminal import watch_runs


@dataclass(frozen=True)
class WatchedRuns(Displayable):
    """The last state of the watched runs, the newest run first."""

    states: tuple[RunState, ...] = ()

    def __rich__(self) -> Group:
        """Return the dashboard for a terminal."""
        return runs_view(self.states)

    def view(self) -> View:
        """Return one row per run."""
        columns = (
            *(Column("run", "left", "fold"), Column("status", "left"), Column("epoch"), Column("val cosine")),
            *(Column("ood cosine"), Column("path", "left", "fold")),
        )
        return View((Table("runs", columns, tuple(map(_row, self.states))),))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for --json."""
        return {"runs": [state.to_dict() for state in self.states]}


def watch_in_terminal(paths: Sequence[str], *, refresh_seconds: float, once: bool = False) -> WatchedRuns:
    """Follow runs until they end or until Ctrl-C, and return their last state; with `once`, read them once."""
    watched = find_runs(paths)
    if once:
        for run in watched:
            run.poll()
    else:
        with suppress(KeyboardInterrupt):  # the usual way to stop watching, not an error
            watch_runs(watched, Console(highlight=False), refresh_seconds=refresh_seconds)
    return WatchedRuns(tuple(existing_states(watched, time.time())))


def _row(state: RunState) -> Row:
    """Return the table row of a run: its name, status, newest epoch and newest scores."""
    progress, latest = state.progress, state.scores.latest
    cosines = (latest.get("val_cosine"), latest.get("ood_cosine"))
    return Row(
        (
            Cell(state.info.name),
            Cell(progress.status),
            Cell(str(progress.epochs), progress.epochs),
            *(Cell(format_number(cosine, ".4f"), cosine) for cosine in cosines),
            Cell(state.info.path),
        )
    )
