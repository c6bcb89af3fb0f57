"""Benchmark suites: train several recipes in a row, resumably, and compare all models at the end."""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nextvec.core.display import Displayable
from nextvec.core.run_paths import RECIPE_FILE, TIME, TIME_FORMAT
from nextvec.core.table import Line, View
from nextvec.errors import CheckpointError, InputError, Interrupted, NotFiniteError, StoppedError
from nextvec.experiments.suite_state import (
    COMPARISON,
    LOG_FILE,
    RUNS,
    RecoveryLog,
    Step,
    has_begun,
    is_open,
    merge_steps,
    now,
    open_suite,
    read_end,
    read_suite,
)
from nextvec.recipe import find_recipe, load_recipe
from nextvec.trackers.tracker import require_trackers


@dataclass(frozen=True)
class SuiteResult(Displayable):
    """The steps of a suite after a call of `run_suite`."""

    path: Path
    steps: tuple[Step, ...]
    """The training steps in order, then the comparison."""

    @property
    def exit_code(self) -> int:
        """3 if a gate stopped a run, 4 if a run became non-finite, else 0."""
        states = {step.state for step in self.steps}
        if "stopped" in states:
            return StoppedError.exit_code
        return NotFiniteError.exit_code if "failed" in states else 0

    @property
    def log_file(self) -> Path:
        """The log for people."""
        return self.path / LOG_FILE

    @property
    def lines(self) -> list[str]:
        """The checklist, and the path of the comparison if it is complete."""
        lines = [f"suite {self.path}", *(f"  {step.line}" for step in self.steps)]
        compared = self.steps[-1].state == "complete"
        return [*lines, f"comparison: {self.path / COMPARISON}"] if compared else lines

    def view(self) -> View:
        """Return the checklist as lines."""
        return View(tuple(Line(line, style="path") for line in self.lines))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for --json."""
        return {"suite": str(self.path), "exit_code": self.exit_code, "steps": [asdict(step) for step in self.steps]}


def run_suite(
    recipes: tuple[str, ...] = (),
    *,
    out: str = "artifacts/suite",
    overrides: tuple[str, ...] = (),
    device: str = "",
    force: bool = False,
    trackers: Sequence[str] = (),
    quiet: bool = False,
) -> SuiteResult:
    """Train recipes one after another and compare all models on all their stores. Rerun to resume.

    Raises InputError if a recipe, its data or its initial checkpoint cannot be used, Interrupted after Ctrl-C.
    """
    folder, trackers = Path(out), require_trackers(trackers)
    # Check every recipe before the first training, so that an error does not appear after hours.
    changes = (*overrides, *([f"runtime.device={device}"] if device else []))
    requested = [_load_step(recipe, changes) for recipe in recipes]
    for step in requested:
        _require_inputs(step, quiet=quiet)
    if not requested and not read_suite(folder):
        raise InputError(
            f"suite {folder}: no recipe named, and the folder contains no suite. Name at least one recipe."
        )

    with open_suite(folder, quiet=quiet) as log:
        _plan(log, requested)
        try:
            for step in log.training:
                # --force retries stopped and failed steps; complete steps are never repeated.
                if not step.has_ended or (force and step.state != "complete"):
                    _train(log, step, force=force, trackers=trackers)
            _compare(log, device or "auto")
        except (Interrupted, KeyboardInterrupt) as error:
            # The message contains the full command, quoted for the shell.
            argv = ["nextvec", "suite", *recipes, "--out", out]
            argv += ["--overrides", *overrides] if overrides else []
            argv += ["--device", device] if device else []
            argv += ["--force"] if force else []
            argv += [word for name in trackers for word in ("--tracker", name)]
            raise Interrupted(f"Suite interrupted. To continue: {shlex.join(argv)}") from error
        finally:
            log.write_checklist("checklist")
        return SuiteResult(folder, tuple(log.steps))


def _plan(log: RecoveryLog, requested: Sequence[Step]) -> None:
    """Merge the requested steps into those of the folder, and log the checklist."""
    before = log.training
    # Steps of earlier calls that have no checkpoint yet start from their recipe, so check their inputs again.
    names = {step.name for step in requested}
    waiting = [step for step in before if is_open(log.folder, step) and step.name not in names]
    waiting = [_load_step(step.recipe, step.overrides) for step in waiting]
    for step in waiting:
        _require_inputs(step, quiet=log.quiet)
    log.plan(merge_steps(before, [*requested, *waiting], log.folder))

    known = {step.key for step in before}
    added = [step.name for step in log.training if step.key not in known]
    if not before:
        log.write_checklist("suite started")
    else:
        log.write_checklist("suite resumed" + (f", added: {', '.join(added)}" if added else ""))


def _load_step(recipe: str, overrides: Sequence[str]) -> Step:
    """Return a waiting step for a recipe's name or file."""
    loaded = load_recipe(recipe, overrides)
    path = find_recipe(recipe)
    # A file is stored with its absolute path, so that the suite can be resumed from another directory.
    source = str(path.resolve()) if path == Path(recipe) else recipe
    return Step("train", loaded.name, source, tuple(overrides), loaded.recipe_hash)


def _require_inputs(step: Step, *, quiet: bool) -> None:
    """Raise InputError or CheckpointError if the data or the initial checkpoint of a step cannot be used."""
    from nextvec.data.dataset import open_dataset  # loads torch

    recipe = load_recipe(step.recipe, step.overrides)
    try:
        open_dataset(recipe.data, quiet=quiet)
    except InputError as error:
        raise InputError(f"recipe {recipe.name}: {error}") from error
    if recipe.training.init_from and not Path(recipe.training.init_from).exists():
        raise CheckpointError(f"recipe {recipe.name}: training.init_from {recipe.training.init_from}: no such file")


def _train(log: RecoveryLog, step: Step, *, force: bool, trackers: Sequence[str]) -> None:
    """Train or resume a step until it ends. A stop by a gate is recorded, not raised."""
    from nextvec.experiments import single_run  # loads torch; reading a suite does not need it

    # A process killed after the run ended, but before the suite recorded it, leaves the step `running`.
    resumes = has_begun(log.folder, step)
    end = read_end(log.folder / step.run) if resumes and step.state == "running" else None
    if end and (end["state"] == "complete" or not force):
        log.change(step, **end)
        return

    # Record the run folder before training, so that a killed suite finds its run again.
    path = log.folder / step.run if resumes else _unused(single_run.run_folder(log.folder / RUNS, step.name))
    run = path.relative_to(log.folder).as_posix()
    started = step.started if resumes else now()
    step = log.change(step, state="running", run=run, started=started, ended="", reason="")
    options: dict[str, Any] = {"force": force, "trackers": trackers, "quiet": log.quiet}
    try:
        if resumes:
            single_run.resume_folder(str(path), **options)
        else:
            single_run.train_recipe(step.recipe, step.overrides, out=str(path), **options)
    except (StoppedError, NotFiniteError) as error:
        state = "stopped" if isinstance(error, StoppedError) else "failed"
        # Prefer the reason in the run's events: the error's message also contains the command to continue.
        end = read_end(path)
        recorded = end if end and end["state"] == state else {}
        log.change(step, **{"state": state, "reason": str(error), "ended": now(), **recorded})
    except (Interrupted, KeyboardInterrupt):
        log.change(step, reason="interrupted")
        raise
    except Exception as error:
        # Any other error ends the suite; the step stays `running` and is resumed by the next call.
        log.change(step, reason=" ".join(str(error).split()))
        raise
    else:
        end = read_end(path)
        assert end, f"{path}: its record has no end"
        log.change(step, **end)


def _unused(path: Path) -> Path:
    """Return an unused name for a run's folder. The suite's lock keeps other processes away from it."""
    stem = path.name.replace(TIME, time.strftime(TIME_FORMAT))
    names = (path.with_name(f"{stem}_{number}" if number > 1 else stem) for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def _compare(log: RecoveryLog, device: str) -> None:
    """Compare all models on all stores that they were trained on, unless the comparison is up to date."""
    # Stopped and failed runs are included: the comparison reports why they have no scores.
    paths = [log.folder / step.run for step in log.training if step.has_ended and has_begun(log.folder, step)]
    out = log.folder / COMPARISON
    if all(step.state != "complete" for step in log.training) or (log.comparison.state == "complete" and out.is_file()):
        return
    from nextvec.experiments.compare_runs import compare_runs

    # Evaluate each model on each store once; a dict keeps the stores in the order of the runs.
    stores = dict.fromkeys(load_recipe(str(path / RECIPE_FILE)).data.store for path in paths)
    step = log.change(log.comparison, state="running", started=now(), ended="", reason="")
    try:
        compare_runs(tuple(map(str, paths)), data=tuple(stores), out=str(out), device=device, quiet=log.quiet)
    except Exception as error:
        log.change(step, state="failed", reason=" ".join(str(error).split()), ended=now())
        raise
    log.change(step, state="complete", verdict=f"{len(paths)} runs on {len(stores)} sets → {COMPARISON}", ended=now())
