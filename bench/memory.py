"""Measure peak memory beyond the vectors, and the training rate if the vectors do not fit in memory.

    python bench/memory.py [--scale 1.0]

Each trial runs the code of `nextvec train` in a separate process: baselines, 400 steps, validation. It samples the
anonymous memory (RssAnon) ten times per second; pages of the store are not counted, since the system can drop them.
The second row runs under a memory cgroup (needs root), whose limit is the first row's peak plus 40 % of the store.
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
"""Fraction of the store that fits in memory in the second row."""
STEPS = 400


class Sampler(threading.Thread):
    """Records the peak of this process's anonymous memory, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    def run(self):
        """Read RssAnon ten times per second."""
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    self.peak = max(self.peak, int(line.split()[1]) // 1024)
            time.sleep(0.1)


def trial(store, limit):
    """Train 400 steps in this process and print memory and rate as JSON."""
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
        started, sampler.peak = sampler.peak, 0
        step = ours(run, STEPS // 4)
        step()
        begin = time.perf_counter()
        windows = step() + step() + step()
        rate = windows / (time.perf_counter() - begin)
        score_windows(run.eval_model.eval(), run.sets["val"].vectors, run.sets["val"].windows)
        run.close()
    print(json.dumps({"starting MB": started, "training MB": sampler.peak, "windows/s": rate}))


def run_trial(store, limit=0):
    """Return the results of a trial in a separate process; `limit` is in bytes, 0 for none."""
    if limit:
        (GROUP / "memory.limit_in_bytes").write_text(str(limit))
    command = [sys.executable, __file__, "--trial", store, str(limit)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(process.stderr)
    return json.loads(process.stdout.splitlines()[-1])


def main():
    """Measure both rows."""
    if "--trial" in sys.argv:
        store, limit = sys.argv[sys.argv.index("--trial") + 1 :]
        trial(store, int(limit))
        return
    options = arguments(__doc__)
    scale = float(sys.argv[sys.argv.index("--scale") + 1]) if "--scale" in sys.argv else 1.0
    store = store_path(options.store, scale)
    size = sum(file.stat().st_size for file in Path(store).glob("vectors*.npy"))
    unlimited = run_trial(store)
    rows = [{"what": "all in memory", "store MB": size >> 20, **unlimited}]
    notes = {}
    try:
        GROUP.mkdir(exist_ok=True)
        limit = int(max(unlimited["starting MB"], unlimited["training MB"]) * 2**20 + SHARE_IN_MEMORY * size)
        limited = run_trial(store, limit)
        rows.append(
            {
                "what": "store larger than memory",
                "store MB": size >> 20,
                **limited,
                "limit MB": limit >> 20,
                "share of the rate": limited["windows/s"] / unlimited["windows/s"],
            }
        )
        GROUP.rmdir()
    except OSError as error:
        notes["store larger than memory"] = f"not measured: cannot create a memory cgroup ({error})"
    finish("memory", rows, **notes)


if __name__ == "__main__":
    main()
