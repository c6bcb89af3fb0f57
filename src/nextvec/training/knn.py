"""Fitting the kNN baseline: neighbors, decay and temperature are chosen on held-out training documents.

Letters in names: W training windows, H held-out windows, K neighbors, D dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nextvec.data.windows import WindowSet, sample
from nextvec.models.base import unit
from nextvec.models.knn import KNN, decayed_key, find_neighbors
from nextvec.models.ridge import is_held_out

DECAYS = (0.2, 0.35, 0.5, 0.7)
NEIGHBORS = (16, 64)
TEMPERATURES = (0.05, 0.1, 0.2, 1.0)
"""The candidates. With 256 neighbors the cosine on Wikipedia is 0.009 higher, which is still far below ridge's, and a
prediction takes several times longer."""
START = {"neighbors": 64, "decay": 0.5, "temperature": 0.1}
"""The values if no document is held out, and those with which decays are compared."""

MAX_NUMBERS = 2**24
"""Upper limit of numbers in the keys: 32 MiB in half precision, 43,690 windows at D = 384. A search for one window
multiplies as many: with 2**26, the 72,000 val and ood windows of the production set would need 10^13 operations."""
MAX_QUERIES, MAX_DECAY_WINDOWS = 256, 4096
"""Held-out windows that are predicted, and windows among which a decay searches: enough for the order of the values."""
BATCH = 8192
"""Windows per gather."""


@torch.inference_mode()
def fit_knn(train: WindowSet, index_W: Tensor, seed: int) -> KNN:
    """Fit the kNN baseline on the training windows at positions `index_W`, or on a fixed sample of them, and attach it.

    Decays are compared first, then neighbors and temperatures with the best decay, by the mean cosine of the
    predictions on held-out document groups. The final search covers all windows.
    """
    limit = max(1, MAX_NUMBERS // train.vectors.shape[1])
    index_W = index_W[sample(len(index_W), limit, seed).to(index_W.device)]
    held_out_W = is_held_out(train.windows.take(index_W).groups)
    values = dict(START)
    fit_W, query_H = index_W[~held_out_W], index_W[held_out_W]
    if len(fit_W) and len(query_H):
        query_H = query_H[sample(len(query_H), MAX_QUERIES, seed).to(query_H.device)]
        few_W = fit_W[sample(len(fit_W), MAX_DECAY_WINDOWS, seed).to(fit_W.device)]
        values["decay"] = max(DECAYS, key=lambda decay: max(_score(train, few_W, query_H, decay).values()))
        scores = _score(train, fit_W, query_H, values["decay"])
        values["neighbors"], values["temperature"] = max(scores, key=lambda pair: scores[pair])
    knn = KNN(
        train.vectors.shape[1],
        windows=len(index_W),
        neighbors=int(values["neighbors"]),
        decay=values["decay"],
        temperature=values["temperature"],
    )
    knn.index_W.copy_(index_W)
    attach_knn(knn, train)
    return knn.eval()


def attach_knn(knn: KNN, train: WindowSet) -> None:
    """Give a fitted kNN baseline the keys and the targets of its training windows."""
    index_W = knn.index_W.to(train.vectors.device).long()
    with torch.inference_mode():
        knn.attach(_keys(train, index_W, knn.decay), train.windows.take(index_W).targets, train.vectors)


def _keys(train: WindowSet, index_W: Tensor, decay: float) -> Tensor:
    """Return the keys (W, D) of training windows in half precision."""
    parts = index_W.split(BATCH)
    return torch.cat([decayed_key(train.batch(part).context_BSD, decay).half() for part in parts])


def _score(train: WindowSet, fit_W: Tensor, query_H: Tensor, decay: float) -> dict[tuple[int, float], float]:
    """Return the mean cosine of the predictions for windows: neighbors, temperature → cosine."""
    batch = train.batch(query_H)
    keys_WD = _keys(train, fit_W, decay)
    cosine_HK, neighbor_HK = find_neighbors(decayed_key(batch.context_BSD, decay), keys_WD, max(NEIGHBORS))
    row_HK = train.windows.take(fit_W[neighbor_HK.flatten()]).targets.view_as(neighbor_HK)
    sums = torch.zeros(len(NEIGHBORS), len(TEMPERATURES), dtype=torch.float64)
    # A few windows at a time: all neighbors of 256 windows would take 50 MB at D = 768.
    for rows, cosines, targets in zip(row_HK.split(64), cosine_HK.split(64), batch.target_BD.split(64), strict=True):
        neighbors = unit(train.vectors.index_select(0, rows.flatten())).view(*rows.shape, -1)
        for i, count in enumerate(NEIGHBORS):
            # One product for all temperatures.
            weights = torch.stack([torch.softmax(cosines[:, :count] / value, dim=1) for value in TEMPERATURES], dim=1)
            predicted = weights @ neighbors[:, :count]
            sums[i] += F.cosine_similarity(predicted, unit(targets)[:, None], dim=2).sum(dim=0).double().cpu()
    pairs = [(count, temperature) for count in NEIGHBORS for temperature in TEMPERATURES]
    return dict(zip(pairs, (sums / len(query_H)).flatten().tolist(), strict=True))
