"""A suite can be resumed after every interruption: no run is lost or repeated, and the log contains every change."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nextvec.core.events import EventLog
from nextvec.data.store import Store
from nextvec.errors import InputError, Interrupted, NotFiniteError, OutputError, StoppedError
from nextvec.experiments import single_run
from nextvec.experiments.suite import SuiteResult, run_suite
from nextvec.experiments.suite_state import open_suite
from nextvec.recipe import Recipe, load_recipe

Write = Callable[..., str]


class Comparison:
    """Fake of `compare_runs`: records its calls and writes its file."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], list[str]]] = []
        self.error: BaseException | None = None

    def __call__(
        self, names: tuple[str, ...], *, data: tuple[str, ...], out: str, device: str = "auto", quiet: bool = False
    ) -> None:
        self.calls.append(([Path(name).name.partition("_")[0] for name in names], list(data)))
        if self.error:
            raise self.error
        Path(out).write_text("| all models |")


class Trainer:
    """Fake of `train_recipe` and `resume_folder`: writes the files of a run, and can be interrupted at any point."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.interruptions: dict[str, tuple[str, BaseException]] = {}
        """Recipe → the point where its next attempt is interrupted, and the error."""
        self.killed = False
        """Whether the interruption kills the process."""

    def train(self, recipe: Recipe, *, out: str, **options: Any) -> None:
        self.calls.append(("train", recipe.name))
        self._point(recipe.name, "before the folder")
        Path(out).mkdir(parents=True)
        (Path(out) / "recipe.toml").write_text(recipe.to_toml())
        self._point(recipe.name, "before a checkpoint")
        (Path(out) / "resume.pt").write_bytes(b"checkpoint")
        self._end(recipe.name, Path(out))

    def resume(self, run: str, *, force: bool, **options: Any) -> None:
        name = load_recipe(f"{run}/recipe.toml").name
        self.calls.append(("resume, forced" if force else "resume", name))
        self._end(name, Path(run))

    def _end(self, name: str, run: Path) -> None:
        self._point(name, "in training")
        verdict = {"status": "green", "sentence": f"{name} beats ridge.", "reasons": {}}
        success = {"passed": False, "criteria": [{"passed": True}, {"passed": False}]}
        history = {"status": "finished", "verdict": verdict, "success": success, "synthetic": name == "drawn"}
        (run / "training_history.json").write_text(json.dumps(history))
        self._point(name, "after its end")

    def _point(self, name: str, current: str) -> None:
        point, error = self.interruptions.get(name, ("", None))
        if point == current and error is not None:
            if self.killed:
                os._exit(9)
            del self.interruptions[name]
            raise error


@pytest.fixture
def comparison(monkeypatch: pytest.MonkeyPatch) -> Comparison:
    module = ModuleType("nextvec.experiments.compare_runs")
    module.compare_runs = Comparison()
    monkeypatch.setitem(sys.modules, "nextvec.experiments.compare_runs", module)
    return module.compare_runs


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, comparison: Comparison) -> Trainer:
    trainer = Trainer()
    monkeypatch.setattr(single_run, "train_recipe", trainer.train)
    monkeypatch.setattr(single_run, "resume_folder", trainer.resume)
    return trainer


@pytest.fixture
def write(toy_recipe: Recipe, tmp_path: Path) -> Write:
    """Return a function that writes a recipe on the toy store and returns its path: ``write("gru", lr=1e-3)``."""

    def write(name: str, *, store: str = "", **training: Any) -> str:
        values = toy_recipe.model_dump(exclude_none=True)
        values["training"] |= {"epochs": 1, **training}
        values["data"] |= {"store": store or values["data"]["store"]}
        file = tmp_path / f"{name}.toml"
        file.write_text(Recipe(**values | {"name": name}).to_toml())
        return str(file)

    return write


def states(result: SuiteResult) -> dict[str, str]:
    return {step.name or step.kind: step.state for step in result.steps}


def log_of(out: Path) -> str:
    return (out / "recovery.log").read_text()


def test_a_suite_trains_real_recipes_in_order(write: Write, toy_recipe: Recipe, tmp_path: Path, comparison: Comparison):
    out = tmp_path / "suite"
    recipes = write("one"), write("two", lr=1e-3)
    result = run_suite(recipes, out=str(out), device="cpu", trackers=["tensorboard"], quiet=True)
    assert states(result) == {"one": "complete", "two": "complete", "compare": "complete"}
    assert result.exit_code == 0 and result.lines[-1] == f"comparison: {out / 'comparison.md'}"
    assert comparison.calls == [(["one", "two"], [toy_recipe.data.store])]
    for step in json.loads((out / "suite.json").read_text())["steps"][:2]:
        assert step["state"] == "complete" and step["started"] <= step["ended"]
        assert json.loads((out / step["run"] / "trackers/tensorboard.json").read_text())["epochs"] == 1
        verdict = json.loads((out / step["run"] / "evaluation.json").read_text())["verdict"]["sentence"]
        assert verdict in step["verdict"] and f"[x] train {step['name']} → {step['run']} " in log_of(out)


def test_a_real_run_interrupted_during_its_evaluation_is_only_evaluated_again(
    write: Write, tmp_path: Path, comparison: Comparison, monkeypatch: pytest.MonkeyPatch
):
    """The run has its last checkpoint, so the resumed suite does not train it again."""
    recipe, out = write("one"), tmp_path / "suite"
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(single_run, "_evaluate_run", lambda run: (_ for _ in ()).throw(KeyboardInterrupt()))
        run_suite((recipe,), out=str(out), quiet=True)
    (run,) = (out / "runs").iterdir()
    trained = (run / "best_model.pt").stat().st_mtime_ns
    assert states(run_suite((recipe,), out=str(out), quiet=True)) == {"one": "complete", "compare": "complete"}
    assert list((out / "runs").iterdir()) == [run]
    assert (run / "best_model.pt").stat().st_mtime_ns == trained and (run / "evaluation.json").is_file()


def test_complete_steps_are_never_repeated(
    write: Write, tmp_path: Path, trainer: Trainer, comparison: Comparison, other_store: Callable[..., Store]
):
    other = str(other_store(seed=1).path)
    recipes, out = (write("one"), write("two", store=other), write("three")), str(tmp_path / "suite")
    run_suite(recipes, out=out, quiet=True)
    for again in (recipes, recipes[:1], ()):
        for force in (False, True):
            assert set(states(run_suite(again, out=out, force=force, quiet=True)).values()) == {"complete"}
    assert trainer.calls == [("train", "one"), ("train", "two"), ("train", "three")]
    ((names, data),) = comparison.calls
    assert names == ["one", "two", "three"] and data == [load_recipe(recipes[0]).data.store, other]


ATTEMPTS = {
    "before the folder": [("train", "two"), ("train", "two")],
    "before a checkpoint": [("train", "two"), ("train", "two")],
    "in training": [("train", "two"), ("resume", "two")],
    "after its end": [("train", "two")],
}
"""Point of the interruption → all calls until the step is complete."""


@pytest.mark.parametrize("error", [Interrupted("interrupted"), KeyboardInterrupt()], ids=["saved", "at once"])
@pytest.mark.parametrize("point", ATTEMPTS)
def test_an_interrupted_suite_resumes_from_any_point(
    point: str, error: BaseException, write: Write, tmp_path: Path, trainer: Trainer
):
    recipes, out = (write("one"), write("two"), write("three")), tmp_path / "a suite"
    trainer.interruptions["two"] = (point, error)
    with pytest.raises(Interrupted) as stop:
        run_suite(recipes, out=str(out), overrides=("training.grad_clip_norm=2",), quiet=True)
    command = f"nextvec suite {' '.join(recipes)} --out '{out}' --overrides training.grad_clip_norm=2"
    assert str(stop.value) == f"Suite interrupted. To continue: {command}"
    assert "[x] train one" in log_of(out) and "[~] train two" in log_of(out) and "interrupted" in log_of(out)
    result = run_suite(recipes, out=str(out), overrides=("training.grad_clip_norm=2",), quiet=True)
    assert set(states(result).values()) == {"complete"}
    assert trainer.calls == [("train", "one"), *ATTEMPTS[point], ("train", "three")]


@pytest.mark.parametrize("point", ATTEMPTS)
def test_a_killed_suite_resumes_from_any_point(point: str, write: Write, tmp_path: Path, trainer: Trainer):
    recipes, out = (write("one"), write("two")), tmp_path / "suite"
    trainer.interruptions["two"], trainer.killed = (point, BaseException()), True
    child = os.fork()
    if not child:
        run_suite(recipes, out=str(out), quiet=True)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    trainer.interruptions.clear()
    assert set(states(run_suite(recipes, out=str(out), quiet=True)).values()) == {"complete"}
    assert trainer.calls == ATTEMPTS[point][1:]
    finished = [run for run in (out / "runs").iterdir() if (run / "training_history.json").is_file()]
    assert sorted(run.name.partition("_")[0] for run in finished) == ["one", "two"]


def test_a_stopped_run_is_marked_and_the_next_recipe_is_trained(
    write: Write, tmp_path: Path, trainer: Trainer, comparison: Comparison
):
    recipes, out = (write("one"), write("two"), write("three")), tmp_path / "suite"
    trainer.interruptions["one"] = ("in training", StoppedError("red at epoch 3: val cosine 0.31, below 0.45"))
    trainer.interruptions["two"] = ("in training", NotFiniteError("the gradient is not finite"))
    result = run_suite(recipes, out=str(out), quiet=True)
    assert states(result) == {"one": "stopped", "two": "failed", "three": "complete", "compare": "complete"}
    assert result.exit_code == 3 and [names for names, _ in comparison.calls] == [["one", "two", "three"]]
    assert "stopped: red at epoch 3: val cosine 0.31, below 0.45" in log_of(out)
    assert "failed: the gradient is not finite" in log_of(out)

    run_suite(recipes, out=str(out), quiet=True)
    assert len(trainer.calls) == 3, "neither is retried without force"

    result = run_suite(recipes, out=str(out), force=True, quiet=True)
    assert trainer.calls[3:] == [("resume, forced", "one"), ("resume, forced", "two")]
    assert result.exit_code == 0 and comparison.calls == comparison.calls[:1] * 2, "the comparison is repeated"


def test_a_non_finite_run_has_exit_code_4(write: Write, tmp_path: Path, trainer: Trainer):
    trainer.interruptions["one"] = ("in training", NotFiniteError("the gradient is not finite"))
    assert run_suite((write("one"),), out=str(tmp_path / "suite"), quiet=True).exit_code == 4


def test_a_stop_is_recorded_after_a_kill_between_the_stop_and_its_record(
    write: Write, tmp_path: Path, trainer: Trainer
):
    """The run's history contains the stop, suite.json does not: the stop is recorded, and the run is not retried."""
    out = tmp_path / "suite"
    trainer.interruptions["one"] = ("in training", KeyboardInterrupt())
    with pytest.raises(Interrupted):
        run_suite((write("one"),), out=str(out), quiet=True)
    (run,) = (out / "runs").iterdir()
    EventLog(run / "events.jsonl").write("stopped", reason="ood cosine 0.12 < 0.3", advice="wrong data file")
    (run / "training_history.json").write_text('{"status": "stopped", "epochs": []}')
    result = run_suite((), out=str(out), quiet=True)
    assert result.steps[0].state == "stopped" and result.steps[0].reason == "ood cosine 0.12 < 0.3; wrong data file"
    assert trainer.calls == [("train", "one")] and states(result)["compare"] == "waiting"


def test_missing_data_of_any_recipe_is_reported_before_the_first_training(
    write: Write, tmp_path: Path, trainer: Trainer
):
    out = tmp_path / "suite"
    with pytest.raises(InputError, match=r"^recipe two: store none-there: .*nextvec data build[^\n]*$"):
        run_suite((write("one"), write("two", store="none-there")), out=str(out), quiet=True)
    with pytest.raises(InputError, match=r"training\.init_from none.pt"):
        run_suite((write("one"), write("two", init_from="none.pt")), out=str(out), quiet=True)
    with pytest.raises(InputError, match="Name at least one"):
        run_suite((), out=str(out), quiet=True)
    assert not out.exists() and not trainer.calls


def test_new_recipes_are_added_and_waiting_ones_are_kept(
    write: Write, tmp_path: Path, trainer: Trainer, comparison: Comparison
):
    out = tmp_path / "suite"
    trainer.interruptions["two"] = ("before the folder", KeyboardInterrupt())
    with pytest.raises(Interrupted):
        run_suite((write("one"), write("two")), out=str(out), quiet=True)
    result = run_suite((write("three"),), out=str(out), quiet=True)
    assert list(states(result)) == ["one", "two", "three", "compare"] and "added: three\n" in log_of(out)
    assert [name for _, name in trainer.calls] == ["one", "two", "two", "three"]
    run_suite((write("four"), write("four")), out=str(out), quiet=True)
    assert [names for names, _ in comparison.calls] == [["one", "two", "three"], ["one", "two", "three", "four"]]


def test_a_changed_recipe_is_a_new_step_unless_its_run_has_no_checkpoint(
    write: Write, tmp_path: Path, trainer: Trainer
):
    out = tmp_path / "suite"
    trainer.interruptions["two"] = ("before a checkpoint", KeyboardInterrupt())
    with pytest.raises(Interrupted):
        run_suite((write("one"), write("two")), out=str(out), quiet=True)
    changed = (write("one", lr=1e-2), write("two", lr=1e-2))
    result = run_suite(changed, out=str(out), quiet=True)
    assert [step.name for step in result.steps] == ["one", "one", "two", ""]
    learned = [load_recipe(str(out / step.run / "recipe.toml")).training.lr for step in result.steps[:3]]
    assert learned == [5e-4, 1e-2, 1e-2]


def test_a_failed_comparison_is_repeated(write: Write, tmp_path: Path, trainer: Trainer, comparison: Comparison):
    recipes, out = (write("one"),), tmp_path / "suite"
    for error, raised in ((InputError("of different spaces"), InputError), (KeyboardInterrupt(), Interrupted)):
        comparison.error = error
        with pytest.raises(raised):
            run_suite(recipes, out=str(out), quiet=True)
    assert "[!] compare failed: of different spaces" in log_of(out) and "[~] compare" in log_of(out)
    comparison.error = None
    assert states(run_suite(recipes, out=str(out), quiet=True))["compare"] == "complete"
    (out / "comparison.md").unlink()
    run_suite(recipes, out=str(out), quiet=True)
    assert len(comparison.calls) == 4 and trainer.calls == [("train", "one")]


def test_an_error_in_a_training_ends_the_suite_and_is_logged(write: Write, tmp_path: Path, trainer: Trainer):
    out = tmp_path / "suite"
    trainer.interruptions["one"] = ("in training", InputError("the disk\nis full"))
    with pytest.raises(InputError, match="disk"):
        run_suite((write("one"), write("two")), out=str(out), quiet=True)
    assert (
        "[~] train one" in log_of(out) and "the disk\\nis full\n" in log_of(out) and trainer.calls == [("train", "one")]
    )
    run_suite((), out=str(out), quiet=True)
    assert trainer.calls[1:] == [("resume", "one"), ("train", "two")]


def test_a_run_that_failed_before_its_first_checkpoint_starts_again(write: Write, tmp_path: Path, trainer: Trainer):
    """For example with an ood set of another space: the user replaces the set and reruns the suite."""
    out = tmp_path / "suite"
    trainer.interruptions["one"] = ("before a checkpoint", InputError("ood is of another space"))
    with pytest.raises(InputError, match="another space"):
        run_suite((write("one"),), out=str(out), quiet=True)
    (run,) = (out / "runs").iterdir()
    (run / "training_history.json").write_text('{"status": "failed", "epochs": []}')
    assert states(run_suite((), out=str(out), quiet=True))["one"] == "complete"
    assert trainer.calls == [("train", "one")] * 2


def test_only_one_process_can_run_a_suite(write: Write, tmp_path: Path, trainer: Trainer):
    with open_suite(tmp_path / "suite", quiet=True), pytest.raises(OutputError, match="another process"):
        run_suite((write("one"),), out=str(tmp_path / "suite"), quiet=True)
    run_suite((write("one"),), out=str(tmp_path / "suite"), quiet=True)
    assert trainer.calls == [("train", "one")]


@pytest.mark.parametrize("content", ["{", "[]", '{"steps": [{"kind": "train", "name": "one"}]}', '{"steps": [{}]}'])
def test_a_damaged_record_is_reported_in_one_line_and_kept(
    content: str, write: Write, tmp_path: Path, trainer: Trainer
):
    (tmp_path / "suite.json").write_text(content)
    with pytest.raises(InputError, match=r"^suite [^\n]*suite.json is damaged [^\n]*$"):
        run_suite((write("one"),), out=str(tmp_path), quiet=True)
    assert (tmp_path / "suite.json").read_text() == content and not trainer.calls


def test_the_log_is_dated_and_shown(write: Write, tmp_path: Path, trainer: Trainer, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "suite"
    run_suite((write("drawn"), write("[bold]x")), out=str(out))
    assert capsys.readouterr().err == log_of(out)
    lines = log_of(out).splitlines()
    assert all(line[:4].isdecimal() and line[19:21] == "  " for line in lines), "every line is dated"
    assert lines[1].endswith("[ ] train drawn") and lines[3].endswith("[ ] compare")
    summary = "green: drawn beats ridge. · success criteria: 1 of 2 met"
    assert f"SYNTHETIC data: {summary}" in lines[5] and "SYNTHETIC" not in lines[7]
    assert "[x] train [bold]x → runs/_bold_x_" in lines[7]


def test_reading_a_suite_does_not_load_torch():
    code = "import sys, nextvec.experiments.suite_state, nextvec.experiments.suite; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_real_gate_stops_one_run_but_not_the_suite(
    write: Write, toy_recipe: Recipe, tmp_path: Path, comparison: Comparison
):
    guarded = toy_recipe.model_dump(exclude_none=True) | {"name": "guarded"}
    guarded["gates"] = [{"epoch": 1, "metric": "val_cosine", "red": 0.999, "action": "stop", "advice": "look at it"}]
    (tmp_path / "guarded.toml").write_text(Recipe(**guarded).to_toml())
    recipes, out = (str(tmp_path / "guarded.toml"), write("one")), tmp_path / "suite"
    result = run_suite(recipes, out=str(out), quiet=True)
    assert states(result) == {"guarded": "stopped", "one": "complete", "compare": "complete"}
    assert result.exit_code == 3 and comparison.calls[0][0] == ["guarded", "one"]
    assert (
        "is below 0.999" in result.steps[0].reason
        and "Unreachable gate (certain)" in result.steps[0].reason
        and result.steps[0].line in log_of(out)
    )
    result = run_suite((), out=str(out), force=True, quiet=True)
    assert states(result)["guarded"] == "complete" and result.exit_code == 0


def test_a_suite_ends_with_the_real_comparison(write: Write, tmp_path: Path):
    out = tmp_path / "suite"
    recipes = write("one"), write("two", lr=1e-3)
    result = run_suite(recipes, out=str(out), device="cpu", trackers=["tensorboard"], quiet=True)
    assert states(result)["compare"] == "complete"
    text = (out / "comparison.md").read_text()
    assert "one" in text and "two" in text
