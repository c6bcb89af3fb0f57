"""Measure one prediction at batch 1, and the evaluation of 73,000 windows with retrieval and intervals.

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
    """Measure latency and evaluation."""
    options = arguments(__doc__)
    run = open_run(store_path(options.store))
    model = run.model.eval()
    rows = []
    for kind in ("residual", "original"):
        variant = open_run(store_path(options.store), f"model.variant={kind}").model.eval()
        times = [measure_latency(variant, 5, torch.device("cpu")).batches[0] for _ in range(options.rounds)]
        rows.append({"what": f"one prediction, amn, {kind}", "p50 ms": min(latency.p50 for latency in times)})
    windows: WindowSet = run.sets["train"]
    count = min(len(windows), 7_300 if "--quick" in sys.argv else 73_000)
    subset = windows.windows.take(torch.arange(count))
    # The stages of an evaluation: scores of every window, ranks of at most 10,000 queries, confidence interval.
    begin = now()
    scores = score_windows(model, windows.vectors, subset)
    scored = now()
    queries = subset.take(torch.arange(0, count, max(1, count // 10_000))[:10_000])
    ranks = target_ranks(model, windows.vectors, queries, candidates_of(windows.vectors, windows.documents, "train"))
    ranked = now()
    groups = subset.groups.numpy()
    interval(bootstrap_means(scores.cosine[None], groups, 2_000, 0)[0], len(set(groups.tolist())))
    end = now()
    rows.append(
        {
            "what": f"evaluation of {count:,} windows",
            "scores s": scored - begin,
            "retrieval s": ranked - scored,
            "interval s": end - ranked,
            "total s": end - begin,
            "cosine": scores.mean_cosine,
            "R@1": summarize_ranks(ranks).r_at_1,
        }
    )
    finish("inference", rows)


if __name__ == "__main__":
    main()
