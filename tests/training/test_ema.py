"""The moving average of the weights: its formula, and that a run validates, saves and evaluates it."""

from pathlib import Path

import pytest
import torch

from nextvec.core.run_paths import BEST_MODEL, RESUME_STATE
from nextvec.models.checkpoint import read_checkpoint
from nextvec.models.registry import create_model
from nextvec.recipe import ModelRecipe, Recipe, make_recipe
from nextvec.training import loop
from nextvec.training.evaluate import evaluate_best
from nextvec.training.optimizer import WeightAverage
from nextvec.training.setup import start_run


def test_the_average_follows_its_formula() -> None:
    model = create_model(ModelRecipe(), 8)
    average = WeightAverage(model, 0.7)
    expected = {name: value.detach().double() for name, value in model.named_parameters()}
    for step in range(1, 40):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        decay = min(0.7, step / (step + 9))
        assert average.decay_at(step) == decay
        average.update(decay)
        for name, value in model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * value.detach().double()
    for name, value in average.model.named_parameters():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5)
        assert not value.requires_grad


def test_a_run_validates_saves_and_evaluates_the_average(
    toy_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(toy_recipe.model_dump(exclude_none=True), ["training.ema_decay=0.9", "training.lr=0.01"])
    run = start_run(recipe, tmp_path / "run", quiet=True)
    steps: list[int] = []
    decay_at = WeightAverage.decay_at
    monkeypatch.setattr(WeightAverage, "decay_at", lambda self, step: steps.append(step) or decay_at(self, step))
    loop.train(run)
    assert steps == list(range(1, run.total_steps + 1))

    last = read_checkpoint(run.path / "epoch_3.pt").weights
    saved = read_checkpoint(run.path / RESUME_STATE)
    assert all(torch.equal(last[name], value) for name, value in saved.values["training"]["ema"].items())
    assert not all(torch.equal(last[name], value) for name, value in saved.weights.items()), "the model's own differ"
    evaluated = evaluate_best(run).splits["val"].predictors["amn"].cosine.value
    assert evaluated == read_checkpoint(run.path / BEST_MODEL).values["metrics"]["val_cosine"]
