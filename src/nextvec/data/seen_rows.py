"""The rows that a model's weights were trained on, as hashes that recognize a row in any store.

A checkpoint contains 8 bytes for each distinct row of the train windows, those of its ancestors included: the runs
whose checkpoints it was warm-started from. The hash belongs to the direction of a vector, not to its bytes, so float16
and float32 copies, an .npz file of the same windows, and the same texts encoded again all match.

The vector is projected on PROJECTIONS fixed directions, and each projection is rounded to a step. Copies that differ by
a relative noise of r match with a probability of about exp(-50 r): 0.99 after rounding to float16, 0.96 after bfloat16.
Different texts match by chance with a probability of N / 2^64 for a record of N rows; only vectors with a cosine above
0.995 match more often.

Letters in names: W windows, N rows of a store, R rows of the windows, B rows of a block, D dimensions, P projections.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nextvec.data.windows import WindowSet

Hashes = NDArray[np.int64]

PROJECTIONS = 16
"""P: with steps of a quarter of the standard deviation, P projections fill 64 bits."""
STEP = 0.25
"""Rounding step of a projection, which has a standard deviation of about 1. A smaller one misses more float16 copies, a
larger one takes similar texts for equal."""
MIN_DIMENSIONS = 16
"""Below this D, vectors are near each other by chance, so the step is smaller."""
BLOCK_ROWS = 1024
"""Rows of a block: small enough for a CPU's cache."""


@dataclass(frozen=True)
class RunRows:
    """The rows that one run trained on."""

    run: str
    """Name of the run, from its recipe."""
    hashes: Hashes
    """(N,) sorted and distinct."""


@dataclass(frozen=True)
class SeenRows:
    """All rows that a model's weights were trained on."""

    runs: tuple[RunRows, ...] = ()
    """The model's own run, then its ancestors, the latest first. A row is in the first run that trained on it only."""
    is_complete: bool = True
    """False if the history is unknown, because a checkpoint of the original trainer is the model or an ancestor."""

    def after_run(self, run: str, hashes: Hashes) -> SeenRows:
        """Return the record of the weights after another run, which trained on rows with these hashes."""
        # Rows that the new run repeats are removed from its ancestors, so that each takes 8 bytes once.
        latest = RunRows(run, np.unique(hashes))
        earlier = (RunRows(old.run, old.hashes[~_is_in(old.hashes, latest.hashes)]) for old in self.runs)
        return SeenRows((latest, *earlier), self.is_complete)

    def count(self, windows: WindowSet) -> tuple[int, list[int]]:
        """Return the number of rows in any of the windows, and how many of them each of the runs trained on."""
        hashes = hash_rows(windows)
        return len(hashes), [int(_is_in(hashes, rows.hashes).sum()) for rows in self.runs]

    def to_values(self) -> dict[str, Any]:
        """Return tensors and plain values, for a checkpoint."""
        runs = [{"run": rows.run, "hashes": torch.from_numpy(rows.hashes)} for rows in self.runs]
        return {"runs": runs, "is_complete": self.is_complete}

    @classmethod
    def from_values(cls, values: Any) -> SeenRows:
        """Return the record of `to_values`; an incomplete one for anything else, such as a foreign checkpoint."""
        try:
            runs = tuple(RunRows(str(rows["run"]), _as_hashes(rows["hashes"])) for rows in values["runs"])
            return cls(runs, values["is_complete"] is True)
        except (KeyError, TypeError, ValueError, AttributeError):
            return cls(is_complete=False)


def hash_rows(windows: WindowSet) -> Hashes:
    """Return the hash (R,) of every row that is a target or in a context, in the order of the rows.

    The vectors are read in blocks, so a store may be larger than memory.
    """
    hashes = [torch.empty(0, dtype=torch.int64, device=windows.vectors.device)]
    with _one_thread():
        is_used_N = _used_rows(windows)
        for block_BD, is_used_B in zip(windows.vectors.split(BLOCK_ROWS), is_used_N.split(BLOCK_ROWS), strict=True):
            count = int(is_used_B.sum())
            # Selecting rows copies them, which takes longer than hashing: select hashes if most rows are used.
            if 2 * count > len(is_used_B):
                hashes.append(_hash_vectors(block_BD)[is_used_B])
            elif count:
                hashes.append(_hash_vectors(block_BD[is_used_B]))
    return torch.cat(hashes).cpu().numpy()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch's CPU operations in one thread: blocks are so small that threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _used_rows(windows: WindowSet) -> Tensor:
    """Return which rows (N,) of the store are in a window."""
    targets_W, available_W = windows.windows.targets.long(), windows.windows.available
    is_used_N = torch.zeros(len(windows.vectors), dtype=torch.bool, device=targets_W.device)
    is_used_N[targets_W] = True
    for age in range(1, windows.windows.context + 1):
        is_used_N[(targets_W if available_W is None else targets_W[available_W >= age]) - age] = True
    return is_used_N


def _hash_vectors(vectors_BD: Tensor) -> Tensor:
    """Return the hashes (B,) int64 of vectors of any length and floating-point format."""
    dimensions = vectors_BD.shape[1]
    signs_DP, factors_P = (constant.to(vectors_BD.device) for constant in _constants(dimensions))
    vectors_BD = vectors_BD.float()
    # A sum of D values with random signs has the standard deviation of the vector's length: divide by it.
    length_B1 = torch.linalg.vector_norm(vectors_BD, dim=1, keepdim=True).clamp_min(1e-12)
    step = STEP * min(1.0, (dimensions / MIN_DIMENSIONS) ** 2)
    cells_BP = torch.nan_to_num(vectors_BD @ signs_DP / (length_B1 * step)).round().long()
    # Combine the cells with fixed odd factors, modulo 2^64.
    return (cells_BP * factors_P).sum(dim=1)


@lru_cache
def _constants(dimensions: int) -> tuple[Tensor, Tensor]:
    """Return the signs (D, P) of the projections and the factors (P,) of the hash: the same on every machine."""
    # From SHAKE-128, because random generators may change between versions of a library.
    content = hashlib.shake_128(b"nextvec seen rows").digest(8 * PROJECTIONS + dimensions * PROJECTIONS // 8)
    factors_P = np.frombuffer(content[: 8 * PROJECTIONS], "<i8") | 1
    bits = np.unpackbits(np.frombuffer(content[8 * PROJECTIONS :], np.uint8))
    signs_DP = 1.0 - 2.0 * bits.reshape(dimensions, PROJECTIONS).astype(np.float32)
    return torch.from_numpy(signs_DP), torch.from_numpy(factors_P.astype(np.int64))


def _is_in(hashes: Hashes, sorted_hashes: Hashes) -> NDArray[np.bool_]:
    """Return for each hash (R,) whether it is among the sorted ones."""
    if not len(sorted_hashes):
        return np.zeros(len(hashes), bool)
    position = np.searchsorted(sorted_hashes, hashes).clip(max=len(sorted_hashes) - 1)
    is_equal: NDArray[np.bool_] = sorted_hashes[position] == hashes
    return is_equal


def _as_hashes(values: Tensor) -> Hashes:
    """Return a checkpoint's tensor as hashes. Raises ValueError if it is not (N,) int64."""
    if values.dtype != torch.int64 or values.ndim != 1:
        raise ValueError(f"hashes are {tuple(values.shape)} {values.dtype}")
    hashes: Hashes = values.numpy()
    return hashes
