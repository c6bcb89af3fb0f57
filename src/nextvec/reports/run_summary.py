"""What a run's folder says about the run: what it read, how it ended, and its judgement. No torch is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextvec.core.events import Event, read_events
from nextvec.core.run_paths import EVALUATION_FILE
from nextvec.errors import InputError
from nextvec.evaluation.results import Evaluation
from nextvec.guards.diagnosis.case import Case
from nextvec.guards.gates import BaselineCosines
from nextvec.recipe import make_recipe


@dataclass(frozen=True)
class RunFacts:
    """What a run's folder says about it; reading it loads no torch."""

    path: Path
    started: Event
    evaluation: Evaluation | None
    state: str
    """Why the run is not finished and judged, in words; empty if it is."""
    ended: float
    """Time of its last event, seconds since 1970."""

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe as nested values."""
        recipe: dict[str, Any] = self.started["recipe"]
        return recipe

    @property
    def data(self) -> str:
        """Names what it was trained and judged on."""
        ood = self.started.get("ood_store_hash") or self.recipe["data"].get("ood", "")
        return f"{self.started['store_hash']} {ood}".strip()

    @property
    def synthetic(self) -> bool:
        """Whether its data is synthetic."""
        return bool(self.started.get("synthetic", str(self.started.get("space", "")).startswith("synthetic@")))


@dataclass(frozen=True)
class EvaluatedRun:
    """One run's best model, judged on one set of windows."""

    run: str
    """Names the run; a run that was judged on several sets appears once for each."""
    name: str
    """What tables call it."""
    data: str
    """Names the data: equal for equal vectors and documents."""
    data_label: str
    """The data in words."""
    synthetic: bool
    context: int
    evaluation: Evaluation

    @property
    def windows(self) -> str:
        """Names the windows; judgements on the same ones can stand in one table."""
        splits = self.evaluation.splits.items()
        counts = (f"{split} {figures.windows}/{figures.documents}" for split, figures in splits)
        return f"{self.data} context {self.context} " + " ".join(counts)


def read_run(path: Path) -> RunFacts:
    """Read a run's folder. Raises InputError if it is none, or its files are damaged."""
    events = read_events(path)
    started = next((event for event in events if event["kind"] == "started"), None)
    if started is None or not {"recipe", "store_hash"} <= set(started):
        raise InputError(f"run {path}: its event log doesn't say how it started; name the folder of a run")
    evaluation = None
    if (path / EVALUATION_FILE).is_file():
        try:
            evaluation = Evaluation.from_dict(json.loads((path / EVALUATION_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"run {path}: {EVALUATION_FILE} is damaged ({error!r}); make it again with 'nextvec resume {path}'"
            ) from error
    return RunFacts(path, started, evaluation, _state(path, events, evaluation), events[-1]["time"])


def case_of(path: Path) -> Case:
    """What a run's folder says, for a diagnosis. Raises InputError as `read_run` does."""
    facts, events = read_run(path), read_events(path)
    history = [event for event in events if event["kind"] == "epoch"]
    baselines: BaselineCosines = next((event["cosines"] for event in events if event["kind"] == "baselines"), {})
    check = next((event for event in events if event["kind"] == "checked"), {})
    recipe = make_recipe(facts.recipe, where=f"run {path}: the recipe in its event log")
    return Case(recipe, history, baselines, facts.evaluation, check, events)


def _state(path: Path, events: Sequence[Event], evaluation: Evaluation | None) -> str:
    """Why a run is not finished and judged, from its last words."""
    end = next((event for event in reversed(events) if event["kind"] in ("stopped", "failed", "interrupted")), None)
    if end is not None:
        reason = " ".join(str(end.get("reason", "")).split())
        return f"{end['kind']} at epoch {end.get('epoch', 0)}" + (f": {reason}" if reason else "")
    if evaluation is not None:
        return ""
    return f"not judged, it is still running or was killed; go on with 'nextvec resume {path}'"


def names_of(facts: Sequence[RunFacts]) -> list[str]:
    """What tables call some runs: their recipes' names, or their folders' where these tell them apart better."""
    choices = (
        [run.recipe["name"] for run in facts],
        [run.path.resolve().name for run in facts],
        [str(run.path) for run in facts],
    )
    names = next((names for names in choices if len(set(names)) == len(names)), choices[-1])
    kinds = [run.recipe["model"]["kind"] for run in facts]
    return [name if kind in name.lower() else f"{name} ({kind})" for name, kind in zip(names, kinds, strict=True)]
