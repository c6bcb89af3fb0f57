"""train and eval beyond the loop: reports of runs that ended early, faiss, files without documents."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import nextvec
from nextvec.cli import main
from nextvec.core.events import read_events
from nextvec.data.dataset import open_dataset
from nextvec.errors import MissingExtraError, NotFiniteError, StoppedError
from nextvec.recipe import DataRecipe, Recipe
from nextvec.training import loop
from nextvec.training import step as training_step

STOP = 'gates=[{epoch=1, metric="val_cosine", green=0.1}, {epoch=2, metric="ood_cosine", red=0.99, action="stop"}]'


@pytest.fixture
def recipe_file(toy_recipe: Recipe, tmp_path: Path) -> str:
    path = tmp_path / "toy.toml"
    path.write_text(toy_recipe.to_toml(), encoding="utf-8")
    return str(path)


def test_a_run_that_the_sentinel_stops_leaves_a_report(recipe_file: str, tmp_path: Path):
    with pytest.raises(StoppedError):
        nextvec.train(recipe_file, (STOP,), out=str(tmp_path / "run"), quiet=True)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for text in (
        "<p>stopped by the sentinel after epoch 2: ood cosine 0.",
        f"<li>To continue anyway: nextvec resume {tmp_path / 'run'} --force</li>",
        "<h2>Diagnosis</h2>",
        "Unreachable gate",
        "The gate is red below ood cosine 0.99; the best baseline has",
        "<h2>Training</h2>",
        "Cosine · Validation",
        "ridge",
        "Ring: the best epoch of the prediction.",
        "<h2>Gates and sentinel</h2>",
        "<b>epoch 1</b>",
        "<b>epoch 2</b>",
        "<h2>Data check</h2>",
    ):
        assert text in page, text
    assert "whose weights were judged" not in page and "Success criteria" not in page
    assert read_events(tmp_path / "run")[-1]["kind"] == "stopped", "writing the report adds no event"


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_that_is_not_finite_leaves_a_report(
    recipe_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], epoch: int
):
    """Also if no epoch has ended."""
    gradient_norm, calls = training_step.gradient_norm, []

    def nan_norm(parameters):
        calls.append(gradient_norm(parameters))
        return calls[-1] * (torch.nan if len(calls) > 15 * (epoch - 1) else 1)

    monkeypatch.setattr(training_step, "gradient_norm", nan_norm)
    assert main(["train", recipe_file, "--out", str(tmp_path / "run"), "--quiet"]) == NotFiniteError.exit_code
    assert "the gradient is not finite" in capsys.readouterr().err
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert f"<p>the gradient is not finite at epoch {epoch}, step" in page
    assert "<h2>Diagnosis</h2>" in page and "Non-finite values" in page and "Lower <code>training.lr</code>" in page
    assert ("Cosine · Validation" in page) == (epoch > 1)


def test_a_report_that_cannot_be_written_does_not_hide_why_the_run_ended(
    recipe_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "epoch_lines", lambda *_: (tmp_path / "run" / "report.html").mkdir(exist_ok=True) or ())
    with pytest.raises(StoppedError, match="stopped by the sentinel"):
        nextvec.train(recipe_file, (STOP,), out=str(tmp_path / "run"), quiet=True)


def test_a_model_is_evaluated_with_faiss(recipe_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("faiss")
    overrides = ("evaluation.retrieval=faiss", "training.epochs=1")
    trained = nextvec.train(recipe_file, overrides, out=str(tmp_path / "run"), quiet=True).evaluation
    note = "retrieval: ranks beyond 1,000 count as 1,001 (faiss)"
    assert note in trained.notes and note in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    exact = nextvec.eval(str(tmp_path / "run"), retrieval="exact", quiet=True)
    assert note not in exact.notes
    for split, evaluated in exact.splits.items():
        for name, scores in evaluated.predictors.items():
            assert scores.retrieval == trained.splits[split].predictors[name].retrieval, "few chunks: the same ranks"
    assert main(["eval", str(tmp_path / "run"), "--retrieval", "faiss", "--quiet"]) == 0
    assert note in capsys.readouterr().out


def test_missing_faiss_is_reported_before_the_run_starts(
    recipe_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    nextvec.train(recipe_file, ("training.epochs=1",), out=str(tmp_path / "run"), quiet=True)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"faiss-cpu: pip install 'nextvec\[faiss\]'"):
        nextvec.train(recipe_file, ("evaluation.retrieval=faiss",), out=str(tmp_path / "other"), quiet=True)
    assert not (tmp_path / "other").exists()
    with pytest.raises(MissingExtraError, match=r"faiss-cpu"):
        nextvec.eval(str(tmp_path / "run"), retrieval="faiss", quiet=True)


def test_a_single_run_of_windows_without_documents_is_evaluated_in_blocks(recipe_file: str, tmp_path: Path):
    """2,000 windows of unknown documents: a useful interval, a note on blocks, and unchanged groups for InfoNCE."""
    rng, vectors = np.random.default_rng(0), np.empty((2005, 16), np.float32)
    state = rng.normal(size=16)
    for row in vectors:
        state = 0.7 * state + 0.7 * rng.normal(size=16)
        row[:] = state / np.linalg.norm(state)
    windows = np.lib.stride_tricks.sliding_window_view(vectors, 6, axis=0).transpose(0, 2, 1)
    np.savez(tmp_path / "bare.npz", context_sequences=windows[:, :5], target_vectors=windows[:, 5])
    nextvec.train(recipe_file, ("training.epochs=1",), out=str(tmp_path / "run"), quiet=True)

    evaluation = nextvec.eval(str(tmp_path / "run"), ood_data=str(tmp_path / "bare.npz"), quiet=True)
    evaluated = evaluation.splits["ood"]
    assert (evaluated.windows, evaluated.documents, evaluated.groups) == (2000, 1, 20)
    cosine = evaluated.predictors["copy-last"].cosine
    assert cosine.low < cosine.value < cosine.high and 0.01 < cosine.high - cosine.low < 0.1
    assert evaluated.gain.low < evaluated.gain.value < evaluated.gain.high < evaluated.gain.low + 0.1
    assert any("does not name the documents of its windows" in note and "blocks" in note for note in evaluation.notes)
    assert len(evaluated.ablations) == 5 and all(drop.high - drop.low < 1 for drop in evaluated.ablations.values())

    data = DataRecipe(store=recipe_store(recipe_file), ood=str(tmp_path / "bare.npz"))
    dataset_groups = open_dataset(data, quiet=True).windows(5, 5, torch.device("cpu"))["ood"].windows.groups
    assert len(dataset_groups.unique()) == 1, "InfoNCE masks by the groups of the file, not by blocks"


def recipe_store(recipe_file: str) -> str:
    from nextvec.recipe import load_recipe

    return load_recipe(recipe_file).data.store
