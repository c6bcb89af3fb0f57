"""Retrieval: does a prediction find the true next chunk among all chunks of the split?

Candidates are the split's chunks, those of documents too short for a window included; a window's own context is left
out, because a model that copies it would look lost rather than lazy. The rank is exact: every candidate is compared,
in blocks of one matrix product. Ties count half (the mid-rank, the expected rank under a random order), so that a
constant prediction gets the middle rank, and a repeated text neither helps nor harms.

Letters in names: Q queries, C candidates, S context length, D dimensions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nextvec.data.split import SPLITS
from nextvec.data.store import DocumentTable
from nextvec.data.windows import Windows
from nextvec.judge.judgement import Retrieval
from nextvec.judge.metrics import BLOCK, Predictor, predict_block

_SCORES = 2**26  # most scores in memory at once: 256 MiB


@dataclass(frozen=True)
class Candidates:
    """What predictions are compared with. Memory: 4·C·D bytes."""

    rows: Tensor
    """(C,) int32 rows of the store, ascending."""
    vectors_CD: Tensor
    """(C, D) float32, unit length."""
    repeats: Tensor
    """(K,) positions of candidates that equal an earlier one …"""
    originals: Tensor
    """(K,) … and the position of the first such candidate."""

    def __len__(self) -> int:
        return len(self.rows)

    def positions(self, rows: Tensor) -> Tensor:
        """Where some rows of the store stand among the candidates; every row must be one."""
        return torch.searchsorted(self.rows, rows)


def candidates_of(vectors: Tensor, documents: DocumentTable, split: str) -> Candidates:
    """Every chunk of a split as candidates, on the device of `vectors` (N, D)."""
    chosen = np.repeat(documents.splits == SPLITS.index(split), documents.rows)
    rows = torch.from_numpy(np.flatnonzero(chosen).astype(np.int32)).to(vectors.device)
    found_CD = vectors.index_select(0, rows)
    repeats, originals = _repeats(found_CD.cpu().numpy())
    return Candidates(
        rows,
        F.normalize(found_CD.float()),
        torch.from_numpy(repeats).to(vectors.device),
        torch.from_numpy(originals).to(vectors.device),
    )


@torch.inference_mode()
def target_ranks(predictor: Predictor, vectors: Tensor, windows: Windows, candidates: Candidates) -> Tensor:
    """(Q,) float64 on the cpu: the rank of each window's target among the candidates but the window's own context."""
    ranks = []
    offsets_S = torch.arange(-windows.context, 0, device=vectors.device, dtype=torch.int32)
    block = max(1, min(BLOCK // 2, _SCORES // len(candidates)))
    scores = torch.empty((block, len(candidates)), device=vectors.device)
    for start in range(0, len(windows), BLOCK):
        index = torch.arange(start, min(start + BLOCK, len(windows)), device=vectors.device)
        _, prediction_BD = predict_block(predictor, vectors, windows, index)
        chosen = windows.take(index)
        target_B = candidates.positions(chosen.targets)
        # Rows of a document are neighbours among the candidates, too; a masked place repeats the last context row.
        steps_BS = offsets_S.expand(len(index), -1)
        if chosen.available is not None:
            steps_BS = torch.maximum(steps_BS, -chosen.available[:, None])
        context_BS = target_B[:, None] + steps_BS
        for first in range(0, len(index), block):
            part = slice(first, min(first + block, len(index)))
            memory = scores[: part.stop - first]
            ranks.append(rank(prediction_BD[part], candidates, target_B[part], context_BS[part], memory))
    return torch.cat(ranks) if ranks else torch.empty(0, dtype=torch.float64)


def rank(
    query_QD: Tensor, candidates: Candidates, target_Q: Tensor, excluded_QX: Tensor, scores_QC: Tensor | None = None
) -> Tensor:
    """(Q,) float64 on the cpu: mid-rank of the target's score query·candidate, 1 being the best.

        rank = 1 + (candidates that score higher) + ½ · (other candidates that score the same)

    `target_Q` and `excluded_QX` are positions among the candidates; excluded ones are not counted, and the target is
    never one of them (an excluded position that equals the target is ignored). `scores_QC` is memory to use.
    The target's score comes from the same product as all others, and repeated candidates share the score of the first,
    so that rounding can't decide between equals.
    """
    scores_QC = torch.mm(query_QD, candidates.vectors_CD.T, out=scores_QC)
    if len(candidates.repeats):
        scores_QC[:, candidates.repeats] = scores_QC[:, candidates.originals]
    own_Q1 = scores_QC.gather(1, target_Q[:, None])
    scores_QC.scatter_(1, excluded_QX, -torch.inf)
    scores_QC.scatter_(1, target_Q[:, None], own_Q1)
    higher = _count(scores_QC > own_Q1)
    equal = _count(scores_QC == own_Q1) - 1
    return 1 + higher + equal / 2


def summarise(ranks: Tensor) -> Retrieval:
    """R@k = share of ranks ≤ k; MRR = mean of 1 / rank (Voorhees 1999); the median rank. `ranks` is (Q,), Q ≥ 1."""
    shares = {k: (ranks <= k).double().mean().item() for k in (1, 5, 10)}
    return Retrieval(shares[1], shares[5], shares[10], (1 / ranks).mean().item(), float(np.median(ranks.numpy())))


def _count(mask_QC: Tensor) -> Tensor:
    """How many are True in each row, as float64 on the cpu; numpy counts several times faster there."""
    if mask_QC.device.type == "cpu":
        return torch.from_numpy(np.count_nonzero(mask_QC.numpy(), axis=1)).double()
    return mask_QC.sum(dim=1).cpu().double()


def _repeats(vectors_CD: NDArray[np.generic]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The positions of rows that equal an earlier row bit for bit, and the position of the first such row."""
    first: dict[bytes, int] = {}
    pairs = []
    for position, vector in enumerate(vectors_CD):
        original = first.setdefault(hashlib.blake2b(vector.tobytes(), digest_size=16).digest(), position)
        if original != position:
            pairs.append((position, original))
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()
