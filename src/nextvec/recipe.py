"""The recipe: one TOML file that fully describes a run.

    recipe = load_recipe("wiki-minilm", ["training.epochs=3", "objective.tau=0.05"])

Every field has a default and a sentence that says what it means; unknown fields, bad types and impossible combinations
are refused when the recipe is made, with one line that names the field. Recipes are frozen: what trained is what stands
in the run folder. This module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nextvec.errors import RecipeError, did_you_mean

Positive = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, strict=True)


class DataRecipe(_Section):
    """What the run reads."""

    store: str = ""
    """Folder of the vector store; a relative path is taken from the working folder."""
    context: Positive = 5
    """S, how many vectors before the target the model reads."""
    min_context: Positive | None = None
    """Fewest vectors before a target for it to be a window, the missing ones masked; left out, all of `context`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_context is not None and self.min_context > self.context:
            raise ValueError(f"min_context ({self.min_context}) is above context ({self.context})")
        return self


class ModelRecipe(_Section):
    """Which network is trained."""

    kind: str = "amn"
    """Name in the registry: amn, lstm, gru or transformer."""
    dropout: Fraction | None = None
    """Share of activations dropped in training; left out, the architecture's own (LSTM 0.2, Transformer 0.1)."""
    zero_start: bool | None = None
    """Start the last layer at zero; left out, yes for AMN, which then starts as the context mean, no for the others."""


class ObjectiveRecipe(_Section):
    """What is minimised: the terms, and what their weights mean."""

    mse: Weight = 1.0
    """Weight of the mean squared error between unit-length prediction and target."""
    info: Weight = 0.0
    """Weight of the symmetric InfoNCE loss over the batch."""
    moment: Weight = 0.0
    """Weight of the distance between the batch's means and variances of predictions and of targets."""
    variance: Weight = 0.0
    """Weight of the hinge that keeps each dimension's standard deviation over the batch from shrinking."""
    tau: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.07
    """Temperature of InfoNCE: cosines are divided by it."""
    mask_same_document: bool = True
    """Leave targets of the same document out of InfoNCE's negatives: they are near-duplicates, not mistakes."""
    balance: Literal["gradient", "none"] = "gradient"
    """gradient: a weight is the term's share of the gradient norm at the prediction; none: raw values are added."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mse + self.info + self.moment + self.variance == 0:
            raise ValueError("all weights are zero: nothing to learn; give mse or info a weight")
        return self


class TrainingRecipe(_Section):
    """How the weights are moved."""

    epochs: Positive = 30
    """Passes over the training windows."""
    batch: Annotated[int, Field(ge=2)] = 512
    """Windows in a step; an epoch's last, smaller batch is left out."""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5e-4
    """Highest learning rate of AdamW."""
    weight_decay: Weight = 0.01
    """Decoupled weight decay of AdamW, on matrices only (not on biases and norms)."""
    clip: Weight = 1.0
    """Largest gradient norm; longer gradients are scaled down to it. 0 turns clipping off."""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """cosine: down to 1 % of lr over the run; plateau: halved when validation stops improving; constant."""
    warmup: Fraction = 0.02
    """Share of all steps over which the rate rises from zero."""
    patience: Positive = 2
    """Epochs without improvement before the plateau schedule halves the rate."""
    early_stop: Annotated[int, Field(ge=0)] = 0
    """Epochs without improvement of `best_metric` that end the run; 0 never does."""
    best_metric: Literal["val_loss", "val_cosine"] = "val_cosine"
    """What chooses best_model.pt: the lowest val_loss or the highest val_cosine."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Format of the matrix products; auto takes bf16 where the processor is quick at it. Weights stay float32."""
    init_from: str = ""
    """Checkpoint that the weights come from (of nextvec or of the original trainer); empty starts from the seed."""
    keep_epochs: bool = True
    """Keep epoch_N.pt for every epoch."""
    save_every: Annotated[float, Field(gt=0)] = 300.0
    """Seconds between resume points within an epoch; one is made after each epoch as well."""


class JudgeRecipe(_Section):
    """How the trained model is judged."""

    queries: Annotated[int, Field(ge=1)] = 10_000
    """Most windows of a split that are used as retrieval queries (a fixed sample by the seed)."""
    resamples: Annotated[int, Field(ge=100)] = 2_000
    """Resamples of the bootstrap over documents."""
    ridge_windows: Annotated[int, Field(ge=100)] = 100_000
    """Most training windows that the ridge baseline is fitted on (a fixed sample by the seed)."""


class RuntimeRecipe(_Section):
    """What it runs on. Nothing here changes what is learned, up to rounding."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 … or mps."""
    threads: Positive | None = None
    """Processor threads; left out, as many as torch finds cores."""


class Recipe(_Section):
    """Everything that a run depends on."""

    name: str = "unnamed"
    """What the run is called: in its folder's name, in tables and logs."""
    description: str = ""
    """One sentence for people."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides the first weights, the order of windows and every sample; same seed, same run."""
    data: DataRecipe = DataRecipe()
    model: ModelRecipe = ModelRecipe()
    objective: ObjectiveRecipe = ObjectiveRecipe()
    training: TrainingRecipe = TrainingRecipe()
    judge: JudgeRecipe = JudgeRecipe()
    runtime: RuntimeRecipe = RuntimeRecipe()

    def to_toml(self) -> str:
        """The recipe as TOML; `load_recipe` of that text gives an equal recipe. Fields without a value are left out."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that name what is learned: name, description and runtime don't count."""
        content = self.model_dump(exclude={"name", "description", "runtime"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def recipe_folders() -> tuple[Path, ...]:
    """Where recipes are found by name: in the installed package, or in the source tree."""
    here = Path(__file__).resolve().parent
    return here / "recipes", here.parents[1] / "recipes"


def find_recipe(name: str) -> Path:
    """The file of a recipe given by its path, or by name if it comes with nextvec; RecipeError if there is none."""
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise RecipeError(f"recipe {path}: no such file; give the path of a TOML file or the name of a recipe")
        return path
    known = {file.stem: file for folder in recipe_folders() for file in sorted(folder.glob("*.toml"))}
    if name not in known:
        raise RecipeError(f"recipe '{name}' is unknown.{did_you_mean(name, known)}")
    return known[name]


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe (a path or a known name) and apply overrides such as ``training.epochs=3``.

    Raises RecipeError, one line that names the file, the field and what is wrong with it.
    """
    path = find_recipe(name)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path}: not valid TOML: {error}") from error
    except OSError as error:
        raise RecipeError(f"recipe {path}: cannot be read: {error.strerror}") from error
    values.setdefault("name", path.stem)
    return make_recipe(values, overrides, where=f"recipe {path}")


def make_recipe(values: dict[str, Any], overrides: Sequence[str] = (), *, where: str = "recipe") -> Recipe:
    """A recipe from nested values and overrides. Raises RecipeError that begins with `where`."""
    values = deepcopy(values)
    for override in overrides:
        _apply(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(error)}") from error


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one ``section.field=value`` in `values`. The value is read as TOML; what isn't TOML is taken as text."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"override '{override}': write it as section.field=value, such as training.epochs=3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *sections, field = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise RecipeError(f"override '{override}': '{section}' is a value, not a section of the recipe")
    values[field] = value


def _explain(error: ValidationError) -> str:
    """The first problem of a validation in one line, with a suggestion for a field that does not exist."""
    first = error.errors(include_url=False)[0]
    place = [str(part) for part in first["loc"]]
    where = ".".join(place) or "the recipe"
    if first["type"] == "extra_forbidden":
        fields = _fields_of(place[:-1])
        return f"'{where}' is no field of a recipe.{did_you_mean(place[-1], fields)}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if first["type"] in ("value_error", "missing"):
        return f"{where}: {message}"
    return f"{where}: {message}, got {first['input']!r:.80}"


def _fields_of(sections: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Recipe
    for section in sections:
        annotation = model.model_fields[section].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
