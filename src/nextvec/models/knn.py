"""kNN continuation: the weighted mean of the targets of the training windows that are most similar to a window.

Windows are compared by their keys, the decayed means of their contexts with a steep decay. The weights of the K nearest
windows are softmax(cosine of the keys / temperature). The search is exact, in blocks of matrix products.

The baseline stores positions of training windows, not vectors: their keys and targets are computed from the store that
it was fitted on, and `attach` gives it these. Without them it cannot predict.
Source: Khandelwal et al. 2020, "Generalization through Memorization: Nearest Neighbor Language Models", arXiv
1911.00172, which mixes such a prediction with a network's.

Letters in names: W training windows, B windows of a batch, K neighbors, D dimensions, N rows of the store.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nextvec.models.base import LatentModel, unit

MAX_SCORES = 2**23
"""Upper limit of scores in memory: 32 MiB."""
MAX_NEIGHBOR_NUMBERS = 2**24
"""Upper limit of numbers of neighbors' targets in memory: 64 MiB."""
KEYS_PER_PRODUCT = 2**14
"""Keys that are converted to float32 at once."""


class KNN(LatentModel):
    """Predicts the weighted mean of the targets of the nearest training windows; see `attach`."""

    name = "knn"
    index_W: Tensor

    def __init__(self, dimensions: int, *, windows: int, neighbors: int, decay: float, temperature: float) -> None:
        super().__init__(dimensions, windows=windows, neighbors=neighbors, decay=decay, temperature=temperature)
        self.neighbors, self.decay, self.temperature = neighbors, decay, temperature
        # Positions among the training windows.
        self.register_buffer("index_W", torch.zeros(windows, dtype=torch.int32))
        self._memory: tuple[Tensor, Tensor, Tensor] | None = None
        self._seen: list[tuple[Tensor, int, dict[int, Tensor]]] = []

    def attach(self, key_WD: Tensor, target_row_W: Tensor, vectors_ND: Tensor) -> None:
        """Set the keys (W, D) of the training windows, from `key`, and their targets: rows (W,) of vectors (N, D)."""
        assert len(key_WD) == len(target_row_W) == len(self.index_W), (len(key_WD), len(self.index_W))
        self._memory = key_WD, target_row_W, vectors_ND

    def __getstate__(self) -> dict[str, Any]:
        """Leave the attached vectors out: another process attaches its own."""
        return {**self.__dict__, "_memory": None, "_seen": []}

    def key(self, context_BSD: Tensor) -> Tensor:
        """Return the keys (B, D) of contexts in which absent vectors are zero, float32 of length 1."""
        return decayed_key(context_BSD, self.decay)

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        assert self._memory is not None, "call attach() before predicting"
        key_WD, target_row_W, vectors_ND = self._memory
        cosine_BK, neighbor_BK = find_neighbors(self.key(context_BSD), key_WD, self.neighbors)
        weight_BK = torch.softmax(cosine_BK / self.temperature, dim=1)
        row_BK = target_row_W[neighbor_BK]
        # Gather the targets of as many windows as fit into memory.
        block = max(1, MAX_NEIGHBOR_NUMBERS // (row_BK.shape[1] * self.dimensions))
        predictions = []
        for rows, weights in zip(row_BK.split(block), weight_BK.split(block), strict=True):
            target_BKD = unit(vectors_ND.index_select(0, rows.flatten())).view(*rows.shape, -1)
            predictions.append((weights[:, None] @ target_BKD)[:, 0])
        return torch.cat(predictions)

    def predict_once(self, vectors: Tensor, row_B: Tensor, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        """Return the predictions (B, D) for windows with targets in rows (B,) of `vectors`, each computed once.

        An evaluation needs them several times, and the search takes as long as a network's epoch. They are kept and
        returned in half precision: 2·D bytes a window.
        """
        length = context_BSD.shape[1]
        known = next((known for held, size, known in self._seen if held is vectors and size == length), None)
        if known is None:
            known = {}
            self._seen.append((vectors, length, known))
        rows = row_B.tolist()
        missing_M = torch.tensor([number for number, row in enumerate(rows) if row not in known], dtype=torch.int64)
        if len(missing_M):
            missing_M = missing_M.to(context_BSD.device)
            mask = None if mask_BS is None else mask_BS[missing_M]
            predicted_MD = self.predict(context_BSD[missing_M], mask).half()
            known.update((rows[number], predicted_MD[place]) for place, number in enumerate(missing_M.tolist()))
        return unit(torch.stack([known[row] for row in rows]))


def decayed_key(context_BSD: Tensor, decay: float) -> Tensor:
    """Return the decayed means (B, D) of contexts, float32 of length 1."""
    ages_S = torch.arange(context_BSD.shape[1] - 1, -1, -1, device=context_BSD.device)
    return unit(torch.einsum("s,bsd->bd", decay ** ages_S.float(), context_BSD.float()))


def find_neighbors(key_BD: Tensor, key_WD: Tensor, neighbors: int) -> tuple[Tensor, Tensor]:
    """Return the cosines (B, K) of the K nearest keys, the nearest first, and their positions (B, K).

    Both sets of keys have length 1; `key_WD` may be in half precision. K is `neighbors`, or W if that is less.
    """
    found = []
    for block_BD in key_BD.split(max(1, MAX_SCORES // len(key_WD))):
        products = [block_BD @ part.float().T for part in key_WD.split(KEYS_PER_PRODUCT)]
        found.append(torch.cat(products, dim=1).topk(min(neighbors, len(key_WD)), dim=1))
    return torch.cat([cosines for cosines, _ in found]), torch.cat([positions for _, positions in found])
