"""nextvec trains, guards and judges latent vector models, which predict the embedding of a document's next chunk.

Every verb of the command line is a function here with the same name and arguments:

    import nextvec

    nextvec.data_build(["my-texts"], "my-store")
    run = nextvec.train("demo", ["data.store=my-store"])
    print(run.judgement.verdict.sentence)

Names are looked up when they are used, so that importing nextvec never loads torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nextvec.data.store import Store, open_store
    from nextvec.errors import NextvecError
    from nextvec.events import read_events
    from nextvec.recipe import Recipe, load_recipe
    from nextvec.verbs.comparing import compare, leaderboard_add, leaderboard_show
    from nextvec.verbs.data import data_build, data_check, data_export, data_import, data_synth
    from nextvec.verbs.diagnosing import diagnose
    from nextvec.verbs.gates import gates_suggest
    from nextvec.verbs.plotting import plot
    from nextvec.verbs.rehearsal import rehearse
    from nextvec.verbs.runs import demo, eval, resume, train
    from nextvec.verbs.series import suite
    from nextvec.verbs.sweeping import sweep
    from nextvec.verbs.watching import watch

_HOMES = {
    "nextvec.data.store": ("Store", "open_store"),
    "nextvec.errors": ("NextvecError",),
    "nextvec.events": ("read_events",),
    "nextvec.recipe": ("Recipe", "load_recipe"),
    "nextvec.verbs.data": ("data_build", "data_check", "data_export", "data_import", "data_synth"),
    "nextvec.verbs.comparing": ("compare", "leaderboard_add", "leaderboard_show"),
    "nextvec.verbs.diagnosing": ("diagnose",),
    "nextvec.verbs.gates": ("gates_suggest",),
    "nextvec.verbs.plotting": ("plot",),
    "nextvec.verbs.rehearsal": ("rehearse",),
    "nextvec.verbs.runs": ("demo", "eval", "resume", "train"),
    "nextvec.verbs.series": ("suite",),
    "nextvec.verbs.sweeping": ("sweep",),
    "nextvec.verbs.watching": ("watch",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "NextvecError",
    "Recipe",
    "Store",
    "compare",
    "data_build",
    "data_check",
    "data_export",
    "data_import",
    "data_synth",
    "demo",
    "diagnose",
    "eval",
    "gates_suggest",
    "leaderboard_add",
    "leaderboard_show",
    "load_recipe",
    "open_store",
    "plot",
    "read_events",
    "rehearse",
    "resume",
    "suite",
    "sweep",
    "train",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'nextvec' has no attribute '{name}'")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
