"""The clients in examples/ run as a user runs them, against a real server that requires a token."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NODE, CURL = shutil.which("node"), shutil.which("curl")


def call(server, *command, token=None):
    """Run a client; return its exit code, output and errors."""
    environment = {**os.environ, "NEXTVEC_TOKEN": server.token if token is None else token}
    words = [*map(str, command)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def article(tmp_path_factory, paragraphs) -> Path:
    file = tmp_path_factory.mktemp("article") / "my-article.txt"
    file.write_text("\n\n".join(paragraphs[:4]), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def expected(model, service, paragraphs) -> list[str]:
    """The lines that the Python and the JavaScript client print."""
    result, scores = model.next(paragraphs[:4], service.runner.index, 3), model.score(paragraphs[:4])
    return [
        *(f"{match.rank}  {match.score:.3f}  {match.title}: {match.text}" for match in result.chunks),
        f"{result.baseline} would have ranked first: {result.baseline_chunk.text}",
        *(
            f"chunk {chunk.position}: cosine {'–' if chunk.cosine is None else f'{chunk.cosine:.3f}'}"
            f"{'  topic shift' if chunk.is_shift else ''}"
            for chunk in scores.chunks
        ),
    ]


def check_client(server, article, expected, *command):
    """Check what a client prints for an article, with a wrong token, and without a service."""
    code, out, errors = call(server, *command, article, server.url)
    assert (code, out.splitlines(), errors) == (0, expected, "")
    code, out, errors = call(server, *command, article, server.url, token="wrong")
    assert code == 1 and not out and errors.startswith("error: Missing or wrong token.") and errors.count("\n") == 1
    code, out, errors = call(server, *command, article, "http://127.0.0.1:9")
    assert code == 1 and not out and errors.startswith("error: ") and errors.count("\n") == 1


def test_the_python_client_prints_next_chunks_and_scores(locked_server, article, expected):
    # -S: only the standard library can be imported.
    check_client(locked_server, article, expected, sys.executable, "-S", EXAMPLES / "client.py")


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_the_javascript_client_prints_next_chunks_and_scores(locked_server, article, expected):
    check_client(locked_server, article, expected, NODE, EXAMPLES / "client.mjs")


def test_the_javascript_client_runs_in_a_browser(server, visit, model, vectors):
    found = visit(server.url)
    source = (EXAMPLES / "client.mjs").read_text(encoding="utf-8")
    # The page's policy allows its own files only, so the example takes the place of one.
    found.page.route("**/assets/example.js", lambda route: route.fulfill(body=source, content_type="text/javascript"))
    context_SD = vectors(4)
    values = found.page.evaluate(
        """async ([url, vectors]) => {
             const { Client } = await import("/assets/example.js");
             const client = new Client(url);
             const refused = await client.next("x", 0).catch((error) => error.message);
             return [(await client.model()).model, (await client.predict(vectors)).prediction, refused];
           }""",
        [server.url, context_SD.tolist()],
    )
    assert values[0] == model.source and "k" in values[2]
    np.testing.assert_allclose(values[1], model.predict(context_SD), atol=1e-6)


@pytest.mark.skipif(CURL is None, reason="needs curl")
def test_the_curl_client_prints_the_answers(locked_server, model, vectors, tmp_path):
    np.save(tmp_path / "context.npy", vectors(4))
    code, out, errors = call(
        locked_server, "sh", EXAMPLES / "client.sh", locked_server.url.rstrip("/"), tmp_path / "context.npy"
    )
    assert code == 0, errors
    answers = [json.loads(line) for line in out.splitlines()]
    described, following, continuation, scores, predicted = answers
    assert described["model"] == model.source and len(following["chunks"]) == 3
    assert len(continuation["chunks"]) == 2 and len(scores["chunks"]) == 2
    np.testing.assert_allclose(predicted["prediction"], model.predict(vectors(4)), atol=1e-6)
    code, out, _ = call(locked_server, "sh", EXAMPLES / "client.sh", locked_server.url.rstrip("/"), token="wrong")
    assert code != 0 and json.loads(out)["error"].startswith("Missing or wrong token.")
