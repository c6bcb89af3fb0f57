"""Trackio: a local database (`TRACKIO_DIR`), a server or a Space. Its own environment variables configure it."""

from __future__ import annotations

import os
from collections.abc import Mapping

import trackio

from nextvec.trackers.tracker import PROJECT, OpenedRun, TrackedRun


class TrackioTracker:
    """Writes metrics to the log of a run. The evaluation becomes its last row, and the facts one of text."""

    def on_start(self, run: TrackedRun) -> OpenedRun:
        """Open the run. Trackio finds a run by its name, so the name contains the id."""
        project = os.environ.get("TRACKIO_PROJECT") or PROJECT
        self._run = trackio.init(
            project=project,
            name=f"{run.name} {run.id}",
            config={**run.config, "tags": ", ".join(run.tags)},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._epochs = max(0, self._run._next_step - 1)  # of what is stored
        return OpenedRun(f"trackio show --project {project}", self._epochs)

    def on_epoch(self, epoch: int, time: float, metrics: Mapping[str, float]) -> None:
        """Write the metrics with the epoch as step."""
        self._run.log(dict(metrics), step=epoch)
        self._epochs = epoch

    def on_end(self, state: str, time: float, metrics: Mapping[str, float], facts: Mapping[str, str]) -> None:
        """Write the evaluation at the last epoch, and wait until everything is stored."""
        self._run.log({**metrics, **facts}, step=self._epochs)
        self._run.finish()  # type: ignore[no-untyped-call]
