"""Runs side by side: their own evaluations, or every best model evaluated on the same data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nextvec.core.run_paths import BEST_MODEL

if TYPE_CHECKING:
    from nextvec.reports.comparison import Comparison
    from nextvec.reports.run_summary import EvaluatedRun, RunFacts


def compare_runs(
    runs: Sequence[str],
    *,
    baseline: str = "",
    data: Sequence[str] = (),
    device: str = "auto",
    out: str = "",
    quiet: bool = False,
) -> Comparison:
    """Put runs side by side, with the baselines of the same windows."""
    from nextvec.core.files import make_folder, write_text
    from nextvec.errors import InputError
    from nextvec.reports.comparison import PUBLISHED_584K, compare_evaluated, comparison_markdown
    from nextvec.reports.html.comparison_report import write_comparison
    from nextvec.reports.run_summary import case_of, names_of, read_run

    if not runs:
        raise InputError("no run named; name the folder of at least one")
    published = baseline == PUBLISHED_584K
    if baseline and not published and not Path(baseline).is_dir():
        raise InputError(f"baseline {baseline}: neither {PUBLISHED_584K} nor the folder of a run")
    paths = [Path(run) for run in (*runs, *((baseline,) if baseline and not published else ()))]
    facts = [read_run(path) for path in {path.resolve(): path for path in paths}.values()]
    remarks = {str(run.path): run.state for run in facts if run.state}
    evaluated = _evaluate_on(data, facts, remarks, device, quiet) if data else own_evaluations(facts)
    reference = str(Path(baseline).resolve()) if baseline and not published else baseline
    if baseline and not published and not any(item.run == reference for item in evaluated):
        reason = remarks.get(str(Path(baseline)), "it could not be judged")
        raise InputError(f"baseline {baseline}: no judgement to compare with ({reason}); choose another run")
    comparison = compare_evaluated(evaluated, reference=reference, remarks=remarks)
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


def own_evaluations(facts: Sequence[RunFacts]) -> list[EvaluatedRun]:
    """The judgements that runs left themselves."""
    from nextvec.reports.run_summary import EvaluatedRun, names_of

    evaluated = []
    for run, name in zip(facts, names_of(facts), strict=True):
        if run.evaluation is None:
            continue
        label = f"{Path(run.recipe['data']['store']).name} · {run.started.get('space', '')}"
        context = run.recipe["data"]["context"]
        evaluated.append(
            EvaluatedRun(str(run.path.resolve()), name, run.data, label, run.synthetic, context, run.evaluation)
        )
    return evaluated


def _evaluate_on(
    data: Sequence[str], facts: Sequence[RunFacts], remarks: dict[str, str], device: str, quiet: bool
) -> list[EvaluatedRun]:
    """Every run's best model, judged on each of some stores. What can't be judged there is told in `remarks`."""
    from nextvec.data.dataset import open_data
    from nextvec.errors import InputError, NotFiniteError
    from nextvec.reports.run_summary import EvaluatedRun, names_of
    from nextvec.training.evaluate import evaluate_checkpoint

    stores = {name: open_data(name, quiet=quiet) for name in dict.fromkeys(data)}
    # A set whose ood windows lie in a file of their own is judged with the file that the runs on it were trained with.
    ood_sets = {Path(run.recipe["data"]["store"]).resolve(): run.recipe["data"].get("ood", "") for run in facts}
    evaluated = []
    for place, store in stores.items():
        ood = ood_sets.get(Path(place).resolve(), "")
        for run, name in zip(facts, names_of(facts), strict=True):
            try:
                evaluation = evaluate_checkpoint(
                    run.path / BEST_MODEL, data=place, ood_data=ood, context=None, device=device, quiet=quiet
                )
            except (InputError, NotFiniteError) as error:
                remarks[f"{run.path} on {place}"] = str(error)
                continue
            label, context = f"{Path(place).name} · {store.space}", run.recipe["data"]["context"]
            where = str(run.path.resolve())
            evaluated.append(EvaluatedRun(where, name, place, label, store.synthetic, context, evaluation))
    return evaluated
