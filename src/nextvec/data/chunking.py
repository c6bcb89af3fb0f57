"""Split documents into chunks, the pieces of text that get one vector each.

A chunk is a paragraph (cut between sentences if it is too long), or several sentences packed together. The text is not
rewritten: each run of whitespace becomes one space, and a chunk is a slice of the result. Chunks shorter than
`min_chars` are dropped.
"""

from __future__ import annotations

import dataclasses
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sentencex import segment

from nextvec.data.documents import Document
from nextvec.errors import InputError, did_you_mean

UNITS = ("paragraph", "sentences")

_LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(-[a-z]+)*")
"""An ISO 639 code, such as `en` or `zh-hant`."""

_WINDOW_CHARS = 2_000
"""Characters that sentencex sees at a time. In longer text an unclosed quotation mark hides the sentence ends after it,
and the time for text without spaces grows with the square of its length."""


@dataclass(frozen=True)
class Chunker:
    """The rules by which documents become chunks.

    With ``Chunker("paragraph", min_chars=0, max_chars=N)`` and no paragraph longer than N, every paragraph that is not
    empty is exactly one chunk, and `Chunk.paragraph` is its index. Precomputed embeddings, one per paragraph, are
    aligned with the text in this way. Raises InputError for an unknown unit, a malformed language code or impossible
    lengths.
    """

    unit: Literal["paragraph", "sentences"] = "paragraph"
    """`paragraph`: one chunk per paragraph. `sentences`: sentences of the document packed to at most `max_chars`."""
    min_chars: int = 40
    """Minimum length of a chunk; shorter ones are dropped."""
    max_chars: int = 2000
    """Maximum length of a chunk. Longer text is cut between sentences, a longer sentence at a space."""
    language: str = "en"
    """ISO 639 code of the text's language. It selects the abbreviations that do not end a sentence; a language that
    sentencex does not know gets the rules of a related one, or else of English."""

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InputError(f"chunk unit '{self.unit}' is unknown.{did_you_mean(self.unit, UNITS)}")
        if not _LANGUAGE_CODE.fullmatch(self.language):
            raise InputError(
                f"chunk language '{self.language}' is not a language code. Use an ISO 639 code, such as 'en' or 'zh'."
            )
        if not 0 <= self.min_chars <= self.max_chars or self.max_chars < 1:
            raise InputError(
                f"chunk lengths {self.min_chars} to {self.max_chars} characters are impossible. "
                "Choose 0 <= min_chars <= max_chars, with max_chars at least 1."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values for the manifest; ``Chunker(**values)`` is the inverse."""
        return dataclasses.asdict(self)


class Chunk(NamedTuple):
    """A piece of text that gets one vector."""

    text: str
    """Words separated by single spaces, `min_chars` to `max_chars` characters, no space at either end."""
    paragraph: int
    """Index in `Document.paragraphs` of the paragraph in which the chunk begins."""


def chunk_document(document: Document, chunker: Chunker) -> list[Chunk]:
    """Return the chunks of a document in order; an empty list if no text is long enough."""
    paragraphs = [(index, collapse_whitespace(text)) for index, text in enumerate(document.paragraphs)]
    paragraphs = [(index, text) for index, text in paragraphs if text]
    # Chunks may cross the paragraphs of one group, but not the groups.
    groups = [[paragraph] for paragraph in paragraphs] if chunker.unit == "paragraph" else [paragraphs]
    chunks = [chunk for group in groups for chunk in _chunk_group(group, chunker)]
    return [chunk for chunk in chunks if len(chunk.text) >= chunker.min_chars]


def collapse_whitespace(text: str) -> str:
    """Replace each run of whitespace by one space, and strip both ends."""
    return " ".join(text.split())


def split_sentences(text: str, language: str = "en") -> list[str]:
    """Split text into sentences; joined, they are ``collapse_whitespace(text)``.

    The space between two sentences is usually at the end of the first, but may be elsewhere. Text in which no sentence
    ends (Thai, for example, has no mark for it) is cut at a space at least once every `_WINDOW_CHARS` characters.
    """
    text = collapse_whitespace(text)  # also required by sentencex, which panics on some text with U+3000 or U+00A0
    sentences: list[str] = []
    start = 0
    while start < len(text):
        window = text[start : start + _WINDOW_CHARS]
        complete = segment(language, window)
        if start + len(window) < len(text):
            # The last sentence may continue after the window, so the next window starts with it. If it is the only
            # one, the window is cut at a space; without a space, anywhere.
            if len(complete) > 1:
                complete.pop()
            else:
                complete = [text[start : _last_space(text, start, start + _WINDOW_CHARS)]]
        sentences += complete
        start += sum(map(len, complete))
    return sentences


def _chunk_group(group: Sequence[tuple[int, str]], chunker: Chunker) -> Iterator[Chunk]:
    """Pack the sentences of the paragraphs `group`, (index, text) each, into chunks as long as `max_chars` allows."""
    text = " ".join(paragraph for _, paragraph in group)
    if 0 < len(text) <= chunker.max_chars:
        yield Chunk(text, group[0][0])
        return
    # Find the positions in `text` at which paragraphs start, and those at which a chunk may end.
    paragraph_starts: list[int] = []
    sentence_ends = [0]
    end = -1  # so that the first paragraph starts at 0, without a space before it
    for _, paragraph in group:
        end += 1
        paragraph_starts.append(end)
        for sentence in split_sentences(paragraph, chunker.language):
            end += len(sentence)
            sentence_ends.append(end)
    start = 0
    while start < len(text):
        if text[start] == " ":  # between two chunks
            start += 1
            continue
        end = _chunk_end(text, start, sentence_ends, chunker.max_chars)
        index, _ = group[bisect_right(paragraph_starts, start) - 1]
        yield Chunk(text[start:end].rstrip(), index)
        start = end


def _chunk_end(text: str, start: int, sentence_ends: Sequence[int], max_chars: int) -> int:
    """Return the end of the chunk that starts at `start`: the last sentence end within reach, or else a space."""
    limit = start + max_chars
    # A space just after the limit is stripped from the chunk, so the sentence before it still fits.
    reach = limit + 1 if text.startswith(" ", limit) else limit
    end = sentence_ends[bisect_right(sentence_ends, reach) - 1]
    return end if end > start else _last_space(text, start, limit)


def _last_space(text: str, start: int, limit: int) -> int:
    """Return the position after the last space in ``text[start + 1 : limit + 1]``; `limit` if there is none."""
    return text.rfind(" ", start + 1, limit + 1) + 1 or limit
