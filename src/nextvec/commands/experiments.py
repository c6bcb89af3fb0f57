"""Commands that train many models, `suite` and `sweep`, and the dry run `rehearse`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nextvec.commands.parameters import (
    Device,
    Engine,
    Folder,
    Names,
    Overrides,
    Paths,
    RayAddress,
    RecipeLike,
    Trackers,
    as_texts,
    command,
)
from nextvec.core.overrides import override_lines

if TYPE_CHECKING:
    from nextvec.experiments.single_run import TrainedRun
    from nextvec.experiments.suite import SuiteResult
    from nextvec.experiments.sweep import SweepResult


@command()
def suite(
    recipes: Paths = (),
    *,
    out: Folder = "artifacts/suite",
    overrides: Overrides = (),
    device: Device = "",
    force: bool = False,
    tracker: Trackers = (),
    engine: Engine = "local",
    address: RayAddress = "",
    concurrency: int | None = None,
    cpus_per_run: int | None = None,
    gpus_per_run: float | None = None,
    quiet: bool = False,
) -> SuiteResult:
    """Train recipes one after another and compare all models on all their data sets. Rerun to resume.

    Complete steps are skipped, and an interrupted run is resumed. If a gate stops a run, the step is marked and the
    next recipe follows. The folder contains suite.json, recovery.log, runs/ and, at the end, comparison.md.

    Args:
        recipes: Paths of TOML files, or names of recipes that come with nextvec. Default: those of the folder.
        out: Folder of the suite.
        overrides: Changes to every recipe, such as training.epochs=3.
        device: Device of every run. Default: the device of each recipe.
        force: Retry stopped and failed steps, ignore their gates, and train even if a data check is red.
        tracker: Also send every run to an experiment tracker (an extra of the same name). May be repeated.
        engine: 'local': one run after another, here. 'ray': several at a time on a Ray cluster (extra: ray).
        address: Address of the Ray cluster: auto, or HOST:PORT. Default: RAY_ADDRESS, else this machine.
        concurrency: Number of runs at a time on Ray. Default: as many as the cluster has room for.
        cpus_per_run: CPUs of each run on Ray. Default: runtime.threads of its recipe, else 1.
        gpus_per_run: GPUs of each run on Ray; 0.25 shares one among 4 runs. Default: 1 if the cluster has GPUs.
        quiet: Show no progress.
    """
    from nextvec.experiments.ray_options import ray_options
    from nextvec.experiments.suite import run_suite

    return run_suite(
        as_texts(recipes),
        out=str(out),
        overrides=override_lines(overrides),
        device=device,
        force=force,
        trackers=as_texts(tracker),
        ray=ray_options(engine, address, concurrency, cpus_per_run, gpus_per_run),
        quiet=quiet,
    )


@command()
def sweep(
    recipe: RecipeLike,
    overrides: Overrides = (),
    *,
    space: Annotated[Names, Parameter(metavar="FIELD=RANGE...")] = (),
    trials: int = 20,
    out: Folder = "artifacts/sweep",
    tracker: Trackers = (),
    engine: Engine = "local",
    address: RayAddress = "",
    concurrency: int | None = None,
    cpus_per_run: int | None = None,
    gpus_per_run: float | None = None,
    quiet: bool = False,
) -> SweepResult:
    """Search for the hyperparameters with the highest gain on val (extra: sweep). Rerun to resume.

    Each trial is a run in the folder, with its report. Gates prune trials. The ood split is evaluated once, for the
    best trial.

    Args:
        recipe: Path of a TOML file, or the name of a recipe that comes with nextvec.
        overrides: Changes to the recipe, such as data.store=my-store training.epochs=3.
        space: Search space: field=low..high, field=low..high:log or field=a,b,c, once per field.
        trials: Total number of trials, including those of earlier calls.
        out: Folder of the sweep.
        tracker: Also send every trial to an experiment tracker (an extra of the same name). May be repeated.
        engine: 'local': one run after another, here. 'ray': several at a time on a Ray cluster (extra: ray).
        address: Address of the Ray cluster: auto, or HOST:PORT. Default: RAY_ADDRESS, else this machine.
        concurrency: Number of runs at a time on Ray. Default: as many as the cluster has room for.
        cpus_per_run: CPUs of each run on Ray. Default: runtime.threads of its recipe, else 1.
        gpus_per_run: GPUs of each run on Ray; 0.25 shares one among 4 runs. Default: 1 if the cluster has GPUs.
        quiet: Show no progress.
    """
    from nextvec.experiments.ray_options import ray_options
    from nextvec.experiments.sweep import run_sweep

    return run_sweep(
        recipe,
        override_lines(overrides),
        space=as_texts(space),
        trials=trials,
        out=str(out),
        trackers=as_texts(tracker),
        ray=ray_options(engine, address, concurrency, cpus_per_run, gpus_per_run),
        quiet=quiet,
    )


@command()
def rehearse(
    recipe: RecipeLike,
    overrides: Overrides = (),
    *,
    scale: float = 0.02,
    out: Folder = "artifacts/rehearsal",
    force: bool = False,
    quiet: bool = False,
) -> TrainedRun:
    """Dry-run a recipe on synthetic vectors in the shape of the production set, with gates and sentinel active.

    Generates the synthetic 790k and 584k sets once, exports their ood windows as an .npz file, and trains. Recipes with
    584k in their name use the older set, all others the production set.

    Args:
        recipe: Path of a TOML file, or the name of a recipe that comes with nextvec.
        overrides: Changes to the recipe, such as training.epochs=3.
        scale: Fraction of the production set's documents, vectors and windows; 1 is the full size.
        out: Folder for the synthetic sets and the runs. Existing sets are used again.
        force: Train even if the data check is red.
        quiet: Show no progress.
    """
    from nextvec.experiments.rehearsal import run_rehearsal

    return run_rehearsal(recipe, override_lines(overrides), scale=scale, out=str(out), force=force, quiet=quiet)
