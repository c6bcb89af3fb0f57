"""Leaderboard entries of finished runs."""

from __future__ import annotations

import re
from datetime import date as day
from datetime import datetime
from pathlib import Path

from nextvec.core.console import show
from nextvec.core.device import resolve_device
from nextvec.core.locks import exclusive
from nextvec.core.run_paths import BEST_MODEL
from nextvec.core.urls import is_url
from nextvec.data.npz.cache import find_store
from nextvec.data.splits import SPLITS
from nextvec.data.store import open_store
from nextvec.errors import InputError, NextvecError
from nextvec.evaluation.latency import measure_latency
from nextvec.evaluation.results import Latency
from nextvec.experiments.compare_runs import stored_evaluations
from nextvec.models.checkpoint import read_checkpoint
from nextvec.reports.leaderboard import (
    SYNTHETIC,
    BestBaseline,
    Entry,
    Leaderboard,
    data_label,
    loss_label,
    read_leaderboard,
    write_leaderboard,
)
from nextvec.reports.run_summary import RunFacts, read_run


def add_to_leaderboard(run: Path, table: Path, *, device: str = "auto", name: str = "", date: str = "") -> Leaderboard:
    """Measure the latency of a finished run and write its row; a row of the same run is replaced.

    Raises InputError if the run is not finished, or if the leaderboard is damaged.
    """
    _require_day(date)
    facts = read_run(run)
    if facts.evaluation is None or "val" not in facts.evaluation.splits:
        raise InputError(f"run {run}: only finished runs can be added ({facts.state or 'not evaluated on val'})")
    read_leaderboard(table)  # before the work, so that a damaged file is reported at once
    entry = _entry(facts, _latency_of(facts, device), name, date)
    # Read again under the lock: another process may have added a row.
    with exclusive(table):
        board = read_leaderboard(table).with_entry(entry)
        write_leaderboard(board)
    return board


def _latency_of(facts: RunFacts, device: str) -> Latency:
    """Measure the latency of the run's best model on a device."""
    torch_device, notice = resolve_device(device)
    if notice:
        show((notice,))
    model = read_checkpoint(facts.path / BEST_MODEL).model().to(torch_device)
    return measure_latency(model, facts.recipe["data"]["context"], torch_device)


def _entry(facts: RunFacts, latency: Latency, name: str, date: str) -> Entry:
    """Return the leaderboard entry of a finished run."""
    evaluation, model = facts.evaluation, facts.evaluation and facts.evaluation.model
    assert evaluation and model and evaluation.verdict, facts.path
    splits = evaluation.splits
    cosines = {split: result.predictors[model].cosine.value for split, result in splits.items()}
    # The baseline of the row is the best on val; its ood cosine is shown even if another is better there.
    best = splits["val"].best_baseline or ""
    ood = splits["ood"].predictors[best].cosine.value if "ood" in splits else None
    label = _data_label(facts)
    if name and facts.synthetic and SYNTHETIC not in name:
        name = f"{name}-{SYNTHETIC}"  # a name must not hide that the vectors are synthetic
    # The start time distinguishes runs of the same recipe.
    return Entry(
        run=f"{facts.started.get('recipe_hash', '')}@{facts.started['time']}",
        name=name or f"{model.upper()}_{label}",
        data=stored_evaluations([facts])[0].windows,
        data_label=label,
        val=cosines["val"],
        ood=cosines.get("ood"),
        latency=latency.batches[0].p50,
        latency_p95=latency.batches[0].p95,
        device=latency.device,
        parameters=latency.parameters,
        loss=loss_label(facts.recipe["objective"]),
        date=date or datetime.fromtimestamp(facts.ended).date().isoformat(),
        status=evaluation.verdict.status,
        gains={split: result.gain for split, result in splits.items() if result.gain},
        baseline=BestBaseline(best, splits["val"].predictors[best].cosine.value, ood),
        seen=evaluation.seen.label() if evaluation.seen else "unknown",
        metrics_version=evaluation.metrics_version,
    )


def _require_day(text: str) -> None:
    """Raise InputError unless a text is empty or a date."""
    try:
        if text:
            day.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"date '{text}': not a date. Write it as year-month-day, such as 2025-10-30.") from error


def _data_label(facts: RunFacts) -> str:
    """Return a short name of the run's data: the number of vectors without ood, such as ``790k``.

    If the store no longer exists, the number comes from the recipe's name. The ood split is not counted, because it may
    be in another store.
    """
    # A run on an .npz file was trained on the store that was made of it. A label is not worth a download.
    try:
        name = facts.recipe["data"]["store"]
        store = open_store(name if is_url(name) else find_store(Path(name)), download=False)
        if store.store_hash == facts.started["store_hash"]:
            documents = store.documents
            rows = documents.rows[documents.splits != SPLITS.index("ood")]
            return data_label(int(rows.sum()), synthetic=facts.synthetic)
    except NextvecError:
        pass  # the store was moved, or is damaged
    match = re.search(r"\d+k\b", facts.recipe["name"])
    label = match[0] if match else facts.recipe["name"]
    return f"{label}-{SYNTHETIC}" if facts.synthetic else label
