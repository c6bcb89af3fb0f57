"""How the variance of predictions is spread over directions, beside that of the targets.

The eigenvalues of the covariance, as shares of their sum, the largest first: a collapsed model's fall off at once. The
effective rank (shape.py) is one figure of the same curve.

Letters in names: B windows of a block, W windows, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from nextvec.data.windows import WindowSet, sample
from nextvec.judge.metrics import BLOCK, Predictor, predict_block

SAMPLED = 10_000
"""Windows of a split that are looked at: a fixed sample."""
TARGETS = "targets"


def spectra(predictors: Mapping[str, Predictor], judged: WindowSet, seed: int = 0) -> dict[str, list[float]]:
    """The shares (D, descending, sum 1) of each predictor's cloud and of the `targets`.

    All zero for a cloud that does not vary. Memory: 8·D² bytes for each, and 4·W·D for the sampled windows.
    """
    index_W = sample(len(judged), SAMPLED, seed).to(judged.vectors.device)
    clouds = {name: _shares(_predictions(predictor, judged, index_W)) for name, predictor in predictors.items()}
    targets = (judged.batch(part_B).target_BD.float() for part_B in index_W.split(BLOCK))
    return {TARGETS: _shares(targets), **clouds}


def _predictions(predictor: Predictor, judged: WindowSet, index_W: Tensor) -> Iterator[Tensor]:
    for part_B in index_W.split(BLOCK):
        yield predict_block(predictor, judged.vectors, judged.windows, part_B)[1]


@torch.inference_mode()
def _shares(cloud: Iterator[Tensor]) -> list[float]:
    """The eigenvalues' shares of a cloud that is read in blocks (B, D)."""
    vectors_WD = torch.cat([torch.nn.functional.normalize(block_BD).cpu() for block_BD in cloud])
    covariance_DD = torch.cov(vectors_WD.double().T, correction=0).reshape(vectors_WD.shape[1], -1)
    variances_D = torch.linalg.eigvalsh(covariance_DD).clamp(min=0).flip(0)
    total = float(variances_D.sum())
    found: list[float] = (variances_D / total if total > 1e-9 else torch.zeros_like(variances_D)).tolist()
    return found
