"""Coherence: how well each chunk fits into its document, from the chunks before and after it.

It is the cosine of a chunk to the decayed mean of the chunks on both sides, after whitening. Whitening divides by the
standard deviation of what distinguishes the chunks of one document, so that differences that are common within a
document count less. It finds chunks of other documents better than the prediction or any mean of the context does
(bench/intrusions.py); the network's outputs add nothing significant to it, so it does not read them.

    coherence.safetensors     whitening (D, D) float16, percentiles (101,) float32

Letters in names: N chunks of a document, M chunks of all documents, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from nextvec.core.files import write_bytes
from nextvec.data.splits import SPLITS
from nextvec.data.store import Store
from nextvec.errors import CheckpointError, one_line

Matrix = NDArray[np.float32]

DECAY = 0.6
"""The weight of a chunk decays by this factor per chunk of distance: the best of 0.4, 0.6, 0.8 on train documents."""
SHRINKAGE = 0.5
"""The fraction of the mean variance that is added to every variance, so that rare directions are not blown up."""
MIN_CHUNKS, MAX_CHUNKS = 6, 64
"""Documents with fewer chunks are left out of the fit; of longer ones, the first chunks are used."""
FIT_DOCUMENTS, MIN_FIT_DOCUMENTS = 500, 20
"""Documents that the coherence is fitted on, and the fewest that are enough."""
MIN_LENGTH = 1e-12
"""Lower limit of a length that is divided by."""


@dataclass(frozen=True, eq=False)
class Coherence:
    """The whitening of an embedding space, and the values of ordinary chunks; `fit_coherence` makes it."""

    whitening_DD: Matrix
    percentile_values: Matrix
    """The percentiles 0, 1 … 100 of the coherence of val chunks."""

    def measure(self, document_ND: Matrix) -> Matrix:
        """Return the coherence (N,), from −1 to 1, of the chunks of a document, from their N ≥ 2 unit vectors."""
        return cosines(two_sided_means(document_ND) @ self.whitening_DD, document_ND @ self.whitening_DD)

    def percentiles(self, coherence_N: Matrix) -> NDArray[np.float64]:
        """Return the percentage (N,), from 0 to 100, of val chunks with a lower coherence."""
        percentages = np.linspace(0, 100, len(self.percentile_values))
        percentile_N: NDArray[np.float64] = np.interp(coherence_N, self.percentile_values, percentages)
        return percentile_N

    def save(self, file: Path) -> None:
        """Write the file in one atomic step."""
        tensors = {
            "whitening": torch.from_numpy(self.whitening_DD).half(),
            "percentiles": torch.from_numpy(self.percentile_values),
        }
        write_bytes(file, save(tensors))

    @classmethod
    def load(cls, file: Path, dimensions: int) -> Coherence:
        """Read the file of `save`. Raises CheckpointError if it is missing, damaged, or of another D."""
        try:
            tensors = load_file(file)
            whitening_DD, values = (tensors[name].float().numpy() for name in ("whitening", "percentiles"))
        except (SafetensorError, OSError, KeyError) as error:
            raise CheckpointError(f"{file.name} can't be read ({one_line(error)}). Train or export again.") from error
        is_valid = whitening_DD.shape == (dimensions, dimensions) and values.ndim == 1 and len(values) >= 2
        if not is_valid or not (np.isfinite(whitening_DD).all() and np.isfinite(values).all()):
            raise CheckpointError(f"{file.name} is malformed. Train or export again.")
        return cls(whitening_DD, values)


def fit_coherence(store: Store, seed: int = 0) -> Coherence | None:
    """Fit the whitening on train documents of a store, and the percentiles on its val documents.

    With fewer than 20 val documents of at least 6 chunks, the percentiles are those of train. Returns None if there are
    fewer than 20 such train documents, or if the store's documents are unknown.
    """
    # The runs of windows in an .npz file need not be documents.
    is_divided = store.manifest.get("has_documents") is not False
    train = read_documents(store, "train", FIT_DOCUMENTS, seed) if is_divided else []
    if len(train) < MIN_FIT_DOCUMENTS:
        return None
    whitening_DD = _whitening(train)
    val = read_documents(store, "val", FIT_DOCUMENTS, seed)
    reference = val if len(val) >= MIN_FIT_DOCUMENTS else train
    unscaled = Coherence(whitening_DD, np.zeros(0, np.float32))
    coherence_M = np.concatenate([unscaled.measure(document_ND) for document_ND in reference])
    return Coherence(whitening_DD, np.percentile(coherence_M, range(101)).astype(np.float32))


def read_documents(store: Store, split: str, count: int, seed: int) -> list[Matrix]:
    """Return the unit vectors (N, D), float32, of the first chunks of at most `count` random documents of a split."""
    table = store.documents
    usable = np.flatnonzero((table.splits == SPLITS.index(split)) & (table.rows >= MIN_CHUNKS))
    documents = []
    for document in np.sort(np.random.default_rng(seed).permutation(usable)[:count]):
        first, rows = int(table.first_row[document]), int(table.rows[document])
        vectors_ND = np.asarray(store.vectors[first : first + min(rows, MAX_CHUNKS)], dtype=np.float32)
        documents.append(vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True).clip(MIN_LENGTH))
    return documents


def two_sided_means(document_ND: Matrix) -> Matrix:
    """Return for each chunk Σ decay^(distance − 1) · vector over the other chunks of the document (N, D)."""
    # Imported here: scipy takes 0.2 s, and no other use of a model needs it.
    from scipy.signal import lfilter

    # A recursive filter sums decay^distance · vector up to each chunk; its own vector, at distance 0, is taken away.
    sums = [lfilter([1.0], [1.0, -DECAY], document_ND[::step], axis=0)[::step] for step in (1, -1)]
    means_ND: Matrix = ((sums[0] + sums[1] - 2 * document_ND) / DECAY).astype(np.float32)
    return means_ND


def cosines(vectors_ND: Matrix, targets_ND: Matrix) -> Matrix:
    """Return the cosine (N,) of each vector to its target; 0 if one of them has length 0."""
    lengths_N = np.linalg.norm(vectors_ND, axis=1) * np.linalg.norm(targets_ND, axis=1)
    cosine_N: Matrix = (vectors_ND * targets_ND).sum(axis=1) / np.maximum(lengths_N, MIN_LENGTH)
    return cosine_N


def _whitening(documents: list[Matrix]) -> Matrix:
    """Return (C + shrinkage · mean variance · I)^−½ for the covariance C of chunks around their document's mean."""
    residual_MD = np.concatenate([document_ND - _projection_on_rest(document_ND) for document_ND in documents])
    covariance_DD = (residual_MD.T @ residual_MD).astype(np.float64) / len(residual_MD)
    variance_D, directions_DD = np.linalg.eigh(covariance_DD)
    shrunk_D = variance_D.clip(min=0) + SHRINKAGE * max(variance_D.mean(), MIN_LENGTH)
    whitening_DD: Matrix = (directions_DD * shrunk_D**-0.5 @ directions_DD.T).astype(np.float32)
    # Only directions matter for a cosine; a scale of 1 fits float16.
    whitening_DD /= np.abs(whitening_DD).max()
    return whitening_DD


def _projection_on_rest(document_ND: Matrix) -> Matrix:
    """Return the part of each chunk along the mean of the other chunks of its document (N, D)."""
    rest_ND = document_ND.sum(axis=0) - document_ND
    rest_ND /= np.linalg.norm(rest_ND, axis=1, keepdims=True).clip(MIN_LENGTH)
    projection_ND: Matrix = (rest_ND * document_ND).sum(axis=1, keepdims=True) * rest_ND
    return projection_ND
