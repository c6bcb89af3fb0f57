"""The terminal view is a function of the events and the time: correct scores next to baselines, for any log."""

import copy
import json
import math
import subprocess
import sys
import time
from typing import Any

import pytest
from rich.console import Console, RenderableType

from nextvec.monitor.dashboard import RunView, runs_view
from nextvec.monitor.gates import UpcomingGate
from nextvec.monitor.state import RunState, read_state
from nextvec.monitor.text import bounds, duration, event_lines, sparkline, status_text

Events = list[dict[str, Any]]


def show(view: RenderableType, width: int = 100, *, styled: bool = False) -> str:
    console = Console(width=width, color_system="standard" if styled else None, force_terminal=styled)
    with console.capture() as captured:
        console.print(view)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def state_of(events: Events, later: float = 1.0) -> RunState:
    last = max((item["time"] for item in events if isinstance(item.get("time"), float)), default=0.0)
    return read_state(events, last + later, "runs/amn_1", "amn_1")


def with_end(events: Events, *kinds: str, **fields: Any) -> Events:
    last = events[-1]
    ends = [{**fields, "time": last["time"] + n + 1, "kind": kind, "epoch": last["epoch"], "step": last["step"]}
            for n, kind in enumerate(kinds)]  # fmt: skip
    return events + ends


RUN_IN_PROGRESS = """\
SYNTHETIC DATA  amn-790k-production                                             running · 8 min left
runs/amn_1
amn · 1,510,912 parameters · cpu bfloat16
gtr@1 (768-D) · context 5 · windows: train 100,000, val 9,000

epoch 6 of 10 ━━━━━━━━━━━━━━━━━━━━━━──────────────────  55 %  step 5,500 of 10,000
              learning rate 8.33e-05 · 1,000 windows/s

cosine          epoch 5       gain   best (4)  trend, epochs 1 to 5  best baseline
val              0.4900    -0.0426     0.4800  ▁▁▂▃▄                 █ 0.5326 ridge
ood              0.5500    -0.2500     0.5600  ▂▁▁▁▁                 █ 0.8000 decayed-mean
train            0.5000                0.4900  ▁▃▄▆█                   train − val +0.0100

loss              train        val      share  requested  trend, epochs 1 to 5
mse             0.00024     0.0013     25.0 %     50.0 %  █▄▂▁▁
info                0.5        2.6     75.0 %     50.0 %  █▄▂▁▁

gates
▲ epoch 3    val cosine 0.4700 < 0.48, red is < 0.45 (best baseline ridge 0.5326)
             → InfoNCE may not work. Check that tau is 0.07 and its loss is not zero.

sentinel (ood)
● epoch 3    ood cosine 0.5700 ≥ 0.3 (best baseline decayed-mean 0.8000)

upcoming gates
○ epoch 6    val cosine            ● ≥ 0.48  ■ < 0.45
○ epoch 6    ood cosine            ■ < 0.3  stops the run
○ epoch 10   val cosine            ● ≥ 0.48  ■ < 0.45
○ epoch 10   generalization gap    ● ≤ 0.02

warnings
▲ ood has 143 windows in 3 documents. Add documents to ood."""


def test_the_view_of_a_run_in_progress(make_events):
    assert show(RunView(state_of(make_events(5)))) == RUN_IN_PROGRESS


def test_progress_and_time_left(make_events):
    state = state_of(make_events(5))
    assert (state.progress.epochs, state.progress.step, state.progress.fraction) == (5, 5500, 0.55)
    assert state.progress.seconds_left == pytest.approx(4.5 * 110), (
        "an epoch takes 110 s, its 100 s of steps and the validation"
    )


def test_an_interruption_does_not_count_in_the_time_left(make_events):
    events = make_events(3, half=False)
    resumed = {**events[-1], "kind": "resumed", "time": events[-1]["time"] + 40_000}
    later = [{**item, "time": item["time"] + 40_100} for item in make_events(4, half=False)[len(events) :]]
    state = state_of([*events, resumed, *later])
    assert state.progress.epochs == 4 and state.progress.seconds_left == pytest.approx(6 * 110, rel=0.1)


def test_time_left_in_the_first_epoch_comes_from_its_steps(make_events):
    state = state_of(make_events(0))
    assert state.progress.seconds_left == pytest.approx(9.5 * 100)
    assert state.progress.windows_per_second == pytest.approx(1000)
    shown = show(RunView(state))
    assert "epoch 1 of 10" in shown and "so far" in shown and "info                2.5          –" in shown


@pytest.mark.parametrize(
    ("kinds", "status", "text", "stoplight"),
    [
        ((), "running", "running", None),
        (("trained",), "trained", "evaluating", None),
        (("trained", "evaluated", "finished"), "finished", "finished", None),
        (("interrupted",), "interrupted", "interrupted", "amber"),
        (("stopped",), "stopped", "stopped", "red"),
        (("failed",), "failed", "failed", "red"),
        (("stopped", "evaluated", "finished"), "stopped", "stopped", "red"),
        (("failed", "resumed"), "running", "running", None),
        (("a kind of a later version",), "running", "running", None),
    ],
)
def test_the_status_follows_the_last_event(make_events, kinds, status, text, stoplight):
    state = state_of(with_end(make_events(5), *kinds))
    assert state.progress.status == status and status_text(state)[1] == stoplight
    assert state.progress.has_ended == (status in ("finished", "interrupted", "stopped", "failed"))
    assert show(RunView(state)).splitlines()[0].count(text) == 1
    assert ("○" in show(RunView(state))) == (status == "running"), "an ended run has no upcoming gates"


def test_the_reason_of_a_stop_is_shown_at_the_top(make_events):
    events = with_end(make_events(5), "stopped", reason="ood cosine 0.2100 < 0.3", diagnosis="the ood set itself")
    top = show(RunView(state_of(events))).splitlines()[:6]
    assert "■ ood cosine 0.2100 < 0.3" in top and "  diagnosis: the ood set itself" in top
    resumable = show(RunView(state_of(with_end(make_events(5), "interrupted"))))
    assert "▲ interrupted" in resumable and "To resume: nextvec resume runs/amn_1" in resumable


def test_a_stalled_run_is_reported_after_the_time_of_an_epoch(make_events):
    running = make_events(5)
    assert state_of(running, 299).progress.silent_seconds is None
    assert status_text(state_of(running, 720)) == ("running (stalled? last event 12 min ago)", "amber")
    assert "If the process has died: nextvec resume" in show(RunView(state_of(running, 720)))
    slow = [{**item, "time": item["time"] * 10} for item in running]
    assert state_of(slow, 1000).progress.silent_seconds is None, "an epoch takes 1,100 s there"
    assert state_of(make_events(0, half=False), 800).progress.silent_seconds is None, "fitting baselines takes minutes"
    assert state_of(make_events(0, half=False), 1000).progress.silent_seconds == 1000
    assert state_of(with_end(running, "finished"), 10_000).progress.silent_seconds is None


def test_the_best_baselines_and_the_best_epoch(make_events):
    state = state_of(make_events(6))
    assert state.scores.best_baselines == {"val": ("ridge", 0.5326), "ood": ("decayed-mean", 0.8)}
    assert state.scores.best["epoch"] == 4, "the last epoch that was marked as best"
    without = [item for item in make_events(6) if item["kind"] != "baselines"]
    assert state_of(without).scores.best_baselines == state.scores.best_baselines, "from the epochs"


def test_every_score_is_shown_next_to_its_baseline(make_events):
    events = [item for item in make_events(5) if item["kind"] != "baselines"]
    for record in events:
        record.pop("val_best_baseline", None)
    rows = [line for line in show(RunView(state_of(events))).splitlines() if line.startswith(("val ", "ood "))]
    assert "not measured" in rows[0] and "0.8000 decayed-mean" in rows[1]
    assert any("baseline not measured" in line for line in event_lines(None, state_of(events)))


def test_the_baseline_has_the_scale_of_the_trend(make_events):
    events = make_events(5)
    next(item for item in events if item["kind"] == "baselines")["cosines"]["val"] = {"copy-last": 0.45}
    row = next(line for line in show(RunView(state_of(events))).splitlines() if line.startswith("val "))
    assert "▁▃▅▇█" not in row and row.index("█") < row.index("▁ 0.4500 copy-last"), "the model ends high above it"


def test_a_gate_that_is_logged_twice_is_shown_once(make_events):
    events = make_events(5)
    both = state_of(events).outcome.verdicts
    assert [(v.epoch, v.metric, v.status, v.is_sentinel) for v in both] == [
        (3, "val_cosine", "amber", False), (3, "ood_cosine", "green", True),
    ]  # fmt: skip
    assert state_of([item for item in events if item["kind"] != "gate"]).outcome.verdicts == both
    assert state_of([{k: v for k, v in item.items() if k != "gates"} for item in events]).outcome.verdicts == both


def test_long_lists_of_gates_are_counted(make_events):
    verdict = {"metric": "val_cosine", "status": "green", "green": 0.1, "red": None, "reason": "all is well"}
    many = [{**verdict, "epoch": epoch, "status": "red" if epoch == 2 else "green"} for epoch in range(1, 31)]
    events = make_events(30, total=900, verdicts=many)
    events[0]["recipe"]["gates"] = [{"epoch": list(range(1, 900)), "metric": "val_cosine", "green": 0.5}]
    shown = show(RunView(state_of(events)))
    assert "22 earlier: ● 21  ■ 1" in shown and "● epoch 30   all is well" in shown
    assert "863 more at epochs 37 to 899" in shown and len(shown.splitlines()) < 50


def test_the_direction_of_a_metric_follows_its_thresholds_then_its_name():
    assert UpcomingGate(1, "val_loss", 0.1, None, "warn").lower_is_better
    assert not UpcomingGate(1, "val_cosine", 0.5, None, "warn").lower_is_better
    assert UpcomingGate(1, "unknown_metric", 0.1, 0.2, "warn").lower_is_better
    assert not UpcomingGate(1, "train_loss_mse", 0.2, 0.1, "warn").lower_is_better


def test_success_and_verdict_are_marked_as_synthetic(make_events):
    criteria = [
        {
            "name": "val cosine",
            "measured": "0.5712",
            "required": "≥ 0.56",
            "passed": True,
            "note": "best baseline 0.53",
        },
        {"name": "ood cosine", "measured": "0.6100", "required": "≥ 0.63", "passed": False, "note": ""},
    ]
    evaluation = {"verdict": {"status": "red", "sentence": "amn loses to [ridge]."}}
    events = with_end(make_events(10, half=False), "trained")
    events = with_end(with_end(events, "evaluated", evaluation=evaluation), "success", passed=False, criteria=criteria)
    shown = show(RunView(state_of(with_end(events, "finished"))))
    assert "success criteria on synthetic data\n● pass  val cosine  0.5712  ≥ 0.56  best baseline 0.53\n■ FAIL" in shown
    assert shown.endswith("verdict on synthetic data\n■ amn loses to [ridge].")
    assert shown.startswith("SYNTHETIC DATA")
    events[0]["synthetic"] = False
    assert "ynthetic" not in show(RunView(state_of(events))) and "SYNTHETIC" not in show(RunView(state_of(events)))
    events[-1]["passed"] = True
    assert "All criteria are met, but the verdict is red." in show(RunView(state_of(events)))


def test_statuses_differ_in_shape_and_color(make_events):
    shown = show(RunView(state_of(make_events(5))), styled=True)
    assert "\x1b[33m▲\x1b[0m" in shown and "\x1b[32m●\x1b[0m" in shown and "\x1b[31m■\x1b[0m" in shown


def test_non_finite_metrics_are_shown(make_events):
    events = make_events(5)
    record = [item for item in events if item["kind"] == "epoch"][-1]
    record |= {"val_cosine": "nan", "val_gain": "nan", "train_loss_mse": "inf"}
    rows = {line.split()[0]: line.split()[1:] for line in show(RunView(state_of(events))).splitlines() if line}
    assert rows["val"][:4] == ["nan", "nan", "0.4800", "▁▁▂▃×"] and rows["mse"][0] == "inf"
    assert json.dumps(state_of(events).to_dict())


def test_ten_thousand_epochs_are_shown_within_three_seconds(make_events):
    events = make_events(10_000, total=20_000)
    started = time.process_time()
    shown = show(RunView(state_of(events)))
    assert time.process_time() - started < 3
    assert all(len(line) <= 100 for line in shown.splitlines()) and "trend, epochs 1 to 10000" in shown
    assert "epoch 10001 of 20000" in shown and "10.5 %" not in shown


@pytest.mark.parametrize("width", [72, 80, 100, 200])
def test_every_line_fits_and_no_score_is_cut(make_events, width):
    lines = show(RunView(state_of(make_events(9))), width).splitlines()
    assert all(len(line) <= min(width, 100) for line in lines)
    row = next(line for line in lines if line.startswith("val "))
    assert all(score in row for score in ("0.5300", "-0.0026", "0.4800", "0.5326"))


@pytest.mark.parametrize(
    ("height", "left_out"), [(32, 0), (31, 1), (27, 1), (24, 2), (20, 3), (17, 4), (14, 5), (9, 6)]
)
def test_the_least_important_blocks_are_left_out_of_a_small_terminal(make_events, height, left_out):
    shown = show(RunView(state_of(make_events(5)), height))
    assert len(shown.splitlines()) <= height and "running · 8 min left" in shown and "55 %" in shown
    order = ["upcoming gates", "warnings", "loss", "sentinel", "gates", "cosine"]
    assert [title for title in order if f"\n{title}" not in shown] == order[:left_out]


def test_as_many_runs_are_shown_as_fit(make_events):
    states = [state_of(make_events(5))] * 5
    for height in (30, 45, 60):
        shown = show(runs_view(states, height))
        assert shown.count("SYNTHETIC") == height // 15 and len(shown.splitlines()) <= height
        assert f"{5 - height // 15} older runs not shown" in shown
    assert show(runs_view(states)).count(RUN_IN_PROGRESS) == 5


def test_names_are_shown_as_text_without_control_characters(make_events):
    events = make_events(5)
    events[0]["name"] = "[red]x[/red]\x1b[2J\r\nend" + "長" * 80
    events[1]["findings"][1]["message"] = "[bold]\x1b]0;title\x07"
    shown = show(RunView(state_of(events)))
    assert "[red]x[/red] [2J end長" in shown and "▲ [bold] ]0;title" in shown and "\x1b" not in shown
    assert "running" in shown.splitlines()[0]


JUNK = (None, "words", -1, math.nan, [], {}, [1, "x", {}], {"val": 3}, True, 10**400)


def test_a_damaged_log_can_be_shown(make_events):
    """Every field at every depth is replaced by values of wrong types."""
    criteria = [{"name": "c", "measured": "1", "required": "2", "passed": True, "note": "b"}]
    whole = with_end(make_events(3), "evaluated", evaluation={"verdict": {"status": "red", "sentence": "s"}})
    whole = with_end(whole, "success", passed=True, criteria=criteria)
    number_of_logs = 0
    places = {item["kind"]: number for number, item in enumerate(whole)}
    for kind, number in places.items():
        for path in paths_in({k: v for k, v in whole[number].items() if k != "kind"}):
            for junk in JUNK:
                events = copy.copy(whole)
                events[number] = replaced(whole[number], path, junk)
                state = read_state(events, whole[-1]["time"], "runs/x", "x")
                assert event_lines(None, state)
                number_of_logs += 1
                if number_of_logs % 5 == 0:  # drawing takes longest
                    assert show(RunView(state)), (kind, path)


def paths_in(value: Any) -> list[tuple[Any, ...]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [path for key in keys for path in [(key,), *((key, *rest) for rest in paths_in(value[key]))]]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    changed = copy.copy(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], new)
    return changed


def test_a_run_without_events_or_with_bare_ones_can_be_shown():
    empty = read_state([], 0.0, "runs/amn_1", "amn_1")
    assert show(RunView(empty)).split() == ["amn_1", "no", "events", "yet", "runs/amn_1"]
    bare = read_state([{"kind": "started"}, {"kind": "epoch"}, {"kind": "gate"}, {"kind": "step"}], 0.0, "r", "r")
    assert show(RunView(bare)) and bare.progress.status == "running"


def test_each_event_is_reported_in_one_line_once(make_events):
    two, three = state_of(make_events(2)), state_of(make_events(3))
    assert event_lines(three, three) == []
    assert event_lines(None, two) == [
        "amn-790k-production (SYNTHETIC DATA): epoch 2 of 10 · val cosine 0.4600, -0.0726 over ridge 0.5326 · "
        "ood cosine 0.5800, -0.2200 over decayed-mean 0.8000",
        "amn-790k-production (SYNTHETIC DATA): running · 13 min left",
    ]
    new = [line.partition(": ")[2] for line in event_lines(two, three)]
    assert len(new) == 3 and new[0].startswith("epoch 3 of 10")
    assert new[1].startswith("▲ gate at epoch 3: val cosine 0.4700 < 0.48") and "Check that tau is 0.07" in new[1]
    assert new[2].startswith("● sentinel at epoch 3: ood cosine 0.5700")
    stopped = state_of(with_end(make_events(3), "stopped", reason="too low", diagnosis="a wrong file"))
    assert [line.partition(": ")[2] for line in event_lines(three, stopped)] == [
        "■ stopped · trained 5 min · too low · a wrong file"
    ]


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], 20, "▁▂▃▄▅▆▇█"), ([0, 7, 0, 7], 2, "▅▅"), ([0, None, 7], 9, "▁ █"),
        ([0, math.nan, 7, math.inf], 9, "▁×█×"), ([], 9, ""), ([3, 3], 9, "▅▅"), ([None], 9, " "),
    ],
)  # fmt: skip
def test_a_sparkline_has_a_character_per_value_or_mean(values, width, expected):
    low, high = bounds(values, 7)
    assert sparkline(values, low, high, width) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3569, "59 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min"),
     (86_400, "1 d 0 h"), (100_000, "1 d 4 h")],
)  # fmt: skip
def test_a_duration_has_two_units(seconds, expected):
    assert duration(seconds) == expected


def test_watching_imports_no_heavy_package():
    heavy = "torch", "numpy", "pydantic", "pyarrow", "plotly"
    code = (
        "import sys, nextvec.monitor.terminal, nextvec.commands.watch; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_memory_recent_warnings_and_the_last_diagnosis_are_shown(make_events):
    events = make_events(5)
    record = next(event for event in reversed(events) if event["kind"] == "epoch")
    diagnosis = {
        "title": "Flat",
        "confidence": "likely",
        "status": "red",
        "evidence": "val does not improve.",
        "advice": "Check the objective.",
    }
    record |= {"memory_mb": 1843, "diagnoses": [diagnosis]}
    events.insert(4, {**events[3], "kind": "warning", "text": "no ood windows: the sentinel is blind"})
    shown = show(RunView(state_of(events)))
    assert "memory 1,843 MB" in shown and "▲ no ood windows: the sentinel is blind" in shown
    assert "diagnosis: Flat (likely): val does not improve. Check the objective." in shown
    later = with_end(events, "diagnosed", diagnoses=[])
    assert "diagnosis" not in show(RunView(state_of(later))), "the diagnosis at the end replaces that of the last epoch"
    many = events[:3] + [{**events[3], "kind": "warning", "text": f"warning {n}"} for n in range(9)] + events[3:]
    shown = show(RunView(state_of(many)))
    assert "warning 8" in shown and "warning 1" not in shown and "5 earlier: see training.log" in shown


def test_watching_once_imports_no_heavy_package(make_events, tmp_path):
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in make_events(3)))
    code = (
        "import sys; from nextvec.cli import main; main(['watch', sys.argv[1], '--once']); "
        "print([name for name in ('pydantic', 'numpy', 'torch', 'starlette', 'plotly') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and "SYNTHETIC DATA" in done.stdout
