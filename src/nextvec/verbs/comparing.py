"""What follows a run: the leaderboard, and runs side by side."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import date as day
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

if TYPE_CHECKING:
    from nextvec.judge.figures import Latency
    from nextvec.report.comparison import Comparison
    from nextvec.report.leaderboard import Entry, Leaderboard
    from nextvec.report.runfacts import JudgedRun, RunFacts

TABLE = "artifacts/lvm/leaderboard.md"


def leaderboard_add(
    run: Positional[str], *, table: str = TABLE, device: str = "auto", name: str = "", date: str = ""
) -> Leaderboard:
    """Add a finished run to the leaderboard, with the best baseline of its data beside it.

    Its latency is measured here, for one window at a time. Adding the same run again replaces its row.

    Args:
        run: Folder of the run.
        table: The Markdown file; the figures behind it are kept in a .json of the same name beside it.
        device: Where the latency is measured: auto, cpu, cuda or mps.
        name: What the row is called; left out, the model and the thousands of vectors, such as AMN_790k.
        date: Day of the row, such as 2025-10-30; left out, the day on which the run finished.
    """
    from nextvec.errors import InputError
    from nextvec.files import make_folder, write_json, write_text
    from nextvec.report.leaderboard import FORMAT_VERSION, leaderboard_markdown, with_entry
    from nextvec.report.runfacts import read_run

    _require_day(date)
    facts = read_run(Path(run))
    if facts.judgement is None or "val" not in facts.judgement.splits:
        raise InputError(f"run {run}: only finished runs can be added ({facts.state or 'not judged on val'})")
    board = _read_leaderboard(Path(table), "val")  # before the work: what is wrong with it is told at once
    board = with_entry(board, _entry(facts, _latency_of(facts, device), name, date))
    make_folder(Path(table).parent)
    entries = [entry.to_dict() for entry in board.entries]
    write_json(_figures_file(Path(table)), {"format": FORMAT_VERSION, "runs": entries})
    write_text(Path(table), leaderboard_markdown(board))
    return board


def leaderboard_show(
    *,
    table: str = TABLE,
    sort: Literal["val", "ood", "latency", "parameters", "gain", "date", "name"] = "val",
) -> Leaderboard:
    """Show the leaderboard, with each run's gain over the best baseline of its data.

    Args:
        table: The Markdown file.
        sort: What the rows are sorted by: scores, gain and date from the highest, the others from the lowest.
    """
    from nextvec.errors import InputError

    board = _read_leaderboard(Path(table), sort)
    if not board.entries and not board.own_rows:
        raise InputError(f"leaderboard {table}: no run in it; add one with 'nextvec leaderboard add RUN'")
    return board


def compare(
    runs: Positional[tuple[str, ...]],
    *,
    baseline: str = "",
    data: tuple[str, ...] = (),
    device: str = "auto",
    out: str = "",
    quiet: bool = False,
) -> Comparison:
    """Put runs side by side, with the baselines of the same windows.

    Args:
        runs: Folders of runs.
        baseline: What they are held against: 584k (the published figures) or the folder of a run.
        data: Stores that every run's best model is judged on; left out, each run's own judgement is used.
        device: Where models are judged: auto, cpu, cuda or mps.
        out: File for the result: .html is a page with the curves laid over each other and the charts of the report;
            every other ending gets Markdown.
        quiet: Show no progress.
    """
    from nextvec.errors import InputError
    from nextvec.files import make_folder, write_text
    from nextvec.report.compared import write_comparison
    from nextvec.report.comparison import PUBLISHED_584K, compare_judged, comparison_markdown
    from nextvec.report.runfacts import case_of, names_of, read_run

    if not runs:
        raise InputError("no run named; name the folder of at least one")
    published = baseline == PUBLISHED_584K
    if baseline and not published and not Path(baseline).is_dir():
        raise InputError(f"baseline {baseline}: neither {PUBLISHED_584K} nor the folder of a run")
    paths = [Path(run) for run in (*runs, *((baseline,) if baseline and not published else ()))]
    facts = [read_run(path) for path in {path.resolve(): path for path in paths}.values()]
    remarks = {str(run.path): run.state for run in facts if run.state}
    judged = _judge_on(data, facts, remarks, device, quiet) if data else _own_judgements(facts)
    reference = str(Path(baseline).resolve()) if baseline and not published else baseline
    if baseline and not published and not any(item.run == reference for item in judged):
        reason = remarks.get(str(Path(baseline)), "it could not be judged")
        raise InputError(f"baseline {baseline}: no judgement to compare with ({reason}); choose another run")
    comparison = compare_judged(judged, reference=reference, remarks=remarks)
    if out:
        make_folder(Path(out).parent)
        if Path(out).suffix.lower() in (".html", ".htm"):
            names = names_of(facts)
            write_comparison(
                Path(out), comparison, [(name, run, case_of(run.path)) for name, run in zip(names, facts, strict=True)]
            )
        else:
            write_text(Path(out), comparison_markdown(comparison))
    return comparison


def _read_leaderboard(table: Path, sort: Any) -> Leaderboard:
    """The leaderboard as it lies on the disk. Raises InputError if its figures are damaged."""
    from nextvec.errors import InputError
    from nextvec.report.leaderboard import FORMAT_VERSION, Entry, read_board

    if table.suffix != ".md":
        raise InputError(f"leaderboard {table}: name a Markdown file, such as {TABLE}")
    figures = _figures_file(table)
    try:
        text = table.read_text(encoding="utf-8") if table.exists() else None
        values = json.loads(figures.read_text(encoding="utf-8")) if figures.exists() else None
        if values is not None and values["format"] != FORMAT_VERSION:
            raise InputError(f"leaderboard {figures}: format {values['format']}, this nextvec reads {FORMAT_VERSION}")
        entries = [Entry.from_dict(row) for row in values["runs"]] if values is not None else []
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"leaderboard {table}: can't be read ({' '.join(repr(error).split())[:120]}); repair {figures.name}, or "
            "remove it and add the runs again"
        ) from error
    return read_board(str(table), entries, text, sort)


def _figures_file(table: Path) -> Path:
    """Where the figures behind a table are kept."""
    return table.with_suffix(".json")


def _latency_of(facts: RunFacts, device: str) -> Latency:
    """What a prediction of the run's best model costs on a device."""
    from nextvec.judge.latency import measure_latency
    from nextvec.runtime import resolve_device
    from nextvec.training.checkpoint import BEST, read_checkpoint
    from nextvec.training.run import show

    chosen, notice = resolve_device(device)
    if notice:
        show((notice,))
    model = read_checkpoint(facts.path / BEST).model().to(chosen)
    return measure_latency(model, facts.recipe["data"]["context"], chosen)


def _entry(facts: RunFacts, latency: Latency, name: str, date: str) -> Entry:
    """The leaderboard's entry for a finished run."""
    from nextvec.report.leaderboard import SYNTHETIC, BestBaseline, Entry, loss_label

    judgement, model = facts.judgement, facts.judgement and facts.judgement.model
    assert judgement and model and judgement.verdict, facts.path
    splits = judgement.splits
    own = {split: figures.predictors[model].cosine.value for split, figures in splits.items()}
    best = splits["val"].best_baseline or ""
    ood = splits["ood"].predictors[best].cosine.value if "ood" in splits else None
    label = _data_label(facts)
    if name and facts.synthetic and SYNTHETIC not in name:
        name = f"{name}-{SYNTHETIC}"  # whatever it is called, nobody may take it for real text
    return Entry(
        run=f"{facts.started.get('recipe_fingerprint', '')}@{facts.started['time']}",
        name=name or f"{model.upper()}_{label}",
        data=_own_judgements([facts])[0].windows,
        data_label=label,
        val=own["val"],
        ood=own.get("ood"),
        latency=latency.batches[0].p50,
        latency_p95=latency.batches[0].p95,
        device=latency.device,
        parameters=latency.parameters,
        loss=loss_label(facts.recipe["objective"]),
        date=date or datetime.fromtimestamp(facts.ended).date().isoformat(),
        light=judgement.verdict.light,
        gains={split: figures.gain for split, figures in splits.items() if figures.gain},
        baseline=BestBaseline(best, splits["val"].predictors[best].cosine.value, ood),
    )


def _require_day(text: str) -> None:
    from nextvec.errors import InputError

    try:
        if text:
            day.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"date '{text}': write it as year-month-day, such as 2025-10-30") from error


def _data_label(facts: RunFacts) -> str:
    """The run's data in a word: the vectors of its training sources; if the store is gone, what the recipe's name says.

    Vectors of the ood split don't count: it may lie in the same store or in another one.
    """
    from nextvec.data.split import SPLITS
    from nextvec.data.store import open_store
    from nextvec.errors import NextvecError
    from nextvec.report.leaderboard import SYNTHETIC, data_label

    path = Path(facts.recipe["data"]["store"])
    try:
        store = open_store(path.with_suffix(".store") if path.suffix == ".npz" else path)
        if store.fingerprint == facts.started["data_fingerprint"]:
            documents = store.documents
            rows = documents.rows[documents.splits != SPLITS.index("ood")]
            return data_label(int(rows.sum()), synthetic=facts.synthetic)
    except NextvecError:
        pass
    found = re.search(r"\d+k\b", facts.recipe["name"])
    label = found[0] if found else facts.recipe["name"]
    return f"{label}-{SYNTHETIC}" if facts.synthetic else label


def _own_judgements(facts: Sequence[RunFacts]) -> list[JudgedRun]:
    """The judgements that runs left themselves."""
    from nextvec.report.runfacts import JudgedRun, names_of

    judged = []
    for run, name in zip(facts, names_of(facts), strict=True):
        if run.judgement is None:
            continue
        label = f"{Path(run.recipe['data']['store']).name} · {run.started.get('space', '')}"
        context = run.recipe["data"]["context"]
        judged.append(JudgedRun(str(run.path.resolve()), name, run.data, label, run.synthetic, context, run.judgement))
    return judged


def _judge_on(
    data: Sequence[str], facts: Sequence[RunFacts], remarks: dict[str, str], device: str, quiet: bool
) -> list[JudgedRun]:
    """Every run's best model, judged on each of some stores. What can't be judged there is told in `remarks`."""
    from nextvec.data.dataset import open_data
    from nextvec.errors import InputError, NotFiniteError
    from nextvec.report.runfacts import JudgedRun, names_of
    from nextvec.training.checkpoint import BEST
    from nextvec.training.judging import judge_checkpoint

    stores = {name: open_data(name, quiet=quiet) for name in dict.fromkeys(data)}
    # A set whose ood windows lie in a file of their own is judged with the file that the runs on it were trained with.
    ood_sets = {Path(run.recipe["data"]["store"]).resolve(): run.recipe["data"].get("ood", "") for run in facts}
    judged = []
    for place, store in stores.items():
        ood = ood_sets.get(Path(place).resolve(), "")
        for run, name in zip(facts, names_of(facts), strict=True):
            try:
                judgement = judge_checkpoint(
                    run.path / BEST, data=place, ood_data=ood, context=None, device=device, quiet=quiet
                )
            except (InputError, NotFiniteError) as error:
                remarks[f"{run.path} on {place}"] = str(error)
                continue
            label, context = f"{Path(place).name} · {store.space}", run.recipe["data"]["context"]
            where = str(run.path.resolve())
            judged.append(JudgedRun(where, name, place, label, store.synthetic, context, judgement))
    return judged
