"""Recognize vectors that are equal up to noise: encoded twice, or rounded to float16.

Distances within pairs of copies and distances of different vectors must be far apart; if they aren't, no two vectors
count as equal. Distances are measured after a random projection, which keeps them within a factor of about 1.5
(Johnson and Lindenstrauss, "Extensions of Lipschitz mappings into a Hilbert space", 1984).

Letters in names: V distinct vectors, D dimensions, P projected dimensions, Q sampled vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nextvec.data.npz.placement import sequence_keys

MAX_VECTORS = 5_000_000
"""Largest number of distinct vectors that are compared, which bounds memory and time."""
MAX_DISTANCE = 0.1
"""Largest distance of two unit vectors that may count as equal: a cosine of 0.995."""
MIN_GAP = 3.0
"""Factor by which the distances of different vectors must exceed those of copies."""
_PROJECTED, _SAMPLED, _NEIGHBORS, _BLOCK = 32, 256, 40, 65_536
_TABLES, _GRID_DIMENSIONS = 16, 10


@dataclass(frozen=True)
class NearEqual:
    """Which vectors count as equal."""

    number_V: NDArray[np.int32]
    """(V,) the same number for vectors that are equal up to noise."""
    distance: float
    """Largest distance of two vectors that count as equal."""


def projection(dimensions: int) -> NDArray[np.float32]:
    """Return a fixed random matrix (D, P) that keeps distances, or the identity if D is small."""
    if dimensions <= _PROJECTED:
        return np.eye(dimensions, dtype=np.float32)
    matrix_DP = np.random.default_rng(0).standard_normal((dimensions, _PROJECTED)) / np.sqrt(_PROJECTED)
    rounded_DP: NDArray[np.float32] = matrix_DP.astype(np.float32)
    return rounded_DP


def merge_near_equal(projected_VP: NDArray[Any]) -> NearEqual | None:
    """Number projected unit vectors (V, P), equal up to noise. None if no vectors are, or if that is ambiguous."""
    if not 2 <= len(projected_VP) <= MAX_VECTORS:
        return None
    radius = _find_gap(projected_VP)
    if radius is None:
        return None
    pairs, distances = _find_pairs(projected_VP, radius)
    graph = coo_array((np.ones(len(pairs), np.int8), tuple(pairs.T)), shape=(len(projected_VP),) * 2)
    number_V = connected_components(graph, directed=False)[1].astype(np.int32)
    return NearEqual(number_V, float(distances.max(initial=0.0)))


def _find_gap(projected_VP: NDArray[Any]) -> float | None:
    """Return a radius between the distances of copies and those of different vectors; None without a clear gap."""
    sample = np.linspace(0, len(projected_VP) - 1, min(_SAMPLED, len(projected_VP))).astype(np.int64)
    distance_Q = np.sort(_nearest_distances(projected_VP, sample).ravel())
    # The gap is the largest ratio of consecutive distances. Exact zeros can't occur among distinct vectors, but may
    # after the projection.
    distance_Q = np.maximum(distance_Q, 1e-9)
    ratio_Q = distance_Q[1:] / distance_Q[:-1]
    ratio_Q[distance_Q[:-1] > MAX_DISTANCE] = 1
    # At least a tenth of the sampled vectors must have a copy: fewer pairs may be chance.
    ratio_Q[: len(sample) // 10] = 1
    if not len(ratio_Q) or ratio_Q.max() < MIN_GAP:
        return None
    gap = int(ratio_Q.argmax())
    return float(np.sqrt(distance_Q[gap] * min(distance_Q[gap + 1], 4 * MAX_DISTANCE)))


def _nearest_distances(projected_VP: NDArray[Any], sample: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the distances (Q, K) of sampled vectors to their nearest others."""
    nearest: list[NDArray[Any]] = []
    for start in range(0, len(projected_VP), _BLOCK):
        # Inner products find the candidates; they are too coarse for small distances, which are measured again.
        products = projected_VP[sample] @ projected_VP[start : start + _BLOCK].T
        products = products - np.square(projected_VP[start : start + _BLOCK]).sum(axis=1) / 2
        count = min(_NEIGHBORS + 1, products.shape[1])
        found = np.argpartition(-products, count - 1, axis=1)[:, :count] + start
        distances = np.linalg.norm(projected_VP[found] - projected_VP[sample][:, None], axis=2)
        distances[found == sample[:, None]] = np.inf
        nearest.append(distances)
    distances = np.sort(np.concatenate(nearest, axis=1), axis=1)
    return distances[:, : min(_NEIGHBORS, len(projected_VP) - 1)]


def _find_pairs(projected_VP: NDArray[Any], radius: float) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return pairs (N, 2) of vectors at most `radius` apart, and their distances; enough to connect all copies.

    Each table rounds some coordinates to a grid; copies mostly fall in one cell, and are next to each other when the
    vectors are sorted by cell.
    """
    rng = np.random.default_rng(1)
    pairs, distances = [], []
    for _ in range(_TABLES):
        used = rng.permutation(projected_VP.shape[1])[:_GRID_DIMENSIONS]
        cells = np.floor((projected_VP[:, used] + rng.random(len(used)) * radius) / radius).astype(np.int64)
        order = np.argsort(sequence_keys(cells), kind="stable")
        # Compare each vector with the next ones in its cell.
        for step in (1, 2, 3):
            first, second = order[:-step], order[step:]
            distance = np.linalg.norm(projected_VP[first] - projected_VP[second], axis=1)
            is_near = distance <= radius
            pairs.append(np.column_stack([first[is_near], second[is_near]]))
            distances.append(distance[is_near])
    return np.concatenate(pairs), np.concatenate(distances)
