"""Copies of a whole store: from a folder or URL to another one, which then has a complete store or none.

The manifest comes last, because a folder without it is no store. Until then the file `copying.json` names the store, so
that a killed copy continues, and a copy of another store does not mix with it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nextvec.core.display import Displayable
from nextvec.core.files import json_text, make_folder
from nextvec.core.object_storage import MissingFileError, StorageFolder
from nextvec.core.table import Line, View
from nextvec.core.urls import has_one_slash, mask_url
from nextvec.data.store.manifest import MANIFEST
from nextvec.data.store.transfer import (
    MAX_MANIFEST_BYTES,
    copy_files,
    file_sizes,
    find_damaged,
    read_manifest,
    require_space,
)
from nextvec.errors import InputError, OutputError

COPYING = "copying.json"
"""The file in an unfinished copy; it contains the checksum of the store's manifest."""


@dataclass(frozen=True)
class CopiedStore(Displayable):
    """A complete copy of a store."""

    path: str
    """Folder or URL of the copy."""
    files: int
    """Number of its files, with the manifest."""
    size: int
    """Bytes of its files, without the manifest."""
    copied: int
    """Files that this copy wrote; the others were there."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    def view(self) -> View:
        """Return one line."""
        text = f"{self.path}: {self.files:,} files, {self.size / 1e6:,.1f} MB, verified; {self.copied:,} were copied"
        return View((Line(text, style="path"),))


def copy_store(source: str | Path, destination: str | Path, *, quiet: bool = False) -> CopiedStore:
    """Copy a store to another folder or URL. To continue an interrupted copy, or to mend a damaged one, copy again.

    Every file is compared with its SHA-256. Raises StoreError if the source is missing or damaged, OutputError if the
    destination contains anything else or can't be written, ServerError if a connection breaks, InputError for a URL
    that lost a slash, as that of `pathlib.Path("s3://bucket")`: the copy would get into a folder named ``s3:``.
    """
    for name in map(str, (source, destination)):
        if has_one_slash(name):
            raise InputError(f"store {mask_url(name)}: is a URL with one slash. Write it as text: s3://BUCKET/FOLDER.")
    origin, target = StorageFolder(source), StorageFolder(destination)
    # Nothing is written before source and destination are known to be usable.
    content, manifest = read_manifest(origin)
    files, marker = manifest["files"], json_text({"checksum": manifest["checksum"]}).encode()
    sizes = file_sizes(origin, files)
    _require_usable(target, content, marker)
    # A complete copy is verified, and mended. In an unfinished one, files of the right size are complete.
    if target.exists(MANIFEST):
        names = find_damaged(target, files, sizes, quiet=quiet)
    else:
        target.write(COPYING, lambda: iter((marker,)))
        names = {name for name in files if _size_at(target, name) != sizes[name]}
    missing = {name: digest for name, digest in files.items() if name in names}
    if target.path is not None:
        make_folder(target.path)
        require_space(target.path, sum(sizes[name] for name in missing), "choose another folder")
    copy_files(origin, target, missing, sizes, label="copying", quiet=quiet)
    # Now the destination is a store.
    target.write(MANIFEST, lambda: iter((content,)))
    with suppress(MissingFileError):
        target.remove(COPYING)
    return CopiedStore(target.name, len(files) + 1, sum(sizes.values()), len(missing))


def _require_usable(target: StorageFolder, content: bytes, marker: bytes) -> None:
    """Raise OutputError unless a destination is empty, or contains this store or a part of it."""
    remedy = "Choose another destination, or remove it."
    with suppress(MissingFileError):
        if target.read(MANIFEST, MAX_MANIFEST_BYTES) != content:
            raise OutputError(f"store {target.name}: already exists, and is another one. {remedy}")
        return
    with suppress(MissingFileError):
        if json.loads(target.read(COPYING, MAX_MANIFEST_BYTES)) != json.loads(marker):
            raise OutputError(f"store {target.name}: is an unfinished copy of another store. {remedy}")
        return
    if not target.is_empty():
        raise OutputError(f"output {target.name}: already exists, and is not a store. {remedy}")


def _size_at(folder: StorageFolder, file: str) -> int | None:
    """Return the size of a file; None if it does not exist."""
    try:
        return folder.size(file)
    except MissingFileError:
        return None
