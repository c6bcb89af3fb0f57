from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from nextvec.data.documents import Columns, Document
from nextvec.data.readers import read_documents
from nextvec.errors import CorpusError, MissingExtraError


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return the package, without network access."""
    module = pytest.importorskip("datasets", reason="needs the extra 'hub' (pip install 'nextvec[hub]')")

    def refuse(*_: object) -> None:
        raise AssertionError("a test must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    return module


def write(path: Path, *rows: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(source: str, limit: int | None = None, **columns: str) -> list[Document]:
    return list(read_documents(source, Columns(**columns), limit=limit))


def refuse(source: str, **columns: str) -> str:
    with pytest.raises(CorpusError) as caught:
        read(source, **columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_that_datasets_can_load(datasets: Any, tmp_path: Path) -> None:
    write(
        tmp_path / "news" / "train.jsonl",
        {"id": 1, "title": "A", "text": "p\n\nq"},
        {"id": 2, "title": "B", "text": "r"},
    )
    assert read("hf:./news") == [Document("1", "A", "news", ("p", "q")), Document("2", "B", "news", ("r",))]
    assert read(f"hf:{tmp_path / 'news'}::train", limit=1)[0].id == "1"


def test_columns_and_paragraph_lists(datasets: Any, tmp_path: Path) -> None:
    write(tmp_path / "books" / "data.jsonl", {"name": "N", "parts": ["a", "", "b"], "book": "B"})
    assert read("hf:./books", title="name", paragraphs="parts", group="book") == [
        Document("books-1", "N", "books", ("a", "", "b"), "B")
    ]
    assert refuse("hf:./books") == (
        "hf:./books, row 1: has no field 'text' or 'paragraphs' (fields: book, name, parts). "
        "Name the field of the text with --columns text=NAME, or paragraphs=NAME for a list."
    )


def test_the_default_split_is_train_or_the_only_one(datasets: Any, tmp_path: Path) -> None:
    write(tmp_path / "one" / "test.jsonl", {"text": "the only split"})
    assert read("hf:./one")[0].paragraphs == ("the only split",)
    write(tmp_path / "two" / "test.jsonl", {"text": "from test"})
    write(tmp_path / "two" / "validation.jsonl", {"text": "from validation"})
    assert refuse("hf:./two") == "hf:./two: has the splits validation, test. Choose one: hf:./two::SPLIT."
    assert read("hf:./two::test")[0].paragraphs == ("from test",)
    write(tmp_path / "two" / "train.jsonl", {"text": "from train"})
    assert read("hf:./two")[0].paragraphs == ("from train",)
    assert refuse("hf:./two::nothing").startswith("hf:./two::nothing: the dataset can't be read: ")


def test_rows_are_streamed(datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x" / "train.jsonl", {"text": "one"}, {"text": "two"})
    streaming = []
    original = datasets.load_dataset

    def spy(*arguments: object, **options: object) -> object:
        streaming.append(options["streaming"])
        return original(*arguments, **options)

    monkeypatch.setattr(datasets, "load_dataset", spy)
    read("hf:./x", limit=1)
    read("hf:./x::train", limit=1)
    assert streaming == [True, True]


@pytest.mark.parametrize("source", ["hf:./missing", "hf:./news:nothing"])
def test_a_missing_dataset_is_a_one_line_error(datasets: Any, tmp_path: Path, source: str) -> None:
    write(tmp_path / "news" / "train.jsonl", {"text": "x"})
    assert refuse(source).startswith(f"{source}: the dataset can't be read: ")


def test_an_error_while_reading_is_a_one_line_error(datasets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> Any:
        yield {"text": "fine"}
        raise ConnectionError("the hub\n  went away")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"train": rows()})
    documents = read_documents("hf:owner/name")
    assert next(documents) == Document("name-1", "name-1", "name", ("fine",))
    with pytest.raises(
        CorpusError,
        match=r"^hf:owner/name: the dataset can't be read: the hub went away\. Check the name and the network\.$",
    ):
        next(documents)


@pytest.mark.parametrize("source", ["hf:", "hf::config", "hf:a:b:c:d"])
def test_a_malformed_name_is_refused(source: str) -> None:
    assert refuse(source) == (
        f"{source}: malformed name. Write hf:owner/name, hf:owner/name:config or hf:owner/name:config:split."
    )


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        MissingExtraError, match=r"^reading hf:a/b needs the package datasets: pip install 'nextvec\[hub\]'$"
    ):
        read("hf:a/b")
