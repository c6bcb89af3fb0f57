"""Commands that train many models: `suite`, `sweep` and `rehearse`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tyro.conf import Positional

if TYPE_CHECKING:
    from nextvec.experiments.single_run import TrainedRun
    from nextvec.experiments.suite import SuiteResult
    from nextvec.experiments.sweep import SweepResult


def suite(
    recipes: Positional[tuple[str, ...]] = (),
    *,
    out: str = "artifacts/suite",
    overrides: tuple[str, ...] = (),
    device: str = "",
    force: bool = False,
    quiet: bool = False,
) -> SuiteResult:
    """Train recipes one after another and compare all models on all their sets; started again, it goes on.

    The folder keeps suite.json, recovery.log, runs/ and at the end comparison.md. What is complete is never done again;
    an interrupted run is taken up where it was. A run that a gate stops is marked, and the next recipe follows.

    Args:
        recipes: Paths of TOML files, or names of recipes that come with nextvec; left out, those of the folder.
        out: Folder of the suite.
        overrides: Changes to every recipe, such as training.epochs=3.
        device: auto, cpu, cuda or mps; left out, what each recipe says.
        force: Try stopped and failed steps again, past their gates, and train although a data check is red.
        quiet: Show no progress.
    """
    from nextvec.experiments.suite import run_suite

    return run_suite(recipes, out=out, overrides=overrides, device=device, force=force, quiet=quiet)


def sweep(
    recipe: Positional[str],
    overrides: Positional[tuple[str, ...]] = (),
    *,
    space: tuple[str, ...] = (),
    trials: int = 20,
    out: str = "artifacts/sweep",
    quiet: bool = False,
) -> SweepResult:
    """Search for the values of a recipe that give the highest gain on val; started again, it goes on.

    Each trial is a run in the folder, with its report. Gates prune trials; ood is told once, for the best.

    Args:
        recipe: Path of a TOML file, or the name of a recipe that comes with nextvec.
        overrides: Changes to the recipe, such as data.store=my-store training.epochs=3.
        space: What is searched: field=low..high, field=low..high:log or field=a,b,c, one for each field.
        trials: Trials in all, those of earlier calls included.
        out: Folder of the sweep.
        quiet: Show no progress.
    """
    from nextvec.experiments.sweep import run_sweep

    return run_sweep(recipe, overrides, space=space, trials=trials, out=out, quiet=quiet)


def rehearse(
    recipe: Positional[str],
    overrides: Positional[tuple[str, ...]] = (),
    *,
    scale: float = 0.02,
    out: str = "artifacts/rehearsal",
    force: bool = False,
    quiet: bool = False,
) -> TrainedRun:
    """Dry-run a recipe on synthetic vectors in the shape of the production set, with gates and sentinel live.

    Builds the synthetic 790k and 584k sets once, writes their ood windows as an .npz file too, and trains: recipes
    with 584k in their name on the older set, all others on the production set.

    Args:
        recipe: Path of a TOML file, or the name of a recipe that comes with nextvec.
        overrides: Changes to the recipe, such as training.epochs=3.
        scale: Share of the production set's documents, vectors and windows; 1 is its full size.
        out: Folder for the synthetic sets and the runs; sets that are there already are used again.
        force: Train although the data check is red.
        quiet: Show no progress.
    """
    from nextvec.experiments.rehearsal import run_rehearsal

    return run_rehearsal(recipe, overrides, scale=scale, out=out, force=force, quiet=quiet)
