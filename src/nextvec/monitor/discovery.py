"""The runs to watch: finding their folders, and reading their logs as they grow. Nothing is written there."""

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

RUN_FOLDERS = ("artifacts/lvm/models", "artifacts/runs", "artifacts/demo/runs")
"""Folders that are searched for the newest run if none is named: those that the commands write to by default."""
RUN_FILES = (EVENTS_FILE, RECIPE_FILE, TRAINING_LOG)
"""A run's folder has at least one of these files as soon as the run has started."""


class WatchedRun:
    """A run's folder, and the events that its log contained at the last poll."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_gone = False
        """Whether the folder was removed."""
        self.id = hashlib.sha256(str(path.resolve()).encode("utf-8", "backslashreplace")).hexdigest()[:12]
        """Identifies the run in a page's requests, which never contain a path."""
        self._tail = EventTail(path)

    @property
    def events(self) -> list[Event]:
        """The events at the last poll."""
        return self._tail.events

    def poll(self) -> bool:
        """Read what was appended to the log, and return whether anything changed."""
        if self.is_gone:
            return False
        if not self.path.is_dir():
            self.is_gone = True
            return True
        with suppress(OSError):  # the log does not exist yet, or the folder is being removed: the next poll decides
            return self._tail.poll()
        return False

    def state(self, now: float) -> RunState:
        """Return the state at the time `now`, in seconds since 1970."""
        return read_state(self.events, now, str(self.path), self.path.resolve().name)


def find_runs(paths: Sequence[str]) -> list[WatchedRun]:
    """Return the runs of some paths (run folders or files in them), the newest first; the newest run if there are none.

    Raises InputError if a path is not a run.
    """
    if not paths:
        folders = list(list_runs(RUN_FOLDERS))
        if not folders:
            raise InputError(f"no run in {', '.join(RUN_FOLDERS)}. Pass the folder of a run: nextvec watch PATH.")
        return [WatchedRun(max(folders, key=_last_change))]
    # A run that is named twice, or by a link, appears once.
    folders_by_place = {folder.resolve(): folder for path in paths for folder in _run_folders(path)}
    return [WatchedRun(folder) for folder in newest_first(folders_by_place.values())]


def list_runs(folders: Iterable[str | Path]) -> Iterator[Path]:
    """Yield the run folders that some folders contain."""
    for folder in map(Path, folders):
        with suppress(OSError):  # a missing folder has no runs
            yield from (child for child in folder.iterdir() if is_run(child))


def newest_first(folders: Iterable[Path]) -> list[Path]:
    """Return run folders sorted by their last change."""
    return sorted(folders, key=_last_change, reverse=True)


def existing_states(runs: Iterable[WatchedRun], now: float) -> list[RunState]:
    """Return the states of the runs whose folders still exist."""
    return [run.state(now) for run in runs if not run.is_gone]


def _run_folders(path: str) -> list[Path]:
    """Return the run folders of one path. A pattern that the shell did not expand can match several."""
    places = [Path(path)] if Path(path).exists() else [Path(match) for match in sorted(glob.glob(path))]  # noqa: PTH207
    if not places:
        raise InputError(f"{path}: no such path. Pass the folder of a run, or a file in it such as training.log.")
    # A file in a run, such as training.log, stands for its folder.
    folders = [place if place.is_dir() else place.parent for place in places]
    for place, folder in zip(places, folders, strict=True):
        if not is_run(folder):
            raise InputError(f"{place}: not a run. Pass the folder of a run, which contains {EVENTS_FILE}.")
    return folders


def is_run(folder: Path) -> bool:
    """Return whether a folder contains a file of a run."""
    return any((folder / name).is_file() for name in RUN_FILES)


def _last_change(folder: Path) -> float:
    """Return the time of the run's last change in seconds since 1970; 0 if the folder was just removed."""
    with suppress(OSError):
        log = folder / EVENTS_FILE
        return (log if log.is_file() else folder).stat().st_mtime
    return 0.0
