"""The training loop, straight down: gather, predict, weigh the terms, step; after each epoch validate, log, save.

The order of windows is a pure function of (seed, epoch), the rate of (step, history): the only state is in the weights,
the optimizer, the random generator and the position, all of which `save_position` writes. A run that is interrupted and
resumed is bit-equal on the CPU to one that never stopped.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from nextvec import ops
from nextvec.core.console import progress
from nextvec.core.device import autocast, peak_memory
from nextvec.core.formatting import Status
from nextvec.core.run_paths import BEST_MODEL, epoch_file
from nextvec.data.windows import Batch, epoch_order, sample
from nextvec.errors import Interrupted, StoppedError
from nextvec.evaluation.metrics import score_windows
from nextvec.guards.diagnosis import diagnose
from nextvec.guards.diagnosis.case import Case, Diagnosis
from nextvec.guards.gates import GateVerdict, epochs_without_improvement, evaluate_gates, selection_score
from nextvec.guards.sentinel import sentinel_lines
from nextvec.training.checkpoint import save_checkpoint
from nextvec.training.optimizer import rate_at, set_rate
from nextvec.training.run import Run, save_position
from nextvec.training.signals import stop_signals
from nextvec.training.step import FiniteGuard
from nextvec.training.text_log import epoch_lines

STEP_EVENTS_PER_EPOCH = 20
LOSS_WINDOWS = 20_000
"""Validation windows (a fixed sample) that the terms of the objective are reported on; cosines use all of them."""


def train(run: Run, after_epoch: Callable[[Run], None] | None = None) -> None:
    """Train until the recipe's epochs are done or a rule ends the run.

    `after_epoch` is called when an epoch is finished and saved, and may raise to end the run there.
    Raises Interrupted after a signal and StoppedError at a red gate that stops, both with everything saved, and
    NotFiniteError before an update with NaN or infinity.
    """
    try:
        with stop_signals() as stop:
            while not run.position.done:
                _train_epoch(run, stop)
                _finish_epoch(run)
                if after_epoch is not None:
                    after_epoch(run)
    except BaseException:
        run.close()  # it may be taken up again at once
        raise


def _train_epoch(run: Run, stop: threading.Event) -> None:
    recipe, position, windows = run.recipe.training, run.position, run.train_windows
    order = epoch_order(len(windows), run.recipe.seed, position.epoch).to(run.device)
    scores, guard = _scores(run), FiniteGuard(run.optimizer, run.device)
    parameters = run.model.prediction_parameters()
    mirrored_steps = round(recipe.reverse_augmentation * run.total_steps)
    event_every = max(1, run.steps_per_epoch // STEP_EVENTS_PER_EPOCH)
    saved_at = clock = time.monotonic()
    run.model.train()
    name = f"epoch {position.epoch + 1}/{recipe.epochs}"
    with progress(name, run.steps_per_epoch * recipe.batch_size, unit="windows", quiet=run.quiet) as shown:
        shown.advance(position.step_in_epoch * recipe.batch_size)
        while position.step_in_epoch < run.steps_per_epoch:
            start = position.step_in_epoch * recipe.batch_size
            index = order[start : start + recipe.batch_size]
            mirrored = recipe.batch_size // 2 if position.step < mirrored_steps else 0
            batch = windows.batch(index, mirrored)
            with autocast(run.device, run.precision):
                prediction_BD = run.model(batch.context_BSD, batch.mask_BS)
            figures = run.objective.backward(prediction_BD, batch.target_BD, batch.group_B)
            norms = [_clip(parameters, recipe.grad_clip_norm)]
            if run.model.has_query:
                figures |= _learn_query(run, index, batch, recipe.batch_size - mirrored)
                norms.append(_clip(run.model.query_parameters(), recipe.grad_clip_norm))
            figures["grad_norm"] = norms[0]
            losses = [value for name, value in figures.items() if name.startswith("loss")]
            guard.look([*losses, *norms], position.step)
            logged = (position.step_in_epoch + 1) % event_every == 0
            _require_finite(run, guard.broken_at(logged=logged), Step(batch, prediction_BD, figures))

            set_rate(run.optimizer, rate_at(position.step, run.total_steps, recipe, scores))
            run.optimizer.step()
            run.optimizer.zero_grad(set_to_none=True)
            if run.average is not None:
                run.average.follow(position.step + 1)
            _add_up(position.sums, figures)
            position.step += 1
            position.step_in_epoch += 1
            shown.advance(recipe.batch_size)
            now = time.monotonic()
            position.seconds, clock = position.seconds + now - clock, now

            # Every twentieth of an epoch: how it goes, for whoever watches.
            if logged:
                run.event("step", lr=run.optimizer.param_groups[0]["lr"], **_train_means(run))
            # Now and then: a place to resume from.
            if now - saved_at > recipe.checkpoint_interval_s:
                _require_finite(run, guard.broken_at(logged=True))
                save_position(run)
                saved_at = now
            if stop.is_set():
                _require_finite(run, guard.broken_at(logged=True))
                save_position(run)
                run.event("interrupted")
                run.write_history("interrupted")
                raise Interrupted(f"interrupted; go on with: nextvec resume {run.path}")
    _require_finite(run, guard.broken_at(logged=True))


def _add_up(sums: dict[str, Tensor], figures: dict[str, Tensor]) -> None:
    """Add a step's figures to the epoch's sums, on the device and in one go."""
    for figure, value in figures.items():
        sums.setdefault(figure, torch.zeros_like(value))
    torch._foreach_add_([sums[figure] for figure in figures], list(figures.values()))


def _learn_query(run: Run, index: Tensor, batch: Batch, straight: int) -> dict[str, Tensor]:
    """The gradient of the query output; it is clipped by itself, so that it never shortens that of the prediction.

    A query always looks ahead, so that it learns from the first `straight` windows at most: the others are mirrored.
    """
    some = slice(max(1, min(straight, round(run.recipe.objective.query_batch_fraction * len(index)))))
    mask_QS = None if batch.mask_BS is None else batch.mask_BS[some]
    with autocast(run.device, run.precision):
        query_QD = run.model.raw_query(batch.context_BSD[some], mask_QS)
    wrong_QKD, any_wrong_Q = run.train_windows.sample_document_negatives(index[some], run.objective.query_negatives)
    return run.objective.backward_query(query_QD, batch.target_BD, wrong_QKD, any_wrong_Q, batch.group_B)


def _finish_epoch(run: Run) -> None:
    """Validate, log, save, and decide whether training is over."""
    run.require_finite_weights()
    recipe, position = run.recipe.training, run.position
    record: dict[str, Any] = {"epoch": position.epoch + 1, "step": position.step}
    record |= _train_means(run)
    for split in ("val", "ood"):
        if split in run.sets:
            record |= _validate(run, split)
    record["lr"] = run.optimizer.param_groups[0]["lr"]
    record["best"] = selection_score(run.recipe, record) > max(_scores(run), default=-math.inf)
    record["seconds"] = position.seconds
    record["windows_per_second"] = run.steps_per_epoch * recipe.batch_size / position.seconds
    record["memory_mb"] = peak_memory(run.device)

    position.epoch += 1
    position.step_in_epoch = 0
    position.seconds = 0.0
    position.sums = {}
    position.history.append(record)
    verdicts = evaluate_gates(run.recipe, position.history, run.baseline_cosines)
    record["gates"] = [verdict.to_dict() for verdict in verdicts]
    if any(verdict.status == Status.RED for verdict in verdicts):
        record["diagnoses"] = [item.to_dict() for item in _diagnose(run)]
    waited = epochs_without_improvement(_scores(run))
    stopped_early = bool(recipe.early_stop) and waited >= recipe.early_stop
    position.done = position.epoch == recipe.epochs or stopped_early

    run.log.write("epoch", **record)
    for verdict in verdicts:
        run.log.write("gate", step=position.step, **verdict.to_dict())
    run.say(*epoch_lines(record, run.recipe))
    run.say_sentinel(*sentinel_lines(record))
    checkpoint = {**run.describe(), "model_state_dict": run.result.state_dict()}
    if recipe.keep_epochs:
        save_checkpoint(run.path / epoch_file(position.epoch), checkpoint)
    if record["best"]:
        save_checkpoint(run.path / BEST_MODEL, checkpoint)
    if stopped_early:
        run.say(f"stopped early: {recipe.best_metric} has not improved for {waited} epochs")
    if position.done:
        run.event("trained", best_epoch=_best_epoch(run))
    red = next((verdict for verdict in verdicts if verdict.stops), None)
    if red is not None:
        _stop(run, red)
    run.write_history("trained" if position.done else "running")
    save_position(run)


def _stop(run: Run, red: GateVerdict) -> NoReturn:
    """End a run at a red gate: say why, save everything, and raise StoppedError."""
    position = run.position
    diagnosis = next((item.line for item in _diagnose(run) if item.status == Status.RED), "")
    position.stopped = ". ".join(part.rstrip(".") for part in (red.reason, diagnosis or red.advice) if part) + "."
    who = "the sentinel" if red.is_sentinel else "a gate"
    line = f"stopped by {who} after epoch {position.epoch}: {position.stopped}"
    run.event("stopped", reason=red.reason, diagnosis=diagnosis, advice=red.advice)
    run.say(line, shown=False)
    if red.is_sentinel:
        run.say_sentinel(line)
    run.write_history("stopped", stopped=position.stopped)
    save_position(run)
    raise StoppedError(f"{line} Everything is saved. To continue anyway: nextvec resume {run.path} --force")


def _diagnose(run: Run) -> tuple[Diagnosis, ...]:
    """What fits a run that a gate calls red, the worst and surest first."""
    case = Case(run.recipe, run.position.history, run.baseline_cosines, check=run.check.to_dict())
    return diagnose(case).items


def _validate(run: Run, split: str) -> dict[str, Any]:
    """Score the model on a split as the judge will, in float32 and without dropout."""
    run.result.eval()
    scores = score_windows(run.result, run.sets[split].vectors, run.sets[split].windows)
    if not scores.is_finite:
        run.fail(f"the model's predictions on {split} are not finite", "lower training.lr and start again")
    baseline, level = run.best_baseline(split)
    figures: dict[str, Any] = {
        f"{split}_cosine": scores.mean_cosine,
        f"{split}_gain": scores.mean_cosine - level,
        f"{split}_best_baseline": f"{baseline} {level:.4f}",
        f"{split}_margin": scores.mean_margin,
    }
    if split == "val":
        figures |= _validation_loss(run)
    return figures


@torch.inference_mode()
def _validation_loss(run: Run) -> dict[str, float]:
    """The terms of the objective on a fixed shuffled sample of the validation windows, batched as in training."""
    windows, size = run.sets["val"], run.recipe.training.batch_size
    chosen = sample(len(windows), LOSS_WINDOWS, run.recipe.seed)
    chosen = chosen[epoch_order(len(chosen), run.recipe.seed, 0)].to(run.device)
    losses: dict[str, list[Tensor]] = {}
    parts = chosen.split(size)
    for index in parts:
        batch = windows.batch(index)
        prediction_BD = run.result(batch.context_BSD, batch.mask_BS)
        values = run.objective.values(prediction_BD, batch.target_BD, batch.group_B)
        values["loss"] = run.objective.loss(values)
        for name, value in values.items():
            if name.startswith("loss"):
                losses.setdefault(name, []).append(value)
    # The host waits once for each figure, not once for each batch.
    means = {name: zip(torch.stack(found).tolist(), parts, strict=True) for name, found in losses.items()}
    return {
        f"val_{name}": sum(value * len(part) for value, part in pairs) / len(chosen) for name, pairs in means.items()
    }


def _train_means(run: Run) -> dict[str, float]:
    """The means of the epoch's training figures so far, under their names in logs and history."""
    position = run.position
    # The host waits once for all figures, not once for each.
    totals = torch.stack(list(position.sums.values())).tolist()
    means = {name: total / position.step_in_epoch for name, total in zip(position.sums, totals, strict=True)}
    return {name if name.startswith(("share", "grad")) else f"train_{name}": mean for name, mean in means.items()}


def _scores(run: Run) -> list[float]:
    return [selection_score(run.recipe, record) for record in run.position.history]


def _best_epoch(run: Run) -> int:
    scores = _scores(run)
    return 1 + scores.index(max(scores))


def _clip(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Scale the gradient down to norm `limit` (0: leave it) and return the norm that it had, 0-dim, on the device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = ops.norm(gradients).detach()
    # On a processor, where looking costs nothing, a gradient that is short enough isn't multiplied by 1.
    if limit and (norm.device.type != "cpu" or norm + 1e-6 > limit):
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


class Step(NamedTuple):
    """What a step read and made."""

    batch: Batch
    prediction_BD: Tensor
    figures: dict[str, Tensor]


def _require_finite(run: Run, broken_at: int | None, step: Step | None = None) -> None:
    """Stop a run whose update at `broken_at` was not made; `step` helps to say what the first bad number was."""
    if broken_at is None:
        return
    where = f"not finite at epoch {run.position.epoch + 1}, step {broken_at}"
    if step is not None:
        for vectors in (step.batch.context_BSD, step.batch.target_BD):
            if not torch.isfinite(vectors).all():
                run.fail(f"a vector of the data is {where}", "see 'nextvec data check'")
        if not torch.isfinite(step.prediction_BD).all():
            run.fail(f"a prediction is {where}", "lower training.lr")
        for name, value in step.figures.items():
            if name.startswith("loss") and not torch.isfinite(value):
                run.fail(f"the {name} is {where}", "lower training.lr or check the data")
    run.fail(f"the gradient is {where}", "lower training.lr or check the data")
