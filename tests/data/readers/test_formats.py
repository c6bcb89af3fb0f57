"""The same three documents in every format and compression, and what is refused in each."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nextvec.data.documents import Columns, Document
from nextvec.data.readers import _common, read_documents
from nextvec.data.readers.html_pages import html_paragraphs
from nextvec.data.readers.streams import SAVE_AS_UTF8
from nextvec.errors import CorpusError, InputError

DOCUMENTS = [
    Document("a", "First, of three", "notes", ("One paragraph.", 'Another, with "quotes"\nand two lines.')),
    Document("b", "Zweites", "notes", ("Ein Absatz über Öl; mit Semikolon.", "Noch einer\tmit Tabulator.")),
    Document("c", "第三", "notes", ("これは段落です。", "もう一つの段落です。")),
]

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
}


def rows() -> list[dict[str, object]]:
    return [{"id": d.id, "title": d.title, "source": d.source, "paragraphs": list(d.paragraphs)} for d in DOCUMENTS]


def separated(delimiter: str) -> str:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(["id", "title", "source", "text"])
    writer.writerows([d.id, d.title, d.source, "\n\n".join(d.paragraphs)] for d in DOCUMENTS)
    return file.getvalue()


def lines() -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows())


TABLES: dict[str, Callable[[], str]] = {
    ".jsonl": lines,
    ".ndjson": lines,
    ".json": lambda: json.dumps(rows()),
    ".csv": lambda: separated(","),
    ".tsv": lambda: separated("\t"),
}

TEXTS: dict[str, Callable[[Document], str]] = {
    ".txt": lambda document: "\n\n".join(document.paragraphs),
    ".md": lambda document: f"# {document.title}\n\n" + "\n\n".join(document.paragraphs),
    ".html": lambda document: (
        f"<html><head><title>Site</title><style>p {{}}</style></head><body><nav>Home</nav><h1>{document.title}</h1>"
        + "".join(f"<p>{text}</p>" for text in document.paragraphs)
        + "<script>x()</script><footer>Imprint</footer></body></html>"
    ),
}
TEXTS[".htm"] = TEXTS[".html"]


def write(path: Path, text: str | bytes, compression: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(COMPRESSORS[compression](text if isinstance(text, bytes) else text.encode()))
    return path


def refuse(path: Path, columns: Columns = Columns()) -> str:
    with pytest.raises(CorpusError) as caught:
        list(read_documents(str(path), columns))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- every format ---


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("kind", TABLES)
def test_a_table_in_any_format_and_compression_has_the_same_documents(
    kind: str, compression: str, tmp_path: Path
) -> None:
    path = write(tmp_path / f"any{kind}{compression}", TABLES[kind](), compression)
    assert list(read_documents(str(path))) == DOCUMENTS


def test_a_parquet_file_has_the_same_documents(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rows()), tmp_path / "any.parquet")
    assert list(read_documents(str(tmp_path / "any.parquet"))) == DOCUMENTS


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("kind", TEXTS)
def test_text_in_any_format_and_compression_has_the_same_documents(kind: str, compression: str, tmp_path: Path) -> None:
    for document in DOCUMENTS:
        write(tmp_path / "notes" / f"{document.id}{kind}{compression}", TEXTS[kind](document), compression)
    documents = list(read_documents(str(tmp_path / "notes")))
    # In Markdown and HTML, line breaks within a paragraph are spaces; a .txt file has no heading.
    expected = [
        (
            f"{d.id}{kind}{compression}",
            d.id if kind == ".txt" else d.title,
            "notes",
            d.paragraphs if kind == ".txt" else tuple(" ".join(text.split()) for text in d.paragraphs),
        )
        for d in DOCUMENTS
    ]
    assert [(d.id, d.title, d.source, d.paragraphs) for d in documents] == expected


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)
@pytest.mark.parametrize("compression", ["", ".zst"])
@pytest.mark.parametrize("kind", TABLES)
def test_a_byte_order_mark_selects_the_encoding(
    kind: str, compression: str, mark: bytes, encoding: str, tmp_path: Path
) -> None:
    path = write(tmp_path / f"any{kind}{compression}", mark + TABLES[kind]().encode(encoding), compression)
    assert list(read_documents(str(path))) == DOCUMENTS


def test_json_may_be_a_list_of_texts_an_object_with_one_list_or_one_document(tmp_path: Path) -> None:
    texts = ["One.\n\nTwo.", "Three."]
    expected = [("x-1", ("One.", "Two.")), ("x-2", ("Three.",))]
    for content in (texts, {"version": 1, "data": texts}, {"data": [{"text": text} for text in texts]}):
        path = write(tmp_path / "x.json", json.dumps(content))
        assert [(d.id, d.paragraphs) for d in read_documents(str(path))] == expected
    path = write(tmp_path / "x.json", json.dumps({"id": "k", "paragraphs": ["One.", "Two."], "tags": ["t"]}))
    assert [(d.id, d.paragraphs) for d in read_documents(str(path))] == [("k", ("One.", "Two."))]


def test_a_field_of_a_csv_file_may_be_as_long_as_a_document(tmp_path: Path) -> None:
    text = "A sentence of text. " * 100_000
    path = write(tmp_path / "x.csv", f'text\n"{text}"\n')
    assert next(read_documents(str(path))).paragraphs == (text.strip(),)


@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv"])
def test_thirty_megabytes_in_one_line_take_seconds_and_lose_no_text(kind: str, tmp_path: Path) -> None:
    sentence = "Numbers such as 4711 follow the words of this sentence. "
    text = (sentence * (30_000_000 // len(sentence))).strip()
    content = {".jsonl": f'{{"text": "{text}"}}\n', ".csv": f'id,text\n1,"{text}"\n'}.get(kind, text)
    path = write(tmp_path / f"x{kind}", content)
    started = time.process_time()
    (document,) = read_documents(str(path))
    assert time.process_time() - started < 10
    assert document.paragraphs == (text,)


# --- folders ---


def test_a_folder_may_mix_texts_and_tables(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    write(folder / "b.txt", "Text.")
    write(folder / "rows.jsonl", '{"text": "Row one."}\n{"id": "named", "text": "Row two.", "source": "S"}\n')
    write(folder / "sub" / "more.csv.gz", "text\nRow three.\n", ".gz")
    pq.write_table(pa.table({"text": ["Row four."]}), folder / "sub" / "p.parquet")
    documents = list(read_documents(str(folder)))
    assert [(d.id, d.source, d.paragraphs) for d in documents] == [
        ("b.txt", "notes", ("Text.",)),
        ("rows-1", "notes", ("Row one.",)),
        ("named", "S", ("Row two.",)),
        ("sub/more-1", "notes", ("Row three.",)),
        ("sub/p-1", "notes", ("Row four.",)),
    ]


def test_an_id_in_two_files_of_a_folder_is_refused(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write(tmp_path / name, '{"id": "same", "text": "Text."}\n')
    assert refuse(tmp_path).startswith(f"{tmp_path / 'b.jsonl'}, line 1: duplicate id 'same'. Make the ids unique")


def test_skipped_files_of_a_folder_are_counted_and_named(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "Text.")
    write(tmp_path / "labels.csv", "name,label\nx,1\n")
    for name in ("a.pdf", "b.pdf", "c.png", "LICENSE", ".hidden.txt", "~$a.docx", "a.txt.lock", ".git/x.txt"):
        write(tmp_path / name, "x")
    # Folders that nextvec wrote
    for name in (
        "store/manifest.json",
        "store/documents.parquet",
        "store/x.jsonl",
        "run/recipe.toml",
        "run/events.jsonl",
    ):
        write(tmp_path / name, "{}")
    notes: list[str] = []
    assert [d.id for d in read_documents(str(tmp_path), report=notes.append)] == ["a.txt"]
    assert notes == [
        f"{tmp_path}: skipped 2 .pdf files, 1 .png file, 1 extensionless file, 1 table without a column of text "
        "(labels.csv), 1 run folder, 1 vector store, 4 hidden or temporary files. Convert .pdf files first with "
        "pdftotext (or docling, markitdown), for example: pdftotext FILE.pdf FILE.txt"
    ]


def test_a_store_is_not_a_folder_of_text(tmp_path: Path) -> None:
    for name in ("manifest.json", "vectors-00001-of-00002.npy", "documents.parquet"):
        write(tmp_path / name, "")
    assert refuse(tmp_path) == f"{tmp_path}: is a vector store, not a folder of text. Name the folder of the text."


def test_tables_of_a_folder_without_any_text_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", "name,label\nx,1\n")
    assert refuse(tmp_path).startswith(
        f"{tmp_path / 'x.csv'}: has no field 'text' or 'paragraphs' (fields: label, name)"
    )


def test_file_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write(folder / os.fsdecode(b"na\xefve.txt"), "Text.")
    write(folder / os.fsdecode(b"r\xf6ws.jsonl"), '{"text": "Row."}')
    documents = list(read_documents(str(folder)))
    assert documents == [
        Document("na\\xefve.txt", "na\\xefve", "caf\\xe9", ("Text.",)),
        Document("r\\xf6ws-1", "r\\xf6ws-1", "caf\\xe9", ("Row.",)),
    ]
    (single,) = read_documents(str(folder / os.fsdecode(b"na\xefve.txt")))
    assert single == Document("na\\xefve.txt", "na\\xefve", "na\\xefve", ("Text.",))


def test_a_file_that_disappears_while_reading_is_one_line(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        write(tmp_path / name, "Text.")
    documents = read_documents(str(tmp_path))
    next(documents)
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    with pytest.raises(CorpusError, match=r"b.txt: can't be read: it was removed or renamed. Run the command again.$"):
        next(documents)


# --- refused ---

CONVERTED = {
    ".pdf": "pdftotext", ".docx": "pandoc", ".epub": "pandoc", ".odt": "pandoc", ".rtf": "pandoc", ".doc": "soffice",
    ".pptx": "markitdown", ".xlsx": "soffice", ".zip": "bsdtar",
}  # fmt: skip


@pytest.mark.parametrize(("kind", "converter"), CONVERTED.items())
def test_other_kinds_of_documents_are_refused_with_a_converter(kind: str, converter: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"my book{kind}", "x")
    message = refuse(path)
    assert message.startswith(f"{path}: {kind} files are not read. Convert it first with ")
    assert f"for example: {converter} " in message
    assert f"'{path}'" in message  # quoted for the shell


BAD_TABLES = [
    ("x.csv", "id,text\n1,a\n2,b,c\n", "{}, row 2 (line 3): has 3 fields, but the header has 2. Quote fields that"),
    ("x.csv", 'id,text\n1,"a\nb\n', "{}, row 1 (line 2): not valid: unexpected end of data. Quote fields"),
    ("x.csv", 'id,text\n1,"a"b\n', "{}, row 1 (line 2): not valid: ',' expected after '\"'. Quote fields"),
    ("x.csv", "id;text\n1;a\n", "{}: its fields are separated by semicolons, not by commas. Use commas in .csv files"),
    ("x.tsv", "id,text\n1,a\n", "{}: its fields are separated by commas, not by tabs. Use commas in .csv files"),
    ("x.csv", "id,body\n1,a\n", "{}: has no field 'text' or 'paragraphs' (fields: body, id). Name the field"),
    ("x.csv", "text,text\na,b\n", "{}: has 2 columns with the name 'text'. Rename them."),
    ("x.csv", "id,text\n,a\n", "{}, row 1 (line 2): 'id' is empty. Give every row a value."),
    ("x.csv", "id,text\n1,a\n1,b\n", "{}, row 2 (line 3): duplicate id '1'."),
    ("x.csv", "id,text\n", "{}: has no documents."),
    ("x.jsonl", '{"id": "", "text": "a"}\n', "{}, line 1: 'id' is empty. Give every row a value."),
    ("x.json", '[{"text": "a"}, 7]', "{}, row 2: is a int (7), but must be an object or a text. Fix the row."),
    ("x.json", '{"a": [1], "b": [2]}', "{}: has the lists a, b, so its rows are ambiguous. Keep one list in the file."),
    ("x.json", '{"a": 1}', "{}: has no field 'text' or 'paragraphs' (fields: a). Name the field of the text"),
    ("x.json", '"text"', "{}: is a single text, but must be a list of objects or texts. Fix the file."),
    ("x.json", '[{"text": "a"},\n]', "{}: not valid JSON: Expecting value (line 2, column 1). Fix the file."),
    ("x.json", "[]", "{}: has no documents."),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_TABLES)
def test_a_bad_table_is_refused_with_file_and_row(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, content)
    assert refuse(path).startswith(message.format(path))


BAD_VALUES = [
    ({"paragraphs": ["a", None]}, "'paragraphs' is not a list of texts: item 2 is null. Remove it, or write an empty"),
    ({"paragraphs": [{"id": 1, "t": "x"}]}, "item 1 is a struct (fields id, t). Name a list of texts with --columns"),
    ({"paragraphs": [["a"], ["b"]]}, "'paragraphs' is not a list of texts: item 1 is a list. Name a list of texts"),
    ({"paragraphs": [1.5]}, "'paragraphs' is not a list of texts: item 1 is a float (1.5)."),
    ({"paragraphs": {"t": "x"}}, "'paragraphs' is a struct (fields t), not a list of texts. Name a list of texts with"),
    (
        {"paragraphs": "x"},
        "'paragraphs' is a single text, not a list of texts. Name a single text with --columns text=",
    ),
    ({"text": ["x"]}, "'text' is a list, not a text. Name a list of texts with --columns paragraphs=NAME."),
    ({"text": {"en": "x"}}, "'text' is a struct (fields en), not a text. Name a field of texts with --columns text="),
    ({"text": 7}, "'text' is a int (7), not a text. Name a field of texts with --columns text=NAME."),
    ({"text": "x", "id": {"n": 1}}, "'id' is a struct (fields n), but must be a text or an integer. Fix the row."),
    ({"text": "x", "title": ["t"]}, "'title' is a list, but must be a text or an integer. Fix the row."),
]


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize(("row", "message"), BAD_VALUES)
def test_a_value_that_is_not_text_is_described(row: dict[str, object], message: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{kind}"
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        write(path, json.dumps([row] if kind == ".json" else row))
    text = refuse(path)
    assert text.startswith(f"{path}, {'line' if kind == '.jsonl' else 'row'} 1: ")
    assert message in text


def test_bytes_in_a_parquet_file_are_described(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": [b"\xff\xfe\x00"]}), path)
    assert refuse(path).startswith(f"{path}, row 1: 'text' is bytes (3 of them), not a text. Name a field of texts")


@pytest.mark.parametrize("kind", [".txt", ".md", ".html", ".jsonl", ".json", ".csv", ".tsv"])
@pytest.mark.parametrize("compression", ["", ".xz"])
def test_latin1_is_refused_with_its_position(kind: str, compression: str, tmp_path: Path) -> None:
    lines = {".jsonl": b'{"text": "fine"}\n', ".csv": b"text\n", ".tsv": b"text\n"}.get(kind, b"")
    content = {".jsonl": b'{"text": "caf\xe9"}', ".json": b'["caf\xe9"]'}.get(kind, b"caf\xe9 au lait")
    path = write(tmp_path / f"x{kind}{compression}", lines + content, compression)
    start = content.index(b"\xe9")
    position = f", line 2: not valid UTF-8 (byte {start} of the line," if lines else f": not valid UTF-8 (byte {start},"
    assert refuse(path) == f"{path}{position} 0xE9). {SAVE_AS_UTF8}"


@pytest.mark.parametrize("kind", [".txt", ".md", ".html", ".jsonl", ".json", ".csv"])
def test_utf16_without_a_byte_order_mark_is_refused(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"x{kind}", "text\nSome text in the encoding of Windows.".encode("utf-16-le"))
    assert refuse(path).startswith(f"{path}: has NUL bytes (the first is byte 1), so it is binary, or UTF-16 without a")


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".csv", ".json"])
def test_truncated_and_damaged_compression_is_refused(kind: str, compression: str, tmp_path: Path) -> None:
    content = "text\n" + "".join(f"Line {n * 7919 % 10_007} of the text.\n" for n in range(5_000))
    if kind in (".jsonl", ".json"):
        content = "".join(json.dumps({"text": line}) + "\n" for line in content.splitlines())
    path = write(tmp_path / f"x{kind}{compression}", content, compression)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"not compressed at all"):
        path.write_bytes(damaged)
        assert re.match(rf"{re.escape(str(path))}: truncated or damaged (after line|at its start|\()", refuse(path))


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", [".txt", ".html", ".jsonl", ".json", ".csv"])
def test_a_decompression_bomb_is_refused(
    kind: str, compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_common, "MIN_BOMB_BYTES", 2**20)  # from 64 MiB, which take seconds to compress
    content = {".jsonl": b'{"text": "x"}\n', ".csv": b"text\n"}.get(kind, b"") + b"y" * 2**22
    message = refuse(write(tmp_path / f"x{kind}{compression}", content, compression))
    assert message.startswith(f"{tmp_path / f'x{kind}{compression}'}: ")
    assert message.endswith("an implausible ratio (possible decompression bomb). It is unsafe to read.")


def test_a_parquet_file_that_is_compressed_again_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet.gz", b"x", ".gz")
    assert refuse(path).startswith(f"{path}: Parquet files are compressed inside and not read when compressed again.")


@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_name_of_a_source_is_refused(source: str) -> None:
    with pytest.raises(InputError, match="source: the name is empty"):
        list(read_documents(source))


# --- rows as chunks ---

CHUNKS = [
    {"page": 10, "book": "B", "name": "", "text": "ten"},
    {"page": 1, "book": "A", "name": "The A", "text": "one\n\none again"},
    {"page": 9, "book": "B", "name": "The B", "text": "nine"},
    {"page": 2, "book": "A", "name": "", "text": "two"},
]


@pytest.mark.parametrize("kind", [".jsonl", ".csv"])
def test_rows_are_grouped_into_documents_and_ordered(kind: str, tmp_path: Path) -> None:
    if kind == ".csv":
        content = "\n".join(["page,book,name,text", *('{page},{book},{name},"{text}"'.format(**row) for row in CHUNKS)])
    else:
        content = "\n".join(map(json.dumps, CHUNKS))
    path = write(tmp_path / f"x{kind}", content)
    columns = Columns(group_by="book", title="name")
    in_file_order = [
        Document("B", "The B", "x", ("ten", "nine")),
        Document("A", "The A", "x", ("one", "one again", "two")),
    ]
    assert list(read_documents(str(path), columns)) == in_file_order
    by_page = Columns(group_by="book", order_by="page", title="name")
    assert [d.paragraphs for d in read_documents(str(path), by_page)] == [
        ("nine", "ten"),
        ("one", "one again", "two"),
    ]


def test_rows_of_a_document_may_be_in_several_files(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "doc,n,text\nx,3,three\nx,1,one\n")
    write(tmp_path / "b.csv", "doc,n,text\nx,2,two\ny,1,other\n")
    documents = list(read_documents(str(tmp_path), Columns(group_by="doc", order_by="n")))
    assert [(d.id, d.paragraphs) for d in documents] == [("x", ("one", "two", "three")), ("y", ("other",))]


def test_texts_are_ordered_naturally(tmp_path: Path) -> None:
    names = ["page 10", "page 9", "3", "-1.5", "20", "page 9b"]
    path = write(tmp_path / "x.jsonl", "\n".join(json.dumps({"d": 1, "n": name, "text": name}) for name in names))
    (document,) = read_documents(str(path), Columns(group_by="d", order_by="n"))
    assert document.paragraphs == ("-1.5", "3", "20", "page 9", "page 9b", "page 10")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"doc": None}, "line 2: 'doc' is null. Name the row's document in that field."),
        ({"doc": ""}, "line 2: 'doc' is empty. Give every row a value."),
        (
            {"n": None},
            "line 2: 'n' is None, but must be a number, a text or a date. Name another column with --order-by",
        ),
        ({"source": "other"}, "line 2: document 'x' has the source 'other', but an earlier row has 'rows'. Give all"),
    ],
)
def test_bad_rows_of_a_document_are_refused(row: dict[str, object], message: str, tmp_path: Path) -> None:
    first = {"doc": "x", "n": 1, "text": "t"}
    path = write(tmp_path / "rows.jsonl", f"{json.dumps(first)}\n{json.dumps(first | row)}\n")
    assert refuse(path, Columns(group_by="doc", order_by="n")).startswith(f"{path}, {message}")


def test_a_missing_column_of_groups_names_the_option(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "text\nt\n")
    message = f"{path}: has no field 'doc' for group_by (fields: text). Fix --group-by."
    assert refuse(path, Columns(group_by="doc")) == message
    with pytest.raises(InputError, match="Name the column of the documents with --group-by"):
        Columns(order_by="n")
    with pytest.raises(InputError, match="column text: the name is empty"):
        Columns(text="")


# --- web pages ---


@pytest.mark.parametrize(
    ("page", "title", "paragraphs"),
    [
        ("<title>T</title><p>One<p>Two", "T", ["One", "Two"]),
        ("<TITLE>T</TITLE><H1>H <b>1</b></H1><h2>Later</h2><div>a<div>b</div>c</div>", "H 1", ["a", "b", "c"]),
        ("<p>a&amp;b&nbsp;&eacute; x<br>y</p>", "", ["a&b é x y"]),
        ("<ul><li>one<li>two<ul><li>three</ul></ul><p>after", "", ["one\ntwo\nthree", "after"]),
        ("<nav><ul><li>Home</ul></nav><p>text</p><aside><p>Ad</p></aside>", "", ["text"]),
        ("<script>if (a < b) '<p>no</p>'</script><style>p{}</style><noscript>no</noscript><p>yes", "", ["yes"]),
        ("<p>a</p><script src='x'/></script><p>b</p><!-- <p>no</p> --><pre>code</pre>", "", ["a", "b"]),
        ("before<nav>Home</nav>after<p>a<script>x</script>b<svg><p>no</svg> c", "", ["before", "after", "ab c"]),
        ("<p title='a > b' data-x=it's>quotes</p><p>isn't</p>", "", ["quotes", "isn't"]),
        ("<title>a <b> c</title><p>x", "a <b> c", ["x"]),
        ("<table><tr><td>cell one<td>cell two</table>", "", ["cell one", "cell two"]),
        ("no tags at all < here & there", "", ["no tags at all < here & there"]),
        ("<form><p>Pages may be one form.</p><button>Send</button></form>", "", ["Pages may be one form."]),
        ("", "", []),
    ],
)
def test_a_page_keeps_its_main_text(page: str, title: str, paragraphs: list[str]) -> None:
    assert html_paragraphs(page) == (title, paragraphs)


def test_a_page_declares_its_encoding(tmp_path: Path) -> None:
    for encoding, meta in (
        ("latin-1", '<meta charset="ISO-8859-1">'),
        ("cp1251", '<meta http-equiv="Content-Type" content="text/html; charset=windows-1251">'),
        ("utf-8", '<meta charset="iso-8859-1">'),  # saved again as UTF-8
    ):
        text = "Привет" if encoding == "cp1251" else "Café"
        path = write(tmp_path / "x.html", f"<head>{meta}</head><p>{text}</p>".encode(encoding))
        assert next(read_documents(str(path))).paragraphs == (text,)


@pytest.mark.parametrize(
    "unit",
    [
        "<",
        "<!--",
        "<a ",
        "</",
        "<p>",
        "<div>",
        "&",
        "<ul><li>",
        "<script>",
        "<![CDATA[",
        "<nav>",
        "<nav></aside>",
        "<a b='",
        "<title>",
    ],
)
def test_hostile_pages_take_linear_time(unit: str) -> None:
    started = time.process_time()
    html_paragraphs(unit * (200_000 // len(unit)))
    assert time.process_time() - started < 5
