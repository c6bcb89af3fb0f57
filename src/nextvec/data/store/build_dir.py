"""Where a store is built so that a killed build can go on: a folder with a lock, a journal and the growing store.

NAME.unfinished/
  lock         held by the build that is at work; the system lets go of it when that process dies
  build.json   the build's arguments, and what is done: rewritten in one step after each piece of work
  parts/       documents read so far (see parts.py)
  store/       the store as it grows; in the end it is renamed to NAME, and the rest is removed
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nextvec.core.files import lock, make_folder, remove_leftovers, write_json, writing
from nextvec.data.readers._common import reading
from nextvec.data.readers.text import ENDINGS
from nextvec.data.store import unfinished_folder
from nextvec.data.store.writer import remove_folder, require_new
from nextvec.errors import OutputError, StoreError

_JOURNAL, _LOCK, _PARTS, _STORE = "build.json", "lock", "parts", "store"


class Worksite:
    """The unfinished folder of one build. `done` is the journal: plain values, kept from run to run."""

    def __init__(self, folder: Path, arguments: dict[str, Any], done: dict[str, Any]) -> None:
        self.folder, self.parts, self.store = folder, folder / _PARTS, folder / _STORE
        self.done = done
        self._arguments = arguments

    def note(self, **facts: Any) -> None:
        """Add to the journal what is done; on disk when this returns."""
        self.done |= facts
        write_json(self.folder / _JOURNAL, {"arguments": self._arguments, "done": self.done})

    @property
    def is_finished(self) -> bool:
        """Whether the store has got its name, and only the clearing up was cut short."""
        return bool(self.done.get("complete")) and not self.store.exists()

    def remove(self) -> None:
        """Remove everything; the journal goes after the rest, so that a kill in between can be seen."""
        for part in (self.store, self.parts):
            if part.exists():
                remove_folder(part)
        with writing(self.folder):
            for name in (_JOURNAL, _LOCK):
                (self.folder / name).unlink(missing_ok=True)
            self.folder.rmdir()


@contextlib.contextmanager
def worksite(path: Path, arguments: dict[str, Any]) -> Iterator[Worksite]:
    """The locked worksite of the store `path`: a new one, or the one that a build with the same arguments left.

    Raises OutputError if the store exists, if its folder can't be written, or if another build is at work in it;
    StoreError if the build that was begun there had other arguments.
    """
    folder = unfinished_folder(path)
    if not folder.exists():
        require_new(path)
    make_folder(folder)
    with _locked(folder):
        work = _resume(folder, arguments) if (folder / _JOURNAL).is_file() else _begin(folder, path, arguments)
        if not work.is_finished:
            require_new(path)
            make_folder(work.parts)
            make_folder(work.store)
        yield work


def stamp_files(names: Iterable[str]) -> dict[str, str]:
    """What tells whether files have changed, for each that is on this disk: size and time.

    Of a folder, those of the text files within: a store may be built inside the folder that it is made of.
    """
    stamps: dict[str, str] = {}
    for name in names:
        path = Path(name)
        with reading(path):
            if path.is_dir():
                files = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
                states = "\n".join(f"{file.relative_to(path).as_posix()} {_stamp(file)}" for file in files)
                stamps[name] = hashlib.sha256(os.fsencode(states)).hexdigest()
            elif path.is_file():
                stamps[name] = _stamp(path)
    return stamps


def _stamp(file: Path) -> str:
    status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    busy = f"{folder}: another build is at work there; wait until it is done, or choose another output"
    with writing(folder):
        file = (folder / _LOCK).open("a")
    with file:
        lock(file.fileno(), busy)
        if not os.fstat(file.fileno()).st_nlink:  # its owner finished, and removed it, just before we got it
            raise OutputError(busy)
        yield


def _begin(folder: Path, path: Path, arguments: dict[str, Any]) -> Worksite:
    if any(entry.name not in (_LOCK, f".{_JOURNAL}.tmp") for entry in folder.iterdir()):
        raise OutputError(f"{folder} is in the way, and no build left it there; remove it")
    if path.exists():
        (folder / _LOCK).unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()
        require_new(path)
    work = Worksite(folder, arguments, {})
    work.note()
    return work


def _resume(folder: Path, arguments: dict[str, Any]) -> Worksite:
    remedy = "to go on, run it with the same arguments on the same files; to start again, remove the folder"
    try:
        journal = json.loads((folder / _JOURNAL).read_text(encoding="utf-8"))
        before, done = dict(journal["arguments"]), dict(journal["done"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder / _JOURNAL} is damaged; remove the folder {folder} to start again") from error
    for name, now in json.loads(json.dumps(arguments)).items():
        was = before.get(name)
        if was != now and name == "files":
            stamps = dict(was or {})
            changed = sorted(file for file in {*stamps, *now} if stamps.get(file) != now.get(file))
            raise StoreError(f"{folder}: {changed[0]} has changed since the build there was begun; {remedy}")
        if was != now:
            raise StoreError(f"{folder}: the build there was begun with {name} {was}, this is {now}; {remedy}")
    remove_leftovers(folder)
    return Worksite(folder, arguments, done)
