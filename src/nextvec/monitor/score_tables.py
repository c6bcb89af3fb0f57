"""The tables of a run's cosines and losses in the terminal, each score next to its baseline."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from nextvec.core.events import Event, count, finite, number, words
from nextvec.core.formatting import format_number, format_percent
from nextvec.monitor.state import RunState
from nextvec.monitor.text import bar, bounds, sparkline

LABEL, NUMBER, BASELINE = 12, 9, 26
"""Widths in columns: a row's name, a number, and the baseline after a trend."""


def one_line_text(text: str, style: str = "") -> Text:
    """Return text on one line that is cut if the terminal is too narrow."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _columns(*headings: str, numbers: int) -> Table:
    """Return a table without lines: a name, `numbers` right-aligned columns, and the rest."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=LABEL, no_wrap=True, overflow="ellipsis")
    for _ in range(numbers):
        table.add_column(width=NUMBER, justify="right", no_wrap=True)
    for _ in headings[numbers + 1 :]:
        table.add_column()  # shrinks in a narrow terminal; its cells are cut
    table.add_row(Text(headings[0], style="bold"), *(one_line_text(heading, "dim") for heading in headings[1:]))
    return table


def _trend_width(width: int, numbers: int, after: int) -> int:
    return max(10, width - LABEL - 2 - numbers * (NUMBER + 2) - after)


def _epoch_heading(state: RunState) -> str:
    return f"epoch {state.progress.epochs}" if state.scores.records else "so far"


def _trend_heading(state: RunState) -> str:
    records = state.scores.records
    if len(records) < 2:
        return "trend"
    return f"trend, epochs {count(records[0].get('epoch'))} to {state.progress.epochs}"


def cosine_table(state: RunState, width: int) -> Table:
    """Return cosines and gains of now and of the best epoch; the best baseline has the scale of the trend."""
    scores = state.scores
    best = f"best ({count(scores.best.get('epoch'))})" if scores.best else ""
    table = _columns("cosine", _epoch_heading(state), "gain", best, _trend_heading(state), "best baseline", numbers=3)
    trend_width = _trend_width(width, 3, BASELINE + 2)
    for split in ("val", "ood"):
        if f"{split}_cosine" not in scores.latest and split not in scores.best_baselines:
            continue
        # Trend and baseline share one scale, so that their heights can be compared.
        curve = [number(record.get(f"{split}_cosine")) for record in scores.records]
        name, baseline = scores.best_baselines.get(split, ("", None))
        low, high = bounds([*curve, baseline], 0.01)
        reference = one_line_text("not measured", "dim")
        if baseline is not None:
            reference = one_line_text(f"{bar(baseline, low, high)} {baseline:.4f} {name}")
            reference.stylize("magenta", 0, 1)
        table.add_row(
            split,
            _score(scores.latest, f"{split}_cosine"),
            _gain(number(scores.latest.get(f"{split}_gain"))),
            _score(scores.best, f"{split}_cosine"),
            one_line_text(sparkline(curve, low, high, trend_width), "cyan"),
            reference,
        )
    # Train cosines are means over training batches: they have no baseline, but the gap to val shows overfitting.
    curve = [number(record.get("train_cosine")) for record in scores.records]
    trend = one_line_text(sparkline(curve, *bounds(curve, 0.01), trend_width), "blue")
    now, at_best = (_score(record, "train_cosine") for record in (scores.latest, scores.best))
    table.add_row("train", now, "", at_best, trend, one_line_text(_generalization_gap(scores.latest), "dim"))
    return table


def _score(record: Event, name: str) -> Text:
    value = number(record.get(name))
    return Text(format_number(value), style="" if value is None or finite(value) is not None else "bold red")


def _gain(value: float | None) -> Text:
    style = "" if value is None else "green" if value > 0 else "red"
    return Text(format_number(value, "+.4f"), style=style)


def _generalization_gap(record: Event) -> str:
    train, val = finite(record.get("train_cosine")), finite(record.get("val_cosine"))
    return "" if train is None or val is None else f"  train − val {train - val:+.4f}"


def loss_table(state: RunState, width: int) -> Table:
    """Return each loss term with its gradient share, measured and requested."""
    scores = state.scores
    table = _columns("loss", "train", "val", "share", "requested", _trend_heading(state), numbers=4)
    terms = [name.removeprefix("train_loss_") for name in scores.latest if name.startswith("train_loss_")]
    for term in terms:
        curve = [number(record.get(f"train_loss_{term}")) for record in scores.records]
        # Noise of less than 5 % of the largest value stays flat.
        known = [abs(value) for value in curve if value is not None and finite(value) is not None]
        low, high = bounds(curve, 0.05 * max(known, default=0.0))
        table.add_row(
            Text(words(term)),
            format_number(number(scores.latest.get(f"train_loss_{term}")), ".4g"),
            format_number(number(scores.latest.get(f"val_loss_{term}")), ".4g"),
            format_percent(finite(scores.latest.get(f"share_{term}"))),
            format_percent(state.info.requested_shares.get(term)),
            one_line_text(sparkline(curve, low, high, _trend_width(width, 4, 0)), "blue"),
        )
    return table
