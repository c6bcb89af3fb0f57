from __future__ import annotations

import dataclasses
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.data.chunking import Chunk, Chunker, chunk_document, collapse_whitespace, split_sentences, text_length
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
        assert 1 <= text_length(chunk.text) <= high
        assert chunk.text == collapse_whitespace(chunk.text)
        if unit == "paragraph":
            assert letters(chunk.text) in letters(paragraphs[chunk.paragraph])
        else:
            assert letters(chunk.text)[0] in letters(paragraphs[chunk.paragraph])
    assert [chunk.paragraph for chunk in everything] == sorted(chunk.paragraph for chunk in everything)
    # A minimum leaves out the short ones and changes nothing else.
    kept = chunk_document(document(*paragraphs), Chunker(unit, low, high))  # type: ignore[arg-type]
    assert kept == [chunk for chunk in everything if text_length(chunk.text) >= low]


@settings(max_examples=150, deadline=None)
@given(st.lists(words.map(lambda text: text.replace("日", "x").replace("。", ".")), max_size=5), st.integers(12, 80))
def test_packing_is_greedy_sentence_by_sentence(paragraphs: list[str], high: int) -> None:
    """The reference adds one sentence at a time, and cuts only those that are longer than a chunk."""
    expected: list[str] = []
    current = ""
    for paragraph in map(collapse_whitespace, paragraphs):
        space = " "  # between two paragraphs
        for sentence in split_sentences(paragraph):
            if len((current + space + sentence).strip()) <= high:
                current = (current + space + sentence).lstrip()
            else:
                expected.append(current)
                current = sentence.lstrip()
                while len(current.rstrip()) > high:
                    cut = max((i + 1 for i in range(1, high + 1) if current[i] == " "), default=high)
                    expected.append(current[:cut])
                    current = current[cut:]
            space = ""
    expected.append(current)
    chunks = chunk_document(document(*paragraphs), Chunker("sentences", 0, high))
    assert [chunk.text for chunk in chunks] == [text.rstrip() for text in expected if text.strip()]


# --- sentence boundaries ---


def stripped_sentences(text: str, language: str = "en") -> list[str]:
    return [sentence.strip() for sentence in split_sentences(text, language)]


def test_abbreviations_and_numbers_do_not_end_a_sentence() -> None:
    text = 'Mr. Smith arrived at 5 p.m. on Monday. "It rains," said Dr. Jones. The U.S. team (cf. Fig. 2) won 3.5 to 1.'
    assert stripped_sentences(text) == [
        "Mr. Smith arrived at 5 p.m. on Monday.",
        '"It rains," said Dr. Jones.',
        "The U.S. team (cf. Fig. 2) won 3.5 to 1.",
    ]


def test_the_language_selects_the_abbreviations() -> None:
    text = "Es gibt z.B. Möwen. Sie fliegen."
    assert stripped_sentences(text, "de") == ["Es gibt z.B. Möwen.", "Sie fliegen."]


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("zh", ["海鸥在港口上空飞翔。", "你看见了吗？", "是的！"]),
        ("zh-hant", ["海鷗在港口上空飛翔。", "你看見了嗎？"]),
        ("ja", ["これは文です。", "次の文です。"]),
        ("my", ["ဒါက ပထမ။", "ဒါက ဒုတိယ။"]),
        ("hi", ["यह एक वाक्य है।", "यह दूसरा है।"]),
        ("ar", ["هل هذا صحيح؟", "نعم."]),
        ("am", ["ይህ አንድ ነው።", "ይህ ሁለት ነው።"]),
    ],
)
def test_scripts_have_their_own_sentence_ends(language: str, sentences: list[str]) -> None:
    assert stripped_sentences("".join(sentences), language) == sentences
    # The marks are those of the script: they work under another language, too.
    assert stripped_sentences("".join(sentences)) == sentences


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_text_without_spaces_is_packed_to_whole_sentences(language: str) -> None:
    sentences = ["海" * (5 + n % 11) + "。" for n in range(400)]
    chunks = chunk_document(document("".join(sentences)), Chunker("sentences", 0, 240, language=language))
    assert "".join(chunk.text for chunk in chunks) == "".join(sentences)
    assert all(chunk.text.endswith("。") and 45 <= len(chunk.text) <= 60 for chunk in chunks[:-1])


def test_thai_is_cut_at_the_spaces_between_its_sentences() -> None:
    """Thai has no mark at the end of a sentence, only a space."""
    sentences = ["สวัสดีครับ" * (1 + n % 3) for n in range(300)]
    chunks = chunk_document(document(" ".join(sentences)), Chunker("sentences", 0, 100, language="th"))
    assert " ".join(chunk.text for chunk in chunks) == " ".join(sentences)
    assert all(piece in sentences for chunk in chunks for piece in chunk.text.split())


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.text(alphabet="aBI.!? \"'()[]12,;:-*ȸ&é日。？「」“”’«»\\\u3000\xa0\u200b", max_size=50)
        | st.sampled_from(
            ["Mr. ", "U.S. ", "p.m. ", "1) ", "a) ", "- ", "...", "a@b.c ", "[1] ", "😀", "\n\n", "word " * 500]
        ),
        max_size=40,
    ),
    st.sampled_from(["en", "de", "ru", "ja", "zh", "ar", "hy", "th", "km"]),
)
def test_sentences_joined_are_the_text(pieces: list[str], language: str) -> None:
    text = "".join(pieces)
    sentences = split_sentences(text, language)
    assert "".join(sentences) == collapse_whitespace(text)
    assert all(sentences)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300).filter(lambda text: text.isprintable()), st.integers(1, 20))
def test_any_printable_text_is_kept(text: str, times: int) -> None:
    assert "".join(split_sentences(text * times)) == collapse_whitespace(text * times)


def test_text_longer_than_a_window_is_split_like_short_text() -> None:
    sentences = [f"Sentence number {n} tells about ship {n % 7} in some detail." for n in range(400)]
    assert stripped_sentences(" ".join(sentences)) == sentences
    unbroken = "word " * 3000
    assert "".join(split_sentences(unbroken)) == unbroken.rstrip()
    assert "".join(split_sentences("x" * 10_000)) == "x" * 10_000


def test_an_open_quotation_hides_sentence_ends_only_nearby() -> None:
    sentences = [f"Sentence number {n} tells about ship {n % 7} in some detail." for n in range(400)]
    text = '"' + " ".join(sentences) + ' An inch is written 1" and closes it.'
    assert len(split_sentences(text)) > 350


@pytest.mark.parametrize(
    "unit",
    [
        "The harbour was full of ships. ",
        '"It rains." ',
        "' ",
        "1) a ",
        "x",
        "word ",
        "[484 216 622 139] ",
        "海" * 20 + "。",
        "สวัสดีครับ ",
    ],
    ids=ascii,
)
def test_a_line_of_three_megabytes_takes_seconds(unit: str) -> None:
    """30 MB take ten times as long, because windows of text are split one after another."""
    text = collapse_whitespace(unit * (3_000_000 // len(unit.encode())))
    start = time.process_time()
    chunks = chunk_document(document(text), Chunker("paragraph", 0))
    assert time.process_time() - start < 6
    assert letters("".join(chunk.text for chunk in chunks)) == letters(text)


# --- Chunker ---


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"unit": "paragraphs"}, "chunk unit 'paragraphs' is unknown. Did you mean 'paragraph'?"),
        ({"language": "English"}, "chunk language 'English' is not a known language code. Did you mean 'en'?"),
        ({"language": ""}, "chunk language '' is not a known language code."),
        ({"min_chars": 50, "max_chars": 40}, "chunk lengths 50 to 40 characters are impossible. Choose 0 <= min_chars"),
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
    chunker = Chunker("sentences", 10, 500, "lines", "de")
    values = {"unit": "sentences", "min_chars": 10, "max_chars": 500, "paragraphs": "lines", "language": "de"}
    assert chunker.to_dict() == values
    assert Chunker(**chunker.to_dict()) == chunker
    assert dataclasses.replace(chunker, min_chars=20).min_chars == 20


# --- scripts ---


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("km", ["ខ្ញុំស្រឡាញ់អ្នក។", "អ្នកសុខសប្បាយទេ៕"]),
        ("bo", ["བོད་ཡིག་ནི།", "བོད་ཀྱི་ཡི་གེ་ཡིན།"]),
        ("th", ["สวัสดีครับ", "ผมชื่อสมชาย"]),
        ("lo", ["ສະບາຍດີ", "ຂ້ອຍມັກເຂົ້າ"]),
        ("ja", ["これは文です｡", "次の文です｡"]),
        ("ur", ["یہ ایک ہے۔", "کیا؟"]),
    ],
)
def test_scripts_end_sentences_under_any_language(language: str, sentences: list[str]) -> None:
    assert stripped_sentences(" ".join(sentences), language) == sentences
    assert stripped_sentences(" ".join(sentences)) == sentences


def test_an_ideograph_counts_as_four_characters() -> None:
    assert text_length("ab c") == 4
    assert text_length("海鸥") == 8
    sentence = "海鸥在港口上空飞翔着。"  # 11 signs say as much as 40 letters
    assert [chunk.text for chunk in chunk_document(document(sentence), Chunker())] == [sentence]
    chunks = chunk_document(document("海" * 1000), Chunker("paragraph", 0, 400))
    assert [len(chunk.text) for chunk in chunks] == [100] * 10


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="海鸥，。ab. 😀\u200d\ufe0fกิ\u0301་། ", max_size=200), st.integers(1, 40))
def test_no_text_is_lost_and_no_chunk_is_too_long(text: str, high: int) -> None:
    chunks = chunk_document(document(text), Chunker("sentences", 0, high))
    assert letters("".join(chunk.text for chunk in chunks)) == letters(text)
    assert all(chunk.text and (text_length(chunk.text) <= high or len(chunk.text) == 1) for chunk in chunks)


def test_lines_are_paragraphs_on_request() -> None:
    text = document(f"{ONE}\n{TWO}\n\n", ONE)
    assert len(chunk_document(text, Chunker())) == 2
    assert chunk_document(text, Chunker(paragraphs="lines")) == [Chunk(ONE, 0), Chunk(TWO, 0), Chunk(ONE, 1)]


@pytest.mark.parametrize(
    ("code", "advice"), [("xx", ""), ("jp", "'ja'"), ("english", "'en'"), ("zh_hant", "'zh-hant'")]
)
def test_an_unknown_language_is_refused_with_a_suggestion(code: str, advice: str) -> None:
    with pytest.raises(InputError, match=f"'{code}' is not a known language code.*{advice}"):
        Chunker(language=code)


@pytest.mark.parametrize("unit", ["x", "海", "😀", " ", "«a. "], ids=ascii)
def test_monotonous_text_is_chunked_in_linear_time(unit: str) -> None:
    text = unit * (1_500_000 // len(unit.encode()))
    start = time.process_time()
    chunks = chunk_document(document(text), Chunker("sentences", 0))
    assert time.process_time() - start < 3
    assert letters("".join(chunk.text for chunk in chunks)) == letters(text)
