"""Texts for predicted vectors, from a decoder such as a vec2text server, and the test that it is of the model's space.

    POST URL  {"vectors": [[…], …]}  →  {"texts": ["…", …]}

Each vector has unit length and D numbers; the texts are in the same order.

Letters in names: N vectors, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from nextvec.core.formatting import Status, format_number
from nextvec.core.http_client import JsonClient
from nextvec.core.server_settings import require_url
from nextvec.core.table import Cell, Column, Line, Row, Table
from nextvec.errors import ServerError
from nextvec.inference.index_types import Index

if TYPE_CHECKING:
    from nextvec.inference.model import LatentVectorModel

KEY = "NEXTVEC_DECODER_KEY"
"""Environment variable of the key."""
MAX_VECTORS = 32
"""Maximum of one request."""
BYTES_PER_TEXT = 2**18
"""Maximum size of a text's part of an answer."""
ROUND_TRIP_TEXTS = 8
"""Texts of the self-test."""
MIN_ROUND_TRIP_COSINE = 0.8
"""Least median cosine of the self-test. A decoder of another space reaches no more than unrelated texts do."""


class Decoder(Protocol):
    """Anything that makes texts of vectors."""

    @property
    def name(self) -> str:
        """The decoder's origin, for messages."""

    def decode(self, vectors_ND: NDArray[np.float32]) -> list[str]:
        """Return a text for each of the unit vectors (N, D), in order."""


class RemoteDecoder:
    """A decoder behind a server."""

    def __init__(self, url: str) -> None:
        """Raise InputError if the URL cannot be used; nothing is sent yet."""
        parts = require_url(url, "decoder", allow_query=True)
        # A query may contain a secret, so no message has it.
        self.name = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self._client = JsonClient(url, f"decoder {self.name}", KEY)

    def decode(self, vectors_ND: NDArray[np.float32]) -> list[str]:
        """Return a text for each of the unit vectors (N, D), in order. Raises ServerError for a wrong answer."""
        texts: list[str] = []
        for start in range(0, len(vectors_ND), MAX_VECTORS):
            vectors = vectors_ND[start : start + MAX_VECTORS].tolist()
            answer = self._client.post({"vectors": vectors}, (len(vectors) + 1) * BYTES_PER_TEXT)
            part = answer.get("texts") if isinstance(answer, dict) else None
            if not isinstance(part, list) or not all(isinstance(text, str) for text in part):
                self._fail("the answer has no list 'texts' of texts. Check the URL.")
            if len(part) != len(vectors):
                self._fail(f"the answer has {len(part)} texts for {len(vectors)} vectors. Check the server.")
            texts += part
        return texts

    def _fail(self, reason: str) -> NoReturn:
        raise ServerError(f"decoder {self.name}: {reason}")


@dataclass(frozen=True)
class RoundTrip:
    """The self-test of a decoder: text → vector → text → vector, as cosines between the two vectors."""

    texts: int
    median_cosine: float
    min_cosine: float
    unrelated_cosine: float | None
    """Median cosine of a decoded text with the other texts of the test; None for a single text."""
    bar: float
    """The least median: 0.8, or halfway from unrelated texts to 1 if that is more."""
    passed: bool


@dataclass(frozen=True)
class DecodedText:
    """A text that a decoder made of a vector. It is a guess, not a chunk of the index."""

    text: str
    cosine: float
    """Cosine of the text's own vector to the decoded vector, from −1 to 1; 0 for an empty text."""


@dataclass(frozen=True)
class Decoded:
    """The decoded texts of a result, with the self-test of their decoder."""

    decoder: str
    texts: tuple[DecodedText, ...]
    round_trip: RoundTrip

    def blocks(self, unit: str) -> tuple[Table | Line, ...]:
        """Return the texts as a table, one row per `unit` (rank or step), and the self-test as a line."""
        rows = tuple(
            Row((Cell(str(number)), Cell(f"{item.cosine:.3f}", item.cosine), Cell(item.text)))
            for number, item in enumerate(self.texts, 1)
        )
        columns = (Column(unit, "left"), Column("cosine"), Column("decoded text", "left", "fold"))
        table = Table("Decoded from the prediction (no chunks of the index)", columns, rows)
        test = self.round_trip
        measured = (
            f"round trip of {test.texts} texts: median cosine {test.median_cosine:.3f}, at least {test.bar:.3f} needed "
            f"(unrelated texts {format_number(test.unrelated_cosine, '.3f')})"
        )
        if test.passed:
            return table, Line(f"decoder {self.decoder}: {measured}", style="note")
        warning = f"decoder {self.decoder}: is not of this embedding space; {measured}. Do not trust its texts."
        return table, Line(warning, Status.RED)


def decode_predictions(
    model: LatentVectorModel,
    index: Index,
    decoder: Decoder | str,
    read: Sequence[str],
    vectors_ND: NDArray[np.float32],
) -> Decoded:
    """Return the texts of predicted vectors (N, D).

    The decoder is tested first, once per model and index, on texts of the index or else on the texts that were `read`.
    Raises ServerError if the decoder fails, and the errors of `LatentVectorModel.encode`.
    """
    tested = model.tested_decoders.get((decoder, index.name))
    if tested is None:
        opened = RemoteDecoder(decoder) if isinstance(decoder, str) else decoder
        tested = opened, measure_round_trip(model, opened, _sample_texts(index) or list(read))
        model.tested_decoders[decoder, index.name] = tested
    opened, round_trip = tested
    texts = opened.decode(vectors_ND)
    cosines_N = (_encode(model, texts) * vectors_ND).sum(axis=1)
    items = tuple(DecodedText(text, float(cosine)) for text, cosine in zip(texts, cosines_N, strict=True))
    return Decoded(opened.name, items, round_trip)


def measure_round_trip(model: LatentVectorModel, decoder: Decoder, texts: Sequence[str]) -> RoundTrip:
    """Encode texts, decode their vectors, encode the results, and compare the vectors."""
    vectors_ND = model.encode(texts)
    cosines_NN = _encode(model, decoder.decode(vectors_ND)) @ vectors_ND.T
    count = len(texts)
    own_N, others = np.diag(cosines_NN), cosines_NN[~np.eye(count, dtype=bool)]
    # In many spaces, unrelated texts have a high cosine; a decoder must be clearly above it.
    unrelated = float(np.median(others)) if len(others) else None
    bar = max(MIN_ROUND_TRIP_COSINE, (1 + (unrelated or 0)) / 2)
    median = float(np.median(own_N))
    return RoundTrip(count, median, float(own_N.min()), unrelated, bar, median >= bar)


def _sample_texts(index: Index) -> list[str]:
    """Return evenly spaced texts of an index, none of them twice; none if it has no texts."""
    count = min(ROUND_TRIP_TEXTS, len(index))
    rows = [n * len(index) // count for n in range(count)]
    return list(dict.fromkeys(chunk.text for chunk in index.chunks(rows) if chunk.text.strip()))


def _encode(model: LatentVectorModel, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the vectors (N, D) of decoded texts; zeros for an empty one."""
    vectors_ND = np.zeros((len(texts), model.dimensions), np.float32)
    rows = [n for n, text in enumerate(texts) if text.strip()]
    if rows:
        vectors_ND[rows] = model.encode([texts[n] for n in rows])
    return vectors_ND
