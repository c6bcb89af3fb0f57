"""Commands that compare and show runs: the leaderboard, a comparison, and plots."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date as day
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from nextvec.commands.parameters import Device, File, Paths, Run, command
from nextvec.core.run_paths import BEST_MODEL

if TYPE_CHECKING:
    from nextvec.evaluation.results import Latency
    from nextvec.reports.comparison import Comparison
    from nextvec.reports.html.panels import Panel
    from nextvec.reports.leaderboard import Entry, Leaderboard
    from nextvec.reports.run_summary import RunFacts


TABLE = "artifacts/lvm/leaderboard.md"


@command
def leaderboard_add(
    run: Run,
    *,
    table: File = TABLE,
    device: Device = "auto",
    name: Annotated[str, Parameter(metavar="NAME")] = "",
    date: Annotated[str, Parameter(metavar="YYYY-MM-DD")] = "",
) -> Leaderboard:
    """Add a finished run to the leaderboard, next to the best baseline on its data.

    The latency of a single window is measured now. Adding the same run again replaces its row.

    Args:
        run: Folder of the run.
        table: The Markdown file. Its data is stored in a .json file of the same name.
        device: Device of the latency measurement.
        name: Name of the row. Default: the model and the number of vectors, such as AMN_790k.
        date: Date of the row. Default: the day on which the run finished.
    """
    from nextvec.errors import InputError
    from nextvec.reports.leaderboard import read_leaderboard, write_leaderboard
    from nextvec.reports.run_summary import read_run

    _require_day(date)
    facts = read_run(Path(run))
    if facts.evaluation is None or "val" not in facts.evaluation.splits:
        raise InputError(f"run {run}: only finished runs can be added ({facts.state or 'not evaluated on val'})")
    board = read_leaderboard(Path(table))  # before the work, so that a damaged file is reported at once
    board = board.with_entry(_entry(facts, _latency_of(facts, device), name, date))
    write_leaderboard(board)
    return board


@command
def leaderboard_show(
    *,
    table: File = TABLE,
    sort: Literal["val", "ood", "latency", "parameters", "gain", "date", "name"] = "val",
) -> Leaderboard:
    """Show the leaderboard, with each run's gain over the best baseline on its data.

    Args:
        table: The Markdown file.
        sort: Sort key. Scores, gain and date are sorted in descending order, the others in ascending order.
    """
    from nextvec.errors import InputError
    from nextvec.reports.leaderboard import read_leaderboard

    board = read_leaderboard(Path(table), sort)
    if not board.entries:
        raise InputError(f"leaderboard {table}: it has no runs. Add one with 'nextvec leaderboard add RUN'.")
    return board


@command
def compare(
    runs: Paths,
    *,
    baseline: Annotated[str | Path, Parameter(metavar="RUN")] = "",
    data: Annotated[Paths, Parameter(metavar="STORE...")] = (),
    device: Device = "auto",
    out: File = "",
    quiet: bool = False,
) -> Comparison:
    """Compare runs with each other and with the baselines on the same windows.

    Args:
        runs: Folders of runs.
        baseline: Reference of the comparison: the folder of a run, or 584k for the published results.
        data: Stores to evaluate every run's best model on. Default: each run's own evaluation.
        device: Device of that evaluation.
        out: File for the result: an .html page with curves and charts, or Markdown for any other suffix.
        quiet: Show no progress.
    """
    from nextvec.experiments.compare_runs import compare_runs

    return compare_runs(
        tuple(map(str, runs)),
        baseline=str(baseline),
        data=tuple(map(str, data)),
        device=device,
        out=str(out),
        quiet=quiet,
    )


def _latency_of(facts: RunFacts, device: str) -> Latency:
    """Measure the latency of the run's best model on a device."""
    from nextvec.core.device import resolve_device
    from nextvec.evaluation.latency import measure_latency
    from nextvec.models.checkpoint import read_checkpoint
    from nextvec.training.run import show

    chosen, notice = resolve_device(device)
    if notice:
        show((notice,))
    model = read_checkpoint(facts.path / BEST_MODEL).model().to(chosen)
    return measure_latency(model, facts.recipe["data"]["context"], chosen)


def _entry(facts: RunFacts, latency: Latency, name: str, date: str) -> Entry:
    """Return the leaderboard entry of a finished run."""
    from nextvec.experiments.compare_runs import own_evaluations
    from nextvec.reports.leaderboard import SYNTHETIC, BestBaseline, Entry, loss_label

    evaluation, model = facts.evaluation, facts.evaluation and facts.evaluation.model
    assert evaluation and model and evaluation.verdict, facts.path
    splits = evaluation.splits
    own = {split: figures.predictors[model].cosine.value for split, figures in splits.items()}
    best = splits["val"].best_baseline or ""
    ood = splits["ood"].predictors[best].cosine.value if "ood" in splits else None
    label = _data_label(facts)
    if name and facts.synthetic and SYNTHETIC not in name:
        name = f"{name}-{SYNTHETIC}"  # a name must not hide that the vectors are synthetic
    return Entry(
        run=f"{facts.started.get('recipe_hash', '')}@{facts.started['time']}",
        name=name or f"{model.upper()}_{label}",
        data=own_evaluations([facts])[0].windows,
        data_label=label,
        val=own["val"],
        ood=own.get("ood"),
        latency=latency.batches[0].p50,
        latency_p95=latency.batches[0].p95,
        device=latency.device,
        parameters=latency.parameters,
        loss=loss_label(facts.recipe["objective"]),
        date=date or datetime.fromtimestamp(facts.ended).date().isoformat(),
        status=evaluation.verdict.status,
        gains={split: figures.gain for split, figures in splits.items() if figures.gain},
        baseline=BestBaseline(best, splits["val"].predictors[best].cosine.value, ood),
    )


def _require_day(text: str) -> None:
    """Raise InputError unless a text is empty or a date."""
    from nextvec.errors import InputError

    try:
        if text:
            day.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"date '{text}': write it as year-month-day, such as 2025-10-30") from error


def _data_label(facts: RunFacts) -> str:
    """Return a short name of the run's data: the number of vectors without ood, such as ``790k``.

    If the store no longer exists, the number comes from the recipe's name. The ood split is not counted, because it may
    be in another store.
    """
    from nextvec.data.splits import SPLITS
    from nextvec.data.store import open_store
    from nextvec.errors import NextvecError
    from nextvec.reports.leaderboard import SYNTHETIC, data_label

    path = Path(facts.recipe["data"]["store"])
    try:
        store = open_store(path.with_suffix(".store") if path.suffix == ".npz" else path)
        if store.store_hash == facts.started["store_hash"]:
            documents = store.documents
            rows = documents.rows[documents.splits != SPLITS.index("ood")]
            return data_label(int(rows.sum()), synthetic=facts.synthetic)
    except NextvecError:
        pass
    match = re.search(r"\d+k\b", facts.recipe["name"])
    label = match[0] if match else facts.recipe["name"]
    return f"{label}-{SYNTHETIC}" if facts.synthetic else label


@dataclass(frozen=True)
class Plot:
    """A plot file."""

    path: Path
    charts: tuple[str, ...]
    """Titles of its charts, from left to right."""

    def __str__(self) -> str:
        """Return the file as one line."""
        return f"plot: {self.path}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for --json."""
        return {"plot": str(self.path), "charts": list(self.charts)}


@command
def plot(
    run: Run,
    *,
    what: Literal["curves", "offsets", "retrieval", "spectrum"] = "curves",
    out: Annotated[File, Parameter(alias="-o")],
    quiet: bool = False,
) -> Plot:
    """Plot a run for a paper, with the baselines (extra: plots).

    Args:
        run: Folder of a run.
        what: Kind of plot. curves: cosine per epoch. offsets: cosine to the chunks before and after the target.
            retrieval: recall at k. spectrum: variance of the predictions on val per direction, which needs the run's
            best checkpoint and its store.
        out: File to write: .svg, .png or .pdf.
        quiet: Show no progress.
    """
    from nextvec.errors import InputError
    from nextvec.reports.html.run_report import curve_source
    from nextvec.reports.plots import curve_panels, draw, evaluation_charts, require_plots
    from nextvec.reports.run_summary import case_of, read_run

    require_plots(Path(out))
    facts = read_run(Path(run))
    if what == "spectrum":
        panels = [_spectrum(Path(run), quiet=quiet)]
    elif what == "curves":
        case = case_of(Path(run))
        panels = curve_panels(curve_source(facts.recipe["name"], facts.recipe, case.history, case.baselines))
    else:
        evaluation = facts.evaluation.to_dict() if facts.evaluation else {}
        panels = evaluation_charts(curve_source(facts.recipe["name"], facts.recipe, (), {}, evaluation), what)
    if not panels:
        why = "no epoch is finished" if what == "curves" else facts.state or "its evaluation does not contain them"
        raise InputError(f"run {run}: there are no {what} to plot ({why})")
    draw(panels, Path(out))
    return Plot(Path(out), tuple(panel.title for panel in panels))


def _spectrum(run: Path, *, quiet: bool) -> Panel:
    """Return the chart of the spectra on val: the best checkpoint's predictions, the best baseline's, the targets."""
    from nextvec.evaluation.geometry import eigenvalue_shares
    from nextvec.evaluation.metrics import score_windows
    from nextvec.reports.plots import spectrum_panel
    from nextvec.training.evaluate import reopen

    model, baselines, sets = reopen(run, quiet=quiet)
    val = sets["val"]
    scores = {
        name: score_windows(baseline, val.vectors, val.windows).mean_cosine for name, baseline in baselines.items()
    }
    best = max(scores, key=lambda name: scores[name])
    return spectrum_panel(eigenvalue_shares({best: baselines[best], model.name: model}, val), model.name, best)
