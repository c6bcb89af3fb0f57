"""Run models and recipes on the tasks of the benchmark, and keep each result as a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from nextvec.core.console import show
from nextvec.core.overrides import override_lines
from nextvec.core.run_paths import EVALUATION_FILE, RESUME_STATE
from nextvec.data.store import Store
from nextvec.errors import InputError, NotFiniteError, StoppedError, did_you_mean
from nextvec.experiments.benchmark_tasks import Task, known_tasks, load_task, open_task
from nextvec.experiments.single_run import resume_folder, train_recipe
from nextvec.inference.load import open_checkpoint, shipped_models
from nextvec.models.base import count_parameters
from nextvec.models.checkpoint import Checkpoint
from nextvec.recipe import Recipe, find_recipe, known_recipes, load_recipe, make_recipe
from nextvec.reports.benchmark import BenchmarkResults, TaskResult, file_name_of, write_page, write_result
from nextvec.training.evaluate import evaluate_checkpoint
from nextvec.training.setup import software_versions

RECIPE = "recipe:"
"""Before the name of a recipe that is also that of a model."""
RUNS = "runs"


def run_benchmark(
    models: Sequence[str],
    *,
    tasks: Sequence[str] = (),
    out: str = "artifacts/benchmark",
    seeds: Sequence[int] = (),
    device: str = "auto",
    quiet: bool = False,
) -> BenchmarkResults:
    """Evaluate models, and train and evaluate recipes, on tasks; write the results and the leaderboard.

    A model is any source of `load_model`; a recipe is a TOML file or a name, trained once for each of the `seeds` (its
    own if there are none). Without `tasks`, all known ones. Existing runs are used again, and unfinished ones are
    resumed. Raises InputError for an unknown model, recipe or task, or if nothing fits together.
    """
    if not models:
        raise InputError("no model named. Name a model, the folder of a run, or a recipe.")
    folder = Path(out)
    chosen = [load_task(name, folder) for name in tasks or known_tasks(folder)]
    # Every name is resolved before the first run, so that a wrong one does not appear after hours.
    recipes = {name: load_recipe(source) for name in models if (source := _recipe_source(name))}
    _require_distinct_names([name for name in models if name not in recipes])
    checkpoints = {name: open_checkpoint(name) for name in models if name not in recipes}
    remarks: list[str] = []
    # Task by task: its store is opened, or built, once for all models.
    for task in chosen:
        store, content = open_task(task, quiet=quiet)
        data = TaskData(task, store, content)
        for name, checkpoint in checkpoints.items():
            try:
                result = _evaluate(data, checkpoint, _model_name(name), device=device, quiet=quiet)
            except (InputError, NotFiniteError) as error:
                # A model of another embedding space must not prevent the other results.
                remarks.append(f"{name} on {task.name}: {error}")
                continue
            write_result(folder, result)
        for recipe in recipes.values():
            for seed in seeds or (recipe.seed,):
                try:
                    run = _train(data, recipe, seed, folder, device=device, quiet=quiet)
                except (StoppedError, NotFiniteError) as error:
                    remarks.append(f"{recipe.name}, seed {seed}, on {task.name}: {error}")
                    continue
                # The run's own evaluation used its seed; the task's result is measured anew.
                trained = open_checkpoint(run)
                write_result(folder, _evaluate(data, trained, recipe.name, seed=seed, device=device, quiet=quiet))
    show(remarks, quiet=quiet)
    if len(remarks) == len(chosen) * (len(checkpoints) + len(recipes) * max(1, len(seeds))):
        raise InputError(f"benchmark: nothing could be evaluated ({remarks[0]}). Name a task that fits.")
    return write_page(folder)


class TaskData(NamedTuple):
    """A task with its data."""

    task: Task
    store: Store
    content: str
    """Hash of the data."""


def _recipe_source(name: str) -> str:
    """Return the recipe that a name means; empty if it means a model."""
    if name.startswith(RECIPE):
        return name.removeprefix(RECIPE)
    if name.endswith(".toml"):
        return str(find_recipe(name))
    if name in shipped_models() or Path(name).exists():
        return ""
    if name in known_recipes():
        return name
    if "/" not in name:
        known = sorted({*shipped_models(), *known_recipes()})
        raise InputError(f"'{name}' is neither a model nor a recipe.{did_you_mean(name, known)}")
    return ""


def _model_name(source: str) -> str:
    """Return a name of a model for tables and file names."""
    path = Path(source)
    name = path.parent.name if path.suffix == ".pt" else path.name
    return name if path.exists() else source.replace("/", "--")


def _require_distinct_names(models: Sequence[str]) -> None:
    """Raise InputError if two models would write the same result file."""
    sources: dict[str, str] = {}
    for source in dict.fromkeys(models):
        other = sources.setdefault(_model_name(source), source)
        if other != source:
            raise InputError(
                f"benchmark: {other} and {source} have the same name, {_model_name(source)}, and would replace each "
                "other's results. Rename one folder."
            )


def _train(data: TaskData, recipe: Recipe, seed: int, folder: Path, *, device: str, quiet: bool) -> Path:
    """Train a recipe on the train split of a task, unless its run is finished; return the run's folder."""
    changes = {
        "data.store": data.store.name,
        "data.ood": "",
        "data.min_context": data.task.min_context,
        "seed": seed,
        "runtime.device": device,
    }
    changed = load_recipe(recipe, override_lines(changes))
    # The recipe's hash is in the name, so that a changed recipe is another run.
    path = folder / RUNS / data.task.name / f"{file_name_of(recipe.name)}-{changed.recipe_hash[:8]}"
    if (path / EVALUATION_FILE).is_file():
        return path
    if (path / RESUME_STATE).is_file():
        resume_folder(str(path), quiet=quiet)
    else:
        train_recipe(changed, out=str(path), quiet=quiet)
    return path


def _evaluate(
    data: TaskData, checkpoint: Checkpoint, name: str, *, seed: int | None = None, device: str, quiet: bool
) -> TaskResult:
    """Evaluate a model on the windows of a task, next to baselines that are fitted on the task's train split."""
    task = data.task
    context = int(checkpoint.values.get("context", 0)) or checkpoint.recipe.data.context
    # The task, not the model's own recipe, decides windows, queries, resamples and baselines.
    frozen = make_recipe(
        {
            "name": name,
            "seed": task.seed,
            "data": {"context": context, "min_context": task.min_context},
            "evaluation": {"queries": task.queries, "resamples": task.resamples},
        }
    )
    values = {**checkpoint.values, "recipe": frozen.to_toml(), "data": {}}
    evaluation = evaluate_checkpoint(
        replace(checkpoint, values=values), data=data.store.name, device=device, quiet=quiet
    )
    return TaskResult(
        task=task.name,
        version=task.version,
        content=data.content,
        is_frozen=data.content == task.content,
        model=name,
        trained=seed is not None,
        seed=seed,
        context=context,
        parameters=count_parameters(checkpoint.model()),
        space=str(data.store.space),
        versions=software_versions(),
        evaluation=evaluation,
    )
