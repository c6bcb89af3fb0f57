"""A trained model, ready to use: it encodes text, predicts the next vector, and retrieves and scores chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nextvec.data.chunking import Chunker
from nextvec.data.encoders import LSA, SYNTHETIC, Encoder, reopen_encoder
from nextvec.data.seen_rows import SeenRows
from nextvec.data.space import UNKNOWN, Space
from nextvec.data.store import Store
from nextvec.errors import CheckpointError, InputError
from nextvec.inference.coherence import Coherence
from nextvec.inference.contexts import ContextsLike, Vectors, read_contexts
from nextvec.inference.continuation import Continuation, continue_text
from nextvec.inference.decoder import Decoder, RoundTrip
from nextvec.inference.index_types import Index
from nextvec.inference.next_chunks import NextChunks, find_next
from nextvec.inference.score import DocumentScore, score_document
from nextvec.models.base import LatentModel

PREDICTION, QUERY = "prediction", "query"


class _Forward(Protocol):
    """An output of a network: contexts (B, S, D) and mask (B, S) to unit vectors (B, D)."""

    def __call__(self, context_BSD: Tensor, mask_BS: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class ValScores:
    """Scores on the val split of the model's training data, as references for new scores."""

    cosine_percentiles: tuple[float, ...] = ()
    """The percentiles 0, 1 … 100 of the model's cosine; empty if they are unknown."""
    cosine: dict[str, float] = field(default_factory=dict)
    """Predictor → mean cosine, for the model and every baseline."""
    mrr: dict[str, float] = field(default_factory=dict)
    """Predictor → mean reciprocal rank of retrieval by the prediction."""


@dataclass(frozen=True, eq=False)
class LatentVectorModel:
    """A trained model in evaluation mode; `load_model` opens one. It never needs its training store.

    Methods neither compute gradients nor change the model.
    """

    network: LatentModel = field(repr=False)
    source: str
    """The model's origin, for messages: a folder, a file, or a name."""
    space: Space
    """The embedding space of the vectors that the model reads and predicts."""
    context_length: int
    """S, the maximum number of vectors in a context."""
    min_context: int | None = None
    """The shortest context of the windows that the model was evaluated on; None means `context_length`."""
    encoder_name: str = ""
    """The name by which `open_encoder` opens the encoder."""
    encoder_folder: Path | None = None
    """The folder of the fitted encoder, if the encoder was fitted on the training text."""
    replacement_encoder: str = ""
    """The encoder to open instead of `encoder_name`: the same model elsewhere, with the same fingerprint."""
    chunker: Chunker = Chunker()
    """The rules by which the training documents became chunks."""
    baselines: dict[str, LatentModel] = field(default_factory=dict, repr=False)
    """The fitted baselines, by name."""
    val: ValScores = field(default_factory=ValScores, repr=False)
    coherence: Coherence | None = field(default=None, repr=False)
    """Measures how well a chunk fits into its document, fitted on the training store; None if it was not fitted."""
    seen_rows: SeenRows = field(default=SeenRows(is_complete=False), repr=False)
    """The rows that the weights were trained on, so that no evaluation mistakes them for unseen ones."""

    def __post_init__(self) -> None:
        """Put every network in evaluation mode, whatever mode its source left it in."""
        for network in (self.network, *self.baselines.values()):
            network.eval().requires_grad_(False)

    @property
    def dimensions(self) -> int:
        """D, the length of a vector."""
        return self.network.dimensions

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of the network: "prediction", and "query" if it has one."""
        return (PREDICTION, QUERY) if self.network.has_query else (PREDICTION,)

    @property
    def device(self) -> torch.device:
        """The device on which the model computes."""
        return next(self.network.parameters()).device

    def predict(self, vectors: ContextsLike) -> Vectors:
        """Return the predicted next vectors (N, D), float32 with unit length.

        `vectors` is (N, S, D), one context (S, D), or a list of N contexts of any lengths up to `context_length`, each
        with its oldest vector first. A numpy array gives a numpy array, a tensor a tensor on the same device. Raises
        InputError for contexts that are empty, too long, or not of unit vectors, SpaceError for another D.
        """
        return self._run(self.network.predict, vectors)

    def query(self, vectors: ContextsLike) -> Vectors:
        """Return the queries (N, D), float32 with unit length, which retrieve the next chunk; see `predict`.

        Raises InputError if the model has no query.
        """
        if not self.network.has_query:
            raise InputError(f"model {self.source}: this {self.network.name} has no query. Use its prediction.")
        return self._run(self.network.query, vectors)

    def retrieval_vectors(self, vectors: ContextsLike) -> Vectors:
        """Return the output that retrieves best: the query if the model has one, else the prediction."""
        return self.query(vectors) if self.network.has_query else self.predict(vectors)

    def predict_with(self, baseline: str, vectors: ContextsLike) -> Vectors:
        """Return the predictions (N, D) of one of `baselines`; see `predict`."""
        return self._run(self.baselines[baseline].predict, vectors)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the unit vectors (N, D) of texts in the model's space.

        The encoder is opened on first use and verified by its fingerprint. Raises InputError for an empty text or an
        encoder that is not available, SpaceError if the available encoder has another fingerprint.
        """
        if isinstance(texts, str):
            raise InputError("texts: one text is not a list. Pass a list of texts.")
        for number, text in enumerate(texts):
            if not text.strip():
                raise InputError(f"text {number}: is empty. Leave it out.")
        return self.encoder.encode(texts)

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of the model's space, opened and verified on first use; see `encode`."""
        if self.space.encoder in (UNKNOWN, SYNTHETIC):
            raise InputError(
                f"model {self.source}: the encoder of its vectors is unknown. Pass vectors, or train on text."
            )
        folder = self.encoder_folder
        if self.space.encoder == LSA and (folder is None or not folder.is_dir()):
            raise CheckpointError(
                f"model {self.source}: its fitted encoder is missing. Name the whole run folder or exported folder."
            )
        fitted = folder or Path()
        return reopen_encoder(
            self.space,
            self.encoder_name or self.space.encoder,
            fitted,
            f"the model {self.source}",
            device=self.device.type,
            replacement=self.replacement_encoder,
        )

    @cached_property
    def tested_decoders(self) -> dict[tuple[Decoder | str, str], tuple[Decoder, RoundTrip]]:
        """Decoder and index → the opened decoder and its self-test, which is made once."""
        return {}

    def best_baseline(self, measure: Literal["cosine", "mrr"]) -> str:
        """Return the name of the available baseline with the highest val score, or copy-last without val scores."""
        scores: dict[str, float] = getattr(self.val, measure)
        return max(self.baselines, key=lambda name: scores.get(name, -2.0 + (name == "copy-last")))

    def next(
        self,
        texts: Sequence[str],
        index: Index | Store | str | Path,
        k: int = 5,
        *,
        where: str = "",
        decoder: Decoder | str | None = None,
    ) -> NextChunks:
        """Return the k chunks of an index that most likely follow the texts, next to the best baseline's first.

        `index` is a store or ``lancedb:DIR#TABLE``. `where` is an SQL condition that the chunks match, such as
        ``source = 'x'``. Only the last `context_length` texts are read, and chunks equal to one of them are left out.
        A `decoder`, the URL of a server or an object with `name` and `decode`, also makes a text of the prediction; it
        is tested first. Raises the errors of `encode` and `open_index`, SpaceError for an index of another space,
        ServerError if the decoder fails.
        """
        return find_next(self, texts, index, k, where=where, decoder=decoder)

    def generate(
        self,
        texts: Sequence[str],
        index: Index | Store | str | Path,
        steps: int = 5,
        *,
        where: str = "",
        snap: bool = True,
        decoder: Decoder | str | None = None,
    ) -> Continuation:
        """Return a continuation of the texts by `steps` chunks of an index, none of them twice.

        Each step feeds the vector of its chosen chunk back (`snap`) or the raw prediction. The drift of both is part of
        the result. A `decoder` also makes a text of each prediction. Raises the errors of `next`.
        """
        return continue_text(self, texts, index, steps, where=where, snap=snap, decoder=decoder)

    def score(self, document: str | Sequence[str]) -> DocumentScore:
        """Return how expected each chunk of a document is, how well it fits into it, and where topics shift.

        A text is divided by the model's chunker at blank lines; a list contains the chunks. Raises InputError for fewer
        than two chunks, and the errors of `encode`.
        """
        return score_document(self, document)

    def _run(self, forward: _Forward, vectors: ContextsLike) -> Vectors:
        """Apply one output to contexts, block by block, and return (N, D) like the input."""
        contexts = read_contexts(vectors, self.dimensions, self.context_length, f"model {self.source}")
        output_ND = torch.empty(len(contexts), self.dimensions, device=self.device)
        # A caller's autocast must not change a prediction.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            for positions, context_BSD, mask_BS in contexts.blocks(self.device):
                output_ND[positions] = forward(context_BSD, mask_BS)
        return contexts.like_input(output_ND)
