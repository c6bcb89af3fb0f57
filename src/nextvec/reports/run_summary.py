"""The facts that a run folder contains: data, recipe, end and evaluation. Reading them does not import torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextvec.core.events import Event, read_events
from nextvec.core.run_paths import EVALUATION_FILE
from nextvec.errors import InputError
from nextvec.evaluation.results import Evaluation, find_version_problem
from nextvec.guards.diagnosis import diagnose
from nextvec.guards.diagnosis.case import Case, Diagnoses
from nextvec.guards.gates import BaselineCosines
from nextvec.recipe import make_recipe


@dataclass(frozen=True)
class RunFacts:
    """The facts of a run folder."""

    path: Path
    started: Event
    evaluation: Evaluation | None
    state: str
    """Why the run has no evaluation; empty if it has one."""
    ended: float
    """Time of the last event, in seconds since 1970."""
    selection: Mapping[str, Mapping[str, Any]]
    """Output → the epoch that it has in best_model.pt, and its metric; empty before the end of the training."""

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe as nested values."""
        recipe: dict[str, Any] = self.started["recipe"]
        return recipe

    @property
    def data(self) -> str:
        """Identifies the data that the run was trained and evaluated on."""
        ood = self.started.get("ood_store_hash") or self.recipe["data"].get("ood", "")
        return f"{self.started['store_hash']} {ood}".strip()

    @property
    def synthetic(self) -> bool:
        """Whether the data is synthetic."""
        return bool(self.started.get("synthetic", str(self.started.get("space", "")).startswith("synthetic@")))


@dataclass(frozen=True)
class EvaluatedRun:
    """A run's best model, evaluated on one set of windows."""

    run: str
    """Identifies the run; a run that was evaluated on several sets appears once for each."""
    name: str
    """Its name in tables."""
    data: str
    """Identifies the data: equal for equal vectors and documents."""
    data_label: str
    """The data as text."""
    synthetic: bool
    context: int
    evaluation: Evaluation

    @property
    def windows(self) -> str:
        """Identifies the windows; evaluations on the same windows can share a table."""
        splits = self.evaluation.splits.items()
        counts = (f"{split} {figures.windows}/{figures.documents}" for split, figures in splits)
        return f"{self.data} context {self.context} " + " ".join(counts)


def read_run(path: Path) -> RunFacts:
    """Load the facts of a run folder. Raises InputError if it is not a run, or if its files are damaged."""
    events = read_events(path)
    started = next((event for event in events if event["kind"] == "started"), None)
    if started is None or not {"recipe", "store_hash"} <= set(started):
        raise InputError(f"run {path}: its event log does not contain how it started. Pass the folder of a run.")
    # A run that ended early has no evaluation, which is fine; a damaged one is an error.
    evaluation, version_problem = None, ""
    if (path / EVALUATION_FILE).is_file():
        try:
            values = json.loads((path / EVALUATION_FILE).read_text(encoding="utf-8"))
            version_problem = find_version_problem(values)
            evaluation = None if version_problem else Evaluation.from_dict(values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"run {path}: {EVALUATION_FILE} is damaged ({error!r}). Evaluate again with 'nextvec resume {path}'."
            ) from error
    trained = next((event for event in reversed(events) if event["kind"] == "trained"), {})
    state = _state(path, events, evaluation)
    if version_problem:
        state = f"{version_problem}. Train the run again."
    return RunFacts(path, started, evaluation, state, events[-1]["time"], trained.get("selection", {}))


def case_of(path: Path) -> Case:
    """Load the case of a run folder for a diagnosis. Raises InputError as `read_run` does."""
    facts, events = read_run(path), read_events(path)
    # The log and the evaluation contain all that the rules need: no checkpoint or store is opened.
    history = [event for event in events if event["kind"] == "epoch"]
    baselines: BaselineCosines = next((event["cosines"] for event in events if event["kind"] == "baselines"), {})
    check = next((event for event in events if event["kind"] == "checked"), {})
    recipe = make_recipe(facts.recipe, where=f"run {path}: the recipe in its event log")
    return Case(recipe, history, baselines, facts.evaluation, check, events)


def diagnose_run(path: Path) -> Diagnoses:
    """Return the diagnoses of a run folder. Raises InputError as `read_run` does."""
    return diagnose(case_of(path))


def _state(path: Path, events: Sequence[Event], evaluation: Evaluation | None) -> str:
    """Return why a run has no evaluation; empty if it has one."""
    end = next((event for event in reversed(events) if event["kind"] in ("stopped", "failed", "interrupted")), None)
    if end is not None:
        reason = " ".join(str(end.get("reason", "")).split())
        return f"{end['kind']} at epoch {end.get('epoch', 0)}" + (f": {reason}" if reason else "")
    if evaluation is not None:
        return ""
    return f"not evaluated: the run is active or was killed. Resume it with 'nextvec resume {path}'."


def names_of(facts: Sequence[RunFacts]) -> list[str]:
    """Return names of runs for tables: recipe names if they are unique, else folder names or paths."""
    # From the most readable to the only one that is certainly unique.
    choices = (
        [run.recipe["name"] for run in facts],
        [run.path.resolve().name for run in facts],
        [str(run.path) for run in facts],
    )
    names = next((names for names in choices if len(set(names)) == len(names)), choices[-1])
    # Runs of one recipe family differ by architecture, so a name without it gets it.
    kinds = [run.recipe["model"]["kind"] for run in facts]
    return [name if kind in name.lower() else f"{name} ({kind})" for name, kind in zip(names, kinds, strict=True)]
