"""All runs below a folder with their state and scores, filtered and sorted. Reads event logs; never writes."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextvec.core.display import Displayable
from nextvec.core.events import Event, count, finite, last_event, mapping, read_events, words
from nextvec.core.formatting import STATUSES, Status, format_number
from nextvec.core.run_paths import EVENTS_FILE
from nextvec.core.table import Cell, Column, Line, Row, Table, View
from nextvec.errors import InputError, one_line
from nextvec.monitor.discovery import is_run
from nextvec.monitor.run_filter import parse_filter
from nextvec.monitor.state import RunState, read_state

FIELDS = {
    "name": "name of the run folder",
    "path": "path of the run folder",
    "recipe": "name of the recipe",
    "network": "amn, lstm, gru or transformer",
    "state": "running, finished, interrupted, stopped, failed or orphaned",
    "epochs": "finished epochs",
    "val_cosine": "cosine on val: of the evaluation, before it of the best epoch",
    "ood_cosine": "the same on ood",
    "gain": "val cosine minus that of the best baseline",
    "gain_low": "lower bound of the gain's 95 % interval, if the run is evaluated",
    "gain_high": "upper bound",
    "ood_gain": "ood cosine minus that of the best baseline",
    "mrr": "mean reciprocal rank of the query on val, of the prediction if the network has no query",
    "status": "status of the verdict: green, amber or red",
    "verdict": "the verdict's sentence",
    "seed": "seed of the recipe",
    "seconds": "time spent on training steps",
    "started": "time of the start, such as 2026-11-27 13:35:53",
    "device": "device that trains",
    "parameters": "weights of the network",
    "synthetic": "whether the data is synthetic",
    "version": "version of nextvec",
}
"""Field → meaning. The fields of `--where` and `--sort`, and of the JSON."""


@dataclass(frozen=True)
class RunList(Displayable):
    """The runs below a folder."""

    folder: Path
    runs: tuple[dict[str, Any], ...]
    """The fields of each run; None if a run has no such value."""
    notes: tuple[str, ...] = ()
    """Folders that look like runs but cannot be read."""

    def view(self) -> View:
        """Return one row per run, and a line per folder that was skipped."""
        columns = (
            *(Column("run", "left", "fold"), Column("state", "left"), Column("network", "left"), Column("epochs")),
            *(Column("val"), Column("gain"), Column("ood"), Column("verdict", "left"), Column("started", "left")),
        )
        rows = tuple(self._row(run) for run in self.runs)
        table = (
            [Table(f"runs below {self.folder}, with cosines on val and ood", columns, rows)]
            if rows
            else [Line("no runs")]
        )
        return View((*table, *(Line(note, style="note") for note in self.notes)))

    def _row(self, run: dict[str, Any]) -> Row:
        status = run["status"]
        return Row(
            (
                Cell(os.path.relpath(str(run["path"]), self.folder)),
                Cell(str(run["state"])),
                Cell(str(run["network"] or "")),
                Cell(str(run["epochs"]), run["epochs"]),
                Cell(format_number(run["val_cosine"], ".4f"), run["val_cosine"]),
                Cell(format_number(run["gain"], "+.4f"), run["gain"]),
                Cell(format_number(run["ood_cosine"], ".4f"), run["ood_cosine"]),
                Cell(str(status or ""), status=Status(status) if status in STATUSES else None),
                Cell(str(run["started"] or "")[5:16], run["started"]),
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for --json."""
        return {"folder": str(self.folder), "runs": list(self.runs), "notes": list(self.notes)}


def list_all_runs(folder: Path, *, where: str = "", sort: str = "started") -> RunList:
    """Return the runs in a folder and all folders below it that fulfill `where`.

    Numbers are sorted from the highest, text from A, times from the newest; runs without a value come last. Raises
    InputError if the folder does not exist, or if an expression or field cannot be used.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Pass the folder that contains the runs.")
    if sort not in FIELDS:
        raise InputError(f"--sort {sort}: unknown field. Fields: {', '.join(FIELDS)}.")
    is_wanted = parse_filter(where, FIELDS) if where.strip() else lambda row: True
    rows, notes, now = [], [], time.time()
    for path in sorted(_run_folders(folder)):
        try:
            row = read_row(path, now)
        except Exception as error:  # whatever a foreign or damaged folder contains, the others are listed
            notes.append(f"skipped {path}: {one_line(error)}")
            continue
        if is_wanted(row):
            rows.append(row)
    known = [row for row in rows if row[sort] is not None]
    known.sort(key=lambda row: row[sort], reverse=sort == "started" or not any(isinstance(r[sort], str) for r in known))
    return RunList(folder, (*known, *(row for row in rows if row[sort] is None)), tuple(notes))


def _run_folders(folder: Path) -> Iterator[Path]:
    """Yield the run folders below a folder. Links and hidden folders are not followed, runs not searched for runs."""
    for place, folders, _ in os.walk(folder):
        if is_run(Path(place)):
            yield Path(place)
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]


def read_row(path: Path, now: float) -> dict[str, Any]:
    """Return the fields of a run. Raises InputError if the folder does not contain how a run started."""
    events = read_events(path, with_steps=False)
    started = last_event(events, "started")
    if not mapping(started.get("recipe")):
        raise InputError(f"its {EVENTS_FILE} does not contain how a run started")
    state = read_state(events, now, str(path), path.resolve().name)
    recipe, evaluation = mapping(started.get("recipe")), state.outcome.evaluation
    network = words(mapping(recipe.get("model")).get("kind")) or None
    val, ood = (_split(state, evaluation, split, network) for split in ("val", "ood"))
    verdict = state.outcome.verdict
    begin = state.info.started
    return {
        "name": path.resolve().name,
        "path": str(path),
        "recipe": state.info.name,
        "network": network,
        "state": _state(path, state),
        "epochs": state.progress.epochs,
        "val_cosine": val["cosine"],
        "ood_cosine": ood["cosine"],
        "gain": val["gain"],
        "gain_low": val["gain_low"],
        "gain_high": val["gain_high"],
        "ood_gain": ood["gain"],
        "mrr": val["mrr"],
        "status": verdict[0].value if verdict else None,
        "verdict": verdict[1] if verdict else None,
        "seed": seed if isinstance(seed := recipe.get("seed"), int) else None,
        "seconds": round(state.progress.seconds_trained, 1),
        "started": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(begin)) if begin is not None else None,
        "device": words(started.get("device")) or None,
        "parameters": count(started.get("parameters")) or None,
        "synthetic": state.info.is_synthetic,
        "version": words(mapping(started.get("versions")).get("nextvec")) or None,
    }


def _split(state: RunState, evaluation: Event, split: str, network: str | None) -> dict[str, float | None]:
    """Return the metrics of a split: of the evaluation if there is one, else of the best epoch."""
    result = mapping(mapping(evaluation.get("splits")).get(split))
    model, gain = mapping(mapping(result.get("predictors")).get(network or "")), mapping(result.get("gain"))
    if model:
        retrieval = mapping(model.get("query")) or mapping(model.get("retrieval"))
        return {
            "cosine": finite(mapping(model.get("cosine")).get("value")),
            "gain": finite(gain.get("value")),
            "gain_low": finite(gain.get("low")),
            "gain_high": finite(gain.get("high")),
            "mrr": finite(retrieval.get("mrr")),
        }
    best = state.scores.best
    cosine, gain_so_far = finite(best.get(f"{split}_cosine")), finite(best.get(f"{split}_gain"))
    return {"cosine": cosine, "gain": gain_so_far, "gain_low": None, "gain_high": None, "mrr": None}


def _state(path: Path, state: RunState) -> str:
    """Return the state of a run. One that has not ended is running or, if its process has died, orphaned."""
    if state.progress.has_ended:
        return state.progress.status
    # A trainer holds the lock of its folder, and the system releases the lock of a killed process.
    is_locked = _is_locked(path)
    if is_locked is None:  # a filesystem without flock: the heartbeat has to do
        is_locked = state.progress.silent_seconds is None
    return "running" if is_locked else "orphaned"


def _is_locked(path: Path) -> bool | None:
    """Return whether a process holds the lock of a run folder; None if that cannot be found out."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)  # releases the shared lock, too
    return False
