"""Windows in words: what a model read, the text that lies nearest to its prediction, and the text that came next.

A few windows of a split are drawn by chance. The nearest chunk is sought among all chunks of the split but the window's
own context, as retrieval does, and only the row groups of chunks.parquet that hold the texts are read.

Letters in names: E examples, C candidates, S context length, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from nextvec.data.store import CHUNKS, Store
from nextvec.data.store.staging import Texts
from nextvec.data.windows import WindowSet, sample
from nextvec.evaluation.metrics import Predictor, predict_block
from nextvec.evaluation.retrieval import candidates_of, context_positions, documents_of, rank

LONGEST = 500
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class Example:
    """A window in words."""

    title: str
    """Of its document."""
    context: tuple[str, ...]
    """The texts read, oldest first."""
    nearest: str
    """The text whose vector is nearest to the prediction."""
    target: str
    """The text that came next."""
    nearest_cosine: float
    target_cosine: float
    rank: float
    """Of the true next chunk among the candidates, 1 being the nearest; ties count half."""
    candidates: int
    hit: bool
    """Whether the nearest chunk is the true next one."""


@torch.inference_mode()
def nearest_examples(
    model: Predictor, evaluated: WindowSet, store: Store, count: int = 5, seed: int = 0
) -> tuple[Example, ...]:
    """`count` windows of a split of `store` in words; none where the store holds no texts.

    Memory: 4·C·D bytes for the candidates. Raises StoreError or an error of pyarrow for texts that can't be read.
    """
    if not store.has_texts or not len(evaluated):
        return ()
    index_E = sample(len(evaluated), count, seed).to(evaluated.vectors.device)
    windows = evaluated.windows.take(index_E)
    candidates = candidates_of(evaluated.vectors, evaluated.documents, evaluated.split)
    _, prediction_ED = predict_block(model, evaluated.vectors, evaluated.windows, index_E)
    target_E = candidates.positions(windows.targets)
    context_ES = context_positions(windows, target_E)
    cosines_EC = prediction_ED @ candidates.vectors_CD.T
    ranks = rank(prediction_ED, candidates, target_E, context_ES).tolist()
    target_cosine_E = cosines_EC.gather(1, target_E[:, None])[:, 0]
    cosines_EC.scatter_(1, context_ES, -torch.inf)
    cosines_EC.scatter_(1, target_E[:, None], target_cosine_E[:, None])
    nearest = cosines_EC.max(dim=1)

    rows_ES = candidates.rows[context_ES].cpu().tolist()
    nearest_rows, target_rows = (candidates.rows[at].cpu().tolist() for at in (nearest.indices, target_E))
    texts = _texts(store, [*nearest_rows, *target_rows, *(row for rows in rows_ES for row in rows)])
    titles = [evaluated.documents.titles[number] for number in documents_of(windows, evaluated.documents)]
    return tuple(
        Example(
            title=titles[number],
            context=tuple(texts[row] for row in dict.fromkeys(rows_ES[number])),  # a masked place repeats the oldest
            nearest=texts[nearest_rows[number]],
            target=texts[target_rows[number]],
            nearest_cosine=float(nearest.values[number]),
            target_cosine=float(target_cosine_E[number]),
            rank=ranks[number],
            candidates=len(candidates) - len(set(rows_ES[number])),
            hit=nearest_rows[number] == target_rows[number],
        )
        for number in range(len(windows))
    )


def _texts(store: Store, rows: list[int]) -> dict[int, str]:
    """Row → text, cut to `LONGEST` characters; only the blocks that hold the rows are read."""
    ascending = np.unique(np.array(rows, np.int64))
    found = Texts(store.path / CHUNKS).read(ascending)
    return {row: _cut(" ".join(text.split())) for row, text in zip(ascending.tolist(), found, strict=True)}


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()} …"
