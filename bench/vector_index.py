"""Compare a LanceDB table with the exact index: recall@10, latency of one and of 32 queries, build time and size.

python bench/vector_index.py [--store STORE --model MODEL] [--synthetic ROWS] [--queries N]

With a store, the queries are a model's real ones for windows of val and ood. Synthetic vectors lie in groups, and the
queries are as near to a vector as predictions are to their targets (cosine 0.55). Times are wall-clock milliseconds.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import OUT, finish
from numpy.typing import NDArray

from nextvec.data.space import SYNTHETIC, Space
from nextvec.data.store import VECTORS, DocumentTable, Store, open_store
from nextvec.data.store.writer import finish_store, unfinished_store, write_documents
from nextvec.inference.index import StoreIndex
from nextvec.inference.index_types import Index
from nextvec.inference.lancedb_build import build_index
from nextvec.inference.lancedb_index import open_table_index
from nextvec.inference.load import load_model

K, BATCH, DIMENSIONS, GROUP = 10, 32, 384, 50


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Return vectors divided by their lengths."""
    result: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return result


def real_queries(store: Store, name: str, count: int) -> NDArray[np.float32]:
    """Return a model's queries (Q, D) for random windows of val and ood."""
    model, documents, rng = load_model(name), store.documents, np.random.default_rng(0)
    length = model.context_length
    usable = np.flatnonzero((documents.splits != 0) & (documents.rows > length))
    chosen = rng.choice(usable, count)
    starts = documents.first_row[chosen] + rng.integers(0, documents.rows[chosen] - length)
    contexts = np.stack([store.vectors[start : start + length] for start in starts])
    return np.asarray(model.retrieval_vectors(unit(contexts.astype(np.float32))))


def synthetic_store(rows: int) -> Store:
    """Return a store of random vectors in groups of 50 around common centers, which is built on first use."""
    path, rng = OUT / f"vectors-{rows}", np.random.default_rng(0)
    if path.is_dir():
        return open_store(path)
    count = rows // GROUP
    names, sizes = [f"d{number}" for number in range(count)], np.full(count, GROUP)
    table = DocumentTable(names, names, ["s"] * count, np.zeros(count, np.int8), np.arange(count) * GROUP, sizes, sizes)
    OUT.mkdir(parents=True, exist_ok=True)
    with unfinished_store(path) as folder:
        shape = (count * GROUP, DIMENSIONS)
        vectors = np.lib.format.open_memmap(folder / VECTORS, mode="w+", dtype=np.float16, shape=shape)
        for first in range(0, count, 200):
            centers = rng.normal(size=(min(200, count - first), 1, DIMENSIONS))
            members = unit(centers + rng.normal(size=(len(centers), GROUP, DIMENSIONS)))
            vectors[first * GROUP : (first + len(centers)) * GROUP] = members.reshape(-1, DIMENSIONS)
        vectors.flush()
        write_documents(folder, table)
        return finish_store(folder, path, Space(SYNTHETIC, "1", DIMENSIONS), {"documents": count})


def synthetic_queries(store: Store, count: int) -> NDArray[np.float32]:
    """Return queries (Q, D) at a cosine of about 0.55 to random vectors of a store."""
    rng = np.random.default_rng(1)
    targets = store.vectors[np.sort(rng.choice(len(store.vectors), count, replace=False))].astype(np.float32)
    return unit(0.55 * targets + 0.835 * unit(rng.normal(size=targets.shape)))


def median_ms(search: Callable[[NDArray[np.float32]], Any], batches: list[NDArray[np.float32]]) -> float:
    """Return the median time of a search in milliseconds; the first one warms up."""
    times = []
    for batch in batches:
        begin = time.perf_counter()
        search(batch)
        times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times[1:])


def measure(index: Index, queries: NDArray[np.float32], expected: NDArray[np.int64]) -> dict[str, float]:
    """Return recall and latencies of an index."""
    rows = np.concatenate([index.search(part, K)[0] for part in np.array_split(queries, -(-len(queries) // BATCH))])
    hits = sum(len(set(ours) & set(exact)) for ours, exact in zip(rows.tolist(), expected.tolist(), strict=True))
    singles = [queries[number : number + 1] for number in range(min(40, len(queries)))]
    batches = [queries[start : start + BATCH] for start in range(0, min(5 * BATCH, len(queries)), BATCH)]
    return {
        f"recall@{K}": hits / expected.size,
        "1 query ms": median_ms(lambda batch: index.search(batch, K), singles),
        f"{BATCH} queries ms": median_ms(lambda batch: index.search(batch, K), batches),
    }


def folder_megabytes(folder: Path) -> float:
    """Return the size of a folder's files in MB."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def compare(store: Store, queries: NDArray[np.float32], where: str) -> list[dict[str, Any]]:
    """Build the table of a store and return the rows of both indexes, with and without a filter."""
    folder = OUT / "lancedb"
    shutil.rmtree(folder, ignore_errors=True)
    begin = time.perf_counter()
    built = build_index(store, str(folder), quiet=True)
    seconds = time.perf_counter() - begin
    exact, table = StoreIndex(store), open_table_index(built.index)
    facts = {"chunks": len(exact), "D": store.dimensions}
    rows: list[dict[str, Any]] = []
    for condition in ("", where) if where else ("",):
        pair = (exact.filter(condition), table.filter(condition)) if condition else (exact, table)
        expected = np.concatenate([pair[0].search(queries[n : n + BATCH], K)[0] for n in range(0, len(queries), BATCH)])
        for name, index in zip(("exact", f"LanceDB {built.vector_index}"), pair, strict=True):
            costs: dict[str, Any] = {"build s": "", "MB": store.vectors.nbytes / 1e6}
            if index is pair[1]:
                costs = {"build s": seconds, "MB": folder_megabytes(folder)}
            rows.append({"index": name, "filter": condition, **facts, **costs, **measure(index, queries, expected)})
            rows[-1]["chunks"] = len(index)
    shutil.rmtree(folder)
    return rows


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="", help="store of the model's space; its rows are compared row by row")
    parser.add_argument("--model", default="wiki-minilm")
    parser.add_argument("--synthetic", type=int, default=0, help="number of synthetic vectors")
    parser.add_argument("--queries", type=int, default=160)
    options = parser.parse_args()
    rows = []
    if options.store:
        store = open_store(options.store)
        rows += compare(store, real_queries(store, options.model, options.queries), "split = 'val'")
    if options.synthetic or not options.store:
        store = synthetic_store(options.synthetic or 50_000)
        rows += compare(store, synthetic_queries(store, options.queries), "")
    finish("vector_index", rows)


if __name__ == "__main__":
    main()
