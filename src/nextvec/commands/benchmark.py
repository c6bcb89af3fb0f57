"""Commands of the benchmark: frozen tasks, results as files, and a leaderboard that is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nextvec.commands.parameters import Data, Device, Folder, Paths, as_texts, command

if TYPE_CHECKING:
    from nextvec.experiments.benchmark_tasks import TaskList
    from nextvec.reports.benchmark import BenchmarkResults

FOLDER = "artifacts/benchmark"


@command()
def benchmark_run(
    models: Annotated[Paths, Parameter(metavar="MODEL|RECIPE...")],
    *,
    tasks: Annotated[Paths, Parameter(metavar="TASK...")] = (),
    seeds: Annotated[tuple[int, ...], Parameter(metavar="SEED...")] = (),
    out: Folder = FOLDER,
    device: Device = "auto",
    quiet: bool = False,
) -> BenchmarkResults:
    """Evaluate models on the tasks of the benchmark; train recipes on each task first. Rerun to resume.

    The folder contains results/ with a JSON file for each model and task, runs/ of the recipes, and leaderboard.md.

    Args:
        models: Models (the name of one that comes with nextvec, a run folder, a .pt file, an exported folder or a hub
            name) and recipes (a .toml file or a name). A name of both is the model; recipe:NAME is the recipe.
        tasks: Names or .toml files of tasks. Default: all that 'nextvec benchmark tasks' lists.
        seeds: Train each recipe once for each of these seeds. Default: the recipe's own.
        out: Folder of the benchmark.
        device: Device of training and evaluation.
        quiet: Show no progress.
    """
    from nextvec.experiments.benchmark import run_benchmark

    return run_benchmark(
        as_texts(models), tasks=as_texts(tasks), out=str(out), seeds=tuple(seeds), device=device, quiet=quiet
    )


@command()
def benchmark_tasks(*, out: Folder = FOLDER) -> TaskList:
    """List the tasks of the benchmark: those that come with nextvec, and those of a benchmark's folder.

    Args:
        out: Folder of the benchmark.
    """
    from nextvec.experiments.benchmark_tasks import list_tasks

    return list_tasks(Path(out))


@command()
def benchmark_add(
    store: Data,
    *,
    name: Annotated[str, Parameter(metavar="NAME")] = "",
    description: Annotated[str, Parameter(metavar="TEXT")] = "",
    min_context: int = 5,
    out: Folder = FOLDER,
) -> TaskList:
    """Freeze a store as a task of a benchmark's folder.

    Args:
        store: A store by its folder or URL, with a train and a val split.
        name: Name of the task. Default: that of the store's folder.
        description: One sentence about the task.
        min_context: Minimum number of vectors before a target, for every model.
        out: Folder of the benchmark.
    """
    from nextvec.experiments.benchmark_tasks import add_task, list_tasks

    add_task(str(store), Path(out), name=name, description=description, min_context=min_context)
    return list_tasks(Path(out))


@command()
def benchmark_show(*, out: Folder = FOLDER) -> BenchmarkResults:
    """Show the results of a benchmark's folder, and write its leaderboard.md anew.

    Args:
        out: Folder of the benchmark.
    """
    from nextvec.reports.benchmark import write_page

    return write_page(Path(out))
