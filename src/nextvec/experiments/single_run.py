"""Training, going on with a run, and judging."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextvec.core.display import Displayable
from nextvec.core.run_paths import BEST_MODEL, EVALUATION_FILE, MODEL_CARD, REPORT_FILE
from nextvec.errors import NextvecError

if TYPE_CHECKING:
    from nextvec.core.table import View
    from nextvec.evaluation.examples import Example
    from nextvec.evaluation.results import Evaluation
    from nextvec.guards.diagnosis.case import Diagnoses
    from nextvec.guards.success import Success
    from nextvec.recipe import RecipeLike
    from nextvec.training.run import Run


@dataclass(frozen=True)
class TrainedRun(Displayable, view=f"{__name__}:trained_run_view"):
    """What training leaves: the run's folder and the judgement of its best model."""

    path: Path
    evaluation: Evaluation
    success: Success
    diagnoses: Diagnoses

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {
            "run": str(self.path),
            "evaluation": self.evaluation.to_dict(),
            "success": self.success.to_dict(),
            **self.diagnoses.to_dict(),
        }


def trained_run_view(run: TrainedRun) -> View:
    """Return the evaluation, diagnoses and success criteria of a finished run, and its files."""
    from nextvec.core.table import Line, View
    from nextvec.reports.tables import diagnoses_view, evaluation_view

    verdict = run.evaluation.verdict
    criteria = (Line(line) for line in run.success.lines(verdict.status if verdict else None))
    paths = (Line(f"run: {run.path}", style="path"), Line(f"report: {run.path / REPORT_FILE}", style="path"))
    blocks = (*evaluation_view(run.evaluation).blocks, *diagnoses_view(run.diagnoses).blocks)
    return View((*blocks, *criteria, *paths))


def train_recipe(
    recipe: RecipeLike,
    overrides: Sequence[str] = (),
    *,
    out: str = "",
    force: bool = False,
    tensorboard: bool = False,
    quiet: bool = False,
) -> TrainedRun:
    """Train a model as a recipe says, and judge it beside the baselines."""
    from nextvec.recipe import load_recipe
    from nextvec.trackers.tensorboard import board, require_tensorboard

    loaded = load_recipe(recipe, overrides)
    if tensorboard:
        require_tensorboard()
    from nextvec.training.setup import start_run  # after the recipe: a typo is told before torch loads

    folder = Path(out) if out else new_folder(Path("artifacts/runs"), loaded.name)
    run = start_run(loaded, folder, force=force, quiet=quiet)
    with board(run, wanted=tensorboard) as after_epoch:
        return train_and_evaluate(run, after_epoch)


def resume_folder(run: str, *, force: bool = False, tensorboard: bool = False, quiet: bool = False) -> TrainedRun:
    """Go on with an interrupted run, to the end that it would have had without the interruption."""
    from nextvec.trackers.tensorboard import board, require_tensorboard

    if tensorboard:
        require_tensorboard()
    from nextvec.training.setup import resume_run

    opened = resume_run(Path(run), force=force, quiet=quiet)
    with board(opened, wanted=tensorboard) as after_epoch:
        return train_and_evaluate(opened, after_epoch)


def train_and_evaluate(run: Run, after_epoch: Callable[[Run], None] | None = None) -> TrainedRun:
    """Train to the end and judge; a run that a gate or a number that is none ends leaves a report as well.

    `after_epoch` is called when an epoch is finished and saved, and may raise to end the run there.
    """
    from nextvec.errors import NotFiniteError, StoppedError
    from nextvec.ops import native_ops
    from nextvec.training.loop import train as train_loop

    try:
        with native_ops(run.recipe.runtime.native_ops):
            train_loop(run, after_epoch)
            return _evaluate_run(run)
    except (StoppedError, NotFiniteError) as error:
        _report_end(run, str(error))
        raise
    finally:
        run.close()


def _report_end(run: Run, ended: str) -> None:
    """Write the report of a run that ended before its time; a page that can't be written must not hide that end."""
    from nextvec.guards.diagnosis import diagnose
    from nextvec.reports.html.run_report import ReportContent, write_report
    from nextvec.reports.run_summary import case_of

    with contextlib.suppress(NextvecError):
        facts = _report_facts(run, None, None, diagnose(case_of(run.path)))
        write_report(run.path / REPORT_FILE, ReportContent(**facts, ended=ended))


def _evaluate_run(run: Run) -> TrainedRun:
    """Judge the best checkpoint as it lies on the disk, and write what the run leaves for people."""
    from nextvec.core.events import read_events
    from nextvec.core.files import write_json, write_text
    from nextvec.guards.diagnosis import diagnose
    from nextvec.guards.success import evaluate_success
    from nextvec.reports.html.run_report import ReportContent, write_report
    from nextvec.reports.model_card import model_card
    from nextvec.reports.run_summary import case_of, read_run
    from nextvec.reports.tables import evaluation_markdown
    from nextvec.training.evaluate import evaluate_best

    evaluation = evaluate_best(run)
    write_json(run.path / EVALUATION_FILE, evaluation.to_dict())
    run.event("evaluated", evaluation=evaluation.to_dict())
    run.log("", *evaluation_markdown(evaluation).splitlines(), shown=False)
    success = evaluate_success(run.recipe, run.state.history, read_events(run.path, everything=True))
    diagnoses = diagnose(case_of(run.path))
    facts = _report_facts(run, evaluation, success, diagnoses)
    write_report(run.path / REPORT_FILE, ReportContent(**facts, examples=_examples(run)))
    write_text(run.path / MODEL_CARD, model_card(read_run(run.path), evaluation))
    run.event("diagnosed", **diagnoses.to_dict())
    run.log(*(f"diagnosis: {item.line}" for item in diagnoses.items), shown=False)
    run.event("success", **success.to_dict())
    assert evaluation.verdict is not None
    run.log("", *success.lines(evaluation.verdict.status), shown=False)
    run.event("finished")
    run.write_history("finished", verdict=evaluation.to_dict()["verdict"], success=success.to_dict())
    return TrainedRun(run.path, evaluation, success, diagnoses)


def _examples(run: Run) -> tuple[Example, ...]:
    """Windows of val in words; none where the texts are missing or damaged, which must not cost a run its report."""
    from nextvec.evaluation.examples import nearest_examples
    from nextvec.models.checkpoint import read_checkpoint

    model = read_checkpoint(run.path / BEST_MODEL).model().to(run.device)
    try:
        return nearest_examples(model, run.sets["val"], run.data.store, seed=run.recipe.seed)
    except (NextvecError, OSError, ValueError, KeyError) as error:
        run.log(f"no examples in the report: the texts of {run.data.store.path} can't be read ({error})")
        return ()


def _report_facts(
    run: Run, evaluation: Evaluation | None, success: Success | None, diagnoses: Diagnoses
) -> dict[str, Any]:
    from nextvec.core.events import read_events

    started = next(event for event in read_events(run.path) if event["kind"] == "started")
    return {
        "title": run.recipe.name,
        "recipe": run.recipe.model_dump(exclude_none=True),
        "evaluation": evaluation,
        "history": run.state.history,
        "check": run.check.to_dict(),
        "versions": started["versions"],
        "success": success and success.to_dict(),
        "diagnoses": diagnoses.to_dict(),
        "synthetic": run.data.synthetic,
        "baselines": run.baseline_cosines,
    }


def new_folder(parent: Path, name: str) -> Path:
    """A folder's path that does not exist yet: the name and the time, and a number if that is taken."""
    as_file = re.sub(r"[^\w.+-]+", "_", name)
    stem = f"{as_file}_{time.strftime('%Y%m%d_%H%M%S')}"
    path, number = parent / stem, 1
    while path.exists():
        number += 1
        path = parent / f"{stem}_{number}"
    return path
