import itertools
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from nextvec.recipe import TrainingRecipe
from nextvec.training.optimizer import (
    MIN_RATE_FRACTION,
    count_plateaus,
    learning_rate_at,
    make_optimizer,
    set_learning_rate,
)


def test_the_cosine_schedule_warms_up_and_falls_to_its_lower_limit() -> None:
    recipe = TrainingRecipe(lr=2e-3, warmup=0.1, schedule="cosine")
    rates = [learning_rate_at(step, 1000, recipe, []) for step in range(1000)]
    assert rates[0] == pytest.approx(2e-3 / 100)
    assert max(rates) == pytest.approx(2e-3) and rates.index(max(rates)) in (99, 100)
    assert all(earlier < later for earlier, later in itertools.pairwise(rates[:100]))
    assert all(earlier >= later for earlier, later in itertools.pairwise(rates[100:]))
    assert rates[550] == pytest.approx(2e-3 * (MIN_RATE_FRACTION + (1 - MIN_RATE_FRACTION) * 0.5), rel=1e-6)
    assert rates[-1] == pytest.approx(2e-3 * MIN_RATE_FRACTION, rel=0.01)


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    assert learning_rate_at(0, 10, TrainingRecipe(warmup=0.0, schedule="cosine"), []) == TrainingRecipe().lr


def test_the_plateau_schedule_halves_the_rate_after_patience_epochs() -> None:
    assert count_plateaus([0.1, 0.2, 0.2, 0.2], patience=2) == 1
    assert count_plateaus([0.1, 0.2, 0.2, 0.3, 0.2], patience=2) == 0
    assert count_plateaus([0.5, 0.1, 0.1, 0.1, 0.1], patience=2) == 2
    recipe = TrainingRecipe(schedule="plateau", patience=2, warmup=0.0, lr=1e-3)
    assert learning_rate_at(50, 100, recipe, [0.1, 0.2, 0.2, 0.2]) == pytest.approx(5e-4)
    assert learning_rate_at(50, 100, recipe, [0.9] + [0.1] * 100) == pytest.approx(1e-3 * MIN_RATE_FRACTION)


def test_the_constant_schedule_never_changes() -> None:
    recipe = TrainingRecipe(schedule="constant", warmup=0.0)
    assert {learning_rate_at(step, 10, recipe, [0.1, 0.1]) for step in range(10)} == {recipe.lr}


def test_weight_decay_applies_to_matrices_only() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = make_optimizer(model, TrainingRecipe(weight_decay=0.5, lr=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in model.named_parameters():
        shrunk = before[name] * (1 - 0.1 * 0.5) if value.ndim == 2 else before[name]
        assert torch.allclose(value, shrunk), name


def test_the_first_step_is_that_of_the_published_adamw() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    model = nn.ParameterList([weight])
    optimizer = make_optimizer(model, TrainingRecipe(lr=0.01, weight_decay=0.1))
    weight.grad = torch.tensor([[0.5, -3.0]])
    optimizer.step()
    expected = torch.tensor([[1.0, -2.0]]) * (1 - 0.01 * 0.1) - 0.01 * torch.tensor([[1.0, -1.0]])
    assert torch.allclose(weight, expected, atol=1e-6)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5]
    assert math.isclose(optimizer.param_groups[0]["weight_decay"], 0.1)


def test_an_update_does_not_import_the_compiler() -> None:
    """torch._dynamo takes two seconds to import, and 70 MB; the updates are those of torch's own AdamW."""
    script = """
import sys, torch
from nextvec.recipe import TrainingRecipe
from nextvec.training.optimizer import make_optimizer

def train(make):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 3)
    optimizer = make(model)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    return model.weight

recipe = TrainingRecipe()
weight = train(lambda model: make_optimizer(model, recipe))
assert "torch._dynamo" not in sys.modules

def make_own(model):
    groups = make_optimizer(model, recipe).param_groups
    settings = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in groups]
    return torch.optim.AdamW(settings, lr=recipe.lr, fused=True)

assert torch.equal(weight, train(make_own))
"""
    subprocess.run([sys.executable, "-c", script], check=True)
