"""Read files of text by their suffix: one file, or all files in a folder and its subfolders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nextvec.core.paths import readable_name
from nextvec.data.documents import Columns, Document
from nextvec.data.readers._common import reading
from nextvec.data.readers.converters import conversion_advice
from nextvec.data.readers.csv_files import DELIMITERS, read_csv
from nextvec.data.readers.html_pages import read_html
from nextvec.data.readers.json_files import read_json, read_json_lines
from nextvec.data.readers.parquet_files import read_parquet
from nextvec.data.readers.rows import MissingTextError, Row, RowReader
from nextvec.data.readers.streams import DECOMPRESSORS, read_text, split_suffixes
from nextvec.data.readers.text import markdown_prose, plain_paragraphs
from nextvec.data.readers.wikipedia import read_dump
from nextvec.errors import CorpusError

TEXT_KINDS: dict[str, Callable[[Path], tuple[str, list[str]]]] = {
    ".txt": lambda path: plain_paragraphs(read_text(path)),
    ".md": lambda path: markdown_prose(read_text(path)),
    ".html": read_html,
    ".htm": read_html,
}
"""Suffix of a file that is one document → function that returns its title and paragraphs."""

TABLE_KINDS: dict[str, Callable[[Path, RowReader], Iterator[Row]]] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".parquet": read_parquet,
    **{kind: partial(read_csv, delimiter=delimiter) for kind, delimiter in DELIMITERS.items()},
}
"""Suffix of a file of rows → function that yields them."""

_TEMPORARY_PREFIXES = (".", "~$", "#", "__MACOSX")
_TEMPORARY_SUFFIXES = ("~", ".lock", ".tmp", ".part", ".crdownload", ".swp")
_NAMED_FILES = 3
"""Number of skipped tables that a message names."""

_OUTPUT_FOLDERS = (
    ({"manifest.json", "documents.parquet"}, "vector store"),
    ({"build.json", "lock"}, "unfinished store"),
    ({"recipe.toml", "events.jsonl"}, "run folder"),
)
"""Files by which the folders that nextvec writes are recognized. Their tables and reports are not text to train on."""


def is_readable(name: str) -> bool:
    """Return whether the suffix of a file is one that a folder may contain."""
    _, kind, compression = split_suffixes(name)
    return kind in TEXT_KINDS or (kind in TABLE_KINDS and not (compression and kind == ".parquet"))


def read_file(path: Path, columns: Columns) -> Generator[Document, None, None]:
    """Read the documents of one file. Raises CorpusError if it cannot be read, has an unknown kind, or has no text."""
    stem, kind, compression = split_suffixes(path.name)
    reader = RowReader(readable_name(stem), columns)
    if kind == ".xml":
        yield from read_dump(path)
    elif not is_readable(path.name):
        raise CorpusError(f"{path}: {_unreadable(path, kind, compression)}")
    elif kind in TABLE_KINDS:
        yield from reader.read(TABLE_KINDS[kind](path, reader), reader.default_source)
        yield from reader.grouped()
    else:
        document = _read_text_file(path, path.name, reader.default_source)
        if not document.paragraphs:
            raise CorpusError(f"{path}: the file has no text. Name a file that has some.")
        yield document


def read_folder(
    folder: Path, columns: Columns, report: Callable[[str], object] | None = None
) -> Generator[Document, None, None]:
    """Read every text file and table in a folder and its subfolders, sorted by path.

    The id of a text file is its path within the folder; the default source is the folder's name. `report` is called
    with one sentence if files were skipped: hidden files, other kinds, and tables without a column of text.

    Raises CorpusError if a file cannot be read, if two documents have one id, or if no file has a known kind.
    """
    listing = list_folder(folder)
    if not listing.files:
        skipped = listing.summary()
        raise CorpusError(
            f"{folder}: no text or table in this folder{f' (skipped {skipped})' if skipped else ''}. {listing.advice()}"
        )
    reader = RowReader(readable_name(folder.resolve().name), columns)
    has_documents = False
    for name in listing.files:
        path = folder / name
        stem, kind, _ = split_suffixes(path.name)
        if kind in TABLE_KINDS:
            prefix = readable_name((Path(name).parent / stem).as_posix())
            try:
                for document in reader.read(TABLE_KINDS[kind](path, reader), prefix):
                    has_documents = True
                    yield document
            except MissingTextError as error:
                listing.without_text.append((name, error))
        else:
            document = _read_text_file(path, name, reader.default_source)
            reader.add_id(document.id, str(path))
            if document.paragraphs:
                has_documents = True
                yield document
    for document in reader.grouped():
        has_documents = True
        yield document
    # Without any document, the first table's missing column is the cause.
    if not has_documents and listing.without_text:
        raise listing.without_text[0][1]
    if report and (skipped := listing.summary()):
        report(f"{readable_name(str(folder))}: skipped {skipped}. {listing.advice()}".rstrip())


@dataclass
class FolderListing:
    """The files of a folder: those that are read, and what is skipped."""

    files: list[str]
    """Paths within the folder, with forward slashes, sorted."""
    other_kinds: Counter[str] = field(default_factory=Counter)
    """Suffix → number of files of a kind that is not read."""
    hidden: int = 0
    """Number of hidden files, hidden folders and temporary files."""
    outputs: Counter[str] = field(default_factory=Counter)
    """Kind of a folder that nextvec wrote → number of them."""
    without_text: list[tuple[str, MissingTextError]] = field(default_factory=list)
    """Tables without a column of text."""

    def summary(self) -> str:
        """Return what is skipped, such as "2 .pdf files, 1 .png file, 3 hidden or temporary files"."""
        parts = [_count(number, f"{kind} file") for kind, number in sorted(self.other_kinds.items())]
        if self.without_text:
            names = ", ".join(readable_name(name) for name, _ in self.without_text[:_NAMED_FILES])
            more = ", …" if len(self.without_text) > _NAMED_FILES else ""
            parts.append(f"{_count(len(self.without_text), 'table')} without a column of text ({names}{more})")
        parts += [_count(number, kind) for kind, number in sorted(self.outputs.items())]
        if self.hidden:
            parts.append(_count(self.hidden, "hidden or temporary file"))
        return ", ".join(parts)

    def advice(self) -> str:
        """Return what to do about the skipped files: "" if there is nothing."""
        for kind in sorted(self.other_kinds):
            if advice := conversion_advice(Path(f"FILE{kind}"), kind, f"{kind} files"):
                return advice
        if self.without_text:
            return "Name the column of their text with --columns text=NAME."
        return "" if self.files else "Name a folder or a file with text; 'nextvec data build --help' lists the kinds."


def list_folder(folder: Path) -> FolderListing:
    """List the files below a folder. Raises CorpusError if it cannot be read, or if nextvec wrote it."""
    listing = FolderListing([])
    with reading(folder):
        for parent, folders, files in os.walk(folder, onerror=_raise):
            if output := next((kind for names, kind in _OUTPUT_FOLDERS if names <= set(files)), ""):
                if Path(parent) == folder:
                    raise CorpusError(f"{folder}: is a {output}, not a folder of text. Name the folder of the text.")
                listing.outputs[output] += 1
                folders.clear()
                continue
            listing.hidden += sum(map(_is_temporary, (*folders, *files)))
            folders[:] = [name for name in folders if not _is_temporary(name)]
            for name in filter(lambda name: not _is_temporary(name), files):
                file = Path(parent) / name
                # Only regular files: reading from a pipe or a device may never end.
                if not file.is_file():
                    continue
                if is_readable(name):
                    listing.files.append(file.relative_to(folder).as_posix())
                else:
                    _, kind, compression = split_suffixes(name)
                    listing.other_kinds[kind + compression or "extensionless"] += 1
    listing.files.sort()
    return listing


def _raise(error: OSError) -> None:
    raise error


def _is_temporary(name: str) -> bool:
    """Return whether a file or folder is hidden, or the lock or the unfinished copy of a file."""
    return name.startswith(_TEMPORARY_PREFIXES) or name.endswith(_TEMPORARY_SUFFIXES)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _read_text_file(path: Path, name: str, source: str) -> Document:
    stem, kind, _ = split_suffixes(path.name)
    title, paragraphs = TEXT_KINDS[kind](path)
    return Document(readable_name(name), title or readable_name(stem), source, tuple(paragraphs))


def _unreadable(path: Path, kind: str, compression: str) -> str:
    """Return why a file is not read, and what to do."""
    if kind == ".parquet":
        return "Parquet files are compressed inside and not read when compressed again. Unpack the file."
    if advice := conversion_advice(path, kind, "it"):
        return f"{kind} files are not read. {advice}"
    kinds = ", ".join((*TEXT_KINDS, *TABLE_KINDS, ".xml"))
    return f"unknown kind of source. Known kinds: {kinds}, compressed with {', '.join(DECOMPRESSORS)}, and folders."
