"""One run from recipe to report: train or resume, evaluate, diagnose, and write the outputs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextvec.core.display import Displayable
from nextvec.core.events import read_events
from nextvec.core.files import write_json, write_text
from nextvec.core.formatting import Status
from nextvec.core.run_paths import (
    BEST_MODEL,
    COHERENCE_FILE,
    EVALUATION_FILE,
    MODEL_CARD,
    REPORT_FILE,
    TIME,
    TRAINING_LOG,
)
from nextvec.core.table import Line, View
from nextvec.distributed.process_group import ProcessGroup, join_process_group
from nextvec.errors import Interrupted, NextvecError, NotFiniteError, StoppedError
from nextvec.evaluation.examples import Example, nearest_examples
from nextvec.evaluation.results import Evaluation
from nextvec.guards.diagnosis import diagnose
from nextvec.guards.diagnosis.case import Diagnoses
from nextvec.guards.success import Success, evaluate_success
from nextvec.inference.coherence import fit_coherence
from nextvec.models.checkpoint import read_checkpoint
from nextvec.ops import native_ops
from nextvec.recipe import RecipeLike, load_recipe
from nextvec.reports.html.run_report import ReportContent, write_report
from nextvec.reports.model_card import model_card
from nextvec.reports.run_summary import case_of, read_run
from nextvec.reports.tables import diagnoses_view, evaluation_markdown, evaluation_view
from nextvec.trackers.tracker import require_trackers
from nextvec.trackers.tracking import tracking
from nextvec.training.evaluate import evaluate_best
from nextvec.training.follow import follow
from nextvec.training.loop import train as train_loop
from nextvec.training.resume import resume_run
from nextvec.training.run import Run
from nextvec.training.selection import selection_of
from nextvec.training.setup import start_run
from nextvec.training.text_log import selection_line


@dataclass(frozen=True)
class TrainedRun(Displayable):
    """A finished run: its folder and the evaluation of its best model."""

    path: Path
    evaluation: Evaluation
    success: Success
    diagnoses: Diagnoses

    @property
    def log_file(self) -> Path:
        """The log for people."""
        return self.path / TRAINING_LOG

    def view(self) -> View:
        """Return the evaluation, diagnoses, success criteria and files as tables and lines."""
        verdict = self.evaluation.verdict
        criteria = (Line(line) for line in self.success.lines(verdict.status if verdict else None))
        paths = (Line(f"run: {self.path}", style="path"), Line(f"report: {self.path / REPORT_FILE}", style="path"))
        blocks = (*evaluation_view(self.evaluation).blocks, *diagnoses_view(self.diagnoses).blocks)
        return View((*blocks, *criteria, *paths))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for --json."""
        return {
            "run": str(self.path),
            "status": self.status.value,
            "evaluation": self.evaluation.to_dict(),
            "success": self.success.to_dict(),
            "diagnoses": self.diagnoses.to_dict()["diagnoses"],
        }

    @property
    def status(self) -> Status:
        """The status of the verdict."""
        return self.evaluation.status


def train_recipe(
    recipe: RecipeLike,
    overrides: Sequence[str] = (),
    *,
    out: str = "",
    force: bool = False,
    trackers: Sequence[str] = (),
    quiet: bool = False,
) -> TrainedRun:
    """Train the model of a recipe and evaluate it next to the baselines."""
    loaded = load_recipe(recipe, overrides)
    trackers = require_trackers(trackers)  # before the run folder is created
    folder = Path(out) if out else run_folder(Path("artifacts/runs"), loaded.name)
    with leading() as processes:
        run = start_run(loaded, folder, force=force, quiet=quiet, processes=processes)
        with tracking(run, trackers) as after_epoch:
            return train_and_evaluate(run, after_epoch)


def resume_folder(folder: str, *, force: bool = False, trackers: Sequence[str] = (), quiet: bool = False) -> TrainedRun:
    """Resume an interrupted run; the result is identical to that of an uninterrupted run."""
    trackers = require_trackers(trackers)
    with leading() as processes:
        run = resume_run(Path(folder), force=force, quiet=quiet, processes=processes)
        with tracking(run, trackers) as after_epoch:
            return train_and_evaluate(run, after_epoch)


@contextlib.contextmanager
def leading() -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started, and lead them; without torchrun this process is alone.

    Any other process than the main one follows instead, and then exits with the main one's exit code.
    """
    processes = join_process_group()
    if not processes.is_main:
        raise SystemExit(follow(processes))
    code = 1
    try:
        yield processes
        code = 0
    except NextvecError as error:
        code = error.exit_code
        raise
    except KeyboardInterrupt:
        code = Interrupted.exit_code
        raise
    finally:
        processes.end(code)


def train_and_evaluate(run: Run, after_epoch: Callable[[Run], None] | None = None) -> TrainedRun:
    """Train to the last epoch and evaluate; a stopped or failed run gets a report as well.

    `after_epoch` is called after each saved epoch, and may raise to end the run.
    """
    try:
        with native_ops(run.recipe.runtime.native_ops):
            train_loop(run, after_epoch)
            return _evaluate_run(run)
    except (StoppedError, NotFiniteError) as error:
        # An error while writing the report must not hide why the run ended.
        with contextlib.suppress(NextvecError):
            facts = _report_facts(run, None, None, diagnose(case_of(run.path)))
            write_report(run.path / REPORT_FILE, ReportContent(**facts, ended=str(error)))
        raise
    finally:
        run.close()


def _evaluate_run(run: Run) -> TrainedRun:
    """Evaluate the best checkpoint from disk, and write evaluation, report and model card."""
    evaluation = evaluate_best(run)
    write_json(run.path / EVALUATION_FILE, evaluation.to_dict())
    run.event("evaluated", evaluation=evaluation.to_dict())
    run.log("", *evaluation_markdown(evaluation).splitlines(), shown=False)
    _fit_coherence(run)

    # Success criteria and diagnoses read the events, which now contain the evaluation.
    success = evaluate_success(run.recipe, run.state.history, read_events(run.path, everything=True))
    diagnoses = diagnose(case_of(run.path))

    # The files for people.
    facts = _report_facts(run, evaluation, success, diagnoses)
    write_report(run.path / REPORT_FILE, ReportContent(**facts, examples=_examples(run)))
    write_text(run.path / MODEL_CARD, model_card(read_run(run.path), evaluation))
    run.event("diagnosed", **diagnoses.to_dict())
    run.log(*(f"diagnosis: {item.line}" for item in diagnoses.items), shown=False)
    run.event("success", **success.to_dict())
    assert evaluation.verdict is not None
    run.log("", *success.lines(evaluation.verdict.status), shown=False)

    # The end is recorded last: a run killed before this line evaluates again when it is resumed.
    run.event("finished")
    run.write_history("finished", verdict=evaluation.to_dict()["verdict"], success=success.to_dict())
    return TrainedRun(run.path, evaluation, success, diagnoses)


def _fit_coherence(run: Run) -> None:
    """Fit and save what `nextvec score` finds chunks of other documents with, if the store has texts."""
    store = run.data.store
    if store.has_texts and (coherence := fit_coherence(store, run.recipe.seed)) is not None:
        coherence.save(run.path / COHERENCE_FILE)


def _examples(run: Run) -> tuple[Example, ...]:
    """Return val windows as text for the report; empty, with a log line, if the texts are missing or damaged."""
    model = read_checkpoint(run.path / BEST_MODEL).model().to(run.device)
    try:
        return nearest_examples(model, run.sets["val"], run.data.store, seed=run.recipe.seed)
    except (NextvecError, OSError, ValueError, KeyError) as error:
        run.log(f"The report contains no examples: the texts of store {run.data.store.name} cannot be read ({error}).")
        return ()


def _report_facts(
    run: Run, evaluation: Evaluation | None, success: Success | None, diagnoses: Diagnoses
) -> dict[str, Any]:
    """Return the fields of `ReportContent` that finished and stopped runs have in common."""
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
        "selection": selection_line(selection_of(run)),
    }


def run_folder(parent: Path, name: str) -> Path:
    """Return the path of a new run in `parent`, from its name and `{time}`, which `start_run` replaces."""
    # Names of recipes may contain characters that file names must not.
    safe_name = re.sub(r"[^\w.+-]+", "_", name)
    return parent / f"{safe_name}_{TIME}"
