"""A local stub of an embeddings server and a decoder, which answers a script of faults first.

`POST …/embeddings` answers as OpenAI, TEI and vLLM do; `POST /decode` answers texts for vectors. A fault is a function
of the handler that sends an answer, or None for the regular one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

MODEL = "stub/hashing"
KEY = "sk-SECRET-0123456789"
Fault = Callable[["Handler"], None] | None


def hashed_vectors(texts: list[str], dimensions: int, salt: str = "") -> np.ndarray:
    """(N, D) vectors that are a function of each text; not of unit length, as of some servers."""
    seeds = [hashlib.blake2b((salt + text).encode("utf-8", "replace"), digest_size=8).digest() for text in texts]
    rows = [np.random.default_rng(int.from_bytes(seed, "big")).normal(size=dimensions) for seed in seeds]
    return np.array(rows, np.float32)


class ServerStub(ThreadingHTTPServer):
    """The server; a context manager that runs it in a thread. `reset` makes it a fresh one."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.dimensions, self.salt, self.noise = 12, "", 0.0
        self.encode: Callable[[list[str]], np.ndarray] = lambda texts: hashed_vectors(texts, self.dimensions, self.salt)
        self.format: str | None = None  # the format of every answer; None: as the request asks
        self.is_shuffled = self.has_no_index = False
        self.max_texts, self.max_chars, self.key = 10_000, 10**9, ""
        self.delay: Callable[[list[str]], float] = lambda texts: 0.0
        self.faults: list[Fault] = []
        """Answers of the next requests, in order."""
        self.fault: Callable[[int, list[str]], Fault] = lambda number, texts: None
        """The answer of a request by its number and texts, after `faults`."""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.sent: Counter[str] = Counter()
        """How often each text was answered."""
        self.running = self.most_running = 0
        self.decoded: dict[bytes, str] = {}
        self.decode: Callable[[np.ndarray], Any] = self.nearest_known_text

    def nearest_known_text(self, vectors: np.ndarray) -> list[str]:
        """The answered text whose vector is nearest, so that the round trip of a known text is perfect."""
        texts = sorted(self.sent)
        known = self.encode(texts)
        known /= np.linalg.norm(known, axis=1, keepdims=True)
        return [texts[int(row)] for row in (vectors @ known.T).argmax(axis=1)]

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the tests."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def encoder(self) -> str:
        return f"openai:{self.url}#{MODEL}"

    def __enter__(self) -> ServerStub:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: ServerStub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    body: dict[str, Any]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send(405, {"detail": "Method Not Allowed"})

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        stub = self.server
        texts = self.body.get("input", [])
        with stub.lock:
            number = len(stub.requests)
            stub.requests.append(self.body)
            stub.headers.append({name.lower(): value for name, value in self.headers.items()})
            stub.paths.append(self.path)
            fault = stub.faults.pop(0) if stub.faults else stub.fault(number, texts)
            stub.running += 1
            stub.most_running = max(stub.most_running, stub.running)
        with suppress(ConnectionError):
            try:
                fault(self) if fault else self.answer(texts)
            finally:
                with stub.lock:
                    stub.running -= 1

    def answer(self, texts: list[str]) -> None:
        stub = self.server
        if stub.key and self.headers.get("Authorization") != f"Bearer {stub.key}":
            message = f"Incorrect API key provided: {self.headers.get('Authorization')}. Find your API key elsewhere."
            return self.send(401, {"error": {"message": message, "type": "invalid_request_error", "code": "bad_key"}})
        if self.path.startswith("/decode"):
            return self.send(200, {"texts": stub.decode(np.array(self.body["vectors"], np.float32))})
        if len(texts) > stub.max_texts:
            message = f"batch size {len(texts)} > maximum allowed batch size {stub.max_texts}"
            return self.send(413, {"message": message, "code": 413, "type": "Validation"})
        if longest := max((len(text) for text in texts if len(text) > stub.max_chars), default=0):
            message = f"`inputs` must have less than {stub.max_chars} tokens. Given: {longest}"
            return self.send(413, {"message": message, "code": 413, "type": "Validation"})
        time.sleep(stub.delay(texts))
        self.send(200, self.embeddings(texts))
        return None

    def embeddings(self, texts: list[str], vectors: np.ndarray | None = None) -> dict[str, Any]:
        """The answer in the shape of OpenAI, with vectors of these texts."""
        stub = self.server
        if vectors is None:
            vectors = stub.encode(texts)
            if stub.noise:
                vectors = vectors + stub.noise * np.random.default_rng(len(stub.requests)).normal(size=vectors.shape)
        with stub.lock:
            stub.sent.update(texts)
        kind = stub.format or self.body.get("encoding_format", "float")
        values = [
            base64.b64encode(vector.astype("<f4").tobytes()).decode() if kind == "base64" else vector.tolist()
            for vector in vectors
        ]
        data = [{"object": "embedding", "index": n, "embedding": value} for n, value in enumerate(values)]
        if stub.is_shuffled:
            data.reverse()
        if stub.has_no_index:
            data = [{"embedding": row["embedding"]} for row in data]
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return {"object": "list", "data": data, "model": self.body["model"], "usage": usage}

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def status(code: int, content: Any = None, **headers: str) -> Fault:
    """A fault that answers a status, with OpenAI's error object."""
    error = {"error": {"message": f"fault {code}", "type": "server_error", "param": None, "code": None}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.send(code, error if content is None else content, named)


def hang_up(handler: Handler) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True


def cut_off(handler: Handler) -> None:
    """Send half of an answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"data": [')
    handler.close_connection = True


def drip(handler: Handler) -> None:
    """Send a byte now and then, so that no single read takes long."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    for _ in range(200):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def hang(handler: Handler) -> None:
    """Never answer, within a test's time."""
    time.sleep(3)
    handler.close_connection = True


def with_data(change: Callable[[dict[str, Any]], Any]) -> Fault:
    """A fault that changes a regular answer."""

    def fault(handler: Handler) -> None:
        answer = handler.embeddings(handler.body["input"])
        changed = change(answer)
        handler.send(200, answer if changed is None else changed)

    return fault
