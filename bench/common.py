"""What all measurements share: data, interleaved timing, and the table and JSON that they leave.

Seconds are those of the clock; with `--threads 1` those of the process on its processor, as on a shared machine the
clock says more about the neighbours. Variants that are compared run in turns within one process; what is given is the
median over the rounds, and the spread (highest − lowest) / median.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from nextvec.data.dataset import open_dataset
from nextvec.data.synthetic.generate import PRESETS, scaled, synthesize
from nextvec.recipe import make_recipe
from nextvec.training import setup
from nextvec.training.run import Run

OUT = Path(os.environ.get("NEXTVEC_BENCH", "artifacts/bench"))
FULL = {"mse": 0.5, "info_nce": 0.5, "moment": 0.001, "variance": 0.001}


def arguments(about: str | None) -> argparse.Namespace:
    """The options of every script."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--store", default="", help="a store; left out, synthetic vectors at scale 0.02")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="steps of batch 512 in a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    chosen, _ = parser.parse_known_args()
    torch.set_num_threads(chosen.threads)
    return chosen


def now() -> float:
    """Seconds of the clock that suits the number of threads."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def store_path(given: str = "", scale: float = 0.02) -> str:
    """A store to measure on, made once."""
    path = OUT / f"synthetic-{scale:g}"
    if not given and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        synthesize(path, scaled(PRESETS["production"], scale), quiet=True)
    return given or str(path)


def open_run(store: str, *overrides: str, name: str = "bench") -> Run:
    """A run that trains on a store, without the checks and baselines that come before one; it logs nowhere."""
    base = {"name": name, "data": {"store": store}, "objective": FULL, "training": {"epochs": 1, "batch_size": 512}}
    recipe = make_recipe({**base, "runtime": {"threads": torch.get_num_threads()}}, overrides)
    data = open_dataset(recipe.data, quiet=True)
    run = setup._build_run(OUT / "run", recipe, data, None, quiet=True)  # type: ignore[arg-type]
    run.event = lambda *_, **__: None  # type: ignore[method-assign]
    return run


def in_turns(variants: dict[str, Callable[[], int]], rounds: int) -> dict[str, dict[str, float]]:
    """Work per second of each variant, a function that does some work and says how much; the first round warms up."""
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name, variant in variants.items():
            begin = now()
            done = variant()
            if round_:
                rates[name].append(done / (now() - begin))
    return {name: summary(values) for name, values in rates.items()}


def summary(values: list[float]) -> dict[str, float]:
    """Median and spread."""
    middle = statistics.median(values)
    return {"median": middle, "spread": (max(values) - min(values)) / middle}


def machine() -> dict[str, Any]:
    """Hardware, versions and how busy the machine is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    flags = next((line for line in lines if line.startswith("flags")), "")
    versions = {}
    for package in ("nextvec", "torch", "numpy", "lightning", "sentence-transformers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": model, "cores": os.cpu_count(), "amx_bf16": "amx_bf16" in flags, "gpu": gpu,
        "threads": torch.get_num_threads(), "load": os.getloadavg()[0], "versions": versions,
    }  # fmt: skip


def finish(row: str, rows: list[dict[str, Any]], **facts: Any) -> None:
    """Print a row of the table and write it as JSON."""
    OUT.mkdir(parents=True, exist_ok=True)
    content = {"row": row, "machine": machine(), **facts, "figures": rows}
    (OUT / f"{row}.json").write_text(json.dumps(content, indent=1) + "\n")
    print(f"\n## {row}   {content['machine']}" + (f"\n{facts}" if facts else ""))
    names = list(dict.fromkeys(name for line in rows for name in line))
    print("| " + " | ".join(names) + " |\n|" + " --- |" * len(names))
    for line in rows:
        print("| " + " | ".join(_cell(line.get(name, "")) for name in names) + " |", flush=True)


def _cell(value: Any) -> str:
    return (
        f"{value:,.4g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )
