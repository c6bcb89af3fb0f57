"""What a run refuses before it writes anything."""

from pathlib import Path

import numpy as np
import pytest

from nextvec.data.npz.export import export_npz
from nextvec.data.synthetic.generate import PRESETS, synthesize
from nextvec.errors import StoreError
from nextvec.recipe import Recipe
from nextvec.training.setup import start_run


def test_a_refusal_names_the_store_at_fault_in_whole_sentences(tmp_path: Path):
    store = synthesize(tmp_path / "store", PRESETS["small"], quiet=True)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(64, 64)))[0].astype(np.float32)
    with np.load(export_npz(store, "ood", tmp_path / "ood.npz", quiet=True)) as file:
        np.savez(tmp_path / "turned.npz", **{name: file[name] @ turn for name in file if file[name].ndim > 1})
    values = {"name": "x", "data": {"store": str(store.path), "ood": str(tmp_path / "turned.npz")}}
    with pytest.raises(StoreError) as caught:
        start_run(Recipe.model_validate(values), tmp_path / "run", quiet=True)
    message = str(caught.value)
    assert message.startswith(f"store {tmp_path / 'turned.store'}: ood is in another embedding space than train"), (
        message
    )
    assert message.endswith("dimensions. See 'nextvec data check', or pass --force to train anyway.")
    assert not (tmp_path / "run").exists()
