"""Measure the production recipes end to end against the plain trainer, extrapolated to their 30 epochs.

    python bench/production.py [--scale 0.02] [--quality EPOCHS] [amn gru lstm transformer]

The plain trainer trains the published network at batch size 32 in fp32 and validates after each epoch; opening its
file is not counted. A recipe is measured as `nextvec train` runs it: data check, baselines, two epochs with validation
and checkpoints, evaluation and report. Both are extrapolated: seconds before and after the epochs, plus 30 times
windows / rate + seconds between two epochs. The rates come from rounds in turns. `--scale 1` is the production size;
on a smaller set the seconds before and after weigh more than they do there.

`--quality EPOCHS` instead trains AMN with the runbook's setting (batch size 32, rate 5e-4) and with the recipe's for so
many epochs each, and reports when the second reaches the final val cosine of the first.

Each row is appended to production.jsonl as soon as it is measured.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from itertools import pairwise

import torch
from common import OUT, append_row, arguments, finish, in_turns, now, store_path
from plain_trainer import PlainTrainer
from throughput import ours

from nextvec.data.dataset import open_dataset
from nextvec.experiments.single_run import train_and_evaluate
from nextvec.recipe import load_recipe
from nextvec.training import loop, setup

RECIPES = {"amn": "amn-790k-production", "gru": "gru-790k", "lstm": "lstm-790k", "transformer": "transformer-790k"}
RUNBOOK = ("training.batch_size=32", "training.lr=5e-4", "training.ema_decay=0.0")
"""The runbook's own setting, as overrides."""
SETTINGS = {
    "recipe": (),
    "recipe, without the query": ("model.query=false",),
    "batch size 32": RUNBOOK,
    "batch size 32, without the query": (*RUNBOOK, "model.query=false"),
}
EPOCHS = 30
"""Epochs of the production recipes, to which the measured ones are extrapolated."""
MAX_PLAIN_WINDOWS = 8_192
"""Windows in the plain trainer's arrays, which need six times the memory of the vectors."""
WINDOWS = 2_048
"""Windows that each trainer trains on in a round."""


def recipe_of(kind, store, *overrides):
    """Return a production recipe on a store. Its gates are left out: a red one would end the measurement."""
    fixed = (f"data.store={store}", "data.ood=", "gates=[]", f"runtime.threads={torch.get_num_threads()}")
    return load_recipe(RECIPES[kind], [*fixed, *overrides])


class Clock:
    """Seconds of a run: before its epochs, in training, between two epochs, and after them."""

    def __init__(self):
        self.marks, self.training, self._train_epoch = [], [], loop.train_epoch

    def mark(self, _=None):
        """Record a moment: the begin, the end of the start, of each epoch, and of the run."""
        self.marks.append(now())

    def train_epoch(self, run, stop):
        """Train an epoch and record its seconds."""
        begin = now()
        self._train_epoch(run, stop)
        self.training.append(now() - begin)

    @property
    def seconds(self):
        """The seconds of the columns: before the epochs, between two of them, and after them."""
        before, *epochs, after = (end - begin for begin, end in pairwise(self.marks))
        between = statistics.median(epoch - training for epoch, training in zip(epochs, self.training, strict=True))
        return {"before, s": before, "between, s": between, "after, s": after}


def run_to_the_end(recipe):
    """Return the finished run of a recipe, and its clock."""
    folder, clock = OUT / "production-run", Clock()
    shutil.rmtree(folder, ignore_errors=True)
    original, loop.train_epoch = loop.train_epoch, clock.train_epoch
    try:
        clock.mark()
        run = setup.start_run(recipe, folder, force=True, quiet=True)
        clock.mark()
        train_and_evaluate(run, clock.mark)
        clock.mark()
    finally:
        loop.train_epoch = original
    return run, clock


def plain_trainer(kind, data):
    """Return the plain trainer of a network, and the seconds of its validation on all val and ood windows."""
    sets = data.windows(5, 5, torch.device("cpu"))
    arrays = {}
    for split in ("train", "val"):
        batch = sets[split].batch(torch.arange(min(MAX_PLAIN_WINDOWS, len(sets[split]))))
        arrays[split] = batch.context_BSD.float().numpy(), batch.target_BD.float().numpy()
    trainer = PlainTrainer(*arrays["train"], kind, variant="original")
    begin = now()
    trainer.validate(*arrays["val"])
    validated = sum(len(sets[split]) for split in ("val", "ood") if split in sets)
    return trainer, (now() - begin) * validated / len(arrays["val"][0])


def measure(kind, store, rounds, write):
    """Measure a network with the plain trainer and with its recipe; `write` gets each row."""
    data = open_dataset(recipe_of(kind, store).data, quiet=True)
    plain, validation = plain_trainer(kind, data)
    settings = SETTINGS if kind == "amn" else {"recipe": ()}
    # The rates, in turns.
    variants = {"plain trainer, batch size 32": lambda: plain.train(WINDOWS // 32)}
    for name, overrides in settings.items():
        run = setup.build_run(OUT, recipe_of(kind, store, *overrides), data, None, quiet=True)
        run.event = lambda *_, **__: None
        variants[name] = ours(run, WINDOWS // run.recipe.training.batch_size)
    rates = in_turns(variants, rounds)
    windows = len(run.train_windows)
    # What a run does besides training. It hardly depends on the setting, so one run of two epochs serves all rows.
    finished, clock = run_to_the_end(recipe_of(kind, store, "training.epochs=2"))
    fixed = {"before, s": 0.0, "between, s": validation, "after, s": 0.0}
    plain_total = 0.0
    for name, rate in rates.items():
        total = fixed["before, s"] + fixed["after, s"] + EPOCHS * (windows / rate["median"] + fixed["between, s"])
        plain_total = plain_total or total
        row = {"network": kind, "trainer": name, "windows/s": rate["median"], "spread": rate["spread"]}
        write({**row, **fixed, "30 epochs, s": total, "of the plain trainer's time": total / plain_total})
        fixed = clock.seconds
    last = finished.state.history[-1]
    print(f"{kind}: {windows:,} train windows, val cosine after two epochs {last['val_cosine']:.4f}", flush=True)


def measure_quality(store, epochs, write):
    """Train with the runbook's setting and with the recipe's; `write` gets the rows."""
    target, target_seconds = 0.0, 0.0
    for name, overrides in (("batch size 32", RUNBOOK), ("recipe", ())):
        run, clock = run_to_the_end(recipe_of("amn", store, f"training.epochs={epochs}", *overrides))
        scores = [metrics["val_cosine"] for metrics in run.state.history]
        seconds = [mark - clock.marks[1] for mark in clock.marks[2:-1]]
        last = run.state.history[-1]
        target, target_seconds = target or scores[-1], target_seconds or seconds[-1]
        reached = next((end for score, end in zip(scores, seconds, strict=True) if score >= target), None)
        row = {"trainer": name, "epochs": epochs, "training, s": seconds[-1]}
        row |= {name: last.get(name.replace(" ", "_"), "") for name in ("val cosine", "ood cosine", "val mrr")}
        row["reaches the first row's val cosine after, s"] = reached or "not reached"
        row["of that row's time"] = reached / target_seconds if reached else "-"
        write(row)


def main():
    """Measure the networks named on the command line, or all four."""
    options = arguments(__doc__)
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=0.02)
    parser.add_argument("--quality", type=int, default=0)
    extra, words = parser.parse_known_args()
    store, rows = store_path(options.store, extra.scale), []

    def write(row):
        append_row("production", row)
        rows.append(row)

    if extra.quality:
        measure_quality(store, extra.quality, write)
    else:
        for kind in [word for word in words if word in RECIPES] or RECIPES:
            measure(kind, store, options.rounds, write)
    finish("production-quality" if extra.quality else "production", rows, scale=extra.scale)


if __name__ == "__main__":
    main()
