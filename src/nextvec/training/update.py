"""The update of a step: clipping, AdamW and the moving average of the weights, on the CPU in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nextvec import ops

if TYPE_CHECKING:
    from nextvec.training.run import Run

CLIP_EPSILON = 1e-6
"""Added to a norm before the division, as in `torch.nn.utils.clip_grad_norm_`."""


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return the norm of all gradients of parameters, 0-dim, on the device."""
    return ops.norm([parameter.grad for parameter in parameters if parameter.grad is not None]).detach()


@torch.no_grad()
def update_weights(run: Run, norms: Sequence[Tensor]) -> None:
    """Update the weights and their average from the gradients, and forget the gradients.

    `norms` are those of the prediction's gradients and, if the model has a query, of the query's. Each output's
    gradients are clipped to `training.grad_clip_norm` (0: no clipping). Nothing changes after a non-finite step.
    """
    decay = 0.0 if run.ema is None else run.ema.decay_at(run.state.step + 1)
    if not _update_natively(run, norms, decay):
        outputs = (run.prediction_parameters, run.query_parameters)
        for parameters, norm in zip(outputs, norms, strict=False):
            clip_gradients(parameters, run.recipe.training.grad_clip_norm, norm)
        run.optimizer.step()
        if run.ema is not None:
            run.ema.update(decay)
    for parameter in run.parameters:
        parameter.grad = None


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float, norm: Tensor) -> None:
    """Scale gradients of the norm `norm` down to `max_norm` (0: no clipping)."""
    # On the CPU reading the norm is free, so a short gradient is not multiplied by 1.
    if max_norm and (norm.device.type != "cpu" or norm + CLIP_EPSILON > max_norm):
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)


def _update_natively(run: Run, norms: Sequence[Tensor], average_decay: float) -> bool:
    """Do the whole update in one native operation; return False, and change nothing, if there is none."""
    if run.device.type != "cpu":
        return False
    if run.guard.broken_step(wait=True) is not None:
        return True
    max_norm, optimizer = run.recipe.training.grad_clip_norm, run.optimizer
    factors = [min(1.0, max_norm / (float(norm) + CLIP_EPSILON)) if max_norm else 1.0 for norm in norms]
    # Which factor and which average a parameter has.
    averages: Sequence[Tensor | None] = [None] * len(run.parameters) if run.ema is None else run.ema.averages
    average_of = dict(zip(run.parameters, averages, strict=True))
    is_query = set(run.query_parameters)
    updates = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = optimizer.state[parameter]
            if not state:
                # The state of torch.optim.AdamW before its first step.
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            update = ops.WeightUpdate(
                parameter,
                parameter.grad,
                state["exp_avg"],
                state["exp_avg_sq"],
                average_of[parameter],
                state["step"],
                factors[parameter in is_query],
                group["weight_decay"],
            )
            updates.append(update)
    settings = optimizer.param_groups[0]
    return ops.update_weights(
        updates, rate=settings["lr"], betas=settings["betas"], epsilon=settings["eps"], average_decay=average_decay
    )
