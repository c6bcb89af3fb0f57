"""Charts contain the run's metrics, the baselines, and labels that do not overlap."""

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextvec.reports.html.charts import space_labels, thinned
from nextvec.reports.html.panels import (
    CurveSource,
    cosine_chart,
    evaluated_panels,
    loss_charts,
    overlay_panels,
    run_panels,
)

LEVELS = {"ridge": 0.579, "copy-last": 0.484, "context-mean": 0.573, "decayed-mean": 0.574}


def test_curves_contain_the_history(history):
    chart = cosine_chart(history, "val", LEVELS, with_train=True)
    lines = {trace["name"]: (trace["x"], trace["y"]) for trace in chart["data"]}
    assert lines["val"] == ([1, 2, 3], [record["val_cosine"] for record in history])
    assert lines["train"] == ([1, 2, 3], [record["train_cosine"] for record in history])
    assert lines["best"] == ([2], [history[1]["val_cosine"]]), "the last epoch that was the best so far"
    assert "train" not in {trace["name"] for trace in cosine_chart(history, "ood", LEVELS, with_train=False)["data"]}


def test_baselines_are_lines_with_labels(history):
    layout = cosine_chart(history, "val", LEVELS, with_train=True)["layout"]
    drawn = {shape["y0"]: shape["line"]["color"] for shape in layout["shapes"]}
    assert drawn == {0.579: "$best", 0.573: "$baseline", 0.574: "$baseline"}, "copy-last is far below the curves"
    low, high = layout["yaxis"]["range"]
    assert low < 0.568 and high > 0.6 and low > 0.484
    assert {label["text"] for label in layout["annotations"]} >= {"ridge", "context-mean", "decayed-mean", "val"}


def test_the_axis_always_includes_the_best_baseline(history):
    layout = cosine_chart(history, "val", {"ridge": 0.9}, with_train=False)["layout"]
    assert layout["yaxis"]["range"][1] > 0.9 and layout["shapes"][0]["y0"] == 0.9
    low = cosine_chart(history, "val", {"ridge": 0.1}, with_train=False)["layout"]
    assert low["yaxis"]["range"][0] < 0.1


def test_names_are_escaped_in_labels(history):
    layout = cosine_chart(history, "val", {"<b>ridge</b>": 0.579}, with_train=True)["layout"]
    assert "&lt;b&gt;ridge&lt;/b&gt;" in {label["text"] for label in layout["annotations"]}


def test_each_loss_term_has_a_chart(history):
    charts = loss_charts(history)
    assert list(charts) == ["mse", "info"]
    lines = {trace["name"]: trace["y"] for trace in charts["info"]["data"]}
    assert lines["val"] == [2.6, None, 2.6 / 3], "a non-finite value is a gap"
    assert lines["train"] == [2.5, 1.25, 2.5 / 3]
    assert list(loss_charts([{"epoch": 1, "loss_mse": 1.0, "val_loss": 2.0, "lossy": 3.0}])) == ["mse", "total"]


@pytest.mark.parametrize("value", [0.0, 0.5, math.nan])
def test_one_epoch_or_a_constant_line_gives_a_range(value):
    history = [{"epoch": 1, "val_cosine": value, "train_loss_mse": value}]
    chart = cosine_chart(history, "val", {}, with_train=True)
    charts = [figure for figure in (chart, *loss_charts(history).values()) if figure]
    assert len(charts) == (0 if math.isnan(value) else 2)
    for figure in charts:
        low, high = figure["layout"]["yaxis"]["range"]
        assert low < high
        json.dumps(figure, allow_nan=False)


@given(st.lists(st.floats(-1, 1), max_size=12), st.floats(0.001, 0.2))
def test_labels_do_not_overlap_and_keep_their_order(places, gap):
    moved = space_labels(places, gap)
    ordered = [place for _, place in sorted(zip(places, moved, strict=True))]
    assert all(later - earlier >= gap - 1e-9 for earlier, later in pairwise(ordered))
    assert sum(moved) == pytest.approx(sum(places), abs=1e-9), "a block stays centered on its positions"


@given(st.lists(st.integers(-50, 50), unique=True, max_size=8))
def test_labels_with_enough_space_do_not_move(places):
    assert space_labels([float(place) for place in places], 0.9) == [float(place) for place in places]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_labels_stay_within_the_chart_if_they_fit(places):
    moved = space_labels(places, 0.05, 0.0, 1.0)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in moved)
    assert all(later - earlier >= 0.05 - 1e-9 for earlier, later in pairwise(sorted(moved)))


def test_a_thinned_line_keeps_its_ends_and_extremes():
    values = [0.5 + 0.0001 * (number % 7) for number in range(10_000)]
    values[1234], values[7777], values[4000] = 9.0, -9.0, None
    x, y = thinned(range(10_000), values)
    assert len(x) <= 800 and x[0] == 0 and x[-1] == 9999 and x == sorted(set(x))
    assert {9.0, -9.0} <= set(y) and all(values[place] == value for place, value in zip(x, y, strict=True))


GATES = [
    {"epoch": [1, 3, 9], "metric": "val_cosine", "green": 0.57, "red": 0.5},
    {"epoch": 2, "metric": "val_gain", "green": 0.0},
    {"epoch": 2, "metric": "ood_cosine", "red": 0.1},
]


def test_gates_are_shaded_at_their_epochs(history):
    shapes = cosine_chart(history, "val", LEVELS, with_train=True, gates=GATES)["layout"]["shapes"]
    bands = [shape for shape in shapes if shape["type"] == "rect"]
    green = {(band["x0"], band["y0"]) for band in bands if band["fillcolor"] == "$green"}
    assert green == {(0.6, 0.57), (2.6, 0.57), (1.6, 0.579)}, (
        "a gain of zero is the best baseline; epoch 9 has not been reached"
    )
    low, high = shapes and cosine_chart(history, "val", LEVELS, with_train=True)["layout"]["yaxis"]["range"]
    assert all(band["y1"] == high for band in bands if band["fillcolor"] == "$green")
    assert all(low <= band["y0"] <= band["y1"] for band in bands if band["fillcolor"] == "$red")


def test_a_chart_with_damaged_data_is_left_out(history):
    records = [{**history[0], "val_gain": "nan", "share_mse": True, "lr": None}, {"epoch": "two"}, history[2]]
    run = CurveSource(
        "x", records, {}, [{"epoch": "x", "metric": "val_cosine"}], {}, {"splits": {"val": {"predictors": 3}}}
    )
    keys = [panel.key for panel in run_panels(run)]
    assert "val_cosine" in keys and "gain" not in keys and "shares" not in keys
    assert run_panels(CurveSource("x")) == [] == overlay_panels([CurveSource("x")])


def test_a_query_has_its_own_retrieval_curve():
    scores = {"retrieval": {"r_at_1": 0.1, "r_at_50": 0.5}, "query": {"r_at_1": 0.2, "r_at_50": 0.6}}
    (panel,) = evaluated_panels(
        {"model": "amn", "splits": {"val": {"predictors": {"amn": scores}, "best_baseline": None}}}
    )
    assert {line["name"]: line["y"] for line in panel.figure["data"]} == {"amn": [0.1, 0.5], "amn, query": [0.2, 0.6]}
