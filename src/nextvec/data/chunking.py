"""Split documents into chunks, the pieces of text that get one vector each.

A chunk is a paragraph (cut between sentences if it is too long), or several sentences packed together. The text is not
rewritten: each run of whitespace becomes one space, and a chunk is a slice of the result. Chunks shorter than
`min_chars` are dropped.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from sentencex import segment

from nextvec.data.documents import Document
from nextvec.errors import InputError, did_you_mean

UNITS = ("paragraph", "sentences")
PARAGRAPHS = ("blank-lines", "lines")

MAX_CHARS = {"paragraph": 2000, "sentences": 200}
"""Default maximum length by unit. 200 characters are one long sentence or two short ones."""

_LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(-[a-z]+)*")
"""An ISO 639 code, such as `en` or `zh-hant`."""

_CODES = (
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz "
    "ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik "
    "io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml "
    "mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd "
    "se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi "
    "vo wa wo xh yi yo za zh zu ast bar ceb ckb fil gsw hsb nds nqo sah scn sco szl vec war wuu yue"
)
LANGUAGES = frozenset(_CODES.split())
"""Codes of ISO 639-1, and those of ISO 639-3 with much text."""

_NAME_PAIRS = (
    "arabic=ar burmese=my chinese=zh cn=zh czech=cs dutch=nl english=en french=fr german=de deutsch=de "
    "greek=el gr=el hebrew=he hindi=hi italian=it japanese=ja jp=ja khmer=km korean=ko kr=ko lao=lo polish=pl "
    "portuguese=pt russian=ru spanish=es thai=th tibetan=bo turkish=tr ukrainian=uk ua=uk urdu=ur "
    "vietnamese=vi vn=vi"
)
_NAMES = dict(pair.split("=") for pair in _NAME_PAIRS.split())
"""Names and country codes that are easily taken for language codes."""


def _suggest_language(language: str) -> str:
    """Return a suggestion for a wrong language code, or an empty text."""
    name = language.lower().replace("_", "-")
    if name in _NAMES:
        return f" Did you mean '{_NAMES[name]}'?"
    if name != language and name.partition("-")[0] in LANGUAGES:
        return f" Did you mean '{name}'?"
    return did_you_mean(name.partition("-")[0], LANGUAGES)


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
    """Minimum length of a chunk, see `text_length`; shorter ones are dropped."""
    max_chars: int = 2000
    """Maximum length of a chunk. Longer text is cut between sentences, a longer sentence at a space."""
    paragraphs: Literal["blank-lines", "lines"] = "blank-lines"
    """`lines`: each line of a paragraph is a paragraph of its own."""
    language: str = "en"
    """ISO 639 code of the text's language. It selects the abbreviations that do not end a sentence; a language that
    sentencex does not know gets the rules of a related one, or else of English."""

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InputError(f"chunk unit '{self.unit}' is unknown.{did_you_mean(self.unit, UNITS)}")
        if self.paragraphs not in PARAGRAPHS:
            raise InputError(f"paragraphs '{self.paragraphs}' is unknown.{did_you_mean(self.paragraphs, PARAGRAPHS)}")
        if self.language.partition("-")[0] not in LANGUAGES or not _LANGUAGE_CODE.fullmatch(self.language):
            raise InputError(
                f"chunk language '{self.language}' is not a known language code.{_suggest_language(self.language)} Use "
                "an ISO 639 code, such as 'en' or 'zh'."
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
    has_lines = chunker.paragraphs == "lines"
    paragraphs = [
        (index, text)
        for index, paragraph in enumerate(document.paragraphs)
        for part in (paragraph.splitlines() if has_lines else (paragraph,))
        if (text := collapse_whitespace(part))
    ]
    # Chunks may cross the paragraphs of one group, but not the groups.
    groups = [[paragraph] for paragraph in paragraphs] if chunker.unit == "paragraph" else [paragraphs]
    chunks = [chunk for group in groups for chunk in _chunk_group(group, chunker)]
    return [chunk for chunk in chunks if text_length(chunk.text) >= chunker.min_chars]


def collapse_whitespace(text: str) -> str:
    """Replace each run of whitespace by one space, and strip both ends."""
    return " ".join(text.split())


def split_sentences(text: str, language: str = "en") -> list[str]:
    """Split text into sentences; joined, they are ``collapse_whitespace(text)``.

    The marks of every script end a sentence in every language; Thai and Lao, which have none, are divided at spaces.
    The space between two sentences is usually at the end of the first, but may be elsewhere. Text in which no sentence
    ends is cut at a space at least once every `_WINDOW_CHARS` characters.
    """
    text = collapse_whitespace(text)  # also required by sentencex, which panics on some text with U+3000 or U+00A0
    sentences: list[str] = []
    start = 0
    while start < len(text):
        window = text[start : start + _WINDOW_CHARS]
        complete = _split_window(window, language)
        if start + len(window) < len(text):
            # The last sentence may continue after the window, so the next window starts with it. If it is the only
            # one, the window is cut at a space; without a space, anywhere.
            if len(complete) > 1:
                complete.pop()
            else:
                complete = [text[start : _last_break(text, start, start + _WINDOW_CHARS)]]
        sentences += complete
        start += sum(map(len, complete))
    return sentences


_MORE_ENDS = re.compile(
    # Marks that sentencex lacks: Khmer, Tibetan (after which the next sentence may follow without a space), Mongolian,
    # and the Greek question mark.
    r"(?<=[\u17d4\u17d5\u17da\u0f0d\u0f0e\u0f11\u0f14\u1803\u1809\u037e])(?![\u17d4\u17d5\u0f0d\u0f0e ])"
    r"|(?<=[\u17d4\u17d5\u17da\u0f0d\u0f0e\u0f11\u0f14\u1803\u1809\u037e] )"
    # Thai and Lao have no marks: a space after one of their letters.
    r"|(?<=[\u0e00-\u0eff] )(?=[\u0e00-\u0eff])"
)


def _split_window(text: str, language: str) -> list[str]:
    sentences: list[str] = segment(language, text)
    if text.isascii():
        return sentences
    return [part for sentence in sentences for part in _MORE_ENDS.split(sentence) if part]


def _chunk_group(group: Sequence[tuple[int, str]], chunker: Chunker) -> Iterator[Chunk]:
    """Pack the sentences of the paragraphs `group`, (index, text) each, into chunks as long as `max_chars` allows."""
    text = " ".join(paragraph for _, paragraph in group)
    if 0 < text_length(text) <= chunker.max_chars:
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
    width = _Width(text)
    start = 0
    while start < len(text):
        if text[start] == " ":  # between two chunks
            start += 1
            continue
        end = _chunk_end(text, start, sentence_ends, width.reach(start, chunker.max_chars))
        index, _ = group[bisect_right(paragraph_starts, start) - 1]
        yield Chunk(text[start:end].rstrip(), index)
        start = end


def _chunk_end(text: str, start: int, sentence_ends: Sequence[int], limit: int) -> int:
    """Return the end of the chunk that starts at `start`: the last sentence end up to `limit`, or else a space."""
    # A space just after the limit is stripped from the chunk, so the sentence before it still fits.
    reach = limit + 1 if text.startswith(" ", limit) else limit
    end = sentence_ends[bisect_right(sentence_ends, reach) - 1]
    return end if end > start else _last_break(text, start, limit)


_SOFT_BREAKS = "\uff0c\u3001\uff1b\uff1a\u060c\u061b\u0f0b\u104a\u200b"
"""Commas and the like of scripts without spaces, the syllable mark of Tibetan, and the zero-width space of Khmer."""


def _last_break(text: str, start: int, limit: int) -> int:
    """Return the position after the last space in ``text[start + 1 : limit + 1]``; else after a comma, else `limit`."""
    if (space := text.rfind(" ", start + 1, limit + 1)) > 0:
        return space + 1
    if limit >= len(text):
        return len(text)
    if soft := max(text.rfind(mark, start + 1, limit) for mark in _SOFT_BREAKS) + 1:
        return soft
    # Do not separate a letter from its accents, or the parts of an emoji.
    end = limit
    while end > max(start + 1, limit - 16) and (unicodedata.combining(text[end]) or text[end] in _JOINERS):
        end -= 1
    return end if end > start + 1 else limit


_JOINERS = "\u200d\ufe0f\u0e31\u0e34\u0e35\u0e36\u0e37"

_WIDE = re.compile("[\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff01-\uff60\U0001f000-\U0003ffff]")


def text_length(text: str) -> int:
    """Return the length that limits count: characters, of which an ideograph, kana, hangul or emoji counts as four.

    Each of them is about one token of an encoder, as four letters are.
    """
    return len(text) if text.isascii() else len(text) + (_WIDE_COST - 1) * len(_WIDE.findall(text))


_WIDE_COST = 4


class _Width:
    """Lengths within a text, as `text_length` counts them."""

    def __init__(self, text: str) -> None:
        # Lengths of all beginnings of the text; None if every character counts as one.
        self._lengths: array[int] | None = None
        if not text.isascii() and _WIDE.search(text):
            costs = (_WIDE_COST if character >= "\u2e80" and _WIDE.match(character) else 1 for character in text)
            self._lengths = array("q", accumulate(costs, initial=0))

    def reach(self, start: int, length: int) -> int:
        """Return the last end of a piece of at most `length` from `start`; it has at least one character."""
        if self._lengths is None:
            return start + length
        end = bisect_right(self._lengths, self._lengths[start] + length, lo=start) - 1
        return max(end, start + 1)
