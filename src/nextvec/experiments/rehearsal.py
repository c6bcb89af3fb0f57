"""The dry run of a production recipe: the real thing on synthetic vectors in the shape of the production set."""

from __future__ import annotations

import contextlib
import fcntl
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from nextvec.core.files import make_folder, writing
from nextvec.errors import InputError

if TYPE_CHECKING:
    from nextvec.data.store import Store
    from nextvec.data.synthetic.generate import SyntheticSpec
    from nextvec.experiments.single_run import TrainedRun
    from nextvec.recipe import RecipeLike


PRODUCTION, OLDER = "production", "production-584k"
"""The synthetic sets of a rehearsal: presets, and folders of the same names."""

OOD_FILE = "wikipedia_ood_test_ctx5.npz"

LEAST_WINDOWS = {"train": 32, "val": 1, "ood": 1}
"""What a rehearsal's sets must hold: a batch of 32, and something to judge on."""

MANY_WINDOWS, DROPOUT = 0.5, 0.5
"""The scale below which a rehearsal needs dropout, and how much; a recipe's own goes before."""

SCALE_STEP, SURE_SCALE = 0.0001, 0.01
"""Where the smallest scale is looked for: its steps, and a scale that is surely large enough."""


def run_rehearsal(
    recipe: RecipeLike,
    overrides: tuple[str, ...] = (),
    *,
    scale: float = 0.02,
    out: str = "artifacts/rehearsal",
    force: bool = False,
    quiet: bool = False,
) -> TrainedRun:
    """Dry-run a recipe on synthetic vectors in the shape of the production set, with gates and sentinel live."""
    from nextvec.experiments import single_run
    from nextvec.recipe import load_recipe

    if any(override.partition("=")[0].strip() == "data.store" for override in overrides):
        raise InputError("rehearse: data.store is the synthetic set; use 'nextvec train' for another store")
    loaded = load_recipe(recipe, overrides)
    specs = _rehearsal_specs(scale)
    folder = Path(out).resolve() / f"scale_{scale:.10g}"
    _say([f"REHEARSAL on SYNTHETIC vectors in {folder}: its figures say nothing about real text"], quiet)
    with _building(folder):
        stores = {preset: _synthetic_store(folder / preset, spec, quiet=quiet) for preset, spec in specs.items()}
        ood = _ood_file(stores[PRODUCTION], folder / OOD_FILE, quiet=quiet)
    _say([*(line for store in stores.values() for line in ceiling_lines(store)), f"ood windows: {ood}"], quiet)
    store = stores[OLDER if "584k" in loaded.name else PRODUCTION]
    words = [f"data.store={store.path}", *([f"data.ood={ood}"] if loaded.data.ood else [])]
    if scale < MANY_WINDOWS and loaded.model.dropout is None:
        words.append(f"model.dropout={DROPOUT}")
        _say([f"model.dropout={DROPOUT}, because so few windows would be learned by heart"], quiet)
    run = single_run.new_folder(folder / "runs", loaded.name)
    return single_run.train_recipe(recipe, (*words, *overrides), out=str(run), force=force, quiet=quiet)


def ceiling_lines(store: Store) -> list[str]:
    """What is known of a synthetic store: its size, and for each split the ceiling beside the simple predictors."""
    lines = [f"SYNTHETIC {store.path}: {len(store.vectors):,} vectors of {len(store.documents):,} documents"]
    for split, measured in store.manifest["synthetic"]["measured"].items():
        simple = ", ".join(f"{name} {measured[name]:.4f}" for name in ("context-mean", "copy-last"))
        lines.append(f"  {split}: known ceiling {measured['ceiling']:.4f}, beside it {simple}")
    return lines


def _rehearsal_specs(scale: float) -> dict[str, SyntheticSpec]:
    """The synthetic sets at a scale. Raises InputError where a split would have no window."""
    if not 0 < scale <= 1:
        raise InputError(f"scale {scale:g}: give a share above 0 and up to 1, such as 0.02")
    specs = _specs_that_work(scale)
    if specs is None:
        steps = range(1, round(SURE_SCALE / SCALE_STEP))
        too_small = [step for step in steps if _specs_that_work(step * SCALE_STEP) is None]
        least = (max(too_small, default=0) + 1) * SCALE_STEP
        raise InputError(
            f"scale {scale:g}: too small, a split of the synthetic sets would have no window (train fewer than "
            f"{LEAST_WINDOWS['train']}); take {least:.4g} or more"
        )
    return specs


def _specs_that_work(scale: float) -> dict[str, SyntheticSpec] | None:
    """Both sets at a scale, or None where one of them has too few windows."""
    import numpy as np

    from nextvec.data.splits import SPLITS, SplitPlan
    from nextvec.data.synthetic.generate import CONTEXT, document_table, rehearsal_spec

    try:
        specs = {preset: rehearsal_spec(preset, scale) for preset in (PRODUCTION, OLDER)}
    except InputError:
        return None
    for spec in specs.values():
        table = document_table(spec, SplitPlan(val=spec.val, ood_sources=("synthetic-ood",)))
        for number, split in enumerate(SPLITS):
            windows = np.maximum(table.rows[table.splits == number] - CONTEXT, 0).sum()
            if windows < LEAST_WINDOWS[split]:
                return None
    return specs


@contextlib.contextmanager
def _building(folder: Path) -> Iterator[None]:
    """Let one process build at a time: rehearsals that are started together wait for the first one's sets."""
    make_folder(folder)
    with writing(folder):
        file = (folder / ".building").open("w")
    with file:
        with contextlib.suppress(OSError):  # where the disk knows no locks, go on without
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _synthetic_store(path: Path, spec: SyntheticSpec, *, quiet: bool) -> Store:
    """The synthetic store of a spec: the one that is there, or a new one; what a killed build left is removed."""
    from nextvec.data.store import open_store, unfinished_folder
    from nextvec.data.store.writer import remove_folder
    from nextvec.data.synthetic.generate import synthesize

    if not path.exists():
        if unfinished_folder(path).exists():
            remove_folder(unfinished_folder(path))
        return synthesize(path, spec, quiet=quiet)
    store = open_store(path)
    if store.manifest.get("synthetic", {}).get("spec") != json.loads(json.dumps(asdict(spec))):
        raise InputError(f"store {path}: not the synthetic set of this rehearsal; remove it, or choose another --out")
    return store


def _ood_file(store: Store, path: Path, *, quiet: bool) -> Path:
    """The ood windows of a store as an .npz file: written once, and again where the store is younger."""
    from nextvec.data.npz.convert import export_npz
    from nextvec.data.store import MANIFEST

    if path.is_file():
        if path.stat().st_mtime_ns >= (store.path / MANIFEST).stat().st_mtime_ns:
            return path
        path.unlink()
    return export_npz(store, "ood", path, quiet=quiet)


def _say(lines: Sequence[str], quiet: bool) -> None:
    if not quiet:
        sys.stderr.write("".join(f"{line}\n" for line in lines))
