"""nextvec trains, guards and evaluates latent vector models, which predict the embedding of a document's next chunk.

Every command is also a function with the same name and arguments:

    import nextvec

    nextvec.data_build(["my-texts"], out="my-store")
    run = nextvec.train("demo", {"data.store": "my-store"})
    print(run.evaluation.verdict.sentence)

Names are imported when they are used, so `import nextvec` never loads torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__: str
"""The installed version, read from the package metadata when it is used."""

if TYPE_CHECKING:
    from nextvec.commands.benchmark import benchmark_add, benchmark_run, benchmark_show, benchmark_tasks
    from nextvec.commands.compare import compare, leaderboard_add, leaderboard_show, plot
    from nextvec.commands.data import data_build, data_check, data_merge, data_synth
    from nextvec.commands.evaluate import diagnose, eval, gates_suggest
    from nextvec.commands.experiments import rehearse, suite, sweep
    from nextvec.commands.index import index_build
    from nextvec.commands.interchange import data_cache, data_copy, data_export, data_import
    from nextvec.commands.recipe import recipe_list, recipe_show
    from nextvec.commands.serve import serve
    from nextvec.commands.share import export, push
    from nextvec.commands.train import demo, resume, train
    from nextvec.commands.use import generate, next, predict, score
    from nextvec.commands.watch import runs, watch
    from nextvec.core.events import read_events
    from nextvec.data.store import Store, open_store
    from nextvec.errors import NextvecError
    from nextvec.inference.index import open_index
    from nextvec.inference.index_types import Index
    from nextvec.inference.load import load_model
    from nextvec.inference.model import LatentVectorModel
    from nextvec.recipe import Recipe, load_recipe

_MODULES = {
    "nextvec.commands.benchmark": ("benchmark_add", "benchmark_run", "benchmark_show", "benchmark_tasks"),
    "nextvec.commands.compare": ("compare", "leaderboard_add", "leaderboard_show", "plot"),
    "nextvec.commands.data": ("data_build", "data_check", "data_merge", "data_synth"),
    "nextvec.commands.evaluate": ("diagnose", "eval", "gates_suggest"),
    "nextvec.commands.experiments": ("rehearse", "suite", "sweep"),
    "nextvec.commands.index": ("index_build",),
    "nextvec.commands.interchange": ("data_cache", "data_copy", "data_export", "data_import"),
    "nextvec.commands.recipe": ("recipe_list", "recipe_show"),
    "nextvec.commands.serve": ("serve",),
    "nextvec.commands.share": ("export", "push"),
    "nextvec.commands.train": ("demo", "resume", "train"),
    "nextvec.commands.use": ("generate", "next", "predict", "score"),
    "nextvec.commands.watch": ("runs", "watch"),
    "nextvec.core.events": ("read_events",),
    "nextvec.data.store": ("Store", "open_store"),
    "nextvec.errors": ("NextvecError",),
    "nextvec.inference.index": ("Index", "open_index"),
    "nextvec.inference.load": ("load_model",),
    "nextvec.inference.model": ("LatentVectorModel",),
    "nextvec.recipe": ("Recipe", "load_recipe"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Index",
    "LatentVectorModel",
    "NextvecError",
    "Recipe",
    "Store",
    "benchmark_add",
    "benchmark_run",
    "benchmark_show",
    "benchmark_tasks",
    "compare",
    "data_build",
    "data_cache",
    "data_check",
    "data_copy",
    "data_export",
    "data_import",
    "data_merge",
    "data_synth",
    "demo",
    "diagnose",
    "eval",
    "export",
    "gates_suggest",
    "generate",
    "index_build",
    "leaderboard_add",
    "leaderboard_show",
    "load_model",
    "load_recipe",
    "next",
    "open_index",
    "open_store",
    "plot",
    "predict",
    "push",
    "read_events",
    "recipe_list",
    "recipe_show",
    "rehearse",
    "resume",
    "runs",
    "score",
    "serve",
    "suite",
    "sweep",
    "train",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("nextvec")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'nextvec' has no attribute '{name}'")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
