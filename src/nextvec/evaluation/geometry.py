"""The shape of a cloud of predictions beside the targets': has a model collapsed, and how?

    spread           1 − mean cosine over all pairs; for unit vectors that is W / (W − 1) · trace of the covariance,
                     equal to 1 − (|Σ p|² − W) / (W (W − 1)) without its loss of digits near 0
    effective rank   exp(−Σ q ln q), q the eigenvalues of the covariance, divided by their sum: shares of the variance
                     (Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality"). They take the
                     singular values of a matrix; the matrix here is the centred covariance, so that the singular values
                     are its eigenvalues. The cloud's own matrix would give their square roots, and a higher rank.
    alignment        mean |p − target|² (Wang & Isola 2020, arXiv 2005.10242, with α = 2)
    uniformity       ln mean exp(−2 |p − p'|²) over pairs (the same, with t = 2), from −8 to 0; unit vectors that point
                     everywhere in many dimensions are near −4

Letters in names: B windows of a block, W windows, D dimensions.

How the variance of predictions is spread over directions, beside that of the targets.

The eigenvalues of the covariance, as shares of their sum, the largest first: a collapsed model's fall off at once. The
effective rank (shape.py) is one figure of the same curve.

Letters in names: B windows of a block, W windows, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.data.windows import WindowSet, sample
from nextvec.evaluation.metrics import BLOCK, Predictor, predict_block
from nextvec.evaluation.results import Shape

PAIRED = 4096
"""Vectors whose pairs are compared for uniformity, at most: a fixed sample, the same for every predictor."""

ROUNDING = torch.finfo(torch.float32).eps ** 2
"""Variance of unit vectors in float32 that is mere rounding: no directions are to be counted in it."""


def measure_shape(predictor: Predictor, evaluated: WindowSet) -> Shape:
    """The shape of the predictions for all W ≥ 1 windows of `judged`, which must be finite numbers.

    The raw output is that of the model itself where the predictor is an nn.Module; else only unit-length predictions
    are known, and lengths are 1. A single prediction, or many equal ones, have spread 0, effective rank 1 and
    uniformity 0.
    """

    def read(positions: slice) -> tuple[Tensor, Tensor, Tensor]:
        batch, prediction_BD = predict_block(predictor, evaluated.vectors, evaluated.windows, positions)
        length_B = torch.ones(len(prediction_BD))
        if isinstance(predictor, nn.Module):
            with torch.autocast(evaluated.vectors.device.type, enabled=False):
                length_B = predictor(batch.context_BSD, batch.mask_BS).float().norm(dim=1)
        return prediction_BD, F.normalize(batch.target_BD), length_B

    return _shape(read, len(evaluated))


def target_shape(evaluated: WindowSet) -> Shape:
    """The shape of the targets of all W ≥ 1 windows of `judged`: what predictions are to be laid beside."""

    def read(positions: slice) -> tuple[Tensor, Tensor, Tensor]:
        target_BD = F.normalize(evaluated.vectors.index_select(0, evaluated.windows.targets[positions]).float())
        return target_BD, target_BD, torch.ones(len(target_BD))

    return _shape(read, len(evaluated))


@torch.inference_mode()
def _shape(read: Callable[[slice], tuple[Tensor, Tensor, Tensor]], count: int) -> Shape:
    """The shape of a cloud that is read in blocks: unit vectors (B, D), their targets (B, D), raw lengths (B,)."""
    assert count > 0, "no windows, no shape"
    sampled_W = torch.zeros(count, dtype=torch.bool)
    sampled_W[sample(count, PAIRED, seed=0)] = True
    lengths, distances, sampled = [], [], []
    origin_D = sum_D = squares_DD = torch.zeros(())
    for start in range(0, count, BLOCK):
        positions = slice(start, start + BLOCK)
        vector_BD, target_BD, length_B = read(positions)
        lengths.append(length_B.cpu().numpy())
        distances.append((vector_BD - target_BD).square().sum(dim=1).cpu().numpy())
        sampled.append(vector_BD[sampled_W[positions].to(vector_BD.device)])
        exact_BD = vector_BD.cpu().double()
        if start == 0:
            origin_D = exact_BD[0].clone()
        exact_BD -= origin_D  # moments about the first vector: equal vectors then have a variance of exactly 0
        sum_D = sum_D + exact_BD.sum(dim=0)
        squares_DD = squares_DD + exact_BD.T @ exact_BD
    mean_D = sum_D / count
    covariance_DD = squares_DD / count - mean_D.outer(mean_D)
    norm = float(np.concatenate(lengths).mean(dtype=np.float64))
    return Shape(
        norm=norm,
        norm_spread=float(np.concatenate(lengths).std(dtype=np.float64)) / norm if norm > 0 else 0.0,
        spread=max(0.0, float(covariance_DD.trace())) * count / max(1, count - 1),
        effective_rank=effective_rank(covariance_DD),
        alignment=float(np.concatenate(distances).mean(dtype=np.float64)),
        uniformity=uniformity(torch.cat(sampled)),
    )


def effective_rank(covariance_DD: Tensor) -> float:
    """exp(entropy of the eigenvalues' shares) of a covariance (D, D) of unit vectors, from 1 to D.

    It is 1 where all variance is in one direction, and where there is none beyond the rounding of float32.
    """
    if covariance_DD.trace() <= ROUNDING:
        return 1.0
    variances_D = torch.linalg.eigvalsh(covariance_DD.double()).clamp(min=0)
    return float(torch.special.entr(variances_D / variances_D.sum()).sum().exp())


def uniformity(vectors_ND: Tensor) -> float:
    """Ln of the mean over all pairs of N unit vectors of exp(−2 |a − b|²), exact, in blocks; 0 for a single vector."""
    count = len(vectors_ND)
    if count < 2:
        return 0.0
    total = 0.0
    for start in range(0, count, BLOCK):
        cosines = vectors_ND[start : start + BLOCK] @ vectors_ND[start:].T
        kernel = (4 * (cosines.clamp(-1, 1) - 1)).exp()  # |a − b|² = 2 − 2 a·b
        total += float(kernel.triu(diagonal=1).cpu().sum(dtype=torch.float64))  # each pair once, none with itself
    return float(np.log(total / (count * (count - 1) / 2)))


SAMPLED = 10_000
"""Windows of a split that are looked at: a fixed sample."""
TARGETS = "targets"


def spectra(predictors: Mapping[str, Predictor], evaluated: WindowSet, seed: int = 0) -> dict[str, list[float]]:
    """The shares (D, descending, sum 1) of each predictor's cloud and of the `targets`.

    All zero for a cloud that does not vary. Memory: 8·D² bytes for each, and 4·W·D for the sampled windows.
    """
    index_W = sample(len(evaluated), SAMPLED, seed).to(evaluated.vectors.device)
    clouds = {name: _shares(_predictions(predictor, evaluated, index_W)) for name, predictor in predictors.items()}
    targets = (evaluated.batch(part_B).target_BD.float() for part_B in index_W.split(BLOCK))
    return {TARGETS: _shares(targets), **clouds}


def _predictions(predictor: Predictor, evaluated: WindowSet, index_W: Tensor) -> Iterator[Tensor]:
    for part_B in index_W.split(BLOCK):
        yield predict_block(predictor, evaluated.vectors, evaluated.windows, part_B)[1]


@torch.inference_mode()
def _shares(cloud: Iterator[Tensor]) -> list[float]:
    """The eigenvalues' shares of a cloud that is read in blocks (B, D)."""
    vectors_WD = torch.cat([torch.nn.functional.normalize(block_BD).cpu() for block_BD in cloud])
    covariance_DD = torch.cov(vectors_WD.double().T, correction=0).reshape(vectors_WD.shape[1], -1)
    variances_D = torch.linalg.eigvalsh(covariance_DD).clamp(min=0).flip(0)
    total = float(variances_D.sum())
    found: list[float] = (variances_D / total if total > 1e-9 else torch.zeros_like(variances_D)).tolist()
    return found
