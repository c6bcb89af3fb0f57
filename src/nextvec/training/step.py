"""One training step: forward, backward, clipping, optimizer.

No step waits for the device. Whether a gradient is finite is decided on the device: the fused optimizer reads the
answer there (`found_inf`, made for gradient scalers) and skips the update. The host asks for the answer only when it
waits anyway: before metrics are logged and before anything is saved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nextvec.core.device import autocast
from nextvec.data.windows import Batch
from nextvec.distributed.process_group import own_randomness
from nextvec.training.optimizer import learning_rate_at, set_learning_rate
from nextvec.training.update import gradient_norm, update_weights

if TYPE_CHECKING:
    from nextvec.training.run import Run

Metrics = dict[str, Tensor]
"""Name → 0-dim tensor on the device."""


def train_step(run: Run, index_B: Tensor) -> Metrics:
    """Update the weights on the training windows at positions `index_B` (B,) and return the step's metrics.

    The metrics are the losses, `cosine`, the gradient shares and `grad_norm`, of the whole batch.
    If several processes train, each computes its share of the batch; the sum of their gradients is that of the batch.
    Raises NotFiniteError before the update if a loss or gradient is NaN or infinite; on a GPU only at logged steps.
    """
    recipe, step = run.recipe.training, run.state.step
    # Reverse augmentation: in the first steps of the run, half of each batch is read backwards.
    is_augmented = step < round(recipe.reverse_augmentation * run.total_steps)
    reversed_count = recipe.batch_size // 2 if is_augmented else 0
    batch = _read_share(run, index_B, reversed_count)

    # Prediction: forward, then the gradient of the weighted objective.
    with own_randomness(run.processes, run.recipe.seed, step, run.device), autocast(run.device, run.precision):
        prediction_PD = run.model(batch.context_BSD, batch.mask_BS)
    metrics = run.objective.backward(prediction_PD, batch.target_BD, batch.group_B)

    # Query: an output with its own parameters, clipped separately so that it never shortens the gradient above.
    if run.model.has_query:
        metrics |= _backward_query(run, index_B, batch, recipe.batch_size - reversed_count)
    if not run.processes.is_alone:
        _sum_gradients(run, metrics)
    norms = [gradient_norm(run.prediction_parameters)]
    if run.model.has_query:
        norms.append(gradient_norm(run.query_parameters))
    metrics["grad_norm"] = norms[0]

    # Non-finite guard: after the first non-finite step, no update is applied.
    losses = [value for name, value in metrics.items() if name.startswith("loss")]
    run.guard.check([*losses, *norms], step)
    require_finite_step(run, wait=run.is_log_step, outputs=StepOutputs(batch, prediction_PD, metrics))

    # Update: clipping, AdamW, moving average.
    set_learning_rate(run.optimizer, learning_rate_at(step, run.total_steps, recipe, run.scores))
    update_weights(run, norms)
    return metrics


def _read_share(run: Run, index_B: Tensor, reversed_count: int) -> Batch:
    """Return this process's windows of the batch (all of them if it is alone), with the targets and groups of all."""
    processes = run.processes
    if processes.is_alone:
        return run.train_windows.batch(index_B, reversed_count)
    positions_P = processes.share(torch.arange(len(index_B)))
    own_reversed = int((positions_P >= len(index_B) - reversed_count).sum())
    own = run.train_windows.batch(processes.share(index_B), own_reversed)
    return Batch(own.context_BSD, *run.train_windows.targets(index_B, reversed_count), own.mask_BS)


def _backward_query(run: Run, index_B: Tensor, batch: Batch, forward_count: int) -> Metrics:
    """Add the gradient of the query loss to the query's parameters and return the loss.

    The query learns from the first `query_batch_fraction` of the batch. The query always looks for the next chunk, so
    only the first `forward_count` windows can be used; the others are read backwards.
    """
    processes, seed = run.processes, run.recipe.seed
    total = max(1, min(forward_count, round(run.recipe.objective.query_batch_fraction * len(index_B))))
    own_count = len(processes.share(torch.arange(total)))
    mask_QS = None if batch.mask_BS is None else batch.mask_BS[:own_count]
    query_QD = None
    if own_count:  # none in the last of many processes, if the batch is small
        with own_randomness(processes, seed, -1 - run.state.step, run.device), autocast(run.device, run.precision):
            query_QD = run.model.raw_query(batch.context_BSD[:own_count], mask_QS)
    # Hard negatives: later chunks of the same document. All processes draw the same numbers.
    negatives_QKD, has_negatives_Q = run.train_windows.sample_later_chunks(
        index_B[:total], run.objective.query_negatives, slice(processes.rank, None, processes.size)
    )
    if query_QD is None:
        return {"loss_query": torch.zeros((), device=run.device)}
    return run.objective.backward_query(query_QD, batch.target_BD, negatives_QKD, has_negatives_Q, batch.group_B, total)


def _sum_gradients(run: Run, metrics: Metrics) -> None:
    """Replace gradients and query loss by their sums over all processes, and agree whether to stop after this step."""
    parameters = [*run.prediction_parameters, *run.query_parameters]
    wants_stop = torch.tensor(float(run.processes.wants_stop), device=run.device)
    loss_query = metrics.get("loss_query", wants_stop)
    votes, loss_query = run.processes.sum_gradients(parameters, (wants_stop, loss_query))
    # On a GPU, reading the votes waits for the step; a signal may wait until a step that is logged.
    if run.device.type == "cpu" or run.is_log_step:
        run.processes.stops = bool(votes > 0)
    if "loss_query" in metrics:
        metrics["loss_query"] = loss_query


class FiniteGuard:
    """Stops all updates of one fused optimizer after the first non-finite loss or gradient."""

    def __init__(self, optimizer: torch.optim.AdamW, device: torch.device) -> None:
        self._is_broken = torch.zeros((), device=device)
        self._broken_step = torch.zeros((), device=device)
        self._reading_waits = device.type != "cpu"
        optimizer.found_inf = self._is_broken  # type: ignore[attr-defined]

    def check(self, values: list[Tensor], step: int) -> None:
        """Record whether the losses and gradient norms (0-dim) of step `step` are finite; call before its update."""
        is_finite = torch.stack(values).isfinite().all()
        if not self._reading_waits and is_finite:
            return
        # Only the first non-finite step is recorded.
        self._broken_step += torch.where(is_finite | (self._is_broken > 0), 0.0, float(step))
        self._is_broken.copy_(torch.where(is_finite, self._is_broken, 1.0))

    def broken_step(self, *, wait: bool) -> int | None:
        """Return the first non-finite step; None if there is none, or if the answer needs a wait and `wait` is False.

        Reading a value on a GPU waits for all work queued there; on the CPU nothing waits.
        """
        if self._reading_waits and not wait:
            return None
        return int(self._broken_step) if self._is_broken else None


class StepOutputs(NamedTuple):
    """The tensors of a step that can contain its first non-finite value."""

    batch: Batch
    prediction_PD: Tensor
    metrics: Metrics


def require_finite_step(run: Run, *, wait: bool = True, outputs: StepOutputs | None = None) -> None:
    """Raise NotFiniteError if a loss or gradient was NaN or infinite; `outputs` helps to name the cause."""
    broken_step = run.guard.broken_step(wait=wait)
    if broken_step is None:
        return
    where = f"not finite at epoch {run.state.epoch + 1}, step {broken_step}"
    if outputs is not None:
        # In the order of computation, so that the first cause is named.
        for vectors in (outputs.batch.context_BSD, outputs.batch.target_BD):
            if not torch.isfinite(vectors).all():
                run.fail(f"a vector of the data is {where}", "Run 'nextvec data check'.")
        if not torch.isfinite(outputs.prediction_PD).all():
            run.fail(f"a prediction is {where}", "Lower training.lr.")
        for name, value in outputs.metrics.items():
            if name.startswith("loss") and not torch.isfinite(value):
                run.fail(f"{name} is {where}", "Lower training.lr or check the data.")
    run.fail(f"the gradient is {where}", "Lower training.lr or check the data.")
