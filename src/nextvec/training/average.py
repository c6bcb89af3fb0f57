"""The running average of the weights: smoother than the last step's, it is what is validated, saved and judged.

Source: Polyak & Juditsky 1992; with the ramp of Tarvainen & Valpola 2017 (mean teacher), so that a fresh start is
forgotten within a few steps.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from nextvec.models.base import LatentModel


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
