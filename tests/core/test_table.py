"""One table in every form: terminal, Markdown, HTML and pandas show the same texts, statuses and emphasis."""

import re
import sys

import pytest
from rich.console import Console

from nextvec.core.display import Displayable
from nextvec.core.formatting import Status
from nextvec.core.table import Cell, Column, Line, Row, Table, View, columns_of, text_row
from nextvec.errors import MissingExtraError

EVIL = "[red]a|b\n<img src=x>[/red] *c*"

TABLE = Table(
    "val: 90 windows",
    (*columns_of("predictor", "cosine"), Column("outcome", "left")),
    (
        Row((Cell("amn"), Cell("0.59", 0.594, is_best=True), Cell("beats it", status=Status.GREEN)), "model"),
        Row((Cell(EVIL), Cell("0.58", 0.579), Cell("")), "baseline"),
    ),
)
VIEW = View((Line("A verdict.", Status.RED), Line("a reason", style="item"), TABLE, Line("a note", style="note")))


class Result(Displayable, view=f"{__name__}:view_of_result"):
    """A result whose view is in another module."""


def view_of_result(result: Result) -> View:
    return VIEW


def show(content, *, styled: bool = False) -> str:
    console = Console(width=60, color_system="standard" if styled else None, force_terminal=styled)
    with console.capture() as captured:
        console.print(content)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def test_a_table_in_a_terminal():
    assert show(TABLE).splitlines() == [
        "val: 90 windows",
        "predictor                       cosine  outcome",
        "─" * 50,
        "amn                               0.59  ● beats it",
        "[red]a|b <img src=x>[/red] *c*    0.58",
    ]
    styled = show(TABLE, styled=True)
    assert re.search(r"\x1b\[1;36m *0\.59", styled), "the best of a column is bold, and the model's row is colored"
    assert re.search(r"\x1b\[\d*;?32m●", styled), "a status has its color"


def test_a_table_in_markdown():
    assert TABLE.markdown().splitlines() == [
        "**val: 90 windows**",
        "",
        "| predictor | cosine | outcome |",
        "| --- | ---: | --- |",
        "| amn | **0.59** | ● beats it |",
        "| \\[red\\]a\\|b \\<img src=x\\>\\[/red\\] \\*c\\* | 0.58 |  |",
    ]


def test_a_table_in_html():
    html = TABLE.html()
    assert '<tr class="model"><th scope="row" title="amn">amn</th><td class="best">0.59</td>' in html
    assert '<span class="status green" role="img" aria-label="green">●</span> beats it' in html
    assert "<img" not in html and "&lt;img src=x&gt;" in html


def test_a_table_in_pandas():
    pytest.importorskip("pandas")
    frame = TABLE.to_pandas()
    assert list(frame.columns) == ["predictor", "cosine", "outcome", "outcome status"]
    assert frame["cosine"].tolist() == [0.594, 0.579] and frame["outcome status"].tolist()[0] == "green"


def test_pandas_is_optional_and_named_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"to_pandas\(\) needs the package pandas: pip install"):
        TABLE.to_pandas()


def test_a_view_has_its_blocks_in_order_everywhere():
    for text in (show(VIEW), VIEW.markdown(), VIEW.html()):
        places = [text.index(part) for part in ("A verdict.", "a reason", "val: 90 windows", "amn", "a note")]
        assert places == sorted(places)
    assert VIEW.markdown().startswith("■ **red**: A verdict.\n\n- a reason\n\n**val: 90 windows**\n\n| predictor")
    assert show(VIEW).startswith("■ A verdict.\n  a reason\n\nval: 90 windows")


def test_a_displayable_result_shows_its_view():
    assert show(Result()) == show(VIEW)
    html = Result()._repr_html_()
    assert VIEW.html() in html and html.startswith('<div class="nextvec">')
    pytest.importorskip("pandas")
    assert list(Result().to_pandas()) == ["val: 90 windows"]


def test_a_table_is_as_wide_in_markdown_as_it_has_columns():
    table = Table("", columns_of("a", "b"), (text_row(("|", "\\|")),))
    assert {len(re.findall(r"(?<!\\)\|", line.replace("\\\\", ""))) for line in table.markdown().splitlines()} == {3}


def test_code_in_advice_is_code_in_html_and_has_no_backticks_in_a_terminal():
    line = Line("→ Set `objective.tau=0.07`. Run `nextvec data check`. `<b>`", style="item", has_code=True)
    assert show(line) == "  → Set objective.tau=0.07. Run nextvec data check. `<b>`"
    code = "<code>objective.tau=0.07</code>. Run <code>nextvec data check</code>"
    assert line.html() == f'<p class="item">→ Set {code}. `&lt;b&gt;`</p>'
    assert line.markdown() == "- → Set `objective.tau=0.07`. Run `nextvec data check`. \\`\\<b\\>\\`"


def test_backticks_in_the_name_of_a_run_are_shown():
    line = Line("`amn` beats ridge.")
    assert show(line) == "`amn` beats ridge." and "`amn`" in line.html() and "\\`amn\\`" in line.markdown()


WIDE = Table(
    "val: 90 windows",
    (*columns_of("predictor", "cosine (95 % CI)", "gain (95 % CI)"), Column("outcome", "left"), Column("MRR")),
    (
        Row((Cell("amn"), Cell("0.5940 ± 0.0020"), Cell("+0.0150 ± 0.0015"), Cell("beats it"), Cell("0.285")), "model"),
        Row((Cell("ridge"), Cell("0.5790 ± 0.0020"), Cell(""), Cell(""), Cell("0.270"))),
    ),
)


@pytest.mark.parametrize("width", [20, 30, 40])
def test_a_table_that_does_not_fit_shows_each_value_on_its_own_line(width):
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(View((WIDE,)))
    words = " ".join(captured.get().split())
    for text in ("amn cosine (95 % CI): 0.5940 ± 0.0020", "gain (95 % CI): +0.0150 ± 0.0015", "MRR: 0.270", "ridge"):
        assert text in words, "no value is cut"
    assert "…" not in words and words.count("outcome:") == 1, "empty cells are left out"
    assert all(len(line.rstrip()) <= width for line in captured.get().splitlines())
    assert "─" in show(TABLE), "a table that fits has columns"
