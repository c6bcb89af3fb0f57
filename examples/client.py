"""Call a running service with the Python standard library, and print the next chunks and the scores of a text.

    python examples/client.py my-article.txt [URL]

The environment variable NEXTVEC_TOKEN is the token of a service that requires one.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

MAX_TRIES = 5
"""A service that is loading or busy answers 503; the request is sent again after the time that it names."""


class Client:
    """A client of one service: ``Client("http://127.0.0.1:8000").next(["A first chunk.", "A second one."], k=3)``."""

    def __init__(self, url: str, token: str = "", timeout: float = 60.0) -> None:
        self.url, self.timeout = url.rstrip("/"), timeout
        self.headers = {"Content-Type": "application/json"}
        if token:
            self.headers["Authorization"] = f"Bearer {token}"

    def model(self) -> Any:
        """Return what the service says about its model, its index and its limits."""
        return self._ask("/v1/model")

    def predict(self, vectors: list[Any]) -> Any:
        """Return prediction and query (N, D) of contexts of unit vectors: (S, D), or a list of contexts."""
        return self._ask("/v1/predict", {"vectors": vectors})

    def next(self, text: str | list[str], k: int = 5) -> Any:
        """Return the k chunks that most likely follow a text or a list of chunks."""
        return self._ask("/v1/next", {**_document(text), "k": k})

    def generate(self, text: str | list[str], steps: int = 5, raw: bool = False) -> Any:
        """Return a continuation of a text or of a list of chunks."""
        return self._ask("/v1/generate", {**_document(text), "steps": steps, "raw": raw})

    def score(self, text: str | list[str]) -> Any:
        """Return how expected each chunk of a text is."""
        return self._ask("/v1/score", _document(text))

    def _ask(self, path: str, body: Any = None) -> Any:
        """Return the JSON of a response. Raises RuntimeError with the line of a refusal."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, self.headers)
        for tries_left in reversed(range(MAX_TRIES)):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                if error.code != 503 or not tries_left:
                    raise RuntimeError(_refusal(error)) from None
                time.sleep(float(error.headers.get("Retry-After", "1")))
            except urllib.error.URLError as error:
                raise RuntimeError(f"{self.url}: cannot be reached ({error.reason}).") from None
        raise AssertionError("the last try returns or raises")


def _document(text: str | list[str]) -> dict[str, Any]:
    """Return a text, whose chunks the service finds, or a list of chunks as a part of a body."""
    return {"text": text} if isinstance(text, str) else {"texts": text}


def _refusal(error: urllib.error.HTTPError) -> str:
    """Return the line with which the service refused a request."""
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return f"the service answered with status {error.code}"


def main(source: str, url: str = "http://127.0.0.1:8000") -> None:
    """Print the next chunks and the scores of a text file."""
    client = Client(url, os.environ.get("NEXTVEC_TOKEN", ""))
    text = Path(source).read_text(encoding="utf-8")
    answer = client.next(text, k=3)
    for chunk in answer["chunks"]:
        print(f"{chunk['rank']}  {chunk['score']:.3f}  {chunk['title'] or chunk['document']}: {chunk['text']}")
    first = answer["baseline_chunk"]
    print(f"{answer['baseline']} would have ranked first: {first['text'] if first else 'nothing'}")
    for chunk in client.score(text)["chunks"]:
        cosine = "–" if chunk["cosine"] is None else f"{chunk['cosine']:.3f}"
        print(f"chunk {chunk['position']}: cosine {cosine}{'  topic shift' if chunk['is_shift'] else ''}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python client.py TEXT_FILE [URL]")
    try:
        main(*sys.argv[1:])
    except (OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
