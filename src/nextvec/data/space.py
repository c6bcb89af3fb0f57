"""Embedding spaces: which encoder made a set of vectors, and whether two sets may meet.

A name alone is not enough: two builds called GTR-T5-base differ by a layer and disagree on every vector. A space
therefore carries a fingerprint, the vectors of a few fixed probe texts, and two spaces are the same only if
their probes point the same way.
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
"""Fixed for ever: their vectors are stored in every space's fingerprint."""

SAME_SPACE_COSINE = 0.99
"""Probes of one space agree at least this well; bfloat16 against float32 gives 0.996."""


@dataclass(frozen=True)
class Space:
    """Where vectors live: encoder name and revision, D dimensions, unit length or not, and the probes' vectors."""

    encoder: str
    revision: str
    dimensions: int
    normalized: bool = True
    probes: NDArray[np.float16] | None = field(default=None, compare=False, repr=False)
    """(P, D) vectors of PROBE_TEXTS, unit length; None where no encoder is known (imported or synthetic vectors)."""

    def __str__(self) -> str:
        return f"{self.encoder}@{self.revision} ({self.dimensions}-D)"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for manifests and checkpoints."""
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
        """The inverse of `to_dict`. Raises SpaceError if something is missing or malformed."""
        try:
            dimensions = int(values["dimensions"])
            encoded = values["probes"]
            probes = None
            if encoded is not None:
                content = base64.b64decode(encoded, validate=True)
                probes = np.frombuffer(content, dtype="<f2").reshape(-1, dimensions)
            return cls(
                str(values["encoder"]), str(values["revision"]), dimensions, bool(values["normalized"]), probes
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise SpaceError(
                f"the description of the embedding space is damaged: {error!r}; build the store again"
            ) from error


def difference(one: Space, other: Space) -> str | None:
    """Why two spaces are not the same, in words; None if nothing speaks against it.

    Probes decide where both have them; else encoder and revision do, as far as both are known ("" is no revision).
    """
    if one.dimensions != other.dimensions:
        return f"{one.dimensions} dimensions against {other.dimensions}"
    if one.probes is not None and other.probes is not None and one.probes.shape == other.probes.shape:
        cosine = float(probe_cosines(one.probes, other.probes).min())
        if cosine < SAME_SPACE_COSINE:
            return f"the same text gets different vectors (cosine {cosine:.3f}): {one} against {other}"
        return None
    if UNKNOWN in (one.encoder, other.encoder):
        return None
    revisions_differ = bool(one.revision and other.revision) and one.revision != other.revision
    return f"{one} against {other}" if one.encoder != other.encoder or revisions_differ else None


SYNTHETIC = "synthetic"
"""Encoder name of vectors that were drawn from a known process."""

UNKNOWN = "unknown"
"""Encoder name of vectors that came without one (npz files)."""


def probe_cosines(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Cosine of each row of `one` (P, D) with the same row of `other` (P, D); (P,)."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: NDArray[np.float64] = (a * b).sum(axis=1) / np.maximum(norms, 1e-12)
    return cosines


def require_same(one: Space, other: Space, what: str) -> None:
    """Raise SpaceError if the spaces differ. `what` says who meets whom, such as "checkpoint x and store y"."""
    reason = difference(one, other)
    if reason is not None:
        raise SpaceError(f"{what} are of different embedding spaces: {reason}; use vectors of one encoder throughout")
