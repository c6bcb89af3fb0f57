"""Stores of numbered documents with texts: any two of them agree in the documents that they share."""

from pathlib import Path

import numpy as np

from nextvec.data.space import Space
from nextvec.data.splits import SPLITS
from nextvec.data.store import VECTORS, DocumentTable, Store
from nextvec.data.store.writer import finish_store, write_documents, write_texts

CHUNKS_PER_DOCUMENT = 6


def write_numbered_store(path: Path, numbers: range, dimensions: int = 16, encoder: str = "toy") -> Store:
    """Write a store of the documents with these numbers, each of 6 chunks with texts."""
    vectors, texts = [], []
    for number in numbers:
        rng = np.random.default_rng(number)
        # Chunks of a document are near each other, as in real text.
        values = rng.normal(size=dimensions) + 0.7 * rng.normal(size=(CHUNKS_PER_DOCUMENT, dimensions))
        vectors.extend(values / np.linalg.norm(values, axis=1, keepdims=True))
        texts.extend(f"Chunk {position} of document {number}, it's \u00e9." for position in range(CHUNKS_PER_DOCUMENT))
    names = [f"d{number}" for number in numbers]
    rows = np.full(len(names), CHUNKS_PER_DOCUMENT)
    sources = [("left", "right's")[number % 2] for number in numbers]
    splits = np.array([SPLITS.index(("train", "train", "val")[number % 3]) for number in numbers], np.int8)
    titles = [f"Title {name}" for name in names]
    table = DocumentTable(names, titles, sources, splits, np.cumsum(rows) - rows, rows, np.arange(len(names)))
    folder = path.with_name(f"{path.name}.unfinished")
    folder.mkdir(parents=True)
    np.save(folder / VECTORS, np.array(vectors, np.float16))
    write_documents(folder, table)
    write_texts(folder, [texts[start : start + 100] for start in range(0, len(texts), 100)])
    counts = {"documents": len(names), "chunks": len(texts)}
    return finish_store(folder, path, Space(encoder, "1", dimensions), counts)
