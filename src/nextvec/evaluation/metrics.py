"""Cosine, MSE and margin of single windows, and the only loop that computes them.

Validation in training, `nextvec eval` and the evaluation at the end of a run all call `score_windows`. It runs in
float32, in index order and in blocks of one size, so that the same weights get the same scores everywhere.

Letters in names: B windows of a block, W all windows, S context length, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nextvec.data.windows import Batch, Windows, gather
from nextvec.distributed.process_group import ALONE, ProcessGroup
from nextvec.models.base import LatentModel
from nextvec.models.knn import KNN

BLOCK = 1024
"""Windows per forward pass. Other sizes may change the last digits, so every measurement uses this one."""


class Predictor(Protocol):
    """Anything that can be evaluated: a model or a baseline, in evaluation mode."""

    def predict(self, context_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        """Return (B, D) float32 unit-length predictions from (B, S, D) context vectors and their (B, S) mask."""
        ...


class QueryPredictor:
    """A model's second output, the query, as a predictor."""

    def __init__(self, model: LatentModel) -> None:
        self.predict = model.query
        self.training = model.training


def cosine(left_BD: Tensor, right_BD: Tensor) -> Tensor:
    """Return (B,) cosines between rows: a·b / (|a|·|b|), from −1 to 1; 0 if a row is zero."""
    return F.cosine_similarity(left_BD, right_BD, dim=1).clamp(-1, 1)  # rounding can exceed 1 by one digit


def mse(prediction_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Return (B,) means over the D dimensions of (prediction − target)², the unit of the runbook.

    Between unit-length vectors this is (2 − 2·cosine) / D, about 0.001 at D = 768.
    """
    return (prediction_BD - target_BD).square().mean(dim=1)


def margin(prediction_BD: Tensor, target_BD: Tensor, last_BD: Tensor) -> Tensor:
    """Return (B,) values of cos(prediction, target) − cos(prediction, last context vector).

    A copy of the last vector scores cos(last, target) − 1, the lowest possible margin at that cosine.
    """
    return cosine(prediction_BD, target_BD) - cosine(prediction_BD, last_BD)


@dataclass(frozen=True)
class WindowScores:
    """The scores of W windows, in index order."""

    cosine: NDArray[np.float32]
    """(W,) cos(prediction, target)."""
    mse: NDArray[np.float32]
    """(W,) mean squared error over the dimensions, between unit-length vectors."""
    margin: NDArray[np.float32]
    """(W,) cos(prediction, target) − cos(prediction, last context vector)."""

    def __len__(self) -> int:
        return len(self.cosine)

    @property
    def is_finite(self) -> bool:
        """Whether no score is NaN or infinite."""
        return all(bool(np.isfinite(scores).all()) for scores in (self.cosine, self.mse, self.margin))

    @property
    def mean_cosine(self) -> float:
        """Mean cosine over the windows; NaN without windows."""
        return _mean(self.cosine)

    @property
    def mean_mse(self) -> float:
        """Mean squared error over the windows; NaN without windows."""
        return _mean(self.mse)

    @property
    def mean_margin(self) -> float:
        """Mean margin over the windows; NaN without windows."""
        return _mean(self.margin)


def score_windows(
    predictor: Predictor, vectors: Tensor, windows: Windows, *, block: int = BLOCK, processes: ProcessGroup = ALONE
) -> WindowScores:
    """Score a predictor on all windows of an index.

    `vectors` is (N, D) in any float format, on the windows' device. Targets are normalized to unit length, which
    undoes the rounding of float16. NaN predictions give NaN scores: check `WindowScores.is_finite`. If several
    processes call it together, each scores its share of the blocks, with the digits of one process.
    """
    # Scores stay on the device until the last block, so that no block waits for a transfer.
    scores_3W = torch.zeros((3, len(windows)), device=vectors.device)
    for start in range(processes.rank * block, len(windows), processes.size * block):
        positions = slice(start, start + block)
        batch, prediction_BD = predict_block(predictor, vectors, windows, positions)
        with torch.inference_mode():
            target_BD, last_BD = F.normalize(batch.target_BD), batch.context_BSD[:, -1]
            scores_3W[0, positions] = cosine(prediction_BD, target_BD)
            scores_3W[1, positions] = mse(prediction_BD, target_BD)
            scores_3W[2, positions] = margin(prediction_BD, target_BD, last_BD)
    # A score of another process is 0 here, so that the sum changes no digit.
    return WindowScores(*processes.sum_(scores_3W).cpu().numpy())


@torch.inference_mode()
def predict_block(
    predictor: Predictor, vectors: Tensor, windows: Windows, positions: slice | Tensor
) -> tuple[Batch, Tensor]:
    """Return the windows at some positions as a float32 batch, and the (B, D) float32 predictions for them.

    The predictor must be in evaluation mode: dropout would make a score random.
    """
    assert not getattr(predictor, "training", False), "call eval() before evaluating a model"
    if isinstance(positions, slice):
        positions = torch.arange(*positions.indices(len(windows)), device=vectors.device)
    # A store may hold float16, but every score is computed in float32.
    stored = gather(vectors, windows, positions)
    batch = Batch(stored.context_BSD.float(), stored.target_BD.float(), stored.group_B, stored.mask_BS)
    # A caller's autocast must not change a score.
    with torch.autocast(vectors.device.type, enabled=False):
        if isinstance(predictor, KNN):
            targets_B = windows.take(positions).targets
            prediction_BD = predictor.predict_once(vectors, targets_B, batch.context_BSD, batch.mask_BS)
        else:
            prediction_BD = predictor.predict(batch.context_BSD, batch.mask_BS)
    return batch, prediction_BD.float()


def _mean(scores: NDArray[np.float32]) -> float:
    """Return the mean, summed in float64: float32 loses digits over millions of windows."""
    return float(scores.mean(dtype=np.float64)) if len(scores) else float("nan")
