"""Commands on trained models: evaluate a checkpoint, diagnose a run, and suggest gates for a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nextvec.commands.parameters import Data, Device, Run, command

if TYPE_CHECKING:
    from nextvec.evaluation.results import Evaluation
    from nextvec.guards.diagnosis.case import Diagnoses
    from nextvec.guards.suggest import GateSuggestion


@command()
def eval(
    checkpoint: Run,
    *,
    data: Data = "",
    ood_data: Data = "",
    context: int | None = None,
    min_context: int | None = None,
    retrieval: Literal["exact", "faiss"] | None = None,
    device: Device = "auto",
    quiet: bool = False,
) -> Evaluation:
    """Evaluate a checkpoint next to every baseline on the val and ood splits of a store.

    Args:
        checkpoint: A .pt file (of nextvec or of the original trainer), a run folder, or any other model that
            'nextvec predict' reads.
        data: A store by its folder or URL, or an .npz file of windows. Default: the data that the model was trained on.
        ood_data: A store or an .npz file of ood windows. Without --data, only these are evaluated.
        context: S, the context length. Default: the checkpoint's, or 5.
        min_context: Evaluate only windows with at least this many vectors before the target, to compare context
            lengths on the same windows. Default: the checkpoint's.
        retrieval: Retrieval method; faiss is for splits too large for a matrix product. Default: the checkpoint's.
        device: Device of the model.
        quiet: Show no progress.
    """
    from nextvec.training.evaluate import evaluate_checkpoint

    return evaluate_checkpoint(
        checkpoint,
        data=str(data),
        ood_data=str(ood_data),
        context=context,
        min_context=min_context,
        retrieval=retrieval,
        device=device,
        quiet=quiet,
    )


@command()
def diagnose(run: Run) -> Diagnoses:
    """Diagnose a run: known problems, with confidence and suggested fixes.

    Args:
        run: Folder of the run, finished or not.
    """
    from nextvec.reports.run_summary import diagnose_run

    return diagnose_run(Path(run))


@command()
def gates_suggest(
    data: Data, *, ood_data: Data = "", context: int = 5, device: Device = "auto", quiet: bool = False
) -> GateSuggestion:
    """Suggest gates for a recipe from the baselines of a data set, as TOML.

    Absolute thresholds hold for one embedding space and one kind of text. These are relative to the baselines' scores
    on the same windows.

    Args:
        data: A store by its folder or URL, or an .npz file of windows.
        ood_data: A store or an .npz file of ood windows. Default: the store's ood split.
        context: S, the context length to train with.
        device: Device of the baselines.
        quiet: Show no progress.
    """
    from nextvec.guards.suggest import suggest_gates
    from nextvec.training.setup import measure_data

    cosines = measure_data(str(data), str(ood_data), context, device, quiet=quiet)
    return suggest_gates(str(data), cosines)
