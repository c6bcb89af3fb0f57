"""Gates: suggesting those that fit some data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tyro.conf import Positional

if TYPE_CHECKING:
    from nextvec.judge.suggest import GateSuggestion


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
    from nextvec.judge.suggest import suggest_gates
    from nextvec.training.start import measure_data

    return suggest_gates(data, measure_data(data, ood_data, context, device, quiet=quiet))
