"""Row: a training step against its limit, the sum of its matrix products, each timed alone at its own shape and dtype.

The products are those that torch's profiler sees in a step; the small ones of a window are compiled passes and count as
the rest, which is listed by operation: the profile.

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
    """(operation, shapes, dtypes) → times in a step; and every other operation's own milliseconds in a step."""
    found, rest = {}, {}
    run.state, run.limit = TrainingState(), steps
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        loop.train_epoch(run, threading.Event())
    for event in profiled.events():
        if event.name in PRODUCTS:
            shapes = tuple(tuple(shape) for shape in event.input_shapes if len(shape) >= 2)
            found[event.name, shapes] = found.get((event.name, shapes), 0) + 1 / steps
        elif event.name.startswith("aten::"):
            rest[event.name] = rest.get(event.name, 0) + event.self_cpu_time_total / steps / 1e3
    return found, rest


def alone(shapes, dtype, of_terms, rounds=7):
    """Seconds of a product of such tensors; the lowest of some."""
    left, right = (torch.randn(shape).to(torch.float32 if of_terms else dtype) for shape in shapes[-2:])

    def multiply(left, right):
        return ops.multiply(left, right, dtype) if of_terms else torch.matmul(left, right)

    multiply(left, right)
    times = []
    for _ in range(rounds):
        begin = now()
        multiply(left, right)
        times.append(now() - begin)
    return min(times)


def main():
    """Measure AMN at batch 512."""
    chosen = arguments(__doc__)
    rows, profiles = [], {}
    for name, overrides in (("prediction only", ("model.query=false",)), ("with the query", ())):
        for precision in ("fp32", "bf16"):
            run = open_run(store_path(chosen.store), f"training.precision={precision}", *overrides)
            step = ours(run, chosen.steps)
            rate = in_turns({"step": step}, chosen.rounds)["step"]
            found, rest = products_of(run, chosen.steps)
            # Those of InfoNCE have a side of B by B; they give float32, whatever they multiply in.
            batch = run.recipe.training.batch_size
            limit = 0.0
            for (_, shapes), count in found.items():
                of_terms = any(shape[-2:] == (batch, batch) for shape in shapes) or shapes[-2:] == (
                    (batch, 768),
                    (768, batch),
                )
                limit += count * alone(shapes, run.precision, of_terms)
            seconds = batch / rate["median"]
            rows.append({
                "step": f"{name}, {precision}", "ms": seconds * 1e3, "spread": rate["spread"],
                "products alone, ms": limit * 1e3, "ratio": seconds / limit, "limit, windows/s": batch / limit,
            })  # fmt: skip
            top = sorted(rest.items(), key=lambda item: -item[1])[:12]
            profiles[f"{name}, {precision}"] = {operation: round(spent, 2) for operation, spent in top}
    finish("limit", rows, profile_ms_a_step=profiles)


if __name__ == "__main__":
    main()
