"""Tables of vectors: 30 documents of 12 chunks, with texts, in the formats that users have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

DOCUMENTS, CHUNKS, D = 30, 12, 8


@pytest.fixture(scope="session")
def vectors() -> np.ndarray:
    """(documents, chunks, D) float32 unit vectors."""
    drawn = np.random.default_rng(0).normal(size=(DOCUMENTS, CHUNKS, D))
    return (drawn / np.linalg.norm(drawn, axis=2, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="session")
def columns(vectors: np.ndarray) -> dict[str, Any]:
    """The columns of a table, in order, as lists."""
    return {
        "document": [f"d{document}" for document in range(DOCUMENTS) for _ in range(CHUNKS)],
        "position": list(range(CHUNKS)) * DOCUMENTS,
        "text": [f"text {document} {chunk}" for document in range(DOCUMENTS) for chunk in range(CHUNKS)],
        "vector": vectors.reshape(-1, D).tolist(),
    }


@pytest.fixture
def save(tmp_path: Path, columns: dict[str, Any]) -> Callable[..., str]:
    """Write a parquet file with some columns changed: ``save(vector=…, document=None)``; None leaves one out."""

    def save(name: str = "t.parquet", **changes: Any) -> str:
        changed = {key: value for key, value in (columns | changes).items() if value is not None}
        if isinstance(changed.get("vector"), list):
            changed["vector"] = pa.array(changed["vector"], pa.list_(pa.float32()))
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        pq.write_table(pa.table(changed), path, row_group_size=100)
        return str(path)

    return save
