"""Retrieval: does a prediction find the true next chunk among all chunks of the split?

Candidates are all chunks of the split, also those of documents that are too short for a window. The window's own
context is excluded; otherwise a copying model retrieves its own input and its rank is meaningless. Ranks are exact:
every candidate is compared, in blocks of one matrix product. Ties count half (the mid-rank, which is the expected rank
under a random order), so that a constant prediction gets the middle rank and repeated texts do not matter.

Retrieval among the chunks of the target's own document is much harder, because topic and style do not help there.

The contrastive metrics are those of "Large Concept Models: Language Modeling in a Sentence Representation Space", arXiv
2412.08821, section 2.4.1. Two details differ. Its SONAR vectors are not of unit length, so its ℓ2 is not comparable
across spaces; here ℓ2 = √(2 − 2·cosine). The paper does not say how batches are drawn and how ties count; here batches
mix documents and ties count half.

Letters in names: Q queries, C candidates, S context length, D dimensions, B windows of a batch, X excluded positions, U
documents of a bundle, M documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nextvec.data.order import EpochOrder
from nextvec.data.store import DocumentTable
from nextvec.data.windows import Windows, WindowSet
from nextvec.evaluation.metrics import BLOCK, Predictor, predict_block
from nextvec.evaluation.results import ContrastiveMetrics, Retrieval

MAX_SCORES = 2**26
"""Upper limit of scores in memory: 256 MiB."""
BUNDLE_WINDOWS, BUNDLE_ROWS = 32, 2**14
"""Documents share a matrix product up to about that many windows, because more would waste it on rows of other
documents, and up to about that many rows, because more would fill the memory."""


@dataclass(frozen=True)
class Candidates:
    """The vectors among which a prediction is ranked. Memory: 4·C·D bytes."""

    rows: Tensor
    """(C,) int64 rows of the store, ascending."""
    vectors_CD: Tensor
    """(C, D) float32, unit length."""
    repeats: Tensor
    """(K,) positions of candidates that equal an earlier candidate."""
    originals: Tensor
    """(K,) positions of the first candidate that each of the `repeats` equals."""

    def __len__(self) -> int:
        return len(self.rows)

    def positions(self, rows: Tensor) -> Tensor:
        """Return the positions of rows of the store among the candidates; every row must be a candidate."""
        return torch.searchsorted(self.rows, rows)


def candidates_of(vectors: Tensor, documents: DocumentTable, split: str) -> Candidates:
    """Return every chunk of a split as a candidate, on the device of `vectors` (N, D)."""
    return candidates_at(vectors, torch.from_numpy(documents.rows_of(split)))


def candidates_at(vectors: Tensor, rows: Tensor) -> Candidates:
    """Return rows (C,), int64 and ascending, of `vectors` (N, D) as candidates, on the device of the vectors."""
    rows = rows.to(vectors.device)
    stored_CD = vectors.index_select(0, rows)
    repeats, originals = find_repeats(stored_CD.cpu().numpy())
    return Candidates(
        rows,
        F.normalize(stored_CD.float()),
        torch.from_numpy(repeats).to(vectors.device),
        torch.from_numpy(originals).to(vectors.device),
    )


def documents_of(windows: Windows, documents: DocumentTable) -> NDArray[np.int64]:
    """Return (W,) the number of each window's document in the table."""
    return np.searchsorted(documents.first_row, windows.targets.cpu().numpy(), side="right") - 1


@torch.inference_mode()
def target_ranks(predictor: Predictor, vectors: Tensor, windows: Windows, candidates: Candidates) -> Tensor:
    """Return (Q,) float64 ranks of the windows' targets on the CPU; each window's context is excluded."""
    ranks = []
    # One score matrix serves all blocks, so that memory is allocated once.
    block = max(1, min(BLOCK // 2, MAX_SCORES // len(candidates)))
    scores = torch.empty((block, len(candidates)), device=vectors.device)
    for start in range(0, len(windows), BLOCK):
        index = torch.arange(start, min(start + BLOCK, len(windows)), device=vectors.device)
        _, prediction_BD = predict_block(predictor, vectors, windows, index)
        batch = windows.take(index)
        target_B = candidates.positions(batch.targets)
        context_BS = context_positions(batch, target_B)
        # Rank fewer windows at a time than are predicted, so that their scores fit the matrix.
        for first in range(0, len(index), block):
            rows = slice(first, min(first + block, len(index)))
            memory = scores[: rows.stop - first]
            ranks.append(mid_ranks(prediction_BD[rows], candidates, target_B[rows], context_BS[rows], memory))
    return torch.cat(ranks) if ranks else torch.empty(0, dtype=torch.float64)


@torch.inference_mode()
def in_document_ranks(predictor: Predictor, vectors: Tensor, windows: Windows, documents: DocumentTable) -> Tensor:
    """Return (W,) float64 ranks of the targets on the CPU, each among the chunks of its own document.

    The window's context is excluded and ties count half, as in `target_ranks`. If the target is the only candidate, its
    rank is 1, so short documents raise every predictor's score: compare it with the baselines, and with
    `mean_in_document_candidates`.
    """
    # Sort the windows by their targets, so that those of a document are adjacent.
    order = torch.argsort(windows.targets, stable=True)
    ordered = windows.take(order)
    document_W = documents_of(ordered, documents)
    ranks_W = torch.empty(len(windows), dtype=torch.float64)
    # One matrix product covers the windows and chunks of a few neighboring documents.
    for start in range(0, len(windows), BLOCK):
        index = torch.arange(start, min(start + BLOCK, len(windows)), device=vectors.device)
        _, prediction_BD = predict_block(predictor, vectors, ordered, index)
        for bundle in _bundle_documents(document_W[start : start + BLOCK], documents.rows):
            rows = slice(start + bundle.start, start + bundle.stop)
            ranks_W[order[rows].cpu()] = _rank_bundle(
                prediction_BD[bundle], vectors, ordered.take(index[bundle]), document_W[rows], documents
            )
    return ranks_W


def mean_in_document_candidates(windows: Windows, documents: DocumentTable) -> float:
    """Return the mean number of candidates, the target included, of `in_document_ranks`; W is at least 1.

    R@1 at chance level is one divided by it, and higher if documents differ in length.
    """
    context = windows.context if windows.available is None else windows.available.cpu().numpy()
    return float((documents.rows[documents_of(windows, documents)] - context).mean())


def context_positions(windows: Windows, target_B: Tensor) -> Tensor:
    """Return (B, S) positions of the windows' contexts among candidates of whole documents, from the targets' (B,).

    Adjacent rows of a document are adjacent candidates. A masked place repeats the oldest context row.
    """
    # Context places are −S … −1 from the target. Places before the document are set to its first row.
    steps_BS = torch.arange(-windows.context, 0, device=target_B.device).expand(len(windows), -1)
    if windows.available is not None:
        steps_BS = torch.maximum(steps_BS, -windows.available[:, None])
    return target_B[:, None] + steps_BS


def mid_ranks(
    query_QD: Tensor, candidates: Candidates, target_Q: Tensor, excluded_QX: Tensor, scores_QC: Tensor | None = None
) -> Tensor:
    """Return (Q,) float64 mid-ranks of the target's score query·candidate on the CPU; 1 is the best.

        rank = 1 + (candidates that score higher) + ½ · (other candidates that score the same)

    `target_Q` and `excluded_QX` are positions among the candidates. Excluded candidates do not count; an excluded
    position that equals the target is ignored. `scores_QC` is memory to reuse.
    """
    scores_QC = torch.mm(query_QD, candidates.vectors_CD.T, out=scores_QC)
    # Repeated candidates share the score of the first, so that rounding cannot decide between equal vectors. For the
    # same reason the target's score comes from the same product as all others.
    if len(candidates.repeats):
        scores_QC[:, candidates.repeats] = scores_QC[:, candidates.originals]
    # Excluded candidates score −∞. Then restore the target's score, in case the target was excluded.
    target_score_Q1 = scores_QC.gather(1, target_Q[:, None])
    scores_QC.scatter_(1, excluded_QX, -torch.inf)
    scores_QC.scatter_(1, target_Q[:, None], target_score_Q1)
    # The target ties with itself once.
    higher = _count(scores_QC > target_score_Q1)
    equal = _count(scores_QC == target_score_Q1) - 1
    return 1 + higher + equal / 2


def summarize_ranks(ranks: Tensor) -> Retrieval:
    """Return R@k = fraction of ranks ≤ k, MRR = mean of 1 / rank, and the median of (Q,) ranks, Q ≥ 1.

    Source of MRR: Voorhees 1999, "The TREC-8 Question Answering Track Report".
    """
    r_at_1, r_at_5, r_at_10, r_at_50 = ((ranks <= k).double().mean().item() for k in (1, 5, 10, 50))
    median = float(np.median(ranks.numpy()))
    return Retrieval(r_at_1, r_at_5, r_at_10, (1 / ranks).mean().item(), median, r_at_50)


@torch.inference_mode()
def measure_contrastive(
    predictor: Predictor, evaluated: WindowSet, batch: int = 256, *, seed: int = 0
) -> ContrastiveMetrics:
    """Return ℓ2 and contrastive accuracy (CA) over the windows of a set, at least one.

        ℓ2 = mean of |prediction − target|, from 0 to 2 between unit-length vectors
        CA = mean over windows of the fraction of the batch's other targets that are farther from the prediction than
             the window's own target is, without the two neighbors of that target in its document

    A batch has at most `batch` windows, in an order shuffled by the seed; batches are of about equal size. A window
    without any other target to compare with does not count; CA is 0.5, which is chance level, if there is no other
    window.
    """
    vectors, windows = evaluated.vectors, evaluated.windows
    order = EpochOrder(len(windows), seed, 0)[:].to(vectors.device)
    distances, fractions = [], []
    for unsorted_index in order.tensor_split(-(-len(windows) // batch)):
        index = unsorted_index.sort().values  # candidates must ascend
        windows_B, prediction_BD = predict_block(predictor, vectors, windows, index)
        distances.append((prediction_BD - F.normalize(windows_B.target_BD)).norm(dim=1).cpu())
        # Adjacent target rows are of one document: the first row of a document has no context and is never a target.
        rows_B = windows.take(index).targets
        near_BB = (rows_B[:, None] - rows_B).abs() <= 1
        position_B = torch.arange(len(index), device=vectors.device)
        excluded_BX = torch.where(near_BB, position_B, position_B[:, None])
        # Between unit-length vectors, farther means a smaller product: the rank counts the targets that are nearer.
        nearer_B = mid_ranks(prediction_BD, candidates_at(vectors, rows_B), position_B, excluded_BX) - 1
        others_B = (~near_BB).sum(dim=1).cpu()
        fractions.append((1 - nearer_B / others_B)[others_B > 0])
    fraction = torch.cat(fractions)
    accuracy = fraction.mean().item() if len(fraction) else 0.5
    return ContrastiveMetrics(torch.cat(distances).double().mean().item(), accuracy)


def _bundle_documents(document_B: NDArray[np.int64], rows_M: NDArray[np.integer[Any]]) -> Iterator[slice]:
    """Iterate over runs of windows that share a matrix product: whole documents, few windows, few rows.

    `document_B` are the windows' documents, ascending; `rows_M` the rows of each document of the table.
    """
    # Number the bundles by windows and by rows. A bundle starts at a document where either number changes.
    documents_U, first_U = np.unique(document_B, return_index=True)
    rows_before_U = np.cumsum(rows_M[documents_U]) - rows_M[documents_U]
    bundle_U = np.stack([first_U // BUNDLE_WINDOWS, rows_before_U // BUNDLE_ROWS])
    starts_U = np.flatnonzero((np.diff(bundle_U, prepend=-1) != 0).any(axis=0))
    bounds = [*first_U[starts_U].tolist(), len(document_B)]
    return (slice(start, stop) for start, stop in pairwise(bounds))


def _rank_bundle(
    prediction_BD: Tensor, vectors: Tensor, windows: Windows, document_B: NDArray[np.int64], documents: DocumentTable
) -> Tensor:
    """Return (B,) ranks of the windows of a bundle of documents, each among the chunks of its own document."""
    # Candidates are all rows of the bundle's documents.
    documents_U = np.unique(document_B)
    first_U, rows_U = documents.first_row[documents_U], documents.rows[documents_U]
    rows = np.concatenate([np.arange(first, first + count) for first, count in zip(first_U, rows_U, strict=True)])
    candidates = candidates_at(vectors, torch.from_numpy(rows))
    target_B = candidates.positions(windows.targets)
    excluded_BX = context_positions(windows, target_B)
    if len(documents_U) > 1:
        # Exclude the chunks of the bundle's other documents; excluding the target's position excludes nothing.
        document_C = torch.from_numpy(np.repeat(documents_U, rows_U)).to(vectors.device)
        foreign_BC = document_C != torch.from_numpy(document_B).to(vectors.device)[:, None]
        position_C = torch.arange(len(candidates), device=vectors.device)
        excluded_BX = torch.cat([excluded_BX, torch.where(foreign_BC, position_C, target_B[:, None])], dim=1)
    # Rank at most MAX_SCORES scores at a time.
    block = max(1, MAX_SCORES // len(candidates))
    splits = zip(*(values.split(block) for values in (prediction_BD, target_B, excluded_BX)), strict=True)
    return torch.cat([mid_ranks(query, candidates, target, excluded) for query, target, excluded in splits])


def _count(mask_QC: Tensor) -> Tensor:
    """Return the number of True values in each row, as float64 on the CPU; numpy counts several times faster there."""
    if mask_QC.device.type == "cpu":
        return torch.from_numpy(np.count_nonzero(mask_QC.numpy(), axis=1)).double()
    return mask_QC.sum(dim=1).cpu().double()


def find_repeats(vectors_CD: NDArray[np.generic]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return positions of rows that equal an earlier row bit for bit, and the position of the first such row."""
    first: dict[bytes, int] = {}
    pairs = []
    # Nearly all rows already differ in their first few numbers. Only the others are hashed.
    _, prefix_C, count_K = np.unique(vectors_CD[:, :4], axis=0, return_inverse=True, return_counts=True)
    for position in np.flatnonzero(count_K[prefix_C.reshape(-1)] > 1).tolist():
        # The first row with a digest is the original of all later rows with it.
        digest = hashlib.blake2b(vectors_CD[position].tobytes(), digest_size=16).digest()
        original = first.setdefault(digest, position)
        if original != position:
            pairs.append((position, original))
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()
