"""The build directory of a store: working folder of a resumable build, with a lock and a journal.

NAME.unfinished/
  lock         held while a build runs; the system releases it when the process ends
  build.json   journal: the build's arguments and its finished work, rewritten in one step after each piece of work
  slices/      a lock for each slice that was started (see slices.py)
  staged/      staged chunks (see staging.py)
  encoded/     rows and texts (see tables.py) and vectors in blocks (see blocks.py), before equal vectors are dropped
  store/       the store; at the end it is renamed to NAME, and the rest is removed
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from nextvec.core.files import lock, make_folder, remove_leftovers, wait_for_lock, write_json, writing
from nextvec.data.readers._common import reading
from nextvec.data.readers.files import list_folder
from nextvec.data.store import JOURNAL, unfinished_folder
from nextvec.data.store.writer import remove_folder, require_new
from nextvec.errors import OutputError, StoreError

_LOCK, _STAGED, _ENCODED, _STORE, _SLICES = "lock", "staged", "encoded", "store", "slices"


class BuildDirectory:
    """The unfinished folder of one build."""

    def __init__(self, folder: Path, arguments: dict[str, Any], done: dict[str, Any]) -> None:
        self.folder, self.store = folder, folder / _STORE
        self.staged, self.encoded, self.slices = folder / _STAGED, folder / _ENCODED, folder / _SLICES
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
        for folder in (self.store, self.encoded, self.staged, self.slices):
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
    with _locked(folder, path):
        yield _open(folder, path, arguments, restart)


@contextlib.contextmanager
def share_build_directory(
    path: Path,
    arguments: dict[str, Any],
    prepare: Callable[[BuildDirectory], None],
    report_wait: Callable[[], object],
) -> Iterator[BuildDirectory]:
    """Lock the build directory of the store `path` together with other processes that encode its blocks.

    One process prepares it, and the others wait; `report_wait` is called before. While a process shares the directory,
    its journal does not change, and no build or merge runs there. Raises the errors of `open_build_directory`.
    """
    folder = unfinished_folder(path)
    while True:
        if not _is_prepared(folder):
            with _locked(folder, path, report_wait):
                directory = _open(folder, path, arguments, restart=False)
                if "prepared" not in directory.done:
                    prepare(directory)
                directory.record(prepared=True)
        with _locked(folder, path, report_wait, shared=True):
            # Between the two locks a local build may have completed the store and removed the folder.
            if _is_prepared(folder):
                directory = _resume(folder, arguments, restart=False)
                if directory.is_finished:
                    require_new(path)
                yield directory
                return


@contextlib.contextmanager
def open_prepared_directory(path: Path) -> Iterator[BuildDirectory]:
    """Lock the build directory of the store `path`, whose blocks other processes have encoded.

    Raises OutputError if the store is complete, or if one of these processes is running; StoreError if there is no
    prepared build.
    """
    folder = unfinished_folder(path)
    if not folder.exists():
        require_new(path)
    if not _is_prepared(folder):
        raise StoreError(
            f"{folder}: has no slices to merge. Encode them with 'nextvec data build … --shard 1/N' first."
        )
    with _locked(folder, path):
        yield BuildDirectory(folder, *_read_journal(folder))


def _open(folder: Path, path: Path, arguments: dict[str, Any], restart: bool) -> BuildDirectory:
    """Return the build directory in a locked folder: a new one, or that of an interrupted build."""
    # Under the lock: a journal means an interrupted build, no journal a new folder.
    if (folder / JOURNAL).is_file():
        remove_leftovers(folder)
        directory = _resume(folder, arguments, restart)
    else:
        directory = _begin(folder, path, arguments)
    if not directory.is_finished:
        require_new(path)
        for part in (directory.staged, directory.encoded, directory.store):
            make_folder(part)
    return directory


def _is_prepared(folder: Path) -> bool:
    """Return whether processes may encode blocks in a folder: its texts are complete, and it was not refused."""
    try:
        done = json.loads((folder / JOURNAL).read_text(encoding="utf-8"))["done"]
        return "prepared" in done and "refused" not in done
    except (OSError, ValueError, KeyError, TypeError):
        return False


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
def _locked(
    folder: Path, path: Path, report_wait: Callable[[], object] | None = None, *, shared: bool = False
) -> Iterator[None]:
    """Create and lock the folder of a build of the store `path`.

    If another process has locked it, wait for it, or without `report_wait` raise OutputError.
    """
    message = f"{folder}: another build is running there. Wait until it ends, or choose another output."
    while True:
        if not folder.exists():
            require_new(path)
        make_folder(folder)
        with writing(folder):
            file = (folder / _LOCK).open("a")
        with file:
            if report_wait is None:
                lock(file.fileno(), message)
            else:
                wait_for_lock(file.fileno(), report_wait, shared=shared)
            if os.fstat(file.fileno()).st_nlink:
                yield
                return
        # The other process ended and removed the file just before.
        if report_wait is None:
            raise OutputError(message)


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
    if restart:
        return _start_again(folder, arguments)
    earlier, done = _read_journal(folder)
    difference = _difference(earlier, arguments)
    is_refused = done.pop("refused", False)
    if difference is None:
        return BuildDirectory(folder, arguments, done)
    # A refused build is repaired by other files or other options, so nobody waits for its work.
    if is_refused:
        return _start_again(folder, arguments)
    raise StoreError(
        f"{folder}: {difference}. To continue it, use the same arguments and files; to start again, add --restart."
    )


def _read_journal(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments and the finished work of an earlier build. Raises StoreError if the journal is damaged."""
    try:
        journal = json.loads((folder / JOURNAL).read_text(encoding="utf-8"))
        return dict(journal["arguments"]), dict(journal["done"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder / JOURNAL}: is damaged. Start again with --restart.") from error


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
