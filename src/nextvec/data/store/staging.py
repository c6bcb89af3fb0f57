"""Staged chunks of a build: documents that were read and chunked, before repeats are dropped.

A staged file is a parquet file of about 2,000 documents that appears in one step. Files are named by their unit of
sources and a number in it; a unit is complete when its facts are written. A build that continues reads the sources of
the other units again, but chunks only the documents that no staged file contains.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nextvec.core.console import progress, show
from nextvec.core.files import write_atomic, write_json, writing
from nextvec.data.chunking import Chunker, chunk_document, text_length
from nextvec.data.documents import Columns, Document
from nextvec.data.readers import read_documents
from nextvec.errors import StoreError

UNIT_BYTES = 8 * 2**20
"""Small files are read together up to this size, because each unit has files of its own."""
DOCUMENTS_PER_FILE, CHARACTERS_PER_FILE = 2_000, 64 * 2**20
"""A staged file ends at the first of these limits, because it is in memory as a whole."""

_TEXTS = ("id", "title", "source", "group")
_NUMBERS = ("origin", "paragraphs_read", "too_short", "lines")
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in _TEXTS]
    + [(name, pa.int64()) for name in _NUMBERS]
    + [("texts", pa.list_(pa.string())), ("paragraphs", pa.list_(pa.int64())), ("hashes", pa.list_(pa.uint64()))]
)


@dataclass(frozen=True)
class StagingJob:
    """What decides the staged chunks of a source, and where they are written."""

    folder: Path
    columns: Columns
    chunker: Chunker
    limit: int | None = None
    """Maximum number of documents of each source."""
    before_write: Callable[[], object] = lambda: None
    """Called before a staged file is written; an error that it raises prevents that."""


@dataclass(frozen=True)
class Unit:
    """Consecutive sources that are read by one process into staged files of their own."""

    number: int
    sources: tuple[tuple[int, str], ...]
    """Number and name of each source."""
    are_files: bool
    """Whether they are files and folders, which other machines may see, too."""


def divide_sources(sources: Sequence[str]) -> list[Unit]:
    """Divide sources into units: small files together up to UNIT_BYTES, any other source alone."""
    units: list[Unit] = []
    room = 0
    for origin, source in enumerate(sources):
        path = Path(source)
        # Standard input is a file in /dev, and a folder has any size.
        are_files = (path.is_file() or path.is_dir()) and not source.startswith(("/dev/", "/proc/"))
        size = path.stat().st_size if are_files and path.is_file() else UNIT_BYTES
        if not units or size > room or are_files != units[-1].are_files:
            units.append(Unit(len(units), (), are_files))
            room = UNIT_BYTES
        units[-1] = replace(units[-1], sources=(*units[-1].sources, (origin, source)))
        room -= size
    return units


def stage_chunks(
    job: StagingJob, sources: Sequence[str], *, quiet: bool = False, run: Callable[..., Iterator[int]] | None = None
) -> None:
    """Write the staged files that the folder still lacks.

    All documents are kept, with all chunks that are long enough. With `run`, several units of files are staged by
    ``run(job, units)``, which yields their numbers of documents; other sources are read here. Raises the errors of
    `read_documents`, OutputError if a file cannot be written, StoreError if one cannot be read again.
    """
    units = divide_sources(sources)
    with progress("reading text", unit="documents", quiet=quiet) as task:
        missing = []
        for unit in units:
            facts = unit_facts(job.folder, unit.number)
            if facts is None:
                missing.append(unit)
            else:
                task.advance(facts["documents"])
        elsewhere = [unit for unit in missing if unit.are_files]
        if run is not None and len(elsewhere) > 1:
            for documents in run(job, elsewhere):
                task.advance(documents)
            missing = [unit for unit in missing if not unit.are_files]
        for unit in missing:
            stage_unit(job, unit, task.advance)
    all_facts = [unit_facts(job.folder, unit.number) for unit in units]
    show([note for facts in all_facts if facts for note in facts["notes"]], quiet=quiet)


def stage_unit(job: StagingJob, unit: Unit, advance: Callable[[int], object] = lambda amount: None) -> None:
    """Read and chunk the sources of a unit, and write its staged files that are missing; `advance` counts documents.

    If the sources no longer begin with the staged documents (a dataset of the hub can change), all are read again.
    """
    staged = [
        document_id for part in _read_files(_files_of(job.folder, unit.number), ["id"]) for document_id in part["id"]
    ]
    number = len(_files_of(job.folder, unit.number))
    notes: list[str] = []
    documents = _numbered_documents(unit.sources, job.columns, job.limit, notes.append)
    # Skip the staged documents. Chunks of another input must never be mixed with those of this one.
    if staged != [document.id for _, _, document in islice(documents, len(staged))]:
        with writing(job.folder):
            for file in _files_of(job.folder, unit.number):
                file.unlink()
        number, staged = 0, []
        documents = _numbered_documents(unit.sources, job.columns, job.limit, notes.append)
    advance(len(staged))
    # Short chunks are dropped by `_stage_document`, not by the chunker, because they are counted.
    keep_short = dataclasses.replace(job.chunker, min_chars=0)
    rows: list[dict[str, Any]] = []
    count, characters = len(staged), 0
    for origin, first, document in documents:
        rows.append(_stage_document(origin, first, document, keep_short, job.chunker.min_chars))
        count, characters = count + 1, characters + sum(map(len, document.paragraphs))
        advance(1)
        # A staged file is complete at either limit; the next starts empty.
        if len(rows) == DOCUMENTS_PER_FILE or characters >= CHARACTERS_PER_FILE:
            _write_staged(job, unit, number, rows)
            number, rows, characters = number + 1, [], 0
    if rows:
        _write_staged(job, unit, number, rows)
        number += 1
    job.before_write()
    write_json(_facts_file(job.folder, unit.number), {"documents": count, "files": number, "notes": notes}, shared=True)


def unit_facts(folder: Path, unit: int) -> dict[str, Any] | None:
    """Return the number of documents and the notes of a complete unit; None if a file is missing."""
    try:
        facts: dict[str, Any] = json.loads(_facts_file(folder, unit).read_text(encoding="utf-8"))
        return facts if len(_files_of(folder, unit)) == facts["files"] else None
    except (FileNotFoundError, ValueError, KeyError):
        return None


def staged_files(folder: Path) -> list[Path]:
    """Return the staged files in order."""
    return sorted(folder.glob("*.parquet"))


def read_staged_chunks(folder: Path, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """Yield the columns of each staged file in order. Raises StoreError if a file cannot be read."""
    yield from _read_files(staged_files(folder), columns)


def _read_files(files: Sequence[Path], columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    for file in files:
        try:
            yield pq.read_table(file, columns=list(columns)).to_pydict()
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"{file}: this staged file of an unfinished build can't be read. Start again with --restart."
            ) from error


def read_staged_ids(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the id and the group of each document that was read, also of those that are dropped later."""
    for part in read_staged_chunks(folder, ["id", "group"]):
        yield from zip(part["id"], part["group"], strict=True)


def _numbered_documents(
    sources: Sequence[tuple[int, str]], columns: Columns, limit: int | None, report: Callable[[str], object]
) -> Iterator[tuple[int, int, Document]]:
    """Yield all documents, each with the number of its source and of its first paragraph within the source."""
    for origin, source in sources:
        first = 0
        for document in read_documents(source, columns, limit=limit, report=report):
            yield origin, first, document
            first += len(document.paragraphs)


def _stage_document(origin: int, first: int, document: Document, chunker: Chunker, min_chars: int) -> dict[str, Any]:
    """Return a document's row of a staged file."""
    chunks = chunk_document(document, chunker)
    long_enough = [chunk for chunk in chunks if text_length(chunk.text) >= min_chars]
    return {
        "id": document.id,
        "title": document.title,
        "source": document.source,
        "group": document.group,
        "origin": origin,
        "texts": [chunk.text for chunk in long_enough],
        "paragraphs": [first + chunk.paragraph for chunk in long_enough],
        "hashes": [hash_text(chunk.text) for chunk in long_enough],
        "paragraphs_read": len(document.paragraphs),
        "too_short": len(chunks) - len(long_enough),
        "lines": sum(
            len(line.strip()) >= max(min_chars, 1) for text in document.paragraphs for line in text.splitlines()
        ),
    }


def hash_text(text: str) -> int:
    """Return 64 bits by which equal texts are found.

    Among 10 million texts, the probability that two different ones share a hash is 3e-6; one of them would be dropped.
    """
    # "surrogatepass": text from a source may contain lone surrogates, which UTF-8 cannot encode.
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _files_of(folder: Path, unit: int) -> list[Path]:
    return sorted(folder.glob(f"{unit:06d}-*.parquet"))


def _facts_file(folder: Path, unit: int) -> Path:
    return folder / f"{unit:06d}.json"


def _write_staged(job: StagingJob, unit: Unit, number: int, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    job.before_write()
    file = job.folder / f"{unit.number:06d}-{number:06d}.parquet"
    write_atomic(file, lambda target: pq.write_table(table, target, compression="zstd"), shared=True)
