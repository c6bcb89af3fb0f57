"""Which place of the document does a prediction point to: the next vector, the newest one, or back before the context?

    offset curve   k → mean cos(prediction, vector at target + k), where the document has that vector
    before         mean of cos(prediction, target) − cos(prediction, vector just before the context)
    direction      `before` minus the same figure of the context mean on the same windows

Target and the vector just before the context are the context's neighbours on its two sides. On real text the plain
`before` of a predictor that ignores order isn't 0, because documents open with their most central chunks. The context
mean ignores order by definition: its figure is what the texts do to it, and the difference is what the model does
otherwise. It is exactly 0 for the context mean, positive where the prediction points further onward (the newest vector
alone does), negative where it points back.

A positive direction alone doesn't show that order was learned: whatever leans less on the centre of the document than
the context mean does is less subject to the drift of the texts. On Wikipedia a constant has +0.013, and a network that
ignores order +0.005, both surely above 0. On documents without such a drift all that ignore order have 0. Whether order
is used at all is for the ablations to say (ablation.py). The formulas are this project's own.

Letters in names: B windows of a block, W windows, P predictors, K places, D dimensions, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nextvec.data.windows import WindowSet
from nextvec.evaluation.bootstrap import bootstrap_means, interval
from nextvec.evaluation.metrics import BLOCK, Predictor, cosine, predict_block
from nextvec.evaluation.results import Alignment, Estimate
from nextvec.models.baselines import ContextMean

OFFSETS = tuple(range(-8, 5))
"""The places of the offset curve: rows after the target, negative ones before it."""


def measure_alignment(
    predictors: Mapping[str, Predictor], evaluated: WindowSet, resamples: int, seed: int
) -> dict[str, Alignment]:
    """Offset curve, `before` and `direction` of each predictor on all windows of `judged`.

    The offset 0 is `score_windows`' mean cosine, to the last digit. Intervals resample groups of documents and are
    paired. Only windows whose document has a vector before the context (row target − S − 1) count for `before` and
    `direction`; a window with a shorter, masked context starts with its document and has none. The direction of the
    context mean is exactly 0. Memory: 4·P·K·W bytes, K = 13 or 14.
    """
    place_before = -evaluated.windows.context - 1
    places = sorted({*OFFSETS, place_before})
    rows_KW, has_KW = _rows_at(evaluated, places)
    reference = ContextMean(evaluated.vectors.shape[1]).eval()
    cosines_PKW = _cosines([*predictors.values(), reference], evaluated, rows_KW)

    has_before_W = has_KW[places.index(place_before)]
    counted = int(has_before_W.sum())
    befores: list[Estimate | None] = [None] * len(predictors)
    directions = list(befores)
    if counted and predictors:
        to_both_P2W = cosines_PKW[:, [places.index(0), places.index(place_before)]][:, :, has_before_W].astype(float)
        before_PW = to_both_P2W[:, 0] - to_both_P2W[:, 1]
        groups_W = evaluated.windows.groups.cpu().numpy()[has_before_W]
        befores[:] = paired_estimates(before_PW[:-1], groups_W, resamples, seed, bound=2)
        directions[:] = paired_estimates(before_PW[:-1] - before_PW[-1], groups_W, resamples, seed, bound=4)

    return {
        name: Alignment(
            {k: _mean(cosines_PKW[number, places.index(k)][has_KW[places.index(k)]]) for k in OFFSETS},
            befores[number],
            directions[number],
            counted,
        )
        for number, name in enumerate(predictors)
    }


def paired_estimates(
    values_PW: NDArray[np.float64], groups_W: NDArray[np.integer], resamples: int, seed: int, *, bound: float
) -> list[Estimate]:
    """The mean of each of P differences over W ≥ 1 windows, with intervals from the same resamples of the groups.

    No difference is beyond ± `bound`. One that is 0 on every window is a certain 0, even with a single group.
    """
    means_PR = bootstrap_means(values_PW, groups_W, resamples, seed)
    groups = len(np.unique(groups_W))
    return [
        Estimate(float(row.mean()), *interval(means, groups, bounds=(-bound, bound)))
        if row.any()
        else Estimate(0.0, 0.0, 0.0)
        for row, means in zip(values_PW, means_PR, strict=True)
    ]


def document_bounds(evaluated: WindowSet) -> tuple[Tensor, Tensor]:
    """The first row of each window's document, and the row behind its last: two (W,) int64 on the windows' device."""
    documents, targets = evaluated.documents, evaluated.windows.targets
    number_W = np.searchsorted(documents.first_row, targets.cpu().numpy(), side="right") - 1
    first_W = torch.from_numpy(documents.first_row[number_W].astype(np.int64))
    rows_W = torch.from_numpy(documents.rows[number_W].astype(np.int64))
    return first_W.to(targets.device), (first_W + rows_W).to(targets.device)


def _rows_at(evaluated: WindowSet, places: Sequence[int]) -> tuple[Tensor, NDArray[np.bool_]]:
    """(K, W) int64 rows at each target + place, and whether the document has them; the target's own where not."""
    first_W, end_W = document_bounds(evaluated)
    target_W = evaluated.windows.targets.long()
    rows_KW = target_W + torch.tensor(places, device=target_W.device)[:, None]
    has_KW = (rows_KW >= first_W) & (rows_KW < end_W)
    return torch.where(has_KW, rows_KW, target_W), has_KW.cpu().numpy()


@torch.inference_mode()
def _cosines(predictors: Sequence[Predictor], evaluated: WindowSet, rows_KW: Tensor) -> NDArray[np.float32]:
    """(P, K, W) cosines between the predictions and some rows of vectors."""
    vectors, windows = evaluated.vectors, evaluated.windows
    cosines_PKW = torch.empty((len(predictors), *rows_KW.shape), device=vectors.device)
    for start in range(0, len(windows), BLOCK):
        positions = slice(start, start + BLOCK)
        predictions = [predict_block(predictor, vectors, windows, positions)[1] for predictor in predictors]
        for place, rows_W in enumerate(rows_KW):
            vector_BD = F.normalize(vectors.index_select(0, rows_W[positions]).float())
            for number, prediction_BD in enumerate(predictions):
                cosines_PKW[number, place, positions] = cosine(prediction_BD, vector_BD)
    found: NDArray[np.float32] = cosines_PKW.cpu().numpy()
    return found


def _mean(cosines: NDArray[np.float32]) -> float | None:
    """The mean, summed in float64; None if there are none."""
    return float(cosines.mean(dtype=np.float64)) if len(cosines) else None
