"""Benchmark suites: train several recipes in a row, resumably, and compare all models at the end."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nextvec.core.display import Displayable
from nextvec.core.table import Line, View
from nextvec.errors import InputError, Interrupted, NotFiniteError, StoppedError
from nextvec.experiments.ray_options import RayOptions
from nextvec.experiments.suite_state import (
    COMPARISON,
    LOG_FILE,
    RecoveryLog,
    Step,
    is_open,
    merge_steps,
    open_suite,
    read_suite,
)
from nextvec.experiments.suite_steps import (
    begin_step,
    compare,
    compare_steps,
    make_step,
    recipe_of,
    require_inputs,
    train_step,
)
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
    ray: RayOptions | None = None,
    quiet: bool = False,
) -> SuiteResult:
    """Train recipes one after another, or on a Ray cluster, and compare all models on all their stores.

    Rerun to resume, with or without `ray`. Raises InputError if a recipe, its data or its initial checkpoint cannot be
    used, Interrupted after Ctrl-C.
    """
    folder, trackers = Path(out), require_trackers(trackers)
    # Check every recipe before the first training, so that an error does not appear after hours.
    changes = (*overrides, *([f"runtime.device={device}"] if device else []))
    requested = [make_step(recipe, changes) for recipe in recipes]
    for step in requested:
        require_inputs(step, quiet=quiet)
    if not requested and not read_suite(folder):
        raise InputError(
            f"suite {folder}: no recipe named, and the folder contains no suite. Name at least one recipe."
        )

    with open_suite(folder, quiet=quiet) as log:
        _plan(log, requested)
        try:
            # --force retries stopped and failed steps; complete steps are never repeated.
            steps = [step for step in log.training if not step.has_ended or (force and step.state != "complete")]
            if ray is not None and (steps or log.comparison.state != "complete"):
                from nextvec.experiments.suite_on_ray import run_steps  # loads torch

                run_steps(log, steps, ray, device=device or "auto", force=force, trackers=trackers)
            else:
                for step in steps:
                    _train(log, step, force=force, trackers=trackers)
                compare_steps(log, device or "auto", compare)
        except (Interrupted, KeyboardInterrupt) as error:
            # The message contains the full command, quoted for the shell.
            argv = ["nextvec", "suite", *recipes, "--out", out]
            argv += ["--overrides", *overrides] if overrides else []
            argv += ["--device", device] if device else []
            argv += ["--force"] if force else []
            argv += [word for name in trackers for word in ("--tracker", name)]
            argv += ray.argv if ray else []
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
    waiting = [make_step(step.recipe, step.overrides) for step in waiting]
    for step in waiting:
        require_inputs(step, quiet=log.quiet)
    log.plan(merge_steps(before, [*requested, *waiting], log.folder))

    known = {step.key for step in before}
    added = [step.name for step in log.training if step.key not in known]
    if not before:
        log.write_checklist("suite started")
    else:
        log.write_checklist("suite resumed" + (f", added: {', '.join(added)}" if added else ""))


def _train(log: RecoveryLog, step: Step, *, force: bool, trackers: Sequence[str]) -> None:
    """Train or resume a step in this process until it ends. A stop by a gate is recorded, not raised."""
    begun = begin_step(log, step, force=force)
    if begun is None:
        return
    try:
        end = train_step(recipe_of(log, begun), log.folder / begun.run, force=force, trackers=trackers, quiet=log.quiet)
    except (Interrupted, KeyboardInterrupt):
        log.change(begun, reason="interrupted")
        raise
    except Exception as error:
        # Any other error ends the suite; the step stays `running` and is resumed by the next call.
        log.change(begun, reason=" ".join(str(error).split()))
        raise
    log.change(begun, **end)
