"""Rows that cannot be used: counted by reason, reported below 1 %, and an error above that."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nextvec
from nextvec.data.store import Store, build_counts
from nextvec.data.store import tables as store_tables
from nextvec.data.store.lost_rows import LostRows, require_balance, require_few_lost
from nextvec.data.tables import rows
from nextvec.errors import StoreError

Save = Callable[..., str]
D = 8


def read(name: str, tmp_path: Path, **options: Any) -> Store:
    return nextvec.data_import(name, out=tmp_path / f"store-{len(list(tmp_path.iterdir()))}", quiet=True, **options)


def broken(columns: dict[str, Any], kind: str, where: list[int]) -> dict[str, Any]:
    """Return the columns in which some rows are broken."""
    vectors, documents = list(columns["vector"]), list(columns["document"])
    positions: list[Any] = list(columns["position"])
    for row in where:
        match kind:
            case "null_vector":
                vectors[row] = None
            case "wrong_length":
                vectors[row] = [1.0] * (D - 1)
            case "non_finite_vector":
                vectors[row] = [*vectors[row][:-1], [float("nan"), float("inf"), None][row % 3]]
            case "zero_vector":
                vectors[row] = [0.0] * D
            case "null_document":
                documents[row] = ["", None][row % 2]
            case "null_position":
                positions[row] = None
            case "repeated_vector":
                vectors[row] = vectors[0]
            case "short_document":
                documents[row] = f"single {row}"
    return {"vector": vectors, "document": documents, "position": positions}


KINDS = {
    "null_vector": "have a null vector",
    "wrong_length": "have a vector of another length than 8",
    "non_finite_vector": "have a vector with a value that is not finite",
    "zero_vector": "have a zero vector",
    "null_document": "have no document",
    "null_position": "have no position",
    "repeated_vector": "have the vector of another row",
    "short_document": "are in documents, or parts of documents, with fewer than 2 chunks",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_reason_is_counted_reported_and_limited(
    kind: str, save: Save, columns: dict[str, Any], tmp_path: Path
) -> None:
    few, many = [18, 101, 222], [18, 101, 222, 300]  # 0.8 % and 1.1 % of 360 rows
    store = read(save(**broken(columns, kind, few)), tmp_path)
    assert store.manifest["lost_rows"] == {kind: 3}
    assert store.manifest["counts"]["rows_read"] == 360 and len(store.vectors) == 357
    notice = store.manifest["notices"][0]
    assert notice.endswith(f"t.parquet: 3 of 360 rows (0.83 %) were left out: 3 {KINDS[kind]}")
    file = save(**broken(columns, kind, many))
    with pytest.raises(StoreError) as refused:
        read(file, tmp_path)
    message = str(refused.value)
    assert f"{file}: 4 of 360 rows (1.1 %) would be lost, but at most 1 % may be: 4 {KINDS[kind]}. " in message
    assert message.endswith("To continue without them, add --allow-lost-rows 0.012.") and "\n" not in message
    accepted = read(file, tmp_path, allow_lost_rows=0.012)
    assert len(accepted.vectors) == 356 and not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize("kind", ["null_vector", "zero_vector", "repeated_vector", "wrong_length"])
def test_no_window_crosses_a_lost_row(kind: str, save: Save, columns: dict[str, Any], tmp_path: Path) -> None:
    """Row 18 is the seventh chunk of document d1: five chunks before it, and five after it, stay together."""
    store = read(save(**broken(columns, kind, [18])), tmp_path)
    table = store.documents
    assert table.ids[1:3] == ["d1", "d1#2"] and table.rows[1:3].tolist() == [6, 5]
    assert table.group[1] == table.group[2] and table.splits[1] == table.splits[2]
    assert store.texts([table.first_row[2]]) == ["text 1 7"]
    assert store.manifest["counts"]["documents_cut"] == 1


def test_the_copy_in_train_is_kept(save: Save, columns: dict[str, Any], tmp_path: Path) -> None:
    splits = ["val"] * 120 + ["train"] * 240
    store = read(save(**broken(columns, "repeated_vector", [200]), split=splits), tmp_path)
    assert store.documents.ids.count("d16") == 1 and store.documents.rows[store.documents.ids.index("d16")] == 12
    assert store.documents.rows[0] == 11


def test_most_rows_lost_names_all_reasons_and_the_largest_remedy(
    save: Save, columns: dict[str, Any], tmp_path: Path
) -> None:
    """The complaint elsewhere was a warning: keeping 2 rows out of 11,490."""
    changed = broken(columns, "null_vector", list(range(4, 360)))
    with pytest.raises(StoreError) as refused:
        read(save(**changed), tmp_path)
    assert "356 of 360 rows (98.89 %) would be lost, but at most 1 % may be: 356 have a null vector" in str(
        refused.value
    )
    each_its_own = [f"row {number}" for number in range(360)]
    with pytest.raises(StoreError, match=r"360 of 360 rows \(100 %\) would be lost.* with --min-chunks 1\.$"):
        read(save(document=each_its_own), tmp_path, allow_lost_rows=1.0)
    with pytest.raises(StoreError, match=r"360 are in documents, or parts of documents, with fewer than 13 chunks"):
        read(save(), tmp_path, min_chunks=13)
    mixed = broken(columns, "null_vector", [1, 2, 3]) | {
        "document": broken(columns, "null_document", [5, 6, 7, 8])["document"]
    }
    with pytest.raises(
        StoreError, match=r"4 have no document, 3 have a null vector, 1 are in documents.* Fill the column"
    ):
        read(save(**mixed), tmp_path)


def test_documents_shorter_than_asked_are_reported_but_not_limited(
    save: Save, columns: dict[str, Any], tmp_path: Path
) -> None:
    names = ["a"] * 5 + columns["document"][5:]
    positions = [*range(5), *columns["position"][5:]]
    store = read(save(document=names, position=positions), tmp_path, min_chunks=6)
    assert store.manifest["lost_rows"] == {"short_document": 5} and "a" not in store.documents.ids
    assert len(read(save(document=names, position=positions), tmp_path, min_chunks=1).vectors) == 360


def test_rows_with_one_position_are_copies_or_an_error(save: Save, columns: dict[str, Any], tmp_path: Path) -> None:
    doubled = {name: [*values, *values[30:33]] for name, values in columns.items()}
    assert read(save(**doubled), tmp_path).manifest["lost_rows"] == {"repeated_vector": 3}
    # A row without a vector gives way to one that has its position.
    doubled["vector"][30] = None
    store = read(save(**doubled), tmp_path)
    assert store.manifest["lost_rows"] == {"null_vector": 1, "repeated_vector": 2} and len(store.documents) == 30
    columns = dict(columns, position=[0, 0, *columns["position"][2:]])
    with pytest.raises(
        StoreError, match=r"rows 1 and 2 have the same position in the same document, but other vectors"
    ):
        read(save(**columns), tmp_path)


def test_a_row_that_is_neither_stored_nor_counted_is_an_internal_error(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = {fate: reason for fate, reason in rows._REASONS.items() if fate != rows.SHORT}
    monkeypatch.setattr(rows, "_REASONS", reasons)
    with pytest.raises(RuntimeError, match="360 rows were read, but 0 are stored and 0 left out"):
        read(save(), tmp_path, min_chunks=13)
    with pytest.raises(RuntimeError):
        require_balance("x", 5, 3, 1)


@pytest.mark.parametrize(("lost", "read", "percent", "accept"), [
    (1, 10**6, "less than 0.01 %", "1e-06"), (2, 3, "66.67 %", "0.67"), (10**6 - 1, 10**6, "more than 99.99 %", "1"),
])  # fmt: skip
def test_shares_are_never_rounded_to_nothing_or_all(lost: int, read: int, percent: str, accept: str) -> None:
    with pytest.raises(StoreError) as refused:
        require_few_lost("x", "rows", read, [LostRows("a", lost, "b", "C.")], 0)
    assert f"({percent})" in str(refused.value) and str(refused.value).endswith(f"--allow-lost-rows {accept}.")


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Store]:
    """Build a store of 100 documents, some of which are changed by ``texts(number) -> paragraphs``."""

    def build(texts: Callable[[int], list[str]], **options: Any) -> Store:
        documents = [{"id": f"d{number}", "paragraphs": texts(number)} for number in range(100)]
        (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
        return nextvec.data_build(tmp_path / "t.jsonl", out=tmp_path / "s", dimensions=4, quiet=True, **options)

    return build


def words(number: int) -> list[str]:
    rng = np.random.default_rng(number)
    return [" ".join(rng.choice(["alpha", "beta", "gamma", "delta", "omega"], 12)) + f" {number}" for _ in range(3)]


def test_a_build_from_text_counts_documents_without_text(
    build: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(number: int) -> list[str]:
        return ["", ""] if number == 7 else words(number)

    def many(number: int) -> list[str]:
        return ["", ""] if number < 60 else ["Too short."] if number < 90 else words(number)

    with pytest.raises(StoreError) as refused:
        build(many)
    message = str(refused.value)
    assert (
        "90 of 100 documents (90 %) would be lost, but at most 1 % may be: 60 have no text, 30 have no chunk" in message
    )
    assert "30 have no chunk of 40 characters. Check that the right field is read" in message
    monkeypatch.setattr(build_counts, "WINDOW_CHUNKS", 3)
    store = build(many, allow_lost_rows=0.9, val=0.5)
    assert store.manifest["lost_rows"] == {"without_text": 60, "without_chunks": 30}
    store.path.rename(tmp_path / "moved")
    store = build(few)
    assert store.manifest["lost_rows"] == {"without_text": 1}
    assert store.manifest["notices"][0].endswith("t.jsonl: 1 of 100 documents (1 %) were left out: 1 have no text")


def test_a_build_from_text_that_keeps_hardly_any_chunk_is_refused(build: Callable[..., Store]) -> None:
    """Repeats and short chunks are dropped on purpose, but not when they are most of the text."""
    with pytest.raises(
        StoreError, match=r"chunks \(66\.\d+ %\) would be lost, but at most 50 % may be: .* repeat another"
    ):
        build(lambda number: ["The same category on each of the rows of a table."] * 2 + words(number)[:1])
    with pytest.raises(StoreError, match=r"200 are shorter than 40 characters\. Lower the limit with --min-chars"):
        build(lambda number: ["short", "words", *words(number)[:1]])


def test_a_build_that_loses_count_is_an_internal_error(
    build: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = store_tables.count_repeats
    monkeypatch.setattr(store_tables, "count_repeats", lambda *rows: dict.fromkeys(counted(*rows), 0))
    with pytest.raises(RuntimeError, match="rows were read"):
        build(lambda number: [*words(number), *words(0)])
