"""What an exported table carries in its schema about the store that it was made from.

The entry `nextvec` of the schema's metadata has the store's manifest, with its space, its provenance and the SHA-256 of
each of its files. So an import can restore the store, and prove by the checksums that it is the same one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from nextvec.data.space import Space
from nextvec.data.store import CHUNKS, DOCUMENTS, ENCODER, Store
from nextvec.data.store.vectors import SHARD_BYTES, is_vector_file
from nextvec.data.tables.roles import DOCUMENT, GROUP, POSITION, SOURCE, SPLIT, TITLE
from nextvec.errors import SpaceError, StoreError, one_line

KEY = b"nextvec"
FORMAT_VERSION = 1
_OWN = ("format", "space", "rows", "dtype", "shards", "counts", "files", "checksum")
"""Entries that every manifest has and `finish_store` writes; the others are restored as they are."""

_TYPES = {
    DOCUMENT: pa.string(),
    TITLE: pa.string(),
    SOURCE: pa.string(),
    SPLIT: pa.string(),
    GROUP: pa.int64(),
    POSITION: pa.int64(),
}
"""Columns by which an exported table is recognized, if a tool keeps its metadata but changes its columns."""


@dataclass(frozen=True)
class Origin:
    """The store that a table was exported from."""

    space: Space
    manifest: dict[str, Any]

    @property
    def facts(self) -> dict[str, Any]:
        """The entries of the manifest about the store's provenance."""
        return {name: value for name, value in self.manifest.items() if name not in _OWN}

    def notices(self, where: str) -> list[str]:
        """Return a message if the store has a fitted encoder, which a table does not contain."""
        if not any(name.startswith(f"{ENCODER}/") for name in self.manifest["files"]):
            return []
        return [
            f"{where}: does not contain the fitted encoder {self.space}. To encode new text, copy the folder {ENCODER} "
            "of the exported store into the new one."
        ]

    def is_equal_to(self, files: dict[str, str]) -> bool:
        """Return whether a store's vectors, documents and texts have the checksums of the exported store's."""
        # Other files are those of a fitted encoder, which a table does not contain.
        own = {name: digest for name, digest in self.manifest["files"].items() if _is_table_content(name)}
        return own == {name: digest for name, digest in files.items() if _is_table_content(name)}

    @property
    def shard_bytes(self) -> int:
        """Maximum size of a file of vectors, with which an import makes the same files."""
        rows_S = self.manifest.get("shards", [self.manifest["rows"]])
        shard_bytes = rows_S[0] * self.space.dimensions * np.dtype(self.manifest["dtype"]).itemsize
        return int(shard_bytes) if len(rows_S) > 1 else max(int(shard_bytes), SHARD_BYTES)


def _is_table_content(file: str) -> bool:
    return file in (DOCUMENTS, CHUNKS) or is_vector_file(file)


def describe_origin(store: Store) -> bytes:
    """Return the metadata of a table that is exported from a store."""
    return json.dumps({"format": FORMAT_VERSION, "manifest": store.manifest}).encode()


def read_origin(where: str, schema: pa.Schema) -> Origin | None:
    """Return the store that a table was exported from; None if another tool wrote it.

    Raises StoreError if the metadata are damaged or of another version.
    """
    content = (schema.metadata or {}).get(KEY)
    types = {field.name: field.type for field in schema}
    if content is None or any(types.get(name) != kind for name, kind in _TYPES.items()):
        return None
    try:
        values = json.loads(content)
        version = values["format"]
        if version != FORMAT_VERSION:
            raise StoreError(
                f"{where}: was exported with table format {version!r:.20}, but this nextvec reads {FORMAT_VERSION}. "
                "Export the store again, or upgrade nextvec."
            )
        manifest = dict(values["manifest"])
        dict(manifest["files"]), dict(manifest["counts"])
        return Origin(Space.from_dict(manifest["space"]), manifest)
    except (ValueError, KeyError, TypeError, RecursionError, SpaceError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{where}: its nextvec metadata are damaged ({one_line(error)}). Export it again.") from error
