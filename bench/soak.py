"""Soak test: train for hours with a watcher attached; memory may grow by at most 2 %, open files not at all.

    python bench/soak.py --minutes 120

Small GRU runs on a synthetic store follow each other in this process and save every two seconds. A thread reads the
newest run's events five times per second, as `nextvec watch` does, and samples resident memory and open files. The
result compares the medians of the last and the second fifth of the samples; caches fill during the first fifth.
The exit code is 1 if memory grew by more than 2 % or the number of open files grew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from nextvec.core.events import read_events
from nextvec.data.synthetic.generate import PRESETS, scaled, synthesize
from nextvec.monitor.state import read_state
from nextvec.recipe import make_recipe
from nextvec.training.loop import train
from nextvec.training.setup import start_run

MAX_MEMORY_GROWTH = 0.02


def resident_mb() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def count_open_files() -> int:
    """Return the number of files that this process has open, without the folder that is read here."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1


class Watcher(threading.Thread):
    """Reads the newest run and samples memory and open files until `done` is set."""

    def __init__(self, runs: Path, interval: float) -> None:
        super().__init__(daemon=True)
        self.runs, self.interval = runs, interval
        self.done = threading.Event()
        self.reads = 0
        self.samples: list[tuple[float, float, int]] = []

    def run(self) -> None:
        last_sample = 0.0
        while not self.done.wait(0.2):
            for path in sorted(self.runs.glob("*/events.jsonl"))[-1:]:
                read_state(read_events(path), time.time(), str(path.parent), path.parent.name)
                self.reads += 1
            if time.monotonic() - last_sample >= self.interval:
                last_sample = time.monotonic()
                self.samples.append((last_sample, resident_mb(), count_open_files()))


def soak(minutes: float, folder: Path) -> tuple[Watcher, int, int]:
    """Train for `minutes`; return the watcher with its samples, and the numbers of runs and epochs."""
    store = synthesize(folder / "store", scaled(PRESETS["small"], 0.1), quiet=True)
    recipe = make_recipe(
        {
            "name": "soak",
            "data": {"store": str(store.path)},
            "model": {"kind": "gru"},
            "training": {"epochs": 5, "batch_size": 64, "checkpoint_interval_s": 2.0},
            "evaluation": {"resamples": 100, "ridge_windows": 1000},
            "runtime": {"device": "cpu", "threads": 1},
        }
    )
    watcher = Watcher(folder / "runs", interval=max(1.0, minutes * 60 / 600))
    watcher.start()
    end, runs, epochs = time.monotonic() + minutes * 60, 0, 0
    while time.monotonic() < end:
        run = start_run(recipe, folder / "runs" / f"{runs:06d}", force=True, quiet=True)
        train(run)
        run.close()
        runs, epochs = runs + 1, epochs + run.state.epoch
        for finished in sorted((folder / "runs").iterdir())[:-2]:
            shutil.rmtree(finished)
    watcher.done.set()
    watcher.join()
    return watcher, runs, epochs


def main() -> int:
    """Run the soak test and report the growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        watcher, runs, epochs = soak(options.minutes, Path(folder))
    count = len(watcher.samples)
    early, late = watcher.samples[count // 5 : 2 * count // 5], watcher.samples[-(count // 5) :]
    memory = [statistics.median(sample[1] for sample in part) for part in (early, late)]
    files = [statistics.median(sample[2] for sample in part) for part in (early, late)]
    growth = memory[1] / memory[0] - 1
    print(f"{options.minutes:g} minutes: {runs} runs, {epochs} epochs, {watcher.reads} reads, {count} samples")
    print(f"memory {memory[0]:.1f} → {memory[1]:.1f} MB ({growth:+.2%}), open files {files[0]:g} → {files[1]:g}")
    return int(growth > MAX_MEMORY_GROWTH or files[1] > files[0])


if __name__ == "__main__":
    sys.exit(main())
