"""Training, going on with a run, and judging.

Diagnosis of a run, in plain words.

Gates: suggesting those that fit some data.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

if TYPE_CHECKING:
    from nextvec.evaluation.results import Evaluation
    from nextvec.guards.diagnosis.case import Diagnoses
    from nextvec.guards.suggest import GateSuggestion


def eval(
    checkpoint: Positional[str],
    *,
    data: str = "",
    ood_data: str = "",
    context: int | None = None,
    min_context: int | None = None,
    retrieval: Literal["exact", "faiss"] | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Evaluation:
    """Judge a checkpoint beside every baseline on the val and ood splits of a store.

    Args:
        checkpoint: A .pt file (of nextvec or of the original trainer) or the folder of a run.
        data: A store or an .npz file of windows; left out, what it was trained on.
        ood_data: A store or an .npz file of windows that is the ood set; without --data only that is judged.
        context: S; left out, what the checkpoint says, else 5.
        min_context: Judge only windows with so many vectors before their target, to compare context lengths on the
            same windows; left out, what the checkpoint says.
        retrieval: exact, or faiss for splits too large for a matrix product; left out, what the checkpoint says.
        device: auto, cpu, cuda or mps.
        quiet: Show no progress.
    """
    from nextvec.training.evaluate import evaluate_checkpoint

    return evaluate_checkpoint(
        Path(checkpoint),
        data=data,
        ood_data=ood_data,
        context=context,
        min_context=min_context,
        retrieval=retrieval,
        device=device,
        quiet=quiet,
    )


def diagnose(run: Positional[str]) -> Diagnoses:
    """Say what is wrong with a run, how sure that is, and what to do next, from what its folder holds.

    Args:
        run: Folder of the run, finished or not.
    """
    from nextvec.guards.diagnosis import diagnose as find
    from nextvec.reports.run_summary import case_of

    return find(case_of(Path(run)))


def gates_suggest(
    data: Positional[str], *, ood_data: str = "", context: int = 5, device: str = "auto", quiet: bool = False
) -> GateSuggestion:
    """Propose gates for a recipe from the data's own baselines, as TOML.

    Absolute thresholds hold for one embedding space and one kind of text; these are relative to what predictors
    without training reach on the same windows.

    Args:
        data: A store or an .npz file of windows.
        ood_data: A store or an .npz file of windows that is the ood set; left out, the store's own ood split.
        context: S, the context length that will be trained.
        device: auto, cpu, cuda or mps.
        quiet: Show no progress.
    """
    from nextvec.guards.suggest import suggest_gates
    from nextvec.training.setup import measure_data

    return suggest_gates(data, measure_data(data, ood_data, context, device, quiet=quiet))
