"""Weights & Biases, online or offline (`WANDB_MODE=offline`). Its own environment variables configure it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import wandb

from nextvec.trackers.tracker import PROJECT, OpenedRun, TrackedRun

SETTINGS = {
    "console": "off",
    "disable_git": True,
    "disable_job_creation": True,
    "save_code": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "x_transaction_log_flush_interval": 1.0,
}
"""Sends no output, source code, git state, package list or machine data. Offline files are flushed each second."""


class WandbTracker:
    """Writes metrics to the history of a run, and the evaluation to its summary."""

    def on_start(self, run: TrackedRun) -> OpenedRun:
        """Open the run with the id of the run folder."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=run.id,
            name=run.name,
            tags=run.tags,
            config=dict(run.config),
            resume="allow",
            allow_val_change=True,
            settings=wandb.Settings(**SETTINGS),
        )
        # The service knows the steps of a resumed run; offline, only the position is known.
        epochs = max(0, self._run.step - 1) if self._run.resumed else None
        return OpenedRun(self._run.url or f"wandb sync {Path(self._run.dir).parent}", epochs)

    def on_epoch(self, epoch: int, time: float, metrics: Mapping[str, float]) -> None:
        """Write the metrics with the epoch as step."""
        self._run.log({**metrics, "epoch": epoch}, step=epoch)

    def on_end(self, state: str, time: float, metrics: Mapping[str, float], facts: Mapping[str, str]) -> None:
        """Write the summary, and finish the run as crashed unless it has finished."""
        self._run.summary.update({**metrics, **facts})
        self._run.finish(exit_code=0 if state == "finished" else 1)
