"""Random requests: only documented statuses, one line per refusal, no traceback, bounded memory.

The full counts run with `pytest -m long tests/serving`.
"""

import json
import random
import resource
import struct
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from nextvec.serving.app import make_app

QUICK, LONG = 300, 10_000
QUICK_EXAMPLES, LONG_EXAMPLES = 2, 500
MAX_GROWTH_KB = 200 * 2**10
D = 12
FIELDS = ("vectors", "texts", "text", "k", "steps", "raw")


def draw_body(dice: random.Random) -> tuple[str, bytes]:
    """Return a media type and a body with random errors."""
    unit = [1.0] + [0.0] * (D - 1)

    def noise(count: int) -> bytes:
        return bytes(dice.randrange(256) for _ in range(dice.randrange(1, count)))

    def value(depth: int) -> object:
        scalars = [None, True, 0, -1, 1.5, 1e308, -0.0, 10**25, "", "x", "\x00", "\u2028", "\U0001f600", float("nan")]
        if depth <= 0 or dice.random() < 0.4:
            return dice.choice([*scalars, float("inf"), unit, [unit], unit[:5]])
        if dice.random() < 0.7:
            return [value(depth - 1) for _ in range(dice.randrange(5))]
        return {
            dice.choice(["vectors", "texts", "text", "k", "steps", "raw", "", "x"]): value(depth - 1) for _ in range(3)
        }

    valid = {
        "vectors": dice.choice([[unit], [[unit]] * 3, [unit] * 4]), "texts": ["the harbor", "the gull"],
        "text": "a " * 99, "k": dice.choice([1, 5, 0, -1, 10**9, "5"]),
        "steps": dice.choice([1, 51, 2.5]), "raw": dice.choice([True, 0]),
    }  # fmt: skip
    kind = "application/json"
    form = dice.randrange(8)
    if form == 0:
        return dice.choice([kind, "application/octet-stream", "text/plain"]), noise(300)
    if form == 1:
        count = dice.choice([50, 199, 201, 5000, 100_000])
        return kind, b'{"vectors":' + dice.choice([b"[", b'{"a":', b"[[],"]) * count
    if form == 2:
        shape = tuple(dice.choice([0, 1, 4, D, 10**6, 10**12, -1]) for _ in range(dice.randrange(5)))
        descr = dice.choice(["<f4", ">f8", "<f2", "|O", "<i4", "|V99", "<U5"])
        header = f"{{'descr': '{descr}', 'fortran_order': {dice.random() < 0.2}, 'shape': {shape}, }}".encode()
        claim = struct.pack("<H", dice.choice([len(header), len(header), 65535, 3]))
        return "application/octet-stream", b"\x93NUMPY\x01\x00" + claim + header + bytes(dice.choice([0, 48, 192, 7]))
    if form == 3:
        array = np.random.default_rng(dice.randrange(99)).normal(size=(dice.randrange(1, 6), D)).astype(np.float32)
        return "application/octet-stream", b"\x93NUMPY" + noise(9) + array.tobytes()
    names = dice.choice([["vectors"], ["texts"], ["text"], ["texts", "k"], ["text", "steps"], dice.sample(FIELDS, 3)])
    chosen = {name: valid[name] for name in names}
    if form == 4:
        return kind, json.dumps(value(4)).encode()
    if form == 5:
        chosen[dice.choice(sorted(chosen))] = value(3)
    text = json.dumps(chosen)
    encoded = text.encode(dice.choice(["utf-8", "utf-8", "utf-16", "latin-1", "utf-32"]), "replace")
    if form == 6:
        position = dice.randrange(len(encoded))
        encoded = encoded[:position] + noise(4) + encoded[position + dice.randrange(4) :]
    return kind, encoded


@pytest.mark.parametrize("count", [QUICK, pytest.param(LONG, marks=pytest.mark.long)])
def test_random_bodies_get_documented_answers(client, count):
    paths = ("/v1/predict", "/v1/predict", "/v1/next", "/v1/generate", "/v1/score")
    documented = {
        path: {int(status) for status in methods["post"]["responses"]}
        for path, methods in client.get("/openapi.json").json()["paths"].items()
        if path in paths
    }
    dice = random.Random(count)
    statuses = set()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        path, (kind, body) = dice.choice(paths), draw_body(dice)
        answer = client.post(path, content=body, headers={"content-type": kind})
        assert answer.status_code in documented[path], (number, path, body[:200], answer.text[:200])
        if answer.status_code != 200:
            line = answer.json()["error"]
            assert line.isprintable() and len(line) < 500 and "Traceback" not in line, (number, line)
        statuses.add(answer.status_code)
    if sys.platform == "linux":  # elsewhere the unit is another one
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_GROWTH_KB
    assert statuses >= {200, 400, 415, 422}, "the bodies are of all kinds"


@pytest.mark.parametrize("examples", [QUICK_EXAMPLES, pytest.param(LONG_EXAMPLES, marks=pytest.mark.long)])
def test_schemathesis_finds_nothing_undocumented(service, examples):
    """Every operation, with bodies that fit the document and with others: only documented statuses and content."""
    schemathesis = pytest.importorskip("schemathesis", reason="needs the package schemathesis")
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    # Not all bodies that fit are accepted: the document cannot say that a vector has length 1.
    required = [not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
                checks.response_schema_conformance]  # fmt: skip
    host = {"host": "127.0.0.1"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", make_app(service), headers=host)
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) == 8
    for operation in operations:
        modes = schemathesis.GenerationMode if operation.body else [schemathesis.GenerationMode.POSITIVE]
        for mode in modes:

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(max_examples=examples if operation.body else 1, deadline=None, derandomize=True, database=None,
                      suppress_health_check=list(HealthCheck), phases=[Phase.generate])  # fmt: skip
            def call(case):
                answer = case.call(headers=host)
                # A body can be too large as well as wrong, which this check does not know.
                rejects = [] if answer.status_code == 413 else [checks.negative_data_rejection]
                case.validate_response(answer, checks=[*required, *rejects])

            call()
