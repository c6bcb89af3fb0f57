from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nextvec.data.documents import Columns, Document
from nextvec.data.readers import read_documents
from nextvec.data.readers.streams import SAVE_AS_UTF8
from nextvec.errors import CorpusError

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared" / "corpora"


def write_lines(path: Path, *rows: object) -> Path:
    """Write a .jsonl or .jsonl.gz file; a row that is a str is written unchanged."""
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(path: Path, **columns: str) -> list[Document]:
    return list(read_documents(str(path), Columns(**columns)))


def refuse(path: Path, **columns: str) -> str:
    with pytest.raises(CorpusError) as caught:
        read(path, **columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- jsonl ---


@pytest.mark.parametrize("name", ["news.jsonl", "news.jsonl.gz", "news.JSONL"])
def test_missing_fields_have_defaults(tmp_path: Path, name: str) -> None:
    path = write_lines(
        tmp_path / name,
        {"id": "a", "title": "A", "source": "S", "paragraphs": ["one", "", " two "], "text": "not read", "url": "u"},
        "",
        {"id": 7, "title": None, "text": "p\nq\n\n \nr\n"},
        {"text": "no id", "title": ""},
        {"id": None, "paragraphs": []},
        {"text": None},
    )
    stem = "news"
    assert read(path) == [
        Document("a", "A", "S", ("one", "", " two ")),
        Document("7", "7", stem, ("p\nq", "r")),
        Document(f"{stem}-4", f"{stem}-4", stem, ("no id",)),
        Document(f"{stem}-5", f"{stem}-5", stem, ()),
        Document(f"{stem}-6", f"{stem}-6", stem, ()),
    ]


def test_columns_name_the_fields(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "x.jsonl",
        {"key": "k1", "name": "N", "body": "B", "site": "W", "book": "b1", "paragraphs": ["other"]},
        {"key": "k2", "body": "B", "book": None},
    )
    columns = {"id": "key", "title": "name", "text": "body", "source": "site", "group": "book"}
    assert read(path, **columns) == [Document("k1", "N", "W", ("B",), "b1"), Document("k2", "k2", "x", ("B",), "")]
    # A list's name of one's own goes first as well.
    path = write_lines(tmp_path / "y.jsonl", {"body": "B", "parts": ["P"]})
    assert read(path, text="body", paragraphs="parts")[0].paragraphs == ("P",)


def test_a_byte_order_mark_and_line_separators_in_text_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes("﻿".encode() + '{"text": "one\u2028still one"}\r\n{"text": "two"}'.encode())
    assert [document.paragraphs for document in read(path)] == [("one\u2028still one",), ("two",)]


def test_lone_surrogates_become_replacement_characters(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", '{"id": "\\ud83d", "text": "a \\ud83d\\ude00 b \\ude00 c"}')
    (document,) = read(path)
    assert document.paragraphs == ("a 😀 b � c",)
    document.id.encode()


BROKEN = [
    ('{"text": "x"', "not valid JSON: Expecting ',' delimiter (column 13)"),
    ("nonsense", "not valid JSON: Expecting value (column 1)"),
    ("[" * 100_000, "not readable JSON: "),
    ('["text"]', "is a list, but must be a JSON object with named fields"),
    ('{"id": "z", "body": "b"}', "has no field 'text' or 'paragraphs' (fields: id, body)"),
    ('{"id": "first", "text": "again"}', "duplicate id 'first'. Make the ids unique, or name the column"),
    ('{"id": 1.5, "text": "x"}', "'id' is a float (1.5), but must be a text or an integer"),
    ('{"title": true, "text": "x"}', "'title' is a bool (True), but must be a text or an integer"),
    ('{"text": ["x"]}', "'text' is a list, not a text. Name a list of texts with --columns paragraphs=NAME."),
    (
        '{"paragraphs": "x"}',
        "'paragraphs' is a single text, not a list of texts. Name a single text with --columns text=paragraphs.",
    ),
    ('{"paragraphs": ["x", 1]}', "'paragraphs' is not a list of texts"),
]


@pytest.mark.parametrize(("line", "message"), BROKEN)
@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_a_bad_line_is_refused_with_file_and_line(tmp_path: Path, name: str, line: str, message: str) -> None:
    path = write_lines(tmp_path / name, {"id": "first", "text": "fine"}, "", line)
    assert refuse(path).startswith(f"{path}, line 3: {message}")


def test_invalid_utf8_names_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "fine"}\n{"text": "caf\xe9"}\n')
    assert refuse(path) == f"{path}, line 2: not valid UTF-8 (byte 13 of the line, 0xE9). {SAVE_AS_UTF8}"


def test_an_error_about_columns_names_the_fields_and_the_option(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", {"id": "1", "body": "b", "abstract": "a"})
    assert refuse(path) == (
        f"{path}, line 1: has no field 'text' or 'paragraphs' (fields: abstract, body, id). "
        "Name the field of the text with --columns text=NAME, or paragraphs=NAME for a list."
    )
    assert refuse(path, text="boddy").startswith(f"{path}, line 1: has no field 'boddy' or 'paragraphs' (fields: ")
    for role in ("id", "title", "source", "group", "paragraphs"):
        message = refuse(path, **{"text": "body", role: "nme"})
        assert message == f"{path}, line 1: has no field 'nme' for {role} (fields: abstract, body, id). Fix --columns."


def test_a_group_must_be_in_every_row(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", {"text": "a", "book": "b"}, {"text": "a"})
    assert refuse(path, group="book") == f"{path}, line 2: has no field 'book' for group. Add it to every row."


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_has_no_documents(tmp_path: Path, name: str, content: str) -> None:
    path = write_lines(tmp_path / name, *([content] if content else []))
    assert refuse(path) == f"{path}: has no documents. Check that it is the right source."


def test_a_truncated_gz_is_reported_with_its_position(tmp_path: Path) -> None:
    rows = [{"id": n, "text": f"{n * 7919 % 10_007} " * 50} for n in range(3_000)]
    path = write_lines(tmp_path / "x.jsonl.gz", *rows)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    message = refuse(path)
    assert message.startswith(f"{path}: truncated or damaged after line ")
    assert message.endswith(". Copy or download it again.")
    line = int(message.split("after line ")[1].split(" ")[0].replace(",", ""))
    assert 500 < line < 2_500
    assert len(list(read_documents(str(path), limit=line))) == line  # the reported number of lines is readable


@pytest.mark.parametrize("content", [b"no gzip at all", gzip.compress(b"x" * 99, mtime=0)[:-12], b"\x1f\x8b\x08"])
def test_a_file_that_is_not_gzip_is_reported(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(content)
    assert refuse(path).startswith(f"{path}: truncated or damaged at its start (")


def test_damaged_bytes_in_a_gz_are_reported(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl.gz", *[{"text": f"line {n}"} for n in range(2_000)])
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = b"\xff" * 40
    path.write_bytes(content)
    assert re.match(rf"{re.escape(str(path))}(: truncated or damaged|, line [\d,]+: not valid)", refuse(path))


# --- parquet ---


def test_parquet_reads_lists_and_texts(tmp_path: Path) -> None:
    path = tmp_path / "wiki.parquet"
    columns = {"id": [1, 2, None], "title": ["A", None, "C"], "paragraphs": [["p", ""], [], None], "url": ["u"] * 3}
    pq.write_table(pa.table(columns), path)
    assert read(path) == [
        Document("1", "A", "wiki", ("p", "")),
        Document("2", "2", "wiki", ()),
        Document("wiki-3", "C", "wiki", ()),
    ]
    pq.write_table(pa.table({"id": ["x"], "body": ["p\n\nq"], "book": ["b"], "source": ["s"]}), path)
    assert read(path, text="body", group="book") == [Document("x", "x", "s", ("p", "q"), "b")]


def test_parquet_is_read_in_batches_of_the_required_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(1_000)], "picture": [b"x"] * 1_000}), path)
    batches = []
    original = pq.ParquetFile.iter_batches

    def spy(self: object, **options: object) -> object:
        for batch in original(self, **options):
            batches.append(batch)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    assert len(list(read_documents(str(path), limit=10))) == 10
    assert len(batches) == 1
    assert batches[0].num_rows < 1_000
    assert batches[0].schema.names == ["text"]
    assert [d.paragraphs[0] for d in read_documents(str(path))] == [f"text {n}" for n in range(1_000)]


def test_parquet_problems_name_the_file_and_the_row(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": ["a", "b", "a"], "text": ["x"] * 3}), path)
    assert refuse(path) == (
        f"{path}, row 3: duplicate id 'a'. Make the ids unique, or name the column that all rows of a document share "
        "with --group-by."
    )
    assert refuse(path, title="name") == f"{path}: has no field 'name' for title (fields: id, text). Fix --columns."
    pq.write_table(pa.table({"id": ["a"], "body": ["x"]}), path)
    assert refuse(path).startswith(f"{path}: has no field 'text' or 'paragraphs' (fields: body, id). Name the field")
    pq.write_table(pa.table({"text": [1.5]}), path)
    assert refuse(path).startswith(f"{path}, row 1: 'text' is a float (1.5), not a text")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    assert refuse(path).endswith("has no documents. Check that it is the right source.")


def test_a_damaged_parquet_file_is_a_one_line_error(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(10_000)]}), path)
    whole = path.read_bytes()
    for content in (b"", b"no parquet", whole[: len(whole) // 2], b"PAR1" + bytes(1_000) + whole[-600:]):
        path.write_bytes(content)
        assert refuse(path).startswith(f"{path}: not a readable parquet file")


# --- real files ---


def test_shared_novels_are_aligned_with_their_vectors() -> None:
    path = SHARED / "novels.jsonl.gz"
    if not path.is_file():
        pytest.skip("the shared corpora are not beside this checkout")
    documents = read(path, group="book")
    assert len(documents) == 300
    assert sum(len(document.paragraphs) for document in documents) == 19_550
    assert all(document.group and document.id.startswith(document.group) for document in documents)
