"""Runs side by side: one table for each set of windows, with the baselines of those windows among the rows.

Only scores on the same windows share a table. Runs on different windows are compared by their gains over the baselines
of their own windows. The functions are pure; nothing is printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nextvec.core.display import Displayable
from nextvec.core.formatting import ABSENT, Status, format_interval, format_number, worst
from nextvec.core.table import Cell, Column, Line, Row, Table, View
from nextvec.evaluation.results import Estimate
from nextvec.evaluation.verdict import split_outcome
from nextvec.reports.leaderboard import SYNTHETIC
from nextvec.reports.run_summary import EvaluatedRun
from nextvec.reports.tables import describe_split

PUBLISHED_584K = "584k"
PUBLISHED = {"amn": (0.5597, 0.6375), "lstm": (0.5792, 0.6046), "gru": (0.592, 0.6295), "transformer": (0.5864, 0.6257)}
"""Model → published cosines on val and ood, of the models trained on the 584k set."""
PUBLISHED_CONTEXT_MEAN = 0.546
"""Published cosine of the context mean on val of the 584k set."""

OUTCOMES: dict[Status, str] = {
    Status.GREEN: "beats it",
    Status.AMBER: "no significant difference",
    Status.RED: "loses to it",
}
"""Status of a gain in cosine → the result of the comparison with the best baseline."""


@dataclass(frozen=True)
class Score:
    """One predictor on one split."""

    name: str
    is_baseline: bool
    cosine: Estimate
    gain: Estimate | None
    """Gain over the best baseline of the split; None for baselines."""
    status: Status | None
    """The status of `split_outcome`, red on rows that the model has seen in training; None for baselines."""
    outcome: str
    """The comparison with the best baselines in cosine and retrieval; empty for baselines."""
    margin: float
    mrr: float
    """MRR of the query; of the prediction if there is no query."""


@dataclass(frozen=True)
class SplitScores:
    """All predictors on one split, by descending val cosine."""

    split: str
    windows: str
    """The sample sizes as text."""
    rows: tuple[Score, ...]

    @property
    def table(self) -> Table:
        """The scores as a table."""
        columns = (
            Column("predictor", "left", "fold"),
            Column("cosine (95 % CI)"),
            Column("gain (95 % CI)"),
            Column("best baseline", "left", "fold"),
            Column("margin"),
            Column("MRR"),
        )
        return Table(f"{self.split}: {self.windows}", columns, tuple(_score_row(row) for row in self.rows))


@dataclass(frozen=True)
class ReferenceRow:
    """A run compared with the reference: scores on val and ood, and the gain on val over a common baseline."""

    name: str
    val: float | None
    ood: float | None
    gain: Estimate | float | None
    """A plain number if the interval is unknown (published results)."""
    difference: float | None
    """The gain minus the gain of the reference."""
    seen: str = ""
    """`clean`, `35 % seen` (the share of val or ood that the model was trained on) or `unknown`; empty if published."""


@dataclass(frozen=True)
class ComparedSet:
    """Everything that was evaluated on one set of windows."""

    title: str
    is_synthetic: bool
    splits: tuple[SplitScores, ...]
    reference_rows: tuple[ReferenceRow, ...] = ()


@dataclass(frozen=True)
class Comparison(Displayable, view="nextvec.reports.comparison:comparison_view"):
    """Runs side by side."""

    sets: tuple[ComparedSet, ...]
    reference: str = ""
    """The reference of the comparison: 584k, the name of a run, or empty."""
    remarks: dict[str, str] = field(default_factory=dict)
    """Run → why it is not in a table, or a caveat."""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    def reference_table(self, compared: ComparedSet) -> Table:
        """Return the comparison of a set's runs with the reference."""
        # Published results have no baselines except the context mean, so it replaces the best baseline.
        is_published = self.reference == PUBLISHED_584K
        columns = (
            Column("model", "left", "fold"),
            Column("val"),
            Column("ood"),
            Column(f"gain over {'context mean' if is_published else 'best baseline'}"),
            Column(f"vs {'published' if is_published else 'reference'}"),
            Column("seen", "left"),
        )
        return Table(
            f"{compared.title}: compared with {self.reference}",
            columns,
            tuple(_reference_cells(row) for row in compared.reference_rows),
        )


def compare_evaluated(
    evaluated: Sequence[EvaluatedRun], *, reference: str = "", remarks: dict[str, str] | None = None
) -> Comparison:
    """Compare runs with each other, and with a `reference`: 584k, or the `run` of one of the evaluated runs."""
    # Runs on the same windows form a set; only their scores are comparable.
    groups: dict[str, list[EvaluatedRun]] = {}
    for item in evaluated:
        groups.setdefault(item.windows, []).append(item)
    reference_run = next((item for item in evaluated if item.run == reference), None)
    sets = tuple(_compared_set(group, reference, reference_run) for group in groups.values())
    name = reference_run.name if reference_run else reference
    evaluation_notes = tuple(_evaluation_notes(evaluated))
    is_published = bool(reference) and reference_run is None
    notes = (*_notes(sets, name, evaluation_notes, is_published), *evaluation_notes)
    return Comparison(sets, name, remarks or {}, notes)


def comparison_view(comparison: Comparison) -> View:
    """Return the comparison as tables and lines."""
    # Each set has its heading and tables; caveats about all sets follow at the end.
    blocks: list[Table | Line] = []
    for compared in comparison.sets:
        blocks.append(Line(compared.title, style="heading"))
        blocks += [scores.table for scores in compared.splits]
        if compared.reference_rows:
            blocks.append(comparison.reference_table(compared))
    blocks += [Line(f"{run}: {remark}", style="item") for run, remark in comparison.remarks.items()]
    blocks += [Line(f"Note: {note}", style="note") for note in comparison.notes]
    return View(tuple(blocks))


def comparison_markdown(comparison: Comparison) -> str:
    """Return the comparison as a Markdown page."""
    return f"# Comparison\n\n{comparison_view(comparison).markdown()}"


def _compared_set(group: Sequence[EvaluatedRun], reference: str, reference_run: EvaluatedRun | None) -> ComparedSet:
    """Return the scores of runs on the same windows."""
    first = group[0]
    title = f"{first.data_label} · context {first.context}" + (f" · {SYNTHETIC} data" if first.synthetic else "")
    splits = {split: _scores(group, split) for split in first.evaluation.splits}
    # All tables have the order of the first split: val, if it was evaluated.
    order = {row.name: row.cosine.value for row in next(iter(splits.values()), [])}
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
    # Without a reference run, the reference is the published table.
    rows = _published_rows(group) if reference_run is None else _run_rows(group, reference_run)
    rows.sort(key=_gain_value, reverse=True)
    return ComparedSet(title, first.synthetic, tables, tuple(rows))


def _scores(group: Sequence[EvaluatedRun], split: str) -> list[Score]:
    """Return the scores on a split: each run's model, and each baseline once.

    Baselines with random parts differ a little between runs; the highest cosine counts.
    """
    models, baselines = [], dict[str, Score]()
    for item in group:
        result = item.evaluation.splits[split]
        for name, scores in result.predictors.items():
            # Only the model has a gain and a name of its own; baselines are shared by all runs of the set.
            is_model = name == item.evaluation.model
            gain = result.gain if is_model else None
            status, outcome = _split_outcome(item, split) if gain else (None, "")
            row = Score(
                name=item.name if is_model else name,
                is_baseline=not is_model,
                cosine=scores.cosine,
                gain=gain,
                status=status,
                outcome=outcome,
                margin=scores.margin,
                mrr=(scores.query or scores.retrieval).mrr,
            )
            if is_model:
                models.append(row)
            elif name not in baselines or row.cosine.value > baselines[name].cosine.value:
                baselines[name] = row
    return [*models, *baselines.values()]


def _published_rows(group: Sequence[EvaluatedRun]) -> list[ReferenceRow]:
    """Return the runs and the published models, each with its gain over the context mean of its own data."""
    # The published data differs from ours, so the context mean is the only common reference.
    gains = {kind: val - PUBLISHED_CONTEXT_MEAN for kind, (val, _) in PUBLISHED.items()}
    rows = [
        ReferenceRow(f"{kind.upper()} {PUBLISHED_584K} (published)", val, ood, gains[kind], None)
        for kind, (val, ood) in PUBLISHED.items()
    ]
    # The gain over the context mean is a predictor's field: the model minus that predictor.
    for item in group:
        val_result = item.evaluation.splits.get("val")
        context_mean = val_result.predictors.get("context-mean") if val_result else None
        gain = context_mean.gain if context_mean else None
        rows.append(_reference_row(item, gain, gains.get(item.evaluation.model or "")))
    return rows


def _run_rows(group: Sequence[EvaluatedRun], reference: EvaluatedRun) -> list[ReferenceRow]:
    """Return the runs and the reference run, each with its gain over the best baseline of its own data."""
    # The reference can be evaluated on several sets; its result on this set counts, if there is one.
    here = next((item for item in group if item.run == reference.run), reference)
    gains = [item.evaluation.splits["val"].gain if "val" in item.evaluation.splits else None for item in (*group, here)]
    reference_gain = gains[-1].value if gains[-1] else None
    rows = [
        _reference_row(item, gain, reference_gain) for item, gain in zip(group, gains, strict=False) if item is not here
    ]
    return [*rows, _reference_row(here, gains[-1], None)] if rows else []


def _gain_value(row: ReferenceRow) -> float:
    return row.gain.value if isinstance(row.gain, Estimate) else row.gain or 0.0


def _reference_row(item: EvaluatedRun, gain: Estimate | None, reference_gain: float | None) -> ReferenceRow:
    # Missing splits leave a dash. The difference needs both gains.
    model, splits = item.evaluation.model, item.evaluation.splits
    cosines = [
        splits[split].predictors[model].cosine.value if split in splits and model else None for split in ("val", "ood")
    ]
    difference = None if gain is None or reference_gain is None else gain.value - reference_gain
    seen = item.evaluation.seen.label() if item.evaluation.seen else ""
    return ReferenceRow(item.name, cosines[0], cosines[1], gain, difference, seen)


def _notes(
    sets: Sequence[ComparedSet], reference: str, evaluation_notes: Sequence[str], is_published: bool
) -> Iterable[str]:
    """Yield caveats about the sets that the evaluations do not report themselves."""
    if len(sets) > 1:
        yield "The sets have different windows. Compare gains between sets, not scores."
    if is_published:
        yield (
            f"{PUBLISHED_584K}: published results on other data, not measured here. Their context mean is "
            f"{PUBLISHED_CONTEXT_MEAN}, so compare gains over the context mean only."
        )
    elif reference:
        yield f"The difference from {reference} is between gains over the best baseline. It has no interval."
    # The note about synthetic vectors appears once, wherever it comes from.
    is_reported = any(SYNTHETIC in note.lower() for note in evaluation_notes)
    if any(compared.is_synthetic for compared in sets) and not is_reported:
        yield f"The vectors are {SYNTHETIC}. The results do not transfer to real text."


def _evaluation_notes(evaluated: Sequence[EvaluatedRun]) -> Iterable[str]:
    """Return the notes of the evaluations, such as a leak: each once, with the names of its runs."""
    # A dict of names keeps their order and drops repetitions; the first word of the data's label tells sets apart.
    runs_by_note: dict[str, dict[str, None]] = {}
    for item in evaluated:
        for note in item.evaluation.notes:
            runs_by_note.setdefault(f"{item.data_label.partition(' ')[0]}: {note}", {})[item.name] = None
    return (f"{', '.join(names)} on {note}" for note, names in runs_by_note.items())


def _split_outcome(item: EvaluatedRun, split: str) -> tuple[Status, str]:
    """Return status and text of a model's comparison with the best baselines of a split, seen rows considered."""
    outcome, seen = split_outcome(item.evaluation.splits[split]), item.evaluation.seen
    text = OUTCOMES[outcome.cosine] + (", retrieves worse" if outcome.retrieves_worse else "")
    if seen is not None and split in seen.splits and seen.splits[split].is_tainted:
        return Status.RED, f"no evidence: {seen.label(split)}"
    if seen is not None and not seen.is_history_known:
        return worst([Status.AMBER, outcome.status]), f"{text}, unknown history"
    return outcome.status, text


def _score_row(row: Score) -> Row:
    cells = (
        Cell(row.name),
        Cell(format_interval(row.cosine.value, row.cosine.low, row.cosine.high), row.cosine.value),
        Cell(row.gain.signed, row.gain.value) if row.gain else Cell(),
        Cell(row.outcome, status=row.status),
        Cell(f"{row.margin:+.3f}", row.margin),
        Cell(f"{row.mrr:.3f}", row.mrr),
    )
    return Row(cells, "" if row.is_baseline else "model")


_SEEN_STATUSES = {"": None, "clean": None, "unknown": Status.AMBER}
"""`seen` of a reference row → its status; a share is red."""


def _reference_cells(row: ReferenceRow) -> Row:
    gain = row.gain.signed if isinstance(row.gain, Estimate) else format_number(row.gain, "+.4f")
    cells = (
        Cell(row.name),
        Cell(format_number(row.val), row.val),
        Cell(format_number(row.ood), row.ood),
        Cell(gain or ABSENT, _gain_value(row) if row.gain is not None else None),
        Cell(format_number(row.difference, "+.4f"), row.difference),
        Cell(row.seen, status=_SEEN_STATUSES.get(row.seen, Status.RED)),
    )
    return Row(cells)
