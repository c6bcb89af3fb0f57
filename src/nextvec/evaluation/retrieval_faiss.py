"""Retrieval with faiss, for more candidates than a matrix product with all of them can bear.

Ranks are exact up to a limit and cut there: only the nearest candidates of a prediction are looked at. A flat index,
the default, still compares every candidate, without ever holding all scores; an index of another kind, made by the
caller, may be much faster and miss some. Missed rivals make ranks look better than they are, so a score from such an
index may be laid only beside scores from the same one. faiss is loaded in the call that needs it, never before: on
some systems it and torch bring an OpenMP runtime each.

Letters in names: Q queries, C candidates, K candidates found, S context length.
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
from nextvec.evaluation.retrieval import Candidates, context_positions

NEIGHBOURS = 1_000
"""Ranks are exact up to here."""

_MISSING = ("faiss-cpu", "faiss", "retrieval among the nearest candidates only")


@torch.inference_mode()
def approximate_ranks(
    predictor: Predictor,
    vectors: Tensor,
    windows: Windows,
    candidates: Candidates,
    *,
    neighbours: int = NEIGHBOURS,
    index: Any = None,
) -> Tensor:
    """(Q,) float64 on the cpu: `target_ranks` up to `neighbours`; `neighbours` + 1 stands for anything beyond.

    `index` is a faiss index over `candidates.vectors_CD` in their order, by inner product; left out, an exact flat one
    is built, a copy of 4·C·D bytes. Of such cut ranks R@k is right for k ≤ `neighbours`, MRR too high by less than
    1 / `neighbours`. A target whose ties go on beyond the candidates found counts as beyond, too: a prediction that
    fits everything equally must not gain by the cut.
    Raises MissingExtraError if faiss is not installed.
    """
    if index is None:
        index = flat_index(candidates)
    original_C = _originals(candidates)
    # Enough to see past the target at the last rank that counts, even if the whole context is nearer.
    count = min(neighbours + windows.context + 1, len(candidates))
    ranks = []
    for positions in torch.arange(len(windows), device=vectors.device).split(BLOCK):
        _, query_QD = predict_block(predictor, vectors, windows, positions)
        chosen = windows.take(positions)
        target_Q = candidates.positions(chosen.targets)
        context_QS = context_positions(chosen, target_Q).cpu().numpy()
        scores_QK, found_QK = index.search(np.ascontiguousarray(query_QD.cpu().numpy()), count)
        found = _ranks(scores_QK, found_QK, target_Q.cpu().numpy(), context_QS, original_C)
        ranks.append(np.where(found <= neighbours, found, neighbours + 1.0))
    return torch.from_numpy(np.concatenate(ranks)) if ranks else torch.empty(0, dtype=torch.float64)


def require_faiss() -> None:
    """Raise MissingExtraError unless faiss is installed, without loading it: hours of training may come before."""
    if find_spec("faiss") is None:
        raise MissingExtraError(*_MISSING)


def flat_index(candidates: Candidates) -> Any:
    """An exact faiss index over candidates, by inner product. Raises MissingExtraError if faiss is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError(*_MISSING) from error
    index = faiss.IndexFlatIP(candidates.vectors_CD.shape[1])
    index.add(candidates.vectors_CD.cpu().numpy())
    return index


def _originals(candidates: Candidates) -> NDArray[np.int64]:
    """(C,) the first candidate that equals each one: itself, for most."""
    original_C = np.arange(len(candidates))
    original_C[candidates.repeats.cpu().numpy()] = candidates.originals.cpu().numpy()
    return original_C


def _ranks(
    scores_QK: NDArray[np.float32],
    found_QK: NDArray[np.int64],
    target_Q: NDArray[np.int64],
    context_QS: NDArray[np.int64],
    original_C: NDArray[np.int64],
) -> NDArray[np.float64]:
    """(Q,) mid-ranks of the targets among the candidates found, best first; infinite where they don't decide it.

    Places that an index could not fill hold −1. Candidates that repeat the target tie with it, whatever the rounding.
    """
    is_target_QK = found_QK == target_Q[:, None]
    own_Q1 = np.where(is_target_QK, scores_QK, -np.inf).max(axis=1, keepdims=True)
    there_QK = found_QK >= 0
    tied_QK = there_QK & ((scores_QK == own_Q1) | (original_C[found_QK] == original_C[target_Q][:, None]))
    rival_QK = there_QK & ~is_target_QK & ~(found_QK[:, :, None] == context_QS[:, None, :]).any(axis=2)
    higher_Q = (rival_QK & ~tied_QK & (scores_QK > own_Q1)).sum(axis=1)
    ranks_Q = 1 + higher_Q + (rival_QK & tied_QK).sum(axis=1) / 2
    decided_Q = is_target_QK.any(axis=1)
    if found_QK.shape[1] < len(original_C):
        decided_Q &= ~tied_QK[:, -1]
    return np.where(decided_Q, ranks_Q, np.inf)
