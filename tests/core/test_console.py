"""Control characters in texts of others never reach a terminal; rich's own colors do."""

import io

import pytest

from nextvec.core import console
from nextvec.core.table import Cell, Line, Row, Table, View, columns_of
from nextvec.errors import InputError, escape_controls, one_line

HOSTILE = "a\x1b[2J\x1b]0;title\x07b\x9b31mc\u202ed"


def terminal() -> console.Console:
    return console.Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=200, highlight=False)


@pytest.mark.parametrize(
    "content",
    [
        HOSTILE,
        Line(HOSTILE),
        Line(HOSTILE, style="path"),
        View((Table(HOSTILE, columns_of(HOSTILE, "x"), (Row((Cell(HOSTILE), Cell(HOSTILE))),)),)),
    ],
)
def test_a_console_shows_control_characters_as_escapes(content):
    shown = terminal()
    shown.print(content)
    text = shown.file.getvalue()
    for sequence in ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\u202e"):
        assert sequence not in text
    assert "\\x1b[2J" in text and "\\x9b31mc" in text, "the reader sees what was there"


def test_colors_and_line_breaks_stay():
    shown = terminal()
    shown.print("[bold]bold[/bold]\nnext")
    assert shown.file.getvalue() == "\x1b[1mbold\x1b[0m\nnext\n"


def test_logs_and_errors_contain_no_control_characters(capsys):
    console.show([HOSTILE])
    assert "\x1b" not in capsys.readouterr().err
    assert "\x1b" not in str(InputError(HOSTILE)) + one_line(ValueError(HOSTILE))
    assert escape_controls("a\nb\tc", keep="\n") == "a\nb\\tc" and escape_controls("é 日本 ●") == "é 日本 ●"
