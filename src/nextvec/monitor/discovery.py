"""The runs that are watched: found in their folders, their logs read as they grow. Nothing is ever written there."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from nextvec.core.events import Event, EventTail
from nextvec.core.run_paths import EVENTS_FILE, RECIPE_FILE, TRAINING_LOG
from nextvec.errors import InputError
from nextvec.monitor.state import RunState, read_state

HOMES = ("artifacts/lvm/models", "artifacts/runs", "artifacts/demo/runs")
"""Where the newest run is looked for if none is named."""
MARKS = (EVENTS_FILE, RECIPE_FILE, TRAINING_LOG)
"""Files of which a run's folder has at least one, as soon as it has begun."""


class WatchedRun:
    """A run's folder and what its log has said so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gone = False
        self.id = hashlib.sha256(str(path.resolve()).encode("utf-8", "backslashreplace")).hexdigest()[:12]
        """Names the run to a page, whatever its folder is called."""
        self._tail = EventTail(path)

    @property
    def events(self) -> list[Event]:
        """What the log holds, as of the last look."""
        return self._tail.events

    def look(self) -> bool:
        """Read on in the log; whether there is something new."""
        if self.gone:
            return False
        if not self.path.is_dir():
            self.gone = True
            return True
        with suppress(OSError):  # no log yet, or the folder goes this very moment: the next look tells
            return self._tail.look()
        return False

    def state(self, now: float) -> RunState:
        """Where the run stands at the time `now` (seconds since 1970)."""
        return read_state(self.events, now, str(self.path), self.path.resolve().name)


def find_runs(paths: Sequence[str]) -> list[WatchedRun]:
    """The runs that paths (of folders, or of files in them) name, the newest first; without any, the newest run.

    Raises InputError for a path that names no run.
    """
    if not paths:
        folders = list(runs_in(HOMES))
        if not folders:
            raise InputError(f"no run in {', '.join(HOMES)}; name the folder of a run: nextvec watch PATH")
        return [WatchedRun(max(folders, key=_changed))]
    found = {folder.resolve(): folder for path in paths for folder in _folders(path)}
    return [WatchedRun(folder) for folder in sorted(found.values(), key=_changed, reverse=True)]


def runs_in(homes: Iterable[str | Path]) -> Iterator[Path]:
    """The folders of runs that lie in some folders."""
    for home in map(Path, homes):
        with suppress(
            OSError
        ):  # a folder that isn't there has no runs; one that goes this moment tells at the next look
            yield from (folder for folder in home.iterdir() if _is_run(folder))


def newest_first(folders: Iterable[Path]) -> list[Path]:
    """Folders of runs in the order of their last change."""
    return sorted(folders, key=_changed, reverse=True)


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


def present(runs: Iterable[WatchedRun], now: float) -> list[RunState]:
    """The states of the runs that are still there."""
    return [run.state(now) for run in runs if not run.gone]
