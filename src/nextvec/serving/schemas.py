"""The JSON of every request and response, as pydantic models: they validate requests and document both."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.config import JsonDict

from nextvec.serving.limits import MAX_CONTEXTS, MAX_K, MAX_STEPS, MAX_TEXT_CHARS, MAX_TEXTS

Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT_CHARS)]
Vector = list[float]

EXAMPLE_TEXTS = [
    "The harbor was built on the northern bank of the river.",
    "The tide leaves a deep channel at all hours, so that ships of any size can enter.",
]
ONE_OF_TEXTS: JsonDict = {"oneOf": [{"required": ["texts"]}, {"required": ["text"]}]}


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PredictRequest(_Request):
    """Contexts of unit vectors, the oldest vector first."""

    vectors: Annotated[
        list[Vector] | list[list[Vector]],
        Field(
            min_length=1,
            max_length=MAX_CONTEXTS,
            description="One context (S, D), or a list of contexts of any lengths. S is at most the model's context "
            "length, D is its dimensions, and every vector has length 1. `GET /v1/model` reports both.",
            examples=[[[0.6, 0.8, 0.0], [0.0, 1.0, 0.0]]],
        ),
    ]


class _TextRequest(_Request):
    """Texts: either chunks or one text."""

    model_config = ConfigDict(json_schema_extra=ONE_OF_TEXTS)

    texts: Annotated[
        list[Text],
        Field(
            default_factory=list,
            min_length=1,
            max_length=MAX_TEXTS,
            description="Chunks of a document, the oldest first.",
            examples=[EXAMPLE_TEXTS],
        ),
    ]
    text: Annotated[
        str,
        Field(
            default_factory=str,
            min_length=1,
            max_length=MAX_TEXT_CHARS,
            description="A text with paragraphs between blank lines, which the model's chunker divides into chunks.",
            examples=["\n\n".join(EXAMPLE_TEXTS)],
        ),
    ]

    @model_validator(mode="after")
    def _require_one_input(self) -> Any:
        if len(self.model_fields_set & {"texts", "text"}) != 1:
            raise ValueError("pass either texts or text")
        return self


class NextRequest(_TextRequest):
    """A text whose next chunks are searched in the index."""

    k: Annotated[int, Field(ge=1, le=MAX_K, description="Number of chunks to return.")] = 5


class GenerateRequest(_TextRequest):
    """A text that is continued by chunks of the index."""

    steps: Annotated[int, Field(ge=1, le=MAX_STEPS, description="Number of chunks.")] = 5
    raw: Annotated[
        bool, Field(description="Feed the raw prediction back after each step, instead of the chosen chunk's vector.")
    ] = False


class ScoreRequest(_TextRequest):
    """A document of at least two chunks."""


class PredictResponse(BaseModel):
    """Vectors of unit length, one for each context."""

    model: Annotated[str, Field(examples=["my-run/best_model.pt"])]
    prediction: Annotated[
        list[Vector], Field(description="Estimates of the next vectors (N, D).", examples=[[[0.0, 0.6, 0.8]]])
    ]
    query: Annotated[
        list[Vector] | None,
        Field(description="Vectors (N, D) that retrieve the next chunk; null if the model has no query."),
    ]


class MatchItem(BaseModel):
    """A chunk of the index."""

    rank: int
    score: Annotated[float, Field(description="Cosine to the vector that retrieved it, from −1 to 1.")]
    row: Annotated[int, Field(description="Number of the chunk in the index.")]
    text: str
    document: Annotated[str, Field(description="Id of the document.")]
    title: str
    position: Annotated[int | None, Field(description="Number of chunks before it in its document; null if unknown.")]


class NextResponse(BaseModel):
    """The most likely next chunks, the best first, next to the best baseline's first choice."""

    model: str
    index: str
    context: Annotated[list[str], Field(description="The texts that the model read, the oldest first.")]
    output: Annotated[str, Field(description="The output that retrieved the chunks: query or prediction.")]
    chunks: list[MatchItem]
    baseline: Annotated[str, Field(description="The best baseline by retrieval on val.")]
    baseline_chunk: Annotated[MatchItem | None, Field(description="The chunk that the baseline ranks first.")]
    excluded: Annotated[int, Field(description="Chunks of the index that equal a text of the context.")]


class DriftItem(BaseModel):
    """How far a roll-out is from real text after each step, as cosines."""

    to_nearest: Annotated[list[float], Field(description="The prediction to its nearest chunk of the index.")]
    to_start: Annotated[list[float], Field(description="The prediction to the mean of the context.")]


class GenerateResponse(BaseModel):
    """The chunks that continue a text, in order, and the drift of both roll-outs."""

    model: str
    index: str
    context: Annotated[list[str], Field(description="The texts that the model read first, the oldest first.")]
    snap: Annotated[bool, Field(description="Whether each step fed the chosen chunk's vector back.")]
    chunks: list[MatchItem]
    snapped_drift: DriftItem
    raw_drift: DriftItem
    agreement: Annotated[list[float], Field(description="Cosine between the predictions of both roll-outs.")]


class ChunkScoreItem(BaseModel):
    """How expected one chunk is. The first chunk has no context, so only its coherence is measured."""

    position: int
    text: str
    context: Annotated[int, Field(description="Number of chunks that the model read before it.")]
    cosine: Annotated[float | None, Field(description="Cosine to the model's prediction, from −1 to 1.")]
    percentile: Annotated[float | None, Field(description="Percentage of val chunks with a lower cosine.")]
    baseline_cosine: Annotated[float | None, Field(description="Cosine to the best baseline's prediction.")]
    gain: Annotated[float | None, Field(description="cosine − baseline_cosine.")]
    coherence: Annotated[float | None, Field(description="Percentage of val chunks that fit in less well.")]
    depth: Annotated[float, Field(description="How far the cosine dips below the values on both sides.")]
    is_shift: Annotated[bool, Field(description="Whether a new topic seems to start here.")]


class ScoreResponse(BaseModel):
    """The scores of a document's chunks."""

    model: str
    baseline: Annotated[str, Field(description="The best baseline by cosine on val.")]
    chunks: list[ChunkScoreItem]
    mean_cosine: float
    mean_gain: float
    shifts: Annotated[list[int], Field(description="Positions at which a new topic seems to start.")]
    least_coherent: Annotated[int | None, Field(description="Position of the chunk that fits in least well.")]


class SpaceItem(BaseModel):
    """The embedding space of the vectors."""

    encoder: str
    revision: str
    dimensions: int


class IndexItem(BaseModel):
    """The index that `next` and `generate` search."""

    name: str
    chunks: int


class ModelResponse(BaseModel):
    """The model, its index, and the limits of the service."""

    model: Annotated[str, Field(examples=["my-run/best_model.pt"])]
    network: Annotated[str, Field(examples=["amn"])]
    parameters: int
    space: SpaceItem
    dimensions: Annotated[int, Field(description="D, the length of a vector.")]
    context_length: Annotated[int, Field(description="S, the maximum number of vectors of a context.")]
    outputs: Annotated[list[str], Field(examples=[["prediction", "query"]])]
    baselines: list[str]
    encoder_error: Annotated[
        str | None, Field(description="Why texts cannot be encoded; null if the service accepts texts.")
    ]
    index: Annotated[IndexItem | None, Field(description="null if the service was started without --index.")]
    limits: Annotated[dict[str, int], Field(description="The largest values that a request can have.")]
    version: Annotated[str, Field(description="The version of nextvec.")]


class StatusResponse(BaseModel):
    """The state of the service."""

    status: Annotated[str, Field(examples=["ready"])]


class ErrorResponse(BaseModel):
    """Why a request was refused."""

    error: Annotated[str, Field(examples=["k: Input should be less than or equal to 100."])]
