from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.data.chunking import LANGUAGES, Chunk, Chunker, RepeatFilter, chunk_document, collapse, split_sentences
from nextvec.data.documents import Document
from nextvec.errors import InputError


def document(*paragraphs: str) -> Document:
    return Document("d", "title", "source", paragraphs)


def letters(text: str) -> str:
    """All that is not white space."""
    return "".join(text.split())


ONE = "The first sentence is about boats. The second one is about harbours and the sea."
TWO = "A third sentence speaks of gulls! Does a fourth one ask about the weather?"


# --- paragraphs ---


def test_each_paragraph_is_a_chunk_with_its_index_and_single_spaces() -> None:
    chunks = chunk_document(document(f"  {ONE}\n", "short", TWO.replace(" ", "\n\t ")), Chunker(min_chars=40))
    assert chunks == [Chunk(ONE, 0), Chunk(TWO, 2)]


def test_min_chars_counts_the_collapsed_text() -> None:
    assert chunk_document(document("a   b"), Chunker(min_chars=3)) == [Chunk("a b", 0)]
    assert chunk_document(document("a   b"), Chunker(min_chars=4)) == []


def test_paragraphs_unchanged_lines_up_with_given_paragraphs() -> None:
    paragraphs = [ONE, "", "x", "  ", TWO]
    chunks = chunk_document(document(*paragraphs), Chunker(min_chars=0, max_chars=10_000))
    assert chunks == [Chunk(paragraphs[i], i) for i in (0, 2, 4)]


def test_a_long_paragraph_is_divided_between_sentences_and_not_joined_to_the_next() -> None:
    chunks = chunk_document(document(f"{ONE} {TWO}", "No more of it."), Chunker(min_chars=10, max_chars=115))
    assert chunks == [
        Chunk(f"{ONE} A third sentence speaks of gulls!", 0),
        Chunk("Does a fourth one ask about the weather?", 0),
        Chunk("No more of it.", 1),
    ]


def test_a_sentence_beyond_the_limit_is_cut_at_its_last_space() -> None:
    chunks = chunk_document(document("aaaa bbbb cccc dddd eeee"), Chunker(min_chars=0, max_chars=10))
    assert [chunk.text for chunk in chunks] == ["aaaa bbbb", "cccc dddd", "eeee"]
    # Exactly at the limit, the space after it doesn't count.
    chunks = chunk_document(document("aaaa bbbb cccc dddd eeee"), Chunker(min_chars=0, max_chars=9))
    assert [chunk.text for chunk in chunks] == ["aaaa bbbb", "cccc dddd", "eeee"]


def test_a_word_beyond_the_limit_is_cut_anywhere() -> None:
    chunks = chunk_document(document("x" * 25), Chunker(min_chars=0, max_chars=10))
    assert [chunk.text for chunk in chunks] == ["x" * 10, "x" * 10, "x" * 5]


# --- sentences ---


def test_sentences_are_packed_over_paragraphs_and_keep_where_they_begin() -> None:
    chunks = chunk_document(document(ONE, TWO, "The end of it has come."), Chunker("sentences", 10, 115))
    assert chunks == [
        Chunk(f"{ONE} A third sentence speaks of gulls!", 0),
        Chunk("Does a fourth one ask about the weather? The end of it has come.", 1),
    ]


def test_a_short_end_is_dropped() -> None:
    chunks = chunk_document(document(ONE, "It ends."), Chunker("sentences", 10, len(ONE)))
    assert [chunk.text for chunk in chunks] == [ONE]


def test_packing_is_greedy_to_the_last_character() -> None:
    full = f"{ONE} {TWO}"
    assert chunk_document(document(ONE, TWO), Chunker("sentences", 0, len(full))) == [Chunk(full, 0)]
    fewer = chunk_document(document(ONE, TWO), Chunker("sentences", 0, len(full) - 1))
    assert [chunk.paragraph for chunk in fewer] == [0, 1]


words = st.text(alphabet="abcAB.!?\"'() 12,é日。", max_size=60)


@settings(max_examples=150, deadline=None)
@given(
    paragraphs=st.lists(words, max_size=6),
    unit=st.sampled_from(["paragraph", "sentences"]),
    low=st.integers(0, 12),
    high=st.integers(12, 60),
)
def test_chunks_keep_length_and_order_and_lose_only_short_pieces(
    paragraphs: list[str], unit: str, low: int, high: int
) -> None:
    everything = chunk_document(document(*paragraphs), Chunker(unit, 0, high))  # type: ignore[arg-type]
    # With nothing too short, the text is all there, in order.
    assert letters("".join(chunk.text for chunk in everything)) == letters("".join(paragraphs))
    for chunk in everything:
        assert 1 <= len(chunk.text) <= high
        assert chunk.text == collapse(chunk.text)
        if unit == "paragraph":
            assert letters(chunk.text) in letters(paragraphs[chunk.paragraph])
        else:
            assert letters(chunk.text)[0] in letters(paragraphs[chunk.paragraph])
    assert [chunk.paragraph for chunk in everything] == sorted(chunk.paragraph for chunk in everything)
    # A minimum leaves out the short ones and changes nothing else.
    kept = chunk_document(document(*paragraphs), Chunker(unit, low, high))  # type: ignore[arg-type]
    assert kept == [chunk for chunk in everything if len(chunk.text) >= low]


@settings(max_examples=100, deadline=None)
@given(st.lists(words, max_size=5), st.integers(12, 80))
def test_packing_equals_packing_sentence_by_sentence(paragraphs: list[str], high: int) -> None:
    """The reference: no shortcut for paragraphs that fit whole, every sentence placed on its own."""
    expected: list[str] = []
    for paragraph in map(collapse, paragraphs):
        new = True
        for sentence in split_sentences(paragraph):
            for piece in _cut(sentence, high):
                joined = (expected[-1] + (" " if new and expected[-1] else "") + piece) if expected else piece
                if expected and len(joined.rstrip()) <= high:
                    expected[-1] = joined
                else:
                    expected.append(piece)
                new = False
        if expected:
            expected[-1] = expected[-1].rstrip()
    chunks = chunk_document(document(*paragraphs), Chunker("sentences", 0, high))
    assert [chunk.text for chunk in chunks] == [text.rstrip() for text in expected]


def _cut(sentence: str, high: int) -> list[str]:
    pieces = []
    while len(sentence.rstrip()) > high:
        at = max((i + 1 for i in range(1, high + 1) if sentence[i] == " "), default=high)
        pieces.append(sentence[:at])
        sentence = sentence[at:]
    return [*pieces, sentence]


# --- sentence boundaries ---


def test_sentences_know_abbreviations_and_quotes() -> None:
    text = 'Mr. Smith arrived at 5 p.m. on Monday. "It rains," said Dr. Jones. The U.S. team (cf. Fig. 2) won 3.5 to 1.'
    assert [sentence.strip() for sentence in split_sentences(text)] == [
        "Mr. Smith arrived at 5 p.m. on Monday.",
        '"It rains," said Dr. Jones.',
        "The U.S. team (cf. Fig. 2) won 3.5 to 1.",
    ]


def test_sentences_of_another_language() -> None:
    assert split_sentences("これは文です。次の文です。", "ja") == ["これは文です。", "次の文です。"]


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="aB.!? \"'()[]12,;:∯ȸ&é日。\\", max_size=200), st.sampled_from(["en", "de", "ja", "ar"]))
def test_sentences_joined_are_the_text(text: str, language: str) -> None:
    text = collapse(text)
    assert "".join(split_sentences(text, language)) == text


def test_text_longer_than_a_window_is_divided_like_short_text() -> None:
    sentences = [f"Sentence number {n} tells about ship {n % 7} in some detail. " for n in range(400)]
    text = "".join(sentences).rstrip()
    assert [s.strip() for s in split_sentences(text)] == [s.strip() for s in sentences]
    unbroken = "word " * 3000
    assert "".join(split_sentences(unbroken.rstrip())) == unbroken.rstrip()
    assert "".join(split_sentences("x" * 10_000)) == "x" * 10_000


def test_long_numbers_in_brackets_do_not_hang() -> None:
    text = "It was so...[484 216 622 139 651 592 379 228 242 355] And more. [289852000000260698,289852000000260744 End."
    assert "".join(split_sentences(text)) == text  # unguarded, pysbd would need years
    text = "So it was. It was...[484 216 622 139 651 592 379 228] seen. Then it rained. They all went home."
    assert split_sentences(text)[-2:] == ["Then it rained. ", "They all went home."]


# --- Chunker ---


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"unit": "paragraphs"}, "chunk unit 'paragraphs' is unknown. Did you mean 'paragraph'?"),
        ({"language": "xx"}, "chunk language 'xx' is unknown. Known: am, ar, bg"),
        ({"min_chars": 50, "max_chars": 40}, "chunk lengths 50 to 40 characters: need 0 <= min_chars <= max_chars"),
        ({"min_chars": -1}, "chunk lengths -1 to 2000"),
        ({"min_chars": 0, "max_chars": 0}, "max_chars at least 1"),
    ],
)
def test_an_impossible_chunker_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Chunker(**values)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_chunker_round_trip() -> None:
    chunker = Chunker("sentences", 10, 500, "de")
    assert chunker.to_dict() == {"unit": "sentences", "min_chars": 10, "max_chars": 500, "language": "de"}
    assert Chunker(**chunker.to_dict()) == chunker
    assert dataclasses.replace(chunker, min_chars=20).min_chars == 20


def test_languages_are_those_of_pysbd() -> None:
    from pysbd.languages import LANGUAGE_CODES

    assert sorted(LANGUAGE_CODES) == list(LANGUAGES)


# --- repeats ---


def test_repeats_are_found_after_collapsing_white_space_and_counted() -> None:
    seen = RepeatFilter()
    assert [seen.is_new(text) for text in ("a b", "a  b\n", "A b", "ab", " a b")] == [True, False, True, True, False]
    assert seen.repeats == 2


@given(st.lists(st.text(max_size=3)))
def test_repeat_filter_agrees_with_a_set(texts: list[str]) -> None:
    seen: set[str] = set()
    filtered = RepeatFilter()
    for text in texts:
        assert filtered.is_new(text) is (collapse(text) not in seen)
        seen.add(collapse(text))
    assert filtered.repeats == len(texts) - len(seen)
