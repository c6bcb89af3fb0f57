"""Read documents from a dataset of the Hugging Face hub, or from a folder that the package `datasets` can load.

    hf:owner/name        hf:owner/name:config        hf:owner/name:config:split        hf:./folder

Rows are streamed: only the rows that are read are downloaded. The default split is `train`, or the only one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from nextvec.data.documents import Columns, Document
from nextvec.data.readers.rows import Row, RowReader
from nextvec.errors import CorpusError, MissingExtraError, NextvecError, one_line

T = TypeVar("T")


def read_hub(source: str, columns: Columns) -> Generator[Document, None, None]:
    """Read the documents of a dataset, one per row; their default source is the last part of the dataset's name.

    Raises MissingExtraError without the package `datasets`, CorpusError for any error of it or of the hub.
    """
    reader = RowReader(_short_name(source), columns)
    rows = _reading(source, lambda: iter(_open_dataset(source)))
    yield from reader.read(_checked_rows(rows, source, reader), reader.default_source)
    yield from reader.grouped()


def read_hub_batches(source: str, batch_rows: int) -> tuple[str, Iterator[pa.Table]]:
    """Return the last part of a dataset's name, and its rows as Arrow tables of at most `batch_rows` rows.

    Raises the errors of `read_hub` when the first table is read.
    """
    tables = _reading(source, lambda: _open_dataset(source).with_format("arrow").iter(batch_size=batch_rows))
    return _short_name(source), tables


def _checked_rows(rows: Iterable[dict[str, Any]], source: str, reader: RowReader) -> Iterator[Row]:
    """Number the rows. The first one decides whether the named fields exist."""
    for number, values in enumerate(rows, start=1):
        where = f"{source}, row {number}"
        if number == 1:
            reader.check(values, where)
        yield Row(number, where, values)


def _parse(source: str) -> tuple[str, str | None, str | None]:
    """Return name, config and split of ``hf:name[:config[:split]]``."""
    name, *options = source.removeprefix("hf:").split(":")
    if not name or len(options) > 2:
        raise CorpusError(
            f"{source}: malformed name. Write hf:owner/name, hf:owner/name:config or hf:owner/name:config:split."
        )
    config, split = [*options, "", ""][:2]
    return name, config or None, split or None


def _short_name(source: str) -> str:
    name, _, _ = _parse(source)
    return Path(name).name or name


def _open_dataset(source: str) -> Any:
    """Return the streamed rows of a dataset: of the split that is named, or else of train or the only split."""
    name, config, split = _parse(source)
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "hub", f"reading {source}") from error
    if split is not None:
        return datasets.load_dataset(name, config, split=split, streaming=True)
    # Prefer train; a dataset with a single split needs no choice either.
    splits = datasets.load_dataset(name, config, streaming=True)
    split = "train" if "train" in splits else next(iter(splits)) if len(splits) == 1 else None
    if split is None:
        raise CorpusError(f"{source}: has the splits {', '.join(splits)}. Choose one: hf:{name}:{config or ''}:SPLIT.")
    return splits[split]


def _reading(source: str, open_rows: Callable[[], Iterator[T]]) -> Iterator[T]:
    """Yield what `open_rows` returns; any error of the hub becomes a CorpusError."""
    try:
        yield from open_rows()
    except NextvecError:
        raise
    except Exception as error:
        raise CorpusError(
            f"{source}: the dataset can't be read: {one_line(error)}. Check the name and the network."
        ) from error
