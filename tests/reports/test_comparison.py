"""Runs side by side: which scores share a table, statuses, and the comparison with a reference."""

import re
from dataclasses import replace

import pytest
from rich.console import Console

from nextvec.evaluation.results import Evaluation
from nextvec.reports.comparison import (
    PUBLISHED_584K,
    Comparison,
    compare_evaluated,
    comparison_markdown,
    comparison_view,
)
from nextvec.reports.run_summary import EvaluatedRun


def show(comparison: Comparison, width: int = 100) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(comparison_view(comparison))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


@pytest.fixture
def evaluated(make_evaluation):
    """One judged run; baselines of the fixture: ridge 0.579, copy-last 0.484, train-mean 0.129."""

    def make(name: str, gain: float, *, kind: str = "amn", data: str = "d1 s", **changes) -> EvaluatedRun:
        options = {name: changes.pop(name) for name in ("splits", "hits") if name in changes}
        evaluation = replace(make_evaluation(kind, gain=gain, **options), notes=())
        ridge = {split: figures.predictors["ridge"] for split, figures in evaluation.splits.items()}
        for split, figures in evaluation.splits.items():
            figures.predictors["context-mean"] = ridge[split]
        return EvaluatedRun(**{
            "run": f"runs/{name}", "name": name, "data": data, "data_label": data, "synthetic": False, "context": 5,
            "evaluation": evaluation, **changes,
        })  # fmt: skip

    return make


def rows(comparison: Comparison, split: str = "val", number: int = 0) -> list[str]:
    (scores,) = [scores for scores in comparison.sets[number].splits if scores.split == split]
    return [row.name for row in scores.rows]


def test_runs_on_the_same_windows_share_a_table_with_their_baselines(evaluated):
    comparison = compare_evaluated([evaluated("worse", -0.015), evaluated("better", 0.015)])
    assert len(comparison.sets) == 1 and comparison.notes == ()
    assert rows(comparison) == ["better", "ridge", "context-mean", "worse", "copy-last", "train-mean"]
    assert rows(comparison, "ood") == rows(comparison), "both tables have the order of val"


def test_each_model_is_marked_with_its_result_against_the_best_baseline(evaluated):
    shown = show(compare_evaluated([evaluated("worse", -0.015), evaluated("even", 0.0005), evaluated("better", 0.015)]))
    lines = {line.split()[0]: line for line in shown.partition("ood:")[0].splitlines() if line.strip()}
    assert "■ loses to it" in lines["worse"] and "-0.0150 ± 0.0015" in lines["worse"]
    assert "▲ no significant difference" in lines["even"] and "● beats it" in lines["better"]
    worse = next(row for row in compare_evaluated([evaluated("won", 0.015, hits=0.19)]).sets[0].splits[0].rows)
    assert (worse.name, worse.status, worse.outcome) == ("won", "amber", "beats it, retrieves worse")
    assert not set("■▲●") & set(lines["ridge"]) and "0.5790 ± 0.0020" in lines["ridge"]


@pytest.mark.parametrize("change", [{"data": "d2 s"}, {"context": 7}, {"splits": ("val",)}])
def test_runs_on_different_windows_get_different_tables_and_a_note(evaluated, change):
    comparison = compare_evaluated([evaluated("one", 0.01), evaluated("other", 0.02, **change)])
    assert len(comparison.sets) == 2 and "one" in rows(comparison) and "other" in rows(comparison, number=1)
    assert "Compare gains between sets, not scores" in comparison.notes[0]


def test_a_different_number_of_windows_means_different_windows(evaluated):
    fewer = evaluated("other", 0.01)
    val = replace(fewer.evaluation.splits["val"], windows=99)
    evaluation = replace(fewer.evaluation, splits={**fewer.evaluation.splits, "val": val})
    assert len(compare_evaluated([evaluated("one", 0.01), replace(fewer, evaluation=evaluation)]).sets) == 2


def test_published_results_are_compared_by_gains_over_the_context_mean(evaluated):
    comparison = compare_evaluated(
        [evaluated("mine", 0.02), evaluated("odd", 0.01, kind="mlp")], reference=PUBLISHED_584K
    )
    rows = {row.name: row for row in comparison.sets[0].reference_rows}
    assert list(rows) == [
        "GRU 584k (published)", "TRANSFORMER 584k (published)", "LSTM 584k (published)", "mine",
        "AMN 584k (published)", "odd",
    ]  # fmt: skip
    assert (rows["AMN 584k (published)"].val, rows["AMN 584k (published)"].ood) == (0.5597, 0.6375)
    assert rows["GRU 584k (published)"].gain == pytest.approx(0.592 - 0.546)
    assert rows["mine"].difference == pytest.approx(0.02 - (0.5597 - 0.546))
    assert rows["odd"].difference is None, "no model of that kind was published"
    shown = show(comparison)
    assert "published results on other data" in shown and "0.546" in shown and "+0.0063" in shown


def test_a_reference_run_is_compared_by_differences_of_gains(evaluated):
    items = [evaluated("base", 0.01), evaluated("up", 0.03), evaluated("elsewhere", -0.02, data="d2 s")]
    comparison = compare_evaluated(items, reference="runs/base")
    assert comparison.reference == "base"
    here, there = ({line.name: line.difference for line in one.reference_rows} for one in comparison.sets)
    assert here == {"up": pytest.approx(0.02), "base": None}
    assert there == {"elsewhere": pytest.approx(-0.03), "base": None}
    assert any("has no interval" in note for note in comparison.notes)


def test_each_set_uses_the_reference_of_the_same_set(evaluated):
    items = [evaluated(name, gain, data=data) for data, name, gain in
             [("a", "base", 0.01), ("a", "up", 0.02), ("b", "base", 0.05), ("b", "up", 0.02)]]  # fmt: skip
    first, second = compare_evaluated(items, reference="runs/base").sets
    assert [line.difference for line in first.reference_rows] == [pytest.approx(0.01), None]
    assert [line.difference for line in second.reference_rows] == [None, pytest.approx(-0.03)]


def test_a_reference_without_other_runs_gives_no_table(evaluated):
    assert compare_evaluated([evaluated("base", 0.01)], reference="runs/base").sets[0].reference_rows == ()


def test_remarks_and_notes_of_the_evaluations_are_shown(evaluated):
    one, other = evaluated("one", 0.01), evaluated("other", 0.01)
    noted = [replace(item, evaluation=replace(item.evaluation, notes=("val leaks",))) for item in (one, other)]
    comparison = compare_evaluated(noted, remarks={"runs/x": "stopped at epoch 3: red"})
    assert comparison.notes == ("one, other on d1: val leaks",)
    for text in (show(comparison), comparison_markdown(comparison)):
        assert "runs/x: stopped at epoch 3: red" in text and "val leaks" in text


def test_a_comparison_without_evaluated_runs_shows_the_remarks():
    comparison = compare_evaluated([], remarks={"runs/x": "not evaluated"})
    assert comparison.sets == () and show(comparison) == "  runs/x: not evaluated"
    assert "- runs/x: not evaluated" in comparison_markdown(comparison)


def test_synthetic_sets_are_labeled(evaluated):
    comparison = compare_evaluated([evaluated("one", 0.01, synthetic=True)])
    for text in (show(comparison), comparison_markdown(comparison)):
        assert "synthetic data" in text and "The results do not transfer to real text" in text
    item = evaluated("one", 0.01, synthetic=True)
    noted = replace(item, evaluation=replace(item.evaluation, notes=("SYNTHETIC data",)))
    assert compare_evaluated([noted]).notes == ("one on d1: SYNTHETIC data",), "one note is enough"


@pytest.mark.parametrize("name", ["[bold]a-run-with-a-very-long-name-of-all-things", "[/red]", "a|b\nc <b>*x*</b>"])
@pytest.mark.parametrize("reference", ["", "584k", "run"])
def test_names_are_shown_as_text_and_every_line_fits(evaluated, name, reference):
    item = evaluated(name, 0.01)
    items = [item, evaluated("another", 0.02)]
    comparison = compare_evaluated(items, reference=item.run if reference == "run" else reference)
    shown = show(comparison)
    assert all(len(line) <= 100 for line in shown.splitlines()) and name[:3] in shown
    assert "0.5890 ± 0.0020" in shown and "+0.0100 ± 0.0015" in shown, "scores are not cut"
    tables = re.findall(r"(?:^\|.*\n)+", comparison_markdown(comparison), flags=re.M)
    assert len(tables) == (3 if reference else 2)
    assert all(len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1 for table in tables)


def test_a_comparison_in_markdown(evaluated):
    text = comparison_markdown(compare_evaluated([evaluated("mine", -0.015)]))
    assert text.startswith("# Comparison\n\n## d1 s · context 5\n\n**val: 14,520 windows of 489 documents")
    assert "| mine | 0.5640 ± 0.0020 | -0.0150 ± 0.0015 | ■ loses to it | -0.091 | 0.375 |" in text
    assert "| ridge | 0.5790 ± 0.0020 |  |  | -0.128 | 0.270 |" in text


def test_to_dict_contains_plain_values(evaluated):
    values = compare_evaluated([evaluated("mine", 0.015)], reference=PUBLISHED_584K).to_dict()
    first = values["sets"][0]["splits"][0]["rows"][0]
    assert first["name"] == "mine" and first["status"] == "green" and first["gain"]["value"] == pytest.approx(0.015)


def test_an_evaluation_from_json_gives_the_same_comparison(evaluated):
    item = evaluated("mine", 0.015)
    again = replace(item, evaluation=Evaluation.from_dict(item.evaluation.to_dict()))
    assert compare_evaluated([again]) == compare_evaluated([item])
