"""Watching runs: find them, read their logs as they grow, and show what changes until they have ended.

In a terminal the view is drawn anew in its place; elsewhere what is new is printed line by line. Nothing is ever
written to a run's folder.
"""

from __future__ import annotations

import glob
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live

from nextvec.errors import InputError
from nextvec.events import EVENTS_FILE, Event, read_events
from nextvec.watch.news import news
from nextvec.watch.state import RunState, read_state
from nextvec.watch.view import runs_view

HOMES = ("artifacts/lvm/models", "artifacts/runs", "artifacts/demo/runs")
"""Where the newest run is looked for if none is named."""
MARKS = (EVENTS_FILE, "recipe.toml", "training.log")
"""Files of which a run's folder has at least one, as soon as it has begun."""
REST = 20
"""A long log is read at most so often that reading takes one part in this many of the time."""


class WatchedRun:
    """A run's folder and what its log said when it was last read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gone = False
        self.events: list[Event] = []
        self._seen: tuple[int, int, int] | None = None
        self._rests_until = 0.0

    def look(self) -> bool:
        """Read the log if it has changed; whether there is something new."""
        if self.gone or time.monotonic() < self._rests_until:
            return False
        if not self.path.is_dir():
            self.gone = True
            return True
        with suppress(OSError, InputError):  # no log yet, or the folder goes this very moment: the next look tells
            stat = (self.path / EVENTS_FILE).stat()
            seen = stat.st_ino, stat.st_size, stat.st_mtime_ns
            if seen != self._seen:
                started = time.monotonic()
                self.events, self._seen = read_events(self.path), seen
                self._rests_until = time.monotonic() + REST * (time.monotonic() - started)
                return True
        return False

    def state(self, now: float) -> RunState:
        """Where the run stands at the time `now` (seconds since 1970)."""
        return read_state(self.events, now, str(self.path), self.path.resolve().name)


def find_runs(paths: Sequence[str]) -> list[WatchedRun]:
    """The runs that paths (of folders, or of files in them) name, the newest first; without any, the newest run.

    Raises InputError for a path that names no run.
    """
    if not paths:
        folders = [
            folder for home in HOMES if Path(home).is_dir() for folder in Path(home).iterdir() if _is_run(folder)
        ]
        if not folders:
            raise InputError(f"no run in {', '.join(HOMES)}; name the folder of a run: nextvec watch PATH")
        return [WatchedRun(max(folders, key=_changed))]
    found = {folder.resolve(): folder for path in paths for folder in _folders(path)}
    return [WatchedRun(folder) for folder in sorted(found.values(), key=_changed, reverse=True)]


def _folders(path: str) -> list[Path]:
    """The run folders behind one path; a pattern that the shell left alone may name several."""
    given = [Path(path)] if Path(path).exists() else [Path(match) for match in sorted(glob.glob(path))]  # noqa: PTH207
    if not given:
        raise InputError(f"{path}: nothing there; name the folder of a run, or a file in it such as training.log")
    for place in given:
        if not _is_run(_folder_of(place)):
            raise InputError(f"{place}: no run; name the folder of a run (it holds {EVENTS_FILE}), or a file in it")
    return [_folder_of(place) for place in given]


def _folder_of(place: Path) -> Path:
    return place if place.is_dir() else place.parent


def _is_run(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in MARKS)


def _changed(folder: Path) -> float:
    """When the run last changed, in seconds since 1970; 0 if it has just gone."""
    with suppress(OSError):
        log = folder / EVENTS_FILE
        return (log if log.is_file() else folder).stat().st_mtime
    return 0.0


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


def present(runs: Iterable[WatchedRun], now: float) -> list[RunState]:
    """The states of the runs that are still there."""
    return [run.state(now) for run in runs if not run.gone]


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
