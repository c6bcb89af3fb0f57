"""AdamW and the learning rate.

The rate is a pure function of the step and of the validation results so far: a schedule has no state of its own, so a
resumed run can't drift from an unbroken one.

The running average of the weights: smoother than the last step's, it is what is validated, saved and judged.

Source: Polyak & Juditsky 1992; with the ramp of Tarvainen & Valpola 2017 (mean teacher), so that a fresh start is
forgotten within a few steps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nextvec.models.base import LatentModel
from nextvec.models.pooling import NO_DECAY_SUFFIXES
from nextvec.recipe import TrainingRecipe

FLOOR = 0.01
"""The cosine schedule ends at this share of the highest rate; plateaus never fall below it."""


def make_optimizer(model: nn.Module, recipe: TrainingRecipe) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), weight decay on matrices only: biases and norms have nothing to shrink.

    Nor have the numbers that the steered means start as. The query's matrices have a decay of their own.
    """
    names: dict[float, list[nn.Parameter]] = {recipe.weight_decay: [], 0.0: [], recipe.query_weight_decay: []}
    for name, parameter in model.named_parameters():
        shrinks = parameter.ndim >= 2 and not name.endswith(NO_DECAY_SUFFIXES)
        decay = recipe.query_weight_decay if name.startswith("query_head.") else recipe.weight_decay
        names[decay if shrinks else 0.0].append(parameter)
    groups = [{"params": parameters, "weight_decay": decay} for decay, parameters in names.items() if parameters]
    # Fused: one kernel for all parameters, and it can skip an update on the device (see `found_inf` in the loop).
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)


def rate_at(step: int, total_steps: int, recipe: TrainingRecipe, scores: Sequence[float]) -> float:
    """The learning rate of step `step` (from 0) of `total_steps`.

    `scores` are the validation scores of the finished epochs, higher is better; only the plateau schedule reads them.
    """
    warmup_steps = round(recipe.warmup * total_steps)
    if step < warmup_steps:
        return recipe.lr * (step + 1) / warmup_steps
    if recipe.schedule == "cosine":
        done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return recipe.lr * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))
    if recipe.schedule == "plateau":
        return recipe.lr * max(FLOOR, 0.5 ** plateaus(scores, recipe.patience))
    return recipe.lr


def plateaus(scores: Sequence[float], patience: int) -> int:
    """How often `patience` epochs in a row brought no new best score."""
    count, waited, best = 0, 0, -math.inf
    for score in scores:
        if score > best:
            best, waited = score, 0
            continue
        waited += 1
        if waited == patience:
            count, waited = count + 1, 0
    return count


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the learning rate `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class Average:
    """Follows a model: average ← d · average + (1 − d) · weights at step t, d the less of `decay` and t / (t + 9)."""

    def __init__(self, model: LatentModel, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        """The average, a model of its own."""
        self._decay = decay
        self._followed, self._own = _tensors(model), _tensors(self.model)

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take in the weights as they are after step `step` (from 1)."""
        decay = min(self._decay, step / (step + 9))
        torch._foreach_lerp_(self._own, self._followed, 1 - decay)


def _tensors(model: LatentModel) -> list[Tensor]:
    return list(model.parameters())
