"""The sections of a recipe: every field with its default and a sentence that says what it means.

Unknown fields, bad types and impossible combinations are refused when a section is made. Sections are frozen.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from nextvec.core.loss_terms import requested_shares, term_weights
from nextvec.errors import did_you_mean

Positive = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Section(BaseModel):
    """What all sections have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, strict=True)


LEAST_CONTEXT = 5
"""The contract's context: windows with fewer vectors before their target are used only where a recipe says so."""


class DataRecipe(Section):
    """What the run reads."""

    store: str = ""
    """Folder of the vector store, or an .npz file of windows, which is imported once into a store beside it; a relative
    path is taken from the working folder."""
    ood: str = ""
    """A store, or an .npz file of windows, that takes the place of the store's own ood split."""
    context: Positive = 5
    """S, how many vectors before the target the model reads."""
    min_context: Positive | None = None
    """Fewest vectors before a target for it to be a window, the missing ones masked; left out, 5, or `context` where
    that is shorter: a longer context loses no window."""
    train_min_context: Positive | None = None
    """The same for the windows that the network is trained on, not those it is judged on; left out, `min_context`. With
    1 the beginning of each document teaches too."""

    @property
    def least_context(self) -> int:
        """`min_context`, or what stands for it."""
        return min(self.context, LEAST_CONTEXT) if self.min_context is None else self.min_context


class ModelRecipe(Section):
    """Which network is trained."""

    kind: str = "amn"
    """Name in the registry: amn, lstm, gru or transformer."""
    variant: Literal["residual", "original"] = "residual"
    """residual: the network corrects a learned weighted mean of the context; original: the form as published."""
    query: bool | None = None
    """A second output, for retrieval, beside the prediction; left out, yes for the residual variant."""
    dropout: Fraction | None = None
    """Share of activations dropped in training; left out, the architecture's own (0.1 or 0.2)."""
    zero_start: bool | None = None
    """Start the last layer at zero; left out, yes wherever a base remains: in the residual variant and in AMN."""


class ObjectiveRecipe(Section):
    """What is minimised: the terms, and what their weights mean."""

    mse: Weight = 1.0
    """Weight of the mean squared error between unit-length prediction and target."""
    info_nce: Weight = 0.0
    """Weight of the symmetric InfoNCE loss over the batch."""
    moment: Weight = 0.0
    """Weight of the distance between the batch's means and variances of predictions and of targets."""
    variance: Weight = 0.0
    """Weight of the hinge that keeps each dimension's standard deviation over the batch from shrinking."""
    tau: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.07
    """Temperature of InfoNCE: cosines are divided by it."""
    mask_same_document: bool = True
    """Leave targets of the same document out of InfoNCE's negatives: they are near-duplicates, not mistakes."""
    loss_weighting: Literal["gradient_norm", "raw"] = "gradient_norm"
    """gradient_norm: a weight is the term's share of the gradient norm at the prediction; raw: raw values are added."""
    query_negatives: Annotated[int, Field(ge=0)] = 16
    """Chunks of the window's own document that the query must tell the target from, beside the batch's targets."""
    query_batch_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of each batch that the query learns from: it is small, and all windows would make a step far longer."""
    query_tau: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    """Temperature of the query's InfoNCE."""

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term that has one."""
        return term_weights(self.model_dump())

    @property
    def requested_shares(self) -> dict[str, float]:
        """The fraction of the gradient norm that each weight asks for."""
        return requested_shares(self.model_dump())

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.weights:
            raise ValueError("all weights are zero: nothing to learn; give mse or info_nce a weight")
        return self


class TrainingRecipe(Section):
    """How the weights are moved."""

    epochs: Positive = 30
    """Passes over the training windows."""
    batch_size: Annotated[int, Field(ge=2)] = 512
    """Windows in a step; an epoch's last, smaller batch is left out."""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5e-4
    """Highest learning rate of AdamW."""
    weight_decay: Weight = 0.01
    """Decoupled weight decay of AdamW, on matrices only (not on biases and norms)."""
    query_weight_decay: Weight = 5.0
    """The same for the query output, which starts as a good one and soon learns the training documents by heart."""
    grad_clip_norm: Weight = 1.0
    """Largest gradient norm; longer gradients are scaled down to it. 0 turns clipping off."""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """cosine: down to 1 % of lr over the run; plateau: halved when validation stops improving; constant."""
    reverse_augmentation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the steps, from the first on, in which half of each batch is read backwards: what comes before a chunk
    is much like what comes after it, and a network with little text learns from both."""
    ema_decay: Fraction = 0.0
    """Decay of the running average of the weights that is validated, saved and judged (EMA, Polyak & Juditsky 1992):
    0.998 averages about 500 steps. 0 takes the weights as they are."""
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
    checkpoint_interval_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds between resume points within an epoch; one is made after each epoch as well."""


class EvaluationRecipe(Section):
    """How the trained model is judged."""

    queries: Annotated[int, Field(ge=1)] = 10_000
    """Most windows of a split that are used as retrieval queries (a fixed sample by the seed)."""
    retrieval: Literal["exact", "faiss"] = "exact"
    """exact: every chunk of a split is compared; faiss: only the nearest 1,000 are looked at, for splits that are too
    large for a matrix product (needs the faiss extra)."""
    resamples: Annotated[int, Field(ge=100)] = 2_000
    """Resamples of the bootstrap over documents."""
    ridge_windows: Annotated[int, Field(ge=100)] = 100_000
    """Most training windows that the ridge baseline is fitted on (a fixed sample by the seed)."""


class RuntimeRecipe(Section):
    """What it runs on. Nothing here changes what is learned, up to rounding."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 … or mps."""
    threads: Positive | None = None
    """Processor threads; left out, as many as torch finds cores."""
    compiled: bool = True
    """On a processor, let the passes of a step that torch makes slowly be compiled from C at their first use. Without,
    or where there is no compiler, torch's operations make them: the same numbers up to rounding, in more time."""


METRICS: dict[str, tuple[Literal["higher", "lower"], str]] = {
    "val_cosine": ("higher", "mean cosine between prediction and target on val"),
    "val_gain": ("higher", "val_cosine minus that of the best baseline"),
    "val_margin": ("higher", "on val, cosine to the target minus cosine to the last context vector"),
    "val_loss": ("lower", "the objective on val"),
    "ood_cosine": ("higher", "mean cosine between prediction and target on ood"),
    "ood_gain": ("higher", "ood_cosine minus that of the best baseline"),
    "ood_margin": ("higher", "on ood, cosine to the target minus cosine to the last context vector"),
    "train_cosine": ("higher", "mean cosine over the epoch's training batches"),
    "train_loss_mse": ("lower", "mean squared error over the epoch's training batches"),
    "train_loss_info": ("lower", "InfoNCE over the epoch's training batches"),
    "min_gradient_share_ratio": (
        "higher",
        "smallest share of influence of a term, in parts of the share that its weight asks for",
    ),
    "supervised_gradient_share": ("higher", "share of influence of the terms that know the target (MSE, InfoNCE)"),
    "baseline_gap_closed": (
        "higher",
        "part of the way from epoch 1's val_cosine to the context mean's that is done; 1 when beside it",
    ),
    "epochs_since_best": ("lower", "epochs since training.best_metric was best"),
    "generalization_gap": ("lower", "train_cosine minus val_cosine: how much better known windows are predicted"),
}
"""What a gate can look at: whether higher or lower is better, and what it is."""


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, int) else tuple(value) if isinstance(value, list) else value


class GateRecipe(Section):
    """A threshold on a figure at an epoch. Gates on ood figures are the sentinel's."""

    epoch: Annotated[tuple[Positive, ...], BeforeValidator(_one_or_many), Field(min_length=1)]
    """The epoch after which the gate is looked at, or a list of them."""
    metric: str
    """What it looks at; the figures are listed below."""
    green: Number | None = None
    """Green from here on; what is neither green nor red is amber."""
    red: Number | None = None
    """Red beyond here; left out, the gate is never red."""
    action: Literal["warn", "stop"] = "warn"
    """What red does: warn, or save everything and stop the run."""
    advice: str = ""
    """What to do where it isn't green."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.metric not in METRICS:
            raise ValueError(f"metric '{self.metric}' is unknown.{did_you_mean(self.metric, METRICS)}")
        if self.green is None and self.red is None:
            raise ValueError("a gate needs green or red")
        if self.action == "stop" and self.red is None:
            raise ValueError("a gate that stops needs red")
        if self.green is not None and self.red is not None and self.green != self.red:
            higher = METRICS[self.metric][0] == "higher"
            if (self.green > self.red) != higher:
                raise ValueError(
                    f"green is {self.green:g} and red {self.red:g}, but {'higher' if higher else 'lower'} "
                    f"{self.metric} is better: swap them"
                )
        return self


class SuccessRecipe(Section):
    """What the trained model must reach for the run to be a success."""

    val_cosine: Number | None = None
    """Lowest val_cosine of the best model; left out, no criterion."""
    ood_cosine: Number | None = None
    """Lowest ood_cosine of the best model; left out, no criterion."""
