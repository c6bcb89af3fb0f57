"""Views of results: within 100 columns, numbers with intervals, and names as text."""

import re
from dataclasses import replace

import pytest
from rich.console import Console

from nextvec.evaluation.results import Retrieval
from nextvec.reports.tables import check_view, evaluation_markdown, evaluation_view, split_table, verdict_view


def show(view, width: int = 100, *, styled: bool = False) -> str:
    console = Console(width=width, color_system="standard" if styled else None, force_terminal=styled, record=True)
    with console.capture() as captured:
        console.print(view)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def test_the_scores_of_a_split(make_evaluation):
    expected = """\
val: 14,520 windows of 489 documents, 10,000 queries among 17,241 chunks
predictor   cosine (95 % CI)  model's gain (95 % CI)  margin  R@1 %  R@5 %  R@10 %    MRR
─────────────────────────────────────────────────────────────────────────────────────────
amn          0.5940 ± 0.0020                       –  -0.091   19.0   38.0    57.0  0.285
ridge        0.5790 ± 0.0020        +0.0150 ± 0.0015  -0.128   18.0   36.0    54.0  0.270
copy-last    0.4840 ± 0.0020        +0.1100 ± 0.0015  -0.516   22.0   44.0    66.0  0.330
train-mean   0.1290 ± 0.0020        +0.4650 ± 0.0015  +0.000    0.0    0.0     0.0  0.000"""
    assert show(split_table(make_evaluation(hits=0.19), "val")) == expected


def test_a_query_has_its_own_row(make_evaluation):
    evaluation = make_evaluation(hits=0.19)
    val = evaluation.splits["val"]
    query = Retrieval(0.25, 0.45, 0.7, 0.35, 4.0)
    val.predictors["amn"] = replace(val.predictors["amn"], query=query)
    lines = show(split_table(evaluation, "val"), styled=True).splitlines()
    row = next(line for line in lines if "amn, query" in line)
    assert re.sub(r"\x1b\[[\d;]*m", "", row).split() == ["amn,", "query", "25.0", "45.0", "70.0", "0.350"]
    assert row.count("\x1b[1;36m") == 4, "the best of all four columns"
    markdown = evaluation_markdown(evaluation)
    assert "| amn, query |  |  |  | **25.0** | **45.0** | **70.0** | **0.350** |" in markdown


def test_an_evaluation_shows_every_split_the_notes_and_the_verdict(make_evaluation):
    shown = show(evaluation_view(make_evaluation(hits=0.19)), 300)
    assert shown.index("val: 14,520") < shown.index("ood: 14,520") < shown.index("Note: train: not judged")
    assert "▲ amn beats the best baseline in cosine on val (+0.0150 ± 0.0015, 95 % CI, over ridge) and on ood" in shown
    assert "but retrieves worse than copy-last on val (MRR 0.285 against 0.330) and than copy-last on ood" in shown
    assert "  val: MRR of the prediction 0.285, copy-last 0.330 (difference -0.0450 ± 0.0100, 95 % CI)" in shown


@pytest.mark.parametrize(
    ("gain", "hits", "status"), [(0.015, 0.25, "●"), (0.015, 0.19, "▲"), (0.0, 0.25, "▲"), (-0.015, 0.25, "■")]
)
def test_the_verdict_starts_with_the_symbol_of_its_status(make_evaluation, gain, hits, status):
    assert show(verdict_view(make_evaluation(gain=gain, hits=hits).verdict)).startswith(status)


def test_the_best_of_a_column_is_bold_and_the_model_is_colored(make_evaluation):
    lines = show(split_table(make_evaluation(hits=0.19), "val"), styled=True).splitlines()
    ridge, copy = (next(line for line in lines if name in line) for name in ("ridge", "copy-last"))
    model = next(line for line in lines if "amn" in line)
    assert re.search(r"\x1b\[1;36m *0\.5940", model) and "\x1b[36mamn" in model
    assert re.search(r"\x1b\[1m *22\.0", copy) and "\x1b[1m" not in ridge


@pytest.mark.parametrize("name", ["[bold]a-model-with-a-very-long-name-indeed", "[/red]", "`x` | <img src=x> **y**"])
def test_names_are_shown_as_text_and_every_line_fits(make_evaluation, report, name):
    evaluation = make_evaluation(name)
    shown = show(evaluation_view(evaluation))
    assert name[:12] in shown and all(len(line) <= 100 for line in shown.splitlines())
    assert "0.5940 ± 0.0020" in shown and "+0.0150 ± 0.0015" in shown, "scores are not cut"
    assert len(show(split_table(evaluation, "val")).splitlines()) == 3 + 4, "one line for each predictor"
    assert all(len(line) <= 100 for line in show(check_view(report)).splitlines())


def test_without_a_model_there_is_no_gain_column(make_evaluation):
    evaluation = make_evaluation(None)
    shown = show(evaluation_view(evaluation))
    assert "gain" not in shown and "●" not in shown and shown.index("ridge") < shown.index("copy-last")
    assert "gain" not in evaluation_markdown(evaluation)


def test_a_data_check_in_a_terminal(report):
    expected = """\
check            finding
────────────────────────────────────────────────────────────────────────────────────────────
● finite values  All vectors are finite.
▲ ood windows    ood has 7 documents.
■ val in train   Rows of val that are also in train: 12 of 90, for example [red]row 3[/red].

splits
split  documents  too short    rows  windows  cos +1  cos +2  cos +4  cos +8
────────────────────────────────────────────────────────────────────────────
train        350         18  11,533    9,797   0.500   0.500   0.500       –
val          350         18   1,223    9,797   0.500   0.500   0.500       –"""
    assert show(check_view(report)) == expected


def test_an_evaluation_in_markdown(make_evaluation):
    text = evaluation_markdown(make_evaluation(hits=0.19))
    assert text.startswith(
        "▲ **amber**: amn beats the best baseline in cosine on val (+0.0150 ± 0.0015, 95 % CI, over ridge)"
    )
    assert "| amn | **0.5940 ± 0.0020** | – | -0.091 | 19.0 | 38.0 | 57.0 | 0.285 |" in text
    assert "| copy-last | 0.4840 ± 0.0020 | +0.1100 ± 0.0015 | -0.516 | **22.0** |" in text
    assert "- ood: MRR of the prediction 0.285, copy-last 0.330" in text and text.endswith("Note: train: not judged\n")


def test_a_name_cannot_break_a_markdown_table(make_evaluation):
    text = evaluation_markdown(make_evaluation("`x` | <img src=x>\n **y**"))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 * (2 + 4)
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert "\\<img src=x\\> \\*\\*y\\*\\*" in text and "<img" not in text.replace("\\<img", "")
