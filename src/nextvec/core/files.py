"""Writing files so that a reader sees the old bytes or the new ones, never half of them.

Every write is: temporary file beside the target, flush, fsync, rename, fsync of the folder. A full or read-only disk
raises `OutputError` with one clear line and leaves the old file as it was.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from nextvec.errors import OutputError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run the command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the command again",
    errno.EFBIG: "the file-size limit is reached; raise it and run the command again",
    errno.EROFS: "the disk is read-only; choose another output folder",
    errno.EACCES: "no permission to write there; choose another output folder",
    errno.EPERM: "no permission to write there; choose another output folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another output folder",
}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into an `OutputError` that names `path` and says what to do."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise OutputError(f"cannot write {path}: {reason}") from error


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file, then put it in the place of `path` in one step.

    Raises OutputError if anything fails; the temporary file is removed and `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """`write_atomic` for bytes at hand."""
    write_atomic(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """`write_atomic` for text, as UTF-8; what UTF-8 can't hold (a strange path) is spelt with a backslash."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """`write_atomic` for a JSON value; NaN and infinity are refused (they are not JSON)."""
    write_text(path, json_text(value, indent=indent))


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """What `write_json` writes. Raises ValueError for NaN and infinity."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def write_all(descriptor: int, content: bytes) -> None:
    """Write to an open file until all is written; a disk that fills up takes a part, and the next write says why."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def keep_copy(path: Path, copy: Path) -> None:
    """Give the file `path` the second name `copy` in one step, in place of what had it. Takes no space where it can.

    Raises OutputError if it can't be done; `copy` is then as it was.
    """
    temporary = copy.with_name(f".{copy.name}.tmp")
    with writing(copy):
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError:  # some disks know no second names
            shutil.copyfile(path, temporary)
        temporary.replace(copy)
        temporary.unlink(missing_ok=True)  # it is still there where both were names of one file already


def remove_leftovers(folder: Path) -> None:
    """Remove what kills in the middle of `write_atomic` left in a folder and below."""
    for stale in folder.rglob(".*.tmp"):
        with writing(stale):
            stale.unlink(missing_ok=True)


def make_folder(path: Path, *, new: bool = False) -> None:
    """Create a folder and its parents; OutputError if that can't be done, or if it is to be `new` and is there."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=not new)


def lock(descriptor: int, busy: str) -> None:
    """Hold an open file or folder for this process until it is closed; a killed process lets go of it.

    Raises OutputError with the words `busy` if another one holds it. Some network disks know no locks; there it does
    nothing.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(busy) from error
    except OSError:
        pass


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power cut; where it can be done."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
