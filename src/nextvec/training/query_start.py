"""The decayed mean of the context that retrieves best on train: a baseline, and the start of a fresh query.

No decay fits every text: with each chunk close to the one before it, a steep mean retrieves best; with chunks that
share a topic only, a flat one does. A query that starts with the best decay only has to learn what no mean can do.
"""

from __future__ import annotations

import numpy as np
import torch

from nextvec.data.order import EpochOrder
from nextvec.data.windows import WindowIndex, WindowSet, sample
from nextvec.evaluation.retrieval import candidates_at, target_ranks
from nextvec.models.baselines import DecayedMean

QUERY_DECAYS = tuple(hundredths / 100 for hundredths in (10, 20, 30, 40, 50, 60, 70, 80, 90, 100))
"""The candidates for the decay; between two of them the MRR hardly changes."""
MAX_WINDOWS, MAX_CHUNKS = 1_000, 4_096
"""Windows to rank, and chunks to rank them among: enough for the order of the decays, in about a second."""


def fit_query_decay(train: WindowSet, seed: int) -> tuple[float, float]:
    """Return the decay whose decayed mean has the highest MRR on a fixed sample of train, and that MRR.

    The candidates are all chunks of the sampled documents, as they are those of a split in an evaluation.
    """
    # Whole documents in random order, as many as fit: the first one always does.
    documents = train.documents
    index = train.windows
    assert isinstance(index, WindowIndex), "train is a split, not a selection of windows"
    order_K = EpochOrder(len(index.document_K), seed, 0)[:MAX_CHUNKS].to(index.document_K.device)
    rows_K = documents.rows[index.document_K[order_K].cpu().numpy()]
    count = max(1, int((np.cumsum(rows_K) <= MAX_CHUNKS).sum()))
    chosen_K = order_K[:count].sort().values
    numbers = index.document_K[chosen_K].cpu().numpy()
    rows = np.concatenate([np.arange(documents.rows[d]) + documents.first_row[d] for d in numbers])
    candidates = candidates_at(train.vectors, documents, rows)
    # A fixed sample of the windows of these documents.
    bounds_K2 = torch.stack([index.start_K[chosen_K], index.start_K[chosen_K + 1]], dim=1)
    index_W = torch.cat([torch.arange(start, stop) for start, stop in bounds_K2.tolist()])
    count = min(MAX_WINDOWS, max(1, MAX_WINDOWS * MAX_CHUNKS // len(candidates)))
    index_W = index_W[sample(len(index_W), count, seed)].to(train.vectors.device)
    windows = train.windows.take(index_W)
    mrr = {}
    for decay in QUERY_DECAYS:
        mean = DecayedMean(train.vectors.shape[1]).to(train.vectors.device).eval()
        mean.decay.fill_(decay)
        mrr[decay] = float((1 / target_ranks(mean, train.vectors, windows, candidates)).mean())
    best = max(mrr, key=lambda decay: mrr[decay])
    return best, mrr[best]
