"""Filters of an exact index: documents by SQL conditions, which can only read."""

import numpy as np
import pytest
from tests.inference.numbered_store import write_numbered_store

import nextvec
from nextvec.errors import InputError
from nextvec.inference.store_filter import require_one_condition


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return nextvec.open_index(write_numbered_store(tmp_path_factory.mktemp("filter") / "store", range(30)))


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ("source = 'left'", range(0, 30, 2)),
        ("source = 'right''s' AND split = 'val'", range(5, 30, 6)),
        ("document IN ('d3', 'd4')", (3, 4)),
        ("title LIKE 'Title d1_' OR document = 'd2'", (2, *range(10, 20))),
        ("title LIKE 'title%'", ()),
    ],
)
def test_only_matching_documents_are_found(where, numbers, index):
    filtered = index.filter(where)
    assert len(filtered) == 6 * len(numbers)
    queries = index.vectors([0, 7])
    rows, scores = filtered.search(queries, 200)
    expected = {6 * number + position for number in numbers for position in range(6)}
    assert set(rows[0].tolist()) == set(rows[1].tolist()) == expected
    assert set(filtered.sample(9)) <= expected
    # The order and the scores are those of the whole index.
    whole, whole_scores = index.search(queries, len(index))
    kept = [n for n, row in enumerate(whole[0].tolist()) if row in expected]
    np.testing.assert_array_equal(rows[0], whole[0][kept])
    np.testing.assert_allclose(scores[0], whole_scores[0][kept], atol=1e-6)


def test_filters_and_exclusions_combine(index):
    filtered = index.filter("source = 'left'").filter("split = 'train'")
    assert len(filtered) == 6 * 10
    rows, _ = filtered.search(index.vectors([0]), 500, exclude=[0, 1, 6])
    assert rows.shape == (1, 60 - 2) and not {0, 1} & set(rows[0].tolist())


HOSTILE = (
    "source = 'left'; DROP TABLE chunks",
    "source = 'left' --",
    "1) UNION SELECT (999",
    "source = ?",
    "source = :name",
    "source = 'left",
    "source = 'a\0b'",
    "1=1 OR " * 2000 + "1=1",
    "  ",
)


@pytest.mark.parametrize("where", HOSTILE)
def test_a_text_that_is_not_one_condition_is_refused(where):
    with pytest.raises(InputError, match=r"^where: "):
        require_one_condition(where)


@pytest.mark.parametrize(
    "where",
    [
        "sorce = 'left'",
        "source =",
        "load_extension('x')",
        "randomblob(1000000000000) = 1",
        "(WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t) > 1",
        "(" * 500 + "1" + ")" * 500,
    ],
)
def test_a_condition_that_does_not_work_names_the_columns(where, index):
    with pytest.raises(InputError, match=r"does not work in store .* Columns: document, source, split, title\.$"):
        index.filter(where)
