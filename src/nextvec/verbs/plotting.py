"""Plots of a run for papers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from nextvec.pages.curves import Panel

What = Literal["curves", "offsets", "retrieval", "spectrum"]


@dataclass(frozen=True)
class Plot:
    """A plot on the disk."""

    path: Path
    charts: tuple[str, ...]
    """What it shows, from left to right."""

    def __str__(self) -> str:
        """What was written, in a line."""
        return f"plot: {self.path}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {"plot": str(self.path), "charts": list(self.charts)}


def plot(
    run: Positional[str],
    *,
    what: What = "curves",
    out: Annotated[str, arg(aliases=("-o",))],
    quiet: bool = False,
) -> Plot:
    """Draw a run for a paper, with the baselines beside it; needs the extra `plots`.

    Args:
        run: Folder of a run.
        what: curves: cosines over the epochs; offsets: to which places of the document predictions point; retrieval:
            how often the true next chunk is among the k nearest; spectrum: how the variance of predictions on val is
            spread over directions, which needs the run's best checkpoint and its store.
        out: File to write; its ending says how: .svg, .png or .pdf.
        quiet: Show no progress.
    """
    from nextvec.errors import InputError
    from nextvec.report.page import curve_source
    from nextvec.report.plots import curve_panels, draw, judged_only, require_plots
    from nextvec.report.runfacts import case_of, read_run

    require_plots(Path(out))
    facts = read_run(Path(run))
    if what == "spectrum":
        panels = [_spectrum(Path(run), quiet=quiet)]
    elif what == "curves":
        case = case_of(Path(run))
        panels = curve_panels(curve_source(facts.recipe["name"], facts.recipe, case.history, case.baselines))
    else:
        judgement = facts.judgement.to_dict() if facts.judgement else {}
        panels = judged_only(curve_source(facts.recipe["name"], facts.recipe, (), {}, judgement), what)
    if not panels:
        why = "no epoch is finished" if what == "curves" else facts.state or "its judgement is older than these figures"
        raise InputError(f"run {run}: no {what} to draw ({why})")
    draw(panels, Path(out))
    return Plot(Path(out), tuple(panel.title for panel in panels))


def _spectrum(run: Path, *, quiet: bool) -> Panel:
    """The chart of the best checkpoint's predictions on val, the best baseline's and the targets'."""
    from nextvec.judge.metrics import score_windows
    from nextvec.judge.spectrum import spectra
    from nextvec.report.plots import spectrum_panel
    from nextvec.training.judging import reopen

    model, baselines, sets = reopen(run, quiet=quiet)
    val = sets["val"]
    scores = {name: score_windows(other, val.vectors, val.windows).mean_cosine for name, other in baselines.items()}
    best = max(scores, key=lambda name: scores[name])
    return spectrum_panel(spectra({best: baselines[best], model.name: model}, val), model.name, best)
