"""A run or a suite that is killed anywhere, by any signal, ends as one that was never killed: tolerance zero."""

import json
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from equality import assert_same_runs, events_of
from nextvec.recipe import make_recipe

KILLER = Path(__file__).with_name("killer.py")
KINDS = (
    "training", "evaluating", "inside a save", "between temporary file and rename", "after a rename",
    "inside a log line",
)  # fmt: skip
QUICK = KINDS[0], KINDS[2], KINDS[3]
SIGNALS = (signal.SIGINT, signal.SIGTERM)
Plan = list[tuple[str, list[tuple[int | str, int]]]]


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory, toy_store: Any) -> list[str]:
    """Two small recipes with gates that speak."""
    paths = []
    for kind in ("amn", "lstm"):
        recipe = make_recipe(
            {
                "name": kind,
                "data": {"store": str(toy_store.path)},
                "model": {"kind": kind, "dropout": 0.1},
                "training": {"epochs": 2, "batch_size": 64, "precision": "fp32", "checkpoint_interval_s": 0.001},
                "evaluation": {"resamples": 100, "ridge_windows": 500},
                "runtime": {"device": "cpu", "threads": 1},
                "gates": [{"epoch": [1, 2], "metric": "ood_cosine", "red": -2.0}],
            }
        )
        paths.append(tmp_path_factory.mktemp("recipes") / f"{kind}.toml")
        paths[-1].write_text(recipe.to_toml(), encoding="utf-8")
    return [str(path) for path in paths]


def kill(mode: str, recipes: Sequence[str], folder: Path, plan: Plan) -> dict[str, list[tuple[int, list[str]]]]:
    """What became of each process of a plan: name → (exit code, kinds of events) of its processes in order."""
    command = [sys.executable, str(KILLER), mode, *recipes, str(folder)]
    done = subprocess.run(command, input=json.dumps(plan), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: [(code, kinds) for code, kinds in attempts] for name, attempts in json.loads(done.stdout)}


def check_runs(recipes: Sequence[str], folder: Path, plan: Plan) -> list[str]:
    """Kill one run as planned, and compare each end with that of `events_in_a_run`; the kinds of events hit."""
    answers = kill("run", recipes[:1], folder, plan)
    hit = []
    for name, kills in plan:
        *killed, last = answers[name]
        for (code, kinds), (_, number) in zip(killed, kills, strict=True):
            assert code == (-number if number == signal.SIGKILL else 130), (name, code, kinds)
            assert len(kinds) == 1, f"{name}: this kill missed"
            hit += kinds
        assert last[0] == 0, name
        assert_same_runs(folder / "unbroken", folder / name)
        assert not list((folder / name).glob(".*.tmp")), "no litter"
    return hit


def events_in_a_run(recipes: Sequence[str], folder: Path) -> list[str]:
    """The kinds of all events of an unbroken run, in order."""
    ((code, kinds),) = kill("run", recipes[:1], folder, [("unbroken", [])])["unbroken"]
    assert code == 0 and set(kinds) == set(KINDS)
    return kinds


def test_a_killed_run_ends_as_if_it_was_not(recipes: list[str], tmp_path: Path) -> None:
    """SIGKILL in training, in a save and before a rename, one double kill, and a signal that asks a run to end."""
    dice = random.Random(0)
    kinds = events_in_a_run(recipes, tmp_path)
    begun = kinds.index("training")
    points = [dice.choice([n for n in range(begun, len(kinds)) if kinds[n] == kind]) for kind in QUICK]
    plan: Plan = [(f"kill-{point}", [(point, signal.SIGKILL)]) for point in points]
    plan.append(("twice", [(begun + 9, signal.SIGKILL), (dice.randrange(4, 20), signal.SIGKILL)]))
    plan.append(("SIGTERM", [("training", signal.SIGTERM)]))
    assert set(check_runs(recipes, tmp_path, plan)) >= set(QUICK)


@pytest.mark.long
def test_fifty_kills_ten_double_kills(recipes: list[str], tmp_path: Path) -> None:
    dice = random.Random(1)
    kinds = events_in_a_run(recipes, tmp_path)
    plan: Plan = [(f"kill-{point}", [(point, signal.SIGKILL)]) for point in sorted(dice.sample(range(len(kinds)), 50))]
    for n in range(10):
        plan.append(
            (f"twice-{n}", [(dice.randrange(len(kinds) // 2), signal.SIGKILL), (dice.randrange(30), signal.SIGKILL)])
        )
    for number in SIGNALS:
        plan += [(f"{number.name}-{kind}", [(kind, number)]) for kind in ("training", "evaluating")]
    hit = check_runs(recipes, tmp_path, plan)
    assert len(hit) == 50 + 2 * 10 + 2 * 2 and set(hit) == set(KINDS)


def check_suite(recipes: Sequence[str], folder: Path, points: Sequence[int]) -> None:
    """Kill a suite at each point; it must end complete, its runs equal to the unbroken ones, and trained once."""
    plan: Plan = [(f"killed-{point}", [(point, signal.SIGKILL)]) for point in points]
    answers = kill("suite", recipes, folder, [("unbroken", []), *plan])
    for name, _ in plan:
        (code, kinds), last = answers[name]
        assert (code, len(kinds)) == (-9, 1), f"{name}: this kill missed"
        assert last[0] == 0, name
        steps = json.loads((folder / name / "suite.json").read_text())["steps"]
        assert [step["state"] for step in steps] == ["complete"] * 3
        assert (folder / name / "comparison.md").is_file()
        for kind in ("amn", "lstm"):
            (whole,) = (folder / "unbroken" / "runs").glob(f"{kind}_*")
            begun = [run for run in (folder / name / "runs").glob(f"{kind}_*") if (run / "resume.pt").is_file()]
            assert len(begun) == 1, "nothing is done twice"
            assert_same_runs(whole, begun[0], evaluated=True)
            assert len(events_of(begun[0], "finished")) == 1


def events_in_a_suite(recipes: Sequence[str], folder: Path) -> int:
    ((code, kinds),) = kill("suite", recipes, folder, [("counted", [])])["counted"]
    assert code == 0
    return len(kinds)


@pytest.mark.long
def test_a_suite_killed_at_twenty_points_ends_as_if_it_was_not(recipes: list[str], tmp_path: Path) -> None:
    total = events_in_a_suite(recipes, tmp_path)
    check_suite(recipes, tmp_path, sorted(random.Random(2).sample(range(total), 20)))
