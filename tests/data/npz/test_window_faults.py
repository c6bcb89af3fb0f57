"""Files of windows with faults: each is named with its count, left out if it can be, and never imported as sound."""

import json
from pathlib import Path

import numpy as np
import pytest

from nextvec.data.checks import check_store
from nextvec.data.npz.convert import import_npz
from nextvec.data.npz.placement import Placement, place_targets
from nextvec.data.windows import index_windows
from nextvec.errors import StoreError

DOCUMENTS, LENGTH, CONTEXT = 60, 14, 5
WINDOWS = DOCUMENTS * (LENGTH - CONTEXT)


def make_documents(count=DOCUMENTS, seed=0, dimensions=32):
    """Return random walks: adjacent vectors are alike, documents are not."""
    walks = np.random.default_rng(seed).normal(size=(count, LENGTH, dimensions)).cumsum(axis=1)
    return (walks / np.linalg.norm(walks, axis=2, keepdims=True)).astype(np.float32)


def make_windows(documents, stride=1):
    places = [(vectors, target) for vectors in documents for target in range(CONTEXT, len(vectors), stride)]
    contexts = np.array([vectors[target - CONTEXT : target] for vectors, target in places])
    return contexts, np.array([vectors[target] for vectors, target in places])


@pytest.fixture(scope="module")
def documents():
    return make_documents()


@pytest.fixture(scope="module")
def windows(documents):
    return make_windows(documents)


@pytest.fixture
def save(tmp_path):
    """Save arrays as windows.npz and import them; returns the store."""

    def save_and_import(contexts, targets, split="train", name="store", options=None, **members):
        np.savez(tmp_path / "windows.npz", context_sequences=contexts, target_vectors=targets, **members)
        return import_npz({split: tmp_path / "windows.npz"}, tmp_path / name, quiet=True, **(options or {}))

    return save_and_import


def messages(store, status):
    return [finding["message"] for finding in store.manifest["findings"] if finding["status"] == status]


def reds(store):
    findings = check_store(store, CONTEXT).findings
    return [each.message for each in findings if each.status == "red" and not each.name.endswith(" windows")]


def shuffle_share(targets, share, seed=0):
    """Exchange a share of the targets among windows of other documents."""
    rng = np.random.default_rng(seed)
    selected = rng.permutation(len(targets))[: int(share * len(targets))]
    shuffled = targets.copy()
    shuffled[selected] = targets[np.roll(selected, 1)]
    return shuffled


# Windows that slide over the borders of documents


def slide(documents):
    """Return the windows over all documents at once, and the document of each target."""
    return *make_windows([np.concatenate(documents)]), np.arange(CONTEXT, DOCUMENTS * LENGTH) // LENGTH


@pytest.mark.parametrize("labels", ["file", "article_index", "article_ids", "metadata", "structure"])
def test_windows_across_borders_are_left_out_by_labels(tmp_path, save, documents, labels):
    contexts, targets, label_W = slide(documents)
    np.save(tmp_path / "labels.npy", label_W)
    members, options = {}, {}
    if labels == "file":
        options = {"documents": tmp_path / "labels.npy"}
    elif labels == "metadata":
        members = {"metadata": np.array(json.dumps({"article_index": label_W.tolist()}))}
    elif labels == "structure":
        members = {
            "metadata": np.array(list(zip(label_W, label_W, strict=True)), [("chunk", "i4"), ("article_index", "i4")])
        }
    else:
        members = {
            labels: label_W if labels == "article_index" else np.array([f"article {label}" for label in label_W])
        }
    store = save(contexts, targets, options=options, **members)
    assert len(store.documents) == DOCUMENTS and (store.documents.rows == LENGTH).all()
    assert np.array_equal(store.vectors, np.concatenate(documents))
    facts = store.manifest["window_files"]["train"]
    assert facts["crossing"] == store.manifest["counts"]["crossing_windows"] == len(targets) - WINDOWS
    assert "295 of 835 windows (35.3%) cross borders of documents by their labels" in " ".join(
        store.manifest["notices"]
    )


def test_windows_across_borders_are_left_out_if_windows_are_missing(save, documents):
    contexts, targets, label_W = slide(documents)
    kept = np.random.default_rng(0).random(len(targets)) < 0.8
    store = save(contexts[kept], targets[kept], article_index=label_W[kept])
    row_document = np.repeat(np.arange(len(store.documents)), store.documents.rows)
    rows = {vector.tobytes(): number // LENGTH for number, vector in enumerate(np.concatenate(documents))}
    for document in range(len(store.documents)):
        assert len({rows[vector.tobytes()] for vector in store.vectors[row_document == document]}) == 1


@pytest.mark.parametrize("shuffled", [False, True])
def test_borders_are_recognized_by_content_if_there_are_no_labels(save, documents, shuffled):
    contexts, targets, _ = slide(documents)
    order = np.random.default_rng(0).permutation(len(targets)) if shuffled else slice(None)
    store = save(contexts[order], targets[order])
    assert abs(len(store.documents) - DOCUMENTS) <= 2
    assert "cross borders of documents, which were recognized by their vectors" in messages(store, "amber")[0]


def test_labels_do_not_cut_documents_that_share_texts(save, documents):
    repeated = documents.copy()
    repeated[1::2] = repeated[::2]  # every document twice, with two labels
    contexts, targets = make_windows(repeated)
    order = np.random.default_rng(0).permutation(len(targets))
    labels = np.repeat(np.arange(DOCUMENTS), LENGTH - CONTEXT)
    store = save(contexts[order], targets[order], article_index=labels[order])
    assert store.manifest["counts"]["crossing_windows"] == 0 and len(store.documents) == DOCUMENTS


# Other causes of a single group


def test_each_cause_of_a_single_group_is_named(save, documents, windows):
    contexts, targets = windows
    repeated = documents.copy()
    repeated[:, 6] = repeated[0, 6]
    walk = make_documents(1, 3)[0]
    rng = np.random.default_rng(0)
    long_walk = rng.normal(size=(400, 32)).cumsum(axis=0)
    long_walk = (long_walk / np.linalg.norm(long_walk, axis=1, keepdims=True)).astype(np.float32)
    for number, ((case_contexts, case_targets), cause) in enumerate(
        [
            (
                (contexts, targets[rng.permutation(WINDOWS)]),
                r"targets \(9[89]%\) do not continue their contexts: .* shuffled",
            ),
            ((np.ones_like(contexts), np.ones_like(targets)), r"all its vectors are equal \(1 distinct\)"),
            (make_windows(repeated), r"1 repeated vector links 10 or more documents, in 67% of the windows"),
            (make_windows([long_walk]), r"395 windows form one sequence: a single document"),
            ((walk[None, :5], walk[5:6]), r"it has one window"),
        ]
    ):
        with pytest.raises(StoreError, match=cause) as caught:
            save(case_contexts, case_targets, name=str(number))
        assert "\n" not in str(caught.value)


# Padding


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("at_end", [False, True])
def test_padded_contexts_are_stored_without_their_padding(save, documents, first, at_end):
    contexts, targets = [], []
    for vectors in documents:
        for target in range(first, LENGTH):
            context = vectors[max(0, target - CONTEXT) : target]
            zeros = np.zeros((CONTEXT - len(context), 32), np.float32)
            contexts.append(np.concatenate([context, zeros] if at_end else [zeros, context]))
            targets.append(vectors[target])
    store = save(np.array(contexts), np.array(targets))
    assert np.array_equal(store.vectors, np.concatenate(documents))
    assert store.manifest["counts"]["padded_windows"] == DOCUMENTS * (CONTEXT - first)
    assert store.manifest["counts"]["groups"] == DOCUMENTS
    assert len(index_windows(store.documents, None, CONTEXT, 1)) == DOCUMENTS * (LENGTH - 1)
    assert "padded with zeros" in store.manifest["notices"][0]


def test_a_zero_vector_that_is_not_padding_is_refused(save, windows):
    contexts, targets = windows[0].copy(), windows[1]
    contexts[[3, 9], 2] = 0
    with pytest.raises(StoreError, match=r"of window 3 has a zero vector that is not padding \(2 of 540 windows"):
        save(contexts, targets)


# Near-equal vectors


@pytest.mark.parametrize("noise", [1e-6, 1e-4, 1e-3])
def test_vectors_that_were_encoded_twice_are_linked(save, windows, noise):
    rng = np.random.default_rng(0)
    contexts, targets = ((each + rng.normal(size=each.shape) * noise).astype(np.float32) for each in windows)
    store = save(contexts, targets)
    assert len(store.documents) == DOCUMENTS == store.manifest["counts"]["groups"]
    assert "count as equal, which links 540 of 540 windows" in " ".join(store.manifest["notices"])


def test_contexts_in_half_precision_link_to_targets_in_single_precision(save, windows):
    assert len(save(windows[0].astype(np.float16), windows[1]).documents) == DOCUMENTS


def test_noise_as_large_as_the_differences_of_texts_links_nothing(save, windows):
    rng = np.random.default_rng(0)
    contexts, targets = ((each + rng.normal(size=each.shape) * 0.05).astype(np.float32) for each in windows)
    store = save(contexts, targets)
    assert "540 of 540 windows share no vector with another" in messages(store, "amber")[0]
    finding = next(each for each in check_store(store, CONTEXT).findings if each.name == "linked windows")
    assert finding.status == "amber" and "--documents" in finding.remedy


# Targets at the wrong place


def test_targets_are_placed():
    walk = np.arange(100, dtype=np.int32)
    contexts = np.array([walk[start : start + 5] for start in range(90)])
    for place, targets in {
        Placement.NEXT: contexts[:, -1] + 1,
        Placement.IN_CONTEXT: contexts[:, 2],
        Placement.BEFORE: contexts[:, 0] - 1,
        Placement.SKIPPED: contexts[:, -1] + 3,
        Placement.FOREIGN: contexts[::-1, -1] + 40,
    }.items():
        placement = place_targets(np.column_stack([contexts, targets]).astype(np.int32))
        assert (placement[5:80] == place).mean() > 0.9, place
        wrong = ~np.isin(placement, [place, Placement.UNKNOWN, Placement.SKIPPED])
        assert place == Placement.FOREIGN or not wrong.any(), place


@pytest.mark.parametrize("split", ["train", "ood"])
@pytest.mark.parametrize("stride", [1, 2])
def test_targets_in_their_contexts_and_reversed_contexts_are_red(save, documents, split, stride):
    contexts, targets = make_windows(documents, stride)
    rng = np.random.default_rng(0)
    near = (contexts[:, 1] + 1e-4 * rng.normal(size=targets.shape)).astype(np.float32)
    for name, case_contexts, case_targets, message in (
        (
            "off_by_one",
            np.concatenate([contexts[:, 1:], targets[:, None]], axis=1),
            targets,
            "that repeat a vector of their",
        ),
        ("copy_last", contexts, contexts[:, -1], "that repeat a vector of their own contexts"),
        ("near", contexts, near, "that repeat a vector of their own contexts"),
        ("newest_first", contexts[:, ::-1].copy(), targets, "contexts are newest first"),
    ):
        found = reds(save(case_contexts, case_targets, split, name))
        assert any(message in each for each in found), (name, found)


def test_targets_that_skip_chunks_are_red(save, documents):
    contexts = np.concatenate([make_windows([vectors])[0][:-1] for vectors in documents])
    targets = np.concatenate([make_windows([vectors])[1][1:] for vectors in documents])
    assert "a few chunks after their contexts" in reds(save(contexts, targets, "ood"))[0]


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_a_share_of_foreign_targets_is_red(save, windows, share):
    store = save(windows[0], shuffle_share(windows[1], share), "ood")
    assert any("do not continue their contexts" in each for each in reds(store))


def test_windows_without_overlap_are_checked_by_their_cosines(save):
    contexts, targets = make_windows(make_documents(300), stride=6)
    sound = save(contexts, targets, "ood", "sound")
    assert not reds(sound) and "share no vector with another" in messages(sound, "amber")[0]
    assert any("newest first" in each for each in reds(save(contexts[:, ::-1].copy(), targets, "ood", "reversed")))
    assert any(
        "of other documents" in each for each in reds(save(contexts, shuffle_share(targets, 0.3), "ood", "mixed"))
    )


def test_sound_windows_have_no_findings(save, documents, windows):
    order = np.random.default_rng(0).permutation(WINDOWS)
    strided = make_windows(documents, 2)
    for name, contexts, targets in (
        ("ordered", *windows),
        ("any_order", windows[0][order], windows[1][order]),
        ("stride", *strided),
        ("repeated", np.concatenate([windows[0]] * 2), np.concatenate([windows[1]] * 2)),
    ):
        store = save(contexts, targets, name=name)
        assert store.manifest["counts"]["groups"] == DOCUMENTS and not store.manifest["findings"], name
        assert not reds(store), name


def test_labels_of_windows_without_overlap_keep_documents_in_one_split(save, documents):
    contexts, targets = make_windows(documents, stride=6)
    labels = np.repeat([f"d{number}" for number in range(DOCUMENTS)], 2)
    store = save(contexts, targets, article_ids=labels)
    assert store.manifest["counts"]["groups"] == DOCUMENTS and not store.manifest["findings"]
    assert Path(store.path).is_dir()
