"""The local copies of stores at a URL, as `nextvec data cache` lists and removes them."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nextvec.core.cache_folder import cache_folder
from nextvec.core.display import Displayable
from nextvec.core.files import writing
from nextvec.core.locks import exclusive
from nextvec.core.table import Cell, Column, Line, Row, Table, View, columns_of
from nextvec.data.store.manifest import MANIFEST
from nextvec.data.store.remote import STORES


@dataclass(frozen=True)
class CachedStore:
    """The local copy of a store at a URL."""

    url: str
    path: str
    size: int
    """Bytes on disk."""
    is_complete: bool
    used: str
    """Day of the last use, such as 2026-01-31."""


@dataclass(frozen=True)
class CachedStores(Displayable):
    """The local copies of stores at a URL, the last used first."""

    folder: str
    stores: tuple[CachedStore, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    def view(self) -> View:
        """Return a table of the copies."""
        columns = (Column("store", "left", "fold"), *columns_of("MB", "last used", "state"))
        rows = tuple(
            Row(
                (
                    Cell(store.url),
                    Cell(f"{store.size / 1e6:,.1f}", store.size),
                    Cell(store.used),
                    Cell("complete" if store.is_complete else "incomplete"),
                )
            )
            for store in self.stores
        )
        total = sum(store.size for store in self.stores)
        line = Line(f"{self.folder}: stores {len(rows):,}, {total / 1e6:,.1f} MB", style="path")
        return View((line, Table("", columns, rows)) if rows else (line,))


def list_cache() -> CachedStores:
    """Return the local copies in the cache folder."""
    folder = cache_folder() / STORES
    stores = []
    # A record that another process removes meanwhile is left out, and so is a damaged one.
    records = [record for record in folder.glob("*.json") if not record.name.startswith(".")]
    for record in sorted(records, key=lambda record: -_modified(record)):
        with suppress(OSError, ValueError, KeyError, TypeError):
            url, copy = str(json.loads(record.read_bytes())["url"]), record.with_suffix("")
            size = sum(file.stat().st_size for file in copy.rglob("*") if file.is_file())
            used = time.strftime("%Y-%m-%d", time.localtime(_modified(record)))
            stores.append(CachedStore(url, str(copy), size, (copy / MANIFEST).is_file(), used))
    return CachedStores(str(folder), tuple(stores))


def clear_cache() -> CachedStores:
    """Remove the local copies, each after a download of it has ended; return those that are left."""
    folder = cache_folder() / STORES
    for record in folder.glob("*.json"):
        copy = record.with_suffix("")
        with exclusive(copy), writing(copy):
            # The manifest first, so that a copy that is partly removed does not count as complete.
            (copy / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(copy, ignore_errors=True)
            record.unlink(missing_ok=True)
    return list_cache()


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
