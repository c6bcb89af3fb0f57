"""Chunks: the pieces of a document that get a vector each.

A chunk is a paragraph (split at sentences where it is too long), or sentences packed greedily up to a length. Nothing
is rewritten: white space is collapsed to single spaces, and a chunk is a slice of what that leaves. Text shorter than
`min_chars` is dropped. Sentences come from pysbd, which is slow (about 100,000 characters a second), so it is asked
only about text that has to be divided.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from nextvec.data.documents import Document
from nextvec.errors import InputError, did_you_mean

UNITS = ("paragraph", "sentences")

LANGUAGES = (
    "am", "ar", "bg", "da", "de", "el", "en", "es", "fa", "fr", "hi", "hy", "it", "ja", "kk", "mr", "my", "nl", "pl",
    "ru", "sk", "ur", "zh",
)  # fmt: skip
"""What pysbd can divide into sentences (ISO 639-1); listed here so that making a Chunker does not load pysbd."""

_WINDOW = 4_000
"""Characters that pysbd sees at a time: its time grows faster than the text, and far quotation marks confuse it."""

_LONG_CITATION = re.compile(r"\[[\d\s,–-]{9,}")
"""Digits in brackets on which a pattern of pysbd backtracks for ever (``...[484 216 622 139 651 592 379]``)."""


@dataclass(frozen=True)
class Chunker:
    """How documents become chunks.

    With ``Chunker("paragraph", min_chars=0, max_chars=N)`` and no paragraph longer than N, a chunk is exactly a
    paragraph (empty ones give none), and `Chunk.paragraph` says which: so vectors made elsewhere, one a paragraph,
    can be lined up with the text. Raises InputError for an unknown unit or language or an impossible length.
    """

    unit: Literal["paragraph", "sentences"] = "paragraph"
    """paragraph: each its own chunk; sentences: the document's sentences packed to at most `max_chars`."""
    min_chars: int = 40
    """Shorter chunks are dropped."""
    max_chars: int = 2000
    """Longer text is divided between sentences; a single longer sentence is cut at its last space before."""
    language: str = "en"
    """Whose sentence boundaries are looked for (ISO 639-1)."""

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InputError(f"chunk unit '{self.unit}' is unknown.{did_you_mean(self.unit, UNITS)}")
        if self.language not in LANGUAGES:
            raise InputError(f"chunk language '{self.language}' is unknown.{did_you_mean(self.language, LANGUAGES)}")
        if not 0 <= self.min_chars <= self.max_chars or self.max_chars < 1:
            raise InputError(
                f"chunk lengths {self.min_chars} to {self.max_chars} characters: need 0 <= min_chars <= max_chars, "
                "max_chars at least 1"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the manifest; ``Chunker(**values)`` is the inverse."""
        return dataclasses.asdict(self)


class Chunk(NamedTuple):
    """A piece of text that gets one vector."""

    text: str
    """Single spaces only, none at either end; `min_chars` to `max_chars` long."""
    paragraph: int
    """Index in `Document.paragraphs` of the paragraph that it begins in."""


def chunk_document(document: Document, chunker: Chunker) -> list[Chunk]:
    """The chunks of a document in order; an empty list where no text is long enough."""
    paragraphs = [(index, collapse(paragraph)) for index, paragraph in enumerate(document.paragraphs)]
    if chunker.unit == "sentences":
        chunks = list(_pack(paragraphs, chunker))
    else:
        chunks = [chunk for paragraph in paragraphs for chunk in _pack([paragraph], chunker)]
    return [chunk for chunk in chunks if len(chunk.text) >= chunker.min_chars]


def collapse(text: str) -> str:
    """`text` with each run of white space as one space, and none at the ends."""
    return " ".join(text.split())


def split_sentences(text: str, language: str = "en") -> list[str]:
    """The sentences of a text without line breaks, each with the space after it: joined they are the text again.

    pysbd rewrites and sometimes loses characters, so it is only asked where sentences begin.
    """
    segmenter = _segmenter(language)
    sentences: list[str] = []
    start = 0
    while start < len(text):
        window = text[start : start + _WINDOW]
        begins = _sentence_begins(window, segmenter)
        if start + len(window) == len(text):
            end = len(window)
        elif len(begins) > 1:
            end = begins.pop()  # the last sentence may go on beyond the window: it is looked at again
        else:
            end = window.rfind(" ") + 1 or len(window)
        sentences += [window[a:b] for a, b in pairwise([*begins, end])]
        start += end
    return sentences


def _sentence_begins(window: str, segmenter: Any) -> list[int]:
    """Positions at which sentences of `window` begin, ascending, the first 0."""
    masked = _LONG_CITATION.sub(lambda match: "x" * len(match[0]), window)
    begins, position = [0], 0
    for sentence in segmenter.processor(masked).process():
        sentence = sentence.strip()
        found = masked.find(sentence, position)
        if found > begins[-1]:
            begins.append(found)
        if found >= 0:  # otherwise pysbd has rewritten it: it stays with the sentence before
            position = found + len(sentence)
    return begins


@cache
def _segmenter(language: str) -> Any:
    import pysbd

    return pysbd.Segmenter(language=language, clean=False)


def _pack(paragraphs: Iterable[tuple[int, str]], chunker: Chunker) -> Iterator[Chunk]:
    """Fill chunks of at most `max_chars` greedily with sentences; the text between two paragraphs is one space."""
    text, begun_in = "", 0
    for index, paragraph in paragraphs:
        glue = " " if text else ""
        # A paragraph that fits whole needs no sentences: packing them one by one ends in the same chunk.
        fits = len(text) + len(glue) + len(paragraph) <= chunker.max_chars
        for piece in [paragraph] if fits else _pieces(paragraph, chunker):
            if text and len(text) + len(glue) + len(piece.rstrip()) > chunker.max_chars:
                yield Chunk(text.rstrip(), begun_in)
                text, glue = "", ""
            if not text:
                begun_in = index
            text += glue + piece
            glue = ""
        text = text.rstrip()
    if text:
        yield Chunk(text, begun_in)


def _pieces(paragraph: str, chunker: Chunker) -> Iterator[str]:
    """The sentences of a paragraph, those beyond `max_chars` cut at the last space that keeps them below it."""
    for sentence in split_sentences(paragraph, chunker.language):
        while len(sentence.rstrip()) > chunker.max_chars:
            cut = sentence.rfind(" ", 1, chunker.max_chars + 1) + 1 or chunker.max_chars
            yield sentence[:cut]
            sentence = sentence[cut:]
        yield sentence


class RepeatFilter:
    """Finds exact repeats (after collapsing white space) over a whole corpus; keeps 16-byte hashes, not texts.

    With 16 bytes two different texts among a billion share a hash with a chance below 1 in 10^20.
    """

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self.repeats = 0
        """How many texts were refused so far."""

    def is_new(self, text: str) -> bool:
        """Whether `text` was not given before; counts it in `repeats` if it was."""
        digest = hashlib.blake2b(collapse(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest in self._seen:
            self.repeats += 1
            return False
        self._seen.add(digest)
        return True
