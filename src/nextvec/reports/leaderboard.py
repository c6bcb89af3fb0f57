"""The leaderboard: a Markdown table of runs, each next to the best baseline of its data.

`leaderboard.json` is the source of truth. The table in the Markdown file is generated from it and stands between two
markers; the rest of the file belongs to the user and is kept as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nextvec.core.display import Displayable
from nextvec.core.files import make_folder, write_json, write_text
from nextvec.core.formatting import ABSENT, Status, format_count, format_interval, format_number
from nextvec.core.loss_terms import LOSS_TERMS, requested_shares
from nextvec.core.table import Cell, Column, Line, Row, Table, View
from nextvec.errors import InputError
from nextvec.evaluation.results import METRICS_VERSION, Estimate

FORMAT_VERSION = 4
"""Version of leaderboard.json; raised when a field changes its name or its meaning."""

BEGIN, END = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"

_NEW_FILE = (
    "# Leaderboard\n\nScores are comparable between rows of the same data only; `nextvec leaderboard show` adds the "
    "gains over the best baseline.\n`nextvec leaderboard add` writes the table between the two markers; text and rows "
    f"outside of them are kept.\n\n{BEGIN}\n{END}\n"
)

SYNTHETIC = "synthetic"

Sort = Literal["val", "ood", "latency", "parameters", "gain", "date", "name"]
_HIGHEST_FIRST = {"val", "ood", "gain", "date"}

# The runbook's row form: | AMN_790k | 0.560 | 0.641 | 0.55ms | 1.5M | MSE+InfoNCE | 2025-10-30 |
_COLUMNS = (
    Column("model", "left"),
    Column("val cosine"),
    Column("ood cosine"),
    Column("latency"),
    Column("parameters"),
    Column("loss", "left"),
    Column("date", "left"),
)
_TERMINAL_COLUMNS = (
    Column("model", "left", "fold"),
    Column("val"),
    Column("ood"),
    Column("latency"),
    Column("size"),
    Column("loss", "left", "fold"),
    Column("date", "left"),
    Column("gain on val (95 % CI)", "left"),
    Column("seen", "left"),
)


@dataclass(frozen=True)
class BestBaseline:
    """The baseline with the highest cosine on val, and its cosine on both splits."""

    name: str
    val: float
    ood: float | None


@dataclass(frozen=True)
class Entry:
    """One run of the leaderboard."""

    run: str
    """Identifies the run, wherever its folder is: adding it again replaces its entry."""
    name: str
    data: str
    """Identifies the windows of the evaluation; runs on the same windows share a baseline row."""
    data_label: str
    """A short name of the data, such as 790k."""
    val: float
    ood: float | None
    latency: float
    """Milliseconds for one window: the median."""
    latency_p95: float
    device: str
    parameters: int
    loss: str
    date: str
    status: Status
    """The status of the verdict."""
    gains: dict[str, Estimate]
    """Split → gain over the split's best baseline."""
    baseline: BestBaseline
    seen: str
    """`clean`, `35 % seen` (the share of the evaluated rows that the model was trained on), or `unknown`."""
    metrics_version: int
    """Version of the metrics' definitions: rows of two versions cannot be compared."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Entry:
        """Load an entry from the values of `to_dict`. Raises KeyError, TypeError or ValueError for other values."""
        # JSON has plain values only: restore the types of the nested fields.
        gains = {split: Estimate(**gain) for split, gain in values["gains"].items()}
        baseline = BestBaseline(**values["baseline"])
        return cls(**{**values, "status": Status(values["status"]), "gains": gains, "baseline": baseline})


@dataclass(frozen=True)
class Leaderboard(Displayable, view="nextvec.reports.leaderboard:leaderboard_view"):
    """The runs of a leaderboard, and the Markdown file that shows them."""

    table: str
    """Path of the Markdown file."""
    entries: tuple[Entry, ...] = ()
    sort: Sort = "val"

    def to_dict(self) -> dict[str, Any]:
        """Return the entries in the order shown, for JSON."""
        entries = [row.entry.to_dict() for row in sorted_rows(self) if not row.is_baseline]
        return {"table": self.table, "sort": self.sort, "runs": entries}

    def with_entry(self, entry: Entry) -> Leaderboard:
        """Return the leaderboard with one more entry, which replaces an older one of the same run."""
        kept = tuple(old for old in self.entries if old.run != entry.run)
        return replace(self, entries=(*kept, entry))


_SEEN_MARKS = {"clean": "", "unknown": "unknown history"}
"""Entry's `seen` → the mark of its name; a share is its own mark."""


@dataclass(frozen=True)
class BoardRow:
    """A row: a run, or the best baseline of a run's data."""

    entry: Entry
    is_baseline: bool = False

    @property
    def name(self) -> str:
        """The name in the table, without the mark of a baseline."""
        return f"{self.entry.baseline.name}_{self.entry.data_label}" if self.is_baseline else self.entry.name

    @property
    def sort_values(self) -> dict[str, float | str | None]:
        """Sort key → value; None if the row has none, which sorts last."""
        entry, baseline = self.entry, self.entry.baseline
        # A run without an evaluation on val has no gain; a baseline's gain over itself is 0.
        gain = entry.gains["val"].value if "val" in entry.gains else None
        return {
            "val": baseline.val if self.is_baseline else entry.val,
            "ood": baseline.ood if self.is_baseline else entry.ood,
            "latency": None if self.is_baseline else entry.latency,
            "parameters": None if self.is_baseline else entry.parameters,
            "gain": 0.0 if self.is_baseline else gain,
            "date": entry.date,
            "name": self.name.lower(),
        }

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The seven cells of the Markdown table, in the runbook's form."""
        # Cosines have three digits, as in the runbook's rows. A closed form has no latency and no parameters.
        baseline = self.entry.baseline
        scores = (baseline.val, baseline.ood) if self.is_baseline else (self.entry.val, self.entry.ood)
        cosines = [Cell(format_number(score, ".3f"), score) for score in scores]
        if self.is_baseline:
            cost = [Cell(ABSENT), Cell(ABSENT), Cell("closed form")]
        else:
            latency = Cell(f"{self.entry.latency:.2f}ms", self.entry.latency)
            cost = [latency, Cell(format_count(self.entry.parameters), self.entry.parameters), Cell(self.entry.loss)]
        # A name is marked if the row is a baseline, or if the model may have been trained on the rows of its score.
        marks = ["baseline" if self.is_baseline else _SEEN_MARKS.get(self.entry.seen, self.entry.seen)]
        # Rows of other versions of the metrics are kept, and marked.
        if self.entry.metrics_version != METRICS_VERSION:
            marks.append(f"metrics version {self.entry.metrics_version}")
        mark = ", ".join(filter(None, marks))
        name = f"{self.name} ({mark})" if mark else self.name
        return Cell(name), *cosines, *cost, Cell(self.entry.date)


def sorted_rows(board: Leaderboard, sort: Sort | None = None) -> list[BoardRow]:
    """Return the runs, and the best baseline of each run's data, in the board's order or by `sort`."""
    rows = [BoardRow(entry) for entry in board.entries]
    # Runs on the same windows share a baseline row: that of the best baseline that any of them measured.
    best: dict[tuple[str, int], Entry] = {}
    for entry in board.entries:
        key = entry.data, entry.metrics_version
        if key not in best or entry.baseline.val > best[key].baseline.val:
            best[key] = entry
    rows += [BoardRow(entry, is_baseline=True) for entry in best.values()]
    # Rows without the value come last; equal rows keep their order.
    column = sort or board.sort
    present = [row for row in rows if row.sort_values[column] is not None]
    absent = [row for row in rows if row.sort_values[column] is None]
    present.sort(key=lambda row: row.sort_values[column] or 0, reverse=column in _HIGHEST_FIRST)
    return present + absent


def leaderboard_table(board: Leaderboard) -> Table:
    """Return the table of the Markdown file: its rows are always sorted by val cosine."""
    return Table("", _COLUMNS, tuple(Row(row.cells) for row in sorted_rows(board, "val")))


def leaderboard_view(board: Leaderboard) -> View:
    """Return the table for a terminal, with each run's status and gain over the best baseline."""
    rows = []
    for row in sorted_rows(board):
        gain, seen = Cell("baseline"), Cell()
        if not row.is_baseline:
            seen = Cell(row.entry.seen, status=None if row.entry.seen == "clean" else row.entry.status)
            estimate = row.entry.gains.get("val")
            text = format_interval(estimate.value, estimate.low, estimate.high, "+") if estimate else ABSENT
            gain = Cell(text, estimate.value if estimate else None, row.entry.status)
        # A baseline is dimmed and has "baseline" in the last column, so its name does not repeat the word.
        version = row.entry.metrics_version
        name = row.name if version == METRICS_VERSION else f"{row.name} (metrics version {version})"
        rows.append(Row((Cell(name), *row.cells[1:], gain, seen), "baseline" if row.is_baseline else ""))
    # The notes explain only what the table contains.
    notes = ["Gain: cosine minus that of the best baseline on the same windows. Do not compare scores across data."]
    devices = ", ".join(sorted({entry.device for entry in board.entries}))
    if devices:
        notes.append(f"Latency: median of one window on {devices}. Size: parameters. Status: the run's verdict.")
    if any(entry.seen != "clean" for entry in board.entries):
        notes.append("Seen: share of the evaluated rows on which the model, or an ancestor, was trained.")
    if any(SYNTHETIC in entry.name for entry in board.entries):
        notes.append(f"Names with '{SYNTHETIC}': synthetic vectors; the results do not transfer to real text.")
    older = sorted({entry.metrics_version for entry in board.entries} - {METRICS_VERSION})
    if older:
        listed = " and ".join(str(version) for version in older)
        notes.append(
            f"Rows of metrics version {listed} cannot be compared with the others, of version {METRICS_VERSION}."
        )
    table = Table("", _TERMINAL_COLUMNS, tuple(rows), is_compact=True)
    return View(
        (table, *(Line(note, style="note") for note in notes), Line(f"leaderboard: {board.table}", style="path"))
    )


def read_leaderboard(path: Path, sort: Sort = "val") -> Leaderboard:
    """Load the leaderboard of a Markdown file from the JSON file next to it; empty if there is none.

    Raises InputError if the JSON file is damaged or of another format, or if the markers are.
    """
    if path.suffix != ".md":
        raise InputError(f"leaderboard {path}: the name does not end in .md. Pass a Markdown file.")
    file = path.with_suffix(".json")
    # Damaged markers must stop a command before it measures anything, so insert an empty table as a test.
    if path.exists():
        insert_table(_read_text(path), "", path)
    if not file.exists():
        return Leaderboard(str(path), sort=sort)
    # Check the version before the fields: entries of another format may fail to load with a puzzling error.
    try:
        values = json.loads(_read_text(file))
        version = values["format"]
        if version == FORMAT_VERSION:
            return Leaderboard(str(path), tuple(Entry.from_dict(row) for row in values["runs"]), sort)
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(repr(error).split())[:120]
        raise InputError(
            f"leaderboard {file}: damaged ({reason}). Repair it, or remove it and add the runs."
        ) from error
    raise InputError(
        f"leaderboard {file}: format {version}, but this version of nextvec reads format {FORMAT_VERSION}. "
        "Remove it and add the runs again."
    )


def write_leaderboard(board: Leaderboard) -> None:
    """Write the JSON file, then the table between the markers of the Markdown file.

    Raises OutputError if a file can't be written, InputError if the markers are damaged.
    """
    # Damaged markers raise before the first file is written.
    path = Path(board.table)
    text = insert_table(_read_text(path) if path.exists() else None, leaderboard_table(board).markdown(), path)
    make_folder(path.parent)
    write_json(path.with_suffix(".json"), {"format": FORMAT_VERSION, "runs": [row.to_dict() for row in board.entries]})
    write_text(path, text)


def insert_table(text: str | None, table: str, path: Path) -> str:
    """Return the text of a Markdown file with the table between its markers; None is a file that does not exist.

    A file without markers gets them at its end. Raises InputError if there is not exactly one pair of them.
    """
    if text is None:
        text = _NEW_FILE
    elif BEGIN not in text and END not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    # Everything before and after the markers is copied unchanged.
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if text.count(BEGIN) != 1 or text.count(END) != 1 or END not in rest:
        raise InputError(f"leaderboard {path}: damaged markers. Keep one {BEGIN} and one {END} after it.")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def data_label(vectors: int, *, synthetic: bool) -> str:
    """Return a short name of the data: thousands of vectors, and whether they are synthetic."""
    label = f"{vectors // 1000}k" if vectors >= 1000 else str(vectors)
    return f"{label}-{SYNTHETIC}" if synthetic else label


def loss_label(objective: Mapping[str, Any]) -> str:
    """Return the loss terms with a gradient share of at least 5 %, such as MSE+InfoNCE."""
    # Terms below 5 % are left out, so that labels stay short.
    shares = requested_shares(objective)
    return "+".join(term.label for term in LOSS_TERMS if shares.get(term.name, 0.0) >= 0.05)


def _read_text(path: Path) -> str:
    """Return the text of a file. Raises InputError if it can't be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"leaderboard {path}: not readable as UTF-8 text ({error}).") from error
