"""Row: the gather's time per window, and the index's bytes per window, as the store grows.

    python bench/scaling.py [--whole]      with 10 million vectors as well

The vectors have D = 64, so that the largest store fits on any disk. Every size runs in a process of its own. Peak
memory and a store larger than the memory are not measured yet: they need a limit that the kernel enforces (a cgroup).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import arguments, finish, in_turns

from nextvec.core.process import keep_memory
from nextvec.data.store import DocumentTable
from nextvec.data.windows import epoch_order, gather, index_windows

DOCUMENT = 50


def measure(count):
    """Windows per second of the gather of batches of 512, and the bytes of the index and the order."""
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
        windows = index_windows(table, "train", 5)
        order = epoch_order(len(windows), 0, 0)
        place = [0]

        def batches():
            for _ in range(50):
                place[0] = (place[0] + 512) % (len(order) - 512)
                gather(vectors, windows, order[place[0] : place[0] + 512])
            return 50 * 512

        rate = in_turns({"gather": batches}, 5)["gather"]
        return {
            "vectors": count,
            "windows/s": rate["median"],
            "spread": rate["spread"],
            "bytes a window": (windows.targets.nbytes * 2 + order.nbytes) / len(windows),
        }


def main():
    """Measure every size in a process of its own."""
    arguments(__doc__)
    if "--one" in sys.argv:
        at = sys.argv.index("--one")
        print(json.dumps(measure(int(sys.argv[at + 1]))))
        return
    rows = []
    sizes = [10_000, 100_000, 1_000_000, *([10_000_000] if "--whole" in sys.argv else [])]
    for count in sizes:
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(count)], capture_output=True, text=True, check=True
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    finish("scaling", rows)


if __name__ == "__main__":
    main()
