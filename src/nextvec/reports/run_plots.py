"""Plots of one run: its curves, its evaluation and its spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nextvec.core.display import Displayable
from nextvec.core.table import Line, View
from nextvec.errors import InputError
from nextvec.evaluation.geometry import eigenvalue_shares
from nextvec.evaluation.metrics import score_windows
from nextvec.reports.html.panels import Panel
from nextvec.reports.html.run_report import curve_source
from nextvec.reports.plots import curve_panels, draw, evaluation_charts, require_plots, spectrum_panel
from nextvec.reports.run_summary import case_of, read_run
from nextvec.training.evaluate import reopen

PlotKind = Literal["curves", "offsets", "retrieval", "spectrum"]


@dataclass(frozen=True)
class Plot(Displayable):
    """A plot file."""

    path: Path
    charts: tuple[str, ...]
    """Titles of its charts, from left to right."""

    def view(self) -> View:
        """Return the file as one line."""
        return View((Line(f"plot: {self.path}", style="path"),))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for --json."""
        return {"plot": str(self.path), "charts": list(self.charts)}


def plot_run(run: Path, what: PlotKind, out: Path, *, quiet: bool = False) -> Plot:
    """Draw one kind of plot of a run into a file. Raises InputError if the run has no data for it."""
    require_plots(out)
    facts = read_run(run)
    name = facts.recipe["name"]
    if what == "spectrum":
        panels = [_spectrum(run, quiet=quiet)]
    elif what == "curves":
        case = case_of(run)
        panels = curve_panels(curve_source(name, facts.recipe, case.history, case.baselines))
    else:
        evaluation = facts.evaluation.to_dict() if facts.evaluation else {}
        panels = evaluation_charts(curve_source(name, facts.recipe, (), {}, evaluation), what)
    # A run that has just started has no curves; a stopped run has no evaluation.
    if not panels:
        why = "no epoch is finished" if what == "curves" else facts.state or "its evaluation does not contain them"
        raise InputError(f"run {run}: there are no {what} to plot ({why})")
    draw(panels, out)
    return Plot(out, tuple(panel.title for panel in panels))


def _spectrum(run: Path, *, quiet: bool) -> Panel:
    """Return the chart of the spectra on val: the best checkpoint's predictions, the best baseline's, the targets."""
    model, baselines, sets = reopen(run, quiet=quiet)
    val = sets["val"]
    # The best baseline on val, by the mean cosine of its predictions.
    scores = {
        name: score_windows(baseline, val.vectors, val.windows).mean_cosine for name, baseline in baselines.items()
    }
    best = max(scores, key=lambda name: scores[name])
    return spectrum_panel(eigenvalue_shares({best: baselines[best], model.name: model}, val), model.name, best)
