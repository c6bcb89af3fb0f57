"""The demo: the full pipeline on text that is already installed."""

from __future__ import annotations

from pathlib import Path

from nextvec.core.locks import exclusive
from nextvec.core.overrides import override_lines
from nextvec.data.splits import SplitPlan
from nextvec.data.store import MANIFEST
from nextvec.data.store.build import build_store
from nextvec.data.store.build_config import BuildConfig
from nextvec.experiments.single_run import TrainedRun, run_folder, train_recipe


def run_demo(folder: Path, overrides: tuple[str, ...] = (), *, quiet: bool = False) -> TrainedRun:
    """Build a store from the docstrings of Python packages if there is none, and train the recipe `demo` on it."""
    store = folder / "store"
    # One process builds the store, and others that start meanwhile use it.
    with exclusive(store):
        if not (store / MANIFEST).is_file():
            # The standard library is the ood source: other authors, and other subjects than numerical computing.
            plan = SplitPlan(val=0.1, ood_sources=("stdlib",))
            config = BuildConfig(("builtin:python-docs",), split=plan, min_chunks=6, drop_near_duplicates=True)
            build_store(config, store, quiet=quiet)
    changes = (*override_lines({"data.store": store}), *overrides)
    return train_recipe("demo", changes, out=str(run_folder(folder / "runs", "demo")), quiet=quiet)
