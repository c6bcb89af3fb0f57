"""Retrieval: does a prediction find the true next chunk among all chunks of the split?

Candidates are all chunks of the split, also those of documents that are too short for a window, without the chunks
before the target in its document: whoever searches for the next chunk has that text already. They are excluded for
every model, whatever its context length, so that ranks of models with different contexts can be compared, and a copying
model cannot retrieve its own input. Ranks are exact: every candidate is compared, in blocks of one matrix product. Ties
count half (the mid-rank, which is the expected rank under a random order), so that a constant prediction gets the
middle rank and repeated texts do not matter.

Retrieval among the chunks of the target's own document is much harder, because topic and style do not help there.

The contrastive metrics follow "Large Concept Models: Language Modeling in a Sentence Representation Space", arXiv
2412.08821, section 2.4.1. Its SONAR vectors are not of unit length, so its ℓ2 is not comparable across spaces; here
ℓ2 = √(2 − 2·cosine). The paper takes the distractors of CA from a batch; here they are the other chunks of the target's
document, because nearly all predictions are closer to their target than to chunks of other documents. PAR is here a
ratio of means, because the cosine of a single target can be near zero.

Letters in names: Q queries, C candidates, D dimensions, B windows of a batch, X excluded pairs of a query and a
candidate, U documents of a bundle, M documents.
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

from nextvec.data.store import DocumentTable
from nextvec.data.windows import Windows, WindowSet
from nextvec.evaluation.metrics import BLOCK, Predictor, predict_block
from nextvec.evaluation.results import ContrastiveMetrics, Retrieval

MAX_SCORES = 2**26
"""Upper limit of scores in memory: 256 MiB."""
MAX_RECALL_RANK = 100
"""The last k of the recall curve."""
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
    start_C: Tensor
    """(C,) int64 position of the first candidate of each candidate's document."""
    repeats: Tensor
    """(K,) positions of candidates that equal an earlier candidate."""
    originals: Tensor
    """(K,) positions of the first candidate that each of the `repeats` equals."""

    def __len__(self) -> int:
        return len(self.rows)

    def positions(self, rows: Tensor) -> Tensor:
        """Return the positions of rows of the store among the candidates; every row must be a candidate."""
        return torch.searchsorted(self.rows, rows)

    def earlier(self, target_Q: Tensor) -> Tensor:
        """Return (2, X) pairs of each query with each candidate before its target in the target's document.

        `target_Q` are positions of the targets. A pair is the number of the query and the position of the candidate.
        """
        start_Q = self.start_C[target_Q]
        count_Q = target_Q - start_Q
        # Number the candidates of each query from its start: a running number minus that of the query's first pair.
        query_X = torch.arange(len(target_Q), device=target_Q.device).repeat_interleave(count_Q)
        shift_Q = start_Q - (count_Q.cumsum(0) - count_Q)
        return torch.stack([query_X, torch.arange(len(query_X), device=target_Q.device) + shift_Q[query_X]])


def candidates_of(vectors: Tensor, documents: DocumentTable, split: str) -> Candidates:
    """Return every chunk of a split as a candidate, on the device of `vectors` (N, D)."""
    return candidates_at(vectors, documents, documents.rows_of(split))


def candidates_at(vectors: Tensor, documents: DocumentTable, rows: NDArray[np.int64]) -> Candidates:
    """Return rows (C,), ascending, of `vectors` (N, D) as candidates, on the device of the vectors."""
    document_C = np.searchsorted(documents.first_row, rows, side="right")
    start_C = np.searchsorted(document_C, document_C)
    rows_C = torch.from_numpy(rows).to(vectors.device)
    stored_CD = vectors.index_select(0, rows_C)
    repeats, originals = find_repeats(stored_CD.cpu().numpy())
    return Candidates(
        rows_C,
        F.normalize(stored_CD.float()),
        torch.from_numpy(start_C).to(vectors.device),
        torch.from_numpy(repeats).to(vectors.device),
        torch.from_numpy(originals).to(vectors.device),
    )


def documents_of(windows: Windows, documents: DocumentTable) -> NDArray[np.int64]:
    """Return (W,) the number of each window's document in the table."""
    return np.searchsorted(documents.first_row, windows.targets.cpu().numpy(), side="right") - 1


@torch.inference_mode()
def target_ranks(predictor: Predictor, vectors: Tensor, windows: Windows, candidates: Candidates) -> Tensor:
    """Return (Q,) float64 ranks of the windows' targets on the CPU; the chunks before each target are excluded."""
    ranks = []
    # One score matrix serves all blocks, so that memory is allocated once.
    block = max(1, min(BLOCK // 2, MAX_SCORES // len(candidates)))
    scores = torch.empty((block, len(candidates)), device=vectors.device)
    for start in range(0, len(windows), BLOCK):
        index = torch.arange(start, min(start + BLOCK, len(windows)), device=vectors.device)
        _, prediction_BD = predict_block(predictor, vectors, windows, index)
        batch = windows.take(index)
        target_B = candidates.positions(batch.targets)
        # Rank fewer windows at a time than are predicted, so that their scores fit the matrix.
        for first in range(0, len(index), block):
            rows = slice(first, min(first + block, len(index)))
            memory = scores[: rows.stop - first]
            excluded_2X = candidates.earlier(target_B[rows])
            ranks.append(mid_ranks(prediction_BD[rows], candidates, target_B[rows], excluded_2X, memory))
    return torch.cat(ranks) if ranks else torch.empty(0, dtype=torch.float64)


@torch.inference_mode()
def in_document_ranks(
    predictor: Predictor,
    vectors: Tensor,
    windows: Windows,
    documents: DocumentTable,
    *,
    without_neighbors: bool = False,
) -> Tensor:
    """Return (W,) float64 ranks of the targets on the CPU, each among the chunks of its own document.

    The chunks before the target are excluded and ties count half, as in `target_ranks`. The last chunk of a document is
    the only candidate and its rank is 1, so short documents raise every predictor's score: compare it with the
    baselines. `without_neighbors` ranks the target among all chunks of its document, the earlier ones included, but the
    two beside it.
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
            part = ordered.take(index[bundle])
            candidates = _bundle_candidates(vectors, documents, document_W[rows])
            ranks_W[order[rows].cpu()] = _rank_bundle(prediction_BD[bundle], part, candidates, without_neighbors)
    return ranks_W


def mid_ranks(
    query_QD: Tensor, candidates: Candidates, target_Q: Tensor, excluded_2X: Tensor, scores_QC: Tensor | None = None
) -> Tensor:
    """Return (Q,) float64 mid-ranks of the target's score query·candidate on the CPU; 1 is the best.

        rank = 1 + (candidates that score higher) + ½ · (other candidates that score the same)

    `target_Q` are positions among the candidates. `excluded_2X` are pairs of a query's number and the position of a
    candidate that does not count for it; a pair with the target is ignored. `scores_QC` is memory to reuse.
    """
    scores_QC = torch.mm(query_QD, candidates.vectors_CD.T, out=scores_QC)
    # Repeated candidates share the score of the first, so that rounding cannot decide between equal vectors. For the
    # same reason the target's score comes from the same product as all others.
    if len(candidates.repeats):
        scores_QC[:, candidates.repeats] = scores_QC[:, candidates.originals]
    # Excluded candidates score −∞. Then restore the target's score, in case the target was excluded.
    target_score_Q1 = scores_QC.gather(1, target_Q[:, None])
    scores_QC[excluded_2X[0], excluded_2X[1]] = -torch.inf
    scores_QC.scatter_(1, target_Q[:, None], target_score_Q1)
    # The target ties with itself once.
    higher = _count(scores_QC > target_score_Q1)
    equal = _count(scores_QC == target_score_Q1) - 1
    return 1 + higher + equal / 2


def summarize_ranks(ranks: Tensor) -> Retrieval:
    """Return R@k = fraction of ranks ≤ k, MRR = mean of 1 / rank, and the median of (Q,) ranks, Q ≥ 1.

    Source of MRR: Voorhees 1999, "The TREC-8 Question Answering Track Report".
    """
    curve = tuple((ranks <= k).double().mean().item() for k in range(1, MAX_RECALL_RANK + 1))
    median = float(np.median(ranks.numpy()))
    return Retrieval(curve[0], curve[4], curve[9], (1 / ranks).mean().item(), median, curve[49], curve)


@torch.inference_mode()
def measure_contrastive(predictor: Predictor, evaluated: WindowSet) -> ContrastiveMetrics:
    """Return ℓ2, contrastive accuracy (CA) and paraphrasing (PAR) over the windows of a set, at least one.

        ℓ2  = mean of |prediction − target|, from 0 to 2 between unit-length vectors
        CA  = mean over windows of the fraction of the document's other chunks that are farther from the prediction than
              the target is, without the two neighbors of the target
        PAR = mean of max over the context of cos(prediction, context vector), divided by the same mean for the target

    Ties count half. A window whose document has no other chunk does not count; CA is 0.5, chance level, if no window
    counts.
    """
    vectors, windows, documents = evaluated.vectors, evaluated.windows, evaluated.documents
    distances, closest_2 = [], torch.zeros(2, dtype=torch.float64)
    for start in range(0, len(windows), BLOCK):
        batch, prediction_BD = predict_block(predictor, vectors, windows, slice(start, start + BLOCK))
        target_BD = F.normalize(batch.target_BD)
        distances.append((prediction_BD - target_BD).norm(dim=1).cpu())
        # The closest context vector of the prediction and of the target; an absent vector is never the closest.
        pair_B2D = torch.stack([prediction_BD, target_BD], dim=1)
        cosine_B2S = pair_B2D @ F.normalize(batch.context_BSD, dim=2).mT
        if batch.mask_BS is not None:
            cosine_B2S.masked_fill_(~batch.mask_BS[:, None], -torch.inf)
        closest_2 += cosine_B2S.amax(dim=2).sum(dim=0).cpu()
    # A target always has a chunk before it; all but the last chunk of a document have one after it.
    rows = documents.rows[number_W := documents_of(windows, documents)].astype(np.int64)
    is_last_W = windows.targets.cpu().numpy() + 1 == documents.first_row[number_W] + rows
    others_W = torch.from_numpy(rows - 3 + is_last_W)
    ranks_W = in_document_ranks(predictor, vectors, windows, documents, without_neighbors=True)
    fraction = (1 - (ranks_W - 1) / others_W)[others_W > 0]
    accuracy = fraction.mean().item() if len(fraction) else 0.5
    paraphrasing = float(closest_2[0] / closest_2[1]) if closest_2[1] else 0.0
    return ContrastiveMetrics(torch.cat(distances).double().mean().item(), accuracy, paraphrasing)


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


def _bundle_candidates(vectors: Tensor, documents: DocumentTable, document_B: NDArray[np.int64]) -> Candidates:
    """Return all chunks of the documents of some windows as candidates."""
    documents_U = np.unique(document_B)
    first_U, rows_U = documents.first_row[documents_U], documents.rows[documents_U]
    rows = np.concatenate([np.arange(first, first + count) for first, count in zip(first_U, rows_U, strict=True)])
    return candidates_at(vectors, documents, rows)


def _rank_bundle(prediction_BD: Tensor, windows: Windows, candidates: Candidates, without_neighbors: bool) -> Tensor:
    """Return (B,) ranks of the windows of a bundle of documents, each among the chunks of its own document."""
    target_B = candidates.positions(windows.targets)
    start_B, position_C = candidates.start_C[target_B], torch.arange(len(candidates), device=target_B.device)
    # Rank at most MAX_SCORES scores at a time.
    ranks, block = [], max(1, MAX_SCORES // len(candidates))
    for first in range(0, len(windows), block):
        part = slice(first, first + block)
        # Exclude the chunks before or beside the target, and those of the bundle's other documents.
        offset_BC = position_C - target_B[part, None]
        is_candidate_BC = candidates.start_C == start_B[part, None]
        is_candidate_BC &= (offset_BC.abs() != 1) if without_neighbors else (offset_BC >= 0)
        excluded_2X = (~is_candidate_BC).nonzero().T
        ranks.append(mid_ranks(prediction_BD[part], candidates, target_B[part], excluded_2X))
    return torch.cat(ranks)


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
