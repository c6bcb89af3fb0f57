"""The leaderboard: a Markdown table of runs in the operator's row form, each with its best baseline beside it.

The truth is a list of entries, kept as JSON beside the table; the table is rendered from it. Lines of its file that no
entry made (somebody's own rows and text) are kept as they are. Pure functions of plain values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from nextvec.core.formatting import COLORS, SYMBOLS, Status
from nextvec.core.loss_terms import LOSS_TERMS, requested_shares
from nextvec.evaluation.results import Estimate

HEADINGS = ("model", "val cosine", "ood cosine", "latency", "parameters", "loss", "date")
ABSENT = "–"
FORMAT_VERSION = 1

Sort = Literal["val", "ood", "latency", "parameters", "gain", "date", "name"]
_HIGHEST_FIRST = {"val", "ood", "gain", "date"}

_OPENING = (
    "# Leaderboard",
    "",
    "Scores are comparable between rows of the same data only; `nextvec leaderboard show` adds the gains over the best "
    "baseline. Kept by `nextvec leaderboard add`; rows that were added by hand stay.",
    "",
)


@dataclass(frozen=True)
class BestBaseline:
    """The baseline of the highest cosine on val, and what it scores on both splits."""

    name: str
    val: float
    ood: float | None


@dataclass(frozen=True)
class Entry:
    """One run: what its row shows, and what stands behind it."""

    run: str
    """Names the run wherever its folder is: adding it again replaces its entry."""
    name: str
    data: str
    """Names the windows it was judged on: runs judged on the same ones share a baseline row."""
    data_label: str
    """The data in a word, such as 790k."""
    val: float
    ood: float | None
    latency: float
    """Milliseconds for one window, the median."""
    latency_p95: float
    device: str
    parameters: int
    loss: str
    date: str
    status: Status
    """The verdict's."""
    gains: dict[str, Estimate]
    """By split: the gain over the split's best baseline."""
    baseline: BestBaseline

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Entry:
        """The inverse of `to_dict`. Raises KeyError or TypeError for anything else."""
        gains = {split: Estimate(**gain) for split, gain in values["gains"].items()}
        return cls(**{**values, "gains": gains, "baseline": BestBaseline(**values["baseline"])})


@dataclass(frozen=True)
class Leaderboard:
    """The entries and what else stands in the table's file."""

    table: str
    """The Markdown file."""
    entries: tuple[Entry, ...] = ()
    above: tuple[str, ...] = _OPENING
    own_rows: tuple[str, ...] = ()
    """Rows that somebody wrote by hand, kept below the others."""
    below: tuple[str, ...] = ()
    sort: Sort = "val"

    def to_dict(self) -> dict[str, Any]:
        """The entries in the order shown, and the rows that were written by hand."""
        rows = [row.entry.to_dict() for row in rows_of(self) if row.kind == "run" and row.entry]
        return {"table": self.table, "sort": self.sort, "runs": rows, "own_rows": list(self.own_rows)}


@dataclass(frozen=True)
class Row:
    """A row of the table: its seven cells as text, and the figures that it is sorted by."""

    kind: Literal["run", "baseline", "own"]
    cells: tuple[str, ...]
    figures: dict[str, float | str | None]
    entry: Entry | None = None


def with_entry(board: Leaderboard, entry: Entry) -> Leaderboard:
    """The board with an entry more, in the place of an older one of the same run."""
    others = tuple(old for old in board.entries if old.run != entry.run)
    return Leaderboard(board.table, (*others, entry), board.above, board.own_rows, board.below, board.sort)


def read_board(table: str, entries: Sequence[Entry], text: str | None, sort: Sort = "val") -> Leaderboard:
    """The board of some entries and the `text` of its file (None: there is none), which may have lines of its own."""
    if text is None:
        return Leaderboard(table, tuple(entries), sort=sort)
    lines = text.splitlines()
    start = next((number for number, line in enumerate(lines) if split_row(line) == HEADINGS), None)
    if start is None:  # a file of somebody's own: the table goes below what stands there
        return Leaderboard(table, tuple(entries), (*lines, ""), sort=sort)
    end = start
    while end < len(lines) and lines[end].lstrip().startswith("|"):
        end += 1
    made = {split_row(_line(row.cells)) for row in _made_rows(entries)}
    first = start + 2 if lines[start + 1 : start + 2] and _is_rule(lines[start + 1]) else start + 1
    rows = [line for line in lines[first:end] if split_row(line) not in made]
    return Leaderboard(table, tuple(entries), tuple(lines[:start]), tuple(rows), tuple(lines[end:]), sort)


def leaderboard_markdown(board: Leaderboard) -> str:
    """The table's file: what stands above, the rows by val cosine, those written by hand, what stands below."""
    rows = [_line(row.cells) for row in _sorted(_made_rows(board.entries), "val")]
    table = [_line(HEADINGS), "| --- | ---: | ---: | ---: | ---: | --- | --- |", *rows, *board.own_rows]
    return "\n".join([*board.above, *table, *board.below]) + "\n"


def leaderboard_view(board: Leaderboard) -> Group:
    """The table for a terminal, with each run's light and gain over the best baseline beside it."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=0)  # narrow: nine figures must fit in 100 columns
    table.add_column("model", overflow="fold")
    for heading in ("val", "ood", "latency", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("loss", overflow="fold")
    table.add_column("date", no_wrap=True)
    table.add_column("gain on val [95 %]", no_wrap=True)
    for row in rows_of(board):
        name, *cells = (Text(unescaped(cell)) for cell in row.cells)
        if row.kind == "baseline":
            name.right_crop(len(_BASELINE_MARK))
        table.add_row(name, *cells, _gain_cell(row), style="dim" if row.kind == "baseline" else "")
    devices = ", ".join(sorted({entry.device for entry in board.entries}))
    notes = ["gain: over the best baseline of the same windows; scores on different data can't be compared"]
    if devices:
        notes.append(f"latency: median for one window on {devices}; size: parameters; light: the run's verdict")
    if any(SYNTHETIC in entry.name for entry in board.entries):
        notes.append("names with 'synthetic': synthetic vectors, which prove nothing about real text")
    return Group(table, "", *(Text(note, style="dim") for note in notes))


def rows_of(board: Leaderboard) -> list[Row]:
    """All rows in the board's order: runs, the best baseline of each run's data, and those written by hand."""
    own = [_own_row(cells) for line in board.own_rows if len(cells := split_row(line)) == len(HEADINGS)]
    return _sorted([*_made_rows(board.entries), *own], board.sort)


SYNTHETIC = "synthetic"


def data_label(vectors: int, *, synthetic: bool) -> str:
    """The data in a word: thousands of vectors, and whether they are synthetic."""
    label = f"{vectors // 1000}k" if vectors >= 1000 else str(vectors)
    return f"{label}-{SYNTHETIC}" if synthetic else label


def loss_label(objective: Mapping[str, Any]) -> str:
    """The loss in a word: the terms that have at least 5 % of all weight, such as MSE+InfoNCE."""
    shares = requested_shares(objective)
    return "+".join(term.label for term in LOSS_TERMS if shares.get(term.name, 0.0) >= 0.05)


def escaped(text: str) -> str:
    """A table cell that shows `text` as it is and can't end the cell or the row."""
    return re.sub(r"([\\`*\[\]<>|&])", r"\\\1", " ".join(text.split()))


def unescaped(cell: str) -> str:
    """The text that a cell shows."""
    return re.sub(r"\\([\\`*\[\]<>|&])", r"\1", cell)


def split_row(line: str) -> tuple[str, ...]:
    """The cells of a Markdown table's row, as they are written; () for a line that is none."""
    line = line.strip()
    if not (len(line) > 1 and line.startswith("|") and line.endswith("|")):
        return ()
    return tuple(cell.strip() for cell in _CELL.findall(line[1:]))


_CELL = re.compile(r"((?:[^\\|]|\\.)*)\|")
"""Text up to a bar that no backslash escapes."""
_BASELINE_MARK = " (baseline)"


def _made_rows(entries: Sequence[Entry]) -> list[Row]:
    """The rows of some entries: each run, then the best baseline of each data."""
    rows = [_run_row(entry) for entry in entries]
    best: dict[str, Entry] = {}
    for entry in entries:  # one row for the windows that several runs share
        if entry.data not in best or entry.baseline.val > best[entry.data].baseline.val:
            best[entry.data] = entry
    return rows + [_baseline_row(entry) for entry in best.values()]


def _run_row(entry: Entry) -> Row:
    cells = (
        escaped(entry.name), _cosine(entry.val), _cosine(entry.ood), f"{entry.latency:.2f}ms",
        short_count(entry.parameters), entry.loss, entry.date,
    )  # fmt: skip
    gain = entry.gains["val"].value if "val" in entry.gains else None
    figures = {
        "val": entry.val, "ood": entry.ood, "latency": entry.latency, "parameters": entry.parameters, "gain": gain,
        "date": entry.date, "name": entry.name.lower(),
    }  # fmt: skip
    return Row("run", cells, figures, entry)


def _baseline_row(entry: Entry) -> Row:
    baseline = entry.baseline
    name = f"{baseline.name}_{entry.data_label}"
    cells = (
        escaped(name) + _BASELINE_MARK, _cosine(baseline.val), _cosine(baseline.ood), ABSENT, ABSENT, "closed form",
        entry.date,
    )  # fmt: skip
    figures = {
        "val": baseline.val, "ood": baseline.ood, "latency": None, "parameters": None, "gain": 0.0, "date": entry.date,
        "name": name.lower(),
    }  # fmt: skip
    return Row("baseline", cells, figures, entry)


def _own_row(cells: tuple[str, ...]) -> Row:
    """A row written by hand; it is sorted by what can be read as a number in it."""
    values = dict(zip(("name", "val", "ood", "latency", "parameters", "loss", "date"), cells, strict=True))
    numbers = {figure: _number(values[figure]) for figure in ("val", "ood", "latency", "parameters")}
    return Row("own", cells, {**numbers, "gain": None, "date": values["date"], "name": values["name"].lower()})


def _sorted(rows: Sequence[Row], sort: str) -> list[Row]:
    """Rows by a figure; those without it come last. Equal ones keep their order."""
    present = [row for row in rows if row.figures[sort] is not None]
    absent = [row for row in rows if row.figures[sort] is None]
    present.sort(key=lambda row: row.figures[sort] or 0, reverse=sort in _HIGHEST_FIRST)
    return present + absent


def _gain_cell(row: Row) -> Text:
    if row.kind != "run" or row.entry is None:
        return Text("baseline" if row.kind == "baseline" else "by hand")
    gain = row.entry.gains.get("val")
    return Text.assemble((SYMBOLS[row.entry.status], COLORS[row.entry.status]), f" {gain or ABSENT}")


def short_count(count: int) -> str:
    """A count in a word: 1,510,912 is 1.5M, 822,400 is 822K."""
    return f"{count / 1e6:.1f}M" if count >= 1_000_000 else f"{count // 1000}K" if count >= 1000 else str(count)


def _cosine(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"


def _number(text: str) -> float | None:
    """The number that a cell begins with, K and M understood."""
    found = re.match(r"-?\d*\.?\d+", text)
    scale = {"K": 1e3, "M": 1e6}.get(text[found.end() : found.end() + 1], 1.0) if found else 1.0
    return float(found[0]) * scale if found else None


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _is_rule(line: str) -> bool:
    """Whether a line is the rule below a table's heading."""
    cells = split_row(line)
    return bool(cells) and all(re.fullmatch(r":?-+:?", cell) for cell in cells)
