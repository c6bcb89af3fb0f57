"""Rehearsals: dry runs of a production recipe on synthetic vectors in the shape of the production set."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from nextvec.core.console import show
from nextvec.core.locks import exclusive
from nextvec.data.npz.export import export_npz
from nextvec.data.splits import SPLITS, SplitPlan
from nextvec.data.store import MANIFEST, Store, open_store, unfinished_folder
from nextvec.data.store.writer import remove_folder
from nextvec.data.synthetic.generate import CONTEXT, SyntheticSpec, document_table, rehearsal_spec, synthesize
from nextvec.errors import InputError
from nextvec.experiments import single_run
from nextvec.recipe import RecipeLike, load_recipe

PRODUCTION, OLDER = "production", "production-584k"
"""Presets of the two synthetic stores; their folders have the same names."""

OOD_FILE = "wikipedia_ood_test_ctx5.npz"

STORES = "stores"
"""Name of the lock: one process at a time builds the stores, and the others use them."""

DROPOUT, MAX_DROPOUT_SCALE = 0.5, 0.5
"""Dropout of rehearsals below a scale: with fewer windows a model overfits. The recipe's dropout has priority."""

SCALE_STEP, SUFFICIENT_SCALE, SUFFICIENT_WINDOWS = 0.0001, 0.01, 100_000
"""Step of the search for the smallest scale, and its upper end: SUFFICIENT_SCALE, or for a large batch the scale
batch_size / SUFFICIENT_WINDOWS. The full stores have several times as many windows, so that both are large enough."""


def run_rehearsal(
    recipe: RecipeLike,
    overrides: tuple[str, ...] = (),
    *,
    scale: float = 0.02,
    out: str = "artifacts/rehearsal",
    force: bool = False,
    quiet: bool = False,
) -> single_run.TrainedRun:
    """Dry-run a recipe on synthetic vectors in the shape of the production set, with gates and sentinel active.

    Raises InputError if the overrides name another store, or if `scale` leaves a split without windows.
    """
    if any(override.partition("=")[0].strip() == "data.store" for override in overrides):
        raise InputError("rehearse: data.store is always the synthetic store. Use 'nextvec train' for another store.")
    loaded = load_recipe(recipe, overrides)
    specs = _rehearsal_specs(scale, loaded.training.batch_size)
    folder = Path(out).resolve() / f"scale_{scale:.10g}"
    show([f"REHEARSAL on SYNTHETIC vectors in {folder}: results do not transfer to real text"], quiet=quiet)

    # Both stores are built, whichever the recipe uses: other rehearsals in this folder use them too.
    with exclusive(folder / STORES):
        stores = {preset: _synthetic_store(folder / preset, spec, quiet=quiet) for preset, spec in specs.items()}
        ood = _ood_file(stores[PRODUCTION], folder / OOD_FILE, quiet=quiet)
    show([*(line for store in stores.values() for line in _ceiling_lines(store)), f"ood windows: {ood}"], quiet=quiet)

    # The user's overrides come last, so that they have priority over those of the rehearsal.
    store = stores[OLDER if "584k" in loaded.name else PRODUCTION]
    changes = [f"data.store={store.path}", *([f"data.ood={ood}"] if loaded.data.ood else [])]
    if scale < MAX_DROPOUT_SCALE and loaded.model.dropout is None:
        changes.append(f"model.dropout={DROPOUT}")
        show([f"model.dropout={DROPOUT} is set to avoid overfitting on so few windows"], quiet=quiet)
    run = single_run.run_folder(folder / "runs", loaded.name)
    return single_run.train_recipe(recipe, (*changes, *overrides), out=str(run), force=force, quiet=quiet)


def _ceiling_lines(store: Store) -> list[str]:
    """Return the size of a synthetic store and, per split, the highest possible cosine next to two baselines."""
    lines = [f"SYNTHETIC {store.path}: {len(store.vectors):,} vectors of {len(store.documents):,} documents"]
    for split, cosines in store.manifest["synthetic"]["measured"].items():
        baselines = ", ".join(f"{name} {cosines[name]:.4f}" for name in ("context-mean", "copy-last"))
        lines.append(f"  {split}: known ceiling {cosines['ceiling']:.4f}, baselines {baselines}")
    return lines


def _rehearsal_specs(scale: float, batch_size: int) -> dict[str, SyntheticSpec]:
    """Return preset → its spec at a scale. Raises InputError if a split has too few windows."""
    if not 0 < scale <= 1:
        raise InputError(f"--scale {scale:g}: must be above 0 and at most 1, such as 0.02")
    specs = _sufficient_specs(scale, batch_size)
    if specs is None:
        # Windows do not grow strictly with the scale (rounding): the minimum is one step above the last that fails.
        steps = range(1, round(max(SUFFICIENT_SCALE, batch_size / SUFFICIENT_WINDOWS) / SCALE_STEP))
        failing = [step for step in steps if _sufficient_specs(step * SCALE_STEP, batch_size) is None]
        minimum = (max(failing, default=0) + 1) * SCALE_STEP
        raise InputError(
            f"--scale {scale:g}: too small, a split of the synthetic stores has too few windows (train needs "
            f"training.batch_size={batch_size}). Set at least {minimum:.4g}."
        )
    return specs


def _sufficient_specs(scale: float, batch_size: int) -> dict[str, SyntheticSpec] | None:
    """Return preset → its spec at a scale; None if train has no batch, or val or ood no window."""
    try:
        specs = {preset: rehearsal_spec(preset, scale) for preset in (PRODUCTION, OLDER)}
    except InputError:
        return None
    for spec in specs.values():
        # A document of n vectors has n − CONTEXT windows.
        table = document_table(spec, SplitPlan(val=spec.val, ood_sources=("synthetic-ood",)))
        for number, split in enumerate(SPLITS):
            windows = np.maximum(table.rows[table.splits == number] - CONTEXT, 0).sum()
            if windows < (batch_size if split == "train" else 1):
                return None
    return specs


def _synthetic_store(path: Path, spec: SyntheticSpec, *, quiet: bool) -> Store:
    """Open the synthetic store of a spec, or build it after removing the remains of a killed build.

    Raises InputError if the store at `path` has another spec.
    """
    if not path.exists():
        if unfinished_folder(path).exists():
            remove_folder(unfinished_folder(path))
        return synthesize(path, spec, quiet=quiet)
    store = open_store(path)
    # Through JSON: the manifest contains lists where the spec has tuples.
    if store.manifest.get("synthetic", {}).get("spec") != json.loads(json.dumps(asdict(spec))):
        raise InputError(
            f"store {path}: not the synthetic store of this rehearsal. Remove it, or choose another --out."
        )
    return store


def _ood_file(store: Store, path: Path, *, quiet: bool) -> Path:
    """Export the ood windows of a store as an .npz file, unless a file newer than the store exists."""
    if path.is_file():
        if path.stat().st_mtime_ns >= (store.path / MANIFEST).stat().st_mtime_ns:
            return path
        path.unlink()
    return export_npz(store, "ood", path, quiet=quiet)
