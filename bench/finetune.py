"""Measure what fine-tuning brings on your own text, by the number of training chunks.

python bench/finetune.py STORE [STORE …] [--chunks 500 1000 2000 4000 8000 16000] [--overrides training.lr=1e-4 …]

Each store has vectors of the encoder minilm. From each, the first documents of train with about that many chunks are
used (0: all of them), and val is always the same. Three models are compared with the best baseline of each measure:
the shipped model wiki-minilm as it is, the recipe demo from scratch with the same context of 32, and the recipe
finetune. All weights are selected on val; a store with ood also gets the scores there. Ridge is left out of the
baselines, because with so little text it is below the decayed mean and takes longer than the training.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from common import OUT, finish

from nextvec.core.files import make_folder
from nextvec.data.splits import SPLITS
from nextvec.data.store import VECTORS, DocumentTable, Store, open_store
from nextvec.data.store.writer import finish_store, write_documents
from nextvec.evaluation.bootstrap import estimate_means
from nextvec.evaluation.metrics import QueryPredictor, score_windows
from nextvec.evaluation.retrieval import candidates_of, target_ranks
from nextvec.models import baselines
from nextvec.models.base import LatentModel
from nextvec.models.checkpoint import read_checkpoint
from nextvec.recipe import load_recipe
from nextvec.training.loop import train
from nextvec.training.run import Run
from nextvec.training.setup import start_run

COMMON = ("evaluation.queries=10000", "training.keep_epochs=false")
FOLDER = OUT / "finetune"


class NoRidge:
    """Stands in for the fit of ridge: only averages the targets, and returns a baseline that exists already."""

    def __init__(self, dimensions: int, context: int) -> None:
        self._sum, self._count, self._dimensions = torch.zeros(dimensions), 0, dimensions

    def add(self, context_BSD, target_BD, mask_BS, group_B) -> None:
        """Add windows."""
        self._sum += target_BD.float().sum(dim=0)
        self._count += len(target_BD)

    def solve(self):
        """Return copy-last instead of ridge, and the mean of the targets."""
        return baselines.CopyLast(self._dimensions), self._sum / self._count


def subset(store: Store, chunks: int, path: Path) -> Store:
    """Write a store with val, ood and the first documents of train up to `chunks` chunks (0: all)."""
    table = store.documents
    is_train = table.splits == SPLITS.index("train")
    before = np.cumsum(np.where(is_train, table.rows, 0))
    kept = np.flatnonzero(~is_train | (before <= chunks if chunks else True))
    rows = np.concatenate([np.arange(table.rows[d]) + table.first_row[d] for d in kept])
    names = [f"d{d}" for d in kept]
    counts = table.rows[kept]
    documents = DocumentTable(
        names, names, ["own"] * len(kept), table.splits[kept], np.cumsum(counts) - counts, counts, table.group[kept]
    )
    unfinished = path.with_name(f"{path.name}.unfinished")
    make_folder(unfinished)
    np.save(unfinished / VECTORS, np.asarray(store.vectors[rows]))
    write_documents(unfinished, documents)
    return finish_store(unfinished, path, store.space, {"documents": len(kept), "chunks": len(rows)})


def compare(run: Run, model: LatentModel, split: str) -> dict[str, str]:
    """Return the model's cosine and MRR on a split as differences to the best baselines, with paired intervals."""
    windows = run.sets[split]
    groups_W = windows.windows.groups.numpy()
    candidates = candidates_of(windows.vectors, windows.documents, split)

    def cosines(predictor):
        return score_windows(predictor, windows.vectors, windows.windows).cosine

    def reciprocal_ranks(predictor):
        return (1 / target_ranks(predictor, windows.vectors, windows.windows, candidates)).numpy()

    row = {}
    for measure, score, output in (
        ("cosine", cosines, model),
        ("MRR", reciprocal_ranks, QueryPredictor(model)),
    ):
        values = {name: score(baseline) for name, baseline in run.baselines.items()}
        best = max(values, key=lambda name: values[name].mean())
        own = score(output)
        (gain,) = estimate_means((own - values[best])[None], groups_W, 2000, 0, bounds=[(-2, 2)])
        row[f"{split} {measure}"] = f"{own.mean():.4f}"
        row[f"{split} {measure} gain"] = f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
        row[f"{split} {measure} baseline"] = f"{best} {values[best].mean():.4f}"
    return row


def measure(store: Store, name: str, chunks: int, overrides: list[str]) -> list[dict]:
    """Train from scratch and fine-tune on part of a store; return a row for each model."""
    path = FOLDER / f"{name}-{chunks or 'all'}"
    part = subset(store, chunks, path)
    used = int(part.documents.rows[part.documents.splits == SPLITS.index("train")].sum())
    context = "data.context=32"
    recipes = {"scratch": ("demo", [context]), "finetune": ("finetune", overrides)}
    rows = []
    for kind, (recipe, changes) in recipes.items():
        begin = time.process_time()
        small = [f"training.batch_size={64 if used < 2000 else 128}"]
        loaded = load_recipe(recipe, [f"data.store={part.path}", *COMMON, *small, *changes])
        run = start_run(loaded, FOLDER / f"{path.name}-{kind}", force=True, quiet=True)
        splits = [split for split in ("val", "ood") if split in run.sets]
        facts = {"store": name, "chunks": used, "windows": len(run.train_windows)}
        if kind == "finetune":
            row = {**facts, "model": "as it is"}
            for split in splits:
                row |= compare(run, replace_model(run), split)
            rows.append(row)
        train(run)
        run.close()
        best = read_checkpoint(run.path)
        row = {**facts, "model": kind}
        for split in splits:
            row |= compare(run, best.model(), split)
        row["epochs"] = "/".join(str(kept["epoch"]) for kept in best.values["selection"].values())
        row["seconds"] = round(time.process_time() - begin, 1)
        rows.append(row)
    for row in rows:
        print(json.dumps(row), flush=True)
    return rows


def replace_model(run: Run) -> LatentModel:
    """Return the model that a run starts from, in evaluation mode."""
    return run.eval_model.eval()


def main() -> None:
    """Measure all stores and numbers of chunks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stores", nargs="+")
    parser.add_argument("--chunks", type=int, nargs="+", default=[500, 1000, 2000, 4000, 8000, 16000])
    parser.add_argument("--overrides", nargs="*", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    baselines.RidgeFit = NoRidge  # type: ignore[misc,assignment]
    shutil.rmtree(FOLDER, ignore_errors=True)
    make_folder(FOLDER)
    rows = []
    for path in options.stores:
        for chunks in options.chunks:
            rows += measure(open_store(path), Path(path).name, chunks, options.overrides)
    finish("finetune", rows)


if __name__ == "__main__":
    main()
