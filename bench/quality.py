"""Measure the time to reach the plain trainer's final val cosine.

    python bench/quality.py [--store STORE]

The plain trainer trains one epoch (batch 32, fp32). Then nextvec trains at batch 512 and is scored every four steps
until it reaches the same val cosine. Scoring time is not counted on either side.
"""

from __future__ import annotations

import torch
from common import arguments, finish, now, open_run, store_path
from plain_trainer import PlainTrainer
from throughput import ours, val_cosine


def main():
    """Measure AMN."""
    options = arguments(__doc__)
    store = store_path(options.store)
    run = open_run(store, "model.query=false", "training.lr=1e-3", "training.warmup=0", "training.schedule=constant")
    windows = run.train_windows
    batch = windows.batch(torch.arange(min(len(windows), 16_384)))
    plain = PlainTrainer(batch.context_BSD.float().numpy(), batch.target_BD.float().numpy())
    begin = now()
    plain.train(len(plain.loader))
    plain_seconds = now() - begin
    target = val_cosine(run, plain.model)
    step, seconds, trained, score = ours(run, 4), 0.0, 0, val_cosine(run, run.model)
    start = score
    while score < target and seconds < 2 * plain_seconds:
        begin = now()
        trained += step()
        seconds += now() - begin
        score = val_cosine(run, run.model)
    rows = [
        {"what": "plain trainer", "seconds": plain_seconds, "windows": len(plain.loader) * 32, "val cosine": target},
        {"what": "nextvec", "seconds": seconds, "windows": trained, "val cosine": score},
        {"what": "initial weights", "val cosine": start},
    ]
    if start >= target:
        finish(
            "quality",
            rows,
            note="the initial weights already reach the plain trainer's val cosine; there is no time to compare",
        )
        return
    rows[1]["ratio"] = plain_seconds / seconds
    finish("quality", rows)


if __name__ == "__main__":
    main()
