"""Files and folders that several processes may make or change at the same time.

One process works, and the others wait (`exclusive`) or are refused (`locked_folder`, `unfinished`). The system releases
the locks of a killed process. On a filesystem without flock, nothing is locked.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from nextvec.core.files import lock, make_folder, wait_for_lock, writing
from nextvec.errors import OutputError


@contextlib.contextmanager
def exclusive(path: Path, report_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Let one process at a time work on the file or folder `path`; the others report that they wait, and wait.

    The lock is a hidden file next to it, which is removed afterwards. On a filesystem without flock, nobody waits.
    """
    make_folder(path.parent)
    file = path.with_name(f".{path.name}.lock")
    while True:
        with writing(file):
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        wait_for_lock(descriptor, report_wait)
        # The process before has removed the file that this one was waiting for: take the lock of the next file.
        if os.fstat(descriptor).st_nlink:
            break
        os.close(descriptor)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()
        os.close(descriptor)


@contextlib.contextmanager
def locked_folder(folder: Path, busy: str) -> Iterator[None]:
    """Create a folder if necessary, and lock it for this process. Raises OutputError with the text `busy`."""
    make_folder(folder)
    with writing(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor, busy)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def unfinished(folder: Path, busy: str, *, discard: bool = False) -> Iterator[None]:
    """Create and lock a folder that is renamed when it is complete; it is removed if the block fails.

    Raises OutputError with the text `busy` if another process is filling it, and if it exists with other content.
    With `discard`, the content that a killed process left is removed.
    """
    make_folder(folder)
    with writing(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor, busy)
        # The other process may have renamed or removed its folder after this one had opened it.
        if not folder.exists() or folder.stat().st_ino != os.fstat(descriptor).st_ino:
            raise OutputError(busy)
        if any(folder.iterdir()):
            if not discard:
                raise OutputError(f"{folder}: already exists. Remove it, or resume the build that created it.")
            with writing(folder):
                # The folder itself stays, because it is what is locked.
                for entry in folder.iterdir():
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        try:
            yield
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)
