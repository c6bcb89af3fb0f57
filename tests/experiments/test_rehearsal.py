"""A rehearsal trains the real recipe on synthetic stores, labels the output, and builds the stores once."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextvec.commands.experiments import rehearse
from nextvec.data.store import open_store
from nextvec.data.synthetic.generate import PRESETS
from nextvec.errors import InputError
from nextvec.experiments import single_run
from nextvec.recipe import Recipe, load_recipe

SCALE = 0.002
OVERRIDES = (
    "training.epochs=1",
    "runtime.threads=1",
    "evaluation.ridge_windows=500",
    "evaluation.resamples=100",
    "evaluation.queries=100",
)


@pytest.fixture(autouse=True)
def narrow_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrink the production presets: 32 instead of 768 dimensions, and a larger share of ood."""
    changes = {"dimensions": 32, "topics": 8, "ood_documents": 5_000, "ood_windows": 100_000, "ood_coherence": (0.5,)}
    for preset in ("production", "production-584k"):
        monkeypatch.setitem(PRESETS, preset, replace(PRESETS[preset], **changes))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rehearsal")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace the training with a fake, and return its calls."""
    calls: list[dict[str, Any]] = []

    def train(recipe: str, overrides: tuple[str, ...], **options: Any) -> None:
        calls.append({"recipe": load_recipe(recipe, overrides), **options})

    monkeypatch.setattr(single_run, "train_recipe", train)
    return calls


def write(path: Path, name: str, **data: str) -> str:
    (path / f"{name}.toml").write_text(Recipe(name=name, data=data).to_toml())
    return str(path / f"{name}.toml")


def test_a_rehearsal_trains_the_real_recipe_on_synthetic_stores(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    recipe = write(tmp_path, "amn-790k-production", store="real-vectors", ood="real.npz")
    run = rehearse(recipe, (*OVERRIDES, "training.batch_size=32"), scale=SCALE, out=str(out))
    folder = out / "scale_0.002"
    assert run.path.parent == folder / "runs" and run.path.name.startswith("amn-790k-production_")
    used = load_recipe(str(run.path / "recipe.toml"))
    assert Path(used.data.store) == folder / "production" and used.training.batch_size == 32
    assert Path(used.data.ood).with_suffix(".npz") == folder / "wikipedia_ood_test_ctx5.npz"

    shown = capsys.readouterr().err
    assert shown.startswith(f"REHEARSAL on SYNTHETIC vectors in {folder}")
    for preset in ("production", "production-584k"):
        store = open_store(folder / preset)
        assert store.manifest["origin"] == "synthetic" and f"SYNTHETIC {store.path}: " in shown
        for cosines in store.manifest["synthetic"]["measured"].values():
            assert f"known ceiling {cosines['ceiling']:.4f}" in shown and f"{cosines['context-mean']:.4f}" in shown
    assert shown.index("known ceiling") < shown.index("Epoch 1/1")

    with np.load(folder / "wikipedia_ood_test_ctx5.npz") as windows:
        store = open_store(folder / "production")
        first = int(store.documents.first_row[store.documents.splits == 2][0])
        assert (windows["context_sequences"][0] == store.vectors[first : first + 5]).all()
        assert windows["target_vectors"].shape == (100_000 * SCALE, 32)


def test_stores_are_built_once_and_chosen_by_the_recipe_name(
    out: Path, tmp_path: Path, trained: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    for name in ("gru-790k", "amn-584k"):
        rehearse(write(tmp_path, name), scale=SCALE, out=str(out), force=True, quiet=True)
        files = [out / "scale_0.002" / file for file in ("production/vectors.npy", "wikipedia_ood_test_ctx5.npz")]
        stamps = [file.stat().st_mtime_ns for file in files]
    rehearse(write(tmp_path, "lstm"), ("data.ood=poisoned.npz",), scale=SCALE, out=str(out), quiet=True)
    assert [file.stat().st_mtime_ns for file in files] == stamps
    assert [Path(call["recipe"].data.store).name for call in trained] == [
        "production", "production-584k", "production",
    ]  # fmt: skip
    assert [call["recipe"].data.ood for call in trained] == ["", "", "poisoned.npz"]
    assert [call["force"] for call in trained] == [True, True, False] and all(call["quiet"] for call in trained)
    assert capsys.readouterr().err == ""


def test_an_unfinished_store_is_built_again(tmp_path: Path, trained: list[dict[str, Any]]):
    unfinished = tmp_path / "scale_0.002" / "production.unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "vectors.npy").write_bytes(b"half")
    rehearse(write(tmp_path, "amn"), scale=SCALE, out=str(tmp_path), quiet=True)
    assert not unfinished.exists() and len(open_store(tmp_path / "scale_0.002" / "production").vectors) > 1000
    windows = tmp_path / "scale_0.002" / "wikipedia_ood_test_ctx5.npz"
    complete = windows.read_bytes()
    windows.write_bytes(b"of an older set")
    os.utime(windows, (0, 0))
    rehearse(write(tmp_path, "amn"), scale=SCALE, out=str(tmp_path), quiet=True)
    assert windows.read_bytes() == complete
    manifest = tmp_path / "scale_0.002" / "production" / "manifest.json"
    values = json.loads(manifest.read_text())
    values["synthetic"]["spec"]["seed"] = 1
    manifest.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"production: not the synthetic store of this rehearsal. Remove it"):
        rehearse(write(tmp_path, "amn"), scale=SCALE, out=str(tmp_path), quiet=True)
    assert manifest.is_file() and len(trained) == 2


def test_simultaneous_rehearsals_share_their_stores(tmp_path: Path, trained: list[dict[str, Any]]):
    recipe = write(tmp_path, "amn")
    with ThreadPoolExecutor(2) as pool:
        started = [pool.submit(rehearse, recipe, scale=SCALE, out=str(tmp_path), quiet=True) for _ in range(2)]
    assert [run.exception() for run in started] == [None, None] and len(trained) == 2


@pytest.mark.parametrize("scale", [0, -0.1, 1.5, float("nan"), float("inf")])
def test_a_scale_outside_of_0_to_1_is_rejected(scale: float, tmp_path: Path):
    with pytest.raises(InputError, match="above 0 and at most 1"):
        rehearse(write(tmp_path, "amn"), scale=scale, out=str(tmp_path / "out"), quiet=True)
    assert not (tmp_path / "out").exists()


def test_the_error_for_a_small_scale_names_the_minimum(tmp_path: Path, trained: list[dict[str, Any]]):
    with pytest.raises(InputError, match="too small") as error:
        rehearse(write(tmp_path, "amn"), scale=1e-5, out=str(tmp_path / "out"), quiet=True)
    assert not (tmp_path / "out").exists()
    (minimum,) = re.findall(r"Set at least (\S+)\.$", str(error.value))
    rehearse(write(tmp_path, "amn"), scale=float(minimum), out=str(tmp_path / "out"), quiet=True)
    with pytest.raises(InputError, match=f"Set at least {minimum}"):
        rehearse(write(tmp_path, "amn"), scale=float(minimum) - 0.0001, out=str(tmp_path / "out"), quiet=True)
    assert len(trained) == 1


def test_a_rehearsal_rejects_another_store(tmp_path: Path):
    with pytest.raises(InputError, match="nextvec train"):
        rehearse(write(tmp_path, "amn"), ("data.store=real",), scale=SCALE, out=str(tmp_path), quiet=True)
