"""The training loop.

The order of windows is a pure function of (seed, epoch), the learning rate of (step, history). The only state is in
the weights, the optimizer, the random generator and `run.state`, all of which `save_state` writes. So a run that is
interrupted and resumed is bit-equal on the CPU to one that never stopped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NoReturn

from nextvec.core.console import progress
from nextvec.core.device import peak_memory
from nextvec.core.formatting import Status
from nextvec.core.run_paths import BEST_MODEL, epoch_file
from nextvec.data.order import EpochOrder
from nextvec.distributed.process_group import ProcessLostError
from nextvec.errors import Interrupted, StoppedError
from nextvec.guards.gates import GateVerdict, epochs_without_improvement, evaluate_gates
from nextvec.guards.sentinel import sentinel_lines
from nextvec.training.checkpoint import save_checkpoint
from nextvec.training.orders import TrainOrder
from nextvec.training.run import Run
from nextvec.training.saved_state import save_state
from nextvec.training.selection import best_checkpoint, log_trained, select_outputs
from nextvec.training.signals import ignore_stop_signals, stop_signals
from nextvec.training.state import EpochMetrics
from nextvec.training.step import require_finite_step, train_step
from nextvec.training.text_log import epoch_lines
from nextvec.training.validation import validate


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
                run.processes.broadcast(TrainOrder(state.history))
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
                _save_checkpoints(run, metrics)
                if run.stops_early:
                    epochs_waited = epochs_without_improvement(run.scores)
                    run.log(f"stopped early: {recipe.best_metric} has not improved for {epochs_waited} epochs")
                if state.is_done:
                    log_trained(run)
                if (red := next((verdict for verdict in verdicts if verdict.stops), None)) is not None:
                    _stop_at_gate(run, red)
                run.write_history("trained" if state.is_done else "running")
                save_state(run)
                if after_epoch is not None:
                    after_epoch(run)
    except ProcessLostError as error:
        ignore_stop_signals()  # torchrun ends this process too, but not before it says why
        run.event("interrupted")
        run.write_history("interrupted")
        run.close()
        raise ProcessLostError(f"{error} To continue from the last saved state: nextvec resume {run.path}") from error
    except BaseException:
        run.close()  # releases the lock, so that the run can be resumed at once
        raise


def train_epoch(run: Run, stop: threading.Event) -> None:
    """Train the rest of the current epoch. Raises Interrupted, with everything saved, when `stop` is set."""
    recipe, state = run.recipe.training, run.state
    order = EpochOrder(len(run.train_windows), run.recipe.seed, state.epoch)
    batches = order.batches(recipe.batch_size, state.step_in_epoch, run.device)
    run.model.train()
    title = f"epoch {state.epoch + 1}/{recipe.epochs}"
    last_save = clock = time.monotonic()
    with progress(title, run.steps_per_epoch * recipe.batch_size, unit="windows", quiet=run.quiet) as bar:
        bar.advance(state.step_in_epoch * recipe.batch_size)
        while state.step_in_epoch < run.steps_per_epoch:
            is_log_step = run.is_log_step
            run.processes.wants_stop = stop.is_set()
            metrics = train_step(run, next(batches))
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
            if run.processes.stops or (run.processes.is_alone and stop.is_set()):
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
    metrics |= select_outputs(run, metrics)
    metrics["seconds"] = state.epoch_seconds
    metrics["windows_per_second"] = run.steps_per_epoch * run.recipe.training.batch_size / state.epoch_seconds
    metrics["memory_mb"] = peak_memory(run.device)
    state.start_next_epoch(metrics)
    return metrics


def _save_checkpoints(run: Run, metrics: EpochMetrics) -> None:
    """Save the validated weights as the epoch's checkpoint and, if an output is the best so far, best_model.pt."""
    improved = {metrics["best"], metrics.get("query_best", metrics["best"])}
    best = best_checkpoint(run) if True in improved or metrics["epoch"] == 1 else None
    if run.recipe.training.keep_epochs:
        # If both outputs are the best, the two files are equal, and each can replace the other if it is damaged.
        values = {**run.metadata(), "model_state_dict": run.eval_model.state_dict()}
        if best is not None and improved == {True}:
            values = best
        save_checkpoint(run.path / epoch_file(run.state.epoch), values)
    if best is not None:
        save_checkpoint(run.path / BEST_MODEL, best)


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
