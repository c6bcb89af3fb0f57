"""Prediction geometry: has a model collapsed, and how? The targets are the reference.

    dispersion       1 − mean pairwise cosine; for unit vectors W / (W − 1) · trace of the covariance, which equals
                     1 − (|Σ p|² − W) / (W (W − 1)) without its loss of digits near 0
    effective rank   exp(−Σ q ln q), q being the eigenvalues of the covariance divided by their sum (Roy & Vetterli
                     2007, "The effective rank: a measure of effective dimensionality"). They use the singular values
                     of a matrix. Here the matrix is the covariance, so that the singular values are its eigenvalues.
    alignment        mean |p − target|² (Wang & Isola 2020, arXiv 2005.10242, with α = 2)
    uniformity       ln mean exp(−2 |p − p'|²) over pairs (the same paper, with t = 2), from −8 to 0; about −4 for unit
                     vectors that point everywhere in many dimensions

Letters in names: B windows of a block, N vectors, W windows, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextvec.data.windows import WindowSet, sample
from nextvec.evaluation.metrics import BLOCK, Predictor, predict_block
from nextvec.evaluation.results import Geometry
from nextvec.models.knn import KNN

MAX_PAIRED = 4096
"""Upper limit of vectors whose pairs are compared for uniformity: a fixed sample, the same for every predictor."""
MAX_SPECTRUM_WINDOWS = 10_000
"""Upper limit of windows for the eigenvalue spectrum: a fixed sample of the split."""
ROUNDING_VARIANCE = torch.finfo(torch.float32).eps ** 2
"""A covariance whose trace is at most this is the rounding error of float32 and has no directions."""
TARGETS = "targets"
"""Key of the targets among the spectra of predictors."""


def measure_geometry(predictor: Predictor, evaluated: WindowSet) -> Geometry:
    """Return the geometry of the predictions for all W ≥ 1 windows; they must be finite.

    The norm is that of the raw output if the predictor is an nn.Module; otherwise only unit-length predictions are
    known, and it is 1. One prediction, or equal ones, have dispersion 0, effective rank 1 and uniformity 0.
    """

    def read(positions: slice) -> tuple[Tensor, Tensor, Tensor]:
        batch, prediction_BD = predict_block(predictor, evaluated.vectors, evaluated.windows, positions)
        # A predictor without a raw output has predictions of norm 1; kNN would search for each window again.
        norm_B = torch.ones(len(prediction_BD))
        if not isinstance(predictor, KNN) and isinstance(predictor, nn.Module):
            with torch.autocast(evaluated.vectors.device.type, enabled=False):
                norm_B = predictor(batch.context_BSD, batch.mask_BS).float().norm(dim=1)
        return prediction_BD, F.normalize(batch.target_BD), norm_B

    return _measure_blocks(read, len(evaluated))


def measure_target_geometry(evaluated: WindowSet) -> Geometry:
    """Return the geometry of the targets of all W ≥ 1 windows."""

    def read(positions: slice) -> tuple[Tensor, Tensor, Tensor]:
        target_BD = F.normalize(evaluated.vectors.index_select(0, evaluated.windows.targets[positions]).float())
        return target_BD, target_BD, torch.ones(len(target_BD))

    return _measure_blocks(read, len(evaluated))


@torch.inference_mode()
def _measure_blocks(read: Callable[[slice], tuple[Tensor, Tensor, Tensor]], count: int) -> Geometry:
    """Return the geometry of `count` vectors, read in blocks: unit vectors (B, D), targets (B, D), raw norms (B,)."""
    assert count > 0, "at least one window is needed"
    # Mark the sample of vectors whose pairs are compared for uniformity.
    is_paired_W = torch.zeros(count, dtype=torch.bool)
    is_paired_W[sample(count, MAX_PAIRED, seed=0)] = True
    norms, distances, paired = [], [], []
    # Accumulate the moments about the first vector: equal vectors then have a variance of exactly 0.
    origin_D = sum_D = squares_DD = torch.zeros(())
    for start in range(0, count, BLOCK):
        positions = slice(start, start + BLOCK)
        vector_BD, target_BD, norm_B = read(positions)
        norms.append(norm_B.cpu().numpy())
        distances.append((vector_BD - target_BD).square().sum(dim=1).cpu().numpy())
        paired.append(vector_BD[is_paired_W[positions].to(vector_BD.device)])
        exact_BD = vector_BD.cpu().double()
        if start == 0:
            origin_D = exact_BD[0].clone()
        exact_BD -= origin_D
        sum_D = sum_D + exact_BD.sum(dim=0)
        squares_DD = squares_DD + exact_BD.T @ exact_BD
    # Covariance = mean of x xᵀ − mean x · mean xᵀ, here in float64 and about the first vector.
    mean_D = sum_D / count
    covariance_DD = squares_DD / count - mean_D.outer(mean_D)
    norm_W = np.concatenate(norms)
    norm = float(norm_W.mean(dtype=np.float64))
    return Geometry(
        norm=norm,
        norm_cv=float(norm_W.std(dtype=np.float64)) / norm if norm > 0 else 0.0,
        dispersion=max(0.0, float(covariance_DD.trace())) * count / max(1, count - 1),
        effective_rank=effective_rank(covariance_DD),
        alignment=float(np.concatenate(distances).mean(dtype=np.float64)),
        uniformity=uniformity(torch.cat(paired)),
    )


def effective_rank(covariance_DD: Tensor) -> float:
    """Return exp(entropy of the eigenvalue shares) of a covariance of unit vectors, from 1 to D.

    It is 1 if all variance is in one direction, or if there is none beyond the rounding of float32.
    """
    if covariance_DD.trace() <= ROUNDING_VARIANCE:
        return 1.0
    # entr(q) is −q ln q. Rounding may leave tiny negative eigenvalues, which count as 0.
    variances_D = torch.linalg.eigvalsh(covariance_DD.double()).clamp(min=0)
    return float(torch.special.entr(variances_D / variances_D.sum()).sum().exp())


def uniformity(vectors_ND: Tensor) -> float:
    """Return ln of the mean of exp(−2 |a − b|²) over all pairs of unit vectors; 0 for a single vector."""
    count = len(vectors_ND)
    if count < 2:
        return 0.0
    total = 0.0
    for start in range(0, count, BLOCK):
        cosines = vectors_ND[start : start + BLOCK] @ vectors_ND[start:].T
        kernel = (4 * (cosines.clamp(-1, 1) - 1)).exp()  # |a − b|² = 2 − 2 a·b
        # The upper triangle has each pair once, and no vector with itself.
        total += float(kernel.triu(diagonal=1).cpu().sum(dtype=torch.float64))
    return float(np.log(total / (count * (count - 1) / 2)))


def eigenvalue_shares(
    predictors: Mapping[str, Predictor], evaluated: WindowSet, seed: int = 0
) -> dict[str, list[float]]:
    """Return the eigenvalue spectrum of the predictions of each predictor, and of the targets (key `TARGETS`).

    A spectrum is D eigenvalues of the covariance, descending, divided by their sum; all zero if nothing varies. That of
    a collapsed model falls steeply. Memory: 8·D² bytes per spectrum, and 4·W·D for the sampled windows.
    """
    index_W = sample(len(evaluated), MAX_SPECTRUM_WINDOWS, seed).to(evaluated.vectors.device)
    # The blocks are generators, so that only one predictor's sample is in memory.
    targets = (evaluated.batch(index_B).target_BD.float() for index_B in index_W.split(BLOCK))
    shares = {TARGETS: _eigenvalue_shares(targets)}
    for name, predictor in predictors.items():
        predictions = (
            predict_block(predictor, evaluated.vectors, evaluated.windows, index_B)[1]
            for index_B in index_W.split(BLOCK)
        )
        shares[name] = _eigenvalue_shares(predictions)
    return shares


@torch.inference_mode()
def _eigenvalue_shares(blocks: Iterator[Tensor]) -> list[float]:
    """Return the eigenvalue shares of vectors that are read in blocks (B, D)."""
    vectors_WD = torch.cat([F.normalize(block_BD).cpu() for block_BD in blocks])
    covariance_DD = torch.cov(vectors_WD.double().T, correction=0).reshape(vectors_WD.shape[1], -1)
    # eigvalsh returns ascending eigenvalues, and tiny negative ones by rounding.
    variances_D = torch.linalg.eigvalsh(covariance_DD).clamp(min=0).flip(0)
    total = float(variances_D.sum())
    shares: list[float] = (variances_D / total if total > 1e-9 else torch.zeros_like(variances_D)).tolist()
    return shares
