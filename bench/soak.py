"""Soak: train for a long time with a watcher attached; memory must stay flat within 2 %, open files must not grow.

    python bench/soak.py --minutes 120

Small GRU runs on a synthetic store follow each other in this process, saving every two seconds. A thread reads the
newest run's folder five times a second, as `nextvec watch` does, and notes resident memory and open files. What counts
is the median of the last fifth of the notes against that of the second fifth: the first is for caches to fill. Exits
with 1 if memory grew by more than 2 % or open files grew at all.
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

MOST_GROWTH = 0.02


def resident() -> float:
    """Megabytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def handles() -> int:
    """Files that this process has open, this look at them left out."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1


class Watcher(threading.Thread):
    """Reads the newest run and notes memory and handles until it is told to stop."""

    def __init__(self, runs: Path, every: float) -> None:
        super().__init__(daemon=True)
        self.runs, self.every = runs, every
        self.done = threading.Event()
        self.looks = 0
        self.samples: list[tuple[float, float, int]] = []

    def run(self) -> None:
        noted = 0.0
        while not self.done.wait(0.2):
            for path in sorted(self.runs.glob("*/events.jsonl"))[-1:]:
                read_state(read_events(path), time.time(), str(path.parent), path.parent.name)
                self.looks += 1
            if time.monotonic() - noted >= self.every:
                noted = time.monotonic()
                self.samples.append((noted, resident(), handles()))


def soak(minutes: float, folder: Path) -> tuple[Watcher, int, int]:
    """Train for so long; the watcher with its samples, and how many runs and epochs there were."""
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
    watcher = Watcher(folder / "runs", every=max(1.0, minutes * 60 / 600))
    watcher.start()
    end, runs, epochs = time.monotonic() + minutes * 60, 0, 0
    while time.monotonic() < end:
        run = start_run(recipe, folder / "runs" / f"{runs:06d}", force=True, quiet=True)
        train(run)
        run.close()
        runs, epochs = runs + 1, epochs + run.state.epoch
        for old in sorted((folder / "runs").iterdir())[:-2]:
            shutil.rmtree(old)
    watcher.done.set()
    watcher.join()
    return watcher, runs, epochs


def main() -> int:
    """Soak, and tell what grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120.0)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        watcher, runs, epochs = soak(words.minutes, Path(folder))
    count = len(watcher.samples)
    early, late = watcher.samples[count // 5 : 2 * count // 5], watcher.samples[-(count // 5) :]
    memory = [statistics.median(sample[1] for sample in part) for part in (early, late)]
    files = [statistics.median(sample[2] for sample in part) for part in (early, late)]
    growth = memory[1] / memory[0] - 1
    print(f"{words.minutes:g} minutes: {runs} runs, {epochs} epochs, {watcher.looks} looks, {count} samples")
    print(f"memory {memory[0]:.1f} → {memory[1]:.1f} MB ({growth:+.2%}), open files {files[0]:g} → {files[1]:g}")
    return int(growth > MOST_GROWTH or files[1] > files[0])


if __name__ == "__main__":
    sys.exit(main())
