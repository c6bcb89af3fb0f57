"""The build directory of a store: working folder of a resumable build, with a lock and a journal.

NAME.unfinished/
  lock         held while a build runs; the system releases it when the process ends
  build.json   journal: the build's arguments and its finished work, rewritten in one step after each piece of work
  staged/      staged chunks (see staging.py)
  encoded/     rows and texts (see tables.py) and vectors in blocks (see blocks.py), before equal vectors are dropped
  store/       the store; at the end it is renamed to NAME, and the rest is removed
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
from nextvec.data.readers.files import list_folder
from nextvec.data.store import JOURNAL, unfinished_folder
from nextvec.data.store.writer import remove_folder, require_new
from nextvec.errors import OutputError, StoreError

_LOCK, _STAGED, _ENCODED, _STORE = "lock", "staged", "encoded", "store"


class BuildDirectory:
    """The unfinished folder of one build."""

    def __init__(self, folder: Path, arguments: dict[str, Any], done: dict[str, Any]) -> None:
        self.folder, self.store = folder, folder / _STORE
        self.staged, self.encoded = folder / _STAGED, folder / _ENCODED
        self.done = done
        """The journal of finished work: plain values that an interrupted build finds again."""
        self.arguments = arguments
        """The arguments of the build, which decide every byte of the store."""

    def record(self, **facts: Any) -> None:
        """Add finished work to the journal; it is on disk when this returns."""
        self.done |= facts
        write_json(self.folder / JOURNAL, {"arguments": self.arguments, "done": self.done})

    @property
    def is_finished(self) -> bool:
        """Whether the store was renamed, and only the removal of this folder was interrupted."""
        return bool(self.done.get("complete")) and not self.store.exists()

    def remove(self) -> None:
        """Remove the folder. The journal is removed last, so that an interrupted removal is recognized."""
        self.clear()
        with writing(self.folder):
            for name in (JOURNAL, _LOCK):
                (self.folder / name).unlink(missing_ok=True)
            self.folder.rmdir()

    def clear(self) -> None:
        """Remove all finished work."""
        for folder in (self.store, self.encoded, self.staged):
            if folder.exists():
                remove_folder(folder)


@contextlib.contextmanager
def open_build_directory(path: Path, arguments: dict[str, Any], *, restart: bool = False) -> Iterator[BuildDirectory]:
    """Lock the build directory of the store `path`: a new one, or the one of an interrupted build.

    The work of an earlier build is removed if `restart` is set, or if it was refused and had other arguments. Raises
    OutputError if the store exists, if its folder cannot be written, or if another build is running in it; StoreError
    if a killed build had other arguments.
    """
    folder = unfinished_folder(path)
    if not folder.exists():
        require_new(path)
    make_folder(folder)
    with _locked(folder):
        # Under the lock: a journal means an interrupted build, no journal a new folder.
        has_journal = (folder / JOURNAL).is_file()
        directory = _resume(folder, arguments, restart) if has_journal else _begin(folder, path, arguments)
        if not directory.is_finished:
            require_new(path)
            for part in (directory.staged, directory.encoded, directory.store):
                make_folder(part)
        yield directory


def stamp_files(names: Iterable[str]) -> dict[str, str]:
    """Return a stamp (size and modification time) of each name that is a file or folder on this machine.

    A folder's stamp covers the text files in it alone, because a store may be built inside the folder of its texts.
    """
    stamps: dict[str, str] = {}
    for name in names:
        path = Path(name)
        with reading(path):
            if path.is_dir():
                files = [path / name for name in list_folder(path).files]
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
    message = f"{folder}: another build is running there. Wait until it ends, or choose another output."
    with writing(folder):
        file = (folder / _LOCK).open("a")
    with file:
        lock(file.fileno(), message)
        if not os.fstat(file.fileno()).st_nlink:  # the other build ended and removed the file just before
            raise OutputError(message)
        yield


def _begin(folder: Path, path: Path, arguments: dict[str, Any]) -> BuildDirectory:
    """Start a journal in a new folder. Raises OutputError if the folder has other files or the store exists."""
    # Only a lock and the leftover of a first journal may exist; anything else is the user's.
    if any(entry.name not in (_LOCK, f".{JOURNAL}.tmp") for entry in folder.iterdir()):
        raise OutputError(f"{folder}: already exists and was not created by a build. Remove it.")
    # Another build may have finished between the first check and the lock. Leave no empty folder behind.
    if path.exists():
        (folder / _LOCK).unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()
        require_new(path)
    directory = BuildDirectory(folder, arguments, {})
    directory.record()
    return directory


def _resume(folder: Path, arguments: dict[str, Any], restart: bool) -> BuildDirectory:
    """Return the build directory of an earlier build, with its finished work if that is of use.

    Raises StoreError if the arguments or files of a killed build were others.
    """
    remove_leftovers(folder)
    if restart:
        return _start_again(folder, arguments)
    try:
        journal = json.loads((folder / JOURNAL).read_text(encoding="utf-8"))
        earlier, done = dict(journal["arguments"]), dict(journal["done"])
        difference = _difference(earlier, arguments)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder / JOURNAL}: is damaged. Start again with --restart.") from error
    is_refused = done.pop("refused", False)
    if difference is None:
        return BuildDirectory(folder, arguments, done)
    # A refused build is repaired by other files or other options, so nobody waits for its work.
    if is_refused:
        return _start_again(folder, arguments)
    raise StoreError(
        f"{folder}: {difference}. To continue it, use the same arguments and files; to start again, add --restart."
    )


def _start_again(folder: Path, arguments: dict[str, Any]) -> BuildDirectory:
    """Remove the work of an earlier build. The new journal comes last, so that a kill leaves the earlier one."""
    directory = BuildDirectory(folder, arguments, {})
    directory.clear()
    directory.record()
    return directory


def _difference(earlier: dict[str, Any], arguments: dict[str, Any]) -> str | None:
    """Describe the first argument or file that differs from those of an earlier build; None if there is none."""
    # Compare the arguments as JSON stores them: tuples as lists.
    for name, value in json.loads(json.dumps(arguments)).items():
        earlier_value = earlier.get(name)
        if earlier_value == value:
            continue
        if name == "files":
            stamps = dict(earlier_value or {})
            changed = sorted(file for file in {*stamps, *value} if stamps.get(file) != value.get(file))
            return f"{changed[0]} has changed since this build started"
        return f"this build started with {name} {earlier_value}, not {value}"
    return None
