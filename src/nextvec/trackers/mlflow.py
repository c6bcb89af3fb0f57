"""MLflow: a server, or a local store. Its own environment variables configure it."""

from __future__ import annotations

import os
from collections.abc import Mapping

from nextvec.trackers.tracker import PROJECT, OpenedRun, TrackedRun

# MLflow reports its own usage to its makers unless this is set before it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# MLflow 3 refuses to use a folder as the store, even one that MLFLOW_TRACKING_URI names.
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.tracking import MlflowClient

BATCH = 100
"""Parameters in one request, the most that MLflow accepts."""
ID_TAG = "nextvec.id"
STATES = {
    "finished": "FINISHED",
    "interrupted": "KILLED",
    "stopped": "FAILED",
    "failed": "FAILED",
    "unfinished": "KILLED",
}


class MlflowTracker:
    """Writes through the client, which adds no tags with the user, the source file or the git commit."""

    def on_start(self, run: TrackedRun) -> OpenedRun:
        """Find the run by the id of the run folder, or create it with its parameters and tags."""
        self._client = client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        experiment = client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
        found = client.search_runs([experiment_id], f"tags.`{ID_TAG}` = '{run.id}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            client.update_run(self._id, status=RunStatus.to_string(RunStatus.RUNNING))
        else:
            tags = {ID_TAG: run.id, **dict.fromkeys(run.tags, "true")}
            self._id = client.create_run(experiment_id, run_name=run.name, tags=tags).info.run_id
        # Parameters cannot change: a resumed run keeps those that it began with.
        known = found[0].data.params if found else {}
        params = [Param(key, str(value)) for key, value in run.config.items() if key not in known and str(value)]
        for start in range(0, len(params), BATCH):
            client.log_batch(self._id, params=params[start : start + BATCH])
        history = client.get_metric_history(self._id, "epoch") if found else []
        self._epochs = max((metric.step for metric in history), default=0)
        return OpenedRun(f"{client.tracking_uri}, experiment {name}, run {self._id}", self._epochs)

    def on_epoch(self, epoch: int, time: float, metrics: Mapping[str, float]) -> None:
        """Write the metrics with the epoch as step; `epoch` itself last, because it marks a complete epoch."""
        self._write({**metrics, "epoch": epoch}, epoch, time)
        self._epochs = epoch

    def on_end(self, state: str, time: float, metrics: Mapping[str, float], facts: Mapping[str, str]) -> None:
        """Write the evaluation, the facts as tags, and the status."""
        self._write(metrics, self._epochs, time)
        self._client.log_batch(self._id, tags=[RunTag(key, text) for key, text in facts.items()])
        self._client.set_terminated(self._id, STATES[state], end_time=round(1000 * time))

    def _write(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        points = [Metric(key, value, round(1000 * time), step) for key, value in metrics.items()]
        self._client.log_batch(self._id, metrics=points)
