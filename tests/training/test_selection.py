"""best_model.pt: the best of the start and of every epoch, for each output, and how a model is fine-tuned."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from equality import assert_same_values, events_of
from nextvec.cli import main
from nextvec.core.run_paths import BEST_MODEL, TRAINING_LOG
from nextvec.data.splits import SPLITS
from nextvec.data.store import VECTORS, DocumentTable, Store
from nextvec.data.store.writer import finish_store, write_documents
from nextvec.errors import CheckpointError, NotFiniteError, RecipeError, SpaceError
from nextvec.evaluation.metrics import score_windows
from nextvec.inference.load import load_model
from nextvec.models.base import QUERY_PREFIX
from nextvec.models.baselines import DecayedMean
from nextvec.models.checkpoint import read_checkpoint
from nextvec.recipe import Recipe, load_recipe, make_recipe
from nextvec.training import loop, validation
from nextvec.training.evaluate import evaluate_best
from nextvec.training.initial_weights import open_initial_model
from nextvec.training.query_start import QUERY_DECAYS, fit_query_decay
from nextvec.training.resume import resume_run
from nextvec.training.run import Run
from nextvec.training.selection import select_outputs, selection_of
from nextvec.training.setup import start_run


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return make_recipe(recipe.model_dump(exclude_none=True), overrides)


def trained(recipe: Recipe, path: Path) -> Run:
    run = start_run(recipe, path, quiet=True)
    loop.train(run)
    run.close()
    return run


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, toy_store: Store) -> Run:
    """A trained run to start others from."""
    values = {
        "name": "good", "data": {"store": str(toy_store.path)}, "objective": {"mse": 1.0},
        "training": {"epochs": 4, "batch_size": 32, "precision": "fp32", "lr": 0.002},
        "evaluation": {"resamples": 100, "ridge_windows": 1000}, "runtime": {"device": "cpu", "threads": 1},
    }  # fmt: skip
    return trained(make_recipe(values), tmp_path_factory.mktemp("good") / "run")


def test_training_that_makes_a_model_worse_ends_with_its_start(good: Run, tmp_path: Path) -> None:
    """With a rate that is far too high, both outputs of best_model.pt are those of the initial model."""
    warm = changed(
        good.recipe,
        f"training.init_from='{good.path}'",
        "training.lr=10",
        "training.query_weight_decay=0",
        "training.epochs=2",
    )
    run = trained(warm, tmp_path / "warm")
    assert all(record["val_cosine"] < run.state.start["val_cosine"] for record in run.state.history)
    assert all(record["val_mrr"] < run.state.start["val_mrr"] for record in run.state.history)
    best, initial = read_checkpoint(run.path), read_checkpoint(good.path)
    assert_same_values(best.weights, initial.weights)
    assert best.values["epoch"] == best.values["step"] == 0 and best.values["metrics"] == run.state.start
    assert {output: kept["epoch"] for output, kept in best.values["selection"].items()} == {"prediction": 0, "query": 0}
    # The evaluation scores what the start scored, and everything that people read reports it.
    evaluated = evaluate_best(run).splits["val"].predictors["amn"]
    assert evaluated.cosine.value == run.state.start["val_cosine"]
    assert evaluated.query is not None and evaluated.query.mrr == pytest.approx(run.state.start["val_mrr"], abs=1e-12)
    assert not events_of(run.path, "mismatch")
    log = (run.path / TRAINING_LOG).read_text()
    assert "best_model.pt: prediction of the start, because no epoch was better (val cosine 0." in log
    (event,) = events_of(run.path, "trained")
    assert event["best_epoch"] == 0 and event["selection"] == best.values["selection"]


def test_each_output_is_selected_by_its_own_metric(good: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prediction of one epoch and the query of another one are one model, which scores what both scored."""
    planned = {0: (0.1, 0.2), 1: (0.3, 0.1), 2: (0.2, 0.5), 3: (0.25, 0.4)}
    weights: dict[int, dict[str, torch.Tensor]] = {}

    def planned_validation(run: Run, split: str) -> dict[str, object]:
        epoch = run.state.epoch + bool(run.state.step)
        weights[epoch] = {name: value.clone() for name, value in run.eval_model.state_dict().items()}
        measured = validation.validate(run, split)
        if split == "val":
            measured["val_cosine"], measured["val_mrr"] = planned[epoch]
        return measured

    for module in ("loop", "selection"):
        monkeypatch.setattr(f"nextvec.training.{module}.validate", planned_validation)
    run = trained(changed(good.recipe, "training.epochs=3", "training.ema_decay=0.5"), tmp_path / "run")
    best = read_checkpoint(run.path)
    assert {output: kept["epoch"] for output, kept in best.values["selection"].items()} == {"prediction": 1, "query": 2}
    assert list(best.weights) == list(weights[1]), "the tensors are in the order of every other checkpoint"
    for name, value in best.weights.items():
        assert torch.equal(value, weights[2 if name.startswith(QUERY_PREFIX) else 1][name]), name
    assert [(record["best"], record["query_best"]) for record in run.state.history] == [
        (True, False), (False, True), (False, False)
    ]  # fmt: skip
    assert best.values["epoch"] == 1 and best.values["step"] == run.steps_per_epoch


def test_the_query_never_ends_below_its_start(good: Run) -> None:
    selection = selection_of(good)
    assert selection["query"]["value"] >= selection["query"]["start"] == good.state.start["val_mrr"]
    values = [good.state.start["val_mrr"], *(record["val_mrr"] for record in good.state.history)]
    assert selection["query"]["value"] == max(values)
    evaluated = evaluate_best(good).splits["val"]
    query = evaluated.predictors["amn"].query
    assert query is not None and query.mrr == pytest.approx(max(values), abs=1e-12)
    best = max(evaluated.predictors[name].retrieval.mrr for name in good.baselines)
    assert good.state.history[0]["val_mrr_gain"] == pytest.approx(good.state.history[0]["val_mrr"] - best, abs=1e-12)


def test_equal_scores_keep_the_earlier_weights_and_models_without_a_query_have_one_output(
    good: Run, tmp_path: Path
) -> None:
    run = start_run(changed(good.recipe, "model.query=false"), tmp_path / "run", quiet=True)
    assert list(run.state.selected) == ["prediction"] and "val_mrr" not in run.state.start
    assert select_outputs(run, {**run.state.start, "epoch": 1}) == {"best": False}
    assert selection_of(run)["prediction"]["epoch"] == 0
    run.close()


def test_queries_that_are_not_finite_end_the_run(good: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NaN ranks first among its candidates, so without a check it would be the best query."""
    run = start_run(good.recipe, tmp_path / "run", quiet=True)
    monkeypatch.setattr(run.model, "query", lambda context, mask=None: torch.full_like(context[:, -1], torch.nan))
    with pytest.raises(NotFiniteError, match="queries on val are not finite"):
        loop.train(run)


@pytest.mark.parametrize("harm", ["missing", "damaged", "of another state"])
def test_resume_writes_the_best_model_again(good: Run, tmp_path: Path, harm: str) -> None:
    """The training state contains the selected weights, so the best model can't be lost or be of another state."""
    run = tmp_path / "run"
    shutil.copytree(good.path, run)
    if harm == "missing":
        (run / BEST_MODEL).unlink()
    elif harm == "damaged":
        (run / BEST_MODEL).write_bytes(b"rotten")
        for file in run.glob("epoch_*.pt"):
            file.unlink()
    else:
        shutil.copy(run / "epoch_1.pt", run / BEST_MODEL)
        (run / "checkpoints.json").unlink()
    resume_run(run, quiet=True).close()
    assert_same_values(read_checkpoint(good.path).values, read_checkpoint(run).values)
    warnings = [event for event in events_of(run, "warning") if "best_model.pt was written again" in event["text"]]
    # A kill after best_model.pt was saved and before resume.pt was leaves another state, without any damage.
    assert len(warnings) == (harm != "of another state")


# The start of a fresh query.


def write_store(path: Path, vectors: np.ndarray, rows: int, space: object) -> Store:
    """Write documents of `rows` vectors each; every fifth is of val, every other fifth of ood."""
    count = len(vectors) // rows
    splits = np.array([SPLITS.index(("train", "train", "train", "val", "ood")[n % 5]) for n in range(count)], np.int8)
    names = [f"d{n}" for n in range(count)]
    first = np.arange(count) * rows
    table = DocumentTable(names, names, ["toy"] * count, splits, first, np.full(count, rows), np.arange(count))
    folder = path.with_name(f"{path.name}.unfinished")
    folder.mkdir()
    np.save(folder / VECTORS, vectors.astype(np.float32))
    write_documents(folder, table)
    return finish_store(folder, path, space, {"documents": count, "chunks": len(vectors)})  # type: ignore[arg-type]


def drifting(rng: np.random.Generator, documents: int, rows: int, dimensions: int, keep: float) -> np.ndarray:
    """Return unit vectors of documents with a topic; `keep` is how much of a chunk stays in the next one."""
    vectors = np.empty((documents, rows, dimensions))
    topic = rng.normal(size=(documents, dimensions))
    state = rng.normal(size=(documents, dimensions))
    for row in range(rows):
        state = keep * state + np.sqrt(1 - keep**2) * rng.normal(size=state.shape)
        vectors[:, row] = (1 - keep) * topic + state
    return (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).reshape(-1, dimensions)


def test_a_fresh_query_starts_as_the_mean_that_retrieves_best(good: Run, toy_store: Store, tmp_path: Path) -> None:
    """With chunks that resemble their predecessor the fitted mean is steep, with a shared topic it is flat."""
    decays = {}
    for name, keep in (("steep", 0.95), ("flat", 0.1)):
        vectors = drifting(np.random.default_rng(0), 60, 12, 16, keep)
        store = write_store(tmp_path / name, vectors, 12, toy_store.space)
        recipe = changed(good.recipe, f"data.store='{store.path}'", "training.epochs=1")
        run = start_run(recipe, tmp_path / f"run-{name}", quiet=True)
        (event,) = events_of(run.path, "query_start")
        decays[name] = event["decay"]
        # A fresh query is that mean, up to the random keys of its content weights.
        mean = DecayedMean(16).eval()
        mean.decay.fill_(event["decay"])
        context = torch.nn.functional.normalize(
            torch.randn(50, 5, 16, generator=torch.Generator().manual_seed(0)), dim=2
        )
        cosine = (run.model.eval().query(context) * mean.predict(context)).sum(dim=1)
        assert cosine.mean() > 0.99
        # The same windows give the same decay, and its MRR is that of no other candidate's surpassed.
        assert fit_query_decay(run.sets["train"], 0) == pytest.approx((event["decay"], event["train_mrr"]))
        run.close()
    assert decays["steep"] < decays["flat"] and set(decays.values()) <= set(QUERY_DECAYS)


# Fine-tuning.


@pytest.fixture(scope="module")
def own_text(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store in the space of wiki-minilm, with random vectors instead of encoded text."""
    space = load_model("wiki-minilm").space
    vectors = drifting(np.random.default_rng(0), 40, 10, 384, 0.5)
    return write_store(tmp_path_factory.mktemp("own") / "store", vectors, 10, space)


SMALL = ("training.batch_size=64", "training.epochs=1", "evaluation.resamples=100", "evaluation.ridge_windows=100",
         "runtime.threads=1", "runtime.device=cpu")  # fmt: skip


def test_a_shipped_model_is_fine_tuned_by_its_name(own_text: Store, tmp_path: Path) -> None:
    """The network with its options is the initial model's, and the result loads like any other."""
    # A shorter context than the model's, because ridge regression takes 25 s at a context of 32.
    args = ["train", "finetune", "--init-from", "wiki-minilm", f"data.store={own_text.path}", "data.context=3", *SMALL]
    assert main([*args, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    recipe = load_recipe(tmp_path / "run" / "recipe.toml")
    initial = load_model("wiki-minilm")
    assert recipe.model.kind == "amn" and recipe.data.context == 3
    assert recipe.training.init_from == "wiki-minilm" and recipe.model.dropout == 0.2
    (event,) = events_of(tmp_path / "run", "warm_start")
    assert not event["missing"] and not event["skipped"] and not events_of(tmp_path / "run", "query_start")
    assert load_model(tmp_path / "run").network.config == initial.network.config
    history = json.loads((tmp_path / "run" / "training_history.json").read_text())
    evaluated = json.loads((tmp_path / "run" / "evaluation.json").read_text())["splits"]["val"]["predictors"]["amn"]
    assert evaluated["cosine"]["value"] >= history["start"]["val_cosine"] - 1e-6
    assert evaluated["query"]["mrr"] >= history["start"]["val_mrr"] - 1e-6
    assert "best_model.pt: prediction of" in (tmp_path / "run" / "model_card.md").read_text()


def test_the_start_of_a_warm_start_with_averaged_weights_is_the_initial_model(good: Run, tmp_path: Path) -> None:
    recipe = changed(good.recipe, f"training.init_from='{good.path}'", "training.ema_decay=0.99")
    run = start_run(recipe, tmp_path / "run", quiet=True)
    assert_same_values(run.eval_model.state_dict(), read_checkpoint(good.path).weights)
    windows = run.sets["val"]
    assert run.state.start["val_cosine"] == score_windows(run.eval_model, windows.vectors, windows.windows).mean_cosine
    run.close()


def test_what_cannot_be_fine_tuned_is_refused_before_a_folder_is_made(
    own_text: Store, good: Run, toy_store: Store, tmp_path: Path
) -> None:
    space = replace(own_text.space, encoder="e5", probes=None)
    other = write_store(tmp_path / "e5", np.asarray(own_text.vectors), 10, space)
    for overrides, error, message in (
        (
            (f"data.store={toy_store.path}",),
            CheckpointError,
            r"wiki-minilm: 384-D, but store .* is 16-D\. Use a store of",
        ),
        ((f"data.store={other.path}",), SpaceError, r"wiki-minilm and store .*e5"),
        (
            (f"data.store={own_text.path}", "model.kind=lstm"),
            CheckpointError,
            r"Set model\.kind=amn, or model\.kind=init",
        ),
        (
            (f"data.store={own_text.path}", "training.init_from="),
            RecipeError,
            "training.init_from is empty. Pass --init",
        ),
        ((f"data.store={own_text.path}", "training.init_from=wiki"), CheckpointError, "model 'wiki': no such file"),
    ):
        with pytest.raises(error, match=message):
            start_run(load_recipe("finetune", (*overrides, *SMALL)), tmp_path / "run", quiet=True)
        assert not (tmp_path / "run").exists(), overrides


def test_the_network_and_the_context_are_those_of_the_initial_model_unless_the_recipe_sets_them(good: Run) -> None:
    recipe, initial = open_initial_model(load_recipe("finetune"))
    assert initial is not None and recipe.data.context == 32 and recipe.model.dropout == 0.2
    assert (recipe.model.kind, recipe.model.variant) == ("amn", "residual")
    # An override of a recipe in memory counts as set, and so does a value equal to the default.
    changes = (f"training.init_from={good.path}", "data.context=5", "model.dropout=0.3")
    recipe, _ = open_initial_model(load_recipe(load_recipe("finetune"), changes))
    assert recipe.data.context == 5 and recipe.model.dropout == 0.3
    recipe, initial = open_initial_model(good.recipe)
    assert recipe is good.recipe and initial is None
