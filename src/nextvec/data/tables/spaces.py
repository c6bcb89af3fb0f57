"""The embedding space of imported vectors: what their table or the user claims, verified on a sample if possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.encoders import ENCODERS, LSA, Encoder, open_encoder
from nextvec.data.encoders.remote_names import PREFIX, parse_name
from nextvec.data.space import UNKNOWN, Space, require_same
from nextvec.data.store.precomputed import verify_encoder
from nextvec.data.tables.origin import Origin
from nextvec.data.tables.staging import StagedRows
from nextvec.errors import InputError, ServerError, SpaceError, StoreError

VERIFIED_TEXTS = 16
"""Number of texts that are encoded again. The mean cosine of 16 texts separates encoders by far."""


@dataclass(frozen=True)
class SpaceClaim:
    """The space of a store's vectors, and what supports it."""

    space: Space
    settings: dict[str, Any]
    """The encoder's entry in the manifest; empty if the user named no encoder."""
    notices: list[str]


def decide_space(
    name: str, origins: Sequence[Origin | None], staged: StagedRows, row_K: NDArray[np.int64]
) -> SpaceClaim:
    """Return the space of the encoder `name`; if it is UNKNOWN, the space that exported tables name.

    If the encoder is available here and the rows have texts, a sample of them is encoded again. Raises SpaceError if
    it has another dimension or makes other vectors, or if the tables name different spaces.
    """
    dimensions = staged.dimensions
    if name == UNKNOWN:
        spaces = [origin.space for origin in origins if origin is not None]
        for space in spaces[1:]:
            require_same(spaces[0], space, "the tables")
        if not spaces:
            notice = "the encoder of the vectors is unknown; name it with --encoder to encode new text in their space"
            return SpaceClaim(Space(UNKNOWN, "", dimensions), {}, [notice])
        if spaces[0].dimensions != dimensions:
            raise SpaceError(
                f"the table's vectors have {dimensions} dimensions, but its metadata name {spaces[0]}. "
                "Name the encoder that made them with --encoder."
            )
        return SpaceClaim(spaces[0], {}, [])
    if name == LSA:
        raise StoreError("encoder 'lsa' is fitted on a corpus and did not make these vectors. Name the one that did.")
    encoder = _open(name)
    verified = _verify(encoder, staged, row_K)
    is_verified = not verified.startswith("not verified")
    label = parse_name(name)[1] if name.startswith(PREFIX) else name
    space = encoder.space if encoder is not None and is_verified else Space(label, "", dimensions)
    notice = f"the encoder {space.encoder} was {'verified: ' if is_verified else ''}{verified}"
    return SpaceClaim(space, {"name": name, "precomputed": ["table"], "verified": verified}, [notice])


def _open(name: str) -> Encoder | None:
    """Open an encoder; None if it is not available here, or if the name is only a label."""
    if not (name in ENCODERS or "/" in name or Path(name).is_dir()):
        return None
    try:
        return open_encoder(name)
    except (InputError, ServerError):
        return None


def _verify(encoder: Encoder | None, staged: StagedRows, row_K: NDArray[np.int64]) -> str:
    """Compare the encoder with a sample of rows; return the result for the manifest."""
    if encoder is None:
        return "not verified: it is not available here"
    # An evenly spaced sample; empty texts have no vector to compare.
    count = min(VERIFIED_TEXTS, len(row_K))
    sample = np.asarray(row_K[np.arange(count) * len(row_K) // count])
    texts = staged.texts(sample) if staged.has_texts else [""] * count
    has_text = np.array([bool(text.strip()) for text in texts], bool)
    compared = [text for text, is_compared in zip(texts, has_text, strict=True) if is_compared]
    # Without texts, the dimensions can still be compared.
    return verify_encoder("vectors of the table", encoder, staged.vectors(sample[has_text]), compared)
