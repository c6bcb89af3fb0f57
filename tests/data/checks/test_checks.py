"""The preflight names each planted fault with its place, and stays green on sound data."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from nextvec.data.checks import CheckReport, check_statistics, check_store, duplicates
from nextvec.data.checks.rules_integrity import FEW_GROUPS, Finding
from nextvec.data.checks.sampling import sample_documents
from nextvec.data.space import Space
from nextvec.data.splits import SPLITS
from nextvec.data.store import DocumentTable, Store, open_store
from nextvec.data.store.writer import finish_store, write_documents

CORPUS = Path(__file__).resolve().parents[3] / "../shared/corpora"
PLAN = ["train"] * 60 + ["val"] * 30 + ["ood"] * 30


def make_vectors(rows, *, dimensions=24, similarity=0.5, seed=0, centre=0.0):
    """(N, D) vectors in documents: the mean cosine of two rows of a document is about `similarity`."""
    rng = np.random.default_rng(seed)
    own = rng.standard_normal((int(np.sum(rows)), dimensions)) / np.sqrt(dimensions)
    shared = np.repeat(rng.standard_normal((len(rows), dimensions)), rows, axis=0) / np.sqrt(dimensions)
    vectors = np.sqrt(similarity) * shared + np.sqrt(1 - similarity) * own + centre
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def make_store(tmp_path):
    """A maker of real stores from vectors, document lengths, splits and groups."""

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
    """Vectors and lengths of 120 sound documents of 8 to 12 chunks; PLAN is their splits."""
    rows = [8 + number % 5 for number in range(len(PLAN))]
    return make_vectors(rows), rows


def finding(report: CheckReport, name: str) -> Finding:
    (found,) = (found for found in report.findings if found.name == name)
    return found


def only(report: CheckReport) -> Finding:
    """The one finding that is not green."""
    (found,) = (found for found in report.findings if found.status != "green")
    return found


def test_sound_data_is_green_in_both_formats(make_store, sound):
    for dtype in (np.float16, np.float32):
        report = check_store(make_store(*sound, PLAN, dtype=dtype), 5)
        assert report.status == "green", report.worst
    val = report.figures["splits"]["val"]
    assert (val["documents"], val["groups"], val["short"], val["repeats"], val["in_train"]) == (30, 30, 0, 0, 0)
    assert val["rows"] == sum(sound[1][60:90]) and val["windows"] == val["rows"] - 30 * 5
    assert report.figures["norm"] == pytest.approx([1, 1], abs=1e-3)


def test_report_is_plain_and_repeatable(make_store, sound):
    store = make_store(*sound, PLAN)
    one, again = check_store(store, 5), check_store(open_store(store.path), 5)
    assert one == again
    assert json.loads(json.dumps(one.to_dict(), allow_nan=False)) == one.to_dict()
    assert one.to_dict()["status"] == one.status and all("\n" not in found.text for found in one.findings)


@pytest.mark.parametrize(
    ("name", "fault", "words"),
    [
        ("numbers", np.nan, "3 of 1,200 vectors are NaN or infinite, the first is row 17 (document 'document-2')"),
        ("numbers", np.inf, "3 of 1,200 vectors are NaN or infinite, the first is row 17 (document 'document-2')"),
        ("zero vectors", 0.0, "3 of 1,200 vectors are zero, the first is row 17 (document 'document-2')"),
        ("length", 2.0, "3 of 1,200 vectors are not of length 1 (from 1 to"),
    ],
)
def test_bad_vectors_are_red_with_their_place(make_store, sound, name, fault, words):
    vectors, rows = sound
    vectors[[17, 18, 700]] = fault
    if fault == 2.0:
        vectors[[17, 18, 700]] += np.random.default_rng(0).standard_normal((3, 24))
    found = only_red(check_store(make_store(vectors, rows, PLAN), 5))
    assert found.name == name and words in found.text and found.text.endswith("and build the store again")


def only_red(report: CheckReport) -> Finding:
    (found,) = (found for found in report.findings if found.status == "red")
    assert report.status == "red" and report.worst == found
    return found


def test_rounding_to_float16_is_no_fault_but_a_percent_is(make_store, sound):
    vectors, rows = sound
    assert finding(check_store(make_store(vectors, rows, PLAN), 5), "length").status == "green"
    assert only(check_store(make_store(vectors * 0.99, rows, PLAN), 5)).name == "length"


@pytest.mark.parametrize(("leaked", "status"), [(1, "amber"), (20, "red")])
@pytest.mark.parametrize(("split", "start"), [("val", 600), ("ood", 900)])
def test_rows_of_train_in_other_splits(make_store, sound, leaked, status, split, start):
    vectors, rows = sound
    vectors[start + 50 : start + 50 + leaked] = vectors[100 : 100 + leaked]
    found = only(check_store(make_store(vectors, rows, PLAN), 5))
    assert (found.name, found.status) == (f"{split} in train", status)
    assert (
        f"{leaked} of 300 rows of {split} ({leaked / 3:.1f}%) {'is' if leaked == 1 else 'are'} in train" in found.text
    )
    document = np.searchsorted(np.cumsum(rows), start + 50, side="right")
    assert f"row {start + 50} (document 'document-{document}') and row 100 (document 'document-10')" in found.text


def test_repeats_within_a_split(make_store, sound):
    vectors, rows = sound
    vectors[1] = vectors[0]
    report = check_store(make_store(vectors, rows, PLAN), 5)
    assert report.status == "green" and "train 1 of 600" in finding(report, "repeats").text
    vectors[:8] = vectors[0]
    found = only(check_store(make_store(vectors, rows, PLAN), 5))
    assert (found.name, found.status) == ("repeats", "amber") and "train 7 of 600" in found.text


def test_a_group_in_two_splits_is_red(make_store, sound):
    groups = np.arange(120)
    groups[[3, 70, 71]] = 500
    groups[[5, 6]] = 600  # one group in one split is as it should be
    found = only_red(check_store(make_store(*sound, PLAN, groups=groups), 5))
    assert found.name == "groups"
    assert "1 group of documents is in two splits, such as 'document-3' in train and 'document-70' in val" in found.text


@pytest.mark.parametrize("missing", ["train", "val"])
def test_no_windows_in_train_or_val_is_red(make_store, sound, missing):
    other = {"train": "val", "val": "train"}[missing]
    plan = [other if split == missing else split for split in PLAN]
    found = only_red(check_store(make_store(*sound, plan), 5))
    assert found.text.startswith(f"{missing} has no windows, it has no documents; add documents to {missing}")


def test_documents_too_short_are_counted_not_a_fault(make_store, sound):
    vectors, rows = sound
    report = check_store(make_store(vectors, rows, PLAN), 8)
    short = sum(count <= 8 for count in rows[:60])
    assert finding(report, "train windows").text.endswith(f"from {60 - short} documents, {short} more are too short")
    assert finding(report, "train windows").status == "green" and finding(report, "val windows").status == "green"
    assert report.figures["splits"]["train"]["groups"] == 60 - short, "groups without windows don't count"
    too_long = check_store(make_store(vectors, rows, PLAN), 12)
    assert finding(too_long, "val windows").status == "red"
    assert "none of its 30 documents has 13 chunks" in finding(too_long, "val windows").text
    assert finding(too_long, "ood windows").status == "amber"
    assert check_store(make_store(vectors, rows, PLAN), 12, 3).status == "green", "shorter contexts are allowed there"


def test_few_independent_documents_are_amber(make_store, sound):
    groups = np.arange(120)
    groups[60:90] = 60 + np.arange(30) % (FEW_GROUPS - 1)
    found = only(check_store(make_store(*sound, PLAN, groups=groups), 5))
    assert (found.name, found.status) == ("val windows", "amber") and "20 independent documents" in found.text
    groups[60:90] = 60 + np.arange(30) % FEW_GROUPS
    assert check_store(make_store(*sound, PLAN, groups=groups), 5).status == "green"


def test_without_ood_it_says_so(make_store, sound):
    plan = ["val" if split == "ood" else split for split in PLAN]
    report = check_store(make_store(*sound, plan), 5)
    assert report.status == "green" and "no ood split" in finding(report, "ood windows").text


def test_nearly_constant_vectors_are_amber(make_store, sound):
    rows = sound[1]
    found = only(check_store(make_store(make_vectors(rows, similarity=0.995), rows, PLAN), 5))
    assert (found.name, found.status) == ("coherence", "amber") and "nearly constant" in found.text


@pytest.mark.parametrize(("similarity", "word"), [(0.75, "easier"), (0.25, "harder"), (0.52, "about equally hard")])
def test_ood_of_another_coherence(make_store, sound, similarity, word):
    vectors, rows = sound
    vectors[900:] = make_vectors(rows[90:], similarity=similarity, seed=1)
    found = finding(check_store(make_store(vectors, rows, PLAN), 5), "ood against val")
    assert word in found.text
    assert found.status == ("green" if similarity == 0.52 else "amber")


def test_an_ood_set_of_another_mean_direction_looks_like_another_space(make_store, sound):
    """Vectors of real encoders share a mean direction; those of another encoder point elsewhere."""
    rows = sound[1]
    vectors = make_vectors(rows, centre=np.full(24, 0.15))
    assert check_store(make_store(vectors, rows, PLAN), 5).status == "green"
    vectors[900:] = make_vectors(rows[90:], centre=0.15 * np.resize([1, -1], 24), seed=1)
    found = only(check_store(make_store(vectors, rows, PLAN), 5))
    assert (found.name, found.status) == ("ood space", "red") and "another embedding space" in found.text
    vectors[900:] = -make_vectors(rows[90:], centre=np.full(24, 0.15), seed=1)
    found = only(check_store(make_store(vectors, rows, PLAN), 5))
    assert (found.name, found.status) == ("mean direction", "amber") and "unrelated spaces" in found.text


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
        found = report.figures["splits"]["train"]["coherence"][distance - 1]
        assert found == pytest.approx(np.mean(cosines), abs=1e-4)
    mean_norm = np.linalg.norm(vectors.mean(axis=0))
    assert report.figures["splits"]["train"]["mean_norm"] == pytest.approx(mean_norm, abs=1e-4)


def test_bad_rows_do_not_spoil_the_coherence(make_store, sound):
    vectors, rows = sound
    before = check_store(make_store(vectors, rows, PLAN), 5).figures["splits"]["train"]
    vectors[0:300:15], vectors[300:600:15], vectors[5] = np.nan, 0, np.inf
    report = check_store(make_store(vectors, rows, PLAN), 5)
    after = report.figures["splits"]["train"]
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
    assert (np.diff(chosen)[document[1:] == document[:-1]] == 1).all(), "rows of a document stand in their order"
    whole, _ = sample_documents(store.documents, "train", 10_000)
    assert sorted(whole) == list(range(600))
    small = check_store(store, 5, sample=200).figures["splits"]["train"]["coherence"][0]
    assert small == pytest.approx(check_store(store, 5).figures["splits"]["train"]["coherence"][0], abs=0.1)


def test_blocks_do_not_matter(make_store, sound, monkeypatch):
    vectors, rows = sound
    vectors[800] = vectors[3]
    store = make_store(vectors, rows, PLAN)
    whole = check_store(store, 5)
    monkeypatch.setattr(duplicates, "_BLOCK", 7)
    assert check_store(store, 5) == whole


def test_an_empty_store_is_red_and_no_crash(make_store):
    report = check_store(make_store(np.empty((0, 8)), [], []), 5)
    assert report.status == "red" and report.worst.name == "train windows"


def test_rules_need_figures_only(make_store, sound):
    report = check_store(make_store(*sound, PLAN), 5)
    assert check_statistics(json.loads(json.dumps(report.figures))) == report.findings


@pytest.mark.parametrize(
    ("norms", "documents", "status"),
    [((0.5, 0.5), 30, "amber"), ((0.5, 0.05), 30, "green"), ((0.05, 0.5), 30, "green"), ((0.5, 0.5), 2, "green")],
)
def test_mean_directions_must_be_clear_to_tell_spaces_apart(make_store, sound, norms, documents, status):
    """A short mean vector points anywhere, and so does that of a few documents."""
    figures = check_store(make_store(*sound, PLAN), 5).figures
    figures["mean_direction_cosine"]["val-ood"] = -0.1
    for split, norm in zip(("val", "ood"), norms, strict=True):
        figures["splits"][split].update(mean_norm=norm, documents=documents)
    (found,) = (found for found in check_statistics(figures) if found.name == "mean direction")
    assert found.status == status


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the shared corpora are not beside this checkout")
def test_real_vectors_of_one_encoder_are_not_taken_for_two(make_store):
    """Wikipedia against novels: far apart, and yet one space."""
    parts = [np.load(CORPUS / f"{name}.minilm.f16.npy", mmap_mode="r")[:2000] for name in ("enwiki", "novels")]
    vectors = np.concatenate([parts[0], parts[1]]).astype(np.float32)
    plan = ["train"] * 50 + ["val"] * 50 + ["ood"] * 100
    report = check_store(make_store(vectors, [20] * 200, plan), 5)
    assert report.status in ("green", "amber")
    assert finding(report, "mean direction").status == "green"
