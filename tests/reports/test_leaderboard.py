"""The leaderboard: the operator's row form, the baselines beside, what somebody added by hand, and the order."""

from dataclasses import replace

import pytest
from rich.console import Console

from nextvec.evaluation.results import Estimate
from nextvec.reports.leaderboard import (
    BestBaseline,
    Entry,
    Leaderboard,
    data_label,
    escaped,
    leaderboard_markdown,
    leaderboard_view,
    loss_label,
    read_board,
    rows_of,
    short_count,
    split_row,
    unescaped,
    with_entry,
)

AMN = Entry(
    run="a", name="AMN_790k", data="first", data_label="790k", val=0.5601, ood=0.6409, latency=0.5512, latency_p95=0.9,
    device="mps", parameters=1_510_912, loss="MSE+InfoNCE", date="2025-10-30", status="green",
    gains={"val": Estimate(0.009, 0.007, 0.011), "ood": Estimate(0.001, -0.001, 0.003)},
    baseline=BestBaseline("ridge", 0.5511, 0.6399),
)  # fmt: skip
GRU = replace(
    AMN, run="g", name="GRU_790k", val=0.5502, ood=0.6501, latency=2.08, parameters=7_095_552, date="2025-10-31",
    status="red", gains={"val": Estimate(-0.001, -0.002, -0.0005)},
)  # fmt: skip
OTHER = replace(
    AMN, run="o", name="LSTM_22k-synthetic", data="second", data_label="22k-synthetic", val=0.71, ood=None,
    latency=0.4, parameters=822_400, date="2025-10-29", gains={"val": Estimate(0.05, 0.04, 0.06)},
    baseline=BestBaseline("decayed-mean", 0.66, None), device="cpu",
)  # fmt: skip


def show(board: Leaderboard, width: int = 100) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(leaderboard_view(board))
    return [line.rstrip() for line in captured.get().splitlines()]


def table_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def names(board: Leaderboard) -> list[str]:
    return [row.cells[0] for row in rows_of(board)]


def test_rows_have_exactly_the_operators_form():
    assert table_of(leaderboard_markdown(Leaderboard("t.md", (GRU, AMN)))) == [
        "| model | val cosine | ood cosine | latency | parameters | loss | date |",
        "| --- | ---: | ---: | ---: | ---: | --- | --- |",
        "| AMN_790k | 0.560 | 0.641 | 0.55ms | 1.5M | MSE+InfoNCE | 2025-10-30 |",
        "| ridge_790k (baseline) | 0.551 | 0.640 | – | – | closed form | 2025-10-31 |",
        "| GRU_790k | 0.550 | 0.650 | 2.08ms | 7.1M | MSE+InfoNCE | 2025-10-31 |",
    ]


def test_each_data_has_one_baseline_row_and_the_best_one():
    better = replace(GRU, baseline=BestBaseline("decayed-mean", 0.5611, 0.6))
    rows = table_of(leaderboard_markdown(Leaderboard("t.md", (AMN, better, OTHER))))
    assert [row.split("|")[1].strip() for row in rows if "(baseline)" in row] == [
        "decayed-mean_22k-synthetic (baseline)", "decayed-mean_790k (baseline)",
    ]  # fmt: skip
    assert "| decayed-mean_22k-synthetic (baseline) | 0.660 | – | – | – | closed form | 2025-10-29 |" in rows


def test_the_same_run_again_replaces_its_row():
    board = with_entry(Leaderboard("t.md", (AMN, GRU)), replace(AMN, name="AMN-again", val=0.5))
    assert names(board) == ["ridge_790k (baseline)", "GRU_790k", "AMN-again"]
    assert len(with_entry(board, replace(AMN, run="b")).entries) == 3, "another run of the same name is another row"


def test_entries_survive_json():
    assert Entry.from_dict(AMN.to_dict()) == AMN and Entry.from_dict(OTHER.to_dict()) == OTHER
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
def test_the_order(sort, order):
    board = Leaderboard("t.md", (GRU, OTHER, AMN), sort=sort)
    board = replace(board, entries=(replace(AMN, date="2025-10-30"), GRU, OTHER))
    assert [name.split("_")[0] for name in names(board)] == order.split()


@pytest.mark.parametrize(
    "name", ["a|b", "a\nb", "| x |\n| y |", "a\\|b\\", "<b>*x*</b> `y` [z](w) &amp;", "_a_", "[/red]"]
)
def test_no_name_breaks_the_table(name):
    board = Leaderboard("t.md", (replace(AMN, name=name),))
    rows = table_of(leaderboard_markdown(board))
    assert len(rows) == 4 and all(len(split_row(row)) == 7 for row in rows)
    assert unescaped(split_row(rows[2])[0]) == " ".join(name.split())
    again = read_board("t.md", board.entries, leaderboard_markdown(board))
    assert again.own_rows == () and " ".join(name.split())[:10] in "\n".join(show(again))


def test_what_somebody_wrote_by_hand_is_kept_in_place():
    text = leaderboard_markdown(Leaderboard("t.md", (AMN,)))
    head, row, rest = text.partition("| AMN_790k")
    edited = "Our table\n\n" + head + "| paper | 0.9 | 0.8 | 1 ms | 2M | ? | 2024-01-01 |\n" + row + rest
    edited += "| a | note |\n\nWritten below.\n"
    board = with_entry(read_board("t.md", (AMN,), edited), GRU)
    lines = leaderboard_markdown(board).splitlines()
    assert lines[0] == "Our table" and lines[-1] == "Written below."
    table = table_of("\n".join(lines))
    assert table[-2:] == ["| paper | 0.9 | 0.8 | 1 ms | 2M | ? | 2024-01-01 |", "| a | note |"]
    assert [split_row(line)[0] for line in table[2:-2]] == ["AMN_790k", "ridge_790k (baseline)", "GRU_790k"]
    again = leaderboard_markdown(read_board("t.md", board.entries, "\n".join(lines) + "\n"))
    assert again.splitlines() == lines, "rendering what was read changes nothing"


def test_rows_that_a_formatter_padded_are_still_ours():
    text = leaderboard_markdown(Leaderboard("t.md", (AMN, GRU))).replace(" | ", "   |  ")
    assert read_board("t.md", (AMN, GRU), text).own_rows == ()


def test_a_row_of_dashes_is_a_row_and_a_file_of_something_else_stays():
    text = leaderboard_markdown(Leaderboard("t.md")) + "| - | - | - | - | - | - | - |\n"
    assert len(read_board("t.md", (), text).own_rows) == 1
    written = leaderboard_markdown(with_entry(read_board("t.md", (), "# Mine\n\n| x |\n| --- |\n| 1 |\n"), AMN))
    assert written.startswith("# Mine\n\n| x |\n| --- |\n| 1 |\n\n| model |") and "AMN_790k" in written


def test_rows_by_hand_are_shown_and_sorted_by_what_they_say():
    by_hand = ("| paper | 0.553 | 0.7 | 1.0ms | 2.5M | ? | 2024-01-01 |", "| torn |")
    board = Leaderboard("t.md", (AMN, GRU), own_rows=by_hand)
    assert names(board) == ["AMN_790k", "paper", "ridge_790k (baseline)", "GRU_790k"]
    assert names(replace(board, sort="parameters"))[:3] == ["AMN_790k", "paper", "GRU_790k"]
    assert names(replace(board, sort="gain"))[-1] == "paper"
    assert any(line.startswith("paper") and line.endswith("by hand") for line in show(board))


def test_the_terminal_shows_gain_interval_and_light_beside():
    lines = show(Leaderboard("t.md", (AMN, GRU)))
    assert lines[:5] == [
        "model        val   ood latency size loss        date       gain on val [95 %]",
        "─" * 87,
        "AMN_790k   0.560 0.641  0.55ms 1.5M MSE+InfoNCE 2025-10-30 ● +0.0090 [+0.0070, +0.0110]",
        "ridge_790k 0.551 0.640       –    – closed form 2025-10-30 baseline",
        "GRU_790k   0.550 0.650  2.08ms 7.1M MSE+InfoNCE 2025-10-31 ■ -0.0010 [-0.0020, -0.0005]",
    ]
    assert "on mps" in "\n".join(lines) and "synthetic" not in "\n".join(lines)


def test_synthetic_runs_are_named_so_and_every_line_fits():
    long = replace(OTHER, name="TRANSFORMER_790k-synthetic-with-a-long-name", loss="MSE+InfoNCE+Moment+Variance")
    lines = show(Leaderboard("t.md", (long, AMN)))
    assert all(len(line) <= 100 for line in lines) and any("prove nothing about real text" in line for line in lines)
    assert any(line.endswith("● +0.0500 [+0.0400, +0.0600]") for line in lines), "figures are never cut"


def test_to_dict_has_the_runs_in_the_order_shown():
    board = Leaderboard("t.md", (AMN, OTHER, GRU), sort="latency")
    assert [run["name"] for run in board.to_dict()["runs"]] == ["LSTM_22k-synthetic", "AMN_790k", "GRU_790k"]


@pytest.mark.parametrize(
    ("weights", "label"),
    [
        ((0.5, 0.5, 0.001, 0.001), "MSE+InfoNCE"), ((1.0, 0.0, 0.0, 0.0), "MSE"),
        ((0.9, 0.0, 0.05, 0.05), "MSE+Moment+Variance"),
        ((0.952, 0.048, 0.0, 0.0), "MSE"), ((0.0, 1.0, 0.0, 0.0), "InfoNCE"), ((10.0, 0.5, 0.0, 0.0), "MSE"),
    ],
)  # fmt: skip
def test_the_loss_in_a_word(weights, label):
    assert (
        loss_label(dict(zip(("mse", "info_nce", "moment", "variance"), weights, strict=True)) | {"tau": 0.07}) == label
    )


def test_counts_in_a_word():
    assert data_label(790_391, synthetic=False) == "790k" and data_label(412, synthetic=True) == "412-synthetic"
    counts = (1_510_912, 5_120_768, 17_867_520, 822_400, 999_999, 12)
    assert [short_count(count) for count in counts] == ["1.5M", "5.1M", "17.9M", "822K", "999K", "12"]
    assert escaped("AMN_790k") == "AMN_790k"
