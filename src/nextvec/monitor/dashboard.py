"""A run's state as text for a terminal: pure functions of a `RunState`, at most 100 columns wide.

    amn-790k-production  SYNTHETIC DATA                                          running · 3 min left
    epoch 4 of 6  ━━━━━━━━━━━━━━━━━━━━━━━━─────────  71 %  step 1,712 of 2,418
    cosine        epoch 4     gain   best (2)  trend   best baseline
    val            0.5126  -0.0200     0.5180  ▄▄▄▃    █ 0.5326 ridge

A view is made of blocks. Where there is no room for all of them, the least important ones are left out first. Names
from recipes and logs are text, never markup. A score never stands without its baseline.

The figures of a run as tables: cosines beside the best baselines, parts of the loss beside their influence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from nextvec.core.events import Event, count, finite, number, words
from nextvec.core.formatting import COLORS, SYMBOLS, Status
from nextvec.monitor.gates import GateToCome, Verdict
from nextvec.monitor.state import RunState
from nextvec.monitor.text import bar, bounds, figure, sparkline, status_words

WIDTH = 100
"""Columns of a view, where the terminal has as many."""
MOST_VERDICTS, MOST_TO_COME, MOST_WARNINGS = 8, 6, 6
"""Lines of a block; what is left out is counted in its last line."""
SMALLEST = 14
"""Lines that a run needs where several are shown: its heading, its progress and its cosines."""
COMING = "○"


@dataclass(frozen=True)
class Block:
    """A part of the view; `rank` 0 is never left out, the highest is left out first."""

    rank: int
    content: RenderableType


@dataclass(frozen=True)
class RunView:
    """What rich prints for a run: all blocks, or those that fit in `height` lines."""

    state: RunState
    height: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The blocks, an empty line between two of them."""
        options = options.update(width=min(WIDTH, options.max_width), height=None)
        shown = list(run_blocks(self.state, options.max_width))
        while self.height is not None and _lines(console, options, shown) > self.height:
            last = max(block.rank for block in shown)
            if not last:
                break
            shown = [block for block in shown if block.rank != last]
        yield from console.render(_group(shown), options)


def _group(blocks: Sequence[Block]) -> Group:
    parts = [part for block in blocks for part in (Text(), block.content)]
    return Group(*parts[1:])


def _lines(console: Console, options: ConsoleOptions, blocks: Sequence[Block]) -> int:
    return len(console.render_lines(_group(blocks), options))


def run_blocks(state: RunState, width: int = WIDTH) -> Iterator[Block]:
    """The blocks of a run's view from top to bottom; those with nothing to say are left out."""
    yield Block(0, Group(*_heading(state)))
    if state.part is not None and not state.ended:
        yield Block(0, Group(*_progress(state)))
    if state.latest:
        yield Block(1, cosine_table(state, width))
        yield Block(4, loss_table(state, width))
    gates = [verdict for verdict in state.verdicts if not verdict.of_sentinel]
    checks = [verdict for verdict in state.verdicts if verdict.of_sentinel]
    if gates:
        yield Block(2, _verdicts("gates", gates))
    if checks:
        yield Block(3, _verdicts("sentinel, on ood", checks))
    if state.to_come:
        yield Block(6, _to_come(state.to_come))
    if state.warnings:
        yield Block(5, _warnings(state.warnings))
    if state.criteria or state.verdict:
        yield Block(1, Group(*_outcome(state)))


def _heading(state: RunState) -> Iterator[RenderableType]:
    sentence, stoplight = status_words(state)
    status = Text(sentence, style="bold")
    if stoplight is not None:
        status = Text.assemble((SYMBOLS[stoplight], COLORS[stoplight]), " ", (sentence, f"bold {COLORS[stoplight]}"))
    title = Text(words(state.name) or "a run", style="bold", overflow="ellipsis", no_wrap=True)
    if state.synthetic:
        title = Text.assemble(("SYNTHETIC DATA", "reverse"), "  ", title, overflow="ellipsis", no_wrap=True)
    top = Table.grid(expand=True, padding=(0, 2, 0, 0))
    top.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    top.add_column(justify="right", no_wrap=True)
    top.add_row(title, status)
    yield top
    if state.path:
        yield Text(words(state.path), style="dim", overflow="ellipsis", no_wrap=True)
    for facts in filter(None, (state.trained, state.data)):
        yield Text(facts, style="dim", overflow="ellipsis", no_wrap=True)
    if state.reason:
        yield _row("■" if state.status in ("stopped", "failed") else " ", "red", state.reason)
    if state.diagnosis:
        yield _row(" ", "", f"diagnosis: {state.diagnosis}")
    if state.status == "interrupted" or state.silent_for is not None:
        dead = "" if state.ended else "if its process has died, "
        yield Text(f"{dead}go on with it: nextvec resume {words(state.path)}", style="dim")


def _progress(state: RunState) -> Iterator[Text]:
    part, now = state.part or 0.0, min(state.epochs + 1, state.total_epochs or state.epochs + 1)
    filled = round(40 * part)
    steps = f"  step {state.step:,} of {state.total_steps:,}" if state.total_steps else ""
    head = f"epoch {now} of {state.total_epochs}"
    yield Text.assemble(
        (f"{head:<{LABEL + 2}}", "bold"), ("━" * filled, "cyan"), ("─" * (40 - filled), "dim"),
        f" {int(100 * part):3} %", (steps, "dim"), no_wrap=True, overflow="ellipsis",
    )  # fmt: skip
    rates = [
        "" if state.lr is None else f"learning rate {state.lr:.3g}",
        "" if state.rate is None else f"{state.rate:,.0f} windows/s",
        "" if state.memory is None else f"memory {state.memory:,.0f} MB",
    ]
    if any(rates):
        yield Text(" " * (LABEL + 2) + " · ".join(filter(None, rates)), style="dim")


def _row(sign: str, style: str, *cells: str | Text) -> Table:
    """A line behind a sign; the last of its cells takes as many lines as it needs."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=1)
    for _ in cells[:-1]:
        table.add_column(width=LABEL - 2, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(sign, style=style), *(Text(cell) if isinstance(cell, str) else cell for cell in cells))
    return table


def _verdicts(title: str, verdicts: Sequence[Verdict]) -> Group:
    """What gates said, the latest last, with the advice of those that are not green."""
    shown, older = verdicts[-MOST_VERDICTS:], verdicts[:-MOST_VERDICTS]
    lines: list[RenderableType] = [Text(title, style="bold")]
    if older:
        statuses = "  ".join(
            f"{SYMBOLS[stoplight]} {sum(verdict.status == stoplight for verdict in older)}"
            for stoplight in SYMBOLS
            if any(verdict.status == stoplight for verdict in older)
        )
        lines.append(Text(f"{len(older)} earlier ones: {statuses}", style="dim"))
    for verdict in shown:
        lines.append(_row(SYMBOLS[verdict.status], COLORS[verdict.status], f"epoch {verdict.epoch}", verdict.reason))
        if verdict.advice and verdict.status != Status.GREEN:
            lines.append(_row(" ", "", "", f"→ {verdict.advice}"))
    return Group(*lines)


def _to_come(gates: Sequence[GateToCome]) -> Group:
    lines: list[RenderableType] = [Text("to come", style="bold")]
    lines += [_row(COMING, "dim", f"epoch {gate.epoch}", _thresholds(gate)) for gate in gates[:MOST_TO_COME]]
    rest = gates[MOST_TO_COME:]
    if rest:
        epochs = sorted({gate.epoch for gate in rest})
        until = f"epochs {epochs[0]} to {epochs[-1]}" if len(epochs) > 1 else f"epoch {epochs[0]}"
        lines.append(Text(f"and {len(rest)} more, {until}", style="dim"))
    return Group(*lines)


def _thresholds(gate: GateToCome) -> Text:
    at_least, beyond = ("≤", ">") if gate.lower_is_better else ("≥", "<")
    text = Text(f"{gate.metric.replace('_', ' '):<20}")
    limits: tuple[tuple[Status, str, float | None], ...] = (
        (Status.GREEN, at_least, gate.green),
        (Status.RED, beyond, gate.red),
    )
    for stoplight, sign, limit in limits:
        if limit is not None:
            text.append("  ").append(SYMBOLS[stoplight], COLORS[stoplight]).append(f" {sign} {limit:g}")
    return text.append("  stops the run" if gate.action == "stop" else "")


def _warnings(warnings: Sequence[tuple[Status, str]]) -> Group:
    lines: list[RenderableType] = [Text("warnings", style="bold")]
    if len(warnings) > MOST_WARNINGS:
        lines.append(Text(f"{len(warnings) - MOST_WARNINGS} earlier ones: see training.log", style="dim"))
    lines += [_row(SYMBOLS[stoplight], COLORS[stoplight], text) for stoplight, text in warnings[-MOST_WARNINGS:]]
    return Group(*lines)


def _outcome(state: RunState) -> Iterator[RenderableType]:
    """The success criteria and the verdict."""
    on_synthetic = " on synthetic data" if state.synthetic else ""
    if state.criteria:
        yield Text(f"success criteria{on_synthetic}", style="bold")
        table = Table.grid(padding=(0, 2, 0, 0))
        for item in state.criteria:
            stoplight: Status = Status.GREEN if item.passed else Status.RED
            met = Text.assemble((SYMBOLS[stoplight], COLORS[stoplight]), " pass" if item.passed else " FAIL")
            table.add_row(met, Text(item.name), Text(item.figure), Text(item.wanted), Text(item.beside, style="dim"))
        yield table
        if state.success and state.verdict is not None and state.verdict[0] != Status.GREEN:
            yield Text("all met, but the model does not surely beat the best baseline: see the verdict", style="dim")
    if state.verdict is not None:
        stoplight, sentence = state.verdict
        yield Text(f"verdict{on_synthetic}", style="bold")
        yield _row(SYMBOLS[stoplight], COLORS[stoplight], sentence)


def runs_view(states: Sequence[RunState], height: int | None = None) -> Group:
    """Runs below each other: all of each or, in `height` lines, as many as fit with what matters most of each."""
    fitting = len(states) if height is None else max(1, min(len(states), height // SMALLEST))
    share = None if height is None else height // fitting - 1
    parts: list[RenderableType] = []
    for state in states[:fitting]:
        parts += [RunView(state, share), Text()]
    if len(states) > fitting:
        parts[-1] = Text(f"and {len(states) - fitting} older runs that don't fit here", style="dim")
        return Group(*parts)
    return Group(*parts[:-1])


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
