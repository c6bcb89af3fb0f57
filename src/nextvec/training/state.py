"""What changes during training, apart from weights, optimizer and random generators."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from nextvec.training.step import Metrics

EpochMetrics = dict[str, Any]
"""The metrics of a finished epoch, as in training_history.json."""


class SelectedOutput(NamedTuple):
    """The weights of one output of the model at the epoch where it scored highest on val; see `selection`."""

    epoch: int
    """0 is the start, before the first step."""
    weights: dict[str, Tensor]
    """Name → tensor on the CPU, of the output's own part of the model's state dict."""


@dataclass
class TrainingState:
    """Everything that changes during training, apart from weights, optimizer and random generators."""

    epoch: int = 0
    """Finished epochs."""
    step_in_epoch: int = 0
    step: int = 0
    epoch_seconds: float = 0.0
    """Time spent on the current epoch's steps."""
    metric_sums: Metrics = field(default_factory=dict)
    """Sum of each training metric over the current epoch's steps: 0-dim, on the device."""
    start: EpochMetrics = field(default_factory=dict)
    """The validation metrics before the first step, as epoch 0."""
    history: list[EpochMetrics] = field(default_factory=list)
    """The metrics of each finished epoch."""
    selected: dict[str, SelectedOutput] = field(default_factory=dict)
    """Output → the best weights so far, which best_model.pt contains."""
    is_done: bool = False
    """Whether training is over: all epochs are finished, or early stopping ended it."""
    stop_reason: str = ""
    """Why a gate stopped the run; empty if none did."""

    def add_step(self, metrics: Metrics, seconds: float) -> None:
        """Count one step and add its metrics to the epoch's sums, on the device, in one fused operation."""
        for name, value in metrics.items():
            if name not in self.metric_sums:
                self.metric_sums[name] = torch.zeros_like(value)
        torch._foreach_add_([self.metric_sums[name] for name in metrics], list(metrics.values()))
        self.step += 1
        self.step_in_epoch += 1
        self.epoch_seconds += seconds

    def train_means(self) -> dict[str, float]:
        """Return the means of the current epoch's training metrics, under their names in logs and history."""
        # The host waits for the device once for all metrics, not once for each.
        totals = torch.stack(list(self.metric_sums.values())).tolist()
        means = {name: total / self.step_in_epoch for name, total in zip(self.metric_sums, totals, strict=True)}
        return {name if name.startswith(("share", "grad")) else f"train_{name}": mean for name, mean in means.items()}

    def record(self, epoch: int) -> EpochMetrics:
        """Return the metrics of a finished epoch; of epoch 0, those of the start."""
        return self.history[epoch - 1] if epoch else self.start

    def start_next_epoch(self, metrics: EpochMetrics) -> None:
        """Append the metrics of the finished epoch to the history and reset what is counted per epoch."""
        self.history.append(metrics)
        self.epoch += 1
        self.step_in_epoch = 0
        self.epoch_seconds = 0.0
        self.metric_sums = {}
