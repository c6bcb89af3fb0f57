"""Copying the files of a store between folders, each compared with its SHA-256 in the manifest while it arrives."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from nextvec.core.console import Task, progress
from nextvec.core.object_storage import MissingFileError, StorageFolder
from nextvec.data.store.manifest import MANIFEST, is_intact, parse_manifest
from nextvec.errors import OutputError, StoreError

CONCURRENT_FILES = 8
"""Files at the same time. One connection to object storage is slower than the SHA-256 of what it brings."""
MAX_MANIFEST_BYTES = 2**28
"""Larger than the manifest of a million shards."""
_MEGABYTE = 10**6
_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_manifest(source: StorageFolder) -> tuple[bytes, dict[str, Any]]:
    """Return the manifest of a store as bytes and as values, after comparing it with its checksum.

    Raises StoreError if the folder has no store, if its manifest is damaged or names files outside of the folder.
    """
    try:
        content = source.read(MANIFEST, MAX_MANIFEST_BYTES)
    except MissingFileError as error:
        raise StoreError(
            f"store {source.name}: has no {MANIFEST}. Check the URL, or copy a store there with 'nextvec data copy'."
            if source.url
            else f"store {source.name}: has no {MANIFEST}. Check the path."
        ) from error
    manifest = parse_manifest(content, source.name)
    if not is_intact(manifest, content):
        raise StoreError(
            f"store {source.name}: {MANIFEST} has changed since it was written. Copy the store there again."
        )
    for name, digest in manifest["files"].items():
        # The files of others are written by these names.
        is_inside = not name.startswith("/") and not {"", ".", "..", MANIFEST} & set(name.split("/"))
        if not is_inside or not name.isprintable() or "\\" in name or not _SHA256.fullmatch(str(digest)):
            raise StoreError(
                f"store {source.name}: {MANIFEST} has an impossible entry '{name}'. Build the store again."
            )
    return content, manifest


def file_sizes(source: StorageFolder, files: Mapping[str, str]) -> dict[str, int]:
    """Return the sizes of files by name. Raises StoreError that names the first missing one."""
    with ThreadPoolExecutor(CONCURRENT_FILES, thread_name_prefix="nextvec-sizes") as executor:
        try:
            return dict(zip(files, executor.map(source.size, files), strict=True))
        except MissingFileError as error:
            raise StoreError(f"{error} The store is incomplete: copy it there again.") from error
        finally:
            executor.shutdown(cancel_futures=True)


def require_space(folder: Path, needed: int, remedy: str) -> None:
    """Raise OutputError if a folder's disk has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"cannot write {folder}: {needed / 1e9:.1f} GB are needed, but {free / 1e9:.1f} GB are free. "
            f"Free some space, or {remedy}."
        )


def copy_files(
    source: StorageFolder,
    destination: StorageFolder,
    files: Mapping[str, str],
    sizes: Mapping[str, int],
    *,
    label: str,
    quiet: bool,
) -> None:
    """Copy files, several at a time; each appears when it is complete and its SHA-256 is that in `files`.

    After a fault the files that are complete stay. Raises StoreError for a damaged file, ServerError for a broken
    connection, OutputError if a folder of this machine can't be written.
    """
    if not files:
        return
    # Threads, because they wait for the network and compute SHA-256, which releases the interpreter.
    total = sum(sizes[name] for name in files)
    with progress(label, math.ceil(total / _MEGABYTE), unit="MB", quiet=quiet) as task:
        counter = _ByteCounter(task)
        executor = ThreadPoolExecutor(CONCURRENT_FILES, thread_name_prefix="nextvec-copy")
        try:
            # Large files first, so that none of them is left alone at the end.
            names = sorted(files, key=lambda name: -sizes[name])
            copies = [
                executor.submit(_copy_file, source, destination, name, files[name], sizes[name], counter)
                for name in names
            ]
            for copy in as_completed(copies):
                copy.result()
        # Ctrl-C, too: the other threads end at their next block instead of at the end of their file.
        except BaseException:
            source.stop.set()
            destination.stop.set()
            raise
        finally:
            executor.shutdown(cancel_futures=True)
        counter.finish()


def find_damaged(folder: StorageFolder, files: Mapping[str, str], sizes: Mapping[str, int], *, quiet: bool) -> set[str]:
    """Return the files of a folder that are missing or whose SHA-256 is not that in `files`. Reads all bytes."""

    def is_damaged(name: str) -> bool:
        sha256 = hashlib.sha256()
        try:
            # The size costs nothing, and finds most damage.
            if folder.size(name) != sizes[name]:
                return True
            for block in folder.blocks(name, sizes[name]):
                sha256.update(block)
                counter.add(len(block))
        except MissingFileError:
            return True
        return sha256.hexdigest() != files[name]

    total = sum(sizes[name] for name in files)
    with (
        progress("verifying", math.ceil(total / _MEGABYTE), unit="MB", quiet=quiet) as task,
        ThreadPoolExecutor(CONCURRENT_FILES, thread_name_prefix="nextvec-verify") as executor,
    ):
        counter = _ByteCounter(task)
        try:
            damaged = {name for name, is_bad in zip(files, executor.map(is_damaged, files), strict=True) if is_bad}
        except BaseException:
            folder.stop.set()
            raise
        counter.finish()
    return damaged


def _copy_file(
    source: StorageFolder, destination: StorageFolder, name: str, digest: str, size: int, counter: _ByteCounter
) -> None:
    """Copy one file. Raises StoreError if its SHA-256 differs; then nothing of it stays."""

    def verified_blocks() -> Iterator[bytes]:
        sha256 = hashlib.sha256()
        for block in source.blocks(name, size):
            sha256.update(block)
            yield block
            counter.add(len(block))
        # Raised before the last write ends, so that a file with other bytes never appears.
        if sha256.hexdigest() != digest:
            raise StoreError(
                f"store {source.name}: {name} is damaged, or was replaced meanwhile (SHA-256 differs). "
                "Run the command again; if it fails again, copy the store there again."
            )

    destination.write(name, verified_blocks)


class _ByteCounter:
    """Counts the bytes of all threads, and shows them as megabytes."""

    def __init__(self, task: Task) -> None:
        self._task, self._bytes, self._lock = task, 0, threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            self._task.advance(self._bytes // _MEGABYTE - self._task.done)

    def finish(self) -> None:
        """Show the last, incomplete megabyte as done."""
        self._task.advance((self._task.total or 0) - self._task.done)
