"""Training, going on with a run, and judging."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from nextvec.errors import NextvecError

if TYPE_CHECKING:
    from nextvec.judge.diagnose import Diagnoses
    from nextvec.judge.examples import Example
    from nextvec.judge.judgement import Judgement
    from nextvec.judge.success import Success
    from nextvec.training.run import Run

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class TrainedRun:
    """What training leaves: the run's folder and the judgement of its best model."""

    path: Path
    judgement: Judgement
    success: Success
    diagnoses: Diagnoses

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {
            "run": str(self.path),
            "judgement": self.judgement.to_dict(),
            "success": self.success.to_dict(),
            **self.diagnoses.to_dict(),
        }


@dataclass(frozen=True)
class OriginalFlags:
    """The flags of the original trainer, each another way to write an override of the recipe."""

    model_type: str | None = None
    """model.kind: amn, lstm, gru or transformer."""
    data: str | None = None
    """data.store: a store or an .npz file of windows."""
    ood_data: str | None = None
    """data.ood: a store or an .npz file of windows."""
    epochs: int | None = None
    """training.epochs."""
    batch_size: int | None = None
    """training.batch."""
    lr: float | None = None
    """training.lr."""
    device: str | None = None
    """runtime.device: auto, cpu, cuda or mps."""
    lambda_mse: float | None = None
    """objective.mse."""
    lambda_info: float | None = None
    """objective.info."""
    lambda_moment: float | None = None
    """objective.moment."""
    lambda_variance: float | None = None
    """objective.variance."""
    tau: float | None = None
    """objective.tau."""
    init_from: str | None = None
    """training.init_from: a checkpoint to start from."""

    def overrides(self) -> tuple[str, ...]:
        """The flags that were given, as overrides."""
        return tuple(
            f"{field}={_as_toml(getattr(self, flag))}"
            for flag, field in _FIELD_OF_FLAG.items()
            if getattr(self, flag) is not None
        )


_FIELD_OF_FLAG = {
    "model_type": "model.kind", "data": "data.store", "ood_data": "data.ood", "epochs": "training.epochs",
    "batch_size": "training.batch", "lr": "training.lr", "device": "runtime.device", "lambda_mse": "objective.mse",
    "lambda_info": "objective.info", "lambda_moment": "objective.moment", "lambda_variance": "objective.variance",
    "tau": "objective.tau", "init_from": "training.init_from",
}  # fmt: skip

NO_FLAGS = OriginalFlags()


def _as_toml(value: str | float) -> str:
    """A value as TOML: text in quotes, so that a path can't be taken for a number."""
    import json

    return json.dumps(value) if isinstance(value, str) else repr(value)


def demo(
    out: str = "artifacts/demo", overrides: Positional[tuple[str, ...]] = (), *, quiet: bool = False
) -> TrainedRun:
    """The whole job on real text that is already here: the documentation of the installed Python packages.

    Reads docstrings (numpy, torch and scikit-learn to learn from, the standard library as another source), fits the
    built-in encoder, trains AMN and judges it beside every baseline. Offline, about two minutes on two cores.

    Args:
        out: Folder for the vector store and the runs; a store that is there already is used again.
        overrides: Changes to the recipe `demo`, such as training.epochs=3.
        quiet: Show no progress.
    """
    from nextvec.data.build import build_store
    from nextvec.data.split import SplitPlan
    from nextvec.data.store import MANIFEST

    store = Path(out) / "store"
    if not (store / MANIFEST).is_file():
        plan = SplitPlan(val=0.1, ood_sources=("stdlib",))
        build_store(["builtin:python-docs"], store, encoder="lsa", split=plan, min_chunks=8, quiet=quiet)
    return train(
        "demo", (f"data.store={store}", *overrides), out=str(new_folder(Path(out) / "runs", "demo")), quiet=quiet
    )


def train(
    recipe: Positional[str],
    overrides: Positional[tuple[str, ...]] = (),
    *,
    flags: OmitArgPrefixes[OriginalFlags] = NO_FLAGS,
    out: Annotated[str, arg(aliases=("--output-dir",))] = "",
    force: bool = False,
    tensorboard: bool = False,
    quiet: bool = False,
) -> TrainedRun:
    """Train a model as a recipe says, and judge it beside the baselines.

    Args:
        recipe: Path of a TOML file, or the name of a recipe that comes with nextvec.
        overrides: Changes to the recipe, such as data.store=my-store training.epochs=3.
        flags: The original trainer's flags, each another way to write an override.
        out: Folder of the run; left out, artifacts/runs/NAME_TIME.
        force: Train although the data check is red.
        tensorboard: Write TensorBoard's files into the run's folder tensorboard/ as well; needs the extra of that name.
        quiet: Show no progress.
    """
    from nextvec.recipe import load_recipe
    from nextvec.report.board import board, require_tensorboard

    loaded = load_recipe(recipe, (*overrides, *flags.overrides()))
    if tensorboard:
        require_tensorboard()
    from nextvec.training.start import start_run  # after the recipe: a typo is told before torch loads

    folder = Path(out) if out else new_folder(Path("artifacts/runs"), loaded.name)
    run = start_run(loaded, folder, force=force, quiet=quiet)
    with board(run, wanted=tensorboard) as after_epoch:
        return train_and_judge(run, after_epoch)


def resume(run: Positional[str], *, force: bool = False, tensorboard: bool = False, quiet: bool = False) -> TrainedRun:
    """Go on with an interrupted run, to the end that it would have had without the interruption.

    Args:
        run: Folder of the run.
        force: Go on although a gate or the sentinel stopped the run, or its recipe was changed.
        tensorboard: Go on with TensorBoard's files as well, or begin them with the epochs that are to come.
        quiet: Show no progress.
    """
    from nextvec.report.board import board, require_tensorboard

    if tensorboard:
        require_tensorboard()
    from nextvec.training.start import resume_run

    opened = resume_run(Path(run), force=force, quiet=quiet)
    with board(opened, wanted=tensorboard) as after_epoch:
        return train_and_judge(opened, after_epoch)


def eval(
    checkpoint: Positional[str],
    *,
    data: str = "",
    ood_data: str = "",
    context: int | None = None,
    min_context: int | None = None,
    retrieval: Literal["exact", "faiss"] | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Judgement:
    """Judge a checkpoint beside every baseline on the val and ood splits of a store.

    Args:
        checkpoint: A .pt file (of nextvec or of the original trainer) or the folder of a run.
        data: A store or an .npz file of windows; left out, what it was trained on.
        ood_data: A store or an .npz file of windows that is the ood set; without --data only that is judged.
        context: S; left out, what the checkpoint says, else 5.
        min_context: Judge only windows with so many vectors before their target, to compare context lengths on the
            same windows; left out, what the checkpoint says.
        retrieval: exact, or faiss for splits too large for a matrix product; left out, what the checkpoint says.
        device: auto, cpu, cuda or mps.
        quiet: Show no progress.
    """
    from nextvec.training.judging import judge_checkpoint

    return judge_checkpoint(
        Path(checkpoint),
        data=data,
        ood_data=ood_data,
        context=context,
        min_context=min_context,
        retrieval=retrieval,
        device=device,
        quiet=quiet,
    )


def train_and_judge(run: Run, after_epoch: Callable[[Run], None] | None = None) -> TrainedRun:
    """Train to the end and judge; a run that a gate or a number that is none ends leaves a report as well.

    `after_epoch` is called when an epoch is finished and saved, and may raise to end the run there.
    """
    from nextvec.errors import NotFiniteError, StoppedError
    from nextvec.training.loop import train as train_loop

    try:
        train_loop(run, after_epoch)
        return _judge_run(run)
    except (StoppedError, NotFiniteError) as error:
        _report_end(run, str(error))
        raise
    finally:
        run.close()


def _report_end(run: Run, ended: str) -> None:
    """Write the report of a run that ended before its time; a page that can't be written must not hide that end."""
    from nextvec.judge.diagnose import diagnose
    from nextvec.report.page import write_report
    from nextvec.report.runfacts import case_of

    with contextlib.suppress(NextvecError):
        facts = _report_facts(run, None, None, diagnose(case_of(run.path)))
        write_report(run.path / REPORT_FILE, **facts, ended=ended)


def _judge_run(run: Run) -> TrainedRun:
    """Judge the best checkpoint as it lies on the disk, and write what the run leaves for people."""
    from nextvec.events import read_events
    from nextvec.files import write_json, write_text
    from nextvec.judge.diagnose import diagnose
    from nextvec.judge.success import judge_success
    from nextvec.report.card import CARD_FILE, model_card
    from nextvec.report.page import write_report
    from nextvec.report.runfacts import JUDGEMENT_FILE, case_of, read_run
    from nextvec.report.table import judgement_markdown
    from nextvec.training.judging import judge_best

    judgement = judge_best(run)
    write_json(run.path / JUDGEMENT_FILE, judgement.to_dict())
    run.event("judged", judgement=judgement.to_dict())
    run.say("", *judgement_markdown(judgement).splitlines(), shown=False)
    success = judge_success(run.recipe, run.position.history, read_events(run.path, everything=True))
    diagnoses = diagnose(case_of(run.path))
    facts = _report_facts(run, judgement, success, diagnoses)
    write_report(run.path / REPORT_FILE, **facts, examples=_examples(run))
    write_text(run.path / CARD_FILE, model_card(read_run(run.path), judgement))
    run.event("diagnosed", **diagnoses.to_dict())
    run.say(*(f"diagnosis: {item.line}" for item in diagnoses.found), shown=False)
    run.event("success", **success.to_dict())
    assert judgement.verdict is not None
    run.say("", *success.lines(judgement.verdict.light), shown=False)
    run.event("finished")
    run.write_history("finished", verdict=judgement.to_dict()["verdict"], success=success.to_dict())
    return TrainedRun(run.path, judgement, success, diagnoses)


def _examples(run: Run) -> tuple[Example, ...]:
    """Windows of val in words; none where the texts are missing or damaged, which must not cost a run its report."""
    from nextvec.judge.examples import nearest_examples
    from nextvec.training.checkpoint import BEST, read_checkpoint

    model = read_checkpoint(run.path / BEST).model().to(run.device)
    try:
        return nearest_examples(model, run.sets["val"], run.data.store, seed=run.recipe.seed)
    except (NextvecError, OSError, ValueError, KeyError) as error:
        run.say(f"no examples in the report: the texts of {run.data.store.path} can't be read ({error})")
        return ()


def _report_facts(
    run: Run, judgement: Judgement | None, success: Success | None, diagnoses: Diagnoses
) -> dict[str, Any]:
    from nextvec.events import read_events

    started = next(event for event in read_events(run.path) if event["kind"] == "started")
    return {
        "title": run.recipe.name,
        "recipe": run.recipe.model_dump(exclude_none=True),
        "judgement": judgement,
        "history": run.position.history,
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
