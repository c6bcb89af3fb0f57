"""A sweep chooses on val, prunes stopped trials, resumes after an interruption, and rejects invalid input."""

import json
from pathlib import Path

import pytest

from nextvec.commands.experiments import sweep
from nextvec.commands.train import train
from nextvec.core.events import read_events
from nextvec.data.store import Store
from nextvec.errors import InputError, Interrupted, MissingExtraError, RecipeError, StoppedError, StoreError
from nextvec.experiments.sweep import BEST_RECIPE, SWEEP_FILE
from nextvec.recipe import Recipe, load_recipe
from nextvec.training import loop

pytest.importorskip("optuna")

SPACE = ("training.lr=1e-4..1e-2:log", "training.batch_size=32,64")


@pytest.fixture
def recipe(toy_recipe: Recipe, tmp_path: Path) -> str:
    file = tmp_path / "toy.toml"
    file.write_text(toy_recipe.to_toml())
    return str(file)


def swept(
    recipe: str, folder: Path, *overrides: str, space: tuple[str, ...] = SPACE, trials: int = 3, tracker: str = ""
):
    changes, out = ("training.epochs=2", *overrides), str(folder / "sweep")
    return sweep(recipe, changes, space=space, trials=trials, out=out, tracker=tracker.split(), quiet=True)


def test_the_best_trial_on_val_is_chosen_and_its_recipe_can_be_trained(recipe: str, tmp_path: Path) -> None:
    result = swept(recipe, tmp_path)
    assert len(result.trials) == 3 and {trial.state for trial in result.trials} == {"complete"}
    gains = [trial.val_gain for trial in result.trials]
    assert gains == sorted(gains, reverse=True) and len(set(gains)) == 3
    for trial in result.trials:
        run = result.path / f"trial-{trial.number:03d}"
        history = [event for event in read_events(run) if event["kind"] == "epoch"]
        assert trial.val_gain == max(record["val_gain"] for record in history) and trial.epochs == 2
        assert (run / "report.html").is_file()
        chosen = load_recipe(str(run / "recipe.toml"))
        assert str(chosen.training.batch_size) == trial.values["training.batch_size"]
        assert repr(chosen.training.lr) == trial.values["training.lr"] and 1e-4 <= chosen.training.lr <= 1e-2
    best = result.path / BEST_RECIPE
    assert best.read_text() == (result.path / f"trial-{result.trials[0].number:03d}/recipe.toml").read_text()
    again = train(str(best), out=str(tmp_path / "again"), quiet=True)
    history = [event for event in read_events(again.path) if event["kind"] == "epoch"]
    assert max(record["val_gain"] for record in history) == gains[0]
    assert result.ood.startswith("ood gain of the best: ") and result.view().blocks[-1].text == result.ood
    assert json.loads(json.dumps(result.to_dict()))["trials"][0]["val_gain"] == gains[0]


def test_a_sweep_started_again_continues(recipe: str, tmp_path: Path) -> None:
    first = swept(recipe, tmp_path, trials=2, tracker="tensorboard")
    assert (first.path / "trial-001/trackers/tensorboard.json").is_file()
    second = swept(recipe, tmp_path, trials=3)
    kept = {trial.number: trial for trial in second.trials}
    assert len(kept) == 3 and all(kept[trial.number] == trial for trial in first.trials)
    assert swept(recipe, tmp_path, trials=3) == second


def test_a_resumed_trial_ends_like_an_uninterrupted_one(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = swept(recipe, tmp_path / "whole")
    save_state, calls = loop.save_state, []

    def save_and_interrupt(run) -> None:
        save_state(run)
        calls.append(run)
        if len(calls) == 3:  # the second trial's first epoch
            raise Interrupted("interrupted")

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=r"To continue: nextvec sweep .*toy\.toml"):
        patch.setattr(loop, "save_state", save_and_interrupt)
        swept(recipe, tmp_path / "cut")
    assert len(calls) == 3
    resumed = swept(recipe, tmp_path / "cut")
    # The trial proposed after the interruption differs, because the sampler has a new seed.
    assert [trial for trial in resumed.trials if trial.number < 2] == [
        trial for trial in whole.trials if trial.number < 2
    ]
    assert len(resumed.trials) == 3 and {trial.state for trial in resumed.trials} == {"complete"}


def test_a_trial_that_a_gate_stops_is_pruned(recipe: str, tmp_path: Path) -> None:
    gate = 'gates=[{epoch=1, metric="val_cosine", green=0.99, red=0.98, action="stop"}]'
    with pytest.raises(
        StoppedError, match=r"all 2 trials were pruned\. Reason of the first: stopped by a gate after epoch 1"
    ):
        swept(recipe, tmp_path, gate, trials=2)
    assert (tmp_path / "sweep/trial-000/report.html").is_file() and not (tmp_path / "sweep" / BEST_RECIPE).exists()


def test_a_trial_below_the_median_is_pruned(recipe: str, tmp_path: Path) -> None:
    space = ("training.lr=1e-9,1e-3",)
    result = swept(recipe, tmp_path, "model.dropout=0", space=space, trials=9)
    pruned = [trial for trial in result.trials if trial.state == "pruned"]
    assert pruned and all("below the median of the other trials" in trial.reason for trial in pruned)
    assert result.trials[0].state == "complete"


def test_invalid_input_is_rejected_before_the_folder_is_created(
    recipe: str, tmp_path: Path, toy_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for space, message in (
        (("training.lrr=1..2",), "Did you mean 'lr'"),
        (("training.lr=-1..1",), r"training\.lr: input should be greater than 0"),
        (("training.batch_size=32,many",), "training.batch_size"),
    ):
        with pytest.raises(RecipeError, match=message) as raised:
            swept(recipe, tmp_path, space=space)
        assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="must be at least 1"):
        swept(recipe, tmp_path, trials=0)
    with pytest.raises(StoreError):
        swept(recipe, tmp_path, f"data.store='{tmp_path / 'none'}'")
    with monkeypatch.context() as patch, pytest.raises(MissingExtraError, match=r"pip install 'nextvec\[sweep\]'"):
        patch.setitem(__import__("sys").modules, "optuna", None)
        swept(recipe, tmp_path)
    assert not (tmp_path / "sweep").exists()


def test_a_folder_with_other_content_is_rejected(recipe: str, tmp_path: Path) -> None:
    swept(recipe, tmp_path, trials=1)
    with pytest.raises(InputError, match="belongs to another recipe or space"):
        swept(recipe, tmp_path, space=("training.lr=1e-4..1e-3:log",), trials=1)
    with pytest.raises(InputError, match="belongs to another recipe or space"):
        swept(recipe, tmp_path, "seed=5", trials=1)
    (tmp_path / "sweep" / SWEEP_FILE).write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        swept(recipe, tmp_path, trials=1)
    (tmp_path / "sweep" / SWEEP_FILE).unlink()
    with pytest.raises(InputError, match="contains no sweep"):
        swept(recipe, tmp_path, trials=1)
