"""Retrieval with faiss, for sets of candidates that are too large for a full matrix product.

Ranks are exact up to a limit and cut off there, because only the nearest candidates of a prediction are searched. The
default flat index still compares every candidate, but never keeps all scores. An approximate index, made by the
caller, may be much faster and miss candidates. Missed candidates make ranks look better than they are, so compare such
scores only with scores from the same index.

Letters in names: Q queries, C candidates, K neighbors.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nextvec.data.windows import Windows
from nextvec.errors import MissingExtraError
from nextvec.evaluation.metrics import BLOCK, Predictor, predict_block
from nextvec.evaluation.retrieval import Candidates

NEIGHBORS = 1_000
"""Ranks are exact up to this one, so that R@k is exact for every k that is reported."""

_MISSING = ("faiss-cpu", "faiss", "retrieval among the nearest candidates only")


@torch.inference_mode()
def approximate_ranks(
    predictor: Predictor,
    vectors: Tensor,
    windows: Windows,
    candidates: Candidates,
    *,
    neighbors: int = NEIGHBORS,
    index: Any = None,
) -> Tensor:
    """Return (Q,) float64 ranks on the CPU: those of `target_ranks` up to `neighbors`, and `neighbors` + 1 beyond.

    `index` is a faiss inner-product index over `candidates.vectors_CD` in their order. By default an exact flat index
    is built, a copy of 4·C·D bytes. R@k is exact for k ≤ `neighbors`, and MRR too high by less than 1 / `neighbors`. If
    the target's ties continue beyond the neighbors found, its rank counts as beyond, too: a prediction that fits
    everything equally must not gain by the limit.
    Raises MissingExtraError if faiss is not installed.
    """
    if index is None:
        index = flat_index(candidates)
    # Map every candidate to the first one that equals it: most are their own original.
    original_C = np.arange(len(candidates))
    original_C[candidates.repeats.cpu().numpy()] = candidates.originals.cpu().numpy()
    ranks = []
    for positions in torch.arange(len(windows), device=vectors.device).split(BLOCK):
        _, query_QD = predict_block(predictor, vectors, windows, positions)
        batch = windows.take(positions)
        target_Q = candidates.positions(batch.targets)
        start_Q = candidates.start_C[target_Q]
        # Enough to reach the target at the last rank that counts, even if all earlier chunks are nearer.
        count = min(neighbors + int((target_Q - start_Q).max()) + 1, len(candidates))
        scores_QK, neighbor_QK = index.search(np.ascontiguousarray(query_QD.cpu().numpy()), count)
        rank_Q = _mid_ranks(scores_QK, neighbor_QK, target_Q.cpu().numpy(), start_Q.cpu().numpy(), original_C)
        ranks.append(np.where(rank_Q <= neighbors, rank_Q, neighbors + 1.0))
    return torch.from_numpy(np.concatenate(ranks)) if ranks else torch.empty(0, dtype=torch.float64)


def require_faiss() -> None:
    """Raise MissingExtraError unless faiss is installed. Call it early: a missing extra must not end a long run."""
    if find_spec("faiss") is None:
        raise MissingExtraError(*_MISSING)


def flat_index(candidates: Candidates) -> Any:
    """Return an exact faiss inner-product index over candidates. Raises MissingExtraError without faiss."""
    try:
        # Imported here: on some systems faiss and torch each bring an OpenMP runtime, and loading both aborts.
        import faiss
    except ImportError as error:
        raise MissingExtraError(*_MISSING) from error
    index = faiss.IndexFlatIP(candidates.vectors_CD.shape[1])
    index.add(candidates.vectors_CD.cpu().numpy())
    return index


def _mid_ranks(
    scores_QK: NDArray[np.float32],
    neighbor_QK: NDArray[np.int64],
    target_Q: NDArray[np.int64],
    start_Q: NDArray[np.int64],
    original_C: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return (Q,) mid-ranks of the targets among the neighbors, best first; infinite if these do not decide it.

    `start_Q` are the positions of the first chunks of the targets' documents. An index fills missing neighbors with −1.
    Candidates that repeat the target tie with it, whatever the rounding.
    """
    # The target's score; −∞ if the target is not among the neighbors.
    is_target_QK = neighbor_QK == target_Q[:, None]
    target_score_Q1 = np.where(is_target_QK, scores_QK, -np.inf).max(axis=1, keepdims=True)
    # A neighbor ties with the target if its score or its vector is equal.
    exists_QK = neighbor_QK >= 0
    repeats_target_QK = original_C[neighbor_QK] == original_C[target_Q][:, None]
    is_tied_QK = exists_QK & ((scores_QK == target_score_Q1) | repeats_target_QK)
    # Rivals are all neighbors but the target and earlier chunks. Those that score higher add 1 to the rank, ties ½.
    is_earlier_QK = (neighbor_QK >= start_Q[:, None]) & (neighbor_QK < target_Q[:, None])
    is_rival_QK = exists_QK & ~is_target_QK & ~is_earlier_QK
    higher_Q = (is_rival_QK & ~is_tied_QK & (scores_QK > target_score_Q1)).sum(axis=1)
    ranks_Q = 1 + higher_Q + (is_rival_QK & is_tied_QK).sum(axis=1) / 2
    # The rank is decided if the target was found and its ties ended among the neighbors.
    is_decided_Q = is_target_QK.any(axis=1)
    if neighbor_QK.shape[1] < len(original_C):
        is_decided_Q &= ~is_tied_QK[:, -1]
    return np.where(is_decided_Q, ranks_Q, np.inf)
