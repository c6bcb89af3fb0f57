"""Training on synthetic vectors whose highest reachable cosine is known."""

from pathlib import Path

from nextvec.data.synthetic.generate import PRESETS, synthesize
from nextvec.recipe import make_recipe
from nextvec.training import loop
from nextvec.training.setup import start_run


def test_amn_closes_nine_tenths_of_the_gap_to_the_ceiling(tmp_path: Path) -> None:
    """The gap starts at the decayed mean, the best baseline without fitted weights."""
    store = synthesize(tmp_path / "store", PRESETS["linear"], quiet=True)
    recipe = make_recipe(
        {
            "name": "ceiling",
            "data": {"store": str(store.path), "train_min_context": 1},
            "model": {"dropout": 0.2, "query": False},
            "objective": {"mse": 1.0},
            "training": {
                "epochs": 8, "batch_size": 256, "lr": 2e-3, "weight_decay": 0.1, "ema_decay": 0.99, "precision": "fp32",
                "keep_epochs": False,
            },
            "runtime": {"device": "cpu", "threads": 1},
        }
    )  # fmt: skip
    run = start_run(recipe, tmp_path / "run", quiet=True)
    loop.train(run)
    ceiling = store.manifest["synthetic"]["measured"]["val"]["ceiling"]
    baseline = run.baseline_cosines["val"]["decayed-mean"]
    reached = max(record["val_cosine"] for record in run.state.history)
    assert ceiling > run.baseline_cosines["val"]["ridge"] > baseline
    assert reached < ceiling + 0.002
    assert (reached - baseline) / (ceiling - baseline) >= 0.9
