"""What a run reads: stores and npz files, an ood set of its own, and what does not fit together."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from nextvec.data.dataset import open_dataset
from nextvec.data.npz.export import export_npz
from nextvec.data.store import Store
from nextvec.data.synthetic.generate import PRESETS, synthesize
from nextvec.errors import RecipeError, SpaceError, StoreError
from nextvec.recipe import DataRecipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return synthesize(tmp_path_factory.mktemp("drawn") / "store", PRESETS["small"], quiet=True)


@pytest.fixture
def files(drawn: Store, tmp_path: Path) -> dict[str, Path]:
    return {split: export_npz(drawn, split, tmp_path / f"{split}.npz", quiet=True) for split in ("train", "ood")}


def opened(store: Path | str, ood: Path | str = ""):
    return open_dataset(DataRecipe(store=str(store), ood=str(ood)), quiet=True)


def windows_of(store, split: str, context: int = 5) -> set[bytes]:
    batch = store.windows(context, None, CPU)[split].batch()
    whole = torch.cat([batch.context_BSD, batch.target_BD[:, None]], dim=1).float().numpy()
    return {window.tobytes() for window in whole}


def test_npz_files_are_imported_once_and_contain_the_same_windows(drawn: Store, files: dict[str, Path]):
    whole = opened(drawn.path)
    data = opened(files["train"], files["ood"])
    assert data.store.path == files["train"].with_suffix(".store") and data.synthetic and data.store.synthetic
    assert windows_of(data, "ood") == windows_of(whole, "ood")
    assert windows_of(data, "train") | windows_of(data, "val") == windows_of(whole, "train")
    made = (data.store.path / "manifest.json").stat().st_mtime_ns
    again = opened(files["train"], files["ood"])
    assert (again.store.path / "manifest.json").stat().st_mtime_ns == made
    assert (again.store_hash, again.ood_store_hash) == (data.store_hash, data.ood_store_hash)


def test_notes_name_the_caveats_of_the_scores(drawn: Store, files: dict[str, Path], tmp_path: Path, toy_store: Store):
    assert [note.split(":")[0] for note in opened(files["train"]).notes] == ["SYNTHETIC data"]
    assert opened(toy_store.path).notes == []
    with np.load(export_npz(toy_store, "train", tmp_path / "toy.npz", quiet=True)) as file:
        np.savez(tmp_path / "bare.npz", **{name: file[name] for name in ("context_sequences", "target_vectors")})
    assert "does not name the documents" in opened(tmp_path / "bare.npz").notes[0]


def test_a_changed_npz_file_is_an_error(files: dict[str, Path]):
    opened(files["train"])
    shutil.copy(files["ood"], files["train"])
    with pytest.raises(StoreError, match=r"train\.store: was not made from the current train\.npz as train\. Remove"):
        opened(files["train"])


def test_a_file_imported_for_training_cannot_be_the_ood_set(drawn: Store, files: dict[str, Path]):
    opened(files["ood"])
    with pytest.raises(StoreError, match=r"was not made from the current ood\.npz as ood"):
        opened(drawn.path, files["ood"])


def test_the_ood_set_is_the_ood_split_of_a_store_or_else_all_of_it(drawn: Store, tmp_path: Path, files):
    assert windows_of(opened(drawn.path, drawn.path), "ood") == windows_of(opened(drawn.path), "ood")
    plain = opened(files["train"]).store
    assert not (plain.documents.splits == 2).any()
    dataset = opened(drawn.path, plain.path)
    assert len(dataset.windows(5, None, CPU)["ood"]) == len(windows_of(opened(drawn.path), "train"))
    assert not (plain.documents.splits == 2).any(), "the store itself is unchanged"


def test_the_check_names_rows_of_the_ood_set_that_are_in_train(drawn: Store, files: dict[str, Path]):
    leaking = opened(drawn.path, opened(files["train"]).store.path).check(5, None)
    leak = next(finding for finding in leaking.findings if finding.name == "ood in train")
    assert leak.status == "red" and "(100.0%)" in leak.text
    clean = opened(drawn.path, files["ood"]).check(5, None)
    assert {finding.name: finding.status for finding in clean.findings}["ood in train"] == "green"


def test_leaks_are_found_between_float16_and_float32_data(drawn: Store, files: dict[str, Path]):
    assert drawn.vectors.dtype == np.float16
    single = opened(files["train"]).store
    assert single.vectors.dtype == np.float32
    assert opened(drawn.path, single.path).check(5, None).statistics["splits"]["ood"]["in_train"] == len(single.vectors)


def test_a_rotated_ood_set_is_in_another_space(drawn: Store, tmp_path: Path, files: dict[str, Path]):
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(64, 64)))[0].astype(np.float32)
    with np.load(files["ood"]) as file:
        members = {name: file[name] @ turn for name in ("context_sequences", "target_vectors")}
    np.savez(tmp_path / "turned.npz", **members)
    report = opened(drawn.path, tmp_path / "turned.npz").check(5, None)
    assert report.status == "red" and report.worst.name == "ood space"
    foreign = {split: space["foreign_dimensions"] for split, space in report.statistics["space"].items()}
    assert foreign["val"] < 0.05 and foreign["ood"] > 0.7


@pytest.mark.parametrize(
    ("store", "ood", "error", "message"),
    [
        ("", "", RecipeError, "data.store is empty"),
        ("none.npz", "", StoreError, r"data none\.npz: no such file\. Make it with .*nextvec rehearse"),
        ("none", "", StoreError, r"store none: has no manifest\.json"),
        ("STORE", "none.npz", StoreError, r"data none\.npz: no such file"),
    ],
)
def test_missing_data_is_a_one_line_error(drawn: Store, store: str, ood: str, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        opened(store.replace("STORE", str(drawn.path)), ood)


def test_spaces_that_are_known_to_differ_are_refused(drawn: Store, other_store):
    with pytest.raises(SpaceError, match=r"16-D, but store .* is 64-D"):
        opened(drawn.path, other_store().path)
    same_size = other_store(dimensions=64, encoder="another-encoder")
    with pytest.raises(
        SpaceError, match=r"is in another embedding space than store .* \(synthetic@.* vs another-encoder@1"
    ):
        opened(drawn.path, same_size.path)
