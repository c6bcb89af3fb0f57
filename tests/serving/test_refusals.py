"""What the service refuses: each refusal has a documented status and one line, whatever was sent."""

import io
import json
import struct

import numpy as np

from nextvec.serving.limits import MAX_BODY_BYTES, MAX_CONTEXTS, MAX_TEXTS
from nextvec.serving.service import Service

D = 12
UNIT = [1.0] + [0.0] * (D - 1)
TEXTS = ["The harbor boats tide.", "The gull rope sail."]


def npy(shape, dtype="<f4", content=b"", version=1):
    """Return a .npy file with any header and content."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(header)) + header + content


def saved(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


VECTOR_BODIES = [
    (b"", 400, "not valid JSON"),
    (b"{", 400, "not valid JSON"),
    (b'{"vectors": [[NaN]]}', 400, "not valid JSON"),
    (b'{"vectors": [[1e999]]}', (400, 422), ""),
    (b'\xff\xfe{"vectors": 1}', 400, "not valid JSON"),
    (b'{"vectors": "\xed\xa0\x80"}', 400, "not valid JSON"),
    (b"[" * 100_000, 400, "not valid JSON"),
    (b'{"vectors":' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "not valid JSON"),
    (b'{"vectors":[' + b"[]," * 400_000 + b"[]]}", 400, "more than 200,000 lists"),
    (b"[]", 422, "not an object"),
    (b"null", 422, "not an object"),
    ({"vectors": []}, 422, "at least one"),
    ({"vectors": {}}, 422, "is not a list"),
    ({"vectors": [[]]}, 422, "context 0"),
    ({"vectors": [[[]]]}, 422, "0 dimensions"),
    ({"vectors": [UNIT, []]}, 422, "several lengths"),
    ({"vectors": [UNIT, 1]}, 422, "not a list of lists"),
    ({"vectors": [[UNIT], UNIT]}, 422, "context 1: is not a list of lists"),
    ({"vectors": [UNIT[:-1]]}, 422, "11 dimensions, but"),
    ({"vectors": [UNIT] * 5}, 422, "has 5 vectors, but"),
    ({"vectors": [[UNIT]] * (MAX_CONTEXTS + 1)}, 422, "257 contexts"),
    ({"vectors": [[2.0, *UNIT[1:]]]}, 422, "vector 0: has length 2"),
    ({"vectors": [[0.0] * D]}, 422, "length 0"),
    ({"vectors": [[1e300, *UNIT[1:]]]}, 422, "NaN or infinity"),
    ({"vectors": [[10**400, *UNIT[1:]]]}, (400, 422), ""),
    ({"vectors": [[True, *UNIT[1:]]]}, 422, "boolean"),
    ({"vectors": [["1", *UNIT[1:]]]}, 422, "not a list of lists of numbers"),
    ({"vectors": [[None, *UNIT[1:]]]}, 422, "not a list of lists of numbers"),
    ({"vectors": [{str(n): 0 for n in range(D)}]}, 422, "context 0"),
    ({"vectors": ["abc"]}, 422, "not a list of lists"),
    ({"vectors": [UNIT], "k": 1}, 422, "k: is not a field"),
]

NPY_BODIES = [
    (b"", 400, "not a .npy file"),
    (b"\x93NUMPY", 400, "not a .npy file"),
    (b"\x93NUMPY\x01\x00\xff\xff{", 400, "not a .npy file"),
    (npy("(1, 12)", version=9), 400, "not a .npy file"),
    (npy("(10**9,)"), 400, "not a .npy file"),
    (npy("(1000000000, 1000000000)"), 400, "0 bytes of vectors"),
    (npy("(-1, 12)", content=b"0000"), (400, 422), ""),
    (npy("(1, 12)", content=b"\0" * 47), 400, "47 bytes of vectors"),
    (npy("(0, 12)"), 400, "0 bytes"),
    (npy("(1, 12)", "|O", b"\0" * 96), 422, "not a float type"),
    (npy("(1, 12)", "<i4", b"\0" * 48), 422, "not a float type"),
    (npy("(12,)", content=b"\0" * 48), 422, "is not (S, D)"),
    (saved(np.full((1, D), np.nan, np.float32)), 422, "NaN or infinity"),
    (saved(np.full((1, D), 1e300)), 422, "NaN or infinity"),
    (saved(np.ones((1, D), np.float16)), 422, "length 3.46"),
]

TEXT_BODIES = [
    (b"", 400, "not valid JSON"),
    (b'{"texts": ["\\ud800"]}', 400, "not valid JSON"),
    (b'{"texts": ["\xff"]}', 400, "not valid JSON"),
    (b'{"texts":' + b"[" * 5000, 400, "not valid JSON"),
    ({}, 422, "either texts or text"),
    ({"texts": TEXTS, "text": "a"}, 422, "either texts or text"),
    ({"texts": []}, 422, "texts: List should have at least 1"),
    ({"texts": [""]}, 422, "texts.0: String should have at least 1"),
    ({"texts": ["a", " \n"]}, 422, "text 1: is empty"),
    ({"texts": "a"}, 422, "texts: Input should be a valid array"),
    ({"texts": [1]}, 422, "texts.0: Input should be a valid string"),
    ({"texts": None}, 422, "texts: Input should be a valid array"),
    ({"texts": ["a"] * (MAX_TEXTS + 1)}, 422, "at most 256"),
    ({"text": "a\n\nb"}, 422, "no paragraph has the model's"),
    ({"text": "x" * 200_001}, 422, "at most 200000 characters"),
    ({"text": "\n\n".join(f"{n} is a number that has a paragraph of its own." * 3 for n in range(900))}, 422, "chunks"),
    ({"texts": TEXTS, "unknown": 1}, 422, "unknown: Extra inputs"),
    ([1], 422, "body: Input should be an object"),
]
OPTION_BODIES = [
    ("/v1/next", {"texts": TEXTS, "k": 0}, "k: Input should be greater"),
    ("/v1/next", {"texts": TEXTS, "k": 101}, "k: Input should be less"),
    ("/v1/next", {"texts": TEXTS, "k": 1.5}, "k: Input should be a valid integer"),
    ("/v1/next", {"texts": TEXTS, "k": 10**30}, "k: Input should be"),
    ("/v1/generate", {"texts": TEXTS, "steps": 51}, "steps: Input should be less"),
    ("/v1/generate", {"texts": TEXTS, "raw": "yes"}, "raw: Input should be a valid boolean"),
    ("/v1/score", {"texts": TEXTS[:1]}, "a score needs at least 2"),
]


def require_refusal(answer, status, message):
    """Check that an answer is one line of JSON with one of the expected statuses."""
    assert answer.status_code in ((status,) if isinstance(status, int) else status), answer.text[:300]
    assert answer.headers["content-type"] == "application/json"
    values = answer.json()
    assert values.keys() == {"error"} and message in values["error"], values
    assert values["error"].isprintable() and len(values["error"]) < 500 and "Traceback" not in values["error"]


def post(client, path, body, kind="application/json"):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(path, content=content, headers={"content-type": kind})


def test_bodies_that_cannot_be_used(client):
    for body, status, message in VECTOR_BODIES:
        require_refusal(post(client, "/v1/predict", body), status, message)
    for body, status, message in NPY_BODIES:
        require_refusal(post(client, "/v1/predict", body, "application/octet-stream"), status, message)
    for body, status, message in TEXT_BODIES:
        require_refusal(post(client, "/v1/next", body), status, message)
    for path, body, message in OPTION_BODIES:
        require_refusal(post(client, path, body), 422, message)


def test_requests_that_are_no_requests_of_this_service(client):
    require_refusal(client.get("/nope"), 404, "No such path. See /docs.")
    require_refusal(client.get("/assets/../conftest.py"), 404, "No such path")
    require_refusal(client.get("/assets/%2e%2e%2fapp.py"), 404, "No such path")
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = client.request(method, "/v1/predict")
        require_refusal(answer, 405, "is not a method of this path")
        assert answer.headers["allow"] == "POST"
    require_refusal(client.post("/v1/model"), 405, "POST: is not a method")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        require_refusal(post(client, "/v1/score", {"texts": TEXTS}, kind), 415, "send application/json")
    for host in ("evil.example", "127.0.0.1.evil.example", ""):
        require_refusal(client.get("/v1/model", headers={"host": host}), 421, "Unrecognized Host header")


def test_a_body_that_is_too_large(client):
    require_refusal(post(client, "/v1/predict", b" " * (MAX_BODY_BYTES + 1)), 413, "larger than 8 MB")

    def parts():
        yield from (b" " * 2**20 for _ in range(12))

    answer = client.post("/v1/predict", content=parts(), headers={"content-type": "application/json"})
    require_refusal(answer, 413, "larger than 8 MB")


def test_what_this_service_cannot_do(make_client, text_run, toy_store):
    loading = make_client(Service())
    for path in ("/readyz", "/v1/model"):
        require_refusal(loading.get(path), 503, "The service is loading.")
    answer = post(loading, "/v1/predict", {"vectors": [UNIT]})
    require_refusal(answer, 503, "The service is loading.")
    assert answer.headers["retry-after"] == "1" and loading.get("/healthz").status_code == 200

    service = Service()
    service.open(service.load(text_run, None, "cpu"))
    without_index = make_client(service)
    for path in ("/v1/next", "/v1/generate"):
        require_refusal(post(without_index, path, {"texts": TEXTS}), 409, "no index. Start it with --index STORE")
    assert post(without_index, "/v1/score", {"texts": TEXTS}).status_code == 200
    service.encoder_error = "the encoder of its vectors is unknown."
    require_refusal(post(without_index, "/v1/score", {"texts": TEXTS}), 409, "encoder of its vectors is unknown")
    service.stop_accepting()
    require_refusal(post(without_index, "/v1/predict", {"vectors": [UNIT]}), 503, "The service is stopping.")
    require_refusal(without_index.get("/readyz"), 503, "stopping")
    service.close()


def test_a_token_is_required(make_client, service):
    client = make_client(service, host="0.0.0.0", token="t0ken")
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "t0ken"},
        {"authorization": b"Bearer \xff"},
    ):
        answer = client.get("/v1/model", headers=headers)
        require_refusal(answer, 401, "Missing or wrong token")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/v1/model", headers={"authorization": "Bearer t0ken"}).status_code == 200
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    assert client.get("/metrics").status_code == client.get("/docs").status_code == 401


def test_a_fault_in_the_model_shows_no_traceback(client, service, monkeypatch, capsys):
    def fail(contexts):
        raise RuntimeError("secret\ndetail")

    object.__setattr__(service.runner.model, "predict", fail)
    try:
        answer = post(client, "/v1/predict", {"vectors": [UNIT]})
    finally:
        del service.runner.model.__dict__["predict"]
    require_refusal(answer, 500, "Internal error")
    assert "secret" not in answer.text and "RuntimeError: secret" in capsys.readouterr().err
