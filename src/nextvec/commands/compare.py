"""Commands that compare and show runs: the leaderboard, a comparison, and plots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from nextvec.commands.parameters import Device, File, Paths, Run, as_texts, command
from nextvec.errors import InputError

if TYPE_CHECKING:
    from nextvec.reports.comparison import Comparison
    from nextvec.reports.leaderboard import Leaderboard
    from nextvec.reports.run_plots import Plot

TABLE = "artifacts/lvm/leaderboard.md"


@command()
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
    from nextvec.experiments.leaderboard import add_to_leaderboard

    return add_to_leaderboard(Path(run), Path(table), device=device, name=name, date=date)


@command()
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
    from nextvec.reports.leaderboard import read_leaderboard

    board = read_leaderboard(Path(table), sort)
    if not board.entries:
        raise InputError(f"leaderboard {table}: it has no runs. Add one with 'nextvec leaderboard add RUN'.")
    return board


@command()
def compare(
    runs: Paths,
    *,
    baseline: Run = "",
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
        as_texts(runs),
        baseline=str(baseline),
        data=as_texts(data),
        device=device,
        out=str(out),
        quiet=quiet,
    )


@command()
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
    from nextvec.reports.run_plots import plot_run

    return plot_run(Path(run), what, Path(out), quiet=quiet)
