"""The sections of a recipe: every field with its default and a sentence that explains it.

Unknown fields, wrong types and impossible combinations are refused when a section is constructed. Sections are frozen.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from nextvec.core.gate_metrics import GATE_METRICS
from nextvec.core.loss_terms import requested_shares, term_weights
from nextvec.core.paths import expand_home, readable_name
from nextvec.core.urls import clean_url, is_url
from nextvec.errors import did_you_mean

Positive = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]


def _expand_home(path: str) -> str:
    """Expand ``~`` in a path. Raises ValueError for a path that a recipe file cannot contain."""
    if not path.isprintable() and readable_name(path) != path:
        raise ValueError(f"'{readable_name(path)}' is not valid UTF-8, which recipe files require; rename it")
    return expand_home(path)


def _clean_store(store: str) -> str:
    """Return a store's path, or its URL without what the run folder must not contain."""
    return clean_url(store) if is_url(store) else _expand_home(store)


PathText = Annotated[str, AfterValidator(_expand_home)]
"""A path; empty if there is none."""
StoreText = Annotated[str, AfterValidator(_clean_store)]
"""A path or URL; empty if there is none."""


class Section(BaseModel):
    """Base class of all sections: frozen, strict about types, and closed to unknown fields."""

    # Attribute docstrings become field descriptions, which `recipe show` and docs/reference/recipe.md print.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, strict=True)


MAX_DEFAULT_MIN_CONTEXT = 5
"""The runbook's context length. Windows with fewer context vectors are used only if a recipe asks for them."""


class DataRecipe(Section):
    """Input data."""

    store: StoreText = ""
    """Folder of the vector store, or its URL, such as s3://bucket/wiki (extras: s3, gcs), or an .npz file of
    windows, which is imported once into a store next to it (or in the cache folder, if it is on a read-only disk).
    Relative paths start at the working directory."""
    ood: StoreText = ""
    """A store or an .npz file of windows that replaces the store's own ood split."""
    context: Positive = 5
    """S, the number of vectors before the target that the model reads."""
    min_context: Positive | None = None
    """Minimum number of vectors before a target; missing ones are masked. Default: 5, or `context` if that is shorter,
    so that a longer context loses no window."""
    train_min_context: Positive | None = None
    """The same for training windows only. Default: `min_context`. With 1, the first chunks of each document are also
    used for training."""

    @property
    def least_context(self) -> int:
        """`min_context`, or its default."""
        return min(self.context, MAX_DEFAULT_MIN_CONTEXT) if self.min_context is None else self.min_context


INITIAL = "initial"
"""The `model.kind` that takes the network of the initial model."""


class ModelRecipe(Section):
    """Architecture."""

    kind: str = "amn"
    """Name in the registry: amn, lstm, gru or transformer. initial: the network of training.init_from with all its
    options, and its context length if data.context is left out."""
    variant: Literal["residual", "original"] = "residual"
    """residual: the network corrects a learned weighted mean of the context; original: as published."""
    query: bool | None = None
    """Add a second output for retrieval. Default: true for the residual variant."""
    dropout: Fraction | None = None
    """Fraction of activations dropped in training. Default: the architecture's own (0.1 or 0.2)."""
    zero_start: bool | None = None
    """Initialize the last layer with zeros. Default: true if the network corrects a mean (residual variant, AMN)."""


class ObjectiveRecipe(Section):
    """Loss terms and the meaning of their weights."""

    mse: Weight = 1.0
    """Weight of the mean squared error between the unit-length prediction and the target."""
    info_nce: Weight = 0.0
    """Weight of the symmetric InfoNCE loss over the batch."""
    moment: Weight = 0.0
    """Weight of the distance between the means and variances of predictions and targets over the batch."""
    variance: Weight = 0.0
    """Weight of the hinge loss that keeps each dimension's standard deviation over the batch from shrinking."""
    tau: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.07
    """Temperature of InfoNCE, which divides the cosines."""
    info_nce_block: Annotated[int, Field(ge=2)] | None = None
    """Windows per block of InfoNCE: a window's negatives are the other targets of its block of the batch. Default: the
    whole batch. More negatives lower the cosine, and the loss grows with their number."""
    mask_same_document: bool = True
    """Exclude targets of the same document from InfoNCE's negatives, because they are near duplicates."""
    loss_weighting: Literal["gradient_norm", "raw"] = "gradient_norm"
    """gradient_norm: a weight is the term's gradient share at the prediction; raw: weighted sum."""
    query_negatives: Annotated[int, Field(ge=0)] = 2
    """Chunks after the target in its document added to the query's negatives, next to the batch's targets. More of
    them improve the rank within the document, at the cost of that among other documents."""
    query_batch_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Fraction of each batch used for the query's loss. The full batch makes a step much slower for little gain."""
    query_tau: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    """Temperature of the query's InfoNCE."""

    @property
    def weights(self) -> dict[str, float]:
        """Term name → weight, for each weight above zero."""
        return term_weights(self.model_dump())

    @property
    def requested_shares(self) -> dict[str, float]:
        """Term name → the fraction of the gradient norm that its weight requests."""
        return requested_shares(self.model_dump())

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.weights:
            raise ValueError("all weights are zero: nothing to learn; give mse or info_nce a weight")
        return self


class TrainingRecipe(Section):
    """Optimization."""

    epochs: Positive = 30
    """Passes over the training windows."""
    batch_size: Annotated[int, Field(ge=2)] = 512
    """Windows per step. The last, smaller batch of an epoch is dropped."""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5e-4
    """Peak learning rate of AdamW."""
    weight_decay: Weight = 0.01
    """Decoupled weight decay of AdamW, applied to matrices only (not to biases and norms)."""
    query_weight_decay: Weight = 5.0
    """Weight decay of the query output, which starts close to optimal and overfits quickly."""
    grad_clip_norm: Weight = 1.0
    """Maximum gradient norm; longer gradients are scaled down. 0 disables clipping."""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """cosine: decay to 1 % of lr over the run; plateau: halve lr when validation stops improving; constant."""
    reverse_augmentation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the steps, from the first one on, that reverse half of each batch in time. The chunk before a passage
    resembles the chunk after it, so a small corpus yields more training data."""
    ema_decay: Fraction = 0.0
    """Decay of the exponential moving average of the weights, which is validated, saved and evaluated (Polyak and
    Juditsky 1992). 0.998 averages about 500 steps; 0 disables it."""
    warmup: Fraction = 0.02
    """Fraction of all steps over which the learning rate rises from zero."""
    patience: Positive = 2
    """Epochs without improvement before the plateau schedule halves the learning rate."""
    early_stop: Annotated[int, Field(ge=0)] = 0
    """Epochs without improvement of `best_metric` that end the run. 0 disables early stopping."""
    best_metric: Literal["val_loss", "val_cosine"] = "val_cosine"
    """Metric used to select the prediction of best_model.pt, among the start and all epochs: the lowest val_loss or the
    highest val_cosine. The query has the highest val_mrr."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of matrix products. auto: bf16 on hardware with fast bf16. Weights stay float32."""
    init_from: PathText = ""
    """Model to start from: a checkpoint (of nextvec or of the original trainer), a run, an exported folder, a model of
    the hub, or the name of one that ships with nextvec. Empty: random weights."""
    keep_epochs: bool = True
    """Keep epoch_N.pt of every epoch."""
    checkpoint_interval_s: Annotated[float, Field(gt=0)] = 300.0
    """Seconds between training states saved within an epoch. One is also saved after each epoch."""


class EvaluationRecipe(Section):
    """Evaluation of the trained model."""

    queries: Annotated[int, Field(ge=1)] = 10_000
    """Maximum number of windows of a split used as retrieval queries (a fixed sample by the seed)."""
    retrieval: Literal["exact", "faiss"] = "exact"
    """exact: compare with every chunk of a split; faiss: compare with the nearest 1,000, for splits that are too large
    for a matrix product (extra: faiss)."""
    resamples: Annotated[int, Field(ge=100)] = 2_000
    """Bootstrap resamples over documents."""
    ridge_windows: Annotated[int, Field(ge=100)] = 100_000
    """Maximum number of training windows for fitting ridge and kNN (a fixed sample by the seed)."""


class RuntimeRecipe(Section):
    """Hardware. Nothing here changes the result, up to rounding."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 … or mps."""
    threads: Positive | None = None
    """CPU threads. Default: torch's, one per core."""
    native_ops: bool = True
    """Use fused CPU ops, compiled from C at first use. Without them, or without a C compiler, PyTorch computes the
    same numbers up to rounding, more slowly."""


def _as_tuple(value: Any) -> Any:
    """Return one integer or a TOML list as a tuple; any other value is left to pydantic's own check."""
    return (value,) if isinstance(value, int) else tuple(value) if isinstance(value, list) else value


class GateRecipe(Section):
    """A threshold on a metric at an epoch. Gates on ood metrics form the sentinel."""

    epoch: Annotated[tuple[Positive, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
    """The epoch, or a list of epochs, after which the gate is evaluated."""
    metric: str
    """One of the metrics listed below."""
    green: Number | None = None
    """Threshold of green. Values between green and red are amber."""
    red: Number | None = None
    """Threshold of red. Default: the gate is never red."""
    action: Literal["warn", "stop"] = "warn"
    """Consequence of red: warn, or save everything and stop the run."""
    advice: str = ""
    """Suggestion to show if the gate is not green."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.metric not in GATE_METRICS:
            raise ValueError(f"metric '{self.metric}' is unknown.{did_you_mean(self.metric, GATE_METRICS)}")
        if self.green is None and self.red is None:
            raise ValueError("a gate needs green or red")
        if self.action == "stop" and self.red is None:
            raise ValueError("a gate that stops needs red")
        # Swapped thresholds would call every good value red and every bad one green.
        if self.green is not None and self.red is not None and self.green != self.red:
            lower_is_better = GATE_METRICS[self.metric].lower_is_better
            if (self.green < self.red) != lower_is_better:
                raise ValueError(
                    f"green is {self.green:g} and red {self.red:g}, but {'lower' if lower_is_better else 'higher'} "
                    f"{self.metric} is better: swap them"
                )
        return self


class SuccessRecipe(Section):
    """Criteria that make the run a success."""

    val_cosine: Number | None = None
    """Minimum val_cosine of the best model. Default: no criterion."""
    ood_cosine: Number | None = None
    """Minimum ood_cosine of the best model. Default: no criterion."""
