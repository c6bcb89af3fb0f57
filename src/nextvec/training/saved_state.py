"""The state of a run that `resume.pt` contains: everything that the rest of the run depends on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nextvec.core.run_paths import PREVIOUS_STATE, RESUME_STATE
from nextvec.data.order import ORDER_VERSION
from nextvec.data.seen_rows import SeenRows
from nextvec.errors import CheckpointError
from nextvec.models.checkpoint import Checkpoint
from nextvec.models.load_weights import load_weights
from nextvec.training.checkpoint import save_checkpoint
from nextvec.training.run import Run
from nextvec.training.state import SelectedOutput, TrainingState


def save_state(run: Run) -> None:
    """Write resume.pt, which contains everything that the rest of the run depends on.

    The file before it is kept as resume_previous.pt. Raises NotFiniteError, and writes nothing, if the last update made
    a weight non-finite.
    """
    if not run.processes.is_main:
        return
    run.require_finite_weights()
    # First the events: after a power cut the log may be ahead of the checkpoint, never behind it.
    run.events.sync()
    save_checkpoint(run.path / RESUME_STATE, current_state(run), previous=run.path / PREVIOUS_STATE)


def current_state(run: Run) -> dict[str, Any]:
    """Return the values of resume.pt."""
    state = run.state
    training = {
        "optimizer": run.optimizer.state_dict(),
        "random_state": _random_state(run.device),
        "order_version": ORDER_VERSION,
        "epoch": state.epoch,
        "step_in_epoch": state.step_in_epoch,
        "step": state.step,
        "epoch_seconds": state.epoch_seconds,
        "metric_sums": state.metric_sums,
        "start": state.start,
        "history": state.history,
        "selected": {output: kept._asdict() for output, kept in state.selected.items()},
        "is_done": state.is_done,
        "stop_reason": state.stop_reason,
        "baseline_cosines": run.baseline_cosines,
        "baseline_mrr": run.baseline_mrr,
    }
    if run.ema is not None:
        training["ema"] = run.ema.model.state_dict()
    return {**run.metadata(), "model_state_dict": run.model.state_dict(), "training": training}


def restore_state(run: Run, saved: Checkpoint) -> None:
    """Restore what `save_state` wrote.

    Raises CheckpointError if the checkpoint lacks a part of it, or was saved in another order of windows.
    """
    _require_same_order(saved)
    try:
        training = saved.values["training"]
        load_weights(run.model, saved.weights, strict=True)
        if run.ema is not None:
            load_weights(run.ema.model, training["ema"], strict=True)
        run.optimizer.load_state_dict(training["optimizer"])
        run.state = TrainingState(
            epoch=training["epoch"],
            step_in_epoch=training["step_in_epoch"],
            step=training["step"],
            epoch_seconds=training["epoch_seconds"],
            metric_sums={name: total.to(run.device) for name, total in training["metric_sums"].items()},
            start=training["start"],
            history=training["history"],
            selected={output: SelectedOutput(**kept) for output, kept in training["selected"].items()},
            is_done=training["is_done"],
            stop_reason=training["stop_reason"],
        )
        run.baseline_cosines = training["baseline_cosines"]
        run.baseline_mrr = training["baseline_mrr"]
        run.seen_rows = SeenRows.from_values(saved.values["seen_rows"])
        random_state = training["random_state"]
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"checkpoint {saved.path}: the training state is incomplete ({error!r}). Resume from resume.pt"
        ) from error
    _restore_random_state(random_state, run.device)


def _require_same_order(saved: Checkpoint) -> None:
    """Raise CheckpointError if the rest of the saved epoch would have other windows than it started with."""
    training = saved.values.get("training")
    version = training.get("order_version", 1) if isinstance(training, dict) else ORDER_VERSION
    if version != ORDER_VERSION:
        raise CheckpointError(
            f"checkpoint {saved.path}: saved with version {version!r:.20} of the order of windows, but this nextvec "
            f"has version {ORDER_VERSION}. Train the run again"
        )


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's random generators on the CPU and on the device."""
    random_state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        random_state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        random_state["mps"] = torch.mps.get_rng_state()
    return random_state


def _restore_random_state(random_state: dict[str, Tensor], device: torch.device) -> None:
    """Restore what `_random_state` returned; a state of another kind of device is ignored."""
    torch.set_rng_state(random_state["cpu"])
    if "cuda" in random_state and device.type == "cuda":
        torch.cuda.set_rng_state(random_state["cuda"], device)
    if "mps" in random_state and device.type == "mps":
        torch.mps.set_rng_state(random_state["mps"])
