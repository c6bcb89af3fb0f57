"""Runs side by side: one table for each set of windows, with the baselines of those windows among the rows.

Scores stand in one table only where they are of the same windows. What lies on different windows is compared by its
gain over the baselines there. Pure functions of plain values; nothing is printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nextvec.core.formatting import ABSENT, COLORS, SYMBOLS, Status, escape_markdown, format_interval
from nextvec.evaluation.results import Estimate
from nextvec.evaluation.verdict import gain_status
from nextvec.reports.leaderboard import SYNTHETIC
from nextvec.reports.run_summary import EvaluatedRun
from nextvec.reports.tables import describe_split

PUBLISHED_584K = "584k"
PUBLISHED = {"amn": (0.5597, 0.6375), "lstm": (0.5792, 0.6046), "gru": (0.592, 0.6295), "transformer": (0.5864, 0.6257)}
"""Model → published cosine on val and on ood, of the models that were trained on the 584k set."""
PUBLISHED_CONTEXT_MEAN = 0.546
"""What the plain mean of the context reaches there, on val."""

OUTCOMES: dict[Status, str] = {Status.GREEN: "beats it", Status.AMBER: "not told from it", Status.RED: "loses to it"}


@dataclass(frozen=True)
class Score:
    """A row: one predictor on one split."""

    name: str
    baseline: bool
    cosine: Estimate
    gain: Estimate | None
    """Over the best baseline of the split; None for baselines."""
    status: Status | None
    """Green if the gain is significantly above zero, red if it is significantly below."""
    margin: float
    mrr: float


@dataclass(frozen=True)
class SplitScores:
    """All predictors on one split, from the highest val cosine down."""

    split: str
    windows: str
    """What the figures rest on, in words."""
    rows: tuple[Score, ...]


@dataclass(frozen=True)
class Beside:
    """A row beside a reference: scores on val and ood, and the gain on val over what the two have in common."""

    name: str
    val: float | None
    ood: float | None
    gain: Estimate | float | None
    """A plain number where no interval is known (published figures)."""
    than_reference: float | None
    """The gain minus the reference's."""


@dataclass(frozen=True)
class ComparedSet:
    """Everything that was judged on one set of windows."""

    title: str
    synthetic: bool
    splits: tuple[SplitScores, ...]
    beside: tuple[Beside, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Runs side by side."""

    sets: tuple[ComparedSet, ...]
    reference: str = ""
    """What the runs are compared with: 584k, the name of a run, or nothing."""
    remarks: dict[str, str] = field(default_factory=dict)
    """Run → why it is not in a table, or what a reader must know of it."""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def compare_evaluated(
    evaluated: Sequence[EvaluatedRun], *, reference: str = "", remarks: dict[str, str] | None = None
) -> Comparison:
    """Runs side by side, held against a `reference`: 584k, or the `run` of one of those judged."""
    groups: dict[str, list[EvaluatedRun]] = {}
    for item in evaluated:
        groups.setdefault(item.windows, []).append(item)
    own = next((item for item in evaluated if item.run == reference), None)
    sets = tuple(_compared_set(group, reference, own) for group in groups.values())
    name = own.name if own else reference
    told = tuple(_notes_of(evaluated))
    notes = (*_notes(sets, name, told, bool(reference) and own is None), *told)
    return Comparison(sets, name, remarks or {}, notes)


def comparison_view(comparison: Comparison) -> Group:
    """The comparison for a terminal."""
    parts: list[RenderableType] = []
    for compared in comparison.sets:
        parts += [Text(compared.title, style="bold"), ""]
        for scores in compared.splits:
            table = _table(f"{scores.split}: {scores.windows}", HEADINGS)
            for row in scores.rows:
                name, cosine, gain, outcome, *figures = (Text(cell) for cell in score_cells(row))
                if row.status:
                    outcome.stylize(COLORS[row.status])
                table.add_row(name, cosine, gain, outcome, *figures, style="" if row.baseline else "cyan")
            parts += [table, ""]
        if compared.beside:
            table = _table(f"beside {comparison.reference}", beside_headings(comparison))
            for line in compared.beside:
                table.add_row(*(Text(cell) for cell in beside_cells(line)))
            parts += [table, ""]
    parts += [Text(f"{run}: {remark}", style="yellow") for run, remark in comparison.remarks.items()]
    parts += [Text(f"note: {note}", style="dim") for note in comparison.notes]
    return Group(*parts)


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison as a Markdown page."""
    blocks = ["# Comparison"]
    for compared in comparison.sets:
        blocks.append(f"## {escape_markdown(compared.title)}")
        for scores in compared.splits:
            blocks.append(f"**{escape_markdown(scores.split)}**: {scores.windows}")
            blocks.append(_markdown_table(HEADINGS, map(score_cells, scores.rows), words=(0, 3)))
        if compared.beside:
            blocks.append(f"**beside {escape_markdown(comparison.reference)}**")
            blocks.append(_markdown_table(beside_headings(comparison), map(beside_cells, compared.beside), words=(0,)))
    if comparison.remarks:
        blocks.append(
            "\n".join(
                f"- {escape_markdown(run)}: {escape_markdown(remark)}" for run, remark in comparison.remarks.items()
            )
        )
    blocks += [f"Note: {escape_markdown(note)}" for note in comparison.notes]
    return "\n\n".join(blocks) + "\n"


def _compared_set(group: Sequence[EvaluatedRun], reference: str, own: EvaluatedRun | None) -> ComparedSet:
    """Runs of the same windows."""
    first = group[0]
    title = f"{first.data_label} · context {first.context}" + (f" · {SYNTHETIC} data" if first.synthetic else "")
    splits = {split: _scores(group, split) for split in first.evaluation.splits}
    leading = next(iter(splits.values()), [])  # val, where it was judged: all tables have its order
    order = {row.name: row.cosine.value for row in leading}
    tables = tuple(
        SplitScores(
            split,
            describe_split(first.evaluation.splits[split]),
            tuple(sorted(rows, key=lambda row: -order[row.name])),
        )
        for split, rows in splits.items()
    )
    if not reference:
        return ComparedSet(title, first.synthetic, tables)
    beside = _beside_published(group) if own is None else _beside_run(group, own)
    beside.sort(key=_gain_of, reverse=True)
    return ComparedSet(title, first.synthetic, tables, tuple(beside))


def _scores(group: Sequence[EvaluatedRun], split: str) -> list[Score]:
    """The rows of a split: each run's model, and each baseline once, at the best that it reached in any of the runs."""
    models, baselines = [], dict[str, Score]()
    for item in group:
        figures = item.evaluation.splits[split]
        for name, scores in figures.predictors.items():
            of_model = name == item.evaluation.model
            gain = figures.gain if of_model else None
            row = Score(
                item.name if of_model else name, not of_model, scores.cosine, gain, gain_status(gain) if gain else None,
                scores.margin, scores.retrieval.mrr,
            )  # fmt: skip
            if of_model:
                models.append(row)
            elif name not in baselines or row.cosine.value > baselines[name].cosine.value:
                baselines[name] = row
    return [*models, *baselines.values()]


def _beside_published(group: Sequence[EvaluatedRun]) -> list[Beside]:
    """Runs and the published models, each with its gain over the context mean of its own data."""
    gains = {kind: val - PUBLISHED_CONTEXT_MEAN for kind, (val, _) in PUBLISHED.items()}
    lines = [
        Beside(f"{kind.upper()} {PUBLISHED_584K} (published)", val, ood, gains[kind], None)
        for kind, (val, ood) in PUBLISHED.items()
    ]
    for item in group:
        val = item.evaluation.splits.get("val")
        gain = val.predictors["context-mean"].gain if val and "context-mean" in val.predictors else None
        lines.append(_beside(item, gain, gains.get(item.evaluation.model or "")))
    return lines


def _beside_run(group: Sequence[EvaluatedRun], reference: EvaluatedRun) -> list[Beside]:
    """Runs and the one they are held against, each with its gain over the best baseline of its own data."""
    here = next((item for item in group if item.run == reference.run), reference)
    gains = [item.evaluation.splits["val"].gain if "val" in item.evaluation.splits else None for item in (*group, here)]
    than = gains[-1].value if gains[-1] else None
    lines = [_beside(item, gain, than) for item, gain in zip(group, gains, strict=False) if item is not here]
    return [*lines, _beside(here, gains[-1], None)] if lines else []


def _gain_of(line: Beside) -> float:
    return line.gain.value if isinstance(line.gain, Estimate) else line.gain or 0.0


def _beside(item: EvaluatedRun, gain: Estimate | None, than: float | None) -> Beside:
    cosines = []
    for split in ("val", "ood"):
        figures = item.evaluation.splits.get(split)
        cosines.append(
            figures.predictors[item.evaluation.model].cosine.value if figures and item.evaluation.model else None
        )
    difference = None if gain is None or than is None else gain.value - than
    return Beside(item.name, cosines[0], cosines[1], gain, difference)


def _notes(sets: Sequence[ComparedSet], reference: str, told: Sequence[str], published: bool) -> Iterable[str]:
    """What a reader of the sets must know and the judgements have not `told`."""
    if len(sets) > 1:
        yield "these sets have different windows: scores can't be compared from one to another, only gains"
    if published:
        yield (
            f"{PUBLISHED_584K}: published figures on other data, not measured here; the context mean has "
            f"{PUBLISHED_CONTEXT_MEAN} there, so only gains over the context mean can be held against each other"
        )
    elif reference:
        yield f"the difference from {reference} is one of gains over the best baseline, and has no interval"
    if any(compared.synthetic for compared in sets) and not any(SYNTHETIC in note.lower() for note in told):
        yield f"{SYNTHETIC} vectors prove nothing about real text"


def _notes_of(evaluated: Sequence[EvaluatedRun]) -> Iterable[str]:
    """What the judgements note, such as a leak; each note once, with the runs that it is about."""
    about: dict[str, dict[str, None]] = {}
    for item in evaluated:
        for note in item.evaluation.notes:
            about.setdefault(f"{item.data_label.partition(' ')[0]}: {note}", {})[item.name] = None
    return (f"{', '.join(names)} on {note}" for note, names in about.items())


HEADINGS = ("predictor", "cosine", "gain (95 % CI)", "best baseline", "margin", "MRR")


def score_cells(row: Score) -> tuple[str, ...]:
    """A row as text, a cell for each of `HEADINGS`."""
    outcome = f"{SYMBOLS[row.status]} {OUTCOMES[row.status]}" if row.status else ""
    cosine = format_interval(row.cosine.value, row.cosine.low, row.cosine.high)
    return row.name, cosine, row.gain.signed if row.gain else "", outcome, f"{row.margin:+.3f}", f"{row.mrr:.3f}"


def beside_headings(comparison: Comparison) -> tuple[str, ...]:
    """The headings of the rows beside the reference."""
    published = comparison.reference == PUBLISHED_584K
    gain = "gain over context mean" if published else "gain over best baseline"
    return "model", "val", "ood", gain, "than published" if published else "than the reference"


def beside_cells(line: Beside) -> tuple[str, ...]:
    """A row beside the reference as text."""
    gain = f"{line.gain:+.4f}" if isinstance(line.gain, float) else line.gain.signed if line.gain else ABSENT
    than = ABSENT if line.than_reference is None else f"{line.than_reference:+.4f}"
    cosines = (ABSENT if cosine is None else f"{cosine:.4f}" for cosine in (line.val, line.ood))
    return line.name, *cosines, gain, than


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(
        title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False,
        padding=(0, 1, 0, 0), pad_edge=False,
    )  # fmt: skip
    table.add_column(headings[0], overflow="fold")
    for heading in headings[1:]:
        table.add_column(heading, justify="left" if heading == "best baseline" else "right", no_wrap=True)
    return table


def _markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, words: Sequence[int]) -> str:
    """A Markdown table; `words` are the columns that are text, the others are numbers."""
    rule = ["---" if number in words else "---:" for number in range(len(headings))]
    lines = [headings, rule, *([escape_markdown(row[0]), *row[1:]] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
