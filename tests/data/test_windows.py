"""Windows equal brute force: no context crosses a document, every target occurs once, batches equal a loop."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextvec.data.splits import SPLITS
from nextvec.data.store import DocumentTable
from nextvec.data.windows import WindowSet, gather, index_windows, sample


def make_table(rows, splits=None, groups=None):
    rows = np.array(rows, np.int64)
    names = [str(number) for number in range(len(rows))]
    splits = np.zeros(len(rows), np.int8) if splits is None else np.array(splits, np.int8)
    groups = np.arange(len(rows)) if groups is None else np.array(groups, np.int64)
    return DocumentTable(names, names, names, splits, np.cumsum(rows) - rows, rows, groups)


@st.composite
def tables(draw):
    rows = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    each = {"min_size": len(rows), "max_size": len(rows)}
    splits = draw(st.lists(st.integers(0, len(SPLITS) - 1), **each))
    groups = draw(st.lists(st.integers(0, 5), **each))
    return make_table(rows, splits, groups)


@st.composite
def contexts(draw):
    context = draw(st.integers(1, 6))
    return context, draw(st.none() | st.integers(1, context))


def brute_force(table, split, context, min_context):
    """Return (target row, group, rows of its context) of each window, by the definition."""
    windows = []
    for document in range(len(table)):
        if split is not None and table.splits[document] != SPLITS.index(split):
            continue
        first = int(table.first_row[document])
        for target in range(first + min_context, first + int(table.rows[document])):
            windows.append((target, int(table.group[document]), list(range(max(first, target - context), target))))
    return windows


@given(tables(), contexts(), st.sampled_from([None, *SPLITS]))
def test_every_target_of_a_split_occurs_once_with_its_group_and_context(table, lengths, split):
    context, least = lengths
    windows = index_windows(table, split, context, least)
    expected = brute_force(table, split, context, context if least is None else least)
    assert windows.targets.tolist() == [target for target, _, _ in expected]
    assert windows.groups.tolist() == [group for _, group, _ in expected]
    if windows.available is None:
        assert all(len(rows) == context for _, _, rows in expected)
    else:
        assert windows.available.tolist() == [len(rows) for _, _, rows in expected]


@given(tables(), contexts(), st.sampled_from([torch.float16, torch.float32]), st.randoms(use_true_random=False))
def test_gather_equals_a_loop_and_never_crosses_a_document(table, lengths, dtype, random):
    context, least = lengths
    # A row contains the numbers of its document and itself, which reveals a context that crosses a document.
    total = int(table.rows.sum())
    document_of_row = np.repeat(np.arange(len(table)), table.rows)
    vectors = torch.tensor(np.column_stack([document_of_row + 1, np.arange(total) + 1]), dtype=dtype)
    windows = index_windows(table, None, context, least)
    expected = brute_force(table, None, context, context if least is None else least)
    chosen = [random.randrange(len(expected)) for _ in range(6)] if expected else []
    batch = gather(vectors, windows, torch.tensor(chosen, dtype=torch.int64))
    assert batch.context_BSD.shape == (len(chosen), context, 2)
    assert batch.context_BSD.dtype == batch.target_BD.dtype == dtype
    for place, number in enumerate(chosen):
        target, group, rows = expected[number]
        missing = context - len(rows)
        assert torch.equal(batch.target_BD[place], vectors[target])
        assert int(batch.group_B[place]) == group
        assert torch.equal(batch.context_BSD[place, missing:], vectors[rows])
        assert (batch.context_BSD[place, :missing] == 0).all()
        assert set(batch.context_BSD[place, missing:, 0].tolist()) == {float(batch.target_BD[place, 0])}
        if batch.mask_BS is None:
            assert missing == 0
        else:
            assert batch.mask_BS[place].tolist() == [False] * missing + [True] * len(rows)


@given(tables(), contexts(), st.randoms(use_true_random=False))
def test_reversed_windows_equal_a_loop(table, lengths, random):
    """A reversed window is a window of the reversed document; the others are unchanged."""
    windows = index_windows(table, None, *lengths)
    vectors = torch.arange(1, 1 + int(table.rows.sum()), dtype=torch.float32)[:, None]
    if not len(windows):
        return
    index = torch.tensor([random.randrange(len(windows)) for _ in range(7)])
    reversed_count = random.randrange(8)
    batch, forward = gather(vectors, windows, index, reversed_count), gather(vectors, windows, index)
    for place in range(7):
        present = slice(None) if batch.mask_BS is None else batch.mask_BS[place]
        expected = [*forward.context_BSD[place, present, 0].tolist(), forward.target_BD[place].item()]
        expected = expected[::-1] if place >= 7 - reversed_count else expected
        assert [*batch.context_BSD[place, present, 0].tolist(), batch.target_BD[place].item()] == expected
        assert batch.mask_BS is None or not batch.context_BSD[place, ~present].any()


def test_gather_without_an_index_takes_all_windows_in_order():
    table = make_table([4, 3])
    vectors = torch.arange(14, dtype=torch.float32).view(7, 2)
    batch = gather(vectors, index_windows(table, "train", 2))
    assert torch.equal(batch.target_BD, vectors[[2, 3, 6]])
    assert torch.equal(batch.context_BSD[:, 0], vectors[[0, 1, 4]])
    assert batch.mask_BS is None


@given(st.integers(0, 200), st.integers(0, 250), st.integers(0, 2**63 - 1))
def test_sample_is_ascending_distinct_and_pure(count, size, seed):
    chosen = sample(count, size, seed)
    assert len(chosen) == min(count, size)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert all(0 <= place < count for place in chosen.tolist())
    assert torch.equal(chosen, sample(count, size, seed))


def test_the_index_grows_with_documents_not_with_windows():
    rows = np.full(15_192, 52, np.int64)
    windows = index_windows(make_table(rows), None, 5)
    assert len(windows) == 15_192 * 47 and windows.available is None
    assert windows.start_K.nbytes + windows.document_K.nbytes <= 12 * len(rows) + 8


def test_rows_and_windows_beyond_32_bits_are_located():
    """Documents of 2^31 rows each: a window's row, position and group are exact."""
    table = make_table([2**31 + 5, 3, 2**32, 2**31 - 1], [0, 1, 0, 1], [7, 8, 9, 10])
    windows = index_windows(table, "train", 5, 2)
    assert len(windows) == 2**31 + 3 + 2**32 - 2
    index = torch.tensor([0, 2**31 + 2, 2**31 + 3, 2**31 + 4, len(windows) - 1])
    chosen = windows.take(index)
    second = 2**31 + 8  # first row of the third document
    assert chosen.targets.tolist() == [2, 2**31 + 4, second + 2, second + 3, second + 2**32 - 1]
    assert chosen.groups.tolist() == [7, 7, 9, 9, 9]
    assert chosen.available.tolist() == [2, 5, 2, 3, 5]
    assert len(index_windows(table, "val", 5)) == 2**31 - 1 - 5


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_without_documents_has_no_windows(split):
    other = SPLITS[(SPLITS.index(split) + 1) % len(SPLITS)]
    table = make_table([9, 9], [SPLITS.index(other)] * 2)
    assert len(index_windows(table, split, 2)) == 0


@given(tables(), contexts(), st.integers(1, 7))
def test_later_chunks_are_after_the_target_in_its_document(table, lengths, count):
    context, least = lengths
    windows = index_windows(table, None, context, least)
    vectors = torch.arange(int(table.rows.sum()), dtype=torch.float32)[:, None]
    expected = brute_force(table, None, context, context if least is None else least)
    if not expected:
        return
    chunks_BKD, has_later_B = WindowSet("train", vectors, table, windows).sample_later_chunks(
        torch.arange(len(windows)), count
    )
    assert chunks_BKD.shape == (len(windows), count, 1)
    document_of_row = np.repeat(np.arange(len(table)), table.rows)
    for place, (target, _, _) in enumerate(expected):
        later = {row for row in np.flatnonzero(document_of_row == document_of_row[target]) if row > target}
        assert bool(has_later_B[place]) == bool(later)
        assert set(chunks_BKD[place, :, 0].long().tolist()) <= (later or {target})


def test_later_chunks_are_drawn_uniformly():
    torch.manual_seed(0)
    table = make_table([4, 12, 3])
    windows = index_windows(table, None, 3, 1)
    place = windows.targets.tolist().index(9)  # the sixth of the second document: later are 10 … 15
    chunks_BKD, _ = WindowSet("train", torch.arange(19.0)[:, None], table, windows).sample_later_chunks(
        torch.tensor([place]), 6000
    )
    rows, counts = chunks_BKD.flatten().unique(return_counts=True)
    assert rows.tolist() == [10, 11, 12, 13, 14, 15]
    assert counts.min() > 880 and counts.max() < 1120


def test_min_context_may_exceed_the_context():
    windows = index_windows(make_table([9, 4]), None, 2, 5)
    assert windows.targets.tolist() == [5, 6, 7, 8] and windows.context == 2 and windows.available is None
