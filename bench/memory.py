"""Rows: peak memory beyond the vectors at production size; the rate where the vectors don't fit in memory.

    python bench/memory.py [--scale 1.0]

Each run is the code of `nextvec train` in a process of its own: baselines, some steps, validation. What counts is
memory that is not a file's (RssAnon, looked at ten times a second): pages of the store are the system's to drop. The
second row gives the process a limit that the kernel enforces (a memory cgroup, which needs root): what it uses itself
and two fifths of the store.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from common import arguments, finish, store_path

GROUP = Path("/sys/fs/cgroup/memory/nextvec-bench")
SHARE_IN_MEMORY = 0.4
STEPS = 400


class Sampler(threading.Thread):
    """Notes the most memory that this process holds beside files."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self):
        """Look ten times a second."""
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    self.most = max(self.most, int(line.split()[1]) // 1024)
            time.sleep(0.1)


def trial(store, limit):
    """Train for some steps, in this process; prints what it took as JSON."""
    if limit:
        (GROUP / "cgroup.procs").write_text(str(os.getpid()))
    sampler = Sampler()
    sampler.start()
    from throughput import ours

    from nextvec.evaluation.metrics import score_windows
    from nextvec.recipe import make_recipe
    from nextvec.training.setup import start_run

    objective = {"mse": 0.5, "info_nce": 0.5, "moment": 0.001, "variance": 0.001}
    recipe = make_recipe({"name": "memory", "data": {"store": store}, "objective": objective})
    with tempfile.TemporaryDirectory() as folder:
        run = start_run(recipe, Path(folder) / "run", force=True, quiet=True)
        started, sampler.most = sampler.most, 0
        step = ours(run, STEPS // 4)
        step()
        begin = time.perf_counter()
        windows = step() + step() + step()
        rate = windows / (time.perf_counter() - begin)
        score_windows(run.result.eval(), run.sets["val"].vectors, run.sets["val"].windows)
        run.close()
    print(json.dumps({"starting MB": started, "training MB": sampler.most, "windows/s": rate}))


def measured(store, limit=0):
    """What a trial in a process of its own says; `limit` in bytes."""
    if limit:
        (GROUP / "memory.limit_in_bytes").write_text(str(limit))
    command = [sys.executable, __file__, "--trial", store, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    """Measure both."""
    if "--trial" in sys.argv:
        store, limit = sys.argv[sys.argv.index("--trial") + 1 :]
        trial(store, int(limit))
        return
    chosen = arguments(__doc__)
    scale = float(sys.argv[sys.argv.index("--scale") + 1]) if "--scale" in sys.argv else 1.0
    store = store_path(chosen.store, scale)
    size = (Path(store) / "vectors.npy").stat().st_size
    free = measured(store)
    rows = [{"what": "all in memory", "store MB": size >> 20, **free}]
    notes = {}
    try:
        GROUP.mkdir(exist_ok=True)
        limit = int(max(free["starting MB"], free["training MB"]) * 2**20 + SHARE_IN_MEMORY * size)
        tight = measured(store, limit)
        rows.append({
            "what": "store larger than memory", "store MB": size >> 20, **tight, "limit MB": limit >> 20,
            "share of the rate": tight["windows/s"] / free["windows/s"],
        })  # fmt: skip
        GROUP.rmdir()
    except OSError as error:
        notes["store larger than memory"] = f"not measured: no memory cgroup can be made here ({error})"
    finish("memory", rows, **notes)


if __name__ == "__main__":
    main()
