"""Measure the gather's windows per second and the index's bytes per window as the store grows.

    python bench/scaling.py [--whole]      # --whole adds 10 million vectors

The vectors have D = 64, so that the largest store needs about 1.3 GB of disk. Every size runs in a separate process.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import arguments, finish, in_turns

from nextvec.core.process import keep_memory
from nextvec.data.order import EpochOrder
from nextvec.data.store import DocumentTable
from nextvec.data.windows import gather, index_windows

DOCUMENT_ROWS = 50


def measure(count):
    """Return the windows per second of gathering batches of 512, and the bytes of the index per window."""
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        array = np.lib.format.open_memmap(path, "w+", np.float16, (count, 64))
        for row in range(0, count, 2**16):
            array[row : row + 2**16] = 0.1
        array.flush()
        del array
        mapped = np.load(path, mmap_mode="r")
        vectors = torch.from_numpy(mapped)
        documents = count // DOCUMENT_ROWS
        names = [""] * documents
        rows = np.full(documents, DOCUMENT_ROWS)
        table = DocumentTable(
            names, names, names, np.zeros(documents, np.int8), np.cumsum(rows) - rows, rows, np.arange(documents)
        )
        windows = index_windows(table, "train", 5)
        epochs = (EpochOrder(len(windows), 0, epoch).batches(512) for epoch in itertools.count())
        batches = itertools.chain.from_iterable(epochs)

        def gather_batches():
            for index_B in itertools.islice(batches, 50):
                gather(vectors, windows, index_B)
            return 50 * 512

        rate = in_turns({"gather": gather_batches}, 5)["gather"]
        return {
            "vectors": count,
            "windows/s": rate["median"],
            "spread": rate["spread"],
            "bytes per window": windows.targets.nbytes * 2 / len(windows),
        }


def main():
    """Measure every size in a separate process."""
    arguments(__doc__)
    if "--count" in sys.argv:
        position = sys.argv.index("--count")
        print(json.dumps(measure(int(sys.argv[position + 1]))))
        return
    rows = []
    sizes = [10_000, 100_000, 1_000_000, *([10_000_000] if "--whole" in sys.argv else [])]
    for count in sizes:
        process = subprocess.run(
            [sys.executable, __file__, "--count", str(count)], capture_output=True, text=True, check=True
        )
        rows.append(json.loads(process.stdout.splitlines()[-1]))
    finish("scaling", rows)


if __name__ == "__main__":
    main()
