"""Plots for papers: the report's charts drawn by matplotlib, as SVG, PNG or PDF.

The same run gives the same bytes: the files contain no date, and the ids in an SVG are fixed.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextvec.core.files import make_folder, write_bytes
from nextvec.errors import InputError, MissingExtraError, did_you_mean
from nextvec.reports.html.charts import Axes, Figure, Line, chart, span
from nextvec.reports.html.page import asset
from nextvec.reports.html.panels import CurveSource, Panel, evaluated_panels, run_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes as PlotAxes


FORMATS = (".svg", ".png", ".pdf")
WIDTH, HEIGHT = 4.6, 3.1
"""Inches of one chart: two of them are as wide as the text of a page."""
DPI = 200
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e2e1dc",
    "grid.linewidth": 0.6,
    "axes.edgecolor": "#5d6570",
    "svg.fonttype": "none",
    "svg.hashsalt": "nextvec",
    "pdf.fonttype": 42,
    "text.parse_math": False,
    "legend.frameon": False,
}
_DASHES = {
    "solid": "-",
    "dash": "--",
    "dot": ":",
    "dashdot": "-.",
    "longdash": (0, (8, 3)),
    "longdashdot": (0, (8, 3, 1, 3)),
}
_NO_DATE = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}


def require_plots(out: Path) -> None:
    """Raise InputError if the file has another ending than `FORMATS`, MissingExtraError without matplotlib."""
    if out.suffix.lower() not in FORMATS:
        raise InputError(
            f"--out {out}: unknown format. Use one of {', '.join(FORMATS)}.{did_you_mean(out.suffix, FORMATS)}"
        )
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots", "drawing plots") from error


def curve_panels(run: CurveSource) -> list[Panel]:
    """Return the charts of the cosines over the epochs, val and ood."""
    return [panel for panel in run_panels(run) if panel.key in ("val_cosine", "ood_cosine")]


def evaluation_charts(run: CurveSource, kind: str) -> list[Panel]:
    """Return the charts of an evaluation of one kind: `offsets` or `retrieval`."""
    return [panel for panel in evaluated_panels(run.evaluation) if panel.key.startswith(kind)]


def spectrum_panel(shares: dict[str, list[float]], model: str, best_baseline: str) -> Panel:
    """Return the chart of variance shares per principal direction, from the strongest direction down."""
    # The model and the best baseline stand out; other predictors are dotted and gray.
    styles = {model: ("$model", "solid"), best_baseline: ("$best", "dash")}
    lines = [
        Line(name, list(range(1, len(spectrum) + 1)), _logarithms(spectrum), *styles.get(name, ("$muted", "dot")))
        for name, spectrum in shares.items()
    ]
    known = [value for line in lines for value in line.y if value is not None]
    if not known:
        raise InputError("spectrum: all predictions are constant. There is nothing to draw.")
    axes = Axes(span(known), "principal direction", is_logarithmic=True)
    return Panel("spectrum", "log10 of the variance share", chart(lines, axes))


def _logarithms(shares: Sequence[float]) -> list[float | None]:
    """Return log10 of each share; None for directions without variance."""
    return [math.log10(share) if share > 1e-8 else None for share in shares]


def draw(panels: Sequence[Panel], out: Path) -> None:
    """Draw charts side by side into a file. Raises OutputError if it cannot be written."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    # The Agg canvas needs no display, and rc_context keeps the user's matplotlib settings unchanged.
    colors = _colors()
    with mpl.rc_context(_STYLE):
        canvas = Canvas(figsize=(WIDTH * len(panels), HEIGHT), layout="constrained")
        FigureCanvasAgg(canvas)
        for plot, panel in zip(canvas.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            plot.set_title(panel.title, loc="left", fontsize=8, fontweight="bold")
            _draw_chart(plot, panel.figure, colors)
        buffer = io.BytesIO()
        suffix = out.suffix.lower()
        canvas.savefig(buffer, format=suffix[1:], dpi=DPI, metadata=_NO_DATE[suffix])
    make_folder(out.parent)
    write_bytes(out, buffer.getvalue())


def _colors() -> dict[str, str]:
    """Return name → color, from the light mode of the pages."""
    # The dark colors follow in a media query; paper is white.
    light = asset("page.css").partition("@media")[0]
    return {f"${name}": color for name, color in re.findall(r"--(\w+): (#\w{6})", light)}


def _draw_chart(plot: PlotAxes, figure: Figure, colors: dict[str, str]) -> None:
    layout = figure["layout"]
    # plotly gives the range of a logarithmic axis as exponents of ten.
    x_axis = layout["xaxis"]
    if x_axis.get("type") == "log":
        plot.set_xscale("log")
        plot.set_xlim(*(10**edge for edge in x_axis["range"]))
    else:
        plot.set_xlim(*x_axis["range"])
    # Ticks: the named ones if there are any, else plain numbers, and whole numbers for epochs.
    if x_axis.get("tickvals"):
        plot.set_xticks(x_axis["tickvals"], [unescape(text) for text in x_axis["ticktext"]])
        plot.minorticks_off()
    elif x_axis.get("type") == "log":
        plot.xaxis.set_major_formatter("{x:g}")
    else:
        plot.locator_params(axis="x", integer=True)
    plot.set_ylim(*layout["yaxis"]["range"])
    plot.set_xlabel(x_axis["title"]["text"])
    # Back to front: shaded areas and levels, curves, then labels at the right edge.
    for shape in layout.get("shapes", ()):
        _draw_shape(plot, shape, colors)
    for trace in figure["data"]:
        _draw_trace(plot, trace, colors)
    for label in layout["annotations"]:
        color = colors[label["font"]["color"]]
        position = (label["x"], label["y"])
        plot.text(*position, unescape(label["text"]), transform=plot.get_yaxis_transform(), color=color, va="center")


def _draw_shape(plot: PlotAxes, shape: dict[str, Any], colors: dict[str, str]) -> None:
    if shape["type"] == "line":
        plot.axhline(shape["y0"], color=colors[shape["line"]["color"]], linewidth=0.9, linestyle="--", zorder=1)
        return
    # Any other shape is a band.
    span_x = (shape["x0"], shape["x1"])
    color = colors[shape["fillcolor"]]
    plot.fill_between(span_x, shape["y0"], shape["y1"], color=color, alpha=shape["opacity"], linewidth=0, zorder=0)


def _draw_trace(plot: PlotAxes, trace: dict[str, Any], colors: dict[str, str]) -> None:
    values = [float("nan") if value is None else value for value in trace["y"]]
    # Only the ring around the best epoch has markers without a line.
    if trace["mode"] == "markers":
        edge = colors[trace["marker"]["line"]["color"]]
        plot.plot(trace["x"], values, "o", color="white", markeredgecolor=edge, markersize=5, zorder=4)
        return
    # A single point has no line to draw, so it needs a marker.
    line = trace["line"]
    marker = "o" if sum(value is not None for value in trace["y"]) == 1 else None
    plot.plot(
        trace["x"],
        values,
        marker=marker,
        color=colors[line["color"]],
        linewidth=0.7 * line["width"],
        linestyle=_DASHES[line["dash"]],
        zorder=3,
    )
