"""Shared code of the benchmarks: data, interleaved timing, and the output as a table and as JSON.

Times are wall-clock seconds; with `--threads 1` they are CPU seconds, because other processes on a shared machine
change the wall time. Compared variants take turns in one process. A result is the median over the rounds, with the
spread (highest − lowest) / median.
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


def arguments(description: str | None) -> argparse.Namespace:
    """Parse the options that all scripts share and set the number of threads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--store", default="", help="store to measure on; default: synthetic vectors at scale 0.02")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="steps of batch 512 per round")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options, _ = parser.parse_known_args()
    torch.set_num_threads(options.threads)
    return options


def now() -> float:
    """Return CPU seconds with one thread, else wall-clock seconds."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def store_path(store: str = "", scale: float = 0.02) -> str:
    """Return `store`, or the path of a synthetic store that is built on first use."""
    path = OUT / f"synthetic-{scale:g}"
    if not store and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        synthesize(path, scaled(PRESETS["production"], scale), quiet=True)
    return store or str(path)


def open_run(store: str, *overrides: str, name: str = "bench") -> Run:
    """Open a run in memory, without data checks, baselines and event log."""
    values = {"name": name, "data": {"store": store}, "objective": FULL, "training": {"epochs": 1, "batch_size": 512}}
    recipe = make_recipe({**values, "runtime": {"threads": torch.get_num_threads()}}, overrides)
    data = open_dataset(recipe.data, quiet=True)
    run = setup.build_run(OUT / "run", recipe, data, None, quiet=True)  # type: ignore[arg-type]
    run.event = lambda *_, **__: None  # type: ignore[method-assign]
    return run


def in_turns(variants: dict[str, Callable[[], int]], rounds: int) -> dict[str, dict[str, float]]:
    """Return each variant's rate per second, as median and spread.

    A variant is a function that does work and returns its amount, such as a number of windows.
    """
    rates: dict[str, list[float]] = {name: [] for name in variants}
    # The variants take turns, so that a slow phase of the machine affects all of them; round 0 warms up.
    for round_ in range(rounds + 1):
        for name, variant in variants.items():
            begin = now()
            amount = variant()
            if round_:
                rates[name].append(amount / (now() - begin))
    return {name: summary(values) for name, values in rates.items()}


def summary(values: list[float]) -> dict[str, float]:
    """Return the median and the spread, (highest − lowest) / median."""
    median = statistics.median(values)
    return {"median": median, "spread": (max(values) - min(values)) / median}


def machine() -> dict[str, Any]:
    """Return hardware, package versions and the load average."""
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
        "cpu": model,
        "cores": os.cpu_count(),
        "amx_bf16": "amx_bf16" in flags,
        "gpu": gpu,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "versions": versions,
    }


def append_row(name: str, row: dict[str, Any]) -> None:
    """Print a row and append it to `name`.jsonl, so that an interrupted benchmark keeps what it has measured."""
    OUT.mkdir(parents=True, exist_ok=True)
    line = json.dumps({key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()})
    with (OUT / f"{name}.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


def finish(name: str, rows: list[dict[str, Any]], **facts: Any) -> None:
    """Print the rows of a benchmark as a table and write them as JSON."""
    OUT.mkdir(parents=True, exist_ok=True)
    content = {"benchmark": name, "machine": machine(), **facts, "rows": rows}
    (OUT / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    print(f"\n## {name}   {content['machine']}" + (f"\n{facts}" if facts else ""))
    columns = list(dict.fromkeys(column for row in rows for column in row))
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |", flush=True)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
