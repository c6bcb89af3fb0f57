"""What requests ask the model for, and how work of one type runs together.

Letters in names: N contexts or texts, S context length, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextvec.errors import InputError, NextvecError
from nextvec.inference.continuation import continue_context
from nextvec.inference.index_types import Index
from nextvec.inference.model import LatentVectorModel
from nextvec.inference.next_chunks import last_texts, rank_chunks
from nextvec.inference.score import chunk_texts, require_two_chunks, score_chunks
from nextvec.serving.limits import MAX_TEXTS

Matrix = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PredictWork:
    """Contexts to predict the next vectors of."""

    contexts: Sequence[Matrix]

    @property
    def size(self) -> int:
        """The number of contexts."""
        return len(self.contexts)


@dataclass(frozen=True, eq=False)
class Prediction:
    """The outputs of the network for the contexts of a request."""

    prediction_ND: Matrix
    query_ND: Matrix | None


@dataclass(frozen=True, eq=False)
class TextWork:
    """A text, or chunks, to read: the chunks that follow, a continuation, or the scores of a document."""

    task: str
    """"next", "generate" or "score"."""
    document: str | Sequence[str]
    count: int = 0
    """k of "next", the number of steps of "generate"."""
    snap: bool = True

    @property
    def size(self) -> int:
        """The number of texts; of a text that is not divided yet, its number of paragraphs."""
        return self.document.count("\n\n") + 1 if isinstance(self.document, str) else len(self.document)


@dataclass(frozen=True, eq=False)
class ModelRunner:
    """Runs work with a model and an index."""

    model: LatentVectorModel
    index: Index | None = None

    def run(self, works: Sequence[Any]) -> list[Any]:
        """Return a result, or an exception, for each of several works of one type."""
        return self._predict(works) if isinstance(works[0], PredictWork) else self._read_texts(works)

    def _predict(self, works: Sequence[PredictWork]) -> list[Prediction]:
        """Run the network once for the contexts of all requests; those of other lengths are masked."""
        contexts = [context_SD for work in works for context_SD in work.contexts]
        prediction_ND = np.asarray(self.model.predict(contexts))
        query_ND = np.asarray(self.model.query(contexts)) if self.model.network.has_query else None
        results, start = [], 0
        for work in works:
            rows = slice(start, start + work.size)
            results.append(Prediction(prediction_ND[rows], None if query_ND is None else query_ND[rows]))
            start += work.size
        return results

    def _read_texts(self, works: Sequence[TextWork]) -> list[Any]:
        """Encode the texts of all requests at once, then answer one request after the other."""
        chunked = [_returned(self._texts, work) for work in works]
        flat = [text for texts in chunked if not isinstance(texts, Exception) for text in texts]
        vectors_ND = self.model.encode(flat) if flat else np.empty((0, self.model.dimensions), np.float32)
        results, start = [], 0
        for work, texts in zip(works, chunked, strict=True):
            if isinstance(texts, Exception):
                results.append(texts)
                continue
            end = start + len(texts)
            results.append(_returned(self._answer, work, texts, vectors_ND[start:end]))
            start = end
        return results

    def _texts(self, work: TextWork) -> tuple[str, ...]:
        """Return the texts of a request that are encoded. Raises InputError if there are too few or too many."""
        texts = tuple(chunk_texts(self.model, work.document))
        if len(texts) > MAX_TEXTS:
            raise InputError(f"text: has {len(texts)} chunks, but a request can have {MAX_TEXTS}. Pass a part of it.")
        if not texts:
            raise InputError(f"text: no paragraph has the model's {self.model.chunker.min_chars} characters.")
        # The other requests of the batch must not fail with this one.
        for number, text in enumerate(texts):
            if not text.strip():
                raise InputError(f"text {number}: is empty. Leave it out.")
        if work.task == "score":
            require_two_chunks(texts)
            return texts
        return last_texts(self.model, texts)

    def _answer(self, work: TextWork, texts: tuple[str, ...], vectors_ND: Matrix) -> dict[str, Any]:
        """Return the response to a request whose texts are encoded."""
        if work.task == "score":
            return score_chunks(self.model, texts, vectors_ND).to_dict()
        assert self.index is not None, "the request was accepted without an index"
        if work.task == "next":
            return rank_chunks(self.model, self.index, texts, vectors_ND, work.count).to_dict()
        result = continue_context(self.model, self.index, texts, vectors_ND, work.count, snap=work.snap)
        return result.to_dict()


def _returned(function: Any, *args: Any) -> Any:
    """Return a function's value, or its error if the request causes it."""
    try:
        return function(*args)
    except NextvecError as error:
        return error
