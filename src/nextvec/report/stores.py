"""A vector store in a few lines: what is in it, how it is divided, and what was left out on the way."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nextvec.data.split import SPLITS
from nextvec.data.store import Store


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
