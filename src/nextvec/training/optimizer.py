"""AdamW, the learning-rate schedules, and the moving average of the weights.

The learning rate is a pure function of the step and of the validation scores so far. A schedule has no state of its
own, so a resumed run can't differ from an uninterrupted one.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nextvec.models.base import QUERY_PREFIX, LatentModel
from nextvec.models.pooling import NO_DECAY_SUFFIXES
from nextvec.recipe import TrainingRecipe

MIN_RATE_FRACTION = 0.01
"""Lower limit of the learning rate as a fraction of `training.lr`: smaller steps no longer change the scores."""


class EagerAdamW(torch.optim.AdamW):
    """AdamW whose methods are not wrapped for `torch.compile`.

    A wrapped method imports torch._dynamo when it is called: two seconds of every start, and 70 MB.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


for _name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
    setattr(EagerAdamW, _name, inspect.unwrap(getattr(torch.optim.AdamW, _name)))


def make_optimizer(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov & Hutter 2019) with weight decay on matrices only, not on biases and norms.

    The initial values of the weighted means are not decayed either. The query's matrices have a decay of their own.
    """
    groups: dict[float, list[nn.Parameter]] = {recipe.weight_decay: [], 0.0: [], recipe.query_weight_decay: []}
    for name, parameter in model.named_parameters():
        has_decay = parameter.ndim >= 2 and not name.endswith(NO_DECAY_SUFFIXES)
        decay = recipe.query_weight_decay if name.startswith(QUERY_PREFIX) else recipe.weight_decay
        groups[decay if has_decay else 0.0].append(parameter)
    settings = [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items() if parameters]
    # Fused: one kernel for all parameters, and it can skip an update on the device (`found_inf`, see FiniteGuard).
    return EagerAdamW(settings, lr=recipe.lr, fused=True)


def learning_rate_at(step: int, total_steps: int, recipe: TrainingRecipe, scores: Sequence[float]) -> float:
    """Return the learning rate of step `step` (from 0) of `total_steps`.

    `scores` are the validation scores of the finished epochs, higher is better; only the plateau schedule reads them.
    """
    # Linear warm-up.
    warmup_steps = round(recipe.warmup * total_steps)
    if step < warmup_steps:
        return recipe.lr * (step + 1) / warmup_steps
    # Then half a cosine down to the lower limit, a halving at each plateau, or a constant rate.
    if recipe.schedule == "cosine":
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return recipe.lr * (MIN_RATE_FRACTION + (1 - MIN_RATE_FRACTION) * 0.5 * (1 + math.cos(math.pi * progress)))
    if recipe.schedule == "plateau":
        return recipe.lr * max(MIN_RATE_FRACTION, 0.5 ** count_plateaus(scores, recipe.patience))
    return recipe.lr


def count_plateaus(scores: Sequence[float], patience: int) -> int:
    """Return how often `patience` epochs in a row brought no new best score."""
    count, waited, best = 0, 0, -math.inf
    for score in scores:
        if score > best:
            best, waited = score, 0
            continue
        waited += 1
        if waited == patience:
            count, waited = count + 1, 0
    return count


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class WeightAverage:
    """Exponential moving average of a model's weights: a ← d · a + (1 − d) · w at step t, d = min(decay, t / (t + 9)).

    The average varies less than the last step's weights; it is validated, saved and evaluated. The ramp of d makes it
    forget the random start within a few steps.

    Source: Polyak & Juditsky 1992; the ramp is that of Tarvainen & Valpola 2017 (mean teacher).
    """

    def __init__(self, model: LatentModel, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        """A separate model with the averaged weights."""
        self._source = model
        self._decay = decay
        self._weights: list[Tensor] = list(model.parameters())
        self.averages: list[Tensor] = list(self.model.parameters())
        """The averages in the order of the model's parameters."""

    def restart(self) -> None:
        """Set the average to the present weights, such as those of a warm start."""
        self.model.load_state_dict(self._source.state_dict())

    def decay_at(self, step: int) -> float:
        """Return d of step `step` (from 1)."""
        return min(self._decay, step / (step + 9))

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Include the weights as they are now: a ← d · a + (1 − d) · w."""
        torch._foreach_lerp_(self.averages, self._weights, 1 - decay)
