"""Planted faults in order, near duplicates or whole splits are named, and sound stores have none."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nextvec.data.checks import CheckReport, check_statistics, check_store, compare_with_train
from nextvec.data.checks.covariance import make_coordinates, measure_moments
from nextvec.data.checks.order import context_mean_cosine, measure_coherence
from nextvec.data.checks.rules_distribution import REVERSED_MIN_UNITS, check_reversed, check_shuffled
from nextvec.data.checks.sampling import draw_sample
from nextvec.data.dataset import Dataset
from nextvec.data.space import PROBE_TEXTS, Space
from nextvec.data.splits import SPLITS
from nextvec.data.store import Store
from nextvec.data.synthetic.generate import PUBLISHED_COHERENCE, SyntheticSpec, synthesize
from nextvec.errors import InputError, StoreError

SPEC = SyntheticSpec(
    documents=400, vectors=12_000, val=0.25, ood_documents=80, ood_windows=1_500, ood_coherence=PUBLISHED_COHERENCE[:1],
    dimensions=32, topics=8,
)  # fmt: skip
FAULTS = {"reversed documents", "shuffled documents", "near duplicates in train", "near duplicates", "val vs train"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return synthesize(tmp_path_factory.mktemp("drawn") / "store", SPEC, quiet=True)


def planted(store: Store, change: Callable[[np.ndarray, np.random.Generator], np.ndarray], *splits: str) -> CheckReport:
    """Check a store after `change(rows (L, D), random)` of every document of the splits."""
    vectors, documents, random = np.array(store.vectors), store.documents, np.random.default_rng(0)
    for number in np.flatnonzero(np.isin(documents.splits, [SPLITS.index(split) for split in splits])):
        rows = slice(documents.first_row[number], documents.first_row[number] + documents.rows[number])
        vectors[rows] = change(vectors[rows], random)
    return check_store(replace(store, vectors=vectors), 5)


def faults(report: CheckReport) -> dict[str, str]:
    return {fault.name: fault.status for fault in report.findings if fault.status != "green"}


def text_of(report: CheckReport, name: str) -> str:
    (text,) = (result.text for result in report.findings if result.name == name)
    return text


def test_a_sound_store_has_no_faults_and_a_forward_signal(drawn: Store):
    report = check_store(drawn, 5)
    assert faults(report) == {}, report.worst
    assert "The order of chunks can be learned" in text_of(report, "forward signal")
    order = report.statistics["order"]
    assert order["train"]["signal"] > 2 * order["train"]["noise"]
    for split in ("val", "ood"):
        assert 0.5 < order[split]["against_train"]["projection"] < 1.5


@pytest.mark.parametrize("seed", range(12))
def test_small_sound_stores_give_no_false_alarms(other_store: Callable[..., Store], seed: int):
    assert not FAULTS & set(faults(check_store(other_store(seed=seed), 5)))


@pytest.mark.parametrize("split", ["val", "ood"])
def test_reversed_documents_are_red(drawn: Store, split: str):
    report = planted(drawn, lambda rows, _: rows[::-1], split)
    assert faults(report) == {"reversed documents": "red"}
    assert text_of(report, "reversed documents").startswith(f"Chunks of {split} are in reverse order")
    assert report.statistics["order"][split]["against_train"]["projection"] < -0.5
    before = check_store(drawn, 5).statistics["order"][split]
    assert report.statistics["order"][split]["signal"] == pytest.approx(before["signal"], abs=1e-3)


def test_a_store_that_is_reversed_as_a_whole_is_consistent(drawn: Store):
    assert faults(planted(drawn, lambda rows, _: rows[::-1], *SPLITS)) == {}


@pytest.mark.parametrize(("split", "status"), [("train", "red"), ("val", "red"), ("ood", "amber")])
def test_shuffled_documents_are_named(drawn: Store, split: str, status: str):
    report = planted(drawn, lambda rows, random: random.permutation(rows), split)
    assert faults(report)["shuffled documents"] == status
    assert text_of(report, "shuffled documents").startswith(f"Chunks of {split} appear shuffled: ")


@pytest.mark.parametrize(
    ("ood", "train", "named"),
    [
        ((0.002, 0.003), (0.08, 0.001), True),
        ((0.002, 0.012), (0.08, 0.001), False),
        ((0.04, 0.001), (0.08, 0.001), False),
        ((-0.06, 0.003), (0.08, 0.001), False),
        ((-0.08, 0.001), (-0.06, 0.001), False),
        ((0.0, 0.001), (0.02, 0.008), False),
    ],
)
def test_only_a_significant_difference_is_called_shuffled(
    ood: tuple[float, ...], train: tuple[float, ...], named: bool
):
    drops = {"train": train, "ood": ood}
    splits = {name: {"coherence_drop": {"drop": drop, "error": error}} for name, (drop, error) in drops.items()}
    assert bool(list(check_shuffled({"splits": splits}))) == named


def test_a_store_shuffled_everywhere_has_no_forward_signal(drawn: Store):
    report = planted(drawn, lambda rows, random: random.permutation(rows), *SPLITS)
    order = report.statistics["order"]["train"]
    assert order["signal"] <= order["noise"] and "reversed documents" not in faults(report)
    statistics = {**report.statistics, "order": {"train": {"signal": 0.001, "noise": 0.005}}}
    (result,) = (result for result in check_statistics(statistics) if result.name == "forward signal")
    assert result.status == "amber" and "forward signal 0.001, noise floor 0.005" in result.text
    assert "too small to measure" in text_of(report, "forward signal")


@pytest.mark.parametrize(("projection", "t", "units", "named"), [
    (-0.9, -8.0, REVERSED_MIN_UNITS, True), (-0.9, -8.0, REVERSED_MIN_UNITS - 1, False),
    (-0.9, -3.0, 99, False), (-0.1, -8.0, 99, False), (0.9, 8.0, 99, False),
])  # fmt: skip
def test_only_a_significant_disagreement_is_called_reversed(projection: float, t: float, units: int, named: bool):
    against = {"projection": projection, "t": t, "units": units}
    order = {"train": {"signal": 0.1, "noise": 0.02}, "val": {"against_train": against}}
    assert bool(list(check_reversed({"order": order}))) == named
    assert not list(check_reversed({"order": {**order, "train": {"signal": 0.01, "noise": 0.02}}}))


def test_the_coherence_drop_is_the_mean_difference_over_documents(drawn: Store):
    sample = draw_sample(drawn.vectors, drawn.documents, "ood", 1_000)
    _, drop = measure_coherence(sample)
    drops, weights = [], []
    for document in np.unique(sample.document_R):
        vectors = sample.vectors_RD[sample.document_R == document].astype(np.float64)
        cosines = vectors @ vectors.T
        apart = np.abs(np.subtract.outer(np.arange(len(vectors)), np.arange(len(vectors))))
        if len(vectors) > 2:
            drops.append(cosines[apart == 1].mean() - cosines[(apart >= 2) & (apart <= 8)].mean())
            weights.append(len(vectors) - 1)
    assert drop["drop"] == pytest.approx(np.average(drops, weights=weights), abs=1e-4)


def test_the_context_mean_is_scored_on_complete_contexts(drawn: Store):
    sample = draw_sample(drawn.vectors, drawn.documents, "val", 500)
    cosines = [
        vectors[end - 4 : end].mean(axis=0) @ vectors[end] / np.linalg.norm(vectors[end - 4 : end].mean(axis=0))
        for vectors in (sample.vectors_RD[sample.document_R == document] for document in np.unique(sample.document_R))
        for end in range(4, len(vectors))
    ]
    assert context_mean_cosine(sample, 4) == pytest.approx(np.mean(cosines), abs=1e-4)
    assert context_mean_cosine(sample, 10_000) is None


def with_near_duplicates(store: Store, split: str, share: float, *, noise: float = 0.02) -> Store:
    """Replace a share of a split's rows by rows of train plus noise."""
    vectors, random = np.array(store.vectors), np.random.default_rng(0)
    split_of = np.repeat(store.documents.splits, store.documents.rows)
    rows, train = np.flatnonzero(split_of == SPLITS.index(split)), np.flatnonzero(split_of == 0)
    chosen = random.choice(rows, round(share * len(rows)), replace=False)
    copies = vectors[random.choice(train, len(chosen))] + noise * random.standard_normal(
        (len(chosen), vectors.shape[1])
    )
    vectors[chosen] = copies / np.linalg.norm(copies, axis=1, keepdims=True)
    return replace(store, vectors=vectors)


@pytest.mark.parametrize("split", ["val", "ood"])
@pytest.mark.parametrize(("share", "status"), [(0.003, "green"), (0.05, "amber"), (0.3, "red")])
def test_near_duplicates_in_train_are_named_by_share(drawn: Store, split: str, share: float, status: str):
    report = check_store(with_near_duplicates(drawn, split, share), 5)
    assert faults(report).get("near duplicates in train", "green") == status
    near = report.statistics["splits"][split]["near_in_train"]
    assert near["queries"] == 500 and near["count"] / 500 == pytest.approx(share, abs=0.05)
    assert report.statistics["splits"][split]["in_train"] == 0
    if status != "green":
        assert f"for example {near['example']}" in text_of(report, "near duplicates in train")


def test_exact_duplicates_are_not_counted_as_near_duplicates(drawn: Store):
    report = check_store(with_near_duplicates(drawn, "val", 0.3, noise=0), 5)
    assert faults(report)["val in train"] == "red" and "near duplicates in train" not in faults(report)


def test_near_duplicates_within_a_split_are_named_but_not_within_a_document(drawn: Store):
    near = check_store(with_near_duplicates(drawn, "train", 0.4), 5)
    assert faults(near)["near duplicates"] == "amber"

    def alike(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
        rows = rows[:1] + 0.02 * random.standard_normal(rows.shape)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    assert not {"near duplicates", "near duplicates in train"} & set(faults(planted(drawn, alike, *SPLITS)))


def test_nearly_constant_vectors_hide_near_duplicates(drawn: Store):
    def constant(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
        rows = np.ones(rows.shape[1]) / np.sqrt(rows.shape[1]) + 0.2 * rows
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    report = planted(drawn, constant, *SPLITS)
    assert faults(report)["near duplicates"] == "amber" and "near duplicates in train" not in faults(report)
    assert "Vectors of different documents have a mean cosine of 0.9" in text_of(report, "near duplicates")


def test_coordinates_have_variance_1_in_train(drawn: Store):
    sample = draw_sample(drawn.vectors, drawn.documents, "train", 5_000)
    coordinates = make_coordinates(measure_moments(sample)).transform(sample)
    assert coordinates.shape[1] == 16 and np.allclose(np.cov(coordinates.T), np.eye(16), atol=0.01)


def test_a_val_split_with_another_distribution_is_named(drawn: Store):
    assert max(check_store(drawn, 5).statistics["train_distance"]["val"].values()) < 1.5
    shift = np.linalg.qr(np.random.default_rng(3).standard_normal((32, 32)))[0][0]

    def moved(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return (rows + 0.4 * shift) / np.linalg.norm(rows + 0.4 * shift, axis=1, keepdims=True)

    assert faults(planted(drawn, moved, "val"))["val vs train"] == "amber"
    assert "val vs train" not in faults(planted(drawn, moved, "ood"))
    narrow = planted(drawn, lambda rows, _: rows * np.linspace(0.2, 1.5, 32), "val").statistics["train_distance"]["val"]
    assert narrow["covariance"] > 2


def test_easier_and_foreign_ood_sets_are_named_differently(drawn: Store, tmp_path: Path):
    easier = synthesize(tmp_path / "easier", replace(SPEC, ood_coherence=(0.73,)), quiet=True)
    report = check_store(drawn, 5, ood=easier)
    assert faults(report) == {"ood vs val": "amber"}
    text = text_of(report, "ood vs val")
    assert (
        "ood is easier" in text
        and "the context mean scores 0.80 (val 0.5" in text
        and "its distance from train is" in text
    )
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((32, 32)))[0]
    foreign = planted(drawn, lambda rows, _: rows @ turn, "ood")
    assert "in another embedding space than train, so its scores are meaningless" in text_of(foreign, "ood space")
    assert foreign.worst.name == "ood space" and "ood vs val" not in {result.name for result in foreign.findings}
    assert max(foreign.statistics["train_distance"]["ood"].values()) > 3


def test_another_store_is_compared_with_the_training_store(drawn: Store):
    assert [str(finding.status) for finding in compare_with_train(drawn, {"val": drawn, "ood": drawn})] == ["green"] * 2
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((32, 32)))[0]
    rotated = replace(drawn, vectors=(np.asarray(drawn.vectors) @ turn).astype(np.float16))
    val, ood = compare_with_train(drawn, {"val": rotated, "ood": rotated})
    # With 32 dimensions, chance may leave a third of them in place.
    assert (val.name, ood.name, ood.status) == ("val space", "ood space", "red") and val.status != "green"
    assert compare_with_train(drawn, {}) == ()


def test_an_available_encoder_is_compared_by_its_fingerprint(drawn: Store, monkeypatch: pytest.MonkeyPatch):
    probes = np.random.default_rng(0).standard_normal((len(PROBE_TEXTS), 32)).astype(np.float16)
    own = Space("gtr", "1", 32, probes=probes)
    store = replace(drawn, space=own)

    def status_and_text(encoder: Space) -> tuple[str, str]:
        report = check_store(store, 5, encoder=encoder)
        (result,) = (result for result in report.findings if result.name == "encoder fingerprint")
        return result.status, result.text

    assert status_and_text(replace(own, revision="2"))[0] == "green", "only the vectors matter"
    status, text = status_and_text(replace(own, probes=probes[:, ::-1]))
    assert status == "red" and "Another encoder made the store" in text
    assert status_and_text(Space("minilm", "1", 384, probes=np.ones((8, 384), np.float16)))[0] == "red"
    status, text = status_and_text(Space("gtr", "1", 32))
    assert status == "amber" and "has no fingerprint, so they cannot be compared" in text
    assert "encoder fingerprint" not in {result.name for result in check_store(store, 5).findings}

    class Encoder:
        space = own

    monkeypatch.setattr("nextvec.data.dataset.open_encoder", lambda name: Encoder())
    report = Dataset(store, drawn).check(5, None, "gtr-t5-base")
    statuses = [result.status for result in report.findings if result.name == "encoder fingerprint"]
    assert statuses == ["green", "amber"]


def test_an_unavailable_encoder_is_an_error(drawn: Store):
    with pytest.raises(InputError, match="encoder 'nothing' is unknown"):
        Dataset(drawn).check(5, None, "nothing")
    with pytest.raises(StoreError, match="has no lsa encoder"):
        Dataset(drawn).check(5, None, "lsa")
