"""The store of an .npz file that is used like a store: imported once, on first use.

It is next to the file (NAME.store). If that folder can't be written to, it is in the user's cache folder, under a name
with the file's hash. Two processes that use a file first import it once: the second waits for the first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from nextvec.core.cache_folder import cache_folder, is_writable
from nextvec.core.console import show
from nextvec.core.files import make_folder, wait_for_lock
from nextvec.data.npz.convert import import_npz
from nextvec.data.npz.format import npz_hash
from nextvec.data.store import Store, open_store, unfinished_folder
from nextvec.data.store.writer import remove_folder
from nextvec.errors import StoreError

NPZ = ".npz"


def is_npz(path: Path) -> bool:
    """Return whether a path names an .npz file."""
    return path.suffix == NPZ


def open_npz(path: Path, split: str = "train", *, quiet: bool = False) -> Store:
    """Open the store of an .npz file, which is imported as `split` unless it was imported before.

    Raises StoreError if the file can't be imported, or if the store next to it is of another file.
    """
    content_hash = npz_hash(path)
    with _locked(path, quiet):
        beside = _beside(path)
        if beside.exists() and (_is_made_from(beside, content_hash, split) or is_writable(path.parent)):
            return _open_made(beside, path, content_hash, split)
        store_path = beside
        if not is_writable(path.parent):
            store_path = _in_cache(path, content_hash, split)
            if store_path.exists():
                return _open_made(store_path, path, content_hash, split)
            show(
                [f"{path.parent}: can't be written to, so the store of {path.name} is made in {store_path}"],
                quiet=quiet,
            )
            make_folder(store_path.parent)
        # The lock is ours, so an unfinished folder is what a killed import left.
        if unfinished_folder(store_path).exists():
            remove_folder(unfinished_folder(store_path))
        store = import_npz({split: path}, store_path, quiet=quiet)
    show([f"{finding['message']} {finding['remedy']}" for finding in store.manifest.get("findings", ())], quiet=quiet)
    return store


def find_store(path: Path) -> Path:
    """Return the folder of the store of an .npz file that was imported; `path` if it is not such a file."""
    if not is_npz(path):
        return path
    beside = _beside(path)
    if beside.exists() or not path.is_file():
        return beside
    content_hash = npz_hash(path)
    cached = (_in_cache(path, content_hash, split) for split in ("train", "val", "ood"))
    return next((folder for folder in cached if folder.exists()), beside)


def _open_made(store_path: Path, path: Path, content_hash: str, split: str) -> Store:
    """Open an earlier import. Raises StoreError if it was made from other content, or as another split."""
    if not _is_made_from(store_path, content_hash, split):
        raise StoreError(
            f"store {store_path}: was not made from the current {path.name} as {split}. "
            "Remove that folder to import it again."
        )
    return open_store(store_path)


def _is_made_from(store_path: Path, content_hash: str, split: str) -> bool:
    """Return whether a store was imported from the file with that hash, as `split`."""
    made_from = open_store(store_path).manifest.get("npz") or {}
    # A file of several splits that was imported as a whole has its train windows, too.
    return set(made_from.values()) == {content_hash} and (split in made_from)


def _beside(path: Path) -> Path:
    return path.with_suffix(".store")


def _in_cache(path: Path, content_hash: str, split: str) -> Path:
    """Return the folder of a file's store in the user's cache folder."""
    return cache_folder() / "npz" / f"{path.stem}-{content_hash}-{split}.store"


@contextlib.contextmanager
def _locked(path: Path, quiet: bool) -> Iterator[None]:
    """Hold a lock on an .npz file, so that one process imports it at a time."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise StoreError(f"{path}: can't be read ({error.strerror}). Check its permissions.") from error
    try:
        wait_for_lock(descriptor, lambda: show([f"{path}: waiting for another process that imports it"], quiet=quiet))
        yield
    finally:
        os.close(descriptor)
