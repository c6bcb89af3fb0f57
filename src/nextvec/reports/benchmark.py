"""Results of benchmark tasks as files, and their leaderboard: a table for each task, in a terminal and as a page.

A result is one model on one task. The leaderboard is made of all result files of a folder, so that results of several
people are joined by copying files. Only results of the same task, version and content share a table; a file of another
version of the metrics is listed as one to measure again.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nextvec.core.display import Displayable
from nextvec.core.files import make_folder, write_json, write_text
from nextvec.core.formatting import ABSENT, STATUSES, Status, format_interval, format_number
from nextvec.core.table import Cell, Column, Line, Row, Table, View
from nextvec.errors import InputError, one_line
from nextvec.evaluation.results import Estimate, Evaluation, SplitResult

FORMAT_VERSION = 1
"""Version of a result file."""
RESULTS = "results"
"""Folder of the result files, by task."""
PAGE = "leaderboard.md"

_COLUMNS = (
    Column("model", "left", "fold"),
    Column("seeds"),
    Column("ctx"),
    Column("cosine"),
    Column("gain"),
    Column("skill %"),
    Column("MRR"),
    Column("MRR gain"),
    Column("seen", "left"),
)


@dataclass(frozen=True)
class TaskResult:
    """One model on one task."""

    task: str
    version: int
    content: str
    """Hash of the data, which may differ from the task's if it is text of other versions of the packages."""
    is_frozen: bool
    """Whether it is the task's."""
    model: str
    """Name of the model, or of the recipe that it was trained with."""
    trained: bool
    """Whether it was trained on the task's own train split."""
    seed: int | None
    """Seed of the training; None for a model that was not trained here."""
    context: int
    parameters: int
    space: str
    versions: dict[str, str]
    """Package → version."""
    evaluation: Evaluation

    @property
    def table_key(self) -> tuple[str, int, str]:
        """Results with equal keys are comparable."""
        return self.task, self.version, self.content

    @property
    def file_name(self) -> str:
        """Name of its file in the task's folder, the same for another run of the same model, which replaces it."""
        seed = "" if self.seed is None else f"-seed{self.seed}"
        return f"{file_name_of(self.model)}{seed}-{self.content[:8]}.json"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"format": FORMAT_VERSION, **asdict(self), "evaluation": self.evaluation.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TaskResult:
        """Load a result from the values of `to_dict`. Raises KeyError, TypeError or ValueError for other values."""
        if values.get("format") != FORMAT_VERSION:
            raise ValueError(f"format {values.get('format')!r:.20}, expected {FORMAT_VERSION}")
        fields = {name: value for name, value in values.items() if name != "format"}
        return cls(**{**fields, "evaluation": Evaluation.from_dict(values["evaluation"])})


def file_name_of(name: str) -> str:
    """Return a name of a model or a recipe without the characters that file names must not have."""
    return re.sub(r"[^\w.+-]+", "_", name)


@dataclass(frozen=True)
class BenchmarkResults(Displayable, view="nextvec.reports.benchmark:benchmark_view"):
    """All results of a folder."""

    folder: str
    results: tuple[TaskResult, ...]
    damaged: tuple[str, ...] = ()
    """Files that could not be read, with the reason."""

    @property
    def status(self) -> Status:
        """The worst status of the results."""
        return max((result.evaluation.status for result in self.results), key=STATUSES.index, default=Status.AMBER)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"folder": self.folder, "results": [result.to_dict() for result in self.results]}


def write_result(folder: Path, result: TaskResult) -> Path:
    """Write a result into a benchmark's folder and return its file."""
    file = folder / RESULTS / result.task / result.file_name
    make_folder(file.parent)
    write_json(file, result.to_dict())
    return file


def read_results(folder: Path) -> BenchmarkResults:
    """Return all results of a benchmark's folder. A damaged file, or one of another version, is listed, not raised."""
    results, damaged = [], []
    for file in sorted((folder / RESULTS).glob("*/*.json")):
        try:
            results.append(TaskResult.from_dict(json.loads(file.read_text(encoding="utf-8"))))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            damaged.append(f"{file}: not read ({one_line(error)}); run the task again")
    if not results and not damaged:
        raise InputError(f"benchmark {folder}: it has no results. Make one with 'nextvec benchmark run MODEL'.")
    return BenchmarkResults(str(folder), tuple(results), tuple(damaged))


def write_page(folder: Path) -> BenchmarkResults:
    """Write the leaderboard of a benchmark's folder, and return its results."""
    board = read_results(folder)
    intro = (
        "# Benchmark\n\nEvery score stands next to the best baseline of the same windows. A gain is the model's score "
        "minus that baseline's, with a 95 % interval over documents. Skill is the share of the baseline's error that "
        "the model removes. Rows without a gain are baselines.\n\n"
    )
    write_text(folder / PAGE, intro + benchmark_view(board).markdown())
    return board


def benchmark_view(board: BenchmarkResults) -> View:
    """Return a table for each task and split, with the baselines below the models."""
    groups: dict[tuple[str, int, str], list[TaskResult]] = {}
    for result in board.results:
        groups.setdefault(result.table_key, []).append(result)
    blocks: list[Table | Line] = []
    for (task, version, content), results in sorted(groups.items()):
        blocks.append(Line(f"{task} (version {version})", style="heading"))
        if not results[0].is_frozen:
            text = f"Other text than the task's: content {content[:8]}. The installed packages have other versions."
            blocks.append(Line(text, Status.AMBER))
        splits = dict.fromkeys(split for result in results for split in result.evaluation.splits)
        blocks += [
            _split_table(split, [item for item in results if split in item.evaluation.splits]) for split in splits
        ]
    blocks += [Line(line, Status.AMBER) for line in board.damaged]
    return View(tuple(blocks))


def _split_table(split: str, results: Sequence[TaskResult]) -> Table:
    """Return the models by descending gain, then the best baselines in cosine and in MRR."""
    models: dict[tuple[str, bool], list[TaskResult]] = {}
    for result in results:
        models.setdefault((result.model, result.trained), []).append(result)
    rows = [(_gain(split, seeds), _model_row(split, seeds)) for seeds in models.values()]
    rows.sort(key=lambda item: -item[0])
    first = results[0].evaluation.splits[split]
    title = f"{split}: {first.windows:,} windows of {first.documents:,} documents, {first.candidates:,} candidates"
    return Table(title, _COLUMNS, (*(row for _, row in rows), *_baseline_rows(split, results)))


def _gain(split: str, seeds: Sequence[TaskResult]) -> float:
    gains = [gain.value for result in seeds if (gain := result.evaluation.splits[split].gain)]
    return statistics.fmean(gains) if gains else 0.0


def _model_row(split: str, seeds: Sequence[TaskResult]) -> Row:
    """Return the row of a model: the means of its seeds."""
    first = seeds[0]
    measured = [(result.evaluation.splits[split], result.evaluation.model or "") for result in seeds]
    status = max((result.evaluation.status for result in seeds), key=STATUSES.index)
    seen = {result.evaluation.seen.label(split) if result.evaluation.seen else "unknown" for result in seeds}
    gains = [split_result.gain for split_result, _ in measured if split_result.gain]
    retrieval = [split_result.retrieval_gain for split_result, _ in measured if split_result.retrieval_gain]
    cells = (
        Cell(f"{first.model}{' (trained)' if first.trained else ''}", status=status),
        Cell(str(len(seeds)), len(seeds)),
        Cell(str(first.context), first.context),
        _mean_cell([result.predictors[model].cosine.value for result, model in measured], ".4f"),
        _interval_cell(gains),
        _mean_cell([result.skill for result, _ in measured if result.skill is not None], ".1f", 100),
        _mean_cell([gain.mrr for gain in retrieval], ".3f"),
        _interval_cell([gain.gain for gain in retrieval]),
        Cell(", ".join(sorted(seen))),
    )
    return Row(cells, "model")


def _baseline_rows(split: str, results: Sequence[TaskResult]) -> Iterable[Row]:
    """Yield the best baseline in cosine and the best in MRR that any of the results measured."""
    best: list[tuple[float, TaskResult, str]] = []
    measures: tuple[Callable[[SplitResult, str], float], ...] = (
        lambda result, name: result.predictors[name].cosine.value,
        lambda result, name: result.predictors[name].retrieval.mrr,
    )
    for measure in measures:
        scores = [
            (measure(result.evaluation.splits[split], name), result, name)
            for result in results
            for name in result.evaluation.splits[split].predictors
            if name != result.evaluation.model
        ]
        best += [max(scores, key=lambda item: item[0])] if scores else []
    # One row if the same baseline is the best in both.
    for _, result, name in {(item[1].file_name, item[2]): item for item in best}.values():
        scores_of = result.evaluation.splits[split].predictors[name]
        cells = [Cell(name), Cell(), Cell(str(result.context), result.context)]
        cells += [Cell(format_number(scores_of.cosine.value), scores_of.cosine.value), Cell(), Cell()]
        cells += [Cell(format_number(scores_of.retrieval.mrr, ".3f"), scores_of.retrieval.mrr), Cell(), Cell()]
        yield Row(tuple(cells), "baseline")


def _mean_cell(values: Sequence[float], spec: str, scale: float = 1.0) -> Cell:
    """Return the mean of the seeds, with their standard deviation if there are several."""
    if not values:
        return Cell(ABSENT)
    mean = scale * statistics.fmean(values)
    spread = f" ±{scale * statistics.stdev(values):{spec}}" if len(values) > 1 else ""
    return Cell(f"{mean:{spec}}{spread}", mean)


def _interval_cell(estimates: Sequence[Estimate]) -> Cell:
    """Return the mean of the seeds' differences ± half of the range from the lowest to the highest end of theirs."""
    if not estimates:
        return Cell(ABSENT)
    mean = statistics.fmean(item.value for item in estimates)
    low, high = min(item.low for item in estimates), max(item.high for item in estimates)
    return Cell(format_interval(mean, low, high, "+"), mean)
