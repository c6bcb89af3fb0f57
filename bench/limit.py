"""Compare a training step with its lower limit: the sum of its matrix products, each timed alone.

torch's profiler lists the products of a step with their shapes. The small products of a window run in the fused CPU
ops, so they are not part of the limit. The other operations are reported as a profile, by name.

    python bench/limit.py [--store STORE]
"""

from __future__ import annotations

import threading

import torch
from common import arguments, finish, in_turns, now, open_run, store_path
from throughput import ours
from torch.profiler import ProfilerActivity, profile

from nextvec import ops
from nextvec.training import loop
from nextvec.training.run import TrainingState

PRODUCTS = {"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"}


def products_of(run, steps):
    """Return (operation, shapes) → count per step, and every other operation → milliseconds per step."""
    products, rest = {}, {}
    run.state, run.limit = TrainingState(), steps
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        loop.train_epoch(run, threading.Event())
    for event in profiled.events():
        if event.name in PRODUCTS:
            shapes = tuple(tuple(shape) for shape in event.input_shapes if len(shape) >= 2)
            products[event.name, shapes] = products.get((event.name, shapes), 0) + 1 / steps
        elif event.name.startswith("aten::"):
            rest[event.name] = rest.get(event.name, 0) + event.self_cpu_time_total / steps / 1e3
    return products, rest


def time_product(shapes, dtype, is_loss, rounds=7):
    """Return the lowest of `rounds` times of one product of tensors with these shapes, in seconds."""
    left, right = (torch.randn(shape).to(torch.float32 if is_loss else dtype) for shape in shapes[-2:])

    def multiply(left, right):
        return ops.multiply(left, right, dtype) if is_loss else torch.matmul(left, right)

    multiply(left, right)
    times = []
    for _ in range(rounds):
        begin = now()
        multiply(left, right)
        times.append(now() - begin)
    return min(times)


def main():
    """Measure AMN at batch 512."""
    options = arguments(__doc__)
    rows, profiles = [], {}
    for name, overrides in (("prediction only", ("model.query=false",)), ("with the query", ())):
        for precision in ("fp32", "bf16"):
            run = open_run(store_path(options.store), f"training.precision={precision}", *overrides)
            step = ours(run, options.steps)
            rate = in_turns({"step": step}, options.rounds)["step"]
            products, rest = products_of(run, options.steps)
            # The products of InfoNCE have a side of B × B and return float32 for every input dtype.
            batch = run.recipe.training.batch_size
            limit = 0.0
            for (_, shapes), count in products.items():
                is_loss = any(shape[-2:] == (batch, batch) for shape in shapes) or shapes[-2:] == (
                    (batch, 768),
                    (768, batch),
                )
                limit += count * time_product(shapes, run.precision, is_loss)
            seconds = batch / rate["median"]
            rows.append(
                {
                    "step": f"{name}, {precision}",
                    "ms": seconds * 1e3,
                    "spread": rate["spread"],
                    "products alone, ms": limit * 1e3,
                    "ratio": seconds / limit,
                    "limit, windows/s": batch / limit,
                }
            )
            top = sorted(rest.items(), key=lambda item: -item[1])[:12]
            profiles[f"{name}, {precision}"] = {operation: round(spent, 2) for operation, spent in top}
    finish("limit", rows, profile_ms_a_step=profiles)


if __name__ == "__main__":
    main()
