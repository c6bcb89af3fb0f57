"""The built-in encoder: latent semantic analysis, fitted on the corpus in seconds without a download.

A text's TF-IDF vector (logarithmic counts) is projected onto the D strongest directions of the training texts, found
by a randomized truncated SVD (Halko, Martinsson, Tropp 2011, arXiv:0909.4061), and scaled to unit length. Directions
are weighted by their singular value to the power of -1/4: of the tried weights, this one distinguishes adjacent
paragraphs best from others.

Letters in names: N texts, V terms, D dimensions, K directions of the sketch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nextvec.core.files import make_folder, write_atomic, write_json
from nextvec.data.space import PROBE_TEXTS, Space
from nextvec.errors import CorpusError, StoreError, one_line

MAX_FIT_TEXTS = 100_000
"""Maximum number of training texts: more add memory and time, not quality. An evenly spaced sample is used."""

_MAX_TERMS = 50_000
_KEEP_RARE_BELOW = 1_000
"""Terms of a single text are dropped, unless the corpus has fewer texts than this."""
_WEIGHT_POWER = -0.25
_OVERSAMPLING, _POWER_ITERATIONS = 32, 1
_MIN_SKETCH = 200
"""Minimum size of the sketch. With fewer texts or terms it covers all directions: the SVD is exact and still fast."""
_MIN_RELATIVE_VALUE = 1e-3
"""Directions with a smaller singular value, relative to the largest, are rounding error and are dropped."""
_MIN_LENGTH = 1e-5
"""Length of a projection below which it has no direction."""
_BLOCK = 4096
_TOKEN = r"(?u)[\u3040-\u30ff\u3400-\u9fff]|\w[^\W\u3040-\u30ff\u3400-\u9fff]+"
"""Words of at least two letters or digits; single characters of Chinese and Japanese, which have no spaces."""

_TERMS_FILE, _ARRAYS = "terms.json", ("idf", "components", "mean")


class LsaEncoder:
    """A fitted LSA: V terms with their weights, and their projection to D dimensions."""

    def __init__(
        self,
        terms: list[str],
        idf_V: NDArray[np.float32],
        components_VD: NDArray[np.float16],
        mean_D: NDArray[np.float32],
    ) -> None:
        self.terms, self.idf, self.components, self.mean = terms, idf_V, components_VD, mean_D
        self.unknown_texts = self.truncated_texts = 0
        self._projection_VD = components_VD.astype(np.float32)
        self._vectorizer = _vectorizer(vocabulary=terms)
        self._vectorizer.idf_ = idf_V

    @classmethod
    def fit(cls, texts: Iterable[str], dimensions: int) -> LsaEncoder:
        """Fit on training texts. D is `dimensions`, or fewer if the texts have a lower rank.

        Texts without any known term get `mean`, the direction of the training texts' mean vector. Raises CorpusError if
        the texts have no words.
        """
        # In a large corpus, a term of a single text is mostly a name or a typing error.
        texts = list(texts)
        vectorizer = _vectorizer(max_features=_MAX_TERMS, min_df=1 if len(texts) < _KEEP_RARE_BELOW else 2)
        try:
            tfidf_NV = vectorizer.fit_transform(texts)
        except ValueError as error:
            raise CorpusError(
                f"the {len(texts):,} training texts have no words that lsa can use. Choose another encoder."
            ) from error
        # Round to float16 before anything else uses the components: a saved encoder then encodes exactly like the
        # fitted one.
        components_VD = _strongest_directions(tfidf_NV, dimensions).astype(np.float16)
        directions_ND, _ = _directions(tfidf_NV, components_VD.astype(np.float32))
        # The mean direction, which texts without a known term get. If directions cancel out, take the first axis.
        mean_D = directions_ND.mean(axis=0, dtype=np.float64)
        if np.linalg.norm(mean_D) < _MIN_LENGTH:
            mean_D = np.eye(1, len(mean_D))[0]
        mean_D = (mean_D / np.linalg.norm(mean_D)).astype(np.float32)
        terms = [str(term) for term in vectorizer.get_feature_names_out()]
        return cls(terms, vectorizer.idf_.astype(np.float32), components_VD, mean_D)

    @cached_property
    def space(self) -> Space:
        """Embedding space; its revision is a hash of all fitted values."""
        # Every fitted value changes the hash, so another corpus makes another revision.
        digest = hashlib.sha256(json.dumps(self.terms).encode())
        for array in (self.idf, self.components, self.mean):
            digest.update(np.ascontiguousarray(array).tobytes())
        vectors_PD, known_P = self._encode(PROBE_TEXTS)
        # If no probe has a known term (another language), all get the mean direction, which hardly distinguishes two
        # spaces; the revision does.
        probes = vectors_PD.astype(np.float16) if known_P.any() else None
        return Space("lsa", digest.hexdigest()[:12], self.components.shape[1], probes=probes)

    @property
    def settings(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {"name": "lsa", "terms": len(self.terms), "dimensions": self.components.shape[1]}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the unit vectors (N, D) of N texts; count texts without a known term in `unknown_texts`."""
        vectors_ND, known_N = self._encode(texts)
        self.unknown_texts += int((~known_N).sum())
        return vectors_ND

    def _encode(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        # Encode in blocks, because the matrix of terms of all texts may exceed the memory.
        vectors_ND = np.empty((len(texts), self.components.shape[1]), np.float32)
        known_N = np.empty(len(texts), np.bool_)
        for start in range(0, len(texts), _BLOCK):
            rows = slice(start, start + _BLOCK)
            vectors_ND[rows], known_N[rows] = _directions(self._vectorizer.transform(texts[rows]), self._projection_VD)
        vectors_ND[~known_N] = self.mean
        return vectors_ND, known_N

    def save(self, folder: Path) -> None:
        """Write the terms as JSON and the arrays as .npy into a folder. Raises OutputError if that fails."""
        make_folder(folder)
        write_json(folder / _TERMS_FILE, self.terms, indent=None)
        for name in _ARRAYS:
            write_atomic(folder / f"{name}.npy", partial(_write_npy, getattr(self, name)))

    @classmethod
    def load(cls, folder: Path) -> LsaEncoder:
        """Load a saved encoder; it encodes exactly like the original. Raises StoreError if it is damaged."""
        try:
            terms = json.loads((folder / _TERMS_FILE).read_text(encoding="utf-8"))
            idf_V, components_VD, mean_D = (
                np.array(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)) for name in _ARRAYS
            )
            if not isinstance(terms, list) or not all(isinstance(term, str) for term in terms):
                raise ValueError(f"{_TERMS_FILE} is not a list of terms")
            # The shapes must agree; a file of another encoder would fail much later, or not at all.
            if components_VD.shape != (len(terms), len(mean_D)) or idf_V.shape != (len(terms),):
                raise ValueError(f"{len(terms)} terms, components {components_VD.shape}, idf {idf_V.shape}")
            if not all(np.isfinite(array).all() for array in (idf_V, components_VD, mean_D)):
                raise ValueError("non-finite values")
            return cls(terms, idf_V, components_VD, mean_D)
        except (OSError, ValueError, TypeError, EOFError, RecursionError, MemoryError) as error:
            raise StoreError(
                f"encoder {folder}: is missing or damaged ({one_line(error)}). Build the store again."
            ) from error


def _write_npy(array: NDArray[Any], file: IO[bytes]) -> None:
    """Write a .npy file like np.save, which hides a full disk as the reason of a failure."""
    array = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(array.data)


def _vectorizer(**options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, token_pattern=_TOKEN, dtype=np.float32, **options)


def _directions(tfidf_NV: Any, projection_VD: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the unit vectors (N, D) of N texts, zero for those without a known term, and which have one (N,)."""
    vectors_ND = tfidf_NV @ projection_VD
    lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    is_known_N1 = lengths_N1 > _MIN_LENGTH
    return np.where(is_known_N1, vectors_ND / np.maximum(lengths_N1, _MIN_LENGTH), 0), is_known_N1[:, 0]


def _strongest_directions(tfidf_NV: Any, dimensions: int) -> NDArray[np.float32]:
    """Return at most `dimensions` weighted right singular vectors (V, D); the largest entry of each is positive.

    Raises CorpusError if there is none.
    """
    # Imported here: only fitting needs them, and scipy.linalg takes 0.3 s when a model is loaded.
    from scipy.linalg import eigh
    from sklearn.utils.extmath import randomized_range_finder

    # Find a basis of K directions that contains the strongest D, and project the texts onto it.
    count = min(max(dimensions + _OVERSAMPLING, _MIN_SKETCH), *tfidf_NV.shape)
    basis_NK = randomized_range_finder(
        tfidf_NV, size=count, n_iter=_POWER_ITERATIONS, power_iteration_normalizer="LU", random_state=0
    )
    reduced_VK = tfidf_NV.T @ basis_NK
    # SVD of a tall matrix by its small Gram matrix: a tenth of the time of scikit-learn's SVD, and exact enough above
    # _MIN_RELATIVE_VALUE, because squares keep 7 digits.
    squares_K, rotation_KK = eigh((reduced_VK.T @ reduced_VK).astype(np.float64), check_finite=False)
    values_K = np.sqrt(np.maximum(squares_K[::-1], 0))
    # Directions of rounding error would get large weights, because weights grow as singular values fall.
    kept = min(dimensions, int((values_K > _MIN_RELATIVE_VALUE * values_K[0]).sum()))
    if not kept:
        raise CorpusError("the training texts have no words that lsa can use. Choose another encoder.")
    values_D = values_K[:kept]
    components_VD = reduced_VK @ (rotation_KK[:, ::-1][:, :kept] / values_D).astype(np.float32)
    # A singular vector has no sign of its own. Fix it, so that the same corpus gives the same vectors everywhere.
    signs_D = np.where(components_VD.max(axis=0) >= -components_VD.min(axis=0), 1.0, -1.0)
    weights_D = signs_D * (values_D / values_D[0]) ** _WEIGHT_POWER
    weighted_VD: NDArray[np.float32] = components_VD * weights_D.astype(np.float32)
    return weighted_VD
