"""Encoders behind a server: protocol, order, faults, limits, and what must never leave the process."""

import dataclasses
import socket
import ssl
import threading
import time
from contextlib import closing
from typing import ClassVar

import numpy as np
import pytest

from nextvec.core import http_client
from nextvec.core.server_settings import TIMEOUT
from nextvec.data.encoders import full_name, open_encoder, reopen_encoder
from nextvec.data.encoders import remote as module
from nextvec.data.encoders.answer_log import AnswerLog
from nextvec.data.encoders.remote_names import embeddings_url, without_url
from nextvec.data.space import PROBE_TEXTS
from nextvec.errors import InputError, NextvecError, ServerError, SpaceError
from server_stub import KEY, MODEL, ServerStub, cut_off, drip, hang, hang_up, hashed_vectors, status, with_data

TEXTS = [f"The text with the number {n}." for n in range(200)]


@pytest.fixture(scope="module")
def server():
    with ServerStub() as stub:
        yield stub


@pytest.fixture
def stub(server, monkeypatch):
    """A fresh server, and waits of a hundredth."""
    server.reset()
    monkeypatch.setattr(http_client, "FIRST_WAIT_SECONDS", 0.005)
    monkeypatch.delenv("NEXTVEC_ENCODER", raising=False)
    monkeypatch.delenv(module.KEY, raising=False)
    return server


def unit(texts=TEXTS, dimensions=12, salt=""):
    vectors = hashed_vectors(list(texts), dimensions, salt)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def refused(stub, *faults, texts=TEXTS[:3]):
    """The message of an encoder that gets these answers."""
    encoder = open_encoder(stub.encoder)
    stub.faults = list(faults)
    with pytest.raises(ServerError) as caught:
        encoder.encode(texts)
    message = str(caught.value)
    assert message.startswith(f"encoder {stub.encoder}: ") and "\n" not in message and len(message) < 600
    return message


@pytest.mark.parametrize("kind", ["float", "base64"])
@pytest.mark.parametrize("order", ["in order", "shuffled", "without index"])
def test_every_documented_answer_gives_the_same_vectors(stub, kind, order):
    stub.format, stub.is_shuffled, stub.has_no_index = kind, order == "shuffled", order == "without index"
    encoder = open_encoder(stub.encoder)
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, unit(), atol=1e-6)
    assert encoder.encode([]).shape == (0, 12)
    assert all(request["model"] == MODEL for request in stub.requests)
    assert set(stub.paths) == {"/v1/embeddings"}


def test_a_space_has_the_model_as_its_name_whatever_the_url_is(stub):
    encoder = open_encoder(stub.encoder)
    assert str(encoder.space) == f"{MODEL} (12-D)" and "127.0.0.1" not in str(encoder.space.to_dict())
    assert encoder.settings == {"name": stub.encoder}
    np.testing.assert_array_equal(encoder.space.probes, unit(PROBE_TEXTS).astype(np.float16))


def test_urls_are_read_in_both_usual_ways():
    expected = {
        "http://host:8080": "http://host:8080/v1/embeddings",
        "http://host:8080/": "http://host:8080/v1/embeddings",
        "https://api.example.com/v1": "https://api.example.com/v1/embeddings",
        "https://api.example.com/v3/": "https://api.example.com/v3/embeddings",
        "http://[::1]:80/v1/embeddings": "http://[::1]:80/v1/embeddings",
    }
    assert {url: embeddings_url(url) for url in expected} == expected
    assert full_name("openai:http://host:1/#a/b") == "openai:http://host:1#a/b"
    assert without_url("openai:http://host:1#a/b") == "openai:#a/b" and without_url("minilm") == "minilm"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("openai:http://user:hidden@host#m", "user name or password"),
        ("openai:http://hidden@host#m", "user name or password"),
        ("openai:ftp://host#m", "not http://HOST:PORT"),
        ("openai:host:8080#m", "not http://HOST:PORT"),
        ("openai:http://host:99999999#m", "malformed"),
        ("openai:http://[::1#m", "malformed"),
        ("openai:http://ho st#m", "space"),
        ("openai:http://host/v1?key=hidden#m", "after '?'"),
        ("openai:http://host", "no model"),
        ("openai:http://host#", "no model"),
        ("openai:http://host#lsa", "another meaning"),
        ("openai:#m", "its server is not known"),
    ],
)
def test_names_that_cannot_be_used_are_refused_without_their_secrets(name, reason):
    with pytest.raises(InputError, match=reason.replace("?", r"\?")) as caught:
        open_encoder(name)
    assert "hidden" not in str(caught.value)


def test_requests_are_bounded_concurrent_and_in_order(stub, monkeypatch):
    encoder = open_encoder(stub.encoder)
    # The first requests answer last.
    stub.delay = lambda texts: 0.03 if TEXTS[0] in texts or TEXTS[40] in texts else 0.01
    np.testing.assert_allclose(encoder.encode(TEXTS), unit(), atol=1e-6)
    assert 2 <= stub.most_running <= module.CONCURRENCY
    assert max(len(request["input"]) for request in stub.requests) == module.MAX_TEXTS
    monkeypatch.setattr(module, "MAX_CHARS", 100)
    stub.requests.clear()
    long = [*TEXTS[:20], "x" * 500, *TEXTS[20:30]]
    np.testing.assert_allclose(encoder.encode(long), unit(long), atol=1e-6)
    sizes = [sum(map(len, request["input"])) for request in stub.requests if request["input"] != list(PROBE_TEXTS)]
    assert sorted(sizes)[-2] <= 100 and max(sizes) == 500


@pytest.mark.parametrize("fault", [status(429), status(500), status(503), status(408), hang_up, cut_off])
def test_faults_that_pass_are_repeated(stub, fault):
    encoder = open_encoder(stub.encoder)
    stub.faults = [fault, fault]
    np.testing.assert_allclose(encoder.encode(TEXTS[:3]), unit(TEXTS[:3]), atol=1e-6)
    assert len(stub.requests) == 1 + 3


def test_a_request_waits_as_long_as_the_server_asks(stub):
    encoder = open_encoder(stub.encoder)
    stub.faults = [status(429, Retry_After="0.3")]
    started = time.monotonic()
    encoder.encode(TEXTS[:2])
    assert 0.3 <= time.monotonic() - started < 2
    message = refused(stub, status(503, Retry_After="3600"))
    assert "1 attempt in 0 s; it asks to wait 3,600 s" in message
    assert "asks to wait" in refused(stub, status(503, Retry_After="Fri, 31 Dec 2199 23:59:59 GMT"))


def test_retries_are_bounded_and_wait_longer_each_time(stub, monkeypatch):
    encoder = open_encoder(stub.encoder)
    stub.fault = lambda number, texts: status(502)
    monkeypatch.setattr(http_client, "FIRST_WAIT_SECONDS", 0.5)

    class Stop(threading.Event):
        waits: ClassVar[list[float]] = []

        def wait(self, timeout=None):
            self.waits.append(timeout)
            return False

    with pytest.raises(ServerError, match=r"502 \(fault 502\) \(6 attempts in 0 s\)\. Check that the server runs"):
        encoder._client.post({}, 100, Stop())
    assert [0.5 <= wait / (0.5 * 2**n) <= 1 for n, wait in enumerate(Stop.waits)] == [True] * 5
    # Another request that fails ends the attempts of this one.
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(ServerError, match="another request failed"):
        encoder._client.post({}, 100, stopped)


def test_an_address_without_a_server_fails_soon(monkeypatch):
    monkeypatch.setattr(http_client, "FIRST_WAIT_SECONDS", 0.005)
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        url = f"openai:http://127.0.0.1:{free.getsockname()[1]}#m"
        with pytest.raises(ServerError, match=r"no connection \(.*refused.*\) \(3 attempts"):
            open_encoder(url)


@pytest.mark.parametrize("fault", [hang, drip])
def test_a_server_that_does_not_finish_an_answer_is_left_at_the_deadline(stub, fault, monkeypatch):
    monkeypatch.setenv(TIMEOUT, "0.2")
    monkeypatch.setattr(http_client, "MAX_ATTEMPTS", 2)
    started = time.monotonic()
    assert "no answer within 0.2 s (2 attempts" in refused(stub, fault, fault)
    assert time.monotonic() - started < 2


def test_ctrl_c_does_not_wait_for_answers(stub, monkeypatch):
    encoder = open_encoder(stub.encoder)
    encoder.encode(TEXTS)  # connections that are kept
    stub.fault = lambda number, texts: hang

    def interrupt(requests):
        while stub.running < module.CONCURRENCY - 2:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "as_completed", interrupt)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        encoder.encode(TEXTS)
    assert time.monotonic() - started < 2  # `hang` takes 3 s


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon"])
def test_a_timeout_must_be_a_number_of_seconds(stub, value, monkeypatch):
    monkeypatch.setenv(TIMEOUT, value)
    with pytest.raises(InputError, match=f"{TIMEOUT}: '{value}' is not a number"):
        open_encoder(stub.encoder)


def put(value):
    """Replace the embedding of the last text."""
    return with_data(lambda answer: answer["data"][-1].update(embedding=value))


WRONG_ANSWERS = {
    "has 2 vectors for 3 texts": with_data(lambda answer: answer["data"].pop() and None),
    "has 0 vectors for 3 texts": with_data(lambda answer: {"data": []}),
    "has no list 'data'": with_data(lambda answer: {"embeddings": []}),
    "no list 'data'. Check that": with_data(lambda answer: []),
    "entries without an embedding": with_data(lambda answer: {"data": [1, 2, 3]}),
    "indexes are not 0 … 2": with_data(lambda answer: answer["data"][0].update(index=1)),
    "indexes are not 0 … 2, one": with_data(lambda answer: answer["data"][1].pop("index") and None),
    "vector of 5 numbers instead of 12": put([1.0] * 5),
    "vector of 0 numbers instead of 12": put([]),
    "zero or not finite": put([float("nan")] * 12),
    "zero or not finite. Serve": put([0.0] * 12),
    "is zero or not": put([1e300] * 12),
    "neither a list of numbers": put(["1.0"] * 12),
    "neither a list of numbers nor": put(None),
    "neither a list of": put([[1.0]] * 12),
    "not base64": put("*" * 8),
    "not base64 of float32": put("AAA="),
    "with HTML, not JSON": status(200, b"<!DOCTYPE html><p>Sign in"),
    "redirects to https://elsewhere.example/v1. Name": status(308, Location="https://u:p@elsewhere.example/v1?key=x"),
    "404 (fault 404). Check the URL and the name of the model": status(404),
    "401 (fault 401). Set NEXTVEC_ENCODER_KEY to the server's key": status(401),
    "405 (no GET here)": status(405, {"detail": "no GET here"}),
    "424 (inference failed)": status(424, {"error": "inference failed", "error_type": "Backend"}),
    "424 (Failed Dependency)": status(424, b"\xff{"),
}


@pytest.mark.parametrize("reason", WRONG_ANSWERS)
def test_wrong_answers_are_one_clear_line_without_another_attempt(stub, reason):
    assert reason in refused(stub, WRONG_ANSWERS[reason])
    assert len(stub.requests) == 2


def test_an_answer_that_is_no_json_is_asked_for_again(stub):
    encoder = open_encoder(stub.encoder)
    stub.faults = [status(200, b'{"data": ['), status(200, b"[" * 100_000)]
    assert encoder.encode(TEXTS[:3]).shape == (3, 12)
    assert "the answer is not JSON" in refused(stub, *[status(200, b"oops")] * 6)


def test_huge_answers_are_not_read(stub, monkeypatch):
    monkeypatch.setattr(module, "BYTES_PER_TEXT", 2_000)
    claimed = refused(stub, status(200, b"{}", Content_Length=str(10**12)))
    assert claimed == refused(stub, status(200, b" " * 10_000))
    assert "more than 8,000 bytes" in claimed


def test_a_model_with_huge_vectors_is_refused(stub, monkeypatch):
    monkeypatch.setattr(module, "MAX_DIMENSIONS", 8)
    with pytest.raises(ServerError, match="vectors of 12 to 12 numbers"):
        open_encoder(stub.encoder)


def test_a_server_that_takes_fewer_texts_gets_fewer(stub):
    encoder = open_encoder(stub.encoder)
    stub.max_texts = 10
    np.testing.assert_allclose(encoder.encode(TEXTS), unit(), atol=1e-6)
    assert set(stub.sent.values()) <= {1, 2}  # the probe texts twice
    refusals = sum(len(request["input"]) > 10 for request in stub.requests)
    assert refusals <= 3 * module.CONCURRENCY


def test_a_text_that_the_server_refuses_is_named(stub):
    encoder = open_encoder(stub.encoder)
    stub.max_chars = 100
    with pytest.raises(
        ServerError, match=r"413 \(.*Given: 150\).*The refused text has 150 characters and begins with 'yy"
    ):
        encoder.encode([*TEXTS[:9], "y" * 150, *TEXTS[9:20]])


def test_a_server_without_base64_is_asked_for_numbers(stub):
    stub.format = "float"
    stub.fault = lambda number, texts: status(400) if stub.requests[-1]["encoding_format"] == "base64" else None
    encoder = open_encoder(stub.encoder)
    np.testing.assert_allclose(encoder.encode(TEXTS[:5]), unit(TEXTS[:5]), atol=1e-6)
    assert [request["encoding_format"] for request in stub.requests] == ["base64", "float", "float"]


def test_a_connection_that_the_server_closed_is_opened_again(stub):
    encoder = open_encoder(stub.encoder)

    def close_after(handler):
        handler.answer(handler.body["input"])
        handler.close_connection = True  # without telling the client

    stub.faults = [close_after]
    for _ in range(3):
        time.sleep(0.02)
        assert encoder.encode(TEXTS[:2]).shape == (2, 12)
    assert len(stub.requests) == 4


def test_a_server_that_changes_its_model_is_recognized(stub):
    encoder = open_encoder(stub.encoder)
    stub.noise = 0.02  # a cosine of about 0.9996
    encoder.encode(TEXTS)
    stub.noise, stub.salt = 0.0, "other"
    with pytest.raises(ServerError, match=r"the server.s model has changed .the same text gets different vectors"):
        encoder.encode(TEXTS)


def test_fingerprints_decide_which_server_may_replace_another(stub, monkeypatch):
    space = open_encoder(stub.encoder).space
    moved = "openai:http://127.0.0.1:1#" + MODEL
    options = {"fitted": None, "owner": "the model m"}
    opened = reopen_encoder(space, moved, **options, replacement=stub.encoder)
    assert opened.settings["name"] == stub.encoder
    monkeypatch.setenv("NEXTVEC_ENCODER", stub.encoder)
    assert reopen_encoder(space, moved, **options).encode(TEXTS[:2]).shape == (2, 12)
    stub.noise = 0.02
    reopen_encoder(space, moved, **options)
    stub.noise = 0.12  # a cosine of about 0.995: enough for a precision, not for a server
    with pytest.raises(SpaceError, match=r"the encoder stub/hashing .12-D. and the model m: have different"):
        reopen_encoder(space, moved, **options)
    lsa = dataclasses.replace(space, encoder="lsa")
    with pytest.raises(InputError, match="contains its encoder, lsa"):
        reopen_encoder(lsa, "lsa", **options, replacement=stub.encoder)


def test_the_key_reaches_the_server_and_nothing_else(stub, monkeypatch, capsys):
    stub.key = KEY
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-program")
    with pytest.raises(NextvecError, match=r"401 .*Set NEXTVEC_ENCODER_KEY to the server's key") as caught:
        open_encoder(stub.encoder)
    assert "authorization" not in stub.headers[-1] and "another-program" not in str(caught.value)
    monkeypatch.setenv(module.KEY, KEY)
    encoder = open_encoder(stub.encoder)
    assert stub.headers[-1]["authorization"] == f"Bearer {KEY}"
    assert KEY not in f"{encoder.settings} {encoder.space.to_dict()} {encoder!r} {encoder._client!r}"
    # A server that repeats the key, in an error and in a redirect
    stub.key = "another"
    for fault in (
        None,
        status(302, Location=f"http://127.0.0.1:{stub.server_port}/{KEY}"),
        status(500, {"error": KEY}),
    ):
        stub.faults = [fault] * 6
        with pytest.raises(ServerError) as caught:
            encoder.encode(TEXTS[:1])
        assert KEY not in str(caught.value) and "[key]" in str(caught.value)
    monkeypatch.setenv(module.KEY, "sk-with\na-line")
    with pytest.raises(InputError, match="NEXTVEC_ENCODER_KEY: contains") as caught:
        open_encoder(stub.encoder)
    assert "sk-with" not in str(caught.value) + "".join(capsys.readouterr())


def test_a_server_that_limits_the_rate_gets_time(stub):
    encoder = open_encoder(stub.encoder)
    stub.faults = [status(429, Retry_After="0")] * 10
    assert encoder.encode(TEXTS[:2]).shape == (2, 12)
    assert "(20 attempts in" in refused(stub, *[status(429, Retry_After="0")] * 20)


def test_a_proxy_of_the_environment_is_used_for_other_machines(stub, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://me:hidden@127.0.0.1:{stub.server_port}")
    monkeypatch.setenv("https_proxy", "127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert open_encoder("openai:http://server.invalid:9#m").encode(TEXTS[:2]).shape == (2, 12)
    assert stub.paths[-1] == "http://server.invalid:9/v1/embeddings"
    assert stub.headers[-1]["host"] == "server.invalid:9"
    assert stub.headers[-1]["proxy-authorization"] == "Basic bWU6aGlkZGVu"
    assert open_encoder(stub.encoder).encode(TEXTS[:2]).shape == (2, 12)  # this machine needs no proxy
    assert stub.paths[-1] == "/v1/embeddings" and "proxy-authorization" not in stub.headers[-1]
    with pytest.raises(ServerError, match="refused"):
        open_encoder("openai:https://server.invalid#m")
    monkeypatch.setenv("http_proxy", "socks5://hidden@host")
    with pytest.raises(InputError, match="HTTP_PROXY: is not a proxy that can be used") as caught:
        open_encoder("openai:http://server.invalid#m")
    assert "hidden" not in str(caught.value)


def test_tls_faults_are_explained(stub, monkeypatch):
    secure = f"openai:https://127.0.0.1:{stub.server_port}#m"
    with pytest.raises(ServerError, match=r"does not speak TLS. Write http://"):
        open_encoder(secure)

    def connect(self):
        raise ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed certificate")

    monkeypatch.setattr("http.client.HTTPSConnection.connect", connect)
    with pytest.raises(ServerError, match=r"certificate is not trusted .*SSL_CERT_FILE"):
        open_encoder(secure)


def test_the_answer_log_survives_a_cut_at_any_byte(tmp_path):
    file = tmp_path / "answers.log"
    log = AnswerLog(file, 12)
    log.add(TEXTS[:3], unit(TEXTS[:3]))
    log.close()
    content = file.read_bytes()
    size = len(content) // 3
    for length in range(0, len(content), 23):
        file.write_bytes(content[:length])
        log = AnswerLog(file, 12)
        kept = [log.get(text) is not None for text in TEXTS[:4]]
        assert kept == [length >= size, length >= 2 * size, False, False]
        log.add(TEXTS[2:3], unit(TEXTS[2:3]))
        log.close()
        log = AnswerLog(file, 12)
        np.testing.assert_array_equal(log.get(TEXTS[2]), unit(TEXTS[2:3])[0])
        log.close()
    file.write_bytes(content[:size] + bytes(size) + content[2 * size :])  # zeros of a power cut
    assert AnswerLog(file, 12).get(TEXTS[2]) is None
