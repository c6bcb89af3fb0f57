"""The event log of a run: one JSON object per line, append-only, and functions that read single fields of an event.

`events.jsonl` is the source of truth about a run; logs, history and pages are views of it. A resumed run appends a
`resumed` event with the step and epoch that it continues from. `read_events` drops the events after that point, so that
it returns the history of one uninterrupted run. It also skips a half-written last line.

A field may be missing, damaged or written by another version. The readers at the end of this file coerce it to the
expected type, or return an empty value.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nextvec.core.files import write_all, writing
from nextvec.core.run_paths import EVENTS_FILE
from nextvec.errors import InputError

Event = dict[str, Any]


class EventLog:
    """Appends events to a file. Each event is one `write` call of one line, so that readers never see two mixed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._end_torn_line()

    def _end_torn_line(self) -> None:
        """Terminate a line that a killed writer left half-written, so that it does not absorb the next event."""
        size = self.path.stat().st_size
        if not size:
            return
        with self.path.open("rb") as file:
            file.seek(size - 1)
            torn = file.read(1) != b"\n"
        if torn:
            with writing(self.path):
                os.write(self._descriptor, b"\n")

    def write(self, kind: str, **fields: Any) -> None:
        """Append one event. Non-finite numbers are written as the strings "nan", "inf" or "-inf"."""
        event = {"time": round(time.time(), 3), "kind": kind, **fields}
        line = json.dumps(_finite(event), ensure_ascii=False, allow_nan=False) + "\n"
        with writing(self.path):
            # A path that is not UTF-8 contains lone surrogates; escaped with a backslash they are valid JSON.
            write_all(self._descriptor, line.encode("utf-8", "backslashreplace"))

    def sync(self) -> None:
        """Flush to disk. Called with each checkpoint, so that neither is ahead of the other after a power failure."""
        with writing(self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file. A later `EventLog` of the same path appends to it."""
        os.close(self._descriptor)


def read_events(path: str | Path, *, everything: bool = False, with_steps: bool = True) -> list[Event]:
    """Return the events of a run in order, as if it had never been interrupted. Damaged lines are skipped.

    With `everything`, also return the events that a resume made obsolete; without `with_steps`, step events are left
    out unparsed, apart from the last event. `path` is the log or the run folder. Raises InputError if there is no log.
    """
    file = Path(path) / EVENTS_FILE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise InputError(f"run {path}: it contains no {EVENTS_FILE}. Name the folder of a run.")
    lines = file.read_bytes().splitlines()
    if not with_steps:  # most lines of a log: without them, hundreds of runs are read in a second
        lines = [line for line in lines[:-1] if _STEP_KIND not in line[:60]] + lines[-1:]
    return _continued([], lines, everything=everything)


class EventTail:
    """The events of a growing log. Each poll reads only the bytes appended since the last one.

    Step events are kept for the last two epochs only: older ones add nothing to their epoch's event.
    """

    def __init__(self, folder: Path) -> None:
        self.events: list[Event] = []
        """The events as `read_events` returns them. A poll with new events replaces the list."""
        self._file = folder / EVENTS_FILE
        self._inode, self._size, self._torn = 0, 0, b""

    def poll(self) -> bool:
        """Read new events, and return whether there are any. Raises OSError if there is no log."""
        with self._file.open("rb") as file:
            stat = os.fstat(file.fileno())
            if stat.st_ino != self._inode or stat.st_size < self._size:  # another file in its place
                self.events, self._inode, self._size, self._torn = [], stat.st_ino, 0, b""
            if stat.st_size == self._size:
                return False
            file.seek(self._size)
            content = file.read()
        self._size += len(content)
        *lines, self._torn = (self._torn + content).split(b"\n")
        self.events = _without_old_steps(_continued(self.events, lines))
        return bool(lines)


def _continued(events: list[Event], lines: Iterable[bytes], *, everything: bool = False) -> list[Event]:
    """Return a new list of the events and those in `lines`, without obsolete ones unless `everything` is set."""
    events = list(events)
    for line in lines:
        event = _parse(line)
        if event is None:
            continue
        # A resume continues from a saved step: later events belong to work that is done again.
        if event["kind"] == "resumed" and not everything:
            position = _position(event)
            events = [old for old in events if _position(old) <= position and old["kind"] not in _ENDS]
        events.append(event)
    return events


def _without_old_steps(events: list[Event]) -> list[Event]:
    """Return the events without the step events of all but the last two epochs."""
    ends = [number for number, event in enumerate(events) if event["kind"] == "epoch"]
    kept = ends[-2] if len(ends) > 1 else 0
    return [event for number, event in enumerate(events) if number >= kept or event["kind"] != "step"]


_STEP_KIND = b'"kind": "step"'
"""How the line of a step event begins, after its time."""

_ENDS = ("trained", "interrupted", "stopped", "failed", "finished", "evaluated", "success", "diagnosed")
"""Events of the end of a run, which a resume makes obsolete whatever their step."""


def _position(event: Event) -> tuple[float, float]:
    """Return step and number of finished epochs of an event, 0 if it has none.

    Both are needed: a state saved at an epoch's last step and the epoch's event have the same step.
    """
    step, epoch = event.get("step", 0), event.get("epoch", 0)
    return step if isinstance(step, int | float) else 0, epoch if isinstance(epoch, int | float) else 0


def _parse(line: bytes) -> Event | None:
    """Return the event in a line, or None if the line is damaged."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("kind"), str) else None


def _finite(value: Any) -> Any:
    """Return `value` with each non-finite number as a string, because JSON has no such numbers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def last_event(events: Sequence[Event], kind: str) -> Event:
    """Return the last event of a kind; an empty one if there is none."""
    return next((event for event in reversed(events) if event["kind"] == kind), {})


def epoch_records(events: Iterable[Event]) -> tuple[Event, ...]:
    """Return one record per epoch, in order; the latest one if an epoch was logged twice."""
    # A resumed run can train an epoch again; the later record replaces the earlier one.
    by_epoch = {count(event.get("epoch")): event for event in events if event["kind"] == "epoch"}
    return tuple(by_epoch[epoch] for epoch in sorted(by_epoch))


def number(value: Any) -> float | None:
    """Return a number, also one that the log writes as a string ("nan", "inf", "-inf"); otherwise None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and value not in ("nan", "inf", "-inf"):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def finite(value: Any) -> float | None:
    """Return a finite number, or None."""
    parsed = number(value)
    return parsed if parsed is not None and math.isfinite(parsed) else None


def count(value: Any) -> int:
    """Return a nonnegative integer; 0 if the value is not a number."""
    return max(0, int(finite(value) or 0))


def words(value: Any) -> str:
    """Return text on one line without control characters; empty if the value is not text."""
    if not isinstance(value, str):
        return ""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in value).split())


def mapping(value: Any) -> dict[str, Any]:
    """Return a JSON object, or an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[dict[str, Any]]:
    """Return the JSON objects in a list; empty if the value is not a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list | tuple) else []
