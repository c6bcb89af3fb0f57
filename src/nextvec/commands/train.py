"""Training, going on with a run, and judging."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from nextvec.experiments.single_run import TrainedRun, new_folder, resume_folder, train_recipe


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
    """training.batch_size."""
    lr: float | None = None
    """training.lr."""
    device: str | None = None
    """runtime.device: auto, cpu, cuda or mps."""
    lambda_mse: float | None = None
    """objective.mse."""
    lambda_info: float | None = None
    """objective.info_nce."""
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
    "batch_size": "training.batch_size", "lr": "training.lr", "device": "runtime.device", "lambda_mse": "objective.mse",
    "lambda_info": "objective.info_nce", "lambda_moment": "objective.moment", "lambda_variance": "objective.variance",
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
    from nextvec.data.splits import SplitPlan
    from nextvec.data.store import MANIFEST
    from nextvec.data.store.build import build_store

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
    return train_recipe(
        recipe, (*overrides, *flags.overrides()), out=out, force=force, tensorboard=tensorboard, quiet=quiet
    )


def resume(run: Positional[str], *, force: bool = False, tensorboard: bool = False, quiet: bool = False) -> TrainedRun:
    """Go on with an interrupted run, to the end that it would have had without the interruption.

    Args:
        run: Folder of the run.
        force: Go on although a gate or the sentinel stopped the run, or its recipe was changed.
        tensorboard: Go on with TensorBoard's files as well, or begin them with the epochs that are to come.
        quiet: Show no progress.
    """
    return resume_folder(run, force=force, tensorboard=tensorboard, quiet=quiet)
