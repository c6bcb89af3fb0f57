"""Retrieval: does a prediction find the true next chunk among all chunks of the split?

Candidates are the split's chunks, those of documents too short for a window included; a window's own context is left
out, because a model that copies it would look lost rather than lazy. The rank is exact: every candidate is compared,
in blocks of one matrix product. Ties count half (the mid-rank, the expected rank under a random order), so that a
constant prediction gets the middle rank, and a repeated text neither helps nor harms.

The same among the chunks of the window's own document only is harder by far: topic and style tell nothing there.

Letters in names: Q queries, C candidates, S context length, D dimensions.

What the Large Concept Model paper measures in embedding space, so that figures can be laid beside its tables.

Source: "Large Concept Models: Language Modeling in a Sentence Representation Space", arXiv 2412.08821, section 2.4.1,
"Pre-training evaluation". Two things differ there: its vectors are SONAR's and not of unit length, so that its ℓ2 can't
be compared with that of another space, while here predictions and targets are of unit length and ℓ2 = √(2 − 2·cosine);
and it does not say how its batches are drawn or how ties count, so that here batches mix documents and ties count half.

Letters in names: B windows of a batch, D dimensions, X excluded places.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nextvec.data.splits import SPLITS
from nextvec.data.store import DocumentTable
from nextvec.data.windows import Windows, WindowSet, epoch_order
from nextvec.evaluation.metrics import BLOCK, Predictor, predict_block
from nextvec.evaluation.results import Contrast, Retrieval

_SCORES = 2**26  # most scores in memory at once: 256 MiB
_TOGETHER = 32  # windows at which documents stop sharing a matrix product: more would waste it on foreign rows …
_ROWS_TOGETHER = 2**14  # … and rows at which they stop: more would fill the memory


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
    return candidates_at(vectors, torch.from_numpy(np.flatnonzero(chosen).astype(np.int32)))


def candidates_at(vectors: Tensor, rows: Tensor) -> Candidates:
    """Some rows (C,), int32 and ascending, of `vectors` (N, D) as candidates, on the device of the vectors."""
    rows = rows.to(vectors.device)
    found_CD = vectors.index_select(0, rows)
    repeats, originals = _repeats(found_CD.cpu().numpy())
    return Candidates(
        rows,
        F.normalize(found_CD.float()),
        torch.from_numpy(repeats).to(vectors.device),
        torch.from_numpy(originals).to(vectors.device),
    )


def documents_of(windows: Windows, documents: DocumentTable) -> NDArray[np.int64]:
    """(W,) the number of each window's document in the table."""
    return np.searchsorted(documents.first_row, windows.targets.cpu().numpy(), side="right") - 1


@torch.inference_mode()
def target_ranks(predictor: Predictor, vectors: Tensor, windows: Windows, candidates: Candidates) -> Tensor:
    """(Q,) float64 on the cpu: the rank of each window's target among the candidates but the window's own context."""
    ranks = []
    block = max(1, min(BLOCK // 2, _SCORES // len(candidates)))
    scores = torch.empty((block, len(candidates)), device=vectors.device)
    for start in range(0, len(windows), BLOCK):
        index = torch.arange(start, min(start + BLOCK, len(windows)), device=vectors.device)
        _, prediction_BD = predict_block(predictor, vectors, windows, index)
        chosen = windows.take(index)
        target_B = candidates.positions(chosen.targets)
        context_BS = context_positions(chosen, target_B)
        for first in range(0, len(index), block):
            part = slice(first, min(first + block, len(index)))
            memory = scores[: part.stop - first]
            ranks.append(rank(prediction_BD[part], candidates, target_B[part], context_BS[part], memory))
    return torch.cat(ranks) if ranks else torch.empty(0, dtype=torch.float64)


@torch.inference_mode()
def within_ranks(predictor: Predictor, vectors: Tensor, windows: Windows, documents: DocumentTable) -> Tensor:
    """(W,) float64 on the cpu: the rank of each window's target among the chunks of its own document.

    The window's own context is left out and ties count half, as in `target_ranks`. Where the target is the only
    candidate its rank is 1, so that short documents flatter everybody: read it beside `within_candidates`, and beside
    the baselines. A matrix product covers the windows and chunks of a few neighbouring documents at once.
    """
    order = torch.argsort(windows.targets, stable=True)
    ordered = windows.take(order)
    document_W = documents_of(ordered, documents)
    ranks_W = torch.empty(len(windows), dtype=torch.float64)
    for start in range(0, len(windows), BLOCK):
        index = torch.arange(start, min(start + BLOCK, len(windows)), device=vectors.device)
        _, prediction_BD = predict_block(predictor, vectors, ordered, index)
        for part in _bundles(document_W[start : start + BLOCK], documents.rows):
            inside = slice(start + part.start, start + part.stop)
            ranks_W[order[inside].cpu()] = _within_bundle(
                prediction_BD[part], vectors, ordered.take(index[part]), document_W[inside], documents
            )
    return ranks_W


def within_candidates(windows: Windows, documents: DocumentTable) -> float:
    """How many candidates, the target among them, `within_ranks` compares on average.

    By chance R@1 is one in so many, and higher where documents differ in length. W is at least 1.
    """
    context = windows.context if windows.available is None else windows.available.cpu().numpy()
    return float((documents.rows[documents_of(windows, documents)] - context).mean())


def context_positions(windows: Windows, target_B: Tensor) -> Tensor:
    """(B, S) positions of the windows' contexts among candidates that hold whole documents, from the targets' (B,).

    Rows of a document are neighbours among the candidates, too; a masked place repeats the oldest context row.
    """
    steps_BS = torch.arange(-windows.context, 0, device=target_B.device, dtype=torch.int32).expand(len(windows), -1)
    if windows.available is not None:
        steps_BS = torch.maximum(steps_BS, -windows.available[:, None])
    return target_B[:, None] + steps_BS


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
    r_at_1, r_at_5, r_at_10, r_at_50 = ((ranks <= k).double().mean().item() for k in (1, 5, 10, 50))
    median = float(np.median(ranks.numpy()))
    return Retrieval(r_at_1, r_at_5, r_at_10, (1 / ranks).mean().item(), median, r_at_50)


def _bundles(document_B: NDArray[np.int64], rows_M: NDArray[np.int64]) -> Iterator[slice]:
    """Runs of windows, ordered by document, that share a matrix product: whole documents, few windows, few rows."""
    documents_U, first_U = np.unique(document_B, return_index=True)
    rows_before_U = np.cumsum(rows_M[documents_U]) - rows_M[documents_U]
    shelf_U = np.stack([first_U // _TOGETHER, rows_before_U // _ROWS_TOGETHER])
    opens_U = np.flatnonzero((np.diff(shelf_U, prepend=-1) != 0).any(axis=0))
    bounds = [*first_U[opens_U].tolist(), len(document_B)]
    return (slice(start, stop) for start, stop in pairwise(bounds))


def _within_bundle(
    prediction_BD: Tensor, vectors: Tensor, windows: Windows, document_B: NDArray[np.int64], documents: DocumentTable
) -> Tensor:
    """(B,) ranks of the windows of some documents, each among the chunks of its own."""
    documents_U = np.unique(document_B)
    first_U, rows_U = documents.first_row[documents_U], documents.rows[documents_U]
    rows = np.concatenate([np.arange(first, first + count) for first, count in zip(first_U, rows_U, strict=True)])
    candidates = candidates_at(vectors, torch.from_numpy(rows.astype(np.int32)))
    target_B = candidates.positions(windows.targets)
    excluded_BX = context_positions(windows, target_B)
    if len(documents_U) > 1:
        owner_C = torch.from_numpy(np.repeat(documents_U, rows_U)).to(vectors.device)
        foreign_BC = owner_C != torch.from_numpy(document_B).to(vectors.device)[:, None]
        place_C = torch.arange(len(candidates), device=vectors.device)
        excluded_BX = torch.cat([excluded_BX, torch.where(foreign_BC, place_C, target_B[:, None])], dim=1)
    block = max(1, _SCORES // len(candidates))
    parts = zip(*(values.split(block) for values in (prediction_BD, target_B, excluded_BX)), strict=True)
    return torch.cat([rank(query, candidates, target, excluded) for query, target, excluded in parts])


def _count(mask_QC: Tensor) -> Tensor:
    """How many are True in each row, as float64 on the cpu; numpy counts several times faster there."""
    if mask_QC.device.type == "cpu":
        return torch.from_numpy(np.count_nonzero(mask_QC.numpy(), axis=1)).double()
    return mask_QC.sum(dim=1).cpu().double()


def _repeats(vectors_CD: NDArray[np.generic]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The positions of rows that equal an earlier row bit for bit, and the position of the first such row."""
    first: dict[bytes, int] = {}
    pairs = []
    # Rows that differ within their first few numbers, which is nearly all of them, need no closer look.
    _, kind_C, count_K = np.unique(vectors_CD[:, :4], axis=0, return_inverse=True, return_counts=True)
    for position in np.flatnonzero(count_K[kind_C.reshape(-1)] > 1).tolist():
        original = first.setdefault(hashlib.blake2b(vectors_CD[position].tobytes(), digest_size=16).digest(), position)
        if original != position:
            pairs.append((position, original))
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()


@torch.inference_mode()
def measure_contrast(predictor: Predictor, evaluated: WindowSet, batch: int = 256, *, seed: int = 0) -> Contrast:
    """ℓ2 and contrastive accuracy (CA) over the windows of a set, at least one.

        ℓ2 = mean of |prediction − target|, from 0 to 2 between unit-length vectors
        CA = mean over windows of the share of the batch's other targets that are further from the prediction than the
             window's own target is, leaving out the two neighbours of that target in its document

    A batch holds the targets of at most `batch` windows in an order shuffled by the seed; batches are of like size.
    A window without any other target to compare with is not counted; CA is 0.5, which is chance, if none has one.
    """
    vectors, windows = evaluated.vectors, evaluated.windows
    order = epoch_order(len(windows), seed, 0).to(vectors.device)
    distances, shares = [], []
    for unsorted_index in order.tensor_split(-(-len(windows) // batch)):
        index = unsorted_index.sort().values  # the order within a batch is of no matter, and candidates ascend
        found, prediction_BD = predict_block(predictor, vectors, windows, index)
        distances.append((prediction_BD - F.normalize(found.target_BD)).norm(dim=1).cpu())
        rows_B = windows.targets[index]
        # Rows side by side are of one document: its first row has no context, so that it is never a target.
        near_BB = (rows_B[:, None] - rows_B).abs() <= 1
        place_B = torch.arange(len(index), device=vectors.device)
        excluded_BX = torch.where(near_BB, place_B, place_B[:, None])
        # Between unit-length targets, further means a smaller product: the rank counts the others that are nearer.
        nearer_B = rank(prediction_BD, candidates_at(vectors, rows_B), place_B, excluded_BX) - 1
        others_B = (~near_BB).sum(dim=1).cpu()
        shares.append((1 - nearer_B / others_B)[others_B > 0])
    share = torch.cat(shares)
    return Contrast(torch.cat(distances).double().mean().item(), share.mean().item() if len(share) else 0.5)
