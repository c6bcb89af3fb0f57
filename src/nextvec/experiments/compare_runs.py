"""Comparison of runs: their stored evaluations, or all best models evaluated on the same stores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nextvec.core.files import make_folder, write_text
from nextvec.core.run_paths import BEST_MODEL
from nextvec.errors import InputError, NotFiniteError
from nextvec.reports.comparison import PUBLISHED_584K, Comparison, compare_evaluated, comparison_markdown
from nextvec.reports.html.comparison_report import write_comparison
from nextvec.reports.run_summary import EvaluatedRun, RunFacts, case_of, names_of, read_run


def compare_runs(
    runs: Sequence[str],
    *,
    baseline: str = "",
    data: Sequence[str] = (),
    device: str = "auto",
    out: str = "",
    quiet: bool = False,
) -> Comparison:
    """Compare runs with each other and with the baselines of the same windows.

    Raises InputError if no run is named, or if `baseline` cannot be used.
    """
    if not runs:
        raise InputError("no run named. Name at least one run folder.")
    published = baseline == PUBLISHED_584K
    if baseline and not published and not Path(baseline).is_dir():
        raise InputError(f"baseline {baseline}: neither {PUBLISHED_584K} nor a run folder")

    # Read each run once, even if it is named twice or also serves as the baseline.
    paths = [Path(run) for run in (*runs, *((baseline,) if baseline and not published else ()))]
    facts = [read_run(path) for path in {path.resolve(): path for path in paths}.values()]
    remarks = {str(run.path): run.state for run in facts if run.state}
    evaluated = _evaluate_on(data, facts, remarks, device, quiet) if data else stored_evaluations(facts)

    if data and not evaluated:
        reasons = "; ".join(f"{name}: {remark.rstrip('.')}" for name, remark in remarks.items())
        raise InputError(
            f"compare: no run could be evaluated on {', '.join(data)} ({reasons}). Pass a store that fits."
        )

    # A run that serves as the baseline needs an evaluation.
    reference = str(Path(baseline).resolve()) if baseline and not published else baseline
    if baseline and not published and not any(item.run == reference for item in evaluated):
        reason = remarks.get(str(Path(baseline)), "it could not be evaluated")
        raise InputError(f"baseline {baseline}: no evaluation to compare with ({reason}). Choose another run.")
    comparison = compare_evaluated(evaluated, reference=reference, remarks=remarks)

    if out:
        _write(Path(out), comparison, facts)
    return comparison


def _write(path: Path, comparison: Comparison, facts: Sequence[RunFacts]) -> None:
    """Write a comparison as HTML or, for any other suffix, as Markdown."""
    make_folder(path.parent)
    if path.suffix.lower() in (".html", ".htm"):
        # The page also overlays the curves of all runs.
        cases = [(name, run, case_of(run.path)) for name, run in zip(names_of(facts), facts, strict=True)]
        write_comparison(path, comparison, cases)
    else:
        write_text(path, comparison_markdown(comparison))


def stored_evaluations(facts: Sequence[RunFacts]) -> list[EvaluatedRun]:
    """Return the evaluations stored in the run folders; runs without one are left out."""
    evaluated = []
    for run, name in zip(facts, names_of(facts), strict=True):
        if run.evaluation is None:
            continue
        # Scores are comparable on the same store and embedding space only, so both are in the label.
        label = f"{Path(run.recipe['data']['store']).name} · {run.started.get('space', '')}"
        context, path = run.recipe["data"]["context"], str(run.path.resolve())
        evaluated.append(EvaluatedRun(path, name, run.data, label, run.synthetic, context, run.evaluation))
    return evaluated


def _evaluate_on(
    data: Sequence[str], facts: Sequence[RunFacts], remarks: dict[str, str], device: str, quiet: bool
) -> list[EvaluatedRun]:
    """Evaluate every run's best model on each store; add a remark for each that cannot be evaluated there."""
    from nextvec.data.dataset import open_data  # loads torch; stored evaluations do not need it
    from nextvec.training.evaluate import evaluate_checkpoint

    stores = {path: open_data(path, quiet=quiet) for path in dict.fromkeys(data)}
    # If a store's ood windows are in a separate file, use the file that the runs on this store were trained with.
    ood_files = {Path(run.recipe["data"]["store"]).resolve(): run.recipe["data"].get("ood", "") for run in facts}
    evaluated = []
    for path, store in stores.items():
        ood = ood_files.get(Path(path).resolve(), "")
        label = f"{Path(path).name} · {store.space}"
        for run, name in zip(facts, names_of(facts), strict=True):
            try:
                evaluation = evaluate_checkpoint(
                    run.path / BEST_MODEL, data=path, ood_data=ood, context=None, device=device, quiet=quiet
                )
            except (InputError, NotFiniteError) as error:
                # One incompatible model must not prevent the comparison of the others.
                remarks[f"{run.path} on {path}"] = str(error)
                continue
            folder, context = str(run.path.resolve()), run.recipe["data"]["context"]
            evaluated.append(EvaluatedRun(folder, name, path, label, store.synthetic, context, evaluation))
    return evaluated
