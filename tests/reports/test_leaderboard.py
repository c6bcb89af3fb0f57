"""The leaderboard: the runbook's row form, a baseline per data set, the order, and the user's own text around it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from nextvec.errors import InputError
from nextvec.evaluation.results import METRICS_VERSION, Estimate
from nextvec.reports.leaderboard import (
    BEGIN,
    END,
    BestBaseline,
    Entry,
    Leaderboard,
    data_label,
    insert_table,
    leaderboard_table,
    loss_label,
    read_leaderboard,
    sorted_rows,
    write_leaderboard,
)

AMN = Entry(
    run="a",
    name="AMN_790k",
    data="first",
    data_label="790k",
    val=0.5601,
    ood=0.6409,
    latency=0.5512,
    latency_p95=0.9,
    device="mps",
    parameters=1_510_912,
    loss="MSE+InfoNCE",
    date="2025-10-30",
    status="green",
    gains={"val": Estimate(0.009, 0.007, 0.011), "ood": Estimate(0.001, -0.001, 0.003)},
    baseline=BestBaseline("ridge", 0.5511, 0.6399),
    seen="clean",
    metrics_version=METRICS_VERSION,
)
GRU = replace(
    AMN,
    run="g",
    name="GRU_790k",
    val=0.5502,
    ood=0.6501,
    latency=2.08,
    parameters=7_095_552,
    date="2025-10-31",
    status="red",
    gains={"val": Estimate(-0.001, -0.002, -0.0005)},
)
LSTM = replace(
    AMN,
    run="l",
    name="LSTM_22k-synthetic",
    data="second",
    data_label="22k-synthetic",
    val=0.71,
    ood=None,
    latency=0.4,
    parameters=822_400,
    date="2025-10-29",
    gains={"val": Estimate(0.05, 0.04, 0.06)},
    baseline=BestBaseline("decayed-mean", 0.66, None),
    device="cpu",
)


def show(board: Leaderboard, width: int = 100) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(board)
    return [line.rstrip() for line in captured.get().splitlines()]


def markdown_rows(*entries: Entry) -> list[str]:
    return leaderboard_table(Leaderboard("t.md", entries)).markdown().splitlines()


def names(board: Leaderboard) -> list[str]:
    return [row.name for row in sorted_rows(board)]


def test_markdown_rows_have_the_form_of_the_runbook():
    assert markdown_rows(GRU, AMN) == [
        "| model | val cosine | ood cosine | latency | parameters | loss | date |",
        "| --- | ---: | ---: | ---: | ---: | --- | --- |",
        "| AMN_790k | 0.560 | 0.641 | 0.55ms | 1.5M | MSE+InfoNCE | 2025-10-30 |",
        "| ridge_790k (baseline) | 0.551 | 0.640 | – | – | closed form | 2025-10-31 |",
        "| GRU_790k | 0.550 | 0.650 | 2.08ms | 7.1M | MSE+InfoNCE | 2025-10-31 |",
    ]


def test_a_row_shows_how_much_of_its_score_the_model_has_seen():
    seen, unknown = replace(AMN, seen="35 % seen", status="red"), replace(GRU, seen="unknown", status="amber")
    rows = markdown_rows(seen, unknown)
    assert rows[2].startswith("| AMN_790k (35 % seen) | 0.560 |")
    assert rows[4].startswith("| GRU_790k (unknown history) |")
    lines = show(Leaderboard("t.md", (seen, unknown, LSTM)))
    for name, text in (("AMN_790k", "35 % seen"), ("GRU_790k", "unknown"), ("LSTM_22k", "clean")):
        assert any(name in line and text in line for line in lines), (name, lines)
    assert "Seen: share of the evaluated rows" in " ".join(lines)


def test_rows_of_another_version_of_the_metrics_are_marked_and_share_no_baseline():
    older = replace(GRU, metrics_version=1)
    rows = markdown_rows(AMN, older)
    assert sum("metrics version 1" in row for row in rows) == 2, "the run and the baseline of its windows"
    assert rows[2].startswith("| AMN_790k |") and sum("(baseline" in row for row in rows) == 2
    text = " ".join(show(Leaderboard("t.md", (AMN, older))))
    assert "Rows of metrics version 1 cannot be compared with the others" in text


def test_runs_on_the_same_data_share_the_row_of_the_best_baseline():
    better = replace(GRU, baseline=BestBaseline("decayed-mean", 0.5611, 0.6))
    rows = [row for row in markdown_rows(AMN, better, LSTM) if "(baseline)" in row]
    assert rows == [
        "| decayed-mean_22k-synthetic (baseline) | 0.660 | – | – | – | closed form | 2025-10-29 |",
        "| decayed-mean_790k (baseline) | 0.561 | 0.600 | – | – | closed form | 2025-10-31 |",
    ]


def test_adding_a_run_again_replaces_its_row():
    board = Leaderboard("t.md", (AMN, GRU)).with_entry(replace(AMN, name="AMN-again", val=0.5))
    assert names(board) == ["ridge_790k", "GRU_790k", "AMN-again"]
    assert len(board.with_entry(replace(AMN, run="b")).entries) == 3, "another run of the same name is another row"


def test_an_entry_survives_json():
    for entry in (AMN, LSTM):
        assert Entry.from_dict(json.loads(json.dumps(entry.to_dict()))) == entry
    with pytest.raises(KeyError):
        Entry.from_dict({"name": "x"})


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("val", "LSTM decayed-mean AMN ridge GRU"),
        ("ood", "GRU AMN ridge LSTM decayed-mean"),
        ("latency", "LSTM AMN GRU ridge decayed-mean"),
        ("parameters", "LSTM AMN GRU ridge decayed-mean"),
        ("gain", "LSTM AMN ridge decayed-mean GRU"),
        ("date", "GRU AMN ridge LSTM decayed-mean"),
        ("name", "AMN decayed-mean GRU LSTM ridge"),
    ],
)
def test_rows_are_sorted_by_the_chosen_column(sort, order):
    board = Leaderboard("t.md", (AMN, GRU, LSTM), sort=sort)
    assert [name.split("_")[0] for name in names(board)] == order.split()


@pytest.mark.parametrize(
    "name",
    ["a|b", "a\nb", "| x |\n| y |", "a\\|b\\", "<b>*x*</b> `y` [z](w) &amp;", "_a_", "[/red]", f"{END}", f"x {BEGIN}"],
)
def test_a_name_cannot_break_the_table_or_the_markers(tmp_path, name):
    write_leaderboard(Leaderboard(str(tmp_path / "t.md"), (replace(AMN, name=name),)))
    text = (tmp_path / "t.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4 and all(len(re.findall(r"(?<!\\)\|", row.replace("\\\\", ""))) == 8 for row in rows)
    board = read_leaderboard(tmp_path / "t.md")
    write_leaderboard(board)
    assert (tmp_path / "t.md").read_text() == text
    assert " ".join(name.split())[:10] in "\n".join(show(board))


def test_text_outside_of_the_markers_survives(tmp_path):
    path = tmp_path / "t.md"
    write_leaderboard(Leaderboard(str(path), (AMN,)))
    own_row = "| paper | 0.9 | 0.8 | 1 ms | 2M | ? | 2024-01-01 |"
    path.write_text(f"Our table\n\n{path.read_text()}\n{own_row}\n\nOur notes, without a last newline.")
    write_leaderboard(read_leaderboard(path).with_entry(GRU))
    text = path.read_text()
    assert text.startswith("Our table\n\n# Leaderboard\n")
    assert text.endswith(f"{END}\n\n{own_row}\n\nOur notes, without a last newline.")
    rows = text[text.index(BEGIN) : text.index(END)]
    assert rows.count("AMN_790k") == rows.count("GRU_790k") == 1 and "paper" not in rows


def test_a_file_without_markers_gets_the_table_at_its_end(tmp_path):
    path = tmp_path / "t.md"
    path.write_text("# Mine\n\n| x |\n| --- |\n| 1 |\n")
    write_leaderboard(Leaderboard(str(path), (AMN,)))
    table = leaderboard_table(Leaderboard("", (AMN,))).markdown()
    assert path.read_text() == f"# Mine\n\n| x |\n| --- |\n| 1 |\n\n{BEGIN}\n{table}\n{END}\n"


@pytest.mark.parametrize("text", [BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN}\n{END}", f"{BEGIN}{END}{END}"])
def test_damaged_markers_are_an_error_before_anything_is_written(tmp_path, text):
    path = tmp_path / "t.md"
    path.write_text(text)
    with pytest.raises(InputError, match=r"t\.md: damaged markers"):
        write_leaderboard(Leaderboard(str(path), (AMN,)))
    with pytest.raises(InputError, match=r"t\.md: damaged markers"):
        read_leaderboard(path)
    assert path.read_text() == text and not path.with_suffix(".json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 1, "runs": []}', "format 1, but this version of nextvec reads format 4"),
        ('{"format": 3, "runs": [{}]}', "damaged"),
        ("{", "damaged"),
        ('{"runs": []}', "damaged"),
    ],
)
def test_a_damaged_or_older_json_file_is_an_error(tmp_path, content, message):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_leaderboard(tmp_path / "t.md")
    assert "t.json" in str(caught.value) and "\n" not in str(caught.value)


def test_the_json_file_is_the_source_of_truth(tmp_path):
    path = tmp_path / "t.md"
    write_leaderboard(Leaderboard(str(path), (AMN,)))
    path.write_text(path.read_text().replace("0.560", "0.990"))
    board = read_leaderboard(path)
    assert board.entries == (replace(AMN, status=board.entries[0].status),)
    path.unlink()
    write_leaderboard(board)
    assert "| AMN_790k | 0.560 |" in path.read_text()


def test_inserting_a_table_twice_changes_nothing():
    once = insert_table(None, "| a |", Path("t.md"))
    assert insert_table(once, "| a |", Path("t.md")) == once and f"{BEGIN}\n| a |\n{END}\n" in once


def test_the_terminal_shows_the_status_and_the_gain_with_its_interval():
    lines = show(Leaderboard("t.md", (AMN, GRU)))
    rows = {line.split()[0]: line for line in lines if line}
    assert "0.560 0.641  0.55ms 1.5M MSE+InfoNCE 2025-10-30 ● +0.0090 ± 0.0020" in rows["AMN_790k"]
    assert rows["ridge_790k"].endswith("2025-10-30 baseline")
    assert "■ -0.0010 ± 0.0008" in rows["GRU_790k"]
    assert "median of one window on mps" in " ".join(lines) and "synthetic" not in " ".join(lines)
    assert "do not transfer to real text" in " ".join(show(Leaderboard("t.md", (LSTM,))))


@pytest.mark.parametrize("name", ["a-model-with-a-name-that-is-much-too-long-for-any-table-of-this-width", "長" * 60])
def test_a_long_name_does_not_widen_the_table(name):
    lines = show(Leaderboard("t.md", (replace(AMN, name=name), GRU)))
    assert all(len(line) <= 100 for line in lines)
    assert any("● +0.0090 ± 0.0020" in line for line in lines), "numbers are not cut"


@pytest.mark.parametrize(
    ("vectors", "synthetic", "label"),
    [(790_123, False, "790k"), (999, False, "999"), (22_000, True, "22k-synthetic")],
)
def test_the_data_label_counts_thousands_of_vectors(vectors, synthetic, label):
    assert data_label(vectors, synthetic=synthetic) == label


@pytest.mark.parametrize(
    ("weights", "label"),
    [
        ((0.5, 0.5, 0.001, 0.001), "MSE+InfoNCE"),
        ((1.0, 0.0, 0.0, 0.0), "MSE"),
        ((0.9, 0.0, 0.05, 0.05), "MSE+Moment+Variance"),
        ((0.952, 0.048, 0.0, 0.0), "MSE"),
        ((0.0, 1.0, 0.0, 0.0), "InfoNCE"),
        ((10.0, 0.5, 0.0, 0.0), "MSE"),
    ],
)
def test_the_loss_label_names_the_terms_with_at_least_5_percent(weights, label):
    objective = dict(zip(("mse", "info_nce", "moment", "variance"), weights, strict=True))
    assert loss_label(objective | {"tau": 0.07}) == label


def test_json_lists_the_runs_in_the_order_shown():
    board = Leaderboard("t.md", (AMN, LSTM, GRU), sort="latency")
    assert [run["name"] for run in board.to_dict()["runs"]] == ["LSTM_22k-synthetic", "AMN_790k", "GRU_790k"]
