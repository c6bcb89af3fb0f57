"""Names to models: from a recipe for training, from a checkpoint's configuration for use."""

from __future__ import annotations

from typing import Any

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

__all__ = ["MODELS", "ORIGINALS", "LatentModel", "count_parameters", "create_model", "model_from_config"]

MODELS: dict[str, type[LatentModel]] = {
    model.name: model for model in (AttentionMixture, LongShortTermMemory, GatedRecurrent, TransformerEncoder)
}
"""The networks that can be trained, by name, in their default form."""

ORIGINALS: dict[str, type[LatentModel]] = {
    model.name: model
    for model in (
        OriginalAttentionMixture, OriginalLongShortTermMemory, OriginalGatedRecurrent, OriginalTransformer,
    )
}  # fmt: skip
"""The same as they were published."""


def create_model(recipe: ModelRecipe, dimensions: int) -> LatentModel:
    """A fresh network for vectors of D = `dimensions`; its weights come from torch's random generator.

    Raises RecipeError for an unknown kind, and for what a published form can't do.
    """
    if recipe.kind not in MODELS:
        raise RecipeError(f"model.kind: no model is called '{recipe.kind}'.{did_you_mean(recipe.kind, MODELS)}")
    chosen = {"dropout": recipe.dropout, "zero_start": recipe.zero_start}
    options = {option: value for option, value in chosen.items() if value is not None}
    if recipe.variant == "residual":
        return MODELS[recipe.kind](dimensions, query=recipe.query is not False, **options)
    if recipe.query:
        raise RecipeError(
            "model.query: the published forms have one output; leave query out, or take the residual variant"
        )
    if recipe.zero_start and recipe.kind != OriginalAttentionMixture.name:
        raise RecipeError(
            f"model.zero_start: a fresh {recipe.kind} as published would predict the zero vector, which has no "
            f"direction; leave zero_start out, or take the residual variant"
        )
    return ORIGINALS[recipe.kind](dimensions, **options)


def model_from_config(config: dict[str, Any]) -> LatentModel:
    """A model or baseline of the shape that `config` (the `config` of another one) describes, with fresh content.

    A network without a variant is an original. Raises RecipeError for an unknown kind, CheckpointError for a
    configuration that makes no model.
    """
    options = dict(config)
    kind, variant = options.pop("kind", None), options.pop("variant", "original")
    if not isinstance(kind, str) or not isinstance(options.get("dimensions"), int):
        raise CheckpointError("the model's configuration lacks its kind or dimensions; it can't be rebuilt")
    classes = {**(MODELS if variant == "residual" else ORIGINALS), **BASELINE_CLASSES}
    if kind not in classes:
        raise RecipeError(f"no model is called '{kind}'.{did_you_mean(kind, classes)}")
    try:
        return classes[kind](**options)
    except (TypeError, ValueError, AssertionError) as error:
        raise CheckpointError(f"the configuration of model '{kind}' can't be used: {error}") from error
