"""The steps of a suite: how each begins, is trained and ends, and the comparison. Does not import torch at once."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nextvec.core.run_paths import RECIPE_FILE, RESUME_STATE, TIME, TIME_FORMAT
from nextvec.errors import CheckpointError, InputError, Interrupted, NotFiniteError, StoppedError
from nextvec.experiments.suite_state import COMPARISON, RUNS, RecoveryLog, Step, has_begun, now, read_end
from nextvec.recipe import Recipe, find_recipe, load_recipe


def make_step(recipe: str, overrides: Sequence[str]) -> Step:
    """Return a waiting step for a recipe's name or file."""
    loaded = load_recipe(recipe, overrides)
    path = find_recipe(recipe)
    # A file is stored with its absolute path, so that the suite can be resumed from another directory.
    source = str(path.resolve()) if path == Path(recipe) else recipe
    return Step("train", loaded.name, source, tuple(overrides), loaded.recipe_hash)


def require_inputs(step: Step, *, quiet: bool) -> None:
    """Raise InputError or CheckpointError if the data or the initial checkpoint of a step cannot be used."""
    from nextvec.data.dataset import open_dataset  # loads torch

    recipe = load_recipe(step.recipe, step.overrides)
    try:
        open_dataset(recipe.data, quiet=quiet)
    except InputError as error:
        raise InputError(f"recipe {recipe.name}: {error}") from error
    if recipe.training.init_from and not Path(recipe.training.init_from).exists():
        raise CheckpointError(f"recipe {recipe.name}: training.init_from {recipe.training.init_from}: no such file")


def recipe_of(log: RecoveryLog, step: Step) -> Recipe:
    """Return the recipe of a step: that of its run if it has begun, because its file may have changed since then."""
    run = log.folder / step.run / RECIPE_FILE
    return load_recipe(run) if has_begun(log.folder, step) else load_recipe(step.recipe, step.overrides)


def begin_step(log: RecoveryLog, step: Step, *, force: bool, reason: str = "") -> Step | None:
    """Record that a step is running, and in which folder; return the new step, or None if its run has ended already.

    `reason` is what the step waits for, if it does.
    """
    # A process killed after the run ended, but before the suite recorded it, leaves the step `running`.
    resumes = has_begun(log.folder, step)
    end = read_end(log.folder / step.run) if resumes and step.state == "running" else None
    if end and (end["state"] == "complete" or not force):
        log.change(step, **end)
        return None

    # Record the run folder before training, so that a killed suite finds its run again.
    run = step.run
    if not resumes:
        from nextvec.experiments.single_run import run_folder  # loads torch; reading a suite does not need it

        path = _unused(run_folder(log.folder / RUNS, step.name), [log.folder / other.run for other in log.training])
        run = path.relative_to(log.folder).as_posix()
    started = step.started if resumes else now()
    return log.change(step, state="running", run=run, started=started, ended="", reason=reason)


def train_step(recipe: Recipe, path: Path, *, force: bool, trackers: Sequence[str], quiet: bool) -> dict[str, Any]:
    """Train or resume the run of a step. Return how it ended (complete, stopped or failed), as fields of the step."""
    from nextvec.experiments import single_run

    options: dict[str, Any] = {"force": force, "trackers": trackers, "quiet": quiet}
    try:
        if (path / RESUME_STATE).is_file():
            single_run.resume_folder(str(path), **options)
        else:
            single_run.train_recipe(recipe, out=str(path), **options)
    except (StoppedError, NotFiniteError) as error:
        state = "stopped" if isinstance(error, StoppedError) else "failed"
        # Prefer the reason in the run's events: the error's message also contains the command to continue.
        end = read_end(path)
        recorded = end if end and end["state"] == state else {}
        return {"state": state, "reason": str(error), "ended": now(), **recorded}
    end = read_end(path)
    assert end, f"{path}: its record has no end"
    return end


def _unused(path: Path, taken: Sequence[Path]) -> Path:
    """Return an unused name for a run's folder. The suite's lock keeps other processes away from it."""
    stem = path.name.replace(TIME, time.strftime(TIME_FORMAT))
    names = (path.with_name(f"{stem}_{number}" if number > 1 else stem) for number in itertools.count(1))
    return next(name for name in names if not name.exists() and name not in taken)


def compare_steps(log: RecoveryLog, device: str, call: Callable[..., Any]) -> None:
    """Compare all models on all stores that they were trained on, unless the comparison is up to date.

    `call` calls `compare`, in this process or elsewhere.
    """
    # Stopped and failed runs are included: the comparison reports why they have no scores.
    paths = [log.folder / step.run for step in log.training if step.has_ended and has_begun(log.folder, step)]
    out = log.folder / COMPARISON
    if all(step.state != "complete" for step in log.training) or (log.comparison.state == "complete" and out.is_file()):
        return

    # Evaluate each model on each store once; a dict keeps the stores in the order of the runs.
    stores = dict.fromkeys(load_recipe(path / RECIPE_FILE).data.store for path in paths)
    step = log.change(log.comparison, state="running", started=now(), ended="", reason="")
    try:
        call(tuple(map(str, paths)), data=tuple(stores), out=str(out), device=device, quiet=log.quiet)
    except (Interrupted, KeyboardInterrupt):
        log.change(step, reason="interrupted")
        raise
    except Exception as error:
        log.change(step, state="failed", reason=" ".join(str(error).split()), ended=now())
        raise
    log.change(step, state="complete", verdict=f"{len(paths)} runs on {len(stores)} sets → {COMPARISON}", ended=now())


def compare(runs: tuple[str, ...], **options: Any) -> None:
    """Write the comparison of runs; see `compare_runs`."""
    from nextvec.experiments.compare_runs import compare_runs

    compare_runs(runs, **options)
