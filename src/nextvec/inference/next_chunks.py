"""The chunks of an index that most likely follow a text, next to the best baseline's first choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
from numpy.typing import NDArray

from nextvec.core.display import Displayable
from nextvec.core.formatting import cut_text
from nextvec.core.table import Cell, Column, Line, Row, Table, View
from nextvec.data.chunking import collapse_whitespace
from nextvec.data.space import SAME_SPACE_COSINE, SYNTHETIC, UNKNOWN, probe_cosines, require_same
from nextvec.data.store import Store
from nextvec.errors import InputError, SpaceError
from nextvec.inference.decoder import Decoded, Decoder, decode_predictions
from nextvec.inference.index import open_index
from nextvec.inference.index_types import Index, IndexedChunk

if TYPE_CHECKING:
    from nextvec.inference.model import LatentVectorModel

MIN_EQUAL_COSINE = 0.9999
"""Chunks with a higher cosine to a context vector are the same chunk; rounding to float16 gives 0.9999997."""
MAX_SHOWN_CHARS = 160
"""Characters of a text in a table; JSON and the Python result have all of them."""
SAMPLED_TEXTS = 16
"""Texts of an index of unknown origin that are encoded to check its vectors."""
NEIGHBORS = 8
"""Nearest chunks per context vector that are searched for equal ones at first."""


@dataclass(frozen=True)
class Match:
    """A chunk of an index with its rank and score."""

    rank: int
    score: float
    """Cosine to the vector that retrieved it, from −1 to 1."""
    row: int
    text: str
    document: str
    """Id of the document."""
    title: str
    position: int | None
    """Number of chunks before it in its document; None if the index does not know it."""


@dataclass(frozen=True)
class NextChunks(Displayable):
    """The most likely next chunks, the best first."""

    model: str
    index: str
    context: tuple[str, ...]
    """The texts that the model read, oldest first."""
    output: str
    """The output that retrieved the chunks: "query" or "prediction"."""
    chunks: tuple[Match, ...]
    baseline: str
    """The best baseline by retrieval on val."""
    baseline_chunk: Match | None
    """The chunk that the baseline ranks first; None if every chunk of the index is in the context."""
    excluded: int
    """Chunks of the index that equal a text of the context."""
    decoded: Decoded | None = None
    """The prediction as a text, if a decoder was used."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON; `decoded` only with a decoder."""
        values = asdict(self)
        return values if self.decoded else {name: value for name, value in values.items() if name != "decoded"}

    def view(self) -> View:
        """Return the chunks as a table, and the baseline's choice."""
        rows = [match_row(str(match.rank), match) for match in self.chunks]
        if self.baseline_chunk is not None:
            rows.append(match_row(self.baseline, self.baseline_chunk, "baseline"))
        read = f"{len(self.context)} chunk{'s' if len(self.context) != 1 else ''}"
        excluded = f"; {self.excluded} equal to the context left out" if self.excluded else ""
        notes = [f"{self.model} read the last {read}; searched {self.index} by {self.output}{excluded}"]
        if self.baseline_chunk is not None:
            notes.append(f"{self.baseline}, the best baseline, ranks the chunk of the last row first")
        table = Table("Most likely next chunks", MATCH_COLUMNS, tuple(rows))
        decoded = self.decoded.blocks("rank") if self.decoded else ()
        return View((table, *(Line(text, style="note") for text in notes), *decoded))


MATCH_COLUMNS = (
    Column("rank", "left"),
    Column("score"),
    Column("document", "left", "ellipsis", 28),
    Column("position"),
    Column("text", "left", "fold"),
)


def match_row(name: str, match: Match, style: Any = "") -> Row:
    """Return the row of a chunk in a table with MATCH_COLUMNS; a long text is cut."""
    text = cut_text(match.text, MAX_SHOWN_CHARS)
    score = Cell(f"{match.score:.3f}", match.score)
    position = Cell("–" if match.position is None else str(match.position), match.position)
    return Row((Cell(name), score, Cell(match.title or match.document), position, Cell(text)), style)


def find_next(
    model: LatentVectorModel,
    texts: Sequence[str],
    index: Index | Store | str | Path,
    k: int = 5,
    *,
    where: str = "",
    decoder: Decoder | str | None = None,
) -> NextChunks:
    """Return the k most likely next chunks; see `LatentVectorModel.next`."""
    opened = open_index(index, where)
    require_same_space(model, opened)
    read, context_SD = read_last(model, texts)
    result = rank_chunks(model, opened, read, context_SD, k)
    if decoder is None:
        return result
    prediction_1D = np.asarray(model.predict(context_SD))
    return replace(result, decoded=decode_predictions(model, opened, decoder, read, prediction_1D))


def rank_chunks(
    model: LatentVectorModel, opened: Index, read: tuple[str, ...], context_SD: NDArray[np.float32], k: int
) -> NextChunks:
    """Return the k most likely next chunks after the texts `read` with the vectors `context_SD`."""
    if k < 1:
        raise InputError(f"k is {k}, but must be at least 1.")
    # One search for everything: the model's output, the baseline's, and the context vectors, to find equal chunks.
    baseline = model.best_baseline("mrr")
    outputs_2D = np.concatenate([model.retrieval_vectors(context_SD), model.predict_with(baseline, context_SD)])
    rows_QK, scores_QK = opened.search(np.concatenate([outputs_2D, context_SD]), k + NEIGHBORS + len(read))
    excluded = equal_rows(opened, read, context_SD, rows_QK[2:], scores_QK[2:])
    kept = [row for row in rows_QK[0].tolist() if row not in excluded]
    if len(kept) < k or all(row in excluded for row in rows_QK[1].tolist()):
        rows_QK, scores_QK = opened.search(outputs_2D, k, excluded)
    chunks = _matches(opened, rows_QK[0], scores_QK[0], excluded, k)
    first = _matches(opened, rows_QK[1], scores_QK[1], excluded, 1)
    output = model.outputs[-1]
    return NextChunks(
        model.source, opened.name, read, output, chunks, baseline, first[0] if first else None, len(excluded)
    )


def read_last(model: LatentVectorModel, texts: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Return the last texts that a model reads at once, and their vectors (S, D). Raises InputError without texts."""
    if isinstance(texts, str):
        raise InputError("texts: one text is not a list. Pass a list of texts.")
    read = last_texts(model, texts)
    return read, model.encode(read)


def last_texts(model: LatentVectorModel, texts: Sequence[str]) -> tuple[str, ...]:
    """Return the last texts that a model reads at once. Raises InputError without texts."""
    if not len(texts):
        raise InputError("texts: there are none. Pass at least one text.")
    return tuple(texts[-model.context_length :])


def require_same_space(model: LatentVectorModel, index: Index) -> None:
    """Raise SpaceError if an index is known to have another embedding space than a model.

    If the index has no encoder fingerprint, but texts, a sample of them is encoded and compared with their vectors.
    """
    require_same(model.space, index.space, f"model {model.source} and {index.name}")
    if index.space.probes is None and model not in _CHECKED.setdefault(index, WeakSet()):
        _compare_sample(model, index)
        _CHECKED[index].add(model)


_CHECKED: WeakKeyDictionary[Index, WeakSet[LatentVectorModel]] = WeakKeyDictionary()
"""Models whose encoder made the sampled vectors of an index, so that each pair is checked once."""


def _compare_sample(model: LatentVectorModel, index: Index) -> None:
    """Raise SpaceError if the model's encoder gives most of the sampled texts of an index other vectors."""
    chunks = [chunk for chunk in index.chunks(index.sample(SAMPLED_TEXTS)) if chunk.text.strip()]
    if not chunks or model.space.encoder in (UNKNOWN, SYNTHETIC):
        return
    vectors = index.vectors([chunk.row for chunk in chunks])
    cosine = float(np.median(probe_cosines(model.encode([chunk.text for chunk in chunks]), vectors)))
    if cosine < SAME_SPACE_COSINE:
        raise SpaceError(
            f"{index.name}: its vectors are not those of the encoder {model.space} for its texts (median cosine "
            f"{cosine:.3f} of {len(chunks)} texts). Use an index of the model's encoder, or name another column."
        )


def equal_rows(
    index: Index,
    texts: Sequence[str],
    vectors_SD: NDArray[np.float32],
    rows_SK: NDArray[np.int64],
    scores_SK: NDArray[np.float32],
) -> set[int]:
    """Return the rows of an index with the text or the vector of one of S texts.

    `rows_SK` and `scores_SK` are the first results of a search for the vectors; it is repeated with more results while
    even the last one is equal.
    """
    equal: set[int] = set()
    for text, vector_D, rows_K, scores_K in zip(texts, vectors_SD, rows_SK, scores_SK, strict=True):
        own = _equal_results(index, text, rows_K, scores_K)
        # More copies than results: search again, which only a corpus with many copies needs.
        while len(own) == len(rows_K) < len(index):
            found_1K, found_scores_1K = index.search(vector_D[None], 4 * len(rows_K))
            rows_K, scores_K = found_1K[0], found_scores_1K[0]
            own = _equal_results(index, text, rows_K, scores_K)
        equal |= own
    return equal


def _equal_results(index: Index, text: str, rows_K: NDArray[np.int64], scores_K: NDArray[np.float32]) -> set[int]:
    """Return the rows among results, nearest first, that have the same text or vector."""
    wanted = collapse_whitespace(text)
    equal = set()
    for row, score in zip(rows_K.tolist(), scores_K.tolist(), strict=True):
        if score >= MIN_EQUAL_COSINE or collapse_whitespace(index.chunks([row])[0].text) == wanted:
            equal.add(row)
        else:
            break  # an equal text has nearly the same vector, so it precedes all others
    return equal


def _matches(
    index: Index, rows_K: NDArray[np.int64], scores_K: NDArray[np.float32], excluded: set[int], k: int
) -> tuple[Match, ...]:
    """Return the first k results that are not excluded."""
    kept = [(row, score) for row, score in zip(rows_K.tolist(), scores_K.tolist(), strict=True) if row not in excluded]
    chunks = index.chunks([row for row, _ in kept[:k]])
    return tuple(
        make_match(rank, score, chunk) for rank, ((_, score), chunk) in enumerate(zip(kept, chunks, strict=False), 1)
    )


def make_match(rank: int, score: float, chunk: IndexedChunk) -> Match:
    """Return a chunk of an index with its rank and score."""
    return Match(rank, score, chunk.row, chunk.text, chunk.document, chunk.title, chunk.position)
