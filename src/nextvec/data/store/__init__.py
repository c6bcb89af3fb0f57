"""The vector store: a folder that holds each vector of a corpus once, in document order.

    manifest.json       format version, space, chunker, counts, SHA-256 of each file
    vectors.npy         (N, D) float16 or float32, opened memory-mapped, never pickled
    documents.parquet   id, title, source, first_row, rows, split, group
    chunks.parquet      text (optional)
    encoder/            what is needed to encode new text (only for encoders that were fitted on this corpus)

`group` names documents that belong together (parts of one document, or documents that share vectors): splits and
bootstraps never separate a group. Opening a store reads the manifest and maps the vectors; it takes milliseconds at
any size.

A vector store in a few lines: what is in it, how it is divided, and what was left out on the way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.core.files import json_text, sha256_of
from nextvec.data.space import SYNTHETIC, Space
from nextvec.data.splits import SPLITS
from nextvec.errors import StoreError

FORMAT_VERSION = 1
MANIFEST, VECTORS, DOCUMENTS, CHUNKS, ENCODER = (
    "manifest.json", "vectors.npy", "documents.parquet", "chunks.parquet", "encoder",
)  # fmt: skip


@dataclass(frozen=True)
class DocumentTable:
    """The documents of a store, one entry each, in row order (M documents)."""

    ids: list[str]
    titles: list[str]
    sources: list[str]
    splits: NDArray[np.int8]
    """(M,) index into SPLITS."""
    first_row: NDArray[np.int64]
    """(M,) row of the document's first vector."""
    rows: NDArray[np.int64]
    """(M,) number of vectors."""
    group: NDArray[np.int64]
    """(M,) documents with the same number belong together."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Store:
    """An open store. `vectors` is (N, D), memory-mapped and read-only in spirit: writing changes nothing on disk."""

    path: Path
    manifest: dict[str, Any]
    space: Space
    vectors: NDArray[Any]

    @property
    def dimensions(self) -> int:
        """D, the length of a vector."""
        return int(self.vectors.shape[1])

    @property
    def store_hash(self) -> str:
        """SHA-256 of the vectors and of the documents' table: what a run says that it was trained on."""
        files = self.manifest["files"]
        return f"{files[VECTORS]}:{files[DOCUMENTS]}"

    @property
    def synthetic(self) -> bool:
        """Whether the vectors were drawn from a known process, not made from text."""
        return self.space.encoder == SYNTHETIC

    def to_dict(self) -> dict[str, Any]:
        """Path and manifest, for --json."""
        return {"store": str(self.path), **self.manifest}

    @cached_property
    def documents(self) -> DocumentTable:
        """The table of documents, read on first use."""
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self.path / DOCUMENTS)
            splits = np.array([SPLITS.index(split) for split in table["split"].to_pylist()], dtype=np.int8)
            first_row, rows = table["first_row"].to_numpy(), table["rows"].to_numpy()
        except (OSError, KeyError, ValueError) as error:
            raise StoreError(
                f"store {self.path}: {DOCUMENTS} can't be read ({_line(error)}); build the store again"
            ) from error
        if len(rows) and (first_row[0] != 0 or (np.diff(first_row) != rows[:-1]).any() or rows.min() < 1):
            raise StoreError(f"store {self.path}: {DOCUMENTS} does not cover the rows in order; build the store again")
        if int(rows.sum()) != len(self.vectors):
            raise StoreError(
                f"store {self.path}: {DOCUMENTS} has {int(rows.sum())} rows, {VECTORS} {len(self.vectors)}: rebuild it"
            )
        return DocumentTable(
            table["id"].to_pylist(), table["title"].to_pylist(), table["source"].to_pylist(),
            splits, first_row, rows, table["group"].to_numpy(),
        )  # fmt: skip

    def with_documents(self, documents: DocumentTable) -> Store:
        """The same store under another division into documents or splits; nothing changes on the disk."""
        changed = replace(self)
        changed.__dict__["documents"] = documents  # what the cached property would read
        return changed

    @property
    def has_texts(self) -> bool:
        """Whether the chunks' texts are stored."""
        return (self.path / CHUNKS).is_file()

    def texts(self, rows: Sequence[int]) -> list[str]:
        """The texts of some rows. Raises StoreError if the store holds no texts."""
        import pyarrow.parquet as pq

        if not self.has_texts:
            raise StoreError(f"store {self.path} holds no texts (it was imported or synthesised)")
        column = pq.read_table(self.path / CHUNKS, columns=["text"])["text"]
        return [str(column[int(row)]) for row in rows]


def open_store(path: str | Path) -> Store:
    """Open a store. Raises StoreError if it is missing, unfinished, damaged or of a newer format."""
    path = Path(path)
    if not (path / MANIFEST).is_file():
        hint = "run 'nextvec data build' or 'nextvec data import' to make one, or 'nextvec rehearse' for a dry run"
        if unfinished_folder(path).is_dir():
            hint = "its build was interrupted; run the same 'nextvec data build' command again to go on"
        raise StoreError(f"store {path}: no {MANIFEST} there; {hint}")
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version = manifest["format"]
        if version == FORMAT_VERSION:
            space_values, rows = manifest["space"], manifest["rows"]
            manifest["files"][VECTORS], manifest["files"][DOCUMENTS]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"store {path}: {MANIFEST} is damaged ({_line(error)}); build the store again") from error
    if version != FORMAT_VERSION:
        raise StoreError(
            f"store {path}: format {version!r:.20}, this nextvec reads {FORMAT_VERSION}; upgrade nextvec or rebuild"
        )
    space = Space.from_dict(space_values)
    vectors = map_vectors(path / VECTORS)
    if vectors.shape != (rows, space.dimensions):
        raise StoreError(
            f"store {path}: {VECTORS} is {vectors.shape[0]} × {vectors.shape[1]}, "
            f"{MANIFEST} says {rows} × {space.dimensions}; build the store again"
        )
    return Store(path, manifest, space, vectors)


def verify_store(path: Path) -> int:
    """Compare every file of a store with the SHA-256 that its manifest keeps; how many there are, the manifest too.

    Raises StoreError that names the first file that is missing or not what was written. Reads all bytes.
    """
    try:
        written = (path / MANIFEST).read_bytes()
        manifest = json.loads(written)
        files = dict(manifest["files"])
        # Manifests of earlier versions have no checksum of their own.
        sound = "checksum" not in manifest or (
            manifest["checksum"] == _checksum(manifest) and written == json_text(manifest).encode()
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"store {path}: {MANIFEST} is damaged ({_line(error)}); build the store again") from error
    remedy = "build the store again, or copy it anew"
    if not sound:
        raise StoreError(f"store {path}: {MANIFEST} is not what was written; {remedy}")
    for name, digest in files.items():
        try:
            found = sha256_of(path / name)
        except OSError as error:
            raise StoreError(f"store {path}: {name} can't be read ({error.strerror}); {remedy}") from error
        if found != digest:
            raise StoreError(f"store {path}: {name} is not what was written (SHA-256 differs); {remedy}")
    return len(files) + 1


def _checksum(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest's content but for this value."""
    content = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(json_text(content).encode()).hexdigest()


def map_vectors(path: Path) -> NDArray[Any]:
    """Memory-map a .npy file of (N, D) float16 or float32. Raises StoreError for anything else."""
    try:
        # Copy-on-write: torch wants writable memory, and a stray write can't reach the file.
        vectors = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"vectors {path}: not a readable .npy file ({_line(error)})") from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype not in (np.float16, np.float32):
        shape, dtype = getattr(vectors, "shape", "?"), getattr(vectors, "dtype", "?")
        raise StoreError(f"vectors {path}: need (N, D) float16 or float32, got {shape} {dtype}")
    return vectors


def unfinished_folder(path: Path) -> Path:
    """Where a store is put together before it takes its name."""
    return path.with_name(f"{path.name}.unfinished")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def store_lines(store: Store) -> Iterator[str]:
    """The lines that a build, an import or a synthesis ends with."""
    documents = store.documents
    yield f"store {store.path}: {len(store.vectors):,} vectors of {len(documents):,} documents, {store.space}"
    for number, split in enumerate(SPLITS):
        chosen = documents.splits == number
        if chosen.any():
            sources = ", ".join(sorted(set(np.array(documents.sources)[chosen].tolist()))[:5])
            rows = int(documents.rows[chosen].sum())
            yield f"  {split:5} {int(chosen.sum()):>8,} documents {rows:>10,} vectors  from {sources}"
    counts = {name: value for name, value in store.manifest["counts"].items() if isinstance(value, int) and value}
    yield "  counts: " + ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in counts.items())
    for notice in store.manifest.get("notices", ()):
        yield f"  note: {notice}"
