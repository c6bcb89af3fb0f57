"""A run in memory: its folder, its data, its networks and its training state.

The folder contains `recipe.toml` (resolved), `events.jsonl` (the source of truth), `training.log` and
`training_history.json` (views of it), the checkpoints, and `baselines.pt` (fitted once, so that every later
evaluation uses the same baselines).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from nextvec.core.console import show
from nextvec.core.events import Event, EventLog, read_events
from nextvec.core.files import append_lines, lock, write_json, writing
from nextvec.core.formatting import Status
from nextvec.core.run_paths import EVENTS_FILE, HISTORY_FILE, SENTINEL_LOG, TRAINING_LOG
from nextvec.core.streams import take_failures
from nextvec.data.checks import CheckReport
from nextvec.data.dataset import Dataset
from nextvec.data.seen_rows import SeenRows
from nextvec.data.windows import WindowSet
from nextvec.distributed.process_group import ALONE, ProcessGroup
from nextvec.errors import NotFiniteError
from nextvec.guards.diagnosis import diagnose
from nextvec.guards.diagnosis.case import Case, Diagnosis
from nextvec.guards.gates import epochs_without_improvement, selection_score
from nextvec.losses import Objective
from nextvec.models.registry import LatentModel
from nextvec.recipe import Recipe
from nextvec.training.optimizer import WeightAverage
from nextvec.training.state import TrainingState
from nextvec.training.step import FiniteGuard

STEP_EVENTS_PER_EPOCH = 20
"""Step events per epoch: enough for a live curve, and a GPU waits this rarely for the host."""


class RunLock:
    """Locks a run folder for one trainer until `release`; the system releases the lock of a killed process.

    As a context manager it releases the lock only if the block fails.
    """

    def __init__(self, folder: Path) -> None:
        """Raises OutputError if another trainer has locked the folder."""
        with writing(folder):
            self._descriptor = os.open(folder, os.O_RDONLY)
        try:
            lock(self._descriptor, f"run {folder}: another process is training it. Wait for it to end, or stop it")
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the lock; may be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        if kind is not None:
            self.release()

    __del__ = release


@dataclass
class Run:
    """An open run: `start_run` or `resume_run` return it, `train` trains it."""

    path: Path
    recipe: Recipe
    data: Dataset
    device: torch.device
    precision: torch.dtype
    sets: dict[str, WindowSet]
    """Split → its windows, on the device; splits without windows are left out."""
    train_windows: WindowSet
    """The windows that the network is trained on: those of train, and shorter ones if the recipe asks for them.
    Baselines are fitted on the windows of train alone."""
    check: CheckReport
    model: LatentModel
    """The network that the optimizer updates."""
    ema: WeightAverage | None
    """The moving average of the weights, if the recipe asks for one."""
    optimizer: torch.optim.AdamW
    objective: Objective
    baselines: dict[str, LatentModel] = field(default_factory=dict)
    baseline_cosines: dict[str, dict[str, float]] = field(default_factory=dict)
    """Split → baseline → mean cosine."""
    baseline_mrr: dict[str, float] = field(default_factory=dict)
    """Baseline → MRR on val, on the windows on which the query is validated; empty if the model has no query."""
    seen_rows: SeenRows = field(default_factory=SeenRows)
    """The rows that the weights were trained on: those of this run, and of the ancestors of a warm start."""
    state: TrainingState = field(default_factory=TrainingState)
    processes: ProcessGroup = ALONE
    """The processes that train this run together. Only the main one writes and prints."""
    quiet: bool = False
    notices: tuple[str, ...] = ()
    """Warnings to log when the run starts or resumes, such as a device that does not exist."""
    lock: RunLock | None = None
    _events: EventLog | None = None

    def __post_init__(self) -> None:
        """Prepare what every step uses."""
        self.guard = FiniteGuard(self.optimizer, self.device)
        self.parameters: list[nn.Parameter] = list(self.model.parameters())
        self.prediction_parameters: list[nn.Parameter] = self.model.prediction_parameters()
        self.query_parameters: list[nn.Parameter] = self.model.query_parameters()

    @property
    def events(self) -> EventLog:
        """The event log, opened on first use."""
        if self._events is None:
            self._events = EventLog(self.path / EVENTS_FILE)
        return self._events

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training windows."""
        return len(self.train_windows) // self.recipe.training.batch_size

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.recipe.training.epochs

    @property
    def is_log_step(self) -> bool:
        """Whether a step event follows the step that is due."""
        interval = max(1, self.steps_per_epoch // STEP_EVENTS_PER_EPOCH)
        return (self.state.step_in_epoch + 1) % interval == 0

    @property
    def eval_model(self) -> LatentModel:
        """The network that is validated and saved: the moving average if there is one, else the model."""
        return self.model if self.ema is None else self.ema.model

    @property
    def learning_rate(self) -> float:
        """The learning rate of the last step."""
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    @property
    def scores(self) -> list[float]:
        """The validation score of each finished epoch; higher is better."""
        return [selection_score(self.recipe, metrics) for metrics in self.state.history]

    @property
    def stops_early(self) -> bool:
        """Whether the validation score has not improved for as many epochs as early stopping waits."""
        patience = self.recipe.training.early_stop
        return bool(patience) and epochs_without_improvement(self.scores) >= patience

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to train: all epochs are finished, or early stopping ends the run."""
        at_epoch_end = self.state.step_in_epoch == 0
        return self.state.epoch >= self.recipe.training.epochs or (at_epoch_end and self.stops_early)

    def best_baseline(self, split: str) -> tuple[str, float]:
        """Return name and mean cosine of the best baseline on a split."""
        cosines = self.baseline_cosines[split]
        name = max(cosines, key=lambda baseline: cosines[baseline])
        return name, cosines[name]

    def diagnose(self, events: Sequence[Event] = ()) -> tuple[Diagnosis, ...]:
        """Return the known problems that match the run so far, most severe and most confident first."""
        case = Case(
            self.recipe, self.state.history, self.baseline_cosines, check=self.check.to_dict(), events=list(events)
        )
        return diagnose(case).items

    def log(self, *lines: str, shown: bool = True) -> None:
        """Append lines to training.log and, unless `shown` is False, print them on standard error."""
        if not self.processes.is_main:
            return
        append_lines(self.path / TRAINING_LOG, lines)
        show(lines, quiet=self.quiet or not shown)
        # A display that has gone is recorded once; it never ends the run.
        for failure in take_failures():
            self.warn(failure)

    def log_sentinel(self, *lines: str) -> None:
        """Append lines to ood_sentinel.log."""
        append_lines(self.path / SENTINEL_LOG, lines)

    def warn(self, message: str, status: Status = Status.AMBER) -> None:
        """Log a warning and record it as an event; red if the run's scores will be worthless."""
        self.event("warning", text=message, status=status)
        self.log(f"warning: {message}")

    def event(self, kind: str, **fields: Any) -> None:
        """Append an event with the current epoch and step."""
        if not self.processes.is_main:
            return
        self.events.write(kind, epoch=self.state.epoch, step=self.state.step, **fields)

    def fail(self, reason: str, advice: str) -> NoReturn:
        """Abort the run because of a non-finite value: record it and raise NotFiniteError."""
        if not self.processes.is_main:
            raise NotFiniteError(reason)
        self.event("failed", reason=reason)
        self.write_history("failed")
        red = [item for item in self.diagnose(read_events(self.path)) if item.status == Status.RED]
        diagnosis = f"Diagnosis: {red[0].title} ({red[0].confidence}). " if red else ""
        raise NotFiniteError(f"{reason}. {diagnosis}The last good weights are kept in {self.path}. {advice}")

    def require_finite_weights(self) -> None:
        """Raise NotFiniteError if the last update made a weight non-finite: such weights are never saved."""
        for name, value in self.model.state_dict().items():
            if not torch.isfinite(value).all():
                self.fail(f"the weights {name} are not finite after step {self.state.step}", "Lower training.lr.")

    def close(self) -> None:
        """Close the event log and release the lock. The run stays readable, and its log opens again when needed."""
        if self._events is not None:
            self._events.close()
            self._events = None
        if self.lock is not None:
            self.lock.release()

    def metadata(self) -> dict[str, Any]:
        """Return what a checkpoint contains besides the weights: recipe, data, space, context, progress, seen rows."""
        return {
            "model_type": self.recipe.model.kind,
            "model_config": self.model.config,
            "recipe": self.recipe.to_toml(),
            "recipe_hash": self.recipe.recipe_hash,
            "data": {
                "store": self.recipe.data.store,
                "store_hash": self.data.store_hash,
                "ood": self.recipe.data.ood,
                "ood_store_hash": self.data.ood_store_hash,
                "synthetic": self.data.synthetic,
            },
            "space": self.data.store.space.to_dict(),
            "encoder": self.data.store.encoder_name,
            "chunker": self.data.store.manifest.get("chunker", {}),
            "context": self.recipe.data.context,
            "epoch": self.state.epoch,
            "step": self.state.step,
            "metrics": self.state.history[-1] if self.state.history else {},
            "seen_rows": self.seen_rows.to_values(),
            "version": version("nextvec"),
        }

    def write_history(self, status: str, **facts: Any) -> None:
        """Write training_history.json: status, baselines and the metrics of each epoch."""
        if not self.processes.is_main:
            return
        content = {
            "name": self.recipe.name,
            "status": status,
            "recipe_hash": self.recipe.recipe_hash,
            "store_hash": self.data.store_hash,
            "synthetic": self.data.synthetic,
            "baselines": self.baseline_cosines,
            **facts,
            "start": self.state.start,
            "epochs": self.state.history,
        }
        write_json(self.path / HISTORY_FILE, content)
