"""A model is never presented as good on rows that its weights, or those of an ancestor, were trained on."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nextvec.core.events import read_events
from nextvec.core.run_paths import BEST_MODEL, MODEL_CARD, REPORT_FILE
from nextvec.data.npz.export import export_npz
from nextvec.data.seen_rows import SeenRows
from nextvec.data.space import Space
from nextvec.data.splits import SPLITS
from nextvec.data.store import VECTORS, Store
from nextvec.data.store.writer import finish_store, write_documents
from nextvec.errors import CheckpointError
from nextvec.evaluation import latency
from nextvec.evaluation.results import Evaluation
from nextvec.experiments.compare_runs import compare_runs
from nextvec.experiments.leaderboard import add_to_leaderboard
from nextvec.experiments.single_run import TrainedRun, train_recipe
from nextvec.models.checkpoint import read_checkpoint
from nextvec.monitor.state import read_state
from nextvec.recipe import Recipe, make_recipe
from nextvec.reports.comparison import comparison_markdown
from nextvec.training import evaluate
from nextvec.training.evaluate import evaluate_checkpoint
from nextvec.training.resume import resume_run
from nextvec.training.setup import start_run


def resplit(store: Store, path: Path, train: tuple[int, ...], val: tuple[int, ...], ood: tuple[int, ...] = ()) -> Store:
    """Write documents of a store, by their number modulo 5, as another store in float16 with other splits."""
    numbers = np.arange(len(store.documents)) % 5
    splits = np.full(len(numbers), -1, np.int8)
    for name, remainders in zip(SPLITS, (train, val, ood), strict=True):
        splits[np.isin(numbers, remainders)] = SPLITS.index(name)
    # The documents in reverse order: rows have other numbers than in the first store.
    kept = np.flatnonzero(splits >= 0)[::-1]
    rows = store.documents.rows[kept]
    names = [store.documents.ids[document] for document in kept]
    documents = replace(
        store.documents,
        ids=names, titles=names, sources=["toy"] * len(kept), splits=splits[kept], rows=rows,
        first_row=np.cumsum(rows) - rows, group=np.arange(len(kept)),
    )  # fmt: skip
    starts = store.documents.first_row[kept]
    vectors = np.concatenate([store.vectors[start : start + count] for start, count in zip(starts, rows, strict=True)])
    folder = path.with_name(path.name + ".unfinished")
    folder.mkdir(parents=True)
    np.save(folder / VECTORS, vectors.astype(np.float16))
    write_documents(folder, documents)
    return finish_store(folder, path, Space("toy", "1", store.dimensions), {"chunks": len(vectors)})


@dataclass
class Family:
    """Three generations of runs on one corpus: each is warm-started from the one before it."""

    home: Path
    corpus: Store
    recipe: Recipe
    grandparent: TrainedRun
    parent: TrainedRun
    child: TrainedRun


@pytest.fixture(scope="module", autouse=True)
def quick_latency() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "WARMUP_CALLS", 1)
        patch.setattr(evaluate, "LATENCY_REPEATS", 1)
        yield


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory, make_store: Callable[..., Store]) -> Family:
    home = tmp_path_factory.mktemp("family")
    corpus = make_store(home / "corpus", documents=100)
    recipe = make_recipe(
        {
            "name": "grandparent",
            "objective": {"mse": 1.0},
            "training": {"epochs": 1, "batch_size": 32, "precision": "fp32"},
            "evaluation": {"resamples": 100, "ridge_windows": 500, "queries": 200},
            "runtime": {"device": "cpu", "threads": 1},
        }
    )
    # Each generation trains on documents of its own; the child's val is the grandparent's train.
    stores = {
        "grandparent": resplit(corpus, home / "s1", (0, 1), (4,)),
        "parent": resplit(corpus, home / "s2", (2,), (3,), (4,)),
        "child": resplit(corpus, home / "s3", (3, 4), (0,), (2,)),
    }
    runs: dict[str, TrainedRun] = {}
    for name, store in stores.items():
        overrides = [f"name='{name}'", f"data.store='{store.path}'"]
        overrides += [f"training.init_from='{list(runs.values())[-1].path / 'epoch_1.pt'}'"] if runs else []
        runs[name] = train_recipe(recipe, overrides, out=str(home / name), quiet=True)
    return Family(home, corpus, recipe, **runs)


def evaluated(model: Path, data: Path | str, ood: Path | str = "") -> Evaluation:
    return evaluate_checkpoint(model, data=str(data), ood_data=str(ood), device="cpu", quiet=True)


def assert_red(evaluation: Evaluation, *texts: str) -> None:
    assert evaluation.verdict is not None and evaluation.verdict.status == "red"
    first_sentence = evaluation.verdict.sentence.partition(". ")[0]
    assert "has seen" in first_sentence and all(text in first_sentence for text in texts), first_sentence
    assert "beats the best baseline" not in evaluation.verdict.sentence
    plain = json.loads(json.dumps(evaluation.to_dict()))
    assert plain["verdict"]["status"] == "red" and Evaluation.from_dict(plain) == evaluation


def test_a_run_on_rows_that_no_ancestor_has_seen_is_clean(family: Family) -> None:
    for run in (family.grandparent, family.parent):
        seen = run.evaluation.seen
        assert seen is not None and seen.label() == "clean" and all(not split.seen for split in seen.splits.values())
        assert run.evaluation.verdict and "seen" not in run.evaluation.verdict.sentence


def test_what_a_grandparent_and_a_parent_have_seen_is_red(family: Family) -> None:
    assert_red(family.child.evaluation, "% of the val rows in training (ancestor 'grandparent')")
    assert_red(family.child.evaluation, "% of the ood rows in training (ancestor 'parent')")
    seen = family.child.evaluation.seen
    assert seen is not None and all(split.share > 0.9 and split.in_run == 0 for split in seen.splits.values())


def test_a_tainted_run_trains_but_everything_that_it_writes_is_red(family: Family) -> None:
    run = family.child
    assert not run.success.passed and "FAIL  val rows not seen in training" in "\n".join(run.success.lines(None))
    assert "data-leakage" in run.diagnoses.ids
    for name in (REPORT_FILE, MODEL_CARD, "training.log"):
        text = (run.path / name).read_text(encoding="utf-8")
        assert "has seen" in text and "grandparent" in text and "beats the best baseline" not in text, name
    # The hub shows the metadata of a card without its verdict.
    assert "cosine_similarity" not in (run.path / MODEL_CARD).read_text().partition("model-index")[2].split("---")[0]
    history = json.loads((run.path / "training_history.json").read_text())
    assert history["verdict"]["status"] == "red" and not history["success"]["passed"]


def test_the_warning_comes_before_the_first_step(family: Family) -> None:
    events = read_events(family.child.path)
    kinds = [event["kind"] for event in events]
    warning = next(event for event in events if event["kind"] == "warning" and "has seen" in event["text"])
    assert warning["status"] == "red" and events.index(warning) < kinds.index("epoch")
    log = (family.child.path / "training.log").read_text()
    assert log.index("has seen") < log.index("Epoch 1/")
    # A dashboard of the run is red while it trains.
    state = read_state(events[: events.index(warning) + 1], now=events[0]["time"])
    assert ("red", warning["text"]) in state.outcome.warnings


def test_a_model_is_scored_on_a_store_of_another_split(family: Family, tmp_path: Path) -> None:
    other = resplit(family.corpus, tmp_path / "other", (2, 3), (0, 4))
    evaluation = evaluated(family.grandparent.path, other.path)
    assert_red(evaluation, "this run, 'grandparent'")
    assert evaluation.seen is not None and 0.3 < evaluation.seen.splits["val"].share < 0.7
    assert "% seen" in evaluation.seen.label()


def test_the_same_windows_in_an_npz_file_are_recognized(family: Family, tmp_path: Path) -> None:
    """The model was trained on a float16 store; the file has float32 vectors."""
    file = export_npz(family.corpus, "train", tmp_path / "windows.npz", quiet=True)
    assert_red(evaluated(family.grandparent.path, "", file), "of the ood rows", "this run, 'grandparent'")


def test_an_ood_set_that_is_an_ancestor_s_train_split_is_red(family: Family, tmp_path: Path) -> None:
    ood = resplit(family.corpus, tmp_path / "ood", (), (), (0, 1))
    evaluation = evaluated(family.parent.path, family.home / "s2", ood.path)
    assert_red(evaluation, "of the ood rows in training (ancestor 'grandparent')")
    assert evaluation.seen is not None and evaluation.seen.splits["val"].seen == 0


def test_a_checkpoint_knows_its_rows_wherever_it_is(family: Family, tmp_path: Path) -> None:
    (tmp_path / "moved.pt").write_bytes((family.child.path / BEST_MODEL).read_bytes())
    assert_red(evaluated(tmp_path / "moved.pt", family.home / "s1"), "of the val rows", "this run, 'child'")
    for name in (BEST_MODEL, "epoch_1.pt", "resume.pt"):
        record = SeenRows.from_values(read_checkpoint(family.child.path / name).values["seen_rows"])
        assert [rows.run for rows in record.runs] == ["child", "parent", "grandparent"], name


def test_a_resumed_run_keeps_the_record_of_its_ancestors(family: Family, tmp_path: Path) -> None:
    """A run that ends before its first step has a record, too."""
    overrides = [f"data.store='{family.home / 's2'}'", f"training.init_from='{family.grandparent.path}'"]
    recipe = make_recipe(family.recipe.model_dump(exclude_none=True), [*overrides, "name='resumed'"])
    started = start_run(recipe, tmp_path / "run", quiet=True)
    started.close()
    resumed = resume_run(tmp_path / "run", quiet=True)
    resumed.close()
    assert [rows.run for rows in resumed.seen_rows.runs] == ["resumed", "grandparent"]
    for one, other in zip(resumed.seen_rows.runs, started.seen_rows.runs, strict=True):
        assert len(one.hashes) > 100 and (one.hashes == other.hashes).all()


@pytest.fixture
def original_file(family: Family, tmp_path: Path) -> Path:
    """A checkpoint as the original trainer writes it: no record of its training rows."""
    recipe = make_recipe(
        family.recipe.model_dump(exclude_none=True),
        ["model.variant=original", f"data.store='{family.home / 's2'}'"],
    )
    run = start_run(recipe, tmp_path / "start", quiet=True)
    run.close()
    file = tmp_path / "original.pt"
    torch.save(
        {"model_type": "amn", "model_config": {"input_dim": 16}, "model_state_dict": run.model.state_dict()}, file
    )
    return file


def test_an_unknown_history_is_amber_at_best_and_said_first(
    family: Family, tmp_path: Path, original_file: Path
) -> None:
    store = family.home / "s2"
    evaluation = evaluated(original_file, store)
    warm = [f"training.init_from='{original_file}'", "model.variant=original", f"data.store='{store}'", "name='warm'"]
    run = train_recipe(family.recipe, warm, out=str(tmp_path / "warm"), quiet=True)
    for item in (evaluation, run.evaluation, evaluated(run.path, "")):
        assert item.verdict is not None and item.verdict.status != "green"
        assert item.verdict.sentence.startswith("Not all training data of amn are known")
        assert item.seen is not None and item.seen.label() == "unknown"
    warning = next(event for event in read_events(run.path) if event["kind"] == "warning" and "known" in event["text"])
    assert warning["status"] == "amber"
    board = add_to_leaderboard(run.path, tmp_path / "board.md", device="cpu")
    assert board.entries[0].seen == "unknown" and "(unknown history)" in (tmp_path / "board.md").read_text()


def test_a_comparison_and_the_leaderboard_show_the_tainted_run(family: Family, tmp_path: Path) -> None:
    runs = (str(family.parent.path), str(family.child.path))
    on_own_data = compare_runs(runs, device="cpu", quiet=True)
    # On the child's data the child's val was the grandparent's train, so both have seen it.
    on_one_store = compare_runs(runs, data=(str(family.home / "s3"),), device="cpu", quiet=True)
    for comparison, tainted in ((on_own_data, {"child (amn)"}), (on_one_store, {"parent (amn)", "child (amn)"})):
        scores = [row for compared in comparison.sets for split in compared.splits for row in split.rows if row.gain]
        seen = {row.name for row in scores if row.status == "red" and "% seen" in row.outcome}
        assert seen == tainted
        assert "% seen" in comparison_markdown(comparison)
    for run in (family.parent, family.child):
        board = add_to_leaderboard(run.path, tmp_path / "board.md", device="cpu")
    assert board.entries[0].seen == "clean"
    assert "% seen" in board.entries[1].seen and board.entries[1].status == "red"
    assert "% seen)" in (tmp_path / "board.md").read_text()


def test_an_older_checkpoint_is_refused_in_one_line(family: Family, tmp_path: Path) -> None:
    values = torch.load(family.parent.path / BEST_MODEL, weights_only=True)
    torch.save(values | {"format": 2}, tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match="format 2, this nextvec reads format 5") as caught:
        read_checkpoint(tmp_path / "old.pt")
    assert "\n" not in str(caught.value)
