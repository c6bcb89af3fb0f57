"""Rows for a GPU, in one command of under 8 minutes on a bare CUDA machine with torch 2.11:

    python bench/gpu.py

Vectors live on the device. Steady windows/s of all networks at several batch sizes, the measured rate of bfloat16
products beside it, and the seconds that the production run's 30 × 653,412 windows would take at that rate.
It has not run on a GPU yet; without one it says so and ends.
"""

from __future__ import annotations

import time

import torch
from common import arguments, finish, open_run, store_path
from throughput import ours, val_cosine

PRODUCTION = 30 * 653_412
BUDGET = 400.0


def matrix_rate():
    """FLOP per second of a large bfloat16 product."""
    left = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        left @ left
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(20):
        left @ left
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - begin)


def main():
    """Measure until the time is up."""
    chosen = arguments(__doc__)
    if not torch.cuda.is_available():
        finish("gpu", [], skipped="no CUDA device here; nothing was measured")
        return
    begin, rows, store = time.perf_counter(), [], store_path(chosen.store, 0.1)
    for kind in ("amn", "transformer", "gru", "lstm"):
        for batch in (512, 4096):
            for query in ("false", "true"):
                if time.perf_counter() - begin > BUDGET:
                    break
                run = open_run(
                    store,
                    f"model.kind={kind}",
                    f"training.batch_size={batch}",
                    f"model.query={query}",
                    "runtime.device=cuda",
                )
                step = ours(run, 10)
                step()
                torch.cuda.synchronize()
                start = time.perf_counter()
                done = sum(step() for _ in range(5))
                torch.cuda.synchronize()
                rate = done / (time.perf_counter() - start)
                rows.append({
                    "model": kind, "batch": batch, "query": query, "windows/s": rate,
                    "production run, s": PRODUCTION / rate, "val cosine": val_cosine(run, run.model),
                    "memory MB": torch.cuda.max_memory_allocated() / 2**20,
                })  # fmt: skip
    finish("gpu", rows, matrix_flops=matrix_rate())


if __name__ == "__main__":
    main()
