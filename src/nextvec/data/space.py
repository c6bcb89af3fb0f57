"""Embedding spaces: which encoder made a set of vectors, and whether two sets of vectors are compatible.

A name is not enough: two builds called GTR-T5-base differ by a layer and make different vectors. A space therefore has
an encoder fingerprint, the vectors of fixed probe texts, and two spaces are equal only if these vectors agree.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.errors import SpaceError

PROBE_TEXTS = (
    "The capital of France lies on the banks of the Seine.",
    "Water boils at a lower temperature on a high mountain than at the sea.",
    "She closed the book, put out the lamp and listened to the rain.",
    "The function returns an array of the same shape as its input.",
    "In 1969 two astronauts walked on the surface of the Moon.",
    "Prices rose by four percent while wages stayed where they were.",
    "The violin enters in the third bar, an octave above the cello.",
    "Raise an error if the file is missing or cannot be read.",
)
"""Never change these texts: their vectors are the fingerprint of every stored space."""

SAME_SPACE_COSINE = 0.99
"""Minimum cosine of the probe vectors of one space; bfloat16 against float32 gives 0.996."""
MIN_SERVER_COSINE = 0.999
"""Minimum cosine of the probe vectors of one server. Its vectors vary slightly with the texts encoded together, so that
they are never equal; another model, or another precision of the same one, gives less."""


@dataclass(frozen=True)
class Space:
    """An embedding space: encoder name and revision, dimensions, normalization, and the encoder fingerprint."""

    encoder: str
    revision: str
    dimensions: int
    normalized: bool = True
    probes: NDArray[np.float16] | None = field(default=None, compare=False, repr=False)
    """(P, D) unit vectors of PROBE_TEXTS; None if the encoder is unknown (imported or synthetic vectors)."""

    def __str__(self) -> str:
        return f"{self.encoder}{'@' if self.revision else ''}{self.revision} ({self.dimensions}-D)"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for manifests and checkpoints."""
        probes = None if self.probes is None else base64.b64encode(self.probes.astype("<f2").tobytes()).decode("ascii")
        return {
            "encoder": self.encoder,
            "revision": self.revision,
            "dimensions": self.dimensions,
            "normalized": self.normalized,
            "probes": probes,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Space:
        """Make a space from the values of `to_dict`. Raises SpaceError if a value is missing or malformed."""
        try:
            dimensions = int(values["dimensions"])
            encoded = values["probes"]
            probes = None
            if encoded is not None:
                # Stored as little-endian float16; a wrong length fails to reshape.
                content = base64.b64decode(encoded, validate=True)
                probes = np.frombuffer(content, dtype="<f2").reshape(-1, dimensions)
            encoder, revision = str(values["encoder"]), str(values["revision"])
            return cls(encoder, revision, dimensions, bool(values["normalized"]), probes)
        except (KeyError, TypeError, ValueError) as error:
            raise SpaceError(
                f"the description of the embedding space is damaged: {error!r}. Build the store again."
            ) from error


def difference(first: Space, second: Space, min_cosine: float = SAME_SPACE_COSINE) -> str | None:
    """Return how two spaces differ, for a message; None if no difference is known.

    If both have probes, these decide: their cosine must be at least `min_cosine`. Otherwise encoder and revision
    decide, as far as both are known ("" is unknown).
    """
    if first.dimensions != second.dimensions:
        return f"{first.dimensions} dimensions vs {second.dimensions}"
    if first.probes is not None and second.probes is not None and first.probes.shape == second.probes.shape:
        # Vectors of the same texts are the strongest evidence, whatever the names of the encoders are.
        cosine = float(probe_cosines(first.probes, second.probes).min())
        if cosine < min_cosine:
            return f"the same text gets different vectors (cosine {cosine:.3f}): {first} vs {second}"
        return None
    # Without probes, names and revisions decide; an unknown one proves no difference.
    if UNKNOWN in (first.encoder, second.encoder):
        return None
    revisions_differ = bool(first.revision and second.revision) and first.revision != second.revision
    return f"{first} vs {second}" if first.encoder != second.encoder or revisions_differ else None


SYNTHETIC = "synthetic"
"""Encoder name of vectors drawn from a known process."""

UNKNOWN = "unknown"
"""Encoder name of vectors from an unknown encoder (npz files)."""

RESERVED_NAMES = frozenset((SYNTHETIC, UNKNOWN, "lsa"))
"""Names that no model of a server may have, because a space with this name has another meaning."""


def probe_cosines(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cosine (P,) of each row of `first` (P, D) with the same row of `second` (P, D)."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: NDArray[np.float64] = (a * b).sum(axis=1) / np.maximum(norms, 1e-12)
    return cosines


def require_same(first: Space, second: Space, owners: str, min_cosine: float = SAME_SPACE_COSINE) -> None:
    """Raise SpaceError if the spaces differ. `owners` names both for the message: "checkpoint x and store y"."""
    reason = difference(first, second, min_cosine)
    if reason is not None:
        raise SpaceError(f"{owners}: have different embedding spaces ({reason}). Use vectors of one encoder.")
