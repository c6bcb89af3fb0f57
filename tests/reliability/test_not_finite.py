"""A non-finite value stops the run before the update: exit 4, with a diagnosis, and the last weights stay intact."""

import random
from pathlib import Path

import pytest
import torch

from equality import assert_same_values, events_of
from nextvec.cli import main
from nextvec.core.events import read_events
from nextvec.core.run_paths import BEST_MODEL, RESUME_STATE
from nextvec.errors import NotFiniteError
from nextvec.models.checkpoint import read_checkpoint
from nextvec.recipe import Recipe, make_recipe
from nextvec.training import loop
from nextvec.training import step as training_step
from nextvec.training.resume import resume_run
from nextvec.training.run import Run
from nextvec.training.setup import start_run

pytestmark = pytest.mark.usefixtures("small_networks")
PLACES = ("data", "loss", "gradient")
STEPS_AN_EPOCH = 7


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return make_recipe(recipe.model_dump(exclude_none=True), overrides)


def corrupt(patch: pytest.MonkeyPatch, run: Run, place: str, step: int, value: float) -> None:
    """Make a vector of the data, the loss or the gradient of one step NaN or infinite."""
    if place == "data":
        sets = run.train_windows
        batch = type(sets).batch

        def corrupted_batch(self, index, mirrored=0):
            found = batch(self, index, mirrored)
            if run.state.step == step and self is sets:
                found.context_BSD[3, 2, 1] = value
            return found

        patch.setattr(type(sets), "batch", corrupted_batch)
    backward = run.objective.backward

    def corrupted_backward(prediction_BD, *rest):
        figures = backward(prediction_BD, *rest)
        if run.state.step == step and place == "loss":
            figures["loss_info"] = figures["loss_info"] * value
        if run.state.step == step and place == "gradient":
            next(iter(run.model.prediction_parameters())).grad.view(-1)[0] = value
        return figures

    patch.setattr(run.objective, "backward", corrupted_backward)


def check(recipe: Recipe, path: Path, place: str, step: int, value: float) -> None:
    """Train until the corrupted step and check that the state before it is kept."""
    run = start_run(recipe, path, quiet=True)
    updates: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        corrupt(patch, run, place, step, value)
        ask = training_step.learning_rate_at
        patch.setattr(training_step, "learning_rate_at", lambda at, *rest: updates.append(at) or ask(at, *rest))
        with pytest.raises(NotFiniteError) as stop:
            loop.train(run)
    message = str(stop.value)
    named = {"data": "a vector of the data", "loss": "loss_info", "gradient": "the gradient"}[place]
    epoch = 1 + step // STEPS_AN_EPOCH
    assert message.startswith(
        f"{named} is not finite at epoch {epoch}, step {step}. Diagnosis: Non-finite values (certain). "
    )
    assert stop.value.exit_code == 4 and "\n" not in message and "last good weights" in message
    assert run.state.step == step and len(updates) == step, "no update at the corrupted step"
    assert all(torch.isfinite(value).all() for value in run.model.state_dict().values())
    assert read_events(path)[-1]["kind"] == "failed"
    saved = read_checkpoint(path / RESUME_STATE)
    assert saved.values["step"] == STEPS_AN_EPOCH * (step // STEPS_AN_EPOCH)
    assert all(torch.isfinite(value).all() for value in saved.weights.values())
    best = path / BEST_MODEL
    assert best.is_file() == (epoch > 1) and (epoch == 1 or read_checkpoint(best).values["step"] <= step)


@pytest.mark.parametrize(("place", "step", "value"), [
    ("data", 8, float("nan")), ("loss", 0, float("inf")), ("gradient", 9, float("-inf")),
])  # fmt: skip
def test_a_non_finite_value_stops_the_run_before_the_update(
    toy_recipe: Recipe, tmp_path: Path, place: str, step: int, value: float
) -> None:
    recipe = changed(toy_recipe, "training.epochs=2")
    check(recipe, tmp_path / "run", place, step, value)
    whole = start_run(recipe, tmp_path / "whole", quiet=True)
    loop.train(whole)
    resumed = resume_run(tmp_path / "run", quiet=True)  # the cause was temporary, so the run can be resumed
    loop.train(resumed)
    assert_same_values(whole.model.state_dict(), resumed.model.state_dict())


@pytest.mark.long
@pytest.mark.parametrize("place", PLACES)
def test_twenty_corrupted_steps_of_three_epochs(toy_recipe: Recipe, tmp_path: Path, place: str) -> None:
    dice = random.Random(3)
    for step in dice.sample(range(3 * STEPS_AN_EPOCH), 20):
        check(toy_recipe, tmp_path / f"{step}", place, step, dice.choice([float("nan"), float("inf"), float("-inf")]))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["amn", "lstm", "gru", "transformer"])
def test_a_learning_rate_of_1e20_ends_a_run(
    toy_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, precision: str
) -> None:
    """Weights of 1e20 overflow: the run exits with 4 before they are saved, and saved weights are finite."""
    recipe = changed(
        toy_recipe, f"model.kind={kind}", f"training.precision={precision}", "training.lr=1e20", "training.warmup=0",
        "training.epochs=2",
    )  # fmt: skip
    (tmp_path / "wild.toml").write_text(recipe.to_toml())
    run = tmp_path / "run"
    assert main(["train", str(tmp_path / "wild.toml"), "--out", str(run), "--quiet"]) == 4
    line = capsys.readouterr().err.splitlines()[-1]
    assert "not finite" in line and "Diagnosis: Non-finite values (certain)" in line and "Lower training.lr" in line
    assert not (run / BEST_MODEL).exists() and read_checkpoint(run / RESUME_STATE).values["step"] == 0
    assert "Non-finite values" in (run / "report.html").read_text(encoding="utf-8")
    assert len(events_of(run, "failed")) == 1


def test_non_finite_weights_are_never_saved(
    toy_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last update before a save makes one weight infinite, which no gradient shows yet."""
    recipe = changed(toy_recipe, "training.epochs=1", "training.checkpoint_interval_s=0.0001")
    run = start_run(recipe, tmp_path / "run", quiet=True)
    update_weights = training_step.update_weights

    def corrupted_update(run, norms):
        update_weights(run, norms)
        if run.state.step == 3:
            with torch.no_grad():
                next(iter(run.model.parameters())).view(-1)[0] = torch.inf

    monkeypatch.setattr(training_step, "update_weights", corrupted_update)
    with pytest.raises(
        NotFiniteError, match=r"the weights .* are not finite after step 4\. Diagnosis: Non-finite values"
    ):
        loop.train(run)
    assert read_checkpoint(run.path / RESUME_STATE).values["step"] == 3
