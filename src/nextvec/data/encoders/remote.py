"""Encoders behind a server that speaks OpenAI's embeddings protocol: TEI, vLLM, infinity, Ollama, or a hosted model.

    encoder = open_remote_encoder("openai:http://127.0.0.1:8080#BAAI/bge-small-en-v1.5")

A request has a bounded number of texts and characters, and several requests run at once. The model is recognized by its
encoder fingerprint, never by the URL: the fingerprint is compared again while texts are encoded, because a server may
change its model at any time.

Letters in names: N texts, D dimensions.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from nextvec.core.http_client import JsonClient
from nextvec.data.encoders.answer_log import AnswerLog
from nextvec.data.encoders.remote_names import PREFIX, embeddings_url, parse_name
from nextvec.data.space import MIN_SERVER_COSINE, PROBE_TEXTS, Space, difference
from nextvec.errors import InputError, ServerError

ANSWERS = "answers.log"
"""File of a build directory with the answers that its journal does not record yet."""
KEY = "NEXTVEC_ENCODER_KEY"
"""Environment variable of the key. OPENAI_API_KEY is never read: it must not reach any server that a command names."""

MAX_TEXTS, MAX_CHARS = 32, 100_000
"""Maximum of one request. TEI accepts 32 texts by default; a server that accepts fewer gets fewer."""
CONCURRENCY = 8
"""Requests at the same time."""
TEXTS_PER_CHECK = 1024
"""The fingerprint is compared again after this many texts, and in every call with several requests."""
MAX_DIMENSIONS = 2**16
BYTES_PER_TEXT = 2**20
"""Maximum size of a text's part of an answer: 32,768 numbers in decimal."""

_REFUSED_BATCH = (400, 413, 422)
"""Statuses of a request with too many texts, or with a text that is too long."""


def open_remote_encoder(name: str) -> RemoteEncoder:
    """Open ``openai:URL#MODEL``, and read its fingerprint from the server.

    Raises InputError for a name without a URL, ServerError if the server does not encode the probe texts.
    """
    url, model = parse_name(name)
    if not url:
        raise InputError(
            f"encoder '{name}': its server is not known. Name it with --encoder {PREFIX}URL#{model}, "
            "or in the variable NEXTVEC_ENCODER."
        )
    encoder = RemoteEncoder(url, model)
    assert encoder.space.probes is not None
    return encoder


class RemoteEncoder:
    """An encoder behind a server. Threads may share it."""

    unknown_texts = 0
    truncated_texts = 0
    """Always 0: a neural encoder knows tokens of every text."""
    answers: AnswerLog | None = None
    """Keeps the answers of a build until their block is stored."""

    def __init__(self, url: str, model: str) -> None:
        self.name, self.model = f"{PREFIX}{url}#{model}", model
        self._client = JsonClient(embeddings_url(url), f"encoder {self.name}", KEY)
        self._max_texts, self._asks_for_base64 = MAX_TEXTS, True
        self._dimensions: int | None = None
        self._since_check, self._has_changed = 0, False

    @cached_property
    def space(self) -> Space:
        """Embedding space with the name of the model; it has no revision, because no server reports one."""
        probes_PD = self._embed(PROBE_TEXTS, threading.Event())
        return Space(self.model, "", probes_PD.shape[1], probes=probes_PD.astype(np.float16))

    @property
    def settings(self) -> dict[str, Any]:
        """Plain values for the manifest. They never contain the key."""
        return {"name": self.name}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the unit vectors (N, D) of N texts, in order. The server decides where long texts are truncated.

        Raises ServerError if an answer cannot be used, or if the server's model has changed.
        """
        vectors_ND = np.empty((len(texts), self.space.dimensions), np.float32)
        # A refusal may have had a passing reason, so every call tries larger requests again.
        self._max_texts = min(2 * self._max_texts, MAX_TEXTS)
        # Texts that an interrupted build has encoded need no request.
        known = [self.answers.get(text) for text in texts] if self.answers else [None] * len(texts)
        for n, vector_D in enumerate(known):
            if vector_D is not None:
                vectors_ND[n] = vector_D
        missing = [n for n, vector_D in enumerate(known) if vector_D is None]
        batches = self._batches(texts, missing)
        parts = self._embed_all([[texts[n] for n in batch] for batch in batches])
        for batch, part in zip(batches, parts, strict=True):
            vectors_ND[batch] = part
        return vectors_ND

    def _batches(self, texts: Sequence[str], rows: Sequence[int]) -> list[list[int]]:
        """Divide rows into requests within the limits of texts and characters."""
        batches: list[list[int]] = []
        chars = 0
        for n in rows:
            chars += len(texts[n])
            if not batches or len(batches[-1]) >= self._max_texts or chars > MAX_CHARS:
                batches.append([])
                chars = len(texts[n])
            batches[-1].append(n)
        return batches

    def _embed_all(self, batches: list[list[str]]) -> list[NDArray[np.float32]]:
        """Return the vectors of each batch, from several requests at once, and compare the fingerprint if it is due."""
        self._since_check += sum(map(len, batches))
        stop = threading.Event()
        if len(batches) <= 1 and self._since_check < TEXTS_PER_CHECK:
            return [self._embed(batch, stop) for batch in batches]
        self._since_check = 0
        executor = ThreadPoolExecutor(min(CONCURRENCY, len(batches) + 1), thread_name_prefix="nextvec-encoder")
        try:
            futures = [executor.submit(self._embed, batch, stop) for batch in batches]
            # The probe texts come last, so that the vectors between two equal fingerprints are of one model.
            check = executor.submit(self._check_fingerprint, stop)
            requests: list[Future[Any]] = [*futures, check]
            for request in as_completed(requests):
                request.result()
        except Exception:
            # Requests that are under way end, and their answers are kept; no other one starts.
            stop.set()
            raise
        except BaseException:  # Ctrl-C
            stop.set()
            self._client.abort()
            raise
        finally:
            executor.shutdown(cancel_futures=True)
            if self._has_changed and self.answers is not None:
                self.answers.clear()  # some may be of the other model
        return [future.result() for future in futures]

    def _check_fingerprint(self, stop: threading.Event) -> None:
        """Raise ServerError if the server encodes the probe texts in another way than before."""
        probes_PD = self._embed(PROBE_TEXTS, stop)
        now = Space(self.model, "", probes_PD.shape[1], probes=probes_PD.astype(np.float16))
        reason = difference(self.space, now, MIN_SERVER_COSINE)
        if reason is not None:
            self._has_changed = True
            self._fail(f"the server's model has changed ({reason}). Serve the earlier model again.")

    def _embed(self, texts: Sequence[str], stop: threading.Event) -> NDArray[np.float32]:
        """Return the unit vectors (N, D) of one request, or of smaller ones if the server refuses it."""
        if len(texts) <= self._max_texts:
            try:
                vectors_ND = self._request(texts, stop)
            except ServerError as error:
                if error.status not in _REFUSED_BATCH:
                    raise
                if len(texts) == 1:
                    raise _with_text(error, texts[0]) from error
                self._max_texts = max(len(texts) // 2, 1)
            else:
                if self.answers is not None:
                    self.answers.add(texts, vectors_ND)
                return vectors_ND
        # Halves find the number of texts that the server accepts, or the one text that it refuses.
        half = len(texts) // 2
        return np.concatenate([self._embed(texts[:half], stop), self._embed(texts[half:], stop)])

    def _request(self, texts: Sequence[str], stop: threading.Event) -> NDArray[np.float32]:
        content = {"model": self.model, "input": list(texts)}
        max_bytes = (len(texts) + 1) * BYTES_PER_TEXT
        if self._asks_for_base64:
            # A tenth of the time of decimal numbers. Some servers ignore the format, and some refuse it.
            try:
                answer = self._client.post({**content, "encoding_format": "base64"}, max_bytes, stop)
                return self._read(answer, len(texts))
            except ServerError as error:
                if error.status not in _REFUSED_BATCH or self._dimensions is not None:
                    raise
        vectors_ND = self._read(self._client.post({**content, "encoding_format": "float"}, max_bytes, stop), len(texts))
        self._asks_for_base64 = False
        return vectors_ND

    def _read(self, answer: Any, count: int) -> NDArray[np.float32]:
        """Return the unit vectors (N, D) of an answer. Raises ServerError unless it has one for each text."""
        rows = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(rows, list):
            self._fail("the answer has no list 'data'. Check that the URL is that of an embeddings server.")
        if len(rows) != count:
            self._fail(f"the answer has {len(rows)} vectors for {count} texts. Check the server.")
        if not all(isinstance(row, dict) for row in rows):
            self._fail("the answer's list 'data' has entries without an embedding. Check the server.")
        # Servers may answer in any order, and then number the vectors.
        numbers = [row.get("index") for row in rows]
        if any(number is not None for number in numbers):
            if sorted(number for number in numbers if type(number) is int) != list(range(count)):
                self._fail(f"the answer's indexes are not 0 … {count - 1}, one each. Check the server.")
            rows = sorted(rows, key=lambda row: int(row["index"]))
        vectors = [self._vector(row.get("embedding")) for row in rows]
        sizes = {len(vector) for vector in vectors}
        if self._dimensions is not None and sizes != {self._dimensions}:
            size = min(sizes - {self._dimensions})
            self._fail(f"the answer has a vector of {size} numbers instead of {self._dimensions}. Check its model.")
        if len(sizes) != 1 or not 0 < max(sizes) <= MAX_DIMENSIONS:
            self._fail(f"the answer has vectors of {min(sizes)} to {max(sizes)} numbers. Check the server.")
        vectors_ND = np.stack(vectors)
        # In float64, because squares of large or small float32 numbers overflow or vanish.
        lengths_N = np.linalg.norm(vectors_ND.astype(np.float64), axis=1)
        if not (np.isfinite(lengths_N) & (lengths_N > 0)).all():
            self._fail("the answer has a vector that is zero or not finite. Serve the model in float32.")
        self._dimensions = vectors_ND.shape[1]
        unit_ND: NDArray[np.float32] = (vectors_ND / lengths_N[:, None]).astype(np.float32)
        return unit_ND

    def _vector(self, value: Any) -> NDArray[np.float32]:
        """Return an embedding, a list of numbers or little-endian float32 in base64, as an array (D,)."""
        if isinstance(value, str):
            try:
                return np.frombuffer(base64.b64decode(value, validate=True), "<f4").astype(np.float32)
            except (ValueError, binascii.Error):
                self._fail("the answer has an embedding that is not base64 of float32 numbers. Check the server.")
        if isinstance(value, list) and all(type(number) in (float, int) for number in value):
            # Numbers beyond float32 become infinite, which is refused with a message of its own.
            with np.errstate(over="ignore"):
                try:
                    return np.array(value, np.float64).astype(np.float32)
                except OverflowError:
                    return np.array([np.inf], np.float32)
        self._fail("the answer has an embedding that is neither a list of numbers nor base64. Check the server.")

    def _fail(self, reason: str) -> NoReturn:
        raise ServerError(f"encoder {self.name}: {reason}")


@contextmanager
def keep_answers(encoder: RemoteEncoder | None, file: Path) -> Iterator[Callable[[], None]]:
    """Keep a server's answers in a file, and yield a function that removes them once their vectors are stored.

    None is an encoder without a server: nothing is kept, because its work costs no requests.
    """
    if encoder is None:
        yield lambda: None
        return
    log = encoder.answers = AnswerLog(file, encoder.space.dimensions)
    try:
        yield log.clear
    finally:
        encoder.answers = None
        log.close()


def _with_text(error: ServerError, text: str) -> ServerError:
    """Return the error of a refused text with the text's length and beginning; a probe text is never the reason."""
    if text in PROBE_TEXTS:
        return error
    refused = ServerError(
        f"{error} The refused text has {len(text):,} characters and begins with '{text[:40]}'. "
        "If it is too long, build with a smaller --max-chars, or let the server truncate."
    )
    refused.status = error.status
    return refused
