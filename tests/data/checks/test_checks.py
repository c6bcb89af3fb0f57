"""The data check names each planted fault and its location, and stays green on sound data."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from nextvec.data.checks import CheckReport, check_statistics, check_store, duplicates
from nextvec.data.checks.findings import Finding
from nextvec.data.checks.sampling import sample_documents
from nextvec.data.space import Space
from nextvec.data.splits import MIN_GROUPS, SPLITS
from nextvec.data.store import DocumentTable, Store, open_store
from nextvec.data.store.writer import finish_store, write_documents

CORPUS = Path(__file__).resolve().parents[3] / "../shared/corpora"
PLAN = ["train"] * 60 + ["val"] * 30 + ["ood"] * 30


def make_vectors(rows, *, dimensions=24, similarity=0.5, seed=0, center=0.0):
    """(N, D) vectors in documents: the mean cosine of two rows of a document is about `similarity`."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((int(np.sum(rows)), dimensions)) / np.sqrt(dimensions)
    shared = np.repeat(rng.standard_normal((len(rows), dimensions)), rows, axis=0) / np.sqrt(dimensions)
    vectors = np.sqrt(similarity) * shared + np.sqrt(1 - similarity) * noise + center
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def make_store(tmp_path):
    """Return a function that makes a store from vectors, document lengths, splits and groups."""

    def make(vectors, rows, splits, *, groups=None, dtype=np.float16) -> Store:
        rows = np.array(rows, dtype=np.int64)
        names = [f"document-{number}" for number in range(len(rows))]
        documents = DocumentTable(
            names, names, ["made"] * len(rows), np.array([SPLITS.index(split) for split in splits], np.int8),
            np.cumsum(rows) - rows, rows, np.arange(len(rows)) if groups is None else np.array(groups, np.int64),
        )  # fmt: skip
        number = len(list(tmp_path.iterdir()))
        folder = tmp_path / f"making-{number}"
        folder.mkdir()
        np.save(folder / "vectors.npy", vectors.astype(dtype))
        write_documents(folder, documents)
        return finish_store(folder, tmp_path / f"store-{number}", Space("made", "1", vectors.shape[1]), {})

    return make


@pytest.fixture
def sound():
    """Return vectors and lengths of 120 sound documents of 8 to 12 chunks; PLAN has their splits."""
    rows = [8 + number % 5 for number in range(len(PLAN))]
    return make_vectors(rows), rows


def finding(report: CheckReport, name: str) -> Finding:
    (result,) = (result for result in report.findings if result.name == name)
    return result


def only_fault(report: CheckReport, status: str | None = None) -> Finding:
    """Return the one finding that is not green, or the one with `status`."""
    faults = [result for result in report.findings if result.status != "green"]
    (fault,) = (fault for fault in faults if status in (None, fault.status))
    assert report.worst == fault
    return fault


def test_sound_data_is_green_in_both_formats(make_store, sound):
    for dtype in (np.float16, np.float32):
        report = check_store(make_store(*sound, PLAN, dtype=dtype), 5)
        assert report.status == "green", report.worst
    val = report.statistics["splits"]["val"]
    assert (val["documents"], val["groups"], val["short"], val["duplicates"], val["in_train"]) == (30, 30, 0, 0, 0)
    assert val["rows"] == sum(sound[1][60:90]) and val["windows"] == val["rows"] - 30 * 5
    assert report.statistics["norm"] == pytest.approx([1, 1], abs=1e-3)


def test_a_report_is_plain_and_reproducible(make_store, sound):
    store = make_store(*sound, PLAN)
    report = check_store(store, 5)
    assert check_store(open_store(store.path), 5) == report
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False)) == report.to_dict()
    assert report.to_dict()["status"] == report.status
    for result in report.findings:
        assert result.message.endswith(".") and "\n" not in result.text, result


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "finite values",
            np.nan,
            "Vectors that are NaN or infinite: 3 of 1,200. The first is row 17 (document 'document-2').",
        ),
        (
            "finite values",
            np.inf,
            "Vectors that are NaN or infinite: 3 of 1,200. The first is row 17 (document 'document-2').",
        ),
        ("zero vectors", 0.0, "Vectors that are zero: 3 of 1,200. The first is row 17 (document 'document-2')."),
        ("unit length", 2.0, "Vectors that are not of unit length: 3 of 1,200 (lengths 1 to "),
    ],
)
def test_bad_vectors_are_red_and_located(make_store, sound, name, value, message):
    vectors, rows = sound
    vectors[[17, 18, 700]] = value
    if value == 2.0:
        vectors[[17, 18, 700]] += np.random.default_rng(0).standard_normal((3, 24))
    fault = only_fault(check_store(make_store(vectors, rows, PLAN), 5), "red")
    assert fault.name == name and fault.message.startswith(message)
    assert fault.remedy.endswith("and build the store again.")
    assert fault.measured["count"] == 3


def test_lengths_may_deviate_by_float16_rounding_but_not_by_a_percent(make_store, sound):
    vectors, rows = sound
    assert finding(check_store(make_store(vectors, rows, PLAN), 5), "unit length").status == "green"
    assert only_fault(check_store(make_store(vectors * 0.99, rows, PLAN), 5)).name == "unit length"


@pytest.mark.parametrize(("leaked", "status"), [(1, "amber"), (20, "red")])
@pytest.mark.parametrize(("split", "start"), [("val", 600), ("ood", 900)])
def test_rows_of_train_in_val_or_ood_are_a_leak(make_store, sound, leaked, status, split, start):
    vectors, rows = sound
    vectors[start + 50 : start + 50 + leaked] = vectors[100 : 100 + leaked]
    fault = only_fault(check_store(make_store(vectors, rows, PLAN), 5))
    assert (fault.name, fault.status) == (f"{split} in train", status)
    assert f"Rows of {split} that are also in train: {leaked} of 300 ({leaked / 3:.1f}%)" in fault.message
    document = np.searchsorted(np.cumsum(rows), start + 50, side="right")
    assert f"row {start + 50} (document 'document-{document}') and row 100 (document 'document-10')" in fault.text


def test_duplicates_within_a_split(make_store, sound):
    vectors, rows = sound
    vectors[1] = vectors[0]
    report = check_store(make_store(vectors, rows, PLAN), 5)
    assert report.status == "green" and "train 1 of 600" in finding(report, "exact duplicates").text
    vectors[:8] = vectors[0]
    fault = only_fault(check_store(make_store(vectors, rows, PLAN), 5))
    assert (fault.name, fault.status) == ("exact duplicates", "amber") and "train 7 of 600" in fault.text


def test_a_group_in_two_splits_is_red(make_store, sound):
    groups = np.arange(120)
    groups[[3, 70, 71]] = 500
    groups[[5, 6]] = 600  # in one split, as they should be
    fault = only_fault(check_store(make_store(*sound, PLAN, groups=groups), 5), "red")
    assert fault.name == "groups"
    assert (
        "Groups of documents divided between splits: 1, for example 'document-3' in train and 'document-70' in val."
        in fault.text
    )


@pytest.mark.parametrize("missing", ["train", "val"])
def test_no_windows_in_train_or_val_is_red(make_store, sound, missing):
    other = {"train": "val", "val": "train"}[missing]
    plan = [other if split == missing else split for split in PLAN]
    fault = only_fault(check_store(make_store(*sound, plan), 5), "red")
    assert fault.text == f"{missing} has no documents. Add documents to {missing}."


def test_short_documents_are_counted_and_are_not_a_fault(make_store, sound):
    vectors, rows = sound
    report = check_store(make_store(vectors, rows, PLAN), 8)
    short = sum(count <= 8 for count in rows[:60])
    assert finding(report, "train windows").message.endswith(f"in {60 - short} documents ({short} more are too short).")
    assert finding(report, "train windows").status == "green" and finding(report, "val windows").status == "green"
    assert report.statistics["splits"]["train"]["groups"] == 60 - short, "groups without windows don't count"
    too_long = check_store(make_store(vectors, rows, PLAN), 12)
    assert finding(too_long, "val windows").status == "red"
    assert "none of its 30 documents has 13 chunks" in finding(too_long, "val windows").text
    assert finding(too_long, "ood windows").status == "amber"
    assert check_store(make_store(vectors, rows, PLAN), 12, 3).status == "green", "shorter contexts are allowed there"


def test_few_independent_documents_are_amber(make_store, sound):
    groups = np.arange(120)
    groups[60:90] = 60 + np.arange(30) % (MIN_GROUPS - 1)
    fault = only_fault(check_store(make_store(*sound, PLAN, groups=groups), 5))
    assert (fault.name, fault.status) == ("val windows", "amber") and "20 independent groups of documents" in fault.text
    groups[60:90] = 60 + np.arange(30) % MIN_GROUPS
    assert check_store(make_store(*sound, PLAN, groups=groups), 5).status == "green"


def test_a_store_without_ood_is_green_and_says_what_its_scores_cover(make_store, sound):
    plan = ["val" if split == "ood" else split for split in PLAN]
    report = check_store(make_store(*sound, plan), 5)
    assert (
        report.status == "green"
        and "scores hold only for the sources of the training set" in finding(report, "ood windows").text
    )


def test_nearly_constant_vectors_are_amber(make_store, sound):
    rows = sound[1]
    fault = only_fault(check_store(make_store(make_vectors(rows, similarity=0.995), rows, PLAN), 5))
    assert (fault.name, fault.status) == ("coherence", "amber") and "nearly constant" in fault.text


@pytest.mark.parametrize(("similarity", "word"), [(0.75, "easier"), (0.25, "harder"), (0.52, "about as hard as")])
def test_ood_that_is_easier_or_harder_than_val_is_amber(make_store, sound, similarity, word):
    vectors, rows = sound
    vectors[900:] = make_vectors(rows[90:], similarity=similarity, seed=1)
    result = finding(check_store(make_store(vectors, rows, PLAN), 5), "ood vs val")
    assert word in result.text
    assert result.status == ("green" if similarity == 0.52 else "amber")


@pytest.mark.parametrize(
    ("center", "name", "status", "text"),
    [
        (0.15 * np.resize([1, -1], 24), "mean direction", "amber", "unrelated embedding spaces"),
        (np.full(24, -0.15), "ood space", "amber", "times as far from train's mean as a chunk of train"),
    ],
    ids=["other", "opposite"],
)
def test_another_mean_direction_may_be_another_space(make_store, sound, center, name, status, text):
    """Vectors of real encoders share a mean direction; these dimensions have nothing else that distinguishes them."""
    rows = sound[1]
    vectors = make_vectors(rows, center=np.full(24, 0.15))
    report = check_store(make_store(vectors, rows, PLAN), 5)
    assert report.status == "green"
    assert "have no correlations that distinguish them" in finding(report, "ood space").text
    vectors[900:] = make_vectors(rows[90:], center=center, seed=1)
    fault = finding(check_store(make_store(vectors, rows, PLAN), 5), name)
    assert fault.status == status and text in fault.text


def test_coherence_is_the_mean_cosine_at_each_distance(make_store):
    rows = [12, 9, 2, 1]
    vectors = make_vectors(rows, similarity=0.3)
    report = check_store(make_store(vectors, rows, ["train"] * 4, dtype=np.float32), 5)
    ends = [0, *np.cumsum(rows)]
    for distance in range(1, 9):
        cosines = [
            float(vectors[row] @ vectors[row + distance])
            for first, end in pairwise(ends)
            for row in range(first, end - distance)
        ]
        measured = report.statistics["splits"]["train"]["coherence"][distance - 1]
        assert measured == pytest.approx(np.mean(cosines), abs=1e-4)
    mean_norm = np.linalg.norm(vectors.mean(axis=0))
    assert report.statistics["splits"]["train"]["mean_norm"] == pytest.approx(mean_norm, abs=1e-4)


def test_bad_rows_do_not_affect_the_coherence(make_store, sound):
    vectors, rows = sound
    before = check_store(make_store(vectors, rows, PLAN), 5).statistics["splits"]["train"]
    vectors[0:300:15], vectors[300:600:15], vectors[5] = np.nan, 0, np.inf
    report = check_store(make_store(vectors, rows, PLAN), 5)
    after = report.statistics["splits"]["train"]
    assert after["coherence"][0] == pytest.approx(before["coherence"][0], abs=0.02)
    assert after["mean_norm"] == pytest.approx(before["mean_norm"], abs=0.05)
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_sample_is_whole_documents_of_fixed_size(make_store, sound):
    vectors, rows = sound
    store = make_store(vectors, rows, PLAN)
    for size in (1, 57, 103, 599):
        chosen, document = sample_documents(store.documents, "train", size)
        assert len(chosen) == len(set(chosen.tolist())) == len(document) == size
    assert (store.documents.splits[document] == 0).all()
    first = store.documents.first_row[document]
    assert ((chosen >= first) & (chosen < first + store.documents.rows[document])).all()
    assert (np.diff(chosen)[document[1:] == document[:-1]] == 1).all(), "rows of a document are in order"
    whole, _ = sample_documents(store.documents, "train", 10_000)
    assert sorted(whole) == list(range(600))
    small = check_store(store, 5, sample=200).statistics["splits"]["train"]["coherence"][0]
    assert small == pytest.approx(check_store(store, 5).statistics["splits"]["train"]["coherence"][0], abs=0.1)


def test_the_block_size_does_not_change_a_report(make_store, sound, monkeypatch):
    vectors, rows = sound
    vectors[800] = vectors[3]
    store = make_store(vectors, rows, PLAN)
    whole = check_store(store, 5)
    monkeypatch.setattr(duplicates, "BLOCK_ROWS", 7)
    assert check_store(store, 5) == whole


def test_an_empty_store_is_red(make_store):
    report = check_store(make_store(np.empty((0, 8)), [], []), 5)
    assert report.status == "red" and report.worst.name == "train windows"


def test_rules_depend_on_the_statistics_alone(make_store, sound):
    report = check_store(make_store(*sound, PLAN), 5)
    assert check_statistics(json.loads(json.dumps(report.statistics))) == report.findings


@pytest.mark.parametrize(
    ("norms", "documents", "status"),
    [((0.5, 0.5), 30, "amber"), ((0.5, 0.05), 30, "green"), ((0.05, 0.5), 30, "green"), ((0.5, 0.5), 2, "green")],
)
def test_only_clear_mean_directions_distinguish_spaces(make_store, sound, norms, documents, status):
    """The direction of a short mean vector is random, and so is that of a mean over few documents."""
    statistics = check_store(make_store(*sound, PLAN), 5).statistics
    statistics["mean_direction_cosine"]["val-ood"] = -0.1
    for split, norm in zip(("val", "ood"), norms, strict=True):
        statistics["splits"][split].update(mean_norm=norm, documents=documents)
    (result,) = (result for result in check_statistics(statistics) if result.name == "mean direction")
    assert result.status == status


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the shared corpora are not beside this checkout")
def test_real_vectors_of_one_encoder_are_in_one_space(make_store):
    """Wikipedia and novels differ a lot, but one encoder made both."""
    parts = [np.load(CORPUS / f"{name}.minilm.f16.npy", mmap_mode="r")[:2000] for name in ("enwiki", "novels")]
    vectors = np.concatenate([parts[0], parts[1]]).astype(np.float32)
    plan = ["train"] * 50 + ["val"] * 50 + ["ood"] * 100
    report = check_store(make_store(vectors, [20] * 200, plan), 5)
    assert report.status in ("green", "amber")
    assert finding(report, "mean direction").status == "green"
