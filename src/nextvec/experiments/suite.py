"""A suite: several trainings in a row, which survives interruptions and ends in one comparison."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nextvec.core.display import Displayable
from nextvec.core.run_paths import RECIPE_FILE
from nextvec.core.table import Line, View
from nextvec.errors import CheckpointError, InputError, Interrupted, NotFiniteError, StoppedError
from nextvec.experiments.suite_state import (
    COMPARISON,
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


@dataclass(frozen=True)
class SuiteResult(Displayable):
    """Where a suite stands when it ends."""

    path: Path
    steps: tuple[Step, ...]
    """The trainings in order, and the comparison."""

    @property
    def exit_code(self) -> int:
        """3 if a gate stopped a step, 4 if one failed as not finite, else 0."""
        states = {step.state for step in self.steps}
        if "stopped" in states:
            return StoppedError.exit_code
        return NotFiniteError.exit_code if "failed" in states else 0

    @property
    def lines(self) -> list[str]:
        """The checklist, and where the comparison lies."""
        lines = [f"suite {self.path}", *(f"  {step.line}" for step in self.steps)]
        compared = self.steps[-1].state == "complete"
        return [*lines, f"comparison: {self.path / COMPARISON}"] if compared else lines

    def view(self) -> View:
        """Return the checklist as lines."""
        return View(tuple(Line(line, style="path") for line in self.lines))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {"suite": str(self.path), "exit_code": self.exit_code, "steps": [asdict(step) for step in self.steps]}


def run_suite(
    recipes: tuple[str, ...] = (),
    *,
    out: str = "artifacts/suite",
    overrides: tuple[str, ...] = (),
    device: str = "",
    force: bool = False,
    quiet: bool = False,
) -> SuiteResult:
    """Train recipes one after another and compare all models on all their sets; started again, it goes on."""
    folder = Path(out)
    words = (*overrides, *([f"runtime.device={device}"] if device else []))
    given = [_load(word, words) for word in recipes]  # all of them before the first: what is missing is told at once
    for step in given:
        _require_files(step, quiet=quiet)
    if not given and not read_suite(folder):
        raise InputError(f"suite {folder}: no recipe named and none there to go on with; name at least one")
    with open_suite(folder, quiet=quiet) as log:
        _plan(log, given)
        try:
            for step in log.training:
                if not step.has_ended or (force and step.state != "complete"):
                    _train(log, step, force=force)
            _compare(log, device or "auto")
        except (Interrupted, KeyboardInterrupt) as error:
            command = ["nextvec", "suite", *recipes, "--out", out]
            command += ["--overrides", *overrides] if overrides else []
            command += ["--device", device] if device else []
            command += ["--force"] if force else []
            raise Interrupted(f"suite interrupted; to continue: {shlex.join(command)}") from error
        finally:
            log.say_checklist("checklist")
        return SuiteResult(folder, tuple(log.steps))


def _plan(log: RecoveryLog, given: Sequence[Step]) -> None:
    """Bring the folder's steps and the given ones together, and say how the suite stands."""
    before = log.training
    names = {step.name for step in given}
    waiting = [step for step in before if is_open(log.folder, step) and step.name not in names]
    waiting = [_load(step.recipe, step.overrides) for step in waiting]
    for step in waiting:
        _require_files(step, quiet=log.quiet)
    log.plan(merge_steps(before, [*given, *waiting], log.folder))
    known = {step.key for step in before}
    added = [step.name for step in log.training if step.key not in known]
    if not before:
        log.say_checklist("suite started")
    else:
        log.say_checklist("suite goes on" + (f", new in it: {', '.join(added)}" if added else ""))


def _load(word: str, overrides: Sequence[str]) -> Step:
    """A waiting step for a recipe that is given by its name or by its file."""
    from nextvec.recipe import find_recipe, load_recipe

    recipe = load_recipe(word, overrides)
    path = find_recipe(word)
    place = str(path.resolve()) if path == Path(word) else word
    return Step("train", recipe.name, place, tuple(overrides), recipe.recipe_hash)


def _require_files(step: Step, *, quiet: bool) -> None:
    """Raise InputError if data or a first checkpoint that a step's recipe names can't be used."""
    from nextvec.data.dataset import open_dataset
    from nextvec.recipe import load_recipe

    recipe = load_recipe(step.recipe, step.overrides)
    try:
        open_dataset(recipe.data, quiet=quiet)
    except InputError as error:
        raise InputError(f"recipe {recipe.name}: {error}") from error
    if recipe.training.init_from and not Path(recipe.training.init_from).exists():
        raise CheckpointError(f"recipe {recipe.name}: training.init_from {recipe.training.init_from}: no such file")


def _train(log: RecoveryLog, step: Step, *, force: bool) -> None:
    """Train a step to its end, or go on with its run. A stop by a gate is noted and no error."""
    from nextvec.experiments import single_run

    goes_on = has_begun(log.folder, step)
    end = read_end(log.folder / step.run) if goes_on and step.state == "running" else None
    if end and (end["state"] == "complete" or not force):  # killed between the run's end and this note of it
        log.change(step, **end)
        return
    path = log.folder / step.run if goes_on else single_run.new_folder(log.folder / RUNS, step.name)
    step = log.change(
        step, state="running", run=path.relative_to(log.folder).as_posix(), ended="", reason="",
        started=step.started if goes_on else now(),
    )  # fmt: skip
    try:
        if goes_on:
            single_run.resume_folder(str(path), force=force, quiet=log.quiet)
        else:
            single_run.train_recipe(step.recipe, step.overrides, out=str(path), force=force, quiet=log.quiet)
    except (StoppedError, NotFiniteError) as error:
        state = "stopped" if isinstance(error, StoppedError) else "failed"
        end = read_end(path)  # the run's own words are shorter than the error's, which say how to go on
        recorded = end if end and end["state"] == state else {}
        log.change(step, **{"state": state, "reason": str(error), "ended": now(), **recorded})
    except (Interrupted, KeyboardInterrupt):
        log.change(step, reason="interrupted")
        raise
    except Exception as error:
        log.change(step, reason=" ".join(str(error).split()))
        raise
    else:
        end = read_end(path)
        assert end, f"{path}: its record has no end"
        log.change(step, **end)


def _compare(log: RecoveryLog, device: str) -> None:
    """Compare all models on all sets that they were trained on, unless that was done since the last of them ended."""
    from nextvec.recipe import load_recipe

    # Those that were stopped come along: the comparison says why they are not judged, or that they are half trained.
    paths = [log.folder / step.run for step in log.training if step.has_ended and has_begun(log.folder, step)]
    out = log.folder / COMPARISON
    if all(step.state != "complete" for step in log.training) or (log.comparison.state == "complete" and out.is_file()):
        return
    from nextvec.experiments.compare_runs import compare_runs

    stores = dict.fromkeys(load_recipe(str(path / RECIPE_FILE)).data.store for path in paths)
    step = log.change(log.comparison, state="running", started=now(), ended="", reason="")
    try:
        compare_runs(tuple(map(str, paths)), data=tuple(stores), out=str(out), device=device, quiet=log.quiet)
    except Exception as error:
        log.change(step, state="failed", reason=" ".join(str(error).split()), ended=now())
        raise
    log.change(step, state="complete", verdict=f"{len(paths)} runs on {len(stores)} sets → {COMPARISON}", ended=now())
