"""Watching runs in a terminal: what changes is shown until they have ended.

In a terminal the view is drawn anew in its place; elsewhere what is new is printed line by line. Nothing is ever
written to a run's folder.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.live import Live

from nextvec.monitor.dashboard import runs_view
from nextvec.monitor.discovery import WatchedRun, present
from nextvec.monitor.state import RunState
from nextvec.monitor.text import news


def watch_runs(runs: Sequence[WatchedRun], console: Console, *, every: float = 30.0, poll: float = 1.0) -> None:
    """Show the runs until all have ended or their folders are gone.

    `every`: seconds after which times are brought up to date where nothing is new; `poll`: seconds between two looks
    at the logs. A KeyboardInterrupt is the caller's.
    """
    if not console.is_terminal:
        told: dict[str, RunState] = {}
        for states in _changes(runs, console, every, poll):
            for state in reversed(states):
                for line in news(told.get(state.path), state):
                    _say(console, line)
                told[state.path] = state
        return
    # The view is taken away at the end, so that the last one can be printed whole.
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for states in _changes(runs, console, every, poll):
            live.update(runs_view(states, console.height - 1), refresh=True)


def _changes(runs: Sequence[WatchedRun], console: Console, every: float, poll: float) -> Iterator[list[RunState]]:
    """The runs' states whenever there is something to show, until all have ended."""
    shown, size = -math.inf, console.size
    while True:
        fresh = [run for run in runs if run.look()]
        for run in fresh:
            if run.gone:
                _say(console, f"{run.path}: the folder has gone; not watched any more")
        if fresh or size != console.size or time.monotonic() - shown >= every:
            shown, size = time.monotonic(), console.size
            states = present(runs, time.time())
            yield states
            if all(state.ended for state in states):
                return
        time.sleep(poll)


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
