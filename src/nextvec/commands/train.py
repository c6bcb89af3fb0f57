"""Commands that train one model: `demo`, `train` and `resume`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from nextvec.commands.parameters import (
    Data,
    Device,
    File,
    Folder,
    Overrides,
    RecipeLike,
    Run,
    Trackers,
    as_texts,
    command,
)
from nextvec.core.overrides import override_lines

if TYPE_CHECKING:
    from nextvec.experiments.single_run import TrainedRun


@dataclass(frozen=True)
class TrainerFlags:
    """The flags of the original trainer. Each one overrides a field of the recipe."""

    model_type: Literal["amn", "gru", "lstm", "transformer"] | None = None
    """Override model.kind."""
    data: Data | None = None
    """Override data.store: a store by its folder or URL, or an .npz file of windows."""
    ood_data: Data | None = None
    """Override data.ood: a store or an .npz file of windows."""
    epochs: int | None = None
    """Override training.epochs."""
    batch_size: int | None = None
    """Override training.batch_size."""
    lr: float | None = None
    """Override training.lr."""
    device: Device | None = None
    """Override runtime.device."""
    lambda_mse: float | None = None
    """Override objective.mse."""
    lambda_info: float | None = None
    """Override objective.info_nce."""
    lambda_moment: float | None = None
    """Override objective.moment."""
    lambda_variance: float | None = None
    """Override objective.variance."""
    tau: float | None = None
    """Override objective.tau."""
    init_from: File | None = None
    """Override training.init_from: a run, a checkpoint, an exported folder or the name of a shipped model."""

    def overrides(self) -> tuple[str, ...]:
        """Return the flags that are set, as overrides of a recipe."""
        values = {field: getattr(self, flag) for flag, field in _FIELD_OF_FLAG.items()}
        return override_lines({field: value for field, value in values.items() if value is not None})


_FIELD_OF_FLAG = {
    "model_type": "model.kind",
    "data": "data.store",
    "ood_data": "data.ood",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "lr": "training.lr",
    "device": "runtime.device",
    "lambda_mse": "objective.mse",
    "lambda_info": "objective.info_nce",
    "lambda_moment": "objective.moment",
    "lambda_variance": "objective.variance",
    "tau": "objective.tau",
    "init_from": "training.init_from",
}

NO_FLAGS = TrainerFlags()


@command()
def demo(overrides: Overrides = (), *, out: Folder = "artifacts/demo", quiet: bool = False) -> TrainedRun:
    """Run the full pipeline on text that is already installed: the docstrings of Python packages.

    Trains on the docstrings of numpy, torch and scikit-learn; the standard library is the ood source. Builds a store
    with the built-in encoder, trains AMN and evaluates it next to every baseline. Works offline and takes about two
    minutes on two cores.

    Args:
        overrides: Changes to the recipe `demo`, such as training.epochs=3.
        out: Folder for the store and the runs. An existing store is used again.
        quiet: Show no progress.
    """
    from nextvec.experiments.demo import run_demo

    return run_demo(Path(out), override_lines(overrides), quiet=quiet)


@command()
def train(
    recipe: RecipeLike,
    overrides: Overrides = (),
    *,
    flags: Annotated[TrainerFlags, Parameter(name="*", group="Flags of the original trainer")] = NO_FLAGS,
    out: Annotated[Folder, Parameter(alias="--output-dir")] = "",
    force: bool = False,
    tracker: Trackers = (),
    quiet: bool = False,
) -> TrainedRun:
    """Train the model of a recipe and evaluate it next to the baselines.

    Args:
        recipe: Path of a TOML file, or the name of a recipe that comes with nextvec.
        overrides: Changes to the recipe, such as data.store=my-store training.epochs=3.
        flags: Flags of the original trainer. Each one overrides a field of the recipe.
        out: Folder of the run. Default: artifacts/runs/NAME_TIME.
        force: Train even if the data check is red.
        tracker: Also send the epochs and the evaluation to an experiment tracker (an extra of the same name). May be
            repeated.
        quiet: Show no progress.
    """
    from nextvec.recipe import load_recipe

    # Load the recipe before the import of torch, so that a typo is reported at once.
    loaded = load_recipe(recipe, (*override_lines(overrides), *flags.overrides()))
    from nextvec.experiments.single_run import train_recipe

    return train_recipe(loaded, out=str(out), force=force, trackers=as_texts(tracker), quiet=quiet)


@command()
def resume(run: Run, *, force: bool = False, tracker: Trackers = (), quiet: bool = False) -> TrainedRun:
    """Resume an interrupted run. The result is identical to that of an uninterrupted run.

    Args:
        run: Folder of the run.
        force: Resume even if a gate or the sentinel stopped the run, or if its recipe has changed.
        tracker: Also send the run to this experiment tracker. The trackers of the interrupted run continue by
            themselves.
        quiet: Show no progress.
    """
    from nextvec.experiments.single_run import resume_folder

    return resume_folder(str(run), force=force, trackers=as_texts(tracker), quiet=quiet)
