"""The input of the commands: texts from files, folders or standard input, and vectors from files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.chunking import Chunker, chunk_document
from nextvec.data.documents import Document
from nextvec.data.npz.files import open_contexts
from nextvec.data.readers import read_documents
from nextvec.data.readers.text import split_paragraphs
from nextvec.data.space import require_same
from nextvec.errors import CorpusError, InputError, one_line
from nextvec.inference.model import LatentVectorModel

STANDARD_INPUT = ("-", "/dev/stdin")
VECTOR_ENDINGS = (".npy", ".npz", ".parquet")

VECTOR_COLUMNS = ("vector", "embedding")
"""Columns of a .parquet file with the vectors, one list per row."""
DOCUMENT_COLUMN = "document"
"""Optional column of a .parquet file: consecutive rows with the same value are one context."""


@dataclass(frozen=True)
class TextDocument:
    """The chunks of one document."""

    name: str
    """Its title."""
    texts: tuple[str, ...]


def read_texts(source: str, chunker: Chunker) -> list[TextDocument]:
    """Return the documents of a source of text that have chunks; `-` is standard input.

    Raises CorpusError if the source cannot be read or no document has a chunk.
    """
    documents = [_standard_input()] if source in STANDARD_INPUT else list(read_documents(source))
    chunked = [
        TextDocument(document.title or document.id, tuple(chunk.text for chunk in chunk_document(document, chunker)))
        for document in documents
    ]
    kept = [document for document in chunked if document.texts]
    if not kept:
        name = "standard input" if source in STANDARD_INPUT else source
        is_empty = not any(paragraph.strip() for document in documents for paragraph in document.paragraphs)
        if is_empty or not chunker.min_chars:
            raise CorpusError(f"{name}: has no text. Pass at least one paragraph.")
        raise CorpusError(f"{name}: no paragraph has the model's {chunker.min_chars} characters. Pass a longer text.")
    return kept


def _standard_input() -> Document:
    """Return the text of standard input as one document with paragraphs between blank lines."""
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"standard input: not valid UTF-8 (byte {error.start:,}). Convert it to UTF-8.") from error
    return Document("-", "standard input", "", tuple(split_paragraphs(text)))


def is_vector_file(source: str) -> bool:
    """Return whether a source is a file of vectors; a .parquet file is one if it has a column of vectors."""
    path = Path(source)
    if not path.name.lower().endswith(VECTOR_ENDINGS) or not path.is_file():
        return False
    return path.suffix.lower() != ".parquet" or _vector_column(path) is not None


def read_vectors(source: str, model: LatentVectorModel) -> NDArray[Any] | list[NDArray[np.float32]]:
    """Return the contexts of a file of vectors.

    A .npy file contains (S, D) or (N, S, D), an .npz file `context_sequences` (N, S, D), a .parquet file a column
    `vector`, and a column `document` if it has several contexts. Raises InputError for anything else, SpaceError if the
    file names another embedding space.
    """
    path = Path(source)
    if path.suffix.lower() == ".npz":
        contexts, space = open_contexts(path)
        if space is not None:
            require_same(model.space, space, f"model {model.source} and {path}")
        return contexts.read()
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    try:
        # Mapped: a header that promises too much cannot fill the memory.
        loaded: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"vectors {path}: not a readable .npy file ({one_line(error)}). Save it again.") from error
    return loaded


def _vector_column(path: Path) -> str | None:
    """Return the name of the column of vectors in a .parquet file; None if it has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"vectors {path}: not a readable .parquet file ({one_line(error)}). Save it again.") from error
    for name in VECTOR_COLUMNS:
        if name not in schema.names:
            continue
        kind = schema.field(name).type
        is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
        if is_list and pa.types.is_floating(kind.value_type):
            return name
    return None


def _read_parquet(path: Path) -> list[NDArray[np.float32]]:
    """Return one context per document of a .parquet file of vectors."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = _vector_column(path)
    assert name is not None, path
    try:
        has_documents = DOCUMENT_COLUMN in pq.read_schema(path).names
        table = pq.read_table(path, columns=[name, *([DOCUMENT_COLUMN] if has_documents else [])])
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"vectors {path}: can't be read ({one_line(error)}). Save it again.") from error
    rows = table[name].to_pylist()
    lengths = {None if row is None else len(row) for row in rows}
    if len(lengths) != 1 or None in lengths:
        raise InputError(f"vectors {path}: the rows of column '{name}' have several lengths. Save one length D.")
    vectors_ND = np.array(rows, np.float32)
    if not has_documents:
        return [vectors_ND]
    # A context starts where the document changes.
    documents: Sequence[Any] = table[DOCUMENT_COLUMN].to_pylist()
    starts = [0, *(n for n in range(1, len(rows)) if documents[n] != documents[n - 1]), len(rows)]
    return [vectors_ND[start:stop] for start, stop in pairwise(starts)]
