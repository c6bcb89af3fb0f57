"""Stores at a URL, opened through copies in the cache folder.

    CACHE/stores/CHECKSUM/        a complete store; CHECKSUM is that of its manifest
    CACHE/stores/CHECKSUM.json    its URL, and the sizes of its files

The key is the manifest's checksum: a store that was replaced under its URL is fetched again, and one that exists under
two URLs is kept once. A file appears under its name when its SHA-256 is right, and the manifest comes last, so that a
killed download continues with the files that are complete.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nextvec.core.cache_folder import CACHE, cache_folder
from nextvec.core.console import show
from nextvec.core.files import make_folder, write_bytes, write_json
from nextvec.core.locks import exclusive
from nextvec.core.object_storage import StorageFolder
from nextvec.data.store.manifest import MANIFEST
from nextvec.data.store.transfer import copy_files, file_sizes, read_manifest, require_space
from nextvec.errors import OutputError, StoreError

STORES = "stores"
"""Subfolder of the cache folder."""


def cached_copy(url: str, *, quiet: bool = False, download: bool = True) -> Path:
    """Return the folder of the local copy of a store at a URL, after fetching the files that it lacks.

    The manifest is always read from the URL. Raises StoreError for a missing or damaged store, and for an incomplete
    copy without `download`; ServerError for a broken connection, OutputError if the cache can't be written.
    """
    source = StorageFolder(url)
    content, manifest = read_manifest(source)
    folder = cache_folder() / STORES / str(manifest["checksum"])
    if not _is_complete(folder, content, manifest["files"]):
        if not download:
            raise StoreError(f"store {source.name}: is not in the cache {folder.parent}.")
        _make_cache(folder.parent)

        def report_wait() -> None:
            show([f"store {source.name}: waiting for another process that downloads it"], quiet=quiet)

        with exclusive(folder, report_wait):
            # Another process may have fetched it while this one waited.
            if not _is_complete(folder, content, manifest["files"]):
                _fill(folder, source, content, manifest, quiet=quiet)
    with suppress(OSError):  # a cache that others filled may be read-only
        os.utime(_record_file(folder))
    return folder


def _make_cache(folder: Path) -> None:
    """Make the folder of the copies. Raises OutputError if another user could change them."""
    if not folder.exists():
        make_folder(folder)
        with suppress(OSError):
            folder.chmod(0o700)
    # Reuse compares sizes only. A folder that the user named may be shared on purpose.
    if not os.environ.get(CACHE) and folder.stat().st_uid != os.getuid():
        raise OutputError(f"cache {folder}: belongs to another user. Set {CACHE} to a folder of yours.")


def _fill(folder: Path, source: StorageFolder, content: bytes, manifest: Mapping[str, Any], *, quiet: bool) -> None:
    """Fetch the files that a copy lacks, and its manifest last."""
    files = manifest["files"]
    sizes = file_sizes(source, files)
    make_folder(folder)
    write_json(_record_file(folder), {"url": source.url, "sizes": sizes})
    missing = {name: digest for name, digest in files.items() if not _has_size(folder / name, sizes[name])}
    needed = sum(sizes[name] for name in missing)
    require_space(folder, needed, f"set {CACHE} to a folder on another disk")
    copy_files(source, StorageFolder(folder), missing, sizes, label="downloading", quiet=quiet)
    write_bytes(folder / MANIFEST, content)


def _is_complete(folder: Path, content: bytes, files: Mapping[str, str]) -> bool:
    """Return whether a copy has this manifest, and all files in their size."""
    try:
        if (folder / MANIFEST).read_bytes() != content:
            return False
        sizes = json.loads(_record_file(folder).read_bytes())["sizes"]
        return all(_has_size(folder / name, sizes[name]) for name in files)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _has_size(file: Path, size: int) -> bool:
    try:
        return file.stat().st_size == size
    except OSError:
        return False


def _record_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")
