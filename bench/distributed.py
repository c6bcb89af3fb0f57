"""Measure the windows per second of one training run in 1, 2, … processes, and how much of the cores or GPUs they use.

    python bench/distributed.py [--rounds 3] [--device cuda]

On CPUs the processes divide all cores, so that 1.0 × the rate of one process is no loss. On GPUs each process has one,
and the batch grows with their number. Every run is a command of its own, as a user starts it; the rate is that of its
second epoch. The numbers of processes take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys

import torch
from common import FULL, OUT, finish, store_path, summary

from nextvec.core.run_paths import HISTORY_FILE

BATCH = 512
"""Windows of a batch; on GPUs, of each process."""


def rate(store: str, count: int, device: str, recipe: str) -> float:
    """Return the windows per second of a run in `count` processes."""
    folder = OUT / f"distributed-{count}"
    shutil.rmtree(folder, ignore_errors=True)
    batch = BATCH * (count if device == "cuda" else 1)
    settings = {
        **{f"objective.{term}": weight for term, weight in FULL.items()},
        **{"data.store": store, "data.ood": "", "training.epochs": 2, "training.batch_size": batch},
        **{"runtime.device": device, "evaluation.resamples": 100},
    }
    start = [sys.executable, "-m"]
    if count > 1:
        start += ["torch.distributed.run", "--nproc-per-node", str(count), "--log-dir", str(OUT / "torchrun"), "-m"]
    overrides = [f"{field}={value}" for field, value in settings.items()]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run(
        [*start, "nextvec", "train", recipe, *overrides, "--out", str(folder), "--force", "--quiet"],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    history = json.loads((folder / HISTORY_FILE).read_text(encoding="utf-8"))
    return float(history["epochs"][1]["windows_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--recipe", default="amn-790k-production")
    options, _ = parser.parse_known_args()
    units = torch.cuda.device_count() if options.device == "cuda" else os.cpu_count() or 1
    counts = [count for count in (1, 2, 4, 8, 16) if count <= units]
    store = store_path(scale=0.1)
    rates: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(options.rounds):
        for count in counts:
            rates[count].append(rate(store, count, options.device, options.recipe))
    alone = summary(rates[1])["median"]
    finish(
        "distributed",
        [
            {
                "processes": count,
                "windows/s": (result := summary(rates[count]))["median"],
                "spread": result["spread"],
                "of one process": result["median"] / alone,
                "efficiency": result["median"] / alone / (count if options.device == "cuda" else 1),
            }
            for count in counts
        ],
        device=options.device,
        recipe=options.recipe,
        batch=BATCH,
    )


if __name__ == "__main__":
    main()
