"""The vector store: a folder that contains each vector of a corpus once, in document order.

    manifest.json       format version, embedding space, chunker, counts, SHA-256 of each file
    vectors.npy         (N, D) float16 or float32, opened memory-mapped, never pickled; or several files (vectors.py)
    documents.parquet   id, title, source, first_row, rows, split, group
    chunks.parquet      text (optional)
    encoder/            the fitted encoder (only for encoders that were fitted on this corpus)

Documents with the same `group` belong together (the chapters of a book, or documents that share vectors): splits and
bootstraps never separate them. Opening a store reads the manifest and maps the vectors; it takes milliseconds at any
size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.core.display import Displayable
from nextvec.core.formatting import Status
from nextvec.core.table import Cell, Column, Line, Row, Table, View, columns_of
from nextvec.core.urls import clean_url, has_one_slash, is_url
from nextvec.data.space import SYNTHETIC, Space
from nextvec.data.splits import SPLITS
from nextvec.data.store.documents import DocumentTable as DocumentTable
from nextvec.data.store.documents import parquet, read_documents
from nextvec.data.store.manifest import MANIFEST as MANIFEST
from nextvec.data.store.manifest import parse_manifest
from nextvec.data.store.remote import cached_copy
from nextvec.data.store.vectors import VECTORS as VECTORS
from nextvec.data.store.vectors import VectorLayout, map_store_vectors, vector_files
from nextvec.data.store.vectors import map_vectors as map_vectors
from nextvec.errors import StoreError

DOCUMENTS = "documents.parquet"
CHUNKS = "chunks.parquet"
ENCODER = "encoder"
JOURNAL = "build.json"
"""The journal of an unfinished build, in `unfinished_folder`."""


@dataclass(frozen=True)
class Store(Displayable):
    """An open store."""

    path: Path
    manifest: dict[str, Any]
    space: Space
    vectors: NDArray[Any]
    """(N, D), memory-mapped copy-on-write: changes never reach the file."""
    document_table: DocumentTable | None = field(default=None, repr=False)
    """Documents that replace those of the file; see `with_documents`."""
    url: str = ""
    """The URL that the store was opened by; `path` is then its copy in the cache."""

    @property
    def name(self) -> str:
        """The URL or the path, as messages show it."""
        return self.url or str(self.path)

    @property
    def dimensions(self) -> int:
        """D, the length of a vector."""
        return int(self.vectors.shape[1])

    @property
    def store_hash(self) -> str:
        """SHA-256 of the vectors and of the table of documents, by which runs identify their data."""
        files = self.manifest["files"]
        shards = [files[name] for name in vector_files(len(self.manifest.get("shards", [0])))]
        # Several shards are identified by the hash of their hashes.
        vectors = shards[0] if len(shards) == 1 else hashlib.sha256("".join(shards).encode()).hexdigest()
        return f"{vectors}:{files[DOCUMENTS]}"

    @property
    def vector_layout(self) -> VectorLayout:
        """The files of the vectors."""
        rows_S = tuple(self.manifest.get("shards", (len(self.vectors),)))
        return VectorLayout(rows_S, self.dimensions, self.vectors.dtype)

    @property
    def synthetic(self) -> bool:
        """Whether the vectors were drawn from a known process, not made from text."""
        return self.space.encoder == SYNTHETIC

    @property
    def is_encoded(self) -> bool:
        """Whether the build made all vectors from the texts with one encoder; other vectors only claim an encoder."""
        return self.manifest.get("origin") == "text" and "precomputed" not in self.manifest.get("encoder", {})

    @property
    def encoder_name(self) -> str:
        """The name by which `open_encoder` opens the encoder of the vectors."""
        return str(self.manifest.get("encoder", {}).get("name", self.space.encoder))

    def to_dict(self) -> dict[str, Any]:
        """Return path or URL and manifest for JSON."""
        return {"store": self.name, **self.manifest}

    @property
    def documents(self) -> DocumentTable:
        """The table of documents, read on first use. Raises StoreError if it cannot be read."""
        return self._stored_documents if self.document_table is None else self.document_table

    @cached_property
    def _stored_documents(self) -> DocumentTable:
        return read_documents(self.path / DOCUMENTS, len(self.vectors))

    def with_documents(self, documents: DocumentTable) -> Store:
        """Return the same store with other documents or splits; nothing changes on disk."""
        return replace(self, document_table=documents)

    @property
    def has_texts(self) -> bool:
        """Whether the chunks' texts are stored."""
        return (self.path / CHUNKS).is_file()

    def texts(self, rows: Sequence[int]) -> list[str]:
        """Return the texts of the rows. Raises StoreError if the store has no texts."""
        if not self.has_texts:
            raise StoreError(f"store {self.name}: has no texts, because it was imported or synthesized.")
        column = parquet().read_table(self.path / CHUNKS, columns=["text"])["text"]
        return [str(column[int(row)]) for row in rows]

    def view(self) -> View:
        """Return the size, the splits, the counts and the notices."""
        documents = self.documents
        title = f"store {self.name}: {len(self.vectors):,} vectors of {len(documents):,} documents, {self.space}"
        rows = []
        for number, split in enumerate(SPLITS):
            is_split = documents.splits == number
            if is_split.any():
                sources = sorted({source for source, inside in zip(documents.sources, is_split, strict=True) if inside})
                sizes = int(is_split.sum()), int(documents.rows[is_split].sum())
                cells = (Cell(split), *(Cell(f"{size:,}", size) for size in sizes), Cell(", ".join(sources[:5])))
                rows.append(Row(cells))
        columns = (*columns_of("split", "documents", "vectors"), Column("sources", "left", "fold"))
        short, truncated = self.manifest.get("short_documents"), self.manifest.get("truncated_texts")
        counts = {name: value for name, value in self.manifest["counts"].items() if isinstance(value, int) and value}
        return View(
            (
                Line(title, style="path"),
                Table("", columns, tuple(rows)),
                Line(
                    "counts: " + ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in counts.items()),
                    style="path",
                ),
                *([Line(f"{short['message']} {short['remedy']}", Status.AMBER)] if short else []),
                *([_truncation_line(**truncated)] if truncated else []),
                *(Line(f"note: {notice}", style="path") for notice in self.manifest.get("notices", ())),
                *(
                    Line(f"{finding['message']} {finding['remedy']}".rstrip(), Status(finding["status"]), "path")
                    for finding in self.manifest.get("findings", ())
                ),
            )
        )


def _truncation_line(message: str, remedy: str, **_: object) -> Line:
    """Return the line about truncated texts: a warning if there are so many that the build named a remedy."""
    return Line(f"{message} {remedy}", Status.AMBER) if remedy else Line(f"note: {message}")


class ChunkTexts:
    """The texts in a chunks.parquet, read one block of rows at a time."""

    def __init__(self, file: Path) -> None:
        self._file = parquet().ParquetFile(file)
        # Row groups are the blocks that the writer made.
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        ends = np.cumsum(sizes)
        self.blocks = [(int(end - size), int(end)) for end, size in zip(ends, sizes, strict=True)]
        """First row of each block, and the row after its last."""

    def read_block(self, block: int) -> list[str]:
        """Return all texts of a block."""
        texts: list[str] = self._file.read_row_group(block, columns=["text"])["text"].to_pylist()
        return texts

    def read(self, rows: NDArray[np.int64]) -> Iterator[str]:
        """Yield the texts of the rows, which are in ascending order."""
        for block, (start, stop) in enumerate(self.blocks):
            block_rows = rows[(rows >= start) & (rows < stop)]
            if len(block_rows):
                texts = self.read_block(block)
                yield from (texts[row - start] for row in block_rows.tolist())


def open_store(path: str | Path, *, quiet: bool = False, download: bool = True) -> Store:
    """Open a store by its folder or URL, such as ``s3://bucket/wiki``; of a URL, the local copy in the cache is opened.

    Without `download`, a URL whose copy is incomplete is refused. Raises StoreError if the store is missing,
    unfinished, damaged or of another format version, ServerError if its URL can't be read.
    """
    url = clean_url(str(path)) if is_url(path) else ""
    name = url or str(path)
    path = cached_copy(url, quiet=quiet, download=download) if url else Path(path)
    if not (path / MANIFEST).is_file():
        hint = "Make one with 'nextvec data build' or 'nextvec data import', or use 'nextvec rehearse' for a dry run."
        if unfinished_folder(path).is_dir():
            hint = "Its build was interrupted: run the same 'nextvec data build' command again to continue."
        if has_one_slash(name):
            hint = "If it is a URL, write it as text with two slashes: s3://BUCKET/FOLDER."
        raise StoreError(f"store {name}: has no {MANIFEST}. {hint}")
    try:
        content = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise StoreError(
            f"store {name}: {MANIFEST} can't be read ({error.strerror}). Check its permissions."
        ) from error
    manifest = parse_manifest(content, name)
    space, rows = Space.from_dict(manifest["space"]), manifest["rows"]
    layout = VectorLayout.of_manifest(manifest, space.dimensions, f"store {name}")
    if missing := [file for file in (*layout.names, DOCUMENTS) if file not in manifest["files"]]:
        raise StoreError(f"store {name}: {MANIFEST} is damaged (no file {missing[0]}). Build the store again.")
    # The files must agree, or row numbers would be wrong.
    vectors = map_store_vectors(path, layout, f"store {name}")
    if vectors.shape != (rows, space.dimensions):
        raise StoreError(
            f"store {name}: {VECTORS} is {vectors.shape[0]} × {vectors.shape[1]}, but {MANIFEST} says "
            f"{rows} × {space.dimensions}. Build the store again."
        )
    return Store(path, manifest, space, vectors, url=url)


def unfinished_folder(path: Path) -> Path:
    """Return the folder in which the store `path` is made; when complete, it is renamed."""
    return path.with_name(f"{path.name}.unfinished")
