"""A model beside the best baseline on parts of a split: in which documents, sources and contexts it wins.

A gain over a whole split may come from a few documents, one source, or the easy contexts alone. Here it is taken apart.

Letters in names: W windows, G groups of documents, P quantities, B windows of a block, S context length, D dimensions.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from nextvec.data.windows import WindowSet
from nextvec.evaluation.bootstrap import bootstrap_means, interval
from nextvec.evaluation.metrics import BLOCK
from nextvec.evaluation.results import Breakdown, Estimate, Part
from nextvec.evaluation.retrieval import documents_of

MOST_SOURCES = 8
"""Sources that get a part of their own; smaller ones share one."""


def break_down(
    model_W: NDArray[np.floating], baseline_W: NDArray[np.floating], evaluated: WindowSet, resamples: int, seed: int
) -> Breakdown:
    """The cosines of a model and of the split's best baseline, (W,) each in the order of the set's windows, by part.

    W is at least 1. Intervals come from resampling groups of documents, within each part.
    """
    assert len(model_W) == len(baseline_W) == len(evaluated) > 0, (len(model_W), len(baseline_W), len(evaluated))
    rows_PW = np.stack([model_W, model_W - baseline_W])
    groups_W = evaluated.windows.groups.cpu().numpy()

    def part(name: str, chosen_W: NDArray[np.bool_]) -> Part:
        return _part(name, rows_PW[:, chosen_W], groups_W[chosen_W], resamples, seed)

    sources = _by_source(evaluated)
    coherences = _by_coherence(context_coherence(evaluated))
    return Breakdown(
        win_rate(rows_PW[1], groups_W, resamples, seed),
        tuple(part(name, chosen_W) for name, chosen_W in sources),
        tuple(part(name, chosen_W) for name, chosen_W in coherences),
    )


def win_rate(gain_W: NDArray[np.floating], groups_W: NDArray[np.integer], resamples: int, seed: int) -> Estimate:
    """The share of groups in which the mean gain is above zero; a mean of exactly zero counts half.

    The interval comes from resampling groups. Where every group is won, or every one lost, resamples are all the same
    and would feign certainty; the open end is then that of Wilson's interval (1927, "Probable Inference"), n / (n + z²)
    from the other end, where n is the number of groups.
    """
    _, group_W = np.unique(groups_W, return_inverse=True)
    mean_G = np.bincount(group_W, weights=gain_W) / np.bincount(group_W)
    won_G = (np.sign(mean_G) + 1) / 2
    value, count = float(won_G.mean()), len(won_G)
    means_R = bootstrap_means(won_G[None], np.arange(count), resamples, seed)[0]
    low, high = interval(means_R, count, bounds=(0.0, 1.0))
    if count > 1 and value in (0.0, 1.0):
        sure = count / (count + NormalDist().inv_cdf(0.975) ** 2)
        low, high = (sure, 1.0) if value else (0.0, 1 - sure)
    return Estimate(value, low, high)


@torch.inference_mode()
def context_coherence(evaluated: WindowSet) -> NDArray[np.float32]:
    """(W,) mean cosine of neighbouring vectors of each window's context; NaN where there is but one vector."""
    windows = evaluated.windows
    coherence_W = torch.empty(len(windows), device=evaluated.vectors.device)
    for index in torch.arange(len(windows), device=evaluated.vectors.device).split(BLOCK):
        batch = evaluated.batch(index)
        context_BSD = F.normalize(batch.context_BSD.float(), dim=2)  # masked vectors are zero and add nothing
        total_B = (context_BSD[:, 1:] * context_BSD[:, :-1]).sum(dim=(1, 2))
        there_B = windows.context if batch.mask_BS is None else batch.mask_BS.sum(dim=1)
        coherence_W[index] = total_B / (there_B - 1)  # 0 / 0 is NaN
    return coherence_W.cpu().numpy()


def _by_source(evaluated: WindowSet) -> list[tuple[str, NDArray[np.bool_]]]:
    """Which windows are of each source: the largest first, by name where equal, the smallest together."""
    names, source_M = np.unique(np.array(evaluated.documents.sources, dtype=object), return_inverse=True)
    source_W = source_M[documents_of(evaluated.windows, evaluated.documents)]
    counts = np.bincount(source_W, minlength=len(names))
    order = [number for number in np.argsort(-counts, kind="stable").tolist() if counts[number]]
    parts = [(str(names[number]), source_W == number) for number in order[:MOST_SOURCES]]
    if others := order[MOST_SOURCES:]:
        parts.append(("other sources", np.isin(source_W, others)))
    return parts


def _by_coherence(coherence_W: NDArray[np.float32]) -> list[tuple[str, NDArray[np.bool_]]]:
    """Which windows are in each quartile of coherence, from the lowest; equal values stay together.

    Windows without a coherence are in none, and a quartile that gets no window is left out.
    """
    known = coherence_W[~np.isnan(coherence_W)]
    if len(known) == 0:
        return []
    edges = np.quantile(known, [0, 0.25, 0.5, 0.75, 1])
    quartile_W = np.where(np.isnan(coherence_W), -1, np.searchsorted(edges[1:4], coherence_W))
    digits = 2 if len({f"{edge:.2f}" for edge in edges}) == len(edges) else 4
    parts = [
        (f"coherence {edges[number]:.{digits}f}–{edges[number + 1]:.{digits}f}", quartile_W == number)
        for number in range(4)
    ]
    return [(name, chosen_W) for name, chosen_W in parts if chosen_W.any()]


def _part(name: str, rows_PW: NDArray[np.floating], groups_W: NDArray[np.integer], resamples: int, seed: int) -> Part:
    """The cosine and the gain, two rows, on the windows of a part, with intervals from the same resamples."""
    groups = len(np.unique(groups_W))
    means_PR = bootstrap_means(rows_PW, groups_W, resamples, seed)
    cosine, gain = (
        Estimate(float(row.mean(dtype=np.float64)), *interval(means, groups, bounds=bounds))
        for row, means, bounds in zip(rows_PW, means_PR, [(-1.0, 1.0), (-2.0, 2.0)], strict=True)
    )
    return Part(name, len(groups_W), groups, cosine, gain)
