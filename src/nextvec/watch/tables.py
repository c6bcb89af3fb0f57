"""The figures of a run as tables: cosines beside the best baselines, parts of the loss beside their influence."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from nextvec.events import Event
from nextvec.fields import count, finite, number, words
from nextvec.watch.state import RunState
from nextvec.watch.words import bar, bounds, figure, sparkline

LABEL, NUMBER, BASELINE = 12, 9, 26
"""Columns of a row's name, of a figure, and of the baseline behind a trend."""


def _columns(*headings: str, numbers: int) -> Table:
    """A table without lines: a name, `numbers` figures at the right of their columns, and the rest."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=LABEL, no_wrap=True, overflow="ellipsis")
    for _ in range(numbers):
        table.add_column(width=NUMBER, justify="right", no_wrap=True)
    for _ in headings[numbers + 1 :]:
        table.add_column()  # gives way where the terminal is narrow: what stands here is `_cut`
    table.add_row(Text(headings[0], style="bold"), *(_cut(heading, "dim") for heading in headings[1:]))
    return table


def _cut(text: str, style: str = "") -> Text:
    """Text on one line, cut where there is no room for it."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _trend_width(width: int, numbers: int, behind: int) -> int:
    return max(10, width - LABEL - 2 - numbers * (NUMBER + 2) - behind)


def _when(state: RunState) -> str:
    return f"epoch {state.epochs}" if state.records else "so far"


def _span(state: RunState) -> str:
    first = count(state.records[0].get("epoch")) if state.records else 0
    return f"trend, epochs {first} to {state.epochs}" if len(state.records) > 1 else "trend"


def cosine_table(state: RunState, width: int) -> Table:
    """Cosines and gains now and at the best epoch; behind each trend the best baseline's height on the same scale."""
    best_epoch = count(state.best.get("epoch"))
    best = f"best ({best_epoch})" if best_epoch else ""
    table = _columns("cosine", _when(state), "gain", best, _span(state), "best baseline", numbers=3)
    trend_width = _trend_width(width, 3, BASELINE + 2)
    for split in ("val", "ood"):
        if f"{split}_cosine" not in state.latest and split not in state.best_baselines:
            continue
        curve = [number(record.get(f"{split}_cosine")) for record in state.records]
        name, level = state.best_baselines.get(split, ("", None))
        low, high = bounds([*curve, level], 0.01)
        trend = _cut(sparkline(curve, low, high, trend_width), "cyan")
        beside = _cut("not measured", "dim")
        if level is not None:
            beside = _cut(f"{bar(level, low, high)} {level:.4f} {name}")
            beside.stylize("magenta", 0, 1)
        gain = _gain(number(state.latest.get(f"{split}_gain")))
        table.add_row(split, _score(state.latest, f"{split}_cosine"), gain, _score(state.best, f"{split}_cosine"),
                      trend, beside)  # fmt: skip
    curve = [number(record.get("train_cosine")) for record in state.records]
    trend = _cut(sparkline(curve, *bounds(curve, 0.01), trend_width), "blue")
    table.add_row("train", _score(state.latest, "train_cosine"), "", _score(state.best, "train_cosine"),
                  trend, _cut(_ahead(state.latest), "dim"))  # fmt: skip
    return table


def _score(record: Event, name: str) -> Text:
    value = number(record.get(name))
    return Text(figure(value, ".4f"), style="" if value is None or finite(value) is not None else "bold red")


def _gain(value: float | None) -> Text:
    style = "" if value is None else "green" if value > 0 else "red"
    return Text(figure(value, "+.4f"), style=style)


def _ahead(record: Event) -> str:
    train, val = finite(record.get("train_cosine")), finite(record.get("val_cosine"))
    return "" if train is None or val is None else f"  train − val {train - val:+.4f}"


def loss_table(state: RunState, width: int) -> Table:
    """The parts of the loss, raw, and how much each one moves the model beside what its weight asks for."""
    table = _columns("loss", "train", "val", "share", "asked", _span(state), numbers=4)
    terms = [name.removeprefix("train_loss_") for name in state.latest if name.startswith("train_loss_")]
    for term in terms:
        curve = [number(record.get(f"train_loss_{term}")) for record in state.records]
        known = [abs(value) for value in curve if value is not None and finite(value) is not None]
        low, high = bounds(curve, 0.05 * max(known, default=0.0))
        table.add_row(
            Text(words(term)),
            figure(number(state.latest.get(f"train_loss_{term}")), ".4g"),
            figure(number(state.latest.get(f"val_loss_{term}")), ".4g"),
            _percent(finite(state.latest.get(f"share_{term}"))),
            _percent(state.asked.get(term)),
            _cut(sparkline(curve, low, high, _trend_width(width, 4, 0)), "blue"),
        )
    return table


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
