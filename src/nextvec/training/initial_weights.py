"""The weights before the first step: those of another model (a warm start), or fresh ones."""

from __future__ import annotations

from nextvec.data.seen_rows import SeenRows
from nextvec.data.store import Store
from nextvec.errors import CheckpointError, RecipeError
from nextvec.inference.load import open_checkpoint
from nextvec.models.base import QUERY_PREFIX
from nextvec.models.baselines import RetrievalDecay
from nextvec.models.checkpoint import Checkpoint
from nextvec.models.load_weights import load_weights
from nextvec.models.pooling import QueryHead
from nextvec.recipe import INITIAL, Recipe
from nextvec.training.checkpoint import require_same_space
from nextvec.training.run import Run


def open_initial_model(recipe: Recipe) -> tuple[Recipe, Checkpoint | None]:
    """Return the model to start from, None for fresh weights, and the recipe with that model's network if it asks so.

    Raises RecipeError if the recipe asks for the network of no model, CheckpointError if the networks differ.
    """
    inherits = recipe.model.kind == INITIAL
    if not recipe.training.init_from:
        if inherits:
            raise RecipeError(
                f"recipe {recipe.name}: model.kind is {INITIAL}, but training.init_from is empty. Pass --init-from"
            )
        return recipe, None
    checkpoint = open_checkpoint(recipe.training.init_from)
    if inherits:
        recipe = _with_network_of(checkpoint, recipe)
    _require_same_network(checkpoint, recipe)
    return recipe, checkpoint


def _with_network_of(checkpoint: Checkpoint, recipe: Recipe) -> Recipe:
    """Return the recipe with the network of a model and, unless the recipe sets one, its context length."""
    config = checkpoint.config
    options = {name: config.get(name) for name in ("kind", "query", "zero_start", "dropout")}
    if recipe.model.dropout is not None:
        options["dropout"] = recipe.model.dropout
    model = recipe.model.model_copy(update={**options, "variant": config.get("variant", "original")})
    data = recipe.data
    if "context" not in data.model_fields_set:
        data = data.model_copy(update={"context": checkpoint.values.get("context", data.context)})
    return recipe.model_copy(update={"model": model, "data": data})


def _require_same_network(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Raise CheckpointError if a model's network is another one than the recipe's."""
    kind, variant = checkpoint.config["kind"], checkpoint.config.get("variant", "original")
    if kind != recipe.model.kind:
        raise CheckpointError(
            f"checkpoint {checkpoint.path}: it is of model '{kind}', the recipe's is '{recipe.model.kind}'. "
            f"Set model.kind={kind}, or model.kind={INITIAL} for its whole network"
        )
    if variant != recipe.model.variant:
        raise CheckpointError(
            f"checkpoint {checkpoint.path}: it is of the {variant} {kind}, the recipe's is the {recipe.model.variant} "
            f"one. Set model.variant={variant}"
        )


def require_same_vectors(checkpoint: Checkpoint | None, store: Store) -> None:
    """Raise CheckpointError or SpaceError if the model to start from has another embedding space than the store."""
    if checkpoint is not None:
        require_same_space(checkpoint, store)


def initialize_weights(run: Run, initial: Checkpoint | None) -> None:
    """Give a new run's model its weights before the first step, and its moving average the same."""
    # A fresh query starts as the decayed mean that retrieves best on train.
    has_query = initial is not None and any(name.startswith(QUERY_PREFIX) for name in initial.weights)
    if isinstance(run.model.query_head, QueryHead) and not has_query:
        best = run.baselines[RetrievalDecay.name]
        assert isinstance(best, RetrievalDecay), best
        decay, mrr = round(float(best.decay), 2), float(best.train_mrr)
        run.model.query_head.start_with(decay)
        run.event("query_start", decay=decay, train_mrr=mrr)
        run.log(
            f"the query starts as the decayed mean that retrieves best on train: decay={decay:g} train_mrr={mrr:.4f}"
        )
    # A warm start: the tensors that both networks have.
    if initial is not None:
        report = load_weights(run.model, initial.weights)
        run.event("warm_start", file=str(initial.path), **report.to_dict())
        run.log(f"warm start from {initial.path}: {report.summary()}")
        run.seen_rows = SeenRows.from_values(initial.values.get("seen_rows"))
    if run.ema is not None:
        run.ema.restart()
