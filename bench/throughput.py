"""Measure the training throughput of every network against the plain trainer and Lightning, with val cosines.

python bench/throughput.py [--store STORE] [amn gru lstm transformer]
"""

from __future__ import annotations

import sys
import threading

import torch
from common import arguments, finish, in_turns, open_run, store_path
from plain_trainer import PlainTrainer

from nextvec.evaluation.metrics import score_windows
from nextvec.training import loop
from nextvec.training.run import Run, TrainingState

KINDS = ("amn", "gru", "lstm", "transformer")
MAX_PLAIN_WINDOWS = 16_384
"""Windows in the plain trainer's arrays, which need six times the memory of the vectors."""


class LimitedRun(Run):
    """A run whose epoch ends at step `limit`."""

    limit = 0
    steps_per_epoch = property(lambda self: self.limit)


def ours(run, steps):
    """Return a function that trains the next `steps` steps, at most an epoch, and returns the number of windows."""
    epoch_steps = run.steps_per_epoch
    steps = min(steps, epoch_steps)
    run.__class__ = LimitedRun

    def step():
        if run.state.step_in_epoch + steps > epoch_steps:
            run.state = TrainingState(epoch=run.state.epoch + 1)
        run.limit = run.state.step_in_epoch + steps
        loop.train_epoch(run, threading.Event())
        return steps * run.recipe.training.batch_size

    return step


def val_cosine(run, model):
    """Return the mean cosine of a model on the val windows."""
    val = run.sets["val"]
    was_training = model.training
    model.eval()
    score = score_windows(model, val.vectors, val.windows).mean_cosine
    model.train(was_training)
    return score


def lightning_variant(contexts, targets, kind, steps):
    """Return a function that trains with Lightning (batch 512, bf16-mixed), or None and the reason."""
    try:
        import lightning
    except ImportError:
        return None, "lightning is not installed: pip install -c constraints.txt '.[bench]'"
    import logging

    from torch.utils.data import DataLoader, TensorDataset

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    from plain_trainer import loss_of

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = PlainTrainer(contexts, targets, kind).model

        def training_step(self, batch, _):
            loss = loss_of(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=5e-4)

    data = TensorDataset(torch.from_numpy(contexts), torch.from_numpy(targets))
    loader = DataLoader(data, batch_size=512, shuffle=True, drop_last=True)
    module = Module()

    def step():
        trainer = lightning.Trainer(
            max_steps=steps,
            precision="bf16-mixed",
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            gradient_clip_val=1.0,
        )
        trainer.fit(module, loader)
        return steps * 512

    return step, ""


def main():
    """Measure the networks named on the command line, or all four."""
    options = arguments(__doc__)
    store, rows, notes = store_path(options.store), [], {}
    for kind in [name for name in sys.argv[1:] if name in KINDS] or KINDS:
        with_query = open_run(store, f"model.kind={kind}")
        without = open_run(store, f"model.kind={kind}", "model.query=false")
        small = open_run(store, f"model.kind={kind}", "training.batch_size=32")
        batch = without.sets["train"].batch(torch.arange(min(MAX_PLAIN_WINDOWS, len(without.sets["train"]))))
        contexts, targets = batch.context_BSD.float().numpy(), batch.target_BD.float().numpy()
        plain = PlainTrainer(contexts, targets, kind)
        variants = {
            "plain trainer, batch 32, fp32": lambda plain=plain: plain.train(options.steps * 4),
            "nextvec, batch 32, default recipe": ours(small, options.steps * 4),
            "nextvec, batch 512": ours(without, options.steps),
            "nextvec, batch 512, with the query": ours(with_query, options.steps),
        }
        lightning_step, reason = lightning_variant(contexts, targets, kind, options.steps)
        if lightning_step is not None:
            variants["Lightning, TensorDataset, batch 512, bf16-mixed"] = lightning_step
        else:
            notes["lightning"] = reason
        rates = in_turns(variants, options.rounds)
        base = rates["plain trainer, batch 32, fp32"]["median"]
        models = {"plain trainer, batch 32, fp32": plain.model, "nextvec, batch 512": without.model}
        models |= {
            "nextvec, batch 32, default recipe": small.model,
            "nextvec, batch 512, with the query": with_query.model,
        }
        for name, rate in rates.items():
            quality = val_cosine(without, models[name]) if name in models else ""
            rows.append(
                {
                    "model": kind,
                    "what": name,
                    "windows/s": rate["median"],
                    "spread": rate["spread"],
                    "ratio to plain": rate["median"] / base,
                    "val cosine after the rounds": quality,
                }
            )
    finish("throughput", rows, **notes)


if __name__ == "__main__":
    main()
