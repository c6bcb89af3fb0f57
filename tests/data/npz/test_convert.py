"""Import and export of npz: no window is lost or added, equal vectors are in one split, errors are one line."""

import io
import pickle
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.data.npz import convert, export
from nextvec.data.npz import format as npz_format
from nextvec.data.npz.convert import import_npz
from nextvec.data.npz.export import export_npz
from nextvec.data.npz.format import ARTICLES, CONTEXTS, SPACE, TARGETS
from nextvec.data.npz.relink import digest_rows, group_chains, link_windows, number_vectors
from nextvec.data.splits import SPLITS
from nextvec.data.store import open_store
from nextvec.data.windows import index_windows
from nextvec.errors import OutputError, StoreError


def unit(random, *shape, dtype=np.float32):
    vectors = random.standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(dtype)


def make_windows(documents, context):
    """Return contexts (W, S, D), targets (W, D) and documents (W,) of all windows of documents (L, D), in order."""
    contexts, targets, articles = [], [], []
    for number, vectors in enumerate(documents):
        for target in range(context, len(vectors)):
            contexts.append(vectors[target - context : target])
            targets.append(vectors[target])
            articles.append(number)
    return np.array(contexts), np.array(targets), np.array(articles)


def make_documents(count=30, dimensions=8, seed=0, dtype=np.float32):
    random = np.random.default_rng(seed)
    return [unit(random, int(length), dimensions, dtype=dtype) for length in random.integers(6, 30, count)]


def save(path, contexts, targets, *, compressed=False, **members):
    (np.savez_compressed if compressed else np.savez)(path, **{CONTEXTS: contexts, TARGETS: targets}, **members)
    return path


def multiset(contexts, targets):
    """Count each window by its bytes."""
    joined = np.concatenate([contexts, targets[:, None]], axis=1)
    return Counter(row.tobytes() for row in joined)


def stored_windows(store, split=None, context=5):
    targets = index_windows(store.documents, split, context).targets.numpy()
    gathered = np.asarray(store.vectors)[targets[:, None] + np.arange(-context, 1)]
    return gathered[:, :-1], gathered[:, -1]


# Linking, against brute force


@st.composite
def vector_numbers(draw):
    """Draw windows over few vectors, so that repeats, rings and ambiguous successors are common; and labels."""
    context, windows = draw(st.integers(1, 3)), draw(st.integers(1, 14))
    vectors = draw(st.integers(1, 5))
    row = st.lists(st.integers(0, vectors - 1), min_size=context + 1, max_size=context + 1)
    rows = draw(st.lists(row, min_size=windows, max_size=windows))
    labels = draw(st.lists(st.integers(0, 1), min_size=windows, max_size=windows))
    return np.array(rows, np.int32), np.array(labels, np.int64)


def chain_sequences(vectors_WT, chains):
    """Return the vectors of each chain in order, by walking through its windows."""
    sequences = []
    for chain in range(len(chains)):
        members = np.flatnonzero(chains.chain_W == chain)
        ordered = members[np.argsort(chains.position_W[members])]
        assert chains.position_W[ordered].tolist() == list(range(len(ordered)))
        assert chains.windows_C[chain] == len(ordered)
        sequences.append((ordered, [*vectors_WT[ordered[0], :-1].tolist(), *vectors_WT[ordered, -1].tolist()]))
    return sequences


@settings(deadline=None)
@given(vector_numbers())
def test_chains_contain_exactly_their_windows(case):
    vectors_WT, labels = case
    context = vectors_WT.shape[1] - 1
    chains = link_windows(vectors_WT, labels)
    for ordered, sequence in chain_sequences(vectors_WT, chains):
        assert len(set(labels[ordered].tolist())) == 1
        made = [sequence[place : place + context + 1] for place in range(len(sequence) - context)]
        assert made == vectors_WT[ordered].tolist()
    first = [int(np.flatnonzero(chains.chain_W == chain)[0]) for chain in range(len(chains))]
    assert first == sorted(first)


@settings(deadline=None)
@given(vector_numbers())
def test_the_number_of_chains_is_minimal_up_to_rings(case):
    """As many windows as possible are linked among those with equal ends and begins."""
    vectors_WT, labels = case
    chains = link_windows(vectors_WT, labels)
    ends = Counter((label, *row[1:]) for label, row in zip(labels.tolist(), vectors_WT.tolist(), strict=True))
    begins = Counter((label, *row[:-1]) for label, row in zip(labels.tolist(), vectors_WT.tolist(), strict=True))
    links = sum(min(ends[key], begins[key]) for key in ends)
    opened_rings = sum(
        (int(labels[ordered[0]]), *sequence[-(vectors_WT.shape[1] - 1) :])
        == (int(labels[ordered[0]]), *sequence[: vectors_WT.shape[1] - 1])
        for ordered, sequence in chain_sequences(vectors_WT, chains)
    )
    assert len(vectors_WT) - links <= len(chains) <= len(vectors_WT) - links + opened_rings


@settings(deadline=None)
@given(vector_numbers(), st.lists(st.integers(-1, 3), min_size=14, max_size=14))
def test_chains_that_share_a_vector_or_a_document_are_one_group(case, documents):
    vectors_WT, file_W = case
    document_W = np.array(documents[: len(file_W)], np.int64)
    document_W[document_W >= 0] += 4 * file_W[document_W >= 0]  # a document is of one file
    chains = link_windows(vectors_WT, np.where(document_W >= 0, document_W, -1 - file_W))
    group_C, sharing = group_chains(vectors_WT, chains, file_W, document_W)

    # by hand: merge sets of chains until nothing changes
    holds = [set() for _ in range(len(chains))]
    for window, chain in enumerate(chains.chain_W.tolist()):
        holds[chain] |= {("vector", int(file_W[window]), number) for number in vectors_WT[window].tolist()}
        if document_W[window] >= 0:
            holds[chain].add(("document", int(document_W[window])))
    for one in range(len(chains)):
        for other in range(len(chains)):
            if holds[one] & holds[other]:
                assert group_C[one] == group_C[other]
    merged = []
    for own in holds:
        touching = [group for group in merged if group & own]
        merged = [group for group in merged if not group & own] + [set.union(own, *touching)]
    assert len(set(group_C.tolist())) == len(merged)
    documents_in = [sum(kind[0] == "document" for kind in group) for group in merged]
    assert sharing == sum(count for count in documents_in if count > 1)


def test_the_next_window_of_the_file_is_preferred_as_successor():
    # after (0, 1) may come window 1 or window 3; after window 2 the other one
    vectors_WT = np.array([[5, 0, 1], [0, 1, 2], [6, 0, 1], [0, 1, 3]], np.int32)
    for order in ([0, 1, 2, 3], [0, 3, 2, 1]):
        chains = link_windows(vectors_WT[order], np.zeros(4, np.int64))
        assert chains.chain_W.tolist() == [0, 0, 1, 1]
        assert chains.position_W.tolist() == [0, 1, 0, 1]


def test_a_ring_is_cut_before_its_earliest_window():
    ring = np.array([[2, 0], [0, 1], [1, 2]], np.int32)[[1, 0, 2]]
    chains = link_windows(ring, np.zeros(3, np.int64))
    assert chains.chain_W.tolist() == [0, 0, 0] and chains.position_W.tolist() == [0, 2, 1]


HALVES = st.sampled_from([bytes(8), b"\0" * 7 + b"\1", b"\xff" * 8, b"\x7f" + b"\xff" * 7])


@settings(deadline=None)
@given(st.lists(st.tuples(HALVES, HALVES).map(b"".join), min_size=1, max_size=20))
def test_numbers_of_vectors_depend_on_content_alone(digests):
    numbers, distinct = number_vectors(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16))
    assert [row.tobytes() for row in distinct] == sorted(set(digests))
    assert [distinct[number].tobytes() for number in numbers] == digests


def test_digests_differ_if_one_bit_differs():
    vectors = np.ones((3, 4, 6), np.float16)
    vectors[1, 2, 5] = np.nextafter(np.float16(1), np.float16(2))
    vectors[2, 0, 0] = -1
    digests = digest_rows(vectors).reshape(-1, 16)
    assert len({row.tobytes() for row in digests}) == 3


# Import


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("context", [1, 3, 5])
def test_vectors_are_stored_once_and_documents_are_recovered(
    tmp_path, monkeypatch, dtype, compressed, shuffled, context
):
    monkeypatch.setattr(npz_format, "BLOCK_BYTES", 1000)  # many blocks
    documents = make_documents(dtype=dtype)
    contexts, targets, articles = make_windows(documents, context)
    order = np.random.default_rng(1).permutation(len(targets)) if shuffled else np.arange(len(targets))
    file = save(tmp_path / "windows.npz", contexts[order], targets[order], compressed=compressed)
    store = import_npz({"train": file}, tmp_path / "store", val=0.2, quiet=True)
    total = sum(len(vectors) for vectors in documents)
    assert store.vectors.shape == (total, 8) and store.vectors.dtype == dtype
    assert store.manifest["counts"]["distinct_vectors"] == total
    # every document comes back whole, in the order of its first window in the file
    first_seen = dict.fromkeys(articles[order].tolist())
    expected = [documents[number] for number in first_seen]
    for document, vectors in enumerate(expected):
        first, rows = int(store.documents.first_row[document]), int(store.documents.rows[document])
        assert np.array_equal(store.vectors[first : first + rows], vectors)
    assert len(store.documents) == len(expected) == len(set(store.documents.group.tolist()))
    assert multiset(*stored_windows(store, context=context)) == multiset(contexts, targets)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_round_trip_keeps_exactly_the_windows(data):
    """Windows over few vectors, in any order, return as the same multiset, bit for bit.

    With labels, windows that cross borders of documents are left out and counted.
    """
    vectors_WT, labels = data.draw(vector_numbers())
    use_labels, dtype = data.draw(st.booleans()), data.draw(st.sampled_from([np.float16, np.float32]))
    alphabet = unit(np.random.default_rng(3), 5, 4, dtype=dtype)
    contexts, targets = alphabet[vectors_WT[:, :-1]], alphabet[vectors_WT[:, -1]]
    context = contexts.shape[1]
    with tempfile.TemporaryDirectory() as folder:
        members = {ARTICLES: labels} if use_labels else {}
        file = save(Path(folder) / "windows.npz", contexts, targets, **members)
        try:
            store = import_npz({"train": file}, Path(folder) / "store", val=0.0, quiet=True)
        except StoreError as error:
            assert use_labels and "all its" in str(error)
            return
        expected, crossing = multiset(contexts, targets), store.manifest["counts"]["crossing_windows"]
        stored = multiset(*stored_windows(store, context=context))
        assert stored <= expected and stored.total() == expected.total() - crossing
        assert use_labels or not crossing
        out = export_npz(store, "train", Path(folder) / "out.npz", context, dtype=np.dtype(dtype).name, quiet=True)
        with np.load(out) as exported:
            assert multiset(exported[CONTEXTS], exported[TARGETS]) == stored


def test_equal_vectors_are_never_in_two_splits(tmp_path):
    documents = make_documents(60)
    for one in range(0, 60, 3):  # two of three share a vector
        documents[one][3] = documents[one + 1][0]
    contexts, targets, _ = make_windows(documents, 5)
    store = import_npz({"train": save(tmp_path / "w.npz", contexts, targets)}, tmp_path / "store", val=0.3, quiet=True)
    groups = store.documents.group
    assert len(set(groups.tolist())) == 40
    seen = {}
    split_of_row = np.repeat(store.documents.splits, store.documents.rows)
    for row, split in zip(store.vectors, split_of_row.tolist(), strict=True):
        assert seen.setdefault(row.tobytes(), split) == split
    assert set(split_of_row.tolist()) == {0, 1}


def test_the_split_depends_on_content_and_not_on_order(tmp_path):
    contexts, targets, articles = make_windows(make_documents(80), 5)
    order = np.random.default_rng(4).permutation(len(targets))
    stores = [
        import_npz(
            {"train": save(tmp_path / f"{name}.npz", contexts[rows], targets[rows], **members)},
            tmp_path / name, val=0.2, quiet=True,
        )
        for name, rows, members in (
            ("ordered", slice(None), {}), ("shuffled", order, {}), ("labelled", order, {ARTICLES: articles[order]}),
        )
    ]  # fmt: skip
    expected = multiset(*stored_windows(stores[0], "val"))
    assert 0 < expected.total() < len(targets) / 2
    assert all(multiset(*stored_windows(store, "val")) == expected for store in stores[1:])


@pytest.mark.parametrize("way", ["member", "file", "mapping"])
def test_windows_of_different_documents_are_not_linked(tmp_path, way):
    vectors = unit(np.random.default_rng(0), 40, 8)
    contexts, targets, _ = make_windows([vectors], 5)
    articles = np.array([7] * 10 + [3] * 25, np.uint16)  # one run of windows; 5 of them cross the border
    file = save(tmp_path / "w.npz", contexts, targets, **({ARTICLES: articles} if way == "member" else {}))
    np.save(tmp_path / "documents.npy", articles)
    given_documents = {
        "member": None, "file": tmp_path / "documents.npy", "mapping": {"train": tmp_path / "documents.npy"}
    }[way]  # fmt: skip
    store = import_npz({"train": file}, tmp_path / "store", val=0, documents=given_documents, quiet=True)
    assert store.documents.titles == ["document 7", "document 3"]
    assert store.documents.rows.tolist() == [15, 25]
    assert store.documents.group.tolist() == [0, 1]
    assert np.array_equal(store.vectors, vectors)
    assert store.manifest["counts"]["crossing_windows"] == 5 and store.manifest["counts"]["windows"] == 30
    assert "5 of 35 windows (14.3%) cross borders of documents by their labels" in store.manifest["notices"][0]


def test_all_chains_of_a_document_are_one_group(tmp_path):
    """Windows of a document without overlap are grouped only if the documents are known."""
    documents = make_documents(4, seed=2)
    contexts, targets, articles = make_windows([*documents, *make_documents(4, seed=9)], 5)
    articles %= 4
    bare = import_npz({"train": save(tmp_path / "b.npz", contexts, targets)}, tmp_path / "b", val=0, quiet=True)
    labelled = save(tmp_path / "l.npz", contexts, targets, **{ARTICLES: articles})
    store = import_npz({"train": labelled}, tmp_path / "l", val=0, quiet=True)
    assert bare.documents.group.tolist() == list(range(8))
    assert store.documents.group.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert not store.manifest["notices"]


def test_a_documents_file_takes_precedence_over_the_member(tmp_path):
    contexts, targets, articles = make_windows(make_documents(4), 5)
    file = save(tmp_path / "w.npz", contexts, targets, **{ARTICLES: np.zeros(len(articles), np.int64)})
    np.save(tmp_path / "documents.npy", articles)
    store = import_npz({"train": file}, tmp_path / "store", val=0, documents=tmp_path / "documents.npy", quiet=True)
    assert len(set(store.documents.group.tolist())) == 4


class Trap:
    """An object that records its unpickling."""

    sprung = False

    def __reduce__(self):
        return _spring, ()


def _spring():
    Trap.sprung = True


@pytest.mark.parametrize("name", ["metadata", ARTICLES])
def test_a_pickled_member_is_not_loaded_but_reported(tmp_path, name):
    contexts, targets, _ = make_windows(make_documents(4), 5)
    trap = np.array([Trap()] * len(targets), object)
    file = save(tmp_path / "w.npz", contexts, targets, **{name: trap})
    store = import_npz({"train": file}, tmp_path / "store", val=0, quiet=True)
    assert not Trap.sprung
    assert store.manifest["notices"][0].startswith(f"w.npz: member {name} is pickled and was not loaded")
    assert ("name that file with --documents" in store.manifest["notices"][0]) == (name == "metadata")
    assert len(store.documents) == 4
    pickle.loads(pickle.dumps(Trap()))
    assert Trap.sprung
    Trap.sprung = False


def test_each_split_can_have_its_file(tmp_path):
    files = {}
    for seed, split in enumerate(SPLITS):
        contexts, targets, _ = make_windows(make_documents(5, seed=seed), 5)
        files[split] = save(tmp_path / f"{split}.npz", contexts, targets)
    store = import_npz(dict(reversed(files.items())), tmp_path / "store", encoder="gtr-t5-base", quiet=True)
    for split, file in files.items():
        with np.load(file) as saved:
            assert multiset(*stored_windows(store, split)) == multiset(saved[CONTEXTS], saved[TARGETS])
    assert store.documents.ids == [f"npz-{split}-{number}" for split in SPLITS for number in range(5)]
    assert store.documents.sources == [f"{split}.npz" for split in SPLITS for _ in range(5)]
    assert (store.space.encoder, store.space.revision, store.space.dimensions) == ("gtr-t5-base", "", 8)
    assert store.manifest["split"]["val"] == 0


def test_an_ood_file_can_be_imported_alone(tmp_path):
    contexts, targets, _ = make_windows(make_documents(3), 5)
    store = import_npz({"ood": save(tmp_path / "o.npz", contexts, targets)}, tmp_path / "store", quiet=True)
    assert set(store.documents.splits.tolist()) == {SPLITS.index("ood")} and store.space.encoder == "unknown"


def test_shared_vectors_between_files_are_refused_unless_allowed(tmp_path):
    documents, others = make_documents(6), make_documents(6, seed=1)
    others[0] = others[0][:12].copy()
    others[0][11] = documents[2][0]  # one window's target
    train = save(tmp_path / "train.npz", *make_windows(documents, 5)[:2])
    val = save(tmp_path / "val.npz", *make_windows(others, 5)[:2])
    count = len(make_windows(others, 5)[1])
    with pytest.raises(StoreError, match=f"a leak: 1 of .* train.npz, 1 of {count} windows of val.npz. Remove"):
        import_npz({"train": train, "val": val}, tmp_path / "store", quiet=True)
    assert not (tmp_path / "store").exists()
    store = import_npz({"train": train, "val": val}, tmp_path / "store", allow_shared=True, quiet=True)
    assert "2 windows share identical vectors with another split" in store.manifest["notices"][0]
    splits_of_group = {
        group: set(store.documents.splits[store.documents.group == group].tolist()) for group in store.documents.group
    }
    assert all(len(splits) == 1 for splits in splits_of_group.values())


def test_windows_of_two_files_are_never_in_one_document(tmp_path):
    """A document that continues in another file becomes two documents, each with its windows."""
    contexts, targets, _ = make_windows([unit(np.random.default_rng(0), 40, 8)], 5)
    files = {
        "train": save(tmp_path / "train.npz", contexts[:20], targets[:20]),
        "val": save(tmp_path / "val.npz", contexts[20:], targets[20:]),
    }
    store = import_npz(files, tmp_path / "store", allow_shared=True, quiet=True)
    assert store.documents.rows.tolist() == [25, 20] and store.documents.group.tolist() == [0, 1]
    assert multiset(*stored_windows(store, "train")) == multiset(contexts[:20], targets[:20])
    assert multiset(*stored_windows(store, "val")) == multiset(contexts[20:], targets[20:])


def test_leaks_between_float16_and_float32_files_are_found(tmp_path):
    documents = make_documents(3, dtype=np.float16)
    half = save(tmp_path / "half.npz", *make_windows(documents, 5)[:2])
    single = save(tmp_path / "single.npz", *make_windows([d.astype(np.float32) for d in documents[:1]], 5)[:2])
    with pytest.raises(StoreError, match="a leak"):
        import_npz({"train": half, "ood": single}, tmp_path / "store", quiet=True)


def test_only_vectors_that_are_not_of_unit_length_are_scaled(tmp_path):
    documents = make_documents(2)
    documents[0] *= np.float32(1.0006)  # near enough: kept bit for bit
    documents[1] *= np.linspace(0.2, 3, len(documents[1]))[:, None].astype(np.float32)
    file = save(tmp_path / "w.npz", *make_windows(documents, 5)[:2])
    store = import_npz({"train": file}, tmp_path / "store", val=0, quiet=True)
    first_rows = len(documents[0])
    assert np.array_equal(store.vectors[:first_rows], documents[0])
    lengths = np.linalg.norm(documents[1], axis=1, keepdims=True)
    np.testing.assert_allclose(store.vectors[first_rows:], documents[1] / lengths, atol=1e-6)
    off = int((abs(lengths - 1) > 1e-3).sum())
    assert store.manifest["notices"] == [f"{off} of {len(store.vectors)} vectors were scaled to unit length"]
    assert store.manifest["counts"]["scaled_to_unit_length"] == off


def test_dtype_and_byte_order_can_be_converted(tmp_path):
    contexts, targets, _ = make_windows(make_documents(3), 5)
    file = save(tmp_path / "w.npz", contexts.astype(">f4"), targets)
    half = import_npz({"train": file}, tmp_path / "half", val=0, dtype="float16", quiet=True)
    single = import_npz({"train": file}, tmp_path / "single", val=0, quiet=True)
    assert half.vectors.dtype == np.float16 and single.vectors.dtype == np.float32
    assert multiset(*stored_windows(single)) == multiset(contexts, targets)
    assert np.array_equal(half.vectors, single.vectors.astype(np.float16))


def test_a_large_group_gets_a_notice(tmp_path):
    documents = make_documents(20)
    for vectors in documents:
        vectors[2] = documents[0][2]  # the same sentence everywhere
    file = save(tmp_path / "w.npz", *make_windows(documents, 5)[:2])
    store = import_npz({"train": file}, tmp_path / "store", val=0, quiet=True)
    assert set(store.documents.group.tolist()) == {0}
    assert "one group of 20 linked documents has" in store.manifest["notices"][0]
    with pytest.raises(StoreError, match=r"because 1 repeated vector links 10 or more .* a val file with --val-file"):
        import_npz({"train": file}, tmp_path / "other", quiet=True)


def test_the_same_files_give_the_same_bytes(tmp_path):
    file = save(tmp_path / "w.npz", *make_windows(make_documents(), 5)[:2])
    one, other = (import_npz({"train": file}, tmp_path / name, quiet=True) for name in ("one", "other"))
    assert one.manifest == other.manifest


# Bad input


def _broken(tmp_path, name):
    """Write a file that cannot be imported, and return a pattern of the error message."""
    contexts, targets, articles = make_windows(make_documents(4), 5)
    path = tmp_path / "bad.npz"

    def saved(**members):
        np.savez(path, **members)

    def content(*, compressed=False):
        buffer = io.BytesIO()
        save(buffer, contexts, targets, compressed=compressed)
        return bytearray(buffer.getvalue())

    if name == "missing":
        return "no such file"
    if name == "empty":
        path.touch()
        return "the file can't be read: empty"
    if name == "no zip":
        path.write_text("context_sequences")
        return "truncated, or not an npz file"
    if name == "truncated":
        path.write_bytes(content()[:-2000])
        return "truncated, or not an npz file"
    if name == "damaged stream":
        damaged = content(compressed=True)
        middle = len(damaged) // 2
        damaged[middle : middle + 40] = bytes(40)
        path.write_bytes(damaged)
        return "(context_sequences|target_vectors) can't be read"
    if name == "length does not fit":
        with zipfile.ZipFile(path, "w") as archive:
            for member, array in ((CONTEXTS, contexts), (TARGETS, targets)):
                buffer = io.BytesIO()
                np.save(buffer, array)
                archive.writestr(f"{member}.npy", buffer.getvalue()[: -4 if member == TARGETS else None])
        return "target_vectors can't be read: its length does not match its header"
    if name == "no members":
        saved(inputs=contexts, **{TARGETS: targets})
        return r"has no member context_sequences \(members: inputs \(\d+, 5, 8\) float32; .* --columns context=inputs"
    if name == "integers":
        saved(**{CONTEXTS: (contexts * 127).astype(np.int8), TARGETS: targets})
        return r"context_sequences is .* int8, but must be \(windows, S, D\) float16, .* Convert integers back"
    if name == "a structure":
        saved(**{CONTEXTS: contexts, TARGETS: np.zeros(len(targets), [("vector", "f4", 8)])})
        return r"target_vectors is .*, but must be \(windows, D\) .* Save one field of vector as a plain array"
    if name == "other count":
        saved(**{CONTEXTS: contexts, TARGETS: targets[:-1]})
        return "so target_vectors must be"
    if name == "other dimensions":
        saved(**{CONTEXTS: contexts, TARGETS: targets[:, :-1]})
        return "so target_vectors must be"
    if name == "no windows":
        saved(**{CONTEXTS: contexts[:0], TARGETS: targets[:0]})
        return "has no windows"
    if name == "objects":
        saved(**{CONTEXTS: np.array([Trap()], object), TARGETS: targets})
        return "context_sequences is pickled, which is unsafe to load"
    if name == "float documents":
        saved(**{CONTEXTS: contexts, TARGETS: targets, ARTICLES: articles * 1.0})
        return r"article_index: is .*, but must be \(\d+,\) integers"
    if name == "too few documents":
        saved(**{CONTEXTS: contexts, TARGETS: targets, ARTICLES: articles[1:]})
        return r"article_index: is .*, but must be \(\d+,\) integers"
    if name in ("nan", "infinite", "zero"):
        targets[7] = {"nan": np.nan, "infinite": np.inf, "zero": 0}[name]
        saved(**{CONTEXTS: contexts, TARGETS: targets})
        return "target_vectors of window 7 has a " + ("zero vector" if name == "zero" else "value that is not finite")
    assert name == "nan in a context", name
    contexts[0, 2, 1] = np.nan
    saved(**{CONTEXTS: contexts, TARGETS: targets})
    return "context_sequences of window 0 has a value that is not finite"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "name",
    [
        "missing", "empty", "no zip", "truncated", "damaged stream", "length does not fit", "no members",
        "integers", "a structure", "other count", "other dimensions", "no windows", "objects", "float documents",
         "too few documents", "nan", "infinite", "zero", "nan in a context",
    ],
)  # fmt: skip
def test_a_bad_file_is_a_one_line_error_and_leaves_nothing(tmp_path, name):
    message = _broken(tmp_path, name)
    before = set(tmp_path.iterdir())
    with pytest.raises(StoreError, match=message) as caught:
        import_npz({"train": tmp_path / "bad.npz"}, tmp_path / "store", quiet=True)
    assert "\n" not in str(caught.value) and "bad.npz" in str(caught.value)
    assert set(tmp_path.iterdir()) == before and not Trap.sprung


@pytest.fixture
def good(tmp_path):
    return save(tmp_path / "good.npz", *make_windows(make_documents(), 5)[:2])


def test_files_of_different_shapes_are_refused(tmp_path, good):
    for name, documents, context in (("d", make_documents(3, dimensions=6), 5), ("s", make_documents(3), 4)):
        other = save(tmp_path / f"{name}.npz", *make_windows(documents, context)[:2])
        with pytest.raises(StoreError, match=f"{name}.npz: has context {context}"):
            import_npz({"train": good, "ood": other}, tmp_path / "store", quiet=True)


def test_bad_arguments_are_refused(tmp_path, good):
    with pytest.raises(StoreError, match=r"'training' is unknown.*train"):
        import_npz({"training": good}, tmp_path / "store", quiet=True)
    with pytest.raises(StoreError, match="nothing to import"):
        import_npz({}, tmp_path / "store", quiet=True)
    with pytest.raises(StoreError, match="documents for train: there is no file of windows"):
        import_npz({"ood": good}, tmp_path / "store", documents=tmp_path / "d.npy", quiet=True)
    with pytest.raises(StoreError, match=r"val=1"):
        import_npz({"train": good}, tmp_path / "store", val=1.0, quiet=True)
    for content, message in (
        (None, "can't be read"),
        (np.zeros(3, int), r"is \(3,\) int64, but must be \(\d+,\) integers"),
    ):
        if content is not None:
            np.save(tmp_path / "d.npy", content)
        with pytest.raises(StoreError, match=message):
            import_npz({"train": good}, tmp_path / "store", documents=tmp_path / "d.npy", quiet=True)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="already exists"):
        import_npz({"train": good}, tmp_path / "taken", quiet=True)
    with pytest.raises(OutputError, match="a part of the path is a file"):
        import_npz({"train": good}, good / "store", quiet=True)


def test_a_full_disk_is_a_one_line_error_and_leaves_nothing(tmp_path, good, monkeypatch):
    class Full(io.FileIO):
        """Takes a part of what it is given, then nothing."""

        def write(self, content):
            if self.tell() > 3000:
                raise OSError(28, "No space left on device")
            return super().write(content[:700])

    original = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, mode="r", *rest, **named: (
            Full(path, mode)
            if path.name == "vectors.npy" and mode in ("wb", "rb+")
            else original(path, mode, *rest, **named)
        ),
    )
    with pytest.raises(OutputError, match=r"vectors\.npy: the disk is full"):
        import_npz({"train": good}, tmp_path / "store", quiet=True)
    assert {path.name for path in tmp_path.iterdir()} == {"good.npz"}


def test_an_interrupted_import_leaves_nothing(tmp_path, good, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "finish_store", interrupt)
    with pytest.raises(KeyboardInterrupt):
        import_npz({"train": good}, tmp_path / "store", quiet=True)
    assert {path.name for path in tmp_path.iterdir()} == {"good.npz"}


# Export


def test_an_export_is_a_plain_npz_file(tmp_path, toy_store, monkeypatch):
    monkeypatch.setattr(export, "BLOCK_BYTES", 2000)
    for split in SPLITS:
        path = export_npz(toy_store, split, tmp_path / f"{split}.npz", 3, quiet=True)
        contexts, targets = stored_windows(toy_store, split, 3)
        with np.load(path, allow_pickle=False) as exported:
            assert sorted(exported.files) == sorted([CONTEXTS, TARGETS, ARTICLES, SPACE])
            assert exported[CONTEXTS].dtype == exported[TARGETS].dtype == np.float32
            assert np.array_equal(exported[CONTEXTS], contexts) and np.array_equal(exported[TARGETS], targets)
            assert exported[ARTICLES].dtype == np.int64
            assert exported[ARTICLES].tolist() == index_windows(toy_store.documents, split, 3).groups.tolist()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    again = export_npz(toy_store, split, tmp_path / "again.npz", 3, quiet=True)
    assert again.read_bytes() == path.read_bytes()


def test_exported_splits_import_as_the_same_splits(tmp_path, toy_store):
    files = {split: export_npz(toy_store, split, tmp_path / f"{split}.npz", quiet=True) for split in SPLITS}
    store = import_npz(files, tmp_path / "store", quiet=True)
    assert store.space == toy_store.space, "the space travels with the vectors"
    long_enough = toy_store.documents.rows > 5
    assert len(store.documents) == long_enough.sum() == len(set(store.documents.group.tolist()))
    for split in SPLITS:
        assert multiset(*stored_windows(store, split)) == multiset(*stored_windows(toy_store, split))


def test_export_as_float16(tmp_path, toy_store):
    with np.load(export_npz(toy_store, "val", tmp_path / "half.npz", dtype="float16", quiet=True)) as exported:
        assert exported[CONTEXTS].dtype == exported[TARGETS].dtype == np.float16


def test_bad_exports_are_refused_and_leave_nothing(tmp_path, toy_store, monkeypatch):
    with pytest.raises(StoreError, match=r"'vall' is unknown.*'val'"):
        export_npz(toy_store, "vall", tmp_path / "out.npz", quiet=True)
    with pytest.raises(StoreError, match="val has no window of context 50"):
        export_npz(toy_store, "val", tmp_path / "out.npz", 50, quiet=True)
    (tmp_path / "taken.npz").touch()
    with pytest.raises(OutputError, match="already exists"):
        export_npz(toy_store, "val", tmp_path / "taken.npz", quiet=True)
    with pytest.raises(OutputError, match="cannot write"):
        export_npz(toy_store, "val", tmp_path / "nowhere" / "out.npz", quiet=True)

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(npz_format.np.lib.format, "write_array_header_1_0", fail)
    with pytest.raises(KeyboardInterrupt):
        export_npz(toy_store, "val", tmp_path / "out.npz", quiet=True)
    assert {path.name for path in tmp_path.iterdir()} == {"taken.npz"}


def test_an_imported_store_opens_again(tmp_path, good):
    store = import_npz({"train": good}, tmp_path / "store", quiet=True)
    assert open_store(store.path).store_hash == store.store_hash
    assert store.manifest["origin"] == "npz" and store.manifest["sources"] == {"train": "good.npz"}
