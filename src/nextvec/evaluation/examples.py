"""Example windows as text: the context, the text nearest to the prediction, and the true next text.

The windows are a random sample of a split. The nearest chunk is searched among all chunks of the split except those
before the target in its document, as in retrieval. Only the row groups of chunks.parquet with these texts are read.

Letters in names: E examples, C candidates, D dimensions, X pairs of an example and an earlier chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from nextvec.data.store import CHUNKS, ChunkTexts, Store
from nextvec.data.windows import WindowSet, sample
from nextvec.evaluation.metrics import Predictor, predict_block
from nextvec.evaluation.retrieval import candidates_of, documents_of, mid_ranks

MAX_CHARACTERS = 500
"""Longer texts are cut, so that five examples fit on a page."""


@dataclass(frozen=True)
class Example:
    """One window as text."""

    title: str
    """Title of the document."""
    context: tuple[str, ...]
    """The input texts, oldest first."""
    nearest: str
    """The text whose vector is nearest to the prediction."""
    target: str
    """The true next text."""
    nearest_cosine: float
    target_cosine: float
    rank: float
    """Rank of the true next chunk among the candidates; 1 is the nearest, ties count half."""
    candidates: int
    hit: bool
    """Whether the nearest chunk is the true next one."""


@torch.inference_mode()
def nearest_examples(
    model: Predictor, evaluated: WindowSet, store: Store, count: int = 5, seed: int = 0
) -> tuple[Example, ...]:
    """Return `count` random windows of a split of `store` as text; none if the store has no texts.

    Memory: 4·C·D bytes for the candidates. Raises StoreError, or an error of pyarrow, if texts cannot be read.
    """
    if not store.has_texts or not len(evaluated):
        return ()
    # Draw the windows, predict them, and rank their targets as retrieval does.
    index_E = sample(len(evaluated), count, seed).to(evaluated.vectors.device)
    windows = evaluated.windows.take(index_E)
    candidates = candidates_of(evaluated.vectors, evaluated.documents, evaluated.split)
    _, prediction_ED = predict_block(model, evaluated.vectors, evaluated.windows, index_E)
    target_E = candidates.positions(windows.targets)
    earlier_2X = candidates.earlier(target_E)
    ranks = mid_ranks(prediction_ED, candidates, target_E, earlier_2X).tolist()

    # The nearest candidate that is not earlier text.
    cosines_EC = prediction_ED @ candidates.vectors_CD.T
    cosines_EC[earlier_2X[0], earlier_2X[1]] = -torch.inf
    target_cosine_E = cosines_EC.gather(1, target_E[:, None])[:, 0]
    nearest = cosines_EC.max(dim=1)

    # Read all texts at once: those of the contexts, of the nearest chunks and of the targets.
    nearest_rows, target_rows = (candidates.rows[at].cpu().tolist() for at in (nearest.indices, target_E))
    lengths = [windows.context] * count if windows.available is None else windows.available.tolist()
    context_rows = [range(row - length, row) for row, length in zip(target_rows, lengths, strict=False)]
    texts = _read_texts(store, [*nearest_rows, *target_rows, *chain.from_iterable(context_rows)])
    earlier_E = earlier_2X[0].bincount(minlength=len(windows)).tolist()
    titles = [evaluated.documents.titles[number] for number in documents_of(windows, evaluated.documents)]
    return tuple(
        Example(
            title=titles[number],
            context=tuple(texts[row] for row in context_rows[number]),
            nearest=texts[nearest_rows[number]],
            target=texts[target_rows[number]],
            nearest_cosine=float(nearest.values[number]),
            target_cosine=float(target_cosine_E[number]),
            rank=ranks[number],
            candidates=len(candidates) - earlier_E[number],
            hit=nearest_rows[number] == target_rows[number],
        )
        for number in range(len(windows))
    )


def _read_texts(store: Store, rows: list[int]) -> dict[int, str]:
    """Return row → text on one line, cut to `MAX_CHARACTERS`."""
    ascending = np.unique(np.array(rows, np.int64))
    texts = ChunkTexts(store.path / CHUNKS).read(ascending)
    return {row: _shorten(" ".join(text.split())) for row, text in zip(ascending.tolist(), texts, strict=True)}


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS].rstrip()} …"
