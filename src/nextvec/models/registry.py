"""Create models by name: from a recipe for training, or from a checkpoint's configuration."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from nextvec.errors import CheckpointError, RecipeError, did_you_mean
from nextvec.models.amn import AttentionMixture
from nextvec.models.base import LatentModel, count_parameters
from nextvec.models.baselines import BASELINE_CLASSES
from nextvec.models.published import (
    OriginalAttentionMixture,
    OriginalGatedRecurrent,
    OriginalLongShortTermMemory,
    OriginalTransformer,
)
from nextvec.models.recurrent import GatedRecurrent, LongShortTermMemory
from nextvec.models.transformer import TransformerEncoder
from nextvec.recipe import ModelRecipe

__all__ = [
    "MODELS",
    "ORIGINALS",
    "LatentModel",
    "count_parameters",
    "create_model",
    "model_from_config",
    "tensor_shapes",
]

MODELS: dict[str, type[LatentModel]] = {
    model.name: model for model in (AttentionMixture, LongShortTermMemory, GatedRecurrent, TransformerEncoder)
}
"""The networks in their default form, by name."""

ORIGINALS: dict[str, type[LatentModel]] = {
    model.name: model
    for model in (OriginalAttentionMixture, OriginalLongShortTermMemory, OriginalGatedRecurrent, OriginalTransformer)
}
"""The networks as they were published, by name."""


def create_model(recipe: ModelRecipe, dimensions: int) -> LatentModel:
    """Create a network for vectors of D = `dimensions`, with weights from torch's random generator.

    Raises RecipeError for an unknown kind and for options that a published form does not have.
    """
    if recipe.kind not in MODELS:
        raise RecipeError(f"model.kind: unknown model '{recipe.kind}'.{did_you_mean(recipe.kind, MODELS)}")
    # A field that the recipe leaves out has the default of the architecture.
    fields = {"dropout": recipe.dropout, "zero_start": recipe.zero_start}
    options = {field: value for field, value in fields.items() if value is not None}
    if recipe.variant == "residual":
        return MODELS[recipe.kind](dimensions, query=recipe.query is not False, **options)
    if recipe.query:
        raise RecipeError(
            "model.query: the published networks have no query. Remove model.query, or set model.variant=residual."
        )
    if recipe.zero_start and recipe.kind != OriginalAttentionMixture.name:
        raise RecipeError(
            f"model.zero_start: with zero weights in its last layer the published {recipe.kind} predicts the zero "
            f"vector, which has no direction. Remove model.zero_start, or set model.variant=residual."
        )
    return ORIGINALS[recipe.kind](dimensions, **options)


def model_from_config(config: dict[str, Any]) -> LatentModel:
    """Create a model or baseline from the `config` of another one, with fresh weights.

    A network without a variant is a published one. Raises RecipeError for an unknown kind, and CheckpointError for a
    configuration that does not fit its kind.
    """
    options = dict(config)
    kind, variant = options.pop("kind", None), options.pop("variant", "original")
    if not isinstance(kind, str) or not isinstance(options.get("dimensions"), int):
        raise CheckpointError("model configuration: kind or dimensions is missing. Use another checkpoint.")
    # Both forms of a network share a name, so the variant selects the table.
    classes = {**(MODELS if variant == "residual" else ORIGINALS), **BASELINE_CLASSES}
    if kind not in classes:
        raise RecipeError(f"model configuration: unknown model '{kind}'.{did_you_mean(kind, classes)}")
    try:
        return classes[kind](**options)
    except (TypeError, ValueError, AssertionError) as error:
        raise CheckpointError(f"model configuration of '{kind}': {error}. Use another checkpoint.") from error


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return name → shape of the state dict of `model_from_config(config)` without allocating its tensors.

    Raises the same errors.
    """
    with torch.device("meta"), _WithoutValues():
        return {name: tuple(tensor.shape) for name, tensor in model_from_config(config).state_dict().items()}


class _WithoutValues(TorchFunctionMode):
    """Skips what computes initial values: on the meta device it would import sympy, which takes a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name.endswith(("normal_", "uniform_")):
            return args[0] if args else kwargs["tensor"]
        if name in ("arange", "tensor"):  # tables of constants, which are small, stay on the CPU
            return func(*args, **{**kwargs, "device": "cpu"})
        return func(*args, **kwargs)
