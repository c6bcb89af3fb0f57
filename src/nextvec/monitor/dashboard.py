"""The terminal view of a run: pure functions of a `RunState`, at most 100 columns wide.

    SYNTHETIC DATA  amn-790k-production                                          running · 3 min left
    epoch 5 of 6  ━━━━━━━━━━━━━━━━━━━━━━━━─────────  71 %  step 1,712 of 2,418
    cosine        epoch 4     gain   best (2)  trend   best baseline
    val            0.5126  -0.0200     0.5180  ▄▄▄▃    █ 0.5326 ridge

A view consists of blocks. If the terminal is too small for all of them, the least important blocks are left out first.
Names from recipes and logs are shown as text, never as markup, and every score stands next to its baseline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from nextvec.core.events import words
from nextvec.core.formatting import COLORS, SYMBOLS, Status, outcome_status, outcome_word
from nextvec.core.table import rich_code
from nextvec.monitor.gates import GateVerdict, UpcomingGate
from nextvec.monitor.score_tables import LABEL, cosine_table, loss_table, one_line_text
from nextvec.monitor.state import RunState
from nextvec.monitor.text import rate_texts, run_name, status_text

WIDTH = 100
"""Maximum width in columns: wider lines are hard to read."""
MAX_VERDICTS, MAX_UPCOMING, MAX_WARNINGS = 8, 6, 6
"""Maximum lines of a block; its last line counts the rest."""
MIN_RUN_LINES = 14
"""Lines that a run needs if several are shown: heading, progress and cosines."""
UPCOMING_SYMBOL = "○"


@dataclass(frozen=True)
class Block:
    """A part of the view. Rank 0 is always shown; the highest rank is left out first."""

    rank: int
    content: RenderableType


@dataclass(frozen=True)
class RunView:
    """A run for rich to print: all blocks, or those that fit in `height` lines."""

    state: RunState
    height: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the blocks, with an empty line between two of them."""
        options = options.update(width=min(WIDTH, options.max_width), height=None)
        # Leave out the least important blocks until the rest fits.
        blocks = list(run_blocks(self.state, options.max_width))
        while self.height is not None and _count_lines(console, options, blocks) > self.height:
            highest = max(block.rank for block in blocks)
            if not highest:
                break
            blocks = [block for block in blocks if block.rank != highest]
        yield from console.render(_group(blocks), options)


def _group(blocks: Sequence[Block]) -> Group:
    parts = [part for block in blocks for part in (Text(), block.content)]
    return Group(*parts[1:])


def _count_lines(console: Console, options: ConsoleOptions, blocks: Sequence[Block]) -> int:
    return len(console.render_lines(_group(blocks), options))


def runs_view(states: Sequence[RunState], height: int | None = None) -> Group:
    """Return a view of several runs: all of each or, in `height` lines, the most important blocks of those that fit."""
    # Every run gets the same share of the lines; runs that do not fit are counted in the last line.
    fitting = len(states) if height is None else max(1, min(len(states), height // MIN_RUN_LINES))
    height_per_run = None if height is None else height // fitting - 1
    parts: list[RenderableType] = []
    for state in states[:fitting]:
        parts += [RunView(state, height_per_run), Text()]
    if len(states) > fitting:
        parts[-1] = Text(f"{len(states) - fitting} older runs not shown", style="dim")
        return Group(*parts)
    return Group(*parts[:-1])


def run_blocks(state: RunState, width: int = WIDTH) -> Iterator[Block]:
    """Yield the blocks of a run's view from top to bottom, without empty ones."""
    # Ranks: status and progress, scores and outcome, gates, then losses, warnings and what is ahead.
    yield Block(0, Group(*_heading(state)))
    if state.progress.fraction is not None and not state.progress.has_ended:
        yield Block(0, Group(*_progress(state)))
    if state.scores.latest:
        yield Block(1, cosine_table(state, width))
        yield Block(4, loss_table(state, width))
    outcome = state.outcome
    gates = [verdict for verdict in outcome.verdicts if not verdict.is_sentinel]
    sentinel = [verdict for verdict in outcome.verdicts if verdict.is_sentinel]
    if gates:
        yield Block(2, _verdicts("gates", gates))
    if sentinel:
        yield Block(3, _verdicts("sentinel (ood)", sentinel))
    if outcome.upcoming_gates:
        yield Block(6, _upcoming(outcome.upcoming_gates))
    if outcome.warnings:
        yield Block(5, _warnings(outcome.warnings))
    if outcome.criteria or outcome.verdict:
        yield Block(1, Group(*_outcome(state)))


def _heading(state: RunState) -> Iterator[RenderableType]:
    """Yield the name and status, the path, the model and data, and why a run stopped."""
    text, status = status_text(state)
    status_cell = Text(text, style="bold")
    if status is not None:
        status_cell = Text.assemble((SYMBOLS[status], COLORS[status]), " ", (text, f"bold {COLORS[status]}"))
    title = one_line_text(run_name(state), "bold")
    if state.info.is_synthetic:
        title = Text.assemble(("SYNTHETIC DATA", "reverse"), "  ", title, overflow="ellipsis", no_wrap=True)
    # The name is cut before the status, which is right-aligned and always complete.
    top = Table.grid(expand=True, padding=(0, 2, 0, 0))
    top.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    top.add_column(justify="right", no_wrap=True)
    top.add_row(title, status_cell)
    yield top

    path = words(state.info.path)
    for line in filter(None, (path, state.info.model_summary, state.info.data_summary)):
        yield one_line_text(line, "dim")
    if state.outcome.reason:
        is_red = state.progress.status in ("stopped", "failed")
        yield _marked_line(SYMBOLS[Status.RED] if is_red else " ", "red", state.outcome.reason)
    if state.outcome.diagnosis:
        yield _marked_line(" ", "", rich_code(f"diagnosis: {state.outcome.diagnosis}"))
    if state.progress.status == "interrupted":
        yield Text(f"To resume: nextvec resume {path}", style="dim")
    elif state.progress.silent_seconds is not None:
        yield Text(f"If the process has died: nextvec resume {path}", style="dim")


def _progress(state: RunState) -> Iterator[Text]:
    """Yield the progress bar, then learning rate, throughput and memory."""
    progress = state.progress
    # The bar is 40 cells; the epoch shown is the one in progress.
    fraction = progress.fraction or 0.0
    epoch = min(progress.epochs + 1, progress.total_epochs or progress.epochs + 1)
    filled = round(40 * fraction)
    steps = f"  step {progress.step:,} of {progress.total_steps:,}" if progress.total_steps else ""
    yield Text.assemble(
        (f"{f'epoch {epoch} of {progress.total_epochs}':<{LABEL + 2}}", "bold"),
        ("━" * filled, "cyan"),
        ("─" * (40 - filled), "dim"),
        f" {int(100 * fraction):3} %",
        (steps, "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )
    if rates := list(rate_texts(progress)):
        yield Text(" " * (LABEL + 2) + " · ".join(rates), style="dim")


def _marked_line(symbol: str, style: str, *cells: str | Text) -> Table:
    """Return a line after a symbol; its last cell takes as many lines as it needs."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=1)
    for _ in cells[:-1]:
        table.add_column(width=LABEL - 2, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(symbol, style=style), *(Text(cell) if isinstance(cell, str) else cell for cell in cells))
    return table


def _verdicts(title: str, verdicts: Sequence[GateVerdict]) -> Group:
    """Return the gates' verdicts, the latest last, with advice for those that are not green."""
    # Old verdicts shrink to a count per status.
    recent, earlier = verdicts[-MAX_VERDICTS:], verdicts[:-MAX_VERDICTS]
    lines: list[RenderableType] = [Text(title, style="bold")]
    if earlier:
        counts = {status: sum(verdict.status == status for verdict in earlier) for status in SYMBOLS}
        summary = "  ".join(f"{SYMBOLS[status]} {total}" for status, total in counts.items() if total)
        lines.append(Text(f"{len(earlier)} earlier: {summary}", style="dim"))
    for verdict in recent:
        symbol, color = SYMBOLS[verdict.status], COLORS[verdict.status]
        lines.append(_marked_line(symbol, color, f"epoch {verdict.epoch}", verdict.reason))
        if verdict.advice and verdict.status != Status.GREEN:
            lines.append(_marked_line(" ", "", "", rich_code(f"→ {verdict.advice}")))
    return Group(*lines)


def _upcoming(gates: Sequence[UpcomingGate]) -> Group:
    """Return the next gates with their thresholds, and a count of the later ones."""
    lines: list[RenderableType] = [Text("upcoming gates", style="bold")]
    for gate in gates[:MAX_UPCOMING]:
        text = Text(f"{gate.label:<20}")
        for status, threshold in gate.thresholds:
            text.append("  ").append(SYMBOLS[status], COLORS[status]).append(f" {threshold}")
        text.append("  stops the run" if gate.stops_run else "")
        lines.append(_marked_line(UPCOMING_SYMBOL, "dim", f"epoch {gate.epoch}", text))
    # The rest is one line with its range of epochs.
    later = sorted({gate.epoch for gate in gates[MAX_UPCOMING:]})
    if later:
        epochs = f"epochs {later[0]} to {later[-1]}" if len(later) > 1 else f"epoch {later[0]}"
        lines.append(Text(f"{len(gates) - MAX_UPCOMING} more at {epochs}", style="dim"))
    return Group(*lines)


def _warnings(warnings: Sequence[tuple[Status, str]]) -> Group:
    lines: list[RenderableType] = [Text("warnings", style="bold")]
    if len(warnings) > MAX_WARNINGS:
        lines.append(Text(f"{len(warnings) - MAX_WARNINGS} earlier: see training.log", style="dim"))
    lines += [_marked_line(SYMBOLS[status], COLORS[status], text) for status, text in warnings[-MAX_WARNINGS:]]
    return Group(*lines)


def _outcome(state: RunState) -> Iterator[RenderableType]:
    """Yield the success criteria and the verdict."""
    outcome = state.outcome
    on_synthetic = " on synthetic data" if state.info.is_synthetic else ""
    if outcome.criteria:
        yield Text(f"success criteria{on_synthetic}", style="bold")
        table = Table.grid(padding=(0, 2, 0, 0))
        for item in outcome.criteria:
            status = outcome_status(item.passed)
            result = Text.assemble((SYMBOLS[status], COLORS[status]), f" {outcome_word(item.passed)}")
            table.add_row(
                result, Text(item.name), Text(item.measured), Text(item.required), Text(item.note, style="dim")
            )
        yield table
        # Criteria that pass beside a verdict that is not green look like a contradiction, so explain it.
        if outcome.success and outcome.verdict is not None and outcome.verdict[0] != Status.GREEN:
            yield Text(f"All criteria are met, but the verdict is {outcome.verdict[0]}.", style="dim")
    if outcome.verdict is not None:
        status, sentence = outcome.verdict
        yield Text(f"verdict{on_synthetic}", style="bold")
        yield _marked_line(SYMBOLS[status], COLORS[status], sentence)
