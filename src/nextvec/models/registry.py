"""Names to models: from a recipe for training, from a checkpoint's configuration for use."""

from __future__ import annotations

from typing import Any

from nextvec.errors import CheckpointError, RecipeError, did_you_mean
from nextvec.models.amn import AttentionMixture
from nextvec.models.base import LatentModel, count_parameters
from nextvec.models.baselines import BASELINE_CLASSES
from nextvec.models.recurrent import GatedRecurrent, LongShortTermMemory
from nextvec.models.transformer import TransformerDecoder
from nextvec.recipe import ModelRecipe

__all__ = ["MODELS", "LatentModel", "count_parameters", "create_model", "model_from_config"]

MODELS: dict[str, type[LatentModel]] = {
    model.name: model for model in (AttentionMixture, LongShortTermMemory, GatedRecurrent, TransformerDecoder)
}
"""The networks that can be trained, by name."""


def create_model(recipe: ModelRecipe, dimensions: int) -> LatentModel:
    """A fresh network for vectors of D = `dimensions`; its weights come from torch's random generator.

    Raises RecipeError for an unknown kind, and for a zero start of a network that adds to no base.
    """
    if recipe.kind not in MODELS:
        raise RecipeError(f"model.kind: no model is called '{recipe.kind}'.{did_you_mean(recipe.kind, MODELS)}")
    if recipe.zero_start and recipe.kind != AttentionMixture.name:
        raise RecipeError(
            f"model.zero_start: a fresh {recipe.kind} would predict the zero vector, which has no direction; "
            f"only {AttentionMixture.name} adds to a base, so leave zero_start out"
        )
    chosen = {"dropout": recipe.dropout, "zero_start": recipe.zero_start}
    options = {option: value for option, value in chosen.items() if value is not None}
    return MODELS[recipe.kind](dimensions, **options)


def model_from_config(config: dict[str, Any]) -> LatentModel:
    """A model or baseline of the shape that `config` (the `config` of another one) describes, with fresh content.

    Raises RecipeError for an unknown kind, CheckpointError for a configuration that makes no model.
    """
    options = dict(config)
    kind = options.pop("kind", None)
    if not isinstance(kind, str) or not isinstance(options.get("dimensions"), int):
        raise CheckpointError("the model's configuration lacks its kind or dimensions; it can't be rebuilt")
    classes = {**MODELS, **BASELINE_CLASSES}
    if kind not in classes:
        raise RecipeError(f"no model is called '{kind}'.{did_you_mean(kind, classes)}")
    try:
        return classes[kind](**options)
    except (TypeError, ValueError, AssertionError) as error:
        raise CheckpointError(f"the configuration of model '{kind}' can't be used: {error}") from error
