"""Watching runs in a terminal until they have ended.

A terminal shows a view that is redrawn in place; a file or a pipe gets one line per event. Nothing is written to a
run's folder.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

from rich.live import Live

from nextvec.core.console import Console
from nextvec.core.streams import stdout_failure
from nextvec.monitor.dashboard import runs_view
from nextvec.monitor.discovery import WatchedRun, existing_states
from nextvec.monitor.state import RunState
from nextvec.monitor.text import event_lines


def watch_runs(
    runs: Sequence[WatchedRun], console: Console, *, refresh_seconds: float = 30.0, poll_seconds: float = 1.0
) -> None:
    """Show the runs until all have ended or their folders are gone.

    Logs are read every `poll_seconds`. Without a change, times are brought up to date every `refresh_seconds`.
    A KeyboardInterrupt is left to the caller.
    """
    if not console.is_terminal:
        shown: dict[str, RunState] = {}
        for states in _changes(runs, console, refresh_seconds, poll_seconds):
            for state in reversed(states):  # the newest run is first, and its lines are the last to be printed
                for line in event_lines(shown.get(state.info.path), state):
                    _print_line(console, line)
                shown[state.info.path] = state
        return
    # The live view disappears at the end, so that the caller can print the last one in full length.
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for states in _changes(runs, console, refresh_seconds, poll_seconds):
            live.update(runs_view(states, console.height - 1), refresh=True)


def _changes(
    runs: Sequence[WatchedRun], console: Console, refresh_seconds: float, poll_seconds: float
) -> Iterator[list[RunState]]:
    """Yield the states whenever there is something to show, until all runs have ended."""
    last_shown, size = -math.inf, console.size
    while True:
        # Redraw on a change of a log or of the terminal's size, and regularly for the times.
        changed = [run for run in runs if run.poll()]
        for run in changed:
            if run.is_gone:
                _print_line(console, f"{run.path}: the folder was removed; it is no longer watched")
        if changed or size != console.size or time.monotonic() - last_shown >= refresh_seconds:
            last_shown, size = time.monotonic(), console.size
            states = existing_states(runs, time.time())
            yield states
            if stdout_failure():  # nobody can see what follows
                return
            if all(state.progress.has_ended for state in states):
                return
        time.sleep(poll_seconds)


def _print_line(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
