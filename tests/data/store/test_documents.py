"""The table of documents: texts read by row group equal those that were written, and numbers take few bytes."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nextvec.data.splits import SPLITS
from nextvec.data.store.documents import CACHED_GROUPS, read_documents
from nextvec.errors import StoreError

COUNT = 100
ROWS = np.arange(COUNT) % 7 + 1


def columns(**changes):
    values = {
        "id": [f"d{number}" for number in range(COUNT)],
        "title": [f"Title ü {number}" for number in range(COUNT)],
        "source": ["web", "book"] * (COUNT // 2),
        "first_row": np.cumsum(ROWS) - ROWS,
        "rows": ROWS,
        "split": [SPLITS[number % 3] for number in range(COUNT)],
        "group": np.arange(COUNT) // 2,
    }
    return {**values, **changes}


@pytest.fixture
def write(tmp_path):
    def write(group_size=3, **changes):
        pq.write_table(pa.table(columns(**changes)), tmp_path / "documents.parquet", group_size)
        return tmp_path / "documents.parquet"

    return write


@pytest.mark.parametrize("group_size", [7, 100])
def test_texts_equal_those_written_however_they_are_read(write, group_size):
    table = read_documents(write(group_size), int(ROWS.sum()))
    expected = columns()
    for texts, name in ((table.ids, "id"), (table.titles, "title"), (table.sources, "source")):
        written = expected[name]
        assert len(texts) == COUNT and list(texts) == written and texts == written and texts != written[:-1]
        assert [texts[number] for number in range(-COUNT, COUNT)] == written * 2
        assert texts[10:20] == written[10:20] and texts[-5:] == written[-5:] and texts[::-9] == written[::-9]
        assert list(pickle.loads(pickle.dumps(texts))) == written
        for outside in (COUNT, -COUNT - 1):
            with pytest.raises(IndexError):
                texts[outside]
    assert table.ids.index("d42") == 42 and "d100" not in table.ids
    assert [SPLITS[split] for split in table.splits] == expected["split"]
    assert np.array_equal(table.first_row, expected["first_row"]) and np.array_equal(table.rows, ROWS)
    assert np.array_equal(table.group, expected["group"]) and len(table) == COUNT


def test_a_document_takes_17_bytes_and_few_row_groups_stay_in_memory(write):
    table = read_documents(write(3), int(ROWS.sum()))
    arrays = (table.splits, table.first_row, table.rows, table.group)
    assert sum(array.nbytes for array in arrays) == 17 * COUNT
    assert all(array.flags.writeable for array in arrays), "torch shares the memory of writable arrays only"
    for number in range(COUNT):
        assert table.ids[number] == f"d{number}"
    assert table.ids._read.cache_info().currsize == CACHED_GROUPS


def test_large_group_numbers_are_kept(write):
    large = np.arange(COUNT) + 2**31 - 50
    assert np.array_equal(read_documents(write(group=large), int(ROWS.sum())).group, large)


def test_rows_of_a_split_are_those_of_its_documents(write):
    table = read_documents(write(), int(ROWS.sum()))
    split_N = np.repeat(table.splits, ROWS)
    for number, split in enumerate(SPLITS):
        assert np.array_equal(table.rows_of(split), np.flatnonzero(split_N == number))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": ["trian"] * COUNT}, "can't be read"),
        ({"split": [None] * COUNT}, "can't be read"),
        ({"rows": [None] * COUNT}, "can't be read"),
        ({"first_row": np.arange(COUNT)}, "does not cover the rows in order"),
        ({"rows": np.where(np.arange(COUNT) == 50, 0, ROWS)}, "does not cover the rows in order"),
    ],
)
def test_a_wrong_column_is_refused_wherever_it_is(write, changes, message):
    with pytest.raises(StoreError, match=rf"documents.parquet {message}.*Build the store again"):
        read_documents(write(**changes), int(ROWS.sum()))


def test_a_missing_column_or_another_number_of_vectors_is_refused(write, tmp_path):
    file = write()
    with pytest.raises(StoreError, match=r"has 395 rows, but there are 401 vectors"):
        read_documents(file, 401)
    pq.write_table(pq.read_table(file).drop_columns("title"), file)
    with pytest.raises(StoreError, match=r"can't be read .*title"):
        read_documents(file, int(ROWS.sum()))


def test_texts_of_a_file_that_was_damaged_later_are_refused(write):
    file = write()
    table = read_documents(file, int(ROWS.sum()))
    assert table.ids[0] == "d0"
    file.write_bytes(file.read_bytes()[:100])
    assert table.ids[1] == "d1", "of a row group that is in memory"
    with pytest.raises(StoreError, match=r"documents.parquet can't be read"):
        table.ids[COUNT - 1]
