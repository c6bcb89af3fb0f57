"""Rows: one prediction at batch 1; the evaluation of 73,000 windows with retrieval and intervals.

python bench/inference.py [--store STORE] [--quick]
"""

from __future__ import annotations

import sys

import torch
from common import arguments, finish, now, open_run, store_path

from nextvec.data.windows import WindowSet
from nextvec.evaluation.bootstrap import bootstrap_means, interval
from nextvec.evaluation.latency import measure_latency
from nextvec.evaluation.metrics import score_windows
from nextvec.evaluation.retrieval import candidates_of, summarize_ranks, target_ranks


def main():
    """Measure both."""
    chosen = arguments(__doc__)
    run = open_run(store_path(chosen.store))
    model = run.model.eval()
    rows = []
    for kind in ("residual", "original"):
        other = (
            model if kind == "residual" else open_run(store_path(chosen.store), "model.variant=original").model.eval()
        )
        times = [measure_latency(other, 5, torch.device("cpu")).batches[0] for _ in range(chosen.rounds)]
        rows.append({"what": f"one prediction, amn, {kind}", "p50 ms": min(found.p50 for found in times)})
    windows: WindowSet = run.sets["train"]
    count = min(len(windows), 7_300 if "--quick" in sys.argv else 73_000)
    some = windows.windows.take(torch.arange(count))
    begin = now()
    scores = score_windows(model, windows.vectors, some)
    scored = now()
    queries = some.take(torch.arange(0, count, max(1, count // 10_000))[:10_000])
    ranks = target_ranks(model, windows.vectors, queries, candidates_of(windows.vectors, windows.documents, "train"))
    ranked = now()
    groups = some.groups.numpy()
    interval(bootstrap_means(scores.cosine[None], groups, 2_000, 0)[0], len(set(groups.tolist())))
    done = now()
    rows.append({
        "what": f"evaluation of {count:,} windows", "scores s": scored - begin, "retrieval s": ranked - scored,
        "interval s": done - ranked, "whole s": done - begin, "cosine": scores.mean_cosine,
        "R@1": summarize_ranks(ranks).r_at_1,
    })  # fmt: skip
    finish("inference", rows)


if __name__ == "__main__":
    main()
