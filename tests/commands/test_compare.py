"""The leaderboard and the comparison on real, small runs: what is added, what is refused, and what is compared."""

import json
import re
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from nextvec.commands import train as training_commands
from nextvec.commands.compare import compare, leaderboard_add, leaderboard_show
from nextvec.core.events import EventLog, read_events
from nextvec.core.run_paths import EVENTS_FILE
from nextvec.data.store import Store
from nextvec.errors import InputError
from nextvec.evaluation import latency
from nextvec.recipe import Recipe, make_recipe
from nextvec.reports.leaderboard import BEGIN, END

Train = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, toy_store: Store) -> Train:
    """Trains a small model once for each set of overrides; the run's folder."""
    made: dict[tuple[str, ...], Path] = {}
    home = tmp_path_factory.mktemp("runs")

    def train_once(*overrides: str) -> Path:
        if overrides not in made:
            recipe = make_recipe(
                {
                    "name": "toy-7k-run", "data": {"store": str(toy_store.path)},
                    "objective": {"mse": 0.5, "info_nce": 0.5},
                    "training": {"epochs": 1, "batch_size": 32, "precision": "fp32"},
                    "evaluation": {"resamples": 100, "ridge_windows": 1000}, "runtime": {"device": "cpu", "threads": 1},
                },
                overrides,
            )  # fmt: skip
            file = home / f"{len(made)}.toml"
            file.write_text(recipe.to_toml(), encoding="utf-8")
            made[overrides] = training_commands.train(str(file), out=str(home / f"run{len(made)}"), quiet=True).path
        return made[overrides]

    return train_once


@pytest.fixture(autouse=True)
def quick_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "WARMUP_CALLS", 1)


def copied(run: Path, path: Path, *, evaluated: bool = True) -> Path:
    """A run's folder at another place, judged or not."""
    shutil.copytree(run, path)
    if not evaluated:
        (path / "evaluation.json").unlink()
        events = [event for event in read_events(path) if event["kind"] not in ("evaluated", "success", "finished")]
        (path / EVENTS_FILE).write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def with_start(run: Path, **facts: object) -> Path:
    """Change what the first event of a run says."""
    first, *rest = (run / EVENTS_FILE).read_text().splitlines()
    (run / EVENTS_FILE).write_text("\n".join([json.dumps(json.loads(first) | facts), *rest]) + "\n")
    return run


def rows(table: Path) -> list[tuple[str, ...]]:
    """Return the cells of each row between the markers."""
    text = table.read_text()
    lines = text[text.index(BEGIN) : text.index(END)].splitlines()[3:]
    return [tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]) for line in lines]


def vectors_of(store: Store) -> int:
    return int(store.documents.rows[store.documents.splits != 2].sum())


def test_a_run_is_added_with_its_best_baseline(train: Train, toy_store: Store, tmp_path: Path) -> None:
    run, table = train(), tmp_path / "new" / "board.md"
    leaderboard_add(str(run), table=str(table), device="cpu")
    evaluation = json.loads((run / "evaluation.json").read_text())
    val, ood = evaluation["splits"]["val"], evaluation["splits"]["ood"]
    own, best = (row for row in sorted(rows(table), key=lambda row: "baseline" in row[0]))
    assert own[:3] == (
        f"AMN_{vectors_of(toy_store)}",
        f"{val['predictors']['amn']['cosine']['value']:.3f}",
        f"{ood['predictors']['amn']['cosine']['value']:.3f}",
    )
    finished = date.fromtimestamp(read_events(run)[-1]["time"]).isoformat()
    assert own[3].endswith("ms") and float(own[3][:-2]) > 0 and own[4:] == ("82K", "MSE+InfoNCE", finished)
    name = val["best_baseline"]
    assert best[0] == f"{name}_{vectors_of(toy_store)} (baseline)" and best[3:6] == ("–", "–", "closed form")
    assert best[1] == f"{max(score['cosine']['value'] for key, score in val['predictors'].items() if key != 'amn'):.3f}"
    assert best[2] == f"{ood['predictors'][name]['cosine']['value']:.3f}"


def test_again_is_no_second_row_and_another_run_is(train: Train, tmp_path: Path) -> None:
    table = tmp_path / "board.md"
    for run in (train(), train("model.kind=lstm"), copied(train(), tmp_path / "moved")):
        board = leaderboard_add(
            str(run), table=str(table), name="[/red] | x" if run.name == "moved" else "", date="2025-10-30"
        )
    assert len(board.entries) == 2 and len(rows(table)) == 3
    assert {row[0].split("_")[0] for row in rows(table)} > {"LSTM", "\\[/red\\] \\| x"}
    assert leaderboard_show(table=str(table), sort="date").to_dict()["runs"] == [
        entry.to_dict() for entry in sorted(board.entries, key=lambda entry: entry.date, reverse=True)
    ]


def test_synthetic_runs_say_so_whatever_they_are_called(train: Train, toy_store: Store, tmp_path: Path) -> None:
    run = with_start(copied(train(), tmp_path / "run"), synthetic=True)
    first = leaderboard_add(str(run), table=str(tmp_path / "a.md"))
    assert first.entries[0].name == f"AMN_{vectors_of(toy_store)}-synthetic"
    assert any("-synthetic (baseline)" in row[0] for row in rows(tmp_path / "a.md"))
    assert leaderboard_add(str(run), table=str(tmp_path / "b.md"), name="best").entries[0].name == "best-synthetic"
    assert compare([str(run)]).sets[0].is_synthetic


def test_a_store_that_is_gone_or_another_one_is_named_after_the_recipe(train: Train, tmp_path: Path) -> None:
    run = with_start(copied(train(), tmp_path / "run"), store_hash="other")
    assert leaderboard_add(str(run), table=str(tmp_path / "a.md")).entries[0].name == "AMN_7k"


def test_rows_outside_of_the_markers_survive_an_addition(train: Train, tmp_path: Path) -> None:
    table = tmp_path / "board.md"
    leaderboard_add(str(train()), table=str(table))
    own_row = "| paper | 0.9 | 0.8 | 1ms | 2M | ? | 2024-01-01 |"
    table.write_text(table.read_text() + own_row + "\n\nOur notes.\n")
    leaderboard_add(str(train("model.kind=lstm")), table=str(table))
    leaderboard_add(str(train()), table=str(table))
    lines = table.read_text().splitlines()
    assert lines[-3:] == [own_row, "", "Our notes."] and lines.count(own_row) == 1 and len(rows(table)) == 3


def test_a_device_that_is_not_here_is_told(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    board = leaderboard_add(str(train()), table=str(tmp_path / "a.md"), device="mps")
    assert "device 'mps' is not available here; using cpu" in capsys.readouterr().err
    assert board.entries[0].device == "cpu"


def test_what_can_not_be_added_is_one_line(train: Train, tmp_path: Path) -> None:
    table = tmp_path / "board.md"
    unfinished = copied(train(), tmp_path / "unfinished", evaluated=False)
    broken = copied(train(), tmp_path / "broken")
    (broken / "evaluation.json").write_text("[]")
    older = copied(train(), tmp_path / "older")
    values = json.loads((older / "evaluation.json").read_text())
    (older / "evaluation.json").write_text(json.dumps({**values, "metrics_version": 1}))
    cases = [
        (unfinished, {}, "only finished runs can be added"), (broken, {}, "evaluation.json is damaged"),
        (older, {}, r"measured with version 1 of the metrics.*Train the run again"),
        (tmp_path / "nowhere", {}, "Name the folder of a run"), (train(), {"date": "30.10.2025"}, "date '30.10.2025'"),
        (train(), {"table": str(tmp_path / "board.json")}, "does not end in .md"),
    ]  # fmt: skip
    for run, options, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            leaderboard_add(str(run), **{"table": str(table), **options})
        assert "\n" not in str(caught.value)
    assert not table.exists()
    with pytest.raises(InputError, match="it has no runs"):
        leaderboard_show(table=str(table))
    table.with_suffix(".json").write_text('{"format": 1, "runs": [{}]}')
    with pytest.raises(InputError, match=r"board\.json"):
        leaderboard_show(table=str(table))


def test_runs_on_the_same_data_are_one_table(train: Train, tmp_path: Path) -> None:
    out = tmp_path / "new" / "c.md"
    comparison = compare([str(train()), str(train("model.kind=lstm", "name=an-lstm"))], out=str(out))
    (only,) = comparison.sets
    names = [row.name for row in only.splits[0].rows]
    assert {"toy-7k-run (amn)", "an-lstm", "ridge", "copy-last", "context-mean"} <= set(names)
    values = [row.cosine.value for row in only.splits[0].rows]
    assert values == sorted(values, reverse=True) and [scores.split for scores in only.splits] == ["val", "ood"]
    assert "| an-lstm |" in out.read_text() and comparison.remarks == {}


def test_other_data_and_other_contexts_are_other_tables(train: Train, other_store: Callable[..., Store]) -> None:
    elsewhere = other_store(seed=3)
    runs = [train(), train(f"data.store={elsewhere.path}"), train("data.context=3")]
    comparison = compare([str(run) for run in runs])
    assert len(comparison.sets) == 3 and "Compare gains between sets, not scores" in comparison.notes[0]
    assert [row.name for one in comparison.sets for row in one.splits[0].rows if not row.is_baseline] == [
        f"{run.name} (amn)" for run in runs
    ]


def test_on_given_stores_all_models_are_evaluated_on_the_same_windows(
    train: Train, toy_store: Store, other_store
) -> None:
    elsewhere = other_store(seed=3)
    runs = [str(train()), str(train("model.kind=lstm", "name=an-lstm"))]
    comparison = compare(runs, data=(str(toy_store.path), str(elsewhere.path)), device="cpu", quiet=True)
    first, second = comparison.sets
    own = {row.name: row.cosine for row in compare(runs).sets[0].splits[0].rows}
    assert {row.name: row.cosine for row in first.splits[0].rows} == own, "its own store gives the run's own judgement"
    assert {row.name for row in second.splits[0].rows} == set(own) and second.title.startswith(elsewhere.path.name)
    assert {row.name: row.cosine for row in second.splits[0].rows} != own


def test_what_does_not_fit_a_store_is_told_and_the_others_are_evaluated(
    train: Train, toy_store: Store, other_store
) -> None:
    small = other_store(dimensions=8)
    fits = train(f"data.store={small.path}")
    comparison = compare([str(train()), str(fits)], data=(str(small.path),), device="cpu", quiet=True)
    assert [row.name for row in comparison.sets[0].splits[0].rows if not row.is_baseline] == [f"{fits.name} (amn)"]
    (remark,) = comparison.remarks.items()
    assert remark[0] == f"{train()} on {small.path}" and "16-D" in remark[1] and "8-D" in remark[1]


def test_stopped_and_unevaluated_runs_are_listed_with_their_reason(
    train: Train, toy_store: Store, tmp_path: Path
) -> None:
    stopped = copied(train(), tmp_path / "stopped", evaluated=False)
    EventLog(stopped / EVENTS_FILE).write("stopped", epoch=3, step=9, reason="val cosine 0.41\nis below 0.45")
    open_run = copied(train(), tmp_path / "open", evaluated=False)
    runs = [str(run) for run in (train(), stopped, open_run)]
    comparison = compare(runs)
    assert comparison.remarks == {
        str(stopped): "stopped at epoch 3: val cosine 0.41 is below 0.45",
        str(open_run): f"not evaluated: the run is active or was killed. Resume it with 'nextvec resume {open_run}'.",
    }
    assert sum(not row.is_baseline for row in comparison.sets[0].splits[0].rows) == 1
    evaluated = compare(runs, data=(str(toy_store.path),), device="cpu", quiet=True)
    assert sum(not row.is_baseline for row in evaluated.sets[0].splits[0].rows) == 3, (
        "its best model so far can be judged"
    )
    assert str(stopped) in evaluated.remarks


def test_against_a_run_and_against_the_published_figures(train: Train) -> None:
    amn, lstm = train(), train("model.kind=lstm", "name=an-lstm")
    comparison = compare([str(lstm)], baseline=str(amn))
    (beside,) = [line for line in comparison.sets[0].reference_rows if line.name == "an-lstm"]
    cosine = {row.name: row.cosine.value for row in comparison.sets[0].splits[0].rows}
    assert beside.difference == pytest.approx(cosine["an-lstm"] - cosine["toy-7k-run (amn)"], abs=1e-6)
    assert len(compare([str(amn), str(lstm)], baseline=f"{amn}/").sets[0].reference_rows) == 2, "it is there only once"
    published = compare([str(lstm)], baseline="584k")
    (mine,) = [line for line in published.sets[0].reference_rows if "published" not in line.name]
    mean = cosine["an-lstm"] - cosine["context-mean"]
    assert mine.difference == pytest.approx(mean - (0.5792 - 0.546), abs=1e-6)


def test_what_can_not_be_compared_is_one_line(train: Train, tmp_path: Path) -> None:
    unevaluated = copied(train(), tmp_path / "open", evaluated=False)
    cases = [
        ((), {}, "no run named"), ((tmp_path,), {}, "Name the folder of a run"),
        ((train(),), {"baseline": "790k"}, "neither 584k nor a run folder"),
        ((train(),), {"baseline": str(unevaluated)}, "no evaluation to compare with"),
        ((train(),), {"data": (str(tmp_path / "none"),)}, "store"),
    ]  # fmt: skip
    for runs, options, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            compare(tuple(map(str, runs)), **options)
        assert "\n" not in str(caught.value)


def test_a_run_s_folder_must_say_how_it_started(toy_recipe: Recipe, tmp_path: Path) -> None:
    EventLog(tmp_path / EVENTS_FILE).write("epoch", epoch=1)
    with pytest.raises(InputError, match="does not contain how it started"):
        compare([str(tmp_path)])
