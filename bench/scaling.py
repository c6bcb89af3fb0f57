"""Rows: time per window and memory beyond the vectors as the store grows; a store larger than the memory allowed.

    python bench/scaling.py [--rows 10000 100000 1000000]

The vectors are random numbers of D = 64 (what is measured doesn't read them closely). Every size runs in a process of
its own, so that peaks of memory are its own; the last one runs again with its pages dropped from memory before each
round, which is what a store that doesn't fit looks like to the gather.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import arguments, finish, in_turns

from nextvec.data.store import DocumentTable
from nextvec.data.windows import epoch_order, gather, index_windows
from nextvec.runtime import keep_memory

DOCUMENT = 50


def measure(count, dropped):
    """Windows per second of the gather of batches of 512, and the megabytes it takes beyond the vectors."""
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        written = np.lib.format.open_memmap(path, "w+", np.float16, (count, 64))
        for start in range(0, count, 2**16):
            written[start : start + 2**16] = 0.1
        written.flush()
        del written
        mapped = np.load(path, mmap_mode="r")
        vectors = torch.from_numpy(mapped)
        documents = count // DOCUMENT
        names = [""] * documents
        rows = np.full(documents, DOCUMENT)
        table = DocumentTable(
            names, names, names, np.zeros(documents, np.int8), np.cumsum(rows) - rows, rows, np.arange(documents)
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        windows = index_windows(table, "train", 5)
        order = epoch_order(len(windows), 0, 0)
        place = [0]

        def batches():
            if dropped:
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            for _ in range(200):
                place[0] = (place[0] + 512) % (len(order) - 512)
                gather(vectors, windows, order[place[0] : place[0] + 512])
            return 200 * 512

        rate = in_turns({"gather": batches}, 5)["gather"]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # What was written and mapped counts in the peak of before already; pages of the map count again.
        return {
            "vectors": count,
            "cold": dropped,
            "windows/s": rate["median"],
            "spread": rate["spread"],
            "MB beyond vectors": max(0.0, (peak - before) / 1024 - mapped.nbytes / 2**20),
            "bytes a window": (windows.targets.nbytes * 2 + order.nbytes) / len(windows),
        }


def main():
    """Measure every size in a process of its own."""
    arguments(__doc__)
    if "--one" in sys.argv:
        at = sys.argv.index("--one")
        print(json.dumps(measure(int(sys.argv[at + 1]), sys.argv[at + 2] == "cold")))
        return
    rows = []
    for count, kind in (
        (10_000, "warm"),
        (100_000, "warm"),
        (1_000_000, "warm"),
        (10_000_000, "warm"),
        (1_000_000, "cold"),
    ):
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(count), kind], capture_output=True, text=True, check=True
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    finish("scaling", rows)


if __name__ == "__main__":
    main()
