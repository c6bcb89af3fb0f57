"""Open, index and read a store of 10^9 vectors (D = 768) whose files are empty, and measure memory and time.

    python bench/scale.py [--vectors N] [--folder FOLDER]

The vectors are sparse files: 1.5 TB of addresses, about 0.1 GB of disk. The table of 5·10^7 documents is real. Both
stay in the folder, and are used again. A separate process measures, so that its memory is that of a reader of a store.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from common import OUT, finish

from nextvec.core.files import write_json
from nextvec.data.order import EpochOrder
from nextvec.data.space import Space
from nextvec.data.splits import SPLITS
from nextvec.data.store import DOCUMENTS, open_store
from nextvec.data.store.documents import ROW_GROUP
from nextvec.data.store.manifest import FORMAT_VERSION, MANIFEST, manifest_checksum
from nextvec.data.store.vectors import VectorLayout
from nextvec.data.windows import gather, index_windows, sample

MEAN_ROWS = 20
"""Chunks of a document: from 5 to 35."""
CONTEXT = 5
BATCHES, GATHERED = 500, 10
"""Batches that are located, and those that are gathered as well: each window is a page fault of an empty file."""


def document_rows(documents: int) -> np.ndarray:
    """Return the number of chunks of each document: random, but of known sum."""
    rows = np.random.default_rng(0).integers(5, 2 * MEAN_ROWS - 4, documents // 2, np.int32)
    return np.concatenate([rows, 2 * MEAN_ROWS - rows, np.full(documents % 2, MEAN_ROWS, np.int32)])


def write_store(folder: Path, vectors: int, dimensions: int = 768) -> None:
    """Write a store with sparse files of vectors and a complete table of documents."""
    folder.mkdir(parents=True)
    layout = VectorLayout.plan(vectors, dimensions, np.float16)
    for shard, name in enumerate(layout.names):
        with (folder / name).open("wb") as file:
            header = layout.header(shard)
            file.write(header)
            file.truncate(len(header) + layout.rows_S[shard] * layout.row_bytes)
    rows_M = document_rows(vectors // MEAN_ROWS)
    _write_documents(folder / DOCUMENTS, rows_M)
    manifest = {
        "format": FORMAT_VERSION,
        "space": Space("simulated", "", dimensions).to_dict(),
        "rows": layout.rows,
        "dtype": layout.dtype.name,
        **({"shards": list(layout.rows_S)} if len(layout.rows_S) > 1 else {}),
        "counts": {},
        "files": dict.fromkeys((*layout.names, DOCUMENTS), "0" * 64),
    }
    manifest["checksum"] = manifest_checksum(manifest)
    write_json(folder / MANIFEST, manifest)


def _write_documents(file: Path, rows_M: np.ndarray) -> None:
    """Write a table of documents by row group: 98 % train, 1 % val, 1 % ood."""
    texts = ("id", "title", "source", "split")
    types = {name: pa.string() if name in texts else pa.int64() for name in (*texts, "first_row", "rows", "group")}
    first_row = 0
    with pq.ParquetWriter(
        file, pa.schema(types.items()), compression="lz4", use_dictionary=["source", "split"]
    ) as writer:
        for start in range(0, len(rows_M), ROW_GROUP):
            rows_B = rows_M[start : start + ROW_GROUP].astype(np.int64)
            numbers_B = np.arange(start, start + len(rows_B))
            ids = pa.array(numbers_B).cast(pa.string())
            first_B = first_row + np.cumsum(rows_B) - rows_B
            columns = {
                "id": ids,
                "title": ids,
                "source": pa.array(numbers_B % 8).cast(pa.string()),
                "split": pa.array(SPLITS).take(pa.array(np.maximum(numbers_B % 100 - 97, 0))),
                "first_row": pa.array(first_B),
                "rows": pa.array(rows_B),
                "group": pa.array(numbers_B),
            }
            writer.write_table(pa.table({name: columns[name] for name in types}))
            first_row += int(rows_B.sum())


class MemoryPeak:
    """The peak of the process's own memory, in MB: without pages of files, which the system can drop."""

    def __init__(self) -> None:
        self.megabytes = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            status = Path("/proc/self/status").read_text()
            line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
            self.megabytes = max(self.megabytes, int(line.split()[1]) / 1000)

    def end(self) -> float:
        """Stop watching and return the peak."""
        self._stop.set()
        self._thread.join()
        return self.megabytes


def measure(folder: Path) -> list[dict[str, Any]]:
    """Return what was measured, with its unit."""
    rows: list[dict[str, Any]] = []
    clock = time.perf_counter()

    def record(what: str, value: float, unit: str) -> None:
        nonlocal clock
        rows.append({"what": what, "value": value, "unit": unit})
        clock = time.perf_counter()

    peak = MemoryPeak()
    clock = time.perf_counter()
    store = open_store(folder)
    record("open the store", time.perf_counter() - clock, "s")
    documents = store.documents
    record("read the table of documents", time.perf_counter() - clock, "s")
    sets = {split: index_windows(documents, split, CONTEXT) for split in SPLITS}
    record("index the windows of all splits", time.perf_counter() - clock, "s")
    train = sets["train"]
    # The epoch is resumed in its middle, which needs nothing of its first half.
    vectors = torch.from_numpy(store.vectors)
    for size in (32, 512):
        batches = EpochOrder(len(train), seed=0, epoch=3).batches(size, first=len(train) // size // 2)
        times: dict[str, list[float]] = {"order": [], "locate": [], "gather": []}
        for number in range(BATCHES):
            marks = [time.perf_counter()]
            index_B = next(batches)
            marks.append(time.perf_counter())
            located = train.take(index_B)
            marks.append(time.perf_counter())
            if number < GATHERED:
                gather(vectors, located)
            marks.append(time.perf_counter())
            for name, seconds in zip(times, np.diff(marks), strict=True):
                times[name].append(1e6 * seconds)
        record(f"order of a batch of {size}, mean", statistics.mean(times["order"]), "µs")
        record(f"locate a batch of {size}, median", statistics.median(times["locate"]), "µs")
        record(f"locate a batch of {size}, 99 %", float(np.quantile(times["locate"], 0.99)), "µs")
        record(f"gather a batch of {size}, median", statistics.median(times["gather"][:GATHERED]), "µs")
    sample(len(train), 100_000, seed=0)
    record("sample 100,000 windows for ridge", time.perf_counter() - clock, "s")
    numbers = np.random.default_rng(1).integers(0, len(documents), 10).tolist()
    names = [documents.ids[number] for number in numbers]
    record("read the ids of 10 documents", time.perf_counter() - clock, "s")
    assert names == [str(number) for number in numbers]
    record("peak memory", peak.end(), "MB")
    counts = {"vectors": len(vectors), "documents": len(documents), "train windows": len(train)}
    return [{"what": what, "value": float(count), "unit": ""} for what, count in counts.items()] + rows


def main() -> None:
    """Make the store, and measure in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=10**9)
    parser.add_argument("--folder", type=Path, help="default: in the folder of the results")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder or OUT / f"scale-{options.vectors}"
    if options.measure:
        print(json.dumps(measure(folder)))
        return
    if not folder.exists():
        begin = time.perf_counter()
        write_store(folder, options.vectors)
        print(f"wrote {folder} in {time.perf_counter() - begin:.0f} s")
    command = [sys.executable, __file__, "--measure", "--folder", str(folder)]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    finish("scale", json.loads(process.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
