"""Where the vectors of a build come from, and the proof that one encoder makes all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.data.encoders import Encoder
from nextvec.data.encoders.remote import RemoteEncoder
from nextvec.data.encoders.remote_names import without_url
from nextvec.data.space import MIN_SERVER_COSINE, Space, difference
from nextvec.data.store import ChunkTexts
from nextvec.data.store.build_dir import BuildDirectory
from nextvec.errors import StoreError


@dataclass(frozen=True)
class VectorSource:
    """Where the vectors of a store come from: an encoder or precomputed embeddings."""

    space: Space
    settings: dict[str, Any]
    """The encoder's entry in the manifest."""
    read_block: Callable[[int], NDArray[np.float32]]
    """Return the vectors of a block of rows."""
    count_unknown: Callable[[], int] = lambda: 0
    """Return how many texts without any known term were encoded so far."""
    server: RemoteEncoder | None = None
    """The encoder if it is behind a server."""


def encoded_vectors(encoder: Encoder, texts: ChunkTexts) -> VectorSource:
    """Return the vectors that an encoder makes of texts, block by block."""
    return VectorSource(
        encoder.space,
        encoder.settings,
        lambda block: encoder.encode(texts.read_block(block)),
        lambda: encoder.unknown_texts,
        encoder if isinstance(encoder, RemoteEncoder) else None,
    )


def require_one_encoder(directory: BuildDirectory, vectors: VectorSource) -> VectorSource:
    """Return the source with the space in the journal, after comparing it with the encoder that started the build.

    Two encoders must never write into one file of vectors. Of a server, the fingerprint is compared: it may have moved,
    and its vectors of one text vary slightly. Raises StoreError for another encoder.
    """
    encoder = {"space": str(vectors.space), **vectors.settings}
    if vectors.server is not None:
        encoder |= {"name": without_url(vectors.server.name), "fingerprint": vectors.space.to_dict()}
    if "encoder" not in directory.done:
        directory.record(encoder=encoder)
    earlier = directory.done["encoder"]
    space, reason = vectors.space, ""
    if vectors.server is not None and "fingerprint" in earlier:
        space = Space.from_dict(earlier["fingerprint"])
        if difference(space, vectors.space, MIN_SERVER_COSINE) is None:
            return replace(vectors, space=space)
        reason = f" ({difference(space, vectors.space, MIN_SERVER_COSINE)})"
    elif earlier == encoder:
        return vectors
    started, now = ({**values, "fingerprint": "…"} if reason else values for values in (earlier, encoder))
    raise StoreError(
        f"{directory.folder}: its vectors were made by {started}, but the encoder is now {now}{reason}. "
        "Continue with the encoder with which the build started, or start again with --restart."
    )
