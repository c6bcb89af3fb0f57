"""The event log of a run: one JSON object a line, only ever appended.

`events.jsonl` is the truth about a run; logs, history and pages are views of it. A resumed run appends a `resumed`
event with the position it goes on from, and `read_events` leaves out what that position made obsolete, so that its
answer is the history of one unbroken run. A half-written last line (a killed writer, a quicker reader) is left out.

This module imports neither torch nor numpy: what only reads a run starts at once.

Fields of events, which may be missing, of another version, or damaged: each gets its type or nothing.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nextvec.core.files import write_all, writing
from nextvec.core.run_paths import EVENTS_FILE
from nextvec.errors import InputError

Event = dict[str, Any]


class EventLog:
    """Appends events to a file. Each event is one `write` of one line, so that readers never see two mixed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._end_torn_line()

    def _end_torn_line(self) -> None:
        """End a last line that a killed writer left half written, so that it can't swallow the next event."""
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
        """Append one event. Numbers that are NaN or infinite become the words "nan", "inf" or "-inf"."""
        event = {"time": round(time.time(), 3), "kind": kind, **fields}
        line = json.dumps(_finite(event), ensure_ascii=False, allow_nan=False) + "\n"
        with writing(self.path):
            # A path that is not UTF-8 holds lone surrogates; spelt with a backslash they are JSON again.
            write_all(self._descriptor, line.encode("utf-8", "backslashreplace"))

    def sync(self) -> None:
        """Flush to disk; called beside each checkpoint, so that neither is ahead of the other after a power cut."""
        with writing(self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file; the log can be opened again later and goes on where it ended."""
        os.close(self._descriptor)


def read_events(path: Path, *, everything: bool = False) -> list[Event]:
    """The events of a run in order, as if it had never been interrupted; broken lines are left out.

    With `everything`, also those that a resumption made obsolete. `path` is the log or the run folder.
    Raises InputError if there is no log.
    """
    file = path / EVENTS_FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path}: no {EVENTS_FILE} there; name the folder of a run")
    return _continued([], file.read_bytes().splitlines(), everything=everything)


class EventTail:
    """The events of a growing log: each poll reads only what was appended since the last one, however long the log is.

    Reports of steps are kept for the last two epochs only: what is older says nothing that its epoch doesn't.
    """

    def __init__(self, folder: Path) -> None:
        self.events: list[Event] = []
        """As `read_events` gives them; a new list after each poll that found something."""
        self._file = folder / EVENTS_FILE
        self._inode, self._size, self._torn = 0, 0, b""

    def poll(self) -> bool:
        """Read what was appended, and return whether there are new events. Raises OSError if there is no log."""
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
    """A new list of the events and those that some lines hold; unless `everything`, without what became obsolete."""
    events = list(events)
    for line in lines:
        event = _parse(line)
        if event is None:
            continue
        if event["kind"] == "resumed" and not everything:
            position = _position(event)
            events = [old for old in events if _position(old) <= position and old["kind"] not in _ENDS]
        events.append(event)
    return events


def _without_old_steps(events: list[Event]) -> list[Event]:
    ends = [number for number, event in enumerate(events) if event["kind"] == "epoch"]
    kept = ends[-2] if len(ends) > 1 else 0
    return [event for number, event in enumerate(events) if number >= kept or event["kind"] != "step"]


_ENDS = ("interrupted", "stopped", "failed", "finished", "evaluated", "success", "diagnosed")


def _position(event: Event) -> tuple[float, float]:
    """Step and finished epochs of an event, 0 where it has none: an epoch ends at the step of its last update."""
    step, epoch = event.get("step", 0), event.get("epoch", 0)
    return step if isinstance(step, int | float) else 0, epoch if isinstance(epoch, int | float) else 0


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("kind"), str) else None


def _finite(value: Any) -> Any:
    """`value` with each number that JSON can't hold spelt as a word."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def number(value: Any) -> float | None:
    """A number, also where the log spells it as a word ("nan", "inf", "-inf"); None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and value not in ("nan", "inf", "-inf"):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def finite(value: Any) -> float | None:
    """A number that one can calculate with, or None."""
    found = number(value)
    return found if found is not None and math.isfinite(found) else None


def count(value: Any) -> int:
    """A number of things; 0 for everything else."""
    return max(0, int(finite(value) or 0))


def words(value: Any) -> str:
    """Text on one line, without characters that would move a terminal's cursor; empty for everything but text."""
    if not isinstance(value, str):
        return ""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in value).split())


def mapping(value: Any) -> dict[str, Any]:
    """A JSON object, or an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[dict[str, Any]]:
    """The JSON objects of a list, or none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list | tuple) else []
