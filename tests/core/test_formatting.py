"""Statuses, numbers and Markdown as text."""

import math

import pytest

from nextvec.core.formatting import (
    STATUSES,
    SYMBOLS,
    cut_text,
    escape_markdown,
    format_count,
    format_interval,
    format_number,
    format_percent,
    worst,
)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("a short\ntext", "a short text"),
        ("exactly twelve"[:12], "exactly twel"),
        ("two words, and more", "two words…"),
        ("abcdefghijklmnop", "abcdefghijk…"),
        ("a bcdefghijklmnop", "a bcdefghij…"),
        ("", ""),
    ],
)
def test_a_long_text_is_cut_after_a_word(text, cut):
    assert cut_text(text, 12) == cut and len(cut) <= 12


def test_worst_returns_the_worst_status():
    assert worst([]) == "green"
    assert worst(["green", "amber", "green"]) == "amber"
    assert worst(["red", "green", "amber"]) == "red"


def test_every_status_has_its_own_symbol():
    assert set(SYMBOLS) == set(STATUSES) and len(set(SYMBOLS.values())) == len(STATUSES)


def test_numbers_as_text():
    assert [format_number(value) for value in (0.5, None, math.nan, math.inf)] == ["0.5000", "–", "nan", "inf"]
    assert format_number(0.012, "+.2f") == "+0.01"
    assert format_percent(0.25) == "25.0 %" and format_percent(0.25, 0) == "25 %" and format_percent(None) == "–"
    assert format_interval(0.582, 0.575, 0.589) == "0.5820 ± 0.0070"
    assert format_interval(0.02, 0.01, 0.03, "+") == "+0.0200 ± 0.0100"
    counts = (1_510_912, 5_120_768, 17_867_520, 822_400, 999_999, 12)
    assert [format_count(count) for count in counts] == ["1.5M", "5.1M", "17.9M", "822K", "999K", "12"]


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("AMN_790k", "AMN_790k"),
        ("_a_ b_", "\\_a\\_ b\\_"),
        ("a|b\nc", "a\\|b c"),
        ("<b>*x*</b> `y` [z](w) &amp;", "\\<b\\>\\*x\\*\\</b\\> \\`y\\` \\[z\\](w) \\&amp;"),
        ("a\\", "a\\\\"),
    ],
)
def test_markdown_shows_escaped_text_as_it_is(text, escaped):
    assert escape_markdown(text) == escaped
