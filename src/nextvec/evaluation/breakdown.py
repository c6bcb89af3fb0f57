"""The model's gain over the best baseline, broken down by document, source and coherence of the context.

The gain on a whole split may come from a few documents, from one source, or from easy contexts only.

Letters in names: W windows, G groups of documents, P quantities, R resamples, M documents, B windows of a block, S
context length, D dimensions.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from nextvec.data.windows import WindowSet
from nextvec.evaluation.bootstrap import bootstrap_means, estimate_means, interval
from nextvec.evaluation.metrics import BLOCK
from nextvec.evaluation.results import Breakdown, Estimate, Subset
from nextvec.evaluation.retrieval import documents_of

MAX_SOURCES = 8
"""The largest sources get a row each; the remaining ones share a row, so that the table stays readable."""


def measure_breakdown(
    model_W: NDArray[np.floating], baseline_W: NDArray[np.floating], evaluated: WindowSet, resamples: int, seed: int
) -> Breakdown:
    """Break down the cosines (W,) of a model and of the split's best baseline, both in index order, with W ≥ 1.

    Intervals come from resampling groups of documents, within each subset.
    """
    assert len(model_W) == len(baseline_W) == len(evaluated) > 0, (len(model_W), len(baseline_W), len(evaluated))
    # Each window has two quantities: the model's cosine, and its gain over the baseline.
    rows_PW = np.stack([model_W, model_W - baseline_W])
    groups_W = evaluated.windows.groups.cpu().numpy()

    def measure(subsets: list[tuple[str, NDArray[np.bool_]]]) -> tuple[Subset, ...]:
        return tuple(
            _measure_subset(name, rows_PW[:, selected_W], groups_W[selected_W], resamples, seed)
            for name, selected_W in subsets
        )

    return Breakdown(
        win_rate(rows_PW[1], groups_W, resamples, seed),
        measure(_select_sources(evaluated)),
        measure(_select_quartiles(context_coherence(evaluated))),
    )


def win_rate(gain_W: NDArray[np.floating], groups_W: NDArray[np.integer], resamples: int, seed: int) -> Estimate:
    """Return the fraction of groups whose mean gain is above zero; a mean of exactly zero counts half.

    The interval comes from resampling groups. If the model wins every group, or loses every group, all resamples are
    equal and the interval would have no width. Its open end is then that of Wilson's interval (1927, "Probable
    Inference"): n / (n + z²) from the other end, for n groups.
    """
    # Count 1 for a group that the model wins, ½ for a tie, and 0 for a loss.
    _, group_W = np.unique(groups_W, return_inverse=True)
    mean_G = np.bincount(group_W, weights=gain_W) / np.bincount(group_W)
    won_G = (np.sign(mean_G) + 1) / 2
    value, count = float(won_G.mean()), len(won_G)
    means_R = bootstrap_means(won_G[None], np.arange(count), resamples, seed)[0]
    low, high = interval(means_R, count, bounds=(0.0, 1.0))
    # All groups agree, so no resample differs: take the open end from Wilson's interval.
    if count > 1 and value in (0.0, 1.0):
        wilson = count / (count + NormalDist().inv_cdf(0.975) ** 2)
        low, high = (wilson, 1.0) if value else (0.0, 1 - wilson)
    return Estimate(value, low, high)


@torch.inference_mode()
def context_coherence(evaluated: WindowSet) -> NDArray[np.float32]:
    """Return (W,) the mean cosine of adjacent vectors of each context; NaN for a context of one vector."""
    windows = evaluated.windows
    coherence_W = torch.empty(len(windows), device=evaluated.vectors.device)
    for index in torch.arange(len(windows), device=evaluated.vectors.device).split(BLOCK):
        batch = evaluated.batch(index)
        context_BSD = F.normalize(batch.context_BSD.float(), dim=2)  # masked vectors are zero and add nothing
        # n present vectors are adjacent in n − 1 pairs, so one vector gives 0 / 0, which is NaN.
        total_B = (context_BSD[:, 1:] * context_BSD[:, :-1]).sum(dim=(1, 2))
        length_B = windows.context if batch.mask_BS is None else batch.mask_BS.sum(dim=1)
        coherence_W[index] = total_B / (length_B - 1)
    return coherence_W.cpu().numpy()


def _select_sources(evaluated: WindowSet) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return the windows (W,) of each source, the largest first, then by name; the smallest sources together."""
    # Number the sources in the order of their names, and count the windows of each.
    documents_U, document_W = np.unique(documents_of(evaluated.windows, evaluated.documents), return_inverse=True)
    sources_U = [evaluated.documents.sources[number] for number in documents_U.tolist()]
    names, source_U = np.unique(np.array(sources_U, dtype=object), return_inverse=True)
    source_W = source_U[document_W]
    counts = np.bincount(source_W, minlength=len(names))
    # The stable sort keeps sources of equal size in the order of their names; sources without windows are left out.
    order = [number for number in np.argsort(-counts, kind="stable").tolist() if counts[number]]
    subsets = [(str(names[number]), source_W == number) for number in order[:MAX_SOURCES]]
    if remaining := order[MAX_SOURCES:]:
        subsets.append(("other sources", np.isin(source_W, remaining)))
    return subsets


def _select_quartiles(coherence_W: NDArray[np.float32]) -> list[tuple[str, NDArray[np.bool_]]]:
    """Return the windows (W,) of each quartile of coherence, the lowest first; equal values stay together.

    Windows without a coherence are in no quartile, and empty quartiles are left out.
    """
    known = coherence_W[~np.isnan(coherence_W)]
    if len(known) == 0:
        return []
    edges = np.quantile(known, [0, 0.25, 0.5, 0.75, 1])
    # The three inner edges divide the windows into quartiles 0 to 3; −1 is for windows without a coherence.
    quartile_W = np.where(np.isnan(coherence_W), -1, np.searchsorted(edges[1:4], coherence_W))
    # Two digits, unless two edges would then look the same.
    digits = 2 if len({f"{edge:.2f}" for edge in edges}) == len(edges) else 4
    subsets = [
        (f"coherence {edges[number]:.{digits}f}–{edges[number + 1]:.{digits}f}", quartile_W == number)
        for number in range(4)
    ]
    return [(name, selected_W) for name, selected_W in subsets if selected_W.any()]


def _measure_subset(
    name: str, rows_PW: NDArray[np.floating], groups_W: NDArray[np.integer], resamples: int, seed: int
) -> Subset:
    """Return cosine and gain, the two rows, on the windows of a subset, with intervals from the same resamples."""
    cosine, gain = estimate_means(rows_PW, groups_W, resamples, seed, bounds=[(-1, 1), (-2, 2)])
    return Subset(name, len(groups_W), len(np.unique(groups_W)), cosine, gain)
