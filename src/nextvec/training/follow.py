"""The other processes of a run: they do what the main one orders.

They hold the same data, weights and optimizer. They take part in training steps and in scoring, and decide nothing:
metrics, gates and files are the main process's. They end when it ends, with its exit code.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from nextvec.core.console import show
from nextvec.distributed.process_group import MainProcessEnded, ProcessGroup, ProcessLostError
from nextvec.errors import Interrupted, NextvecError, NotFiniteError
from nextvec.evaluation.metrics import score_windows
from nextvec.models.checkpoint import Checkpoint
from nextvec.ops import native_ops
from nextvec.training.baselines import attach_baselines, fit_share
from nextvec.training.evaluate import measure_share
from nextvec.training.loop import train_epoch
from nextvec.training.orders import FitOrder, MeasureOrder, OpenOrder, RestoreOrder, ScoreOrder, TrainOrder
from nextvec.training.run import Run
from nextvec.training.saved_state import restore_state
from nextvec.training.setup import open_follower
from nextvec.training.signals import stop_signals


def follow(processes: ProcessGroup) -> int:
    """Do what the main process orders until it ends; return its exit code."""
    try:
        with stop_signals() as stop:
            start = processes.broadcast()
            assert isinstance(start, OpenOrder), start
            run = open_follower(start, processes)
            with native_ops(run.recipe.runtime.native_ops):
                while True:
                    _do(processes.broadcast(), run, stop)
    except MainProcessEnded as end:
        return end.exit_code
    except ProcessLostError as error:  # the main process reports it
        processes.end(error.exit_code)
        return error.exit_code
    except NextvecError as error:
        show((f"nextvec: process {processes.rank} of {processes.size}: {error}",))
        processes.end(error.exit_code)
        return error.exit_code


def _do(order: Any, run: Run, stop: threading.Event) -> None:
    """Do one order."""
    match order:
        case FitOrder():
            fit_share(run)
        case RestoreOrder(state):
            restore_state(run, Checkpoint(Path("the main process"), state))
        case TrainOrder(history):
            run.state.history = history
            # The main process comes to the same end in the same step, and says so by its exit code.
            with suppress(Interrupted, NotFiniteError):
                train_epoch(run, stop)
                run.state.start_next_epoch({})
        case ScoreOrder(split, model):
            predictor = (model or run.eval_model).to(run.device).eval()
            attach_baselines({"scored": predictor}, run.sets["train"])
            windows = run.sets[split]
            score_windows(predictor, windows.vectors, windows.windows, processes=run.processes)
        case MeasureOrder(split, predictors, profiles):
            measure_share(run, split, predictors, profiles)
        case _:
            raise AssertionError(f"an unknown order: {order}")
