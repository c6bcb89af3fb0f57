"""Plots for papers: the report's charts drawn by matplotlib, as svg, png or pdf, in the report's colours for print.

The same run gives the same bytes: no date is written, and the ids in an svg are fixed.
"""

from __future__ import annotations

import io
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
"""Inches of one chart: two of them are as wide as a page."""
DPI = 200
_STYLE: dict[Any, Any] = {
    "font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e2e1dc",
    "grid.linewidth": 0.6, "axes.edgecolor": "#5d6570", "svg.fonttype": "none", "svg.hashsalt": "nextvec",
    "pdf.fonttype": 42, "text.parse_math": False, "legend.frameon": False,
}  # fmt: skip
_DASHES = {
    "solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3)), "longdashdot": (0, (8, 3, 1, 3)),
}  # fmt: skip
_NO_DATE = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}


def require_plots(out: Path) -> None:
    """Raise InputError for a file whose ending is none of `FORMATS`, MissingExtraError without matplotlib."""
    if out.suffix.lower() not in FORMATS:
        raise InputError(f"output {out}: end it in one of {', '.join(FORMATS)}.{did_you_mean(out.suffix, FORMATS)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots", "drawing plots") from error


def curve_panels(run: CurveSource) -> list[Panel]:
    """The cosines over the epochs, val and ood."""
    return [panel for panel in run_panels(run) if panel.key in ("val_cosine", "ood_cosine")]


def evaluated_only(run: CurveSource, what: str) -> list[Panel]:
    """The charts of a judgement: its `offsets`, or its `retrieval`."""
    return [panel for panel in evaluated_panels(run.evaluation) if panel.key.startswith(what)]


def spectrum_panel(shares: dict[str, list[float]], model: str, best_baseline: str) -> Panel:
    """How the variance of each cloud is spread over directions, from the strongest one on."""
    styles = {model: ("$model", "solid"), best_baseline: ("$best", "dash")}
    lines = [
        Line(name, list(range(1, len(found) + 1)), _logarithms(found), *styles.get(name, ("$muted", "dot")))
        for name, found in shares.items()
    ]
    known = [value for line in lines for value in line.y if value is not None]
    if not known:
        raise InputError("spectrum: none of the predictions varies; there is nothing to draw")
    axes = Axes(span(known), "direction, from the strongest on", logarithmic=True)
    return Panel("spectrum", "log10 of the share of variance", chart(lines, axes))


def _logarithms(shares: Sequence[float]) -> list[float | None]:
    """log10 of each share; nothing for directions without variance."""
    from math import log10

    return [log10(share) if share > 1e-8 else None for share in shares]


def draw(panels: Sequence[Panel], out: Path) -> None:
    """Draw charts side by side into a file. Raises OutputError if it can't be written."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet

    colours = _colours()
    with mpl.rc_context(_STYLE):
        sheet = Sheet(figsize=(WIDTH * len(panels), HEIGHT), layout="constrained")
        FigureCanvasAgg(sheet)
        for plot, panel in zip(sheet.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            plot.set_title(panel.title, loc="left", fontsize=8, fontweight="bold")
            _draw_chart(plot, panel.figure, colours)
        buffer = io.BytesIO()
        suffix = out.suffix.lower()
        sheet.savefig(buffer, format=suffix[1:], dpi=DPI, metadata=_NO_DATE[suffix])
    make_folder(out.parent)
    write_bytes(out, buffer.getvalue())


def _colours() -> dict[str, str]:
    """Name → colour, as the pages have them on white."""
    status = asset("page.css").partition("@media")[0]
    return {f"${name}": colour for name, colour in re.findall(r"--(\w+): (#\w{6})", status)}


def _draw_chart(plot: PlotAxes, figure: Figure, colours: dict[str, str]) -> None:
    layout = figure["layout"]
    x_axis = layout["xaxis"]
    if x_axis.get("type") == "log":
        plot.set_xscale("log")
        plot.set_xlim(*(10**edge for edge in x_axis["range"]))
    else:
        plot.set_xlim(*x_axis["range"])
    if x_axis.get("tickvals"):
        plot.set_xticks(x_axis["tickvals"], [unescape(text) for text in x_axis["ticktext"]])
        plot.minorticks_off()
    elif x_axis.get("type") == "log":
        plot.xaxis.set_major_formatter("{x:g}")
    else:
        plot.locator_params(axis="x", integer=True)
    plot.set_ylim(*layout["yaxis"]["range"])
    plot.set_xlabel(x_axis["title"]["text"])
    for shape in layout.get("shapes", ()):
        _draw_shape(plot, shape, colours)
    for trace in figure["data"]:
        _draw_trace(plot, trace, colours)
    for label in layout["annotations"]:
        colour = colours[label["font"]["color"]]
        place = (label["x"], label["y"])
        plot.text(*place, unescape(label["text"]), transform=plot.get_yaxis_transform(), color=colour, va="center")


def _draw_shape(plot: PlotAxes, shape: dict[str, Any], colours: dict[str, str]) -> None:
    if shape["type"] == "line":
        plot.axhline(shape["y0"], color=colours[shape["line"]["color"]], linewidth=0.9, linestyle="--", zorder=1)
        return
    span_x = (shape["x0"], shape["x1"])
    colour = colours[shape["fillcolor"]]
    plot.fill_between(span_x, shape["y0"], shape["y1"], color=colour, alpha=shape["opacity"], linewidth=0, zorder=0)


def _draw_trace(plot: PlotAxes, trace: dict[str, Any], colours: dict[str, str]) -> None:
    values = [float("nan") if value is None else value for value in trace["y"]]
    if trace["mode"] == "markers":
        edge = colours[trace["marker"]["line"]["color"]]
        plot.plot(trace["x"], values, "o", color="white", markeredgecolor=edge, markersize=5, zorder=4)
        return
    line = trace["line"]
    alone = "o" if sum(value is not None for value in trace["y"]) == 1 else None
    plot.plot(
        trace["x"], values, marker=alone, color=colours[line["color"]], linewidth=0.7 * line["width"],
        linestyle=_DASHES[line["dash"]], zorder=3,
    )  # fmt: skip
