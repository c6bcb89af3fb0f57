"""One table, four ways to show it: in a terminal, as Markdown, as HTML and as a pandas DataFrame.

A `View` is a sequence of tables and lines. Everything that nextvec shows of a result is a view, so that the terminal,
the reports and a notebook show the same numbers. Texts are never read as markup, apart from the code in a line that
allows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from nextvec.core.formatting import CODE, COLORS, SYMBOLS, Status, escape_markdown
from nextvec.errors import MissingExtraError

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]


@dataclass(frozen=True)
class Cell:
    """A table cell."""

    text: str = ""
    value: float | str | None = None
    """The number behind the text, for pandas; None means the text itself."""
    status: Status | None = None
    """Shown as a colored symbol before the text."""
    is_best: bool = False
    """Whether it is the best of its column, which is shown in bold."""

    @property
    def plain(self) -> str:
        """The symbol of the status and the text."""
        return f"{SYMBOLS[self.status]} {self.text}".strip() if self.status else self.text


@dataclass(frozen=True)
class Column:
    """A table column."""

    header: str
    align: Literal["left", "right"] = "right"
    overflow: Literal["fold", "ellipsis"] = "ellipsis"
    """How a terminal shows a text that is too wide: on several lines, or cut."""
    max_width: int | None = None
    """Characters in a terminal."""


@dataclass(frozen=True)
class Row:
    """A table row: one cell per column."""

    cells: tuple[Cell, ...]
    style: Literal["", "model", "baseline"] = ""
    """A model is highlighted; a baseline is dimmed."""


MIN_FOLD_WIDTH = 16
"""A text of at least this length needs this width in a column to be readable."""

_ROW_STYLES = {"": "", "model": "cyan", "baseline": "dim"}


@dataclass(frozen=True)
class Table:
    """A table: a title, columns, and rows of cells. The first column names the row."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    is_compact: bool = False
    """Whether a terminal leaves out the space between columns, for tables with many of them."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table for a terminal; where its columns do not fit, one block of lines for each row."""
        table = self.rich()
        widest = table.__rich_measure__(console, options.update(max_width=10_000)).maximum
        yield table if widest - self._slack() <= options.max_width else Group(*self._stacked())

    def _slack(self) -> int:
        """Return by how many characters the columns can shrink and stay readable: only folding ones can."""
        slack = 0
        for index, column in enumerate(self.columns):
            if column.overflow == "fold":
                texts = [column.header, *(row.cells[index].plain for row in self.rows)]
                longest = max(map(cell_len, texts))
                slack += longest - min(longest, MIN_FOLD_WIDTH)
        return slack

    def _stacked(self) -> Iterator[Text]:
        """Yield the rows below each other: the name of a row, then its other cells with their headers."""
        if self.title:
            yield Text(self.title, "bold")
        for row in self.rows:
            name, *cells = row.cells
            yield Text.assemble(_rich_cell(name), style=_ROW_STYLES[row.style])
            for column, cell in zip(self.columns[1:], cells, strict=True):
                if cell.plain:
                    yield Text.assemble(f"  {column.header}: ", _rich_cell(cell), style=_ROW_STYLES[row.style])

    def rich(self) -> RichTable:
        """Return the table with all its columns for a terminal."""
        table = RichTable(
            title=Text(self.title) if self.title else None,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            padding=0 if self.is_compact else (0, 1, 0, 0),
            pad_edge=False,
        )
        for column in self.columns:
            table.add_column(
                column.header,
                justify=column.align,
                no_wrap=column.overflow != "fold",
                overflow=column.overflow,
                max_width=column.max_width,
            )
        for row in self.rows:
            table.add_row(*map(_rich_cell, row.cells), style=_ROW_STYLES[row.style])
        return table

    def markdown(self) -> str:
        """Return the title and the table as GitHub Markdown."""
        rule = ["---" if column.align == "left" else "---:" for column in self.columns]
        lines = [[escape_markdown(column.header) for column in self.columns], rule]
        lines += [[_markdown_cell(cell) for cell in row.cells] for row in self.rows]
        rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"**{escape_markdown(self.title)}**\n\n{rows}" if self.title else rows

    def html(self) -> str:
        """Return the table as HTML without its title; a wide one scrolls. Classes are those of page.css."""
        left = ' class="left"'
        heads = "".join(
            f'<th scope="col"{left if column.align == "left" and index else ""}>{escape(column.header)}</th>'
            for index, column in enumerate(self.columns)
        )
        rows = "".join(self._html_row(row) for row in self.rows)
        return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'

    def _html_row(self, row: Row) -> str:
        name, *cells = row.cells
        texts = []
        for column, cell in zip(self.columns[1:], cells, strict=True):
            classes = " ".join(filter(None, ("best" if cell.is_best else "", "left" if column.align == "left" else "")))
            attributes = f' class="{classes}"' if classes else ""
            texts.append(f"<td{attributes}>{html_status(cell.status)}{escape(cell.text)}</td>")
        start = f'<tr class="{row.style}">' if row.style else "<tr>"
        head = f'<th scope="row" title="{escape(name.text)}">{html_status(name.status)}{escape(name.text)}</th>'
        return f"{start}{head}{''.join(texts)}</tr>"

    def to_pandas(self) -> DataFrame:
        """Return the table as a DataFrame: numbers as floats, statuses as their names.

        Raises MissingExtraError if pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError("pandas", "pandas", "to_pandas()") from error
        columns: dict[str, list[Any]] = {}
        for index, column in enumerate(self.columns):
            cells = [row.cells[index] for row in self.rows]
            columns[column.header] = [_value(cell) for cell in cells]
            # The status has its own column, so that rows can be filtered by it.
            if any(cell.status for cell in cells):
                columns[f"{column.header} status"] = [cell.status and cell.status.value for cell in cells]
        return pandas.DataFrame(columns)


@dataclass(frozen=True)
class Line:
    """A line of text between tables."""

    text: str
    status: Status | None = None
    style: Literal["", "heading", "note", "item", "path"] = ""
    """A heading is bold, a note is dimmed, an item is indented, and a path is never broken into lines."""
    has_code: bool = False
    """Whether text between backticks is code. Names from a run can contain backticks that are not."""

    def rich(self) -> RenderableType:
        """Return the line for a terminal."""
        style = {"heading": "bold", "note": "dim"}.get(self.style, "")
        text = rich_code(self.text, style) if self.has_code else Text(self.text, style)
        if self.status is not None:
            text = Text.assemble((SYMBOLS[self.status], COLORS[self.status]), " ", text)
        if self.style == "path":
            text.no_wrap, text.overflow = True, "ignore"
        return Padding(text, (0, 0, 0, 2)) if self.style == "item" else text

    __rich__ = rich

    def markdown(self) -> str:
        """Return the line as Markdown."""
        text = escape_markdown(self.text)
        if self.has_code:
            # Only simple code becomes code again: nothing in it needed a backslash.
            text = re.sub(r"\\`([\w.= -]+)\\`", r"`\1`", text)
        if self.status is not None:
            return f"{SYMBOLS[self.status]} **{self.status}**: {text}"
        prefix = {"heading": "## ", "item": "- "}.get(self.style, "")
        return prefix + text

    def html(self) -> str:
        """Return the line as HTML; classes are those of page.css."""
        text = html_code(self.text) if self.has_code else escape(self.text)
        text = f"<b>{text}</b>" if self.style == "heading" else text
        attributes = f' class="{self.style}"' if self.style in ("note", "item") else ""
        return f"<p{attributes}>{html_status(self.status)}{text}</p>"


@dataclass(frozen=True)
class View:
    """A result as people see it: tables and lines, from top to bottom."""

    blocks: tuple[Table | Line, ...]

    def rich(self) -> Group:
        """Return the view for a terminal, an empty line around each table."""
        parts: list[RenderableType] = []
        for before, block in zip((None, *self.blocks), self.blocks, strict=False):
            if before is not None and Table in (type(before), type(block)):
                parts.append("")
            parts.append(block)
        return Group(*parts)

    __rich__ = rich

    def markdown(self) -> str:
        """Return the view as Markdown."""
        text = ""
        for before, block in zip((None, *self.blocks), self.blocks, strict=False):
            # Items of one list stay together; everything else is a paragraph.
            together = isinstance(before, Line) and isinstance(block, Line) and before.style == block.style == "item"
            text += ("\n" if together else "\n\n") + block.markdown()
        return text.strip("\n") + "\n"

    def html(self) -> str:
        """Return the view as HTML."""
        return "".join(self._html_blocks())

    def _html_blocks(self) -> Iterator[str]:
        for block in self.blocks:
            if isinstance(block, Table) and block.title:
                yield f"<h3>{escape(block.title)}</h3>"
            yield block.html()

    def to_pandas(self) -> dict[str, DataFrame]:
        """Return the tables by their titles. Raises MissingExtraError if pandas is not installed."""
        return {block.title: block.to_pandas() for block in self.blocks if isinstance(block, Table)}


def text_row(texts: Sequence[str], style: Literal["", "model", "baseline"] = "") -> Row:
    """Return a row of plain texts."""
    return Row(tuple(Cell(text) for text in texts), style)


def columns_of(first: str, *headers: str) -> tuple[Column, ...]:
    """Return a column of names, at the left, and columns of numbers."""
    return (Column(first, "left", "fold"), *(Column(header) for header in headers))


def html_status(status: Status | str | None) -> str:
    """Return the symbol of a status as HTML, with its name for screen readers; empty for None."""
    if not status:
        return ""
    symbol = next((symbol for known, symbol in SYMBOLS.items() if known == status), "")
    name = escape(str(status))
    return f'<span class="status {name}" role="img" aria-label="{name}">{symbol}</span> '


def html_code(text: str) -> str:
    """Return a message as HTML, with the code between backticks as such."""
    return CODE.sub(r"<code>\1</code>", escape(text))


def rich_code(text: str, style: str = "") -> Text:
    """Return a message for a terminal, with the code between backticks in bold."""
    # The pattern has one group, so every second part is code.
    parts = [(part, "bold" if index % 2 else "") for index, part in enumerate(CODE.split(text))]
    return Text.assemble(*parts, style=style)


def _rich_cell(cell: Cell) -> Text:
    text = Text(" ".join(cell.text.split()), style="bold" if cell.is_best else "")
    return Text.assemble((SYMBOLS[cell.status], COLORS[cell.status]), " ", text) if cell.status else text


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.plain)
    return f"**{text}**" if cell.is_best and text else text


def _value(cell: Cell) -> float | str | None:
    """Return what pandas gets for a cell: its number, else its text, else nothing."""
    return cell.value if cell.value is not None else cell.text or None
