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
from scipy.spatial import cKDTree

MAX_VECTORS = 2_000_000
"""Largest number of distinct vectors that are compared, which bounds memory and time."""
MAX_DISTANCE = 0.1
"""Largest distance of two unit vectors that may count as equal: a cosine of 0.995."""
MIN_GAP = 3.0
"""Factor by which the distances of different vectors must exceed those of copies."""
_PROJECTED, _SAMPLED, _MAX_PAIRS = 32, 2000, 40


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
    matrix = np.random.default_rng(0).standard_normal((dimensions, _PROJECTED))
    return (matrix / np.sqrt(_PROJECTED)).astype(np.float32)


def merge_near_equal(projected_VP: NDArray[Any]) -> NearEqual | None:
    """Number projected unit vectors (V, P), equal up to noise. None if no vectors are, or if that is ambiguous."""
    if not 2 <= len(projected_VP) <= MAX_VECTORS:
        return None
    tree = cKDTree(projected_VP)
    radius = _find_gap(tree, projected_VP)
    if radius is None:
        return None
    # A vector occurs in at most a few windows, so nearly constant vectors show as far too many pairs.
    if int(tree.count_neighbors(tree, radius)) > _MAX_PAIRS * len(projected_VP):
        return None
    pairs = tree.query_pairs(radius, output_type="ndarray")
    graph = coo_array((np.ones(len(pairs), np.int8), tuple(pairs.T)), shape=(len(projected_VP),) * 2)
    number_V = connected_components(graph, directed=False)[1].astype(np.int32)
    distances = np.linalg.norm(projected_VP[pairs[:, 0]] - projected_VP[pairs[:, 1]], axis=1)
    return NearEqual(number_V, float(distances.max(initial=0.0)))


def _find_gap(tree: cKDTree, projected_VP: NDArray[Any]) -> float | None:
    """Return a radius between the distances of copies and those of different vectors; None without a clear gap."""
    sample = np.linspace(0, len(projected_VP) - 1, min(_SAMPLED, len(projected_VP))).astype(np.int64)
    neighbors = min(_MAX_PAIRS, len(projected_VP))
    distance_Q = np.sort(tree.query(projected_VP[sample], neighbors)[0][:, 1:].ravel())
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
