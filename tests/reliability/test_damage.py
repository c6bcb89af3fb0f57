"""Corrupted, incomplete and foreign files are detected by checksum, and the previous state is used."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from equality import assert_same_values, events_of
from nextvec.cli import main
from nextvec.core.run_paths import BASELINES_FILE, BEST_MODEL, CHECKSUMS_FILE, PREVIOUS_STATE, RESUME_STATE
from nextvec.data.store import Store
from nextvec.errors import CheckpointError, DamagedCheckpointError
from nextvec.models.checkpoint import read_checkpoint
from nextvec.recipe import Recipe, make_recipe
from nextvec.training import checkpoint, loop
from nextvec.training.checkpoint import read_resume_checkpoint, save_checkpoint
from nextvec.training.evaluate import evaluate_best
from nextvec.training.resume import resume_run
from nextvec.training.run import Run
from nextvec.training.setup import start_run

Capture = pytest.CaptureFixture[str]


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return make_recipe(recipe.model_dump(exclude_none=True), overrides)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, toy_store: Store) -> Path:
    """The folder of a small finished run."""
    values = {
        "name": "toy",
        "data": {"store": str(toy_store.path)},
        "objective": {"mse": 0.5, "info_nce": 0.5},
        "training": {"epochs": 2, "batch_size": 64, "precision": "fp32"},
        "evaluation": {"resamples": 100, "ridge_windows": 500},
        "runtime": {"device": "cpu", "threads": 1},
    }
    run = start_run(make_recipe(values), tmp_path_factory.mktemp("finished") / "run", quiet=True)
    loop.train(run)
    run.close()
    return run.path


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def damages(size: int, flips: int, cuts: int, seed: int) -> Iterator[tuple[str, int, int]]:
    """Yield seeded byte positions (with the mask to XOR) and lengths to truncate a file to."""
    dice = random.Random(seed)
    for _ in range(flips):
        yield "flip", dice.randrange(size), dice.randrange(1, 256)
    for _ in range(cuts):
        yield "cut", dice.randrange(size), 0


def damaged(content: bytes, kind: str, place: int, mask: int) -> bytes:
    """Return the content with one byte changed, or truncated."""
    if kind == "cut":
        return content[:place]
    return content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]


def check_checkpoints(folder: Path, flips: int, cuts: int) -> int:
    """Damage resume.pt repeatedly, check that the previous state is read, and return how often it was detected."""
    file, noticed = folder / RESUME_STATE, 0
    content = file.read_bytes()
    before = read_checkpoint(folder / PREVIOUS_STATE).values["step"]
    assert before < read_checkpoint(file).values["step"]
    for damage in damages(len(content), flips, cuts, seed=5):
        file.write_bytes(damaged(content, *damage))
        saved = read_resume_checkpoint(folder)
        assert saved.path.name == PREVIOUS_STATE and saved.values["step"] == before, damage
        assert "SHA-256 mismatch" in saved.notice and PREVIOUS_STATE in saved.notice, damage
        noticed += 1
    file.write_bytes(content)
    assert read_resume_checkpoint(folder).notice == ""
    return noticed


def test_damaged_checkpoints_are_detected(copy: Path) -> None:
    assert check_checkpoints(copy, flips=20, cuts=10) == 30


@pytest.mark.long
def test_three_hundred_damaged_checkpoints_are_detected(copy: Path) -> None:
    assert check_checkpoints(copy, flips=200, cuts=100) == 300


def test_a_run_with_a_damaged_state_resumes_from_the_previous_one_and_warns(finished: Path, copy: Path) -> None:
    file = copy / RESUME_STATE
    file.write_bytes(file.read_bytes()[:-1])
    run = resume_run(copy, quiet=True)
    assert run.state.epoch == 1
    loop.train(run)
    assert_same_values(read_checkpoint(finished / RESUME_STATE).values, read_checkpoint(file).values)
    (warning,) = [event["text"] for event in events_of(copy, "warning") if "SHA-256" in event["text"]]
    assert "Resuming from the previous training state, resume_previous.pt" in warning
    log = (copy / "training.log").read_text()
    assert f"warning: {warning}" in log


def test_a_run_with_two_damaged_states_cannot_be_resumed(copy: Path, capsys: Capture) -> None:
    for name in (RESUME_STATE, PREVIOUS_STATE):
        (copy / name).write_bytes(b"rotten")
    assert main(["resume", str(copy), "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert PREVIOUS_STATE in line and "the file is corrupted (SHA-256 mismatch)" in line


def test_a_damaged_best_model_is_read_from_the_equal_epoch_checkpoint(toy_recipe: Recipe, tmp_path: Path) -> None:
    """The files are equal if all outputs are of one epoch, here the only one; `resume` writes the best model again."""
    run = start_run(changed(toy_recipe, "model.kind=lstm", "model.variant=original"), tmp_path / "run", quiet=True)
    loop.train(run)
    run.close()
    intact = read_checkpoint(run.path).values
    assert intact["epoch"] > 0
    (run.path / BEST_MODEL).write_bytes(b"rotten")
    found = read_checkpoint(run.path)
    assert found.path.name.startswith("epoch_") and "which was saved with the same content" in found.notice
    assert_same_values(intact, found.values)
    resumed = resume_run(run.path, quiet=True)
    evaluate_best(resumed)
    resumed.close()
    assert any(found.notice in event["text"] for event in events_of(run.path, "warning"))
    assert not read_checkpoint(run.path).notice
    # Without an equal file, the damage is an error.
    (run.path / BEST_MODEL).write_bytes(b"rotten")
    for file in run.path.glob("epoch_*.pt"):
        file.unlink()
    with pytest.raises(DamagedCheckpointError, match=r"best_model\.pt: the file is corrupted"):
        read_checkpoint(run.path)


def test_damaged_baselines_are_fitted_again(finished: Path, copy: Path) -> None:
    (copy / BASELINES_FILE).write_bytes(b"rotten")
    run = resume_run(copy, quiet=True)
    run.close()
    one, other = (read_checkpoint(folder / BASELINES_FILE).values for folder in (finished, copy))
    assert_same_values(one, other)
    assert any("The baselines were fitted again" in event["text"] for event in events_of(copy, "warning"))


def test_a_checkpoint_outside_a_run_is_checked_by_its_own_crc(finished: Path, tmp_path: Path) -> None:
    """Without checksums.json a flipped weight would be loaded as it is."""
    file = Path(shutil.copy(finished / BEST_MODEL, tmp_path))
    weights = read_checkpoint(file).weights
    raw = next(iter(weights.values())).contiguous().numpy().tobytes()
    content = bytearray(file.read_bytes())
    content[content.index(raw[:64]) + 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match="the checksum of its member"):
        read_checkpoint(file)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"resume.pt": 1}', "\x00"])
def test_a_damaged_checksum_file_is_ignored(copy: Path, text: str) -> None:
    (copy / CHECKSUMS_FILE).write_text(text)
    assert read_resume_checkpoint(copy).values["step"] > 0


# Incomplete, foreign, from another version


def test_an_incomplete_checkpoint_is_ignored_and_removed(copy: Path) -> None:
    (copy / f".{RESUME_STATE}.tmp").write_bytes((copy / RESUME_STATE).read_bytes()[:1000])
    run = resume_run(copy, quiet=True)
    run.close()
    assert run.state.epoch == 2 and not list(copy.glob(".*.tmp"))


def test_the_previous_state_replaces_a_missing_one(copy: Path) -> None:
    (copy / RESUME_STATE).unlink()
    saved = read_resume_checkpoint(copy)
    assert saved.path.name == PREVIOUS_STATE and "no such file" in saved.notice


@pytest.mark.parametrize("override", ["seed=1", "model.kind=lstm", "training.lr=0.01", "objective.tau=0.2"])
def test_the_state_of_another_run_is_refused(toy_recipe: Recipe, copy: Path, tmp_path: Path, override: str) -> None:
    small = changed(toy_recipe, "training.epochs=2", "training.batch_size=64", "evaluation.ridge_windows=500", override)
    other = start_run(small, tmp_path / "other", quiet=True)
    other.close()
    shutil.copy(other.path / RESUME_STATE, copy / RESUME_STATE)
    assert read_resume_checkpoint(copy).path.name == PREVIOUS_STATE, "its bytes are not what this run saved"
    (copy / CHECKSUMS_FILE).unlink()
    section = override.partition(".")[0].partition("=")[0]
    with pytest.raises(CheckpointError, match=rf"another recipe than recipe\.toml beside it: {section} differs"):
        resume_run(copy, quiet=True)


@pytest.mark.parametrize(
    "values",
    [
        {"format": 6},
        {"format": 6, "model_state_dict": 1},
        {"format": "5.0", "weights": torch.zeros(3)},
        {"format": 1, "model_state_dict": {}, "model_config": {}},
    ],
)
def test_another_format_is_refused_without_falling_back(copy: Path, values: dict, capsys: Capture) -> None:
    """Falling back would discard what another version of nextvec has trained."""
    torch.save(values, copy / RESUME_STATE)
    (copy / CHECKSUMS_FILE).unlink()
    assert main(["resume", str(copy), "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    remedy = "Train the run again" if values["format"] == 1 else "Upgrade nextvec"
    assert f"resume.pt: format {values['format']!r}, this nextvec reads format 5. {remedy}" in line


def test_a_store_of_a_newer_format_is_refused(other_store, capsys: Capture) -> None:
    store = other_store()
    (store.path / "manifest.json").write_text(json.dumps({"format": 3, "rows_now_called": 3}))
    assert main(["data", "check", str(store.path)]) == 2
    assert "has format 3, but this nextvec reads format 2." in capsys.readouterr().err


def test_a_kill_between_checksum_and_rename_leaves_the_old_file_valid(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both checksums are recorded, so the old and the new file are valid, and any other file is not."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    old = (copy / RESUME_STATE).read_bytes()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "write_bytes", killed)
        save_checkpoint(copy / RESUME_STATE, {"model_state_dict": {}}, previous=copy / PREVIOUS_STATE)
    assert (copy / RESUME_STATE).read_bytes() == old and read_resume_checkpoint(copy).notice == ""
    save_checkpoint(
        copy / RESUME_STATE, {**read_checkpoint(copy / RESUME_STATE).values, "step": 99}, previous=copy / PREVIOUS_STATE
    )
    assert read_resume_checkpoint(copy).values["step"] == 99 and (copy / PREVIOUS_STATE).read_bytes() == old


# Stores


def check_store_files(folder: Path, flips: int, cuts: int, capsys: Capture) -> int:
    """Damage each file of a store repeatedly, check that it is named, and return how often."""
    noticed = 0
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    for number, file in enumerate(files):
        content = file.read_bytes()
        share = [count // len(files) + (number < count % len(files)) for count in (flips, cuts)]
        for damage in damages(len(content), *share, seed=number):
            file.write_bytes(damaged(content, *damage))
            code = main(["data", "check", str(folder), "--deep", "--quiet"])
            lines = capsys.readouterr().err.splitlines()
            assert (code, len(lines)) == (2, 1) and file.name in lines[0], (file.name, damage, lines)
            noticed += 1
        file.write_bytes(content)
    return noticed


@pytest.fixture
def text_store(tmp_path: Path) -> Path:
    """A store with every kind of file: vectors, documents, texts and an encoder of its own."""
    from nextvec.data.store.build import BuildConfig, build_store

    words = [f"word{number}" for number in range(60)]
    dice = np.random.default_rng(0)
    rows = [
        {"id": f"d{n}", "paragraphs": [" ".join(dice.choice(words, 12)) for _ in range(5)]} for n in range(30)
    ]  # fmt: skip
    source = tmp_path / "corpus.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return build_store(BuildConfig((str(source),), dimensions=8), tmp_path / "store", quiet=True).path


def test_damaged_files_of_a_store_are_named(text_store: Path, capsys: Capture) -> None:
    assert check_store_files(text_store, flips=32, cuts=16, capsys=capsys) == 48
    main(["data", "check", str(text_store), "--deep", "--json"])
    first = json.loads(capsys.readouterr().out)["findings"][0]
    assert first["name"] == "files" and first["status"] == "green" and "SHA-256" in first["message"]


@pytest.mark.long
def test_three_hundred_damaged_files_of_a_store_are_named(text_store: Path, capsys: Capture) -> None:
    assert check_store_files(text_store, flips=200, cuts=100, capsys=capsys) == 300


def test_a_missing_file_of_a_store_is_named(text_store: Path, capsys: Capture) -> None:
    (text_store / "chunks.parquet").unlink()
    assert main(["data", "check", str(text_store), "--deep", "--quiet"]) == 2
    assert "chunks.parquet can't be read" in capsys.readouterr().err


def test_the_lock_is_released_when_a_run_is_closed(copy: Path) -> None:
    run: Run = resume_run(copy, quiet=True)
    run.close()
    resume_run(copy, quiet=True).close()
