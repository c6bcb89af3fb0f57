"""Row: time to the plain trainer's final val cosine.

    python bench/quality.py [--store STORE] [--epochs 1]

The plain trainer runs over its windows once (batch 32, fp32); then nextvec trains at batch 512 and is scored every few
steps until it is as good. Scoring is not counted on either side.
"""

from __future__ import annotations

import torch
from common import arguments, finish, now, open_run, store_path
from plain_trainer import PlainTrainer
from throughput import ours, val_cosine


def main():
    """Measure AMN."""
    chosen = arguments(__doc__)
    store = store_path(chosen.store)
    run = open_run(store, "model.query=false", "training.lr=1e-3", "training.warmup=0", "training.schedule=constant")
    windows = run.train_windows
    batch = windows.batch(torch.arange(min(len(windows), 16_384)))
    plain = PlainTrainer(batch.context_BSD.float().numpy(), batch.target_BD.float().numpy())
    begin = now()
    plain.train(len(plain.loader))
    needed = now() - begin
    aim = val_cosine(run, plain.model)
    step, spent, seen, score = ours(run, 4), 0.0, 0, val_cosine(run, run.model)
    start = score
    while score < aim and spent < 2 * needed:
        begin = now()
        seen += step()
        spent += now() - begin
        score = val_cosine(run, run.model)
    rows = [
        {"what": "plain trainer", "seconds": needed, "windows": len(plain.loader) * 32, "val cosine": aim},
        {"what": "nextvec", "seconds": spent, "windows": seen, "val cosine": score},
        {"what": "a fresh model", "val cosine": start},
    ]
    if start >= aim:
        finish("quality", rows, note="a fresh model is as good as the trained plain one: there is no time to compare")
        return
    rows[1]["ratio"] = needed / spent
    finish("quality", rows)


if __name__ == "__main__":
    main()
