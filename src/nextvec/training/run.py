"""A run: its folder, what it trains on, and where it stands.

The folder holds `recipe.toml` (resolved), `events.jsonl` (the truth), `training.log` and `training_history.json` (views
of it), the checkpoints, and `baselines.pt` (fitted once, so that every later judgement uses the same ones).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from torch import Tensor

from nextvec.core.events import EventLog, read_events
from nextvec.core.files import lock, write_json, writing
from nextvec.core.formatting import Status
from nextvec.core.run_paths import EVENTS_FILE, HISTORY_FILE, PREVIOUS_STATE, RESUME_STATE, SENTINEL_LOG, TRAINING_LOG
from nextvec.data.checks import CheckReport
from nextvec.data.dataset import Dataset
from nextvec.data.windows import WindowSet
from nextvec.errors import CheckpointError, NotFiniteError
from nextvec.guards.diagnosis import diagnose
from nextvec.guards.diagnosis.case import Case
from nextvec.losses import Objective
from nextvec.models.load_weights import load_weights
from nextvec.models.registry import LatentModel
from nextvec.recipe import Recipe
from nextvec.training.checkpoint import Checkpoint, save_checkpoint
from nextvec.training.optimizer import Average


@dataclass
class Position:
    """Where a run stands: everything that changes while it trains, besides weights and optimizer."""

    epoch: int = 0
    """Finished epochs."""
    step_in_epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    """Time spent on the epoch's steps so far."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Sum over the epoch's steps so far of each training figure, 0-dim float64 on the CPU or float32 on a device."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One record for each finished epoch."""
    done: bool = False
    """Whether training is over (all epochs, or stopped early)."""
    stopped: str = ""
    """Why a gate stopped the run; empty where none did."""


class FolderHold:
    """Keeps the folder of a run for one trainer, from its making until `release`; a killed process lets go of it.

    As a context it releases only if the block fails.
    """

    def __init__(self, folder: Path) -> None:
        """Raises OutputError if another trainer is at work in the folder."""
        with writing(folder):
            self._descriptor = os.open(folder, os.O_RDONLY)
        try:
            lock(self._descriptor, f"run {folder}: another trainer is at work there; wait until it is done, or stop it")
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let others in; may be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> FolderHold:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        if kind is not None:
            self.release()

    __del__ = release


@dataclass
class Run:
    """An open run: made by `start_run` or `resume_run`, moved on by `train`."""

    path: Path
    recipe: Recipe
    data: Dataset
    device: torch.device
    precision: torch.dtype
    sets: dict[str, WindowSet]
    """Split → its windows, on the device; splits without windows are left out."""
    train_windows: WindowSet
    """What the network is trained on: those of train, and shorter ones where the recipe says so; baselines are fitted
    on those of train alone."""
    check: CheckReport
    model: LatentModel
    """What the optimizer moves."""
    average: Average | None
    """What follows the model, where the recipe asks for it."""
    optimizer: torch.optim.AdamW
    objective: Objective
    baselines: dict[str, LatentModel]
    baseline_cosines: dict[str, dict[str, float]]
    """Split → baseline → mean cosine."""
    position: Position
    quiet: bool = False
    hold: FolderHold | None = None
    """Keeps other trainers out of the folder."""

    @cached_property
    def log(self) -> EventLog:
        """The event log, opened on first use."""
        return EventLog(self.path / EVENTS_FILE)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training windows."""
        return len(self.train_windows) // self.recipe.training.batch_size

    @property
    def result(self) -> LatentModel:
        """The network that is validated and saved: the average where there is one, else the model."""
        return self.model if self.average is None else self.average.model

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.recipe.training.epochs

    def best_baseline(self, split: str) -> tuple[str, float]:
        """Name and mean cosine of the best baseline on a split."""
        cosines = self.baseline_cosines[split]
        name = max(cosines, key=lambda baseline: cosines[baseline])
        return name, cosines[name]

    def say(self, *lines: str, shown: bool = True) -> None:
        """Append lines to training.log, and show them unless something else does."""
        _append(self.path / TRAINING_LOG, lines)
        show(lines, quiet=self.quiet or not shown)

    def say_sentinel(self, *lines: str) -> None:
        """Append lines to ood_sentinel.log."""
        _append(self.path / SENTINEL_LOG, lines)

    def warn(self, text: str) -> None:
        """Say what a reader of the run must know, in the events too."""
        self.event("warning", text=text)
        self.say(f"warning: {text}")

    def event(self, kind: str, **fields: Any) -> None:
        """Append an event with the run's position."""
        self.log.write(kind, epoch=self.position.epoch, step=self.position.step, **fields)

    def fail(self, reason: str, advice: str) -> NoReturn:
        """End the run because of a number that is none: note it, and raise NotFiniteError."""
        self.event("failed", reason=reason)
        self.write_history("failed")
        found = diagnose(
            Case(self.recipe, self.position.history, self.baseline_cosines, events=read_events(self.path))
        ).items
        named = next(
            (f"diagnosis: {item.title} ({item.confidence}); " for item in found if item.status == Status.RED), ""
        )
        raise NotFiniteError(f"{reason}; {named}the last good weights are kept in {self.path}; {advice}")

    def require_finite_weights(self) -> None:
        """Raise NotFiniteError if the last update made a weight NaN or infinite: such weights are never saved."""
        for name, value in self.model.state_dict().items():
            if not torch.isfinite(value).all():
                self.fail(f"the weights {name} are not finite after step {self.position.step}", "lower training.lr")

    def close(self) -> None:
        """Close the log and let others into the folder; the run can be read further, and its log opens again."""
        if "log" in self.__dict__:
            self.__dict__.pop("log").close()
        if self.hold is not None:
            self.hold.release()

    def describe(self) -> dict[str, Any]:
        """What a checkpoint says of the run besides the weights: recipe, data, space, context, position."""
        return {
            "model_type": self.recipe.model.kind,
            "model_config": self.model.config,
            "recipe": self.recipe.to_toml(),
            "recipe_hash": self.recipe.recipe_hash,
            "data": self.describe_data(),
            "space": self.data.store.space.to_dict(),
            "context": self.recipe.data.context,
            "epoch": self.position.epoch,
            "step": self.position.step,
            "metrics": self.position.history[-1] if self.position.history else {},
            "version": version("nextvec"),
        }

    def describe_data(self) -> dict[str, Any]:
        """What a checkpoint says of its data."""
        return {
            "store": self.recipe.data.store,
            "store_hash": self.data.store_hash,
            "ood": self.recipe.data.ood,
            "ood_store_hash": self.data.ood_store_hash,
            "synthetic": self.data.synthetic,
        }

    def write_history(self, status: str, **facts: Any) -> None:
        """Write training_history.json: status, baselines and one record for each epoch."""
        content = {
            "name": self.recipe.name,
            "status": status,
            "recipe_hash": self.recipe.recipe_hash,
            "store_hash": self.data.store_hash,
            "synthetic": self.data.synthetic,
            "baselines": self.baseline_cosines,
            **facts,
            "epochs": self.position.history,
        }
        write_json(self.path / HISTORY_FILE, content)


def _append(path: Path, lines: tuple[str, ...]) -> None:
    with writing(path), path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write("".join(f"{line}\n" for line in lines))


def show(lines: tuple[str, ...], *, quiet: bool = False) -> None:
    """Print lines for people, on standard error."""
    console = Console(stderr=True, quiet=quiet, highlight=False, markup=False)
    for line in lines:
        console.print(line, soft_wrap=True)


def save_position(run: Run) -> None:
    """Write resume.pt: everything that the rest of the run depends on. What it held is kept as resume_previous.pt.

    Raises NotFiniteError, and writes nothing, if the last update made a weight NaN or infinite.
    """
    position = run.position
    run.require_finite_weights()
    random = {"cpu": torch.get_rng_state()}
    if run.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(run.device)
    if run.device.type == "mps":
        random["mps"] = torch.mps.get_rng_state()
    training = {
        "optimizer": run.optimizer.state_dict(),
        "random": random,
        "epoch": position.epoch,
        "step_in_epoch": position.step_in_epoch,
        "step": position.step,
        "seconds": position.seconds,
        "sums": position.sums,
        "history": position.history,
        "done": position.done,
        "stopped": position.stopped,
        "baseline_cosines": run.baseline_cosines,
    }
    if run.average is not None:
        training["average"] = run.average.model.state_dict()
    run.log.sync()
    save_checkpoint(
        run.path / RESUME_STATE,
        {**run.describe(), "model_state_dict": run.model.state_dict(), "training": training},
        keep=run.path / PREVIOUS_STATE,
    )


def restore(run: Run, saved: Checkpoint) -> None:
    """Put a run into the state that `save_position` wrote."""
    try:
        training = saved.values["training"]
        load_weights(run.model, saved.weights, strict=True)
        if run.average is not None:
            load_weights(run.average.model, training["average"], strict=True)
        run.optimizer.load_state_dict(training["optimizer"])
        run.position = Position(
            training["epoch"], training["step_in_epoch"], training["step"], training["seconds"],
            {name: total.to(run.device) for name, total in training["sums"].items()},
            training["history"], training["done"], training["stopped"],
        )  # fmt: skip
        run.baseline_cosines = training["baseline_cosines"]
        random = training["random"]
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"checkpoint {saved.path}: no complete position of a run in it ({error!r})") from error
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and run.device.type == "cuda":
        torch.cuda.set_rng_state(random["cuda"], run.device)
    if "mps" in random and run.device.type == "mps":
        torch.mps.set_rng_state(random["mps"])
