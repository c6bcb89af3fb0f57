"""Read rows from JSON: one object per line (.jsonl, .ndjson), or a list in one file (.json)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nextvec.data.readers.rows import Row, RowReader, describe
from nextvec.data.readers.streams import read_lines, read_text
from nextvec.errors import CorpusError, one_line

_MAX_JSON_BYTES = 512 * 2**20
"""A .json file is in memory as a whole, with its values about ten times as large as the file."""


def read_json_lines(path: Path, reader: RowReader) -> Iterator[Row]:
    """Yield the row of each line; empty lines are skipped. Raises CorpusError with file and line."""
    is_checked = False
    for number, line in read_lines(path):
        if line.isspace():
            continue
        where = f"{path}, line {number}"
        values = _parse(line.rstrip(), where, "Fix the line.")
        if not isinstance(values, dict):
            raise CorpusError(
                f"{where}: is {describe(values)}, but must be a JSON object with named fields. Fix the line."
            )
        if not is_checked:
            reader.check(values, where)
            is_checked = True
        yield Row(number, where, values)


def read_json(path: Path, reader: RowReader) -> Iterator[Row]:
    """Yield the rows of a list of objects or of texts, of an object with one such list, or of one document.

    Raises CorpusError with file and row.
    """
    items = _find_rows(path, reader)
    for number, item in enumerate(items, start=1):
        where = f"{path}, row {number}"
        # A bare text is a document without other fields.
        values = {reader.columns.text: item} if isinstance(item, str) else item
        if not isinstance(values, dict):
            raise CorpusError(f"{where}: is {describe(values)}, but must be an object or a text. Fix the row.")
        if number == 1 and not isinstance(item, str):
            reader.check(values, where)
        yield Row(number, where, values)


def _find_rows(path: Path, reader: RowReader) -> list[Any]:
    text = read_text(path)
    if len(text) > _MAX_JSON_BYTES:
        raise CorpusError(
            f"{path}: has {len(text):,} characters, too many for one JSON value. "
            "Write one object per line: jq -c '.[]' OLD.json > NEW.jsonl."
        )
    content = _parse(text, str(path), "Fix the file.")
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise CorpusError(f"{path}: is {describe(content)}, but must be a list of objects or texts. Fix the file.")
    if reader.columns.text in content or reader.columns.paragraphs in content:
        return [content]  # one document
    lists = [name for name, value in content.items() if isinstance(value, list)]
    if len(lists) == 1:
        rows: list[Any] = content[lists[0]]
        return rows
    if lists:
        raise CorpusError(
            f"{path}: has the lists {', '.join(lists)}, so its rows are ambiguous. Keep one list in the file."
        )
    reader.check(content, str(path))  # raises: neither a document nor a list
    raise AssertionError


def _parse(text: str, where: str, remedy: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno:,}, " if error.lineno > 1 else ""
        raise CorpusError(f"{where}: not valid JSON: {error.msg} ({line}column {error.colno:,}). {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where}: not readable JSON: {one_line(error)}. {remedy}") from error
