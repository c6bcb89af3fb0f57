"""Where the vectors of a build come from, and the proof that one encoder makes all of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.core.files import write_atomic
from nextvec.data.encoders import Encoder
from nextvec.data.encoders.remote import RemoteEncoder
from nextvec.data.encoders.remote_names import without_url
from nextvec.data.space import MIN_SERVER_COSINE, Space, difference
from nextvec.data.store import ChunkTexts
from nextvec.errors import OutputError, SpaceError, StoreError

ENCODER_RECORD = "encoder.json"
"""File of the folder `encoded` of a build with the encoder that started it."""

TEXT_COUNTS = ("unknown_texts", "truncated_texts")
"""What an encoder counts: texts without any known term, and texts that are longer than it reads."""


@dataclass(frozen=True)
class VectorSource:
    """Where the vectors of a store come from: an encoder or precomputed embeddings."""

    space: Space
    settings: dict[str, Any]
    """The encoder's entry in the manifest."""
    read_block: Callable[[int], NDArray[np.float32]]
    """Return the vectors of a block of rows."""
    count_texts: Callable[[], Counter[str]] = Counter
    """Return the counts of TEXT_COUNTS for the texts that were encoded so far."""
    server: RemoteEncoder | None = None
    """The encoder if it is behind a server."""


def encoded_vectors(encoder: Encoder, texts: ChunkTexts) -> VectorSource:
    """Return the vectors that an encoder makes of texts, block by block."""
    return VectorSource(
        encoder.space,
        encoder.settings,
        lambda block: encoder.encode(texts.read_block(block)),
        lambda: Counter({name: getattr(encoder, name) for name in TEXT_COUNTS}),
        encoder if isinstance(encoder, RemoteEncoder) else None,
    )


def require_one_encoder(encoded: Path, vectors: VectorSource) -> VectorSource:
    """Return the source with the recorded space, after comparing it with the encoder that started the build.

    The first process records its encoder in the folder `encoded`. Two encoders must never make the vectors of one
    store. Of a server, the fingerprint is compared: it may have moved, and its vectors of one text vary slightly.
    Raises StoreError for another encoder.
    """
    file = encoded / ENCODER_RECORD
    if not file.exists():
        content = json.dumps({"space": vectors.space.to_dict(), "settings": vectors.settings}, indent=2)
        try:
            write_atomic(file, lambda target: target.write(content.encode()), new=True, shared=True)
        except OutputError:
            if not file.exists():  # otherwise another process has recorded its encoder just before
                raise
    space, settings = read_encoder_record(encoded)
    reason = None
    if vectors.server is None:
        is_same = (str(space), settings) == (str(vectors.space), json.loads(json.dumps(vectors.settings)))
    else:
        is_same = without_url(settings["name"]) == without_url(vectors.server.name)
        reason = difference(space, vectors.space, MIN_SERVER_COSINE) if is_same else None
    if is_same and reason is None:
        return replace(vectors, space=space)
    started, now = (
        {"space": str(of), **values} for of, values in ((space, settings), (vectors.space, vectors.settings))
    )
    raise StoreError(
        f"{encoded.parent}: its vectors were made by {started}, but the encoder is now {now}"
        f"{f' ({reason})' if reason else ''}. Continue with the encoder with which the build started, or start again "
        "with --restart."
    )


def read_encoder_record(encoded: Path) -> tuple[Space, dict[str, Any]]:
    """Return the space and the settings of the encoder that started a build. Raises StoreError if they are damaged."""
    file = encoded / ENCODER_RECORD
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return Space.from_dict(record["space"]), dict(record["settings"])
    except (OSError, ValueError, KeyError, TypeError, SpaceError) as error:
        raise StoreError(f"{file}: is damaged. Start again with --restart.") from error
