"""The training loop.

The order of windows is a pure function of (seed, epoch), the learning rate of (step, history). The only state is in
the weights, the optimizer, the random generator and `run.state`, all of which `save_state` writes. So a run that is
interrupted and resumed is bit-equal on the CPU to one that never stopped.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

from nextvec.core.console import progress
from nextvec.core.device import peak_memory
from nextvec.core.formatting import Status
from nextvec.core.run_paths import BEST_MODEL, epoch_file
from nextvec.data.windows import epoch_order, sample
from nextvec.errors import Interrupted, StoppedError
from nextvec.evaluation.metrics import score_windows
from nextvec.guards.gates import GateVerdict, epochs_without_improvement, evaluate_gates, selection_score
from nextvec.guards.sentinel import sentinel_lines
from nextvec.training.checkpoint import save_checkpoint
from nextvec.training.run import EpochMetrics, Run, save_state
from nextvec.training.signals import stop_signals
from nextvec.training.step import require_finite_step, train_step
from nextvec.training.text_log import epoch_lines

LOSS_WINDOWS = 20_000
"""Validation windows (a fixed sample) for the loss terms, which cost more than cosines; cosines use all windows."""


def train(run: Run, after_epoch: Callable[[Run], None] | None = None) -> None:
    """Train until the recipe's epochs are done, a gate stops the run, or a signal arrives.

    `after_epoch` is called after each epoch is saved; an exception that it raises ends the run.
    Raises Interrupted after a signal and StoppedError at a gate that stops, both with everything saved, and
    NotFiniteError before an update with NaN or infinity.
    """
    recipe, state = run.recipe.training, run.state
    try:
        with stop_signals() as stop:
            while not state.is_done:
                train_epoch(run, stop)

                # Validation: from here on the epoch is part of the history.
                run.require_finite_weights()
                metrics = _finish_epoch(run)

                # Gates: compare the metrics with the recipe's thresholds.
                verdicts = evaluate_gates(run.recipe, state.history, run.baseline_cosines)
                metrics["gates"] = [verdict.to_dict() for verdict in verdicts]
                if any(verdict.status == Status.RED for verdict in verdicts):
                    metrics["diagnoses"] = [diagnosis.to_dict() for diagnosis in run.diagnose()]

                # Early stopping.
                state.is_done = run.is_complete

                # Logging.
                run.events.write("epoch", **metrics)
                for verdict in verdicts:
                    run.events.write("gate", step=state.step, **verdict.to_dict())
                run.log(*epoch_lines(metrics, run.recipe))
                run.log_sentinel(*sentinel_lines(metrics))

                # Saving: the epoch's checkpoint, the best one, and the state to resume from.
                _save_checkpoints(run, is_best=metrics["best"])
                if run.stops_early:
                    epochs_waited = epochs_without_improvement(run.scores)
                    run.log(f"stopped early: {recipe.best_metric} has not improved for {epochs_waited} epochs")
                if state.is_done:
                    run.event("trained", best_epoch=1 + run.scores.index(max(run.scores)))
                if (red := next((verdict for verdict in verdicts if verdict.stops), None)) is not None:
                    _stop_at_gate(run, red)
                run.write_history("trained" if state.is_done else "running")
                save_state(run)
                if after_epoch is not None:
                    after_epoch(run)
    except BaseException:
        run.close()  # releases the lock, so that the run can be resumed at once
        raise


def train_epoch(run: Run, stop: threading.Event) -> None:
    """Train the rest of the current epoch. Raises Interrupted, with everything saved, when `stop` is set."""
    recipe, state = run.recipe.training, run.state
    order = epoch_order(len(run.train_windows), run.recipe.seed, state.epoch).to(run.device)
    run.model.train()
    title = f"epoch {state.epoch + 1}/{recipe.epochs}"
    last_save = clock = time.monotonic()
    with progress(title, run.steps_per_epoch * recipe.batch_size, unit="windows", quiet=run.quiet) as bar:
        bar.advance(state.step_in_epoch * recipe.batch_size)
        while state.step_in_epoch < run.steps_per_epoch:
            start = state.step_in_epoch * recipe.batch_size
            is_log_step = run.is_log_step
            metrics = train_step(run, order[start : start + recipe.batch_size])
            now = time.monotonic()
            state.add_step(metrics, seconds=now - clock)
            clock = now
            bar.advance(recipe.batch_size)

            # Logging: the means of the epoch so far.
            if is_log_step:
                run.event("step", lr=run.learning_rate, **state.train_means())

            # Checkpoint: a state to resume from, every `checkpoint_interval_s` seconds.
            if now - last_save > recipe.checkpoint_interval_s:
                require_finite_step(run)
                save_state(run)
                last_save = now

            # Interruption: save, then end.
            if stop.is_set():
                require_finite_step(run)
                save_state(run)
                run.event("interrupted")
                run.write_history("interrupted")
                raise Interrupted(f"Interrupted. Everything is saved. To continue: nextvec resume {run.path}")
    require_finite_step(run)


def _finish_epoch(run: Run) -> EpochMetrics:
    """Validate, append the epoch's metrics to the history, and return them."""
    state = run.state
    metrics: EpochMetrics = {"epoch": state.epoch + 1, "step": state.step, **state.train_means()}
    for split in ("val", "ood"):
        if split in run.sets:
            metrics |= validate(run, split)
    metrics["lr"] = run.learning_rate
    metrics["best"] = selection_score(run.recipe, metrics) > max(run.scores, default=-math.inf)
    metrics["seconds"] = state.epoch_seconds
    metrics["windows_per_second"] = run.steps_per_epoch * run.recipe.training.batch_size / state.epoch_seconds
    metrics["memory_mb"] = peak_memory(run.device)
    state.start_next_epoch(metrics)
    return metrics


def validate(run: Run, split: str) -> EpochMetrics:
    """Score the model on a split with the same code as the final evaluation: float32, without dropout."""
    run.eval_model.eval()
    scores = score_windows(run.eval_model, run.sets[split].vectors, run.sets[split].windows)
    if not scores.is_finite:
        run.fail(f"the model's predictions on {split} are not finite", "Lower training.lr and start again.")
    baseline, cosine = run.best_baseline(split)
    metrics: EpochMetrics = {
        f"{split}_cosine": scores.mean_cosine,
        f"{split}_gain": scores.mean_cosine - cosine,
        f"{split}_best_baseline": f"{baseline} {cosine:.4f}",
        f"{split}_margin": scores.mean_margin,
    }
    return metrics | (_validation_losses(run) if split == "val" else {})


@torch.inference_mode()
def _validation_losses(run: Run) -> dict[str, float]:
    """Return the loss terms on a fixed shuffled sample of the validation windows, batched as in training."""
    windows = run.sets["val"]
    index_W = sample(len(windows), LOSS_WINDOWS, run.recipe.seed)
    index_W = index_W[epoch_order(len(index_W), run.recipe.seed, 0)].to(run.device)
    batches = index_W.split(run.recipe.training.batch_size)
    losses: dict[str, list[Tensor]] = {}
    for index_B in batches:
        batch = windows.batch(index_B)
        prediction_BD = run.eval_model(batch.context_BSD, batch.mask_BS)
        values = run.objective.values(prediction_BD, batch.target_BD, batch.group_B)
        values["loss"] = run.objective.loss(values)
        for name, value in values.items():
            if name.startswith("loss"):
                losses.setdefault(name, []).append(value)
    # Mean over windows: the last batch is smaller. One wait for the device per loss, not one per batch.
    means = {}
    for name, values_per_batch in losses.items():
        pairs = zip(torch.stack(values_per_batch).tolist(), batches, strict=True)
        means[f"val_{name}"] = sum(value * len(index_B) for value, index_B in pairs) / len(index_W)
    return means


def _save_checkpoints(run: Run, *, is_best: bool) -> None:
    """Save the validated weights as the epoch's checkpoint and, if they are the best so far, as best_model.pt."""
    checkpoint = {**run.metadata(), "model_state_dict": run.eval_model.state_dict()}
    if run.recipe.training.keep_epochs:
        save_checkpoint(run.path / epoch_file(run.state.epoch), checkpoint)
    if is_best:
        save_checkpoint(run.path / BEST_MODEL, checkpoint)


def _stop_at_gate(run: Run, red: GateVerdict) -> NoReturn:
    """Log why a red gate ends the run, save everything, and raise StoppedError."""
    state = run.state
    diagnosis = next((item.line for item in run.diagnose() if item.status == Status.RED), "")
    state.stop_reason = ". ".join(part.rstrip(".") for part in (red.reason, diagnosis or red.advice) if part) + "."
    guard = "the sentinel" if red.is_sentinel else "a gate"
    line = f"stopped by {guard} after epoch {state.epoch}: {state.stop_reason}"
    run.event("stopped", reason=red.reason, diagnosis=diagnosis, advice=red.advice)
    run.log(line, shown=False)
    if red.is_sentinel:
        run.log_sentinel(line)
    run.write_history("stopped", stopped=state.stop_reason)
    save_state(run)
    raise StoppedError(f"{line} Everything is saved. To continue anyway: nextvec resume {run.path} --force")
