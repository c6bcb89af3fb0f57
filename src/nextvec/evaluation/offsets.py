"""Offset curve and direction: does a prediction point to the next vector, to the newest one, or backward?

    offset curve     k → mean cos(prediction, vector at target + k), if the document has that vector
    forward margin   mean of cos(prediction, target) − cos(prediction, vector just before the context)
    direction        forward margin minus that of the context mean on the same windows

The target and the vector just before the context are the context's neighbors on its two sides. A predictor that ignores
order can still have a forward margin, because documents open with their most central chunks. The context mean ignores
order by definition, so its forward margin is what the texts cause, and the difference is what the model causes. It is
exactly 0 for the context mean, positive if the prediction points further forward, and negative if it points backward.

A positive direction does not prove that order was learned: a predictor that depends less on the center of the document
than the context mean is less subject to the drift of the texts. On Wikipedia a constant has +0.013, and a network that
ignores order +0.005, both significantly above 0. On documents without such a drift both have 0. Only the ablations show
whether order is used (`ablations.py`). The formulas are this project's own.

Letters in names: B windows of a block, W windows, P predictors, K offsets, D dimensions, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nextvec.data.windows import WindowSet
from nextvec.evaluation.bootstrap import estimate_means
from nextvec.evaluation.metrics import BLOCK, Predictor, cosine, predict_block
from nextvec.evaluation.results import Estimate, OffsetProfile
from nextvec.evaluation.retrieval import documents_of
from nextvec.models.baselines import ContextMean

OFFSETS = tuple(range(-8, 5))
"""The offsets of the curve, in rows after the target: −1 is the last context vector."""


def measure_offset_profiles(
    predictors: Mapping[str, Predictor], evaluated: WindowSet, resamples: int, seed: int
) -> dict[str, OffsetProfile]:
    """Return offset curve, forward margin and direction of each predictor on all windows.

    The curve at offset 0 equals the mean cosine of `score_windows`, to the last digit. Intervals are paired and
    resample groups of documents. Forward margin and direction use only windows whose document has a vector before the
    context (row target − S − 1). A shorter, masked context starts with its document and has none.
    Memory: 4·P·K·W bytes, with K = 13 or 14.
    """
    before = -evaluated.windows.context - 1
    offsets = sorted({*OFFSETS, before})
    rows_KW, exists_KW = _rows_at(evaluated, offsets)
    # The context mean is the last predictor, and the reference of the direction.
    reference = ContextMean(evaluated.vectors.shape[1]).eval()
    cosines_PKW = _measure_cosines([*predictors.values(), reference], evaluated, rows_KW)

    has_before_W = exists_KW[offsets.index(before)]
    count = int(has_before_W.sum())
    margins: list[Estimate | None] = [None] * len(predictors)
    directions: list[Estimate | None] = [None] * len(predictors)
    if count and predictors:
        # Forward margins of all predictors on the windows with a vector before the context; the last row is the
        # context mean's, which every direction subtracts.
        pair_P2W = cosines_PKW[:, [offsets.index(0), offsets.index(before)]][:, :, has_before_W].astype(float)
        margin_PW = pair_P2W[:, 0] - pair_P2W[:, 1]
        groups_W = evaluated.windows.groups.cpu().numpy()[has_before_W]
        margins[:] = paired_estimates(margin_PW[:-1], groups_W, resamples, seed, bound=2)
        directions[:] = paired_estimates(margin_PW[:-1] - margin_PW[-1], groups_W, resamples, seed, bound=4)

    return {
        name: OffsetProfile(
            curve={k: _mean(cosines_PKW[number, offsets.index(k)][exists_KW[offsets.index(k)]]) for k in OFFSETS},
            forward_margin=margins[number],
            direction=directions[number],
            windows=count,
        )
        for number, name in enumerate(predictors)
    }


def paired_estimates(
    values_PW: NDArray[np.float64], groups_W: NDArray[np.integer], resamples: int, seed: int, *, bound: float
) -> list[Estimate]:
    """Return the means of P differences over W ≥ 1 windows, with intervals from the same resamples of the groups.

    No difference exceeds ± `bound`. A difference that is 0 on every window is exactly 0, even with a single group.
    """
    estimates = estimate_means(values_PW, groups_W, resamples, seed, bounds=[(-bound, bound)] * len(values_PW))
    # A single group would give a zero row the interval ± bound, although nothing differs on any window.
    return [
        estimate if row.any() else Estimate(0.0, 0.0, 0.0) for row, estimate in zip(values_PW, estimates, strict=True)
    ]


def document_bounds(evaluated: WindowSet) -> tuple[Tensor, Tensor]:
    """Return first row and end row of each window's document: two (W,) int64 tensors on the windows' device."""
    documents, targets = evaluated.documents, evaluated.windows.targets
    number_W = documents_of(evaluated.windows, documents)
    first_W = torch.from_numpy(documents.first_row[number_W].astype(np.int64))
    rows_W = torch.from_numpy(documents.rows[number_W].astype(np.int64))
    return first_W.to(targets.device), (first_W + rows_W).to(targets.device)


def _rows_at(evaluated: WindowSet, offsets: Sequence[int]) -> tuple[Tensor, NDArray[np.bool_]]:
    """Return (K, W) int64 rows at target + offset, and whether the document has them; else the target's row."""
    # A row outside the document belongs to another one: read the target's row instead, and mark it as missing.
    first_W, end_W = document_bounds(evaluated)
    target_W = evaluated.windows.targets.long()
    rows_KW = target_W + torch.tensor(offsets, device=target_W.device)[:, None]
    exists_KW = (rows_KW >= first_W) & (rows_KW < end_W)
    return torch.where(exists_KW, rows_KW, target_W), exists_KW.cpu().numpy()


@torch.inference_mode()
def _measure_cosines(predictors: Sequence[Predictor], evaluated: WindowSet, rows_KW: Tensor) -> NDArray[np.float32]:
    """Return (P, K, W) cosines between the predictions and the vectors at the given rows."""
    vectors, windows = evaluated.vectors, evaluated.windows
    cosines_PKW = torch.empty((len(predictors), *rows_KW.shape), device=vectors.device)
    for start in range(0, len(windows), BLOCK):
        positions = slice(start, start + BLOCK)
        predictions = [predict_block(predictor, vectors, windows, positions)[1] for predictor in predictors]
        # Read the vectors at an offset once for all predictors.
        for offset, rows_W in enumerate(rows_KW):
            vector_BD = F.normalize(vectors.index_select(0, rows_W[positions]).float())
            for number, prediction_BD in enumerate(predictions):
                cosines_PKW[number, offset, positions] = cosine(prediction_BD, vector_BD)
    result: NDArray[np.float32] = cosines_PKW.cpu().numpy()
    return result


def _mean(cosines: NDArray[np.float32]) -> float | None:
    """Return the mean, summed in float64; None without cosines."""
    return float(cosines.mean(dtype=np.float64)) if len(cosines) else None
