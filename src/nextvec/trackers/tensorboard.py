"""TensorBoard's event files in the folder `tensorboard/` of a run. torch's writer is not needed."""

from __future__ import annotations

from collections.abc import Mapping

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from nextvec.core.run_paths import TENSORBOARD_FOLDER
from nextvec.trackers.tracker import OpenedRun, TrackedRun


class TensorBoardTracker:
    """Writes scalars, and the hyperparameters as a session of the HParams plugin."""

    def on_start(self, run: TrackedRun) -> OpenedRun:
        """Open a new event file."""
        folder = run.path / TENSORBOARD_FOLDER
        self._epochs = run.epochs
        self._writer = EventFileWriter(str(folder))
        if run.epochs:  # readers drop what a killed process wrote after the saved position
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(step=run.epochs + 1, session_log=start))
        self._add(hparams_pb(dict(run.config), trial_id=run.id), 0)
        self._writer.flush()
        return OpenedRun(f"tensorboard --logdir {folder}")

    def on_epoch(self, epoch: int, time: float, metrics: Mapping[str, float]) -> None:
        """Write the scalars of an epoch."""
        self._add(_scalars(metrics), epoch, time)
        self._epochs = epoch
        self._writer.flush()

    def on_end(self, state: str, time: float, metrics: Mapping[str, float], facts: Mapping[str, str]) -> None:
        """Write the evaluation at the last epoch, and the facts as a table of text."""
        self._add(_scalars(metrics), self._epochs, time)
        table = "".join(f"\n| {name} | {text} |" for name, text in facts.items())
        self._add(text_pb("outcome", f"| | |\n| --- | --- |{table}"), self._epochs, time)
        self._writer.close()

    def _add(self, summary: Summary, step: int, time: float = 0.0) -> None:
        self._writer.add_event(Event(wall_time=time, step=step, summary=summary))


def _scalars(metrics: Mapping[str, float]) -> Summary:
    return Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()])
