"""Atomic writes, locks and checksums.

Every write is a temporary file next to the target, flush, fsync, rename, and fsync of the folder. A reader sees the old
bytes or the new ones, never a mixture. A full or read-only disk raises `OutputError`, and the old file is unchanged.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from nextvec.errors import NextvecError, OutputError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run the command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the command again",
    errno.EFBIG: "the file-size limit is reached; raise it and run the command again",
    errno.EROFS: "the disk is read-only; choose another output folder",
    errno.EACCES: "no permission to write there; choose another output folder",
    errno.EPERM: "no permission to write there; choose another output folder",
    errno.ENOTEMPTY: "it already exists; choose another output, or remove it",
    errno.EEXIST: "it already exists; choose another output, or remove it",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another output folder",
}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an OSError in the block to an `OutputError` that names `path` and a remedy."""
    try:
        yield
    except NextvecError:  # it has a text of its own
        raise
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise OutputError(f"cannot write {path}: {reason}") from error


def write_atomic(path: Path, write: Callable[[IO[bytes]], object], *, new: bool = False, shared: bool = False) -> None:
    """Write a file atomically: `write` fills a temporary file, which then replaces `path`.

    With `new`, a file that another process has made at `path` in the meantime is kept. With `shared`, processes on
    several machines may write the file at the same time, even on a filesystem without flock. Raises OutputError if
    anything fails. The temporary file is removed, and `path` is unchanged.
    """
    # Writers take turns with one temporary file, so that a kill leaves one; without flock each needs its own.
    writer = f".{platform.node()}-{os.getpid()}" if shared else ""
    temporary = path.with_name(f".{path.name}{writer}.tmp")
    with writing(path), _open_temporary(temporary) as file:
        try:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if new:
                _rename_to_new(temporary, path)
            else:
                temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def _open_temporary(path: Path) -> IO[bytes]:
    """Open an empty temporary file and lock it, so that two writers of a file take turns.

    A file that a killed writer left is used again.
    """
    while True:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666), "wb")
        try:
            with contextlib.suppress(OSError):  # a filesystem without flock
                fcntl.flock(file, fcntl.LOCK_EX)
            # The writer before has renamed the file that this one was waiting for: open the next one.
            if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                file.truncate(0)
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Rename a file. Raises FileExistsError if `path` exists, which a plain rename would replace."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a filesystem without hard links
        temporary.rename(path)
    else:
        temporary.unlink()


def write_bytes(path: Path, content: bytes | memoryview, *, shared: bool = False) -> None:
    """Write bytes atomically; see `write_atomic` for `shared`."""
    write_atomic(path, lambda file: file.write(content), shared=shared)


def write_text(path: Path, text: str, *, shared: bool = False) -> None:
    """Write text atomically as UTF-8. Characters that UTF-8 lacks (from a non-UTF-8 path) are backslash-escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"), shared=shared)


def write_json(path: Path, value: Any, *, indent: int | None = 2, shared: bool = False) -> None:
    """Write a JSON value atomically. Raises ValueError for NaN and infinity, which are not JSON."""
    write_text(path, json_text(value, indent=indent), shared=shared)


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """Return the text that `write_json` writes. Raises ValueError for NaN and infinity."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"


def write_all(descriptor: int, content: bytes) -> None:
    """Write all bytes to an open file. A full disk accepts only a part of them, and the next write raises OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Append lines to a text file as UTF-8."""
    with writing(path), path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write("".join(f"{line}\n" for line in lines))


def keep_copy(path: Path, copy: Path) -> None:
    """Keep the file `path` under the second name `copy`, which is replaced atomically: a hard link if possible.

    Raises OutputError on failure; `copy` is then unchanged.
    """
    temporary = copy.with_name(f".{copy.name}.tmp")
    with writing(copy):
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError:  # a filesystem without hard links
            shutil.copyfile(path, temporary)
        temporary.replace(copy)
        # rename does nothing if both names already link to the same file; the temporary name then remains.
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a crash during `write_atomic` left in a folder and its subfolders."""
    for stale in folder.rglob(".*.tmp"):
        with writing(stale):
            stale.unlink(missing_ok=True)


def make_folder(path: Path, *, new: bool = False) -> None:
    """Create a folder and its parents. Raises OutputError on failure, or if `new` is set and the folder exists."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=not new)


def lock(descriptor: int, busy: str) -> None:
    """Lock an open file or folder until it is closed. The system also unlocks it when the process dies.

    Raises OutputError with the text `busy` if another process holds the lock. Does nothing on a filesystem without
    flock.
    """
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)  # `nextvec runs` holds the lock for a moment to see whether a run is alive
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(busy) from error
    except OSError:
        pass


def wait_for_lock(descriptor: int, report_wait: Callable[[], object], *, shared: bool = False) -> None:
    """Lock an open file or folder until it is closed; if another process holds the lock, report that and wait.

    Several processes may hold a `shared` lock, but none beside an exclusive one. Does nothing on a filesystem without
    flock.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        report_wait()
        fcntl.flock(descriptor, kind)
    except OSError:
        pass


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk, if the system can, so that a rename survives a power failure."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
