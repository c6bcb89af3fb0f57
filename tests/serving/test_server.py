"""A real server: slow and vanished clients, draining, signals, the access log, and the command."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from tests.serving.http_client import ask

import nextvec
from nextvec import cli
from nextvec.errors import CheckpointError, MissingExtraError, OutputError, SpaceError
from nextvec.serving import protocol, run
from nextvec.serving.access_log import AccessLog
from nextvec.serving.app import make_app
from nextvec.serving.service import Service
from nextvec.web.listen import bind

UNIT = [1.0] + [0.0] * 11
BODY = json.dumps({"vectors": [UNIT]}).encode()
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def start(service, tmp_path):
    """Starts servers in threads: ``start()`` for the shared model; the server has `port`, `log`, `stop` and `load`."""
    started = []

    def start(load=lambda: service.runner):
        own = Service()
        opened, log = bind("127.0.0.1", 0), tmp_path / f"access-{len(started)}.jsonl"
        server = run.make_server(own, load, make_app(own, log=AccessLog(log)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
        thread.start()
        served = SimpleNamespace(port=opened.getsockname()[1], log=log, server=server, service=own, thread=thread)
        served.stop = lambda: server.handle_exit(signal.SIGTERM, None)
        started.append(served)
        return served

    yield start
    for served in started:
        served.stop()
    for served in started:
        served.thread.join(10)
        assert not served.thread.is_alive()


def wait_until(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def wait_until_ready(served):
    wait_until(lambda: ask(served, "GET", "/readyz")[0] == 200)


def send(served, content):
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=20)
    connection.sendall(content)
    return connection


def read_all(connection):
    answer = b""
    while part := connection.recv(2**16):
        answer += part
    return answer


def test_slow_clients_are_closed_and_others_are_served(start, monkeypatch):
    """Half requests, bodies that stop, a body that goes on after its refusal, and requests that are not HTTP."""
    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 0.4)
    monkeypatch.setattr(protocol, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr("nextvec.serving.limits.BODY_SECONDS", 0.4)
    served = start()
    wait_until_ready(served)
    half = [send(served, (HEAD % 10)[:length]) for length in range(0, 90, 3)]
    stopped = [send(served, HEAD % len(BODY) + BODY[:-1]) for _ in range(10)]
    broken = [send(served, content) for content in (b"\x00\xff\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"GET /\r\n\r\n")]
    assert ask(served, "POST", "/v1/predict", BODY)[0] == 200
    for connection in broken:
        answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 400 ") and json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    for connection in stopped:
        assert read_all(connection).startswith(b"HTTP/1.1 408 ")
    for connection in half:
        with pytest.raises(ConnectionResetError):
            assert not read_all(connection)
            raise ConnectionResetError  # a closed connection is as good
    assert ask(served, "POST", "/v1/predict", BODY)[0] == 200


def test_too_many_connections_are_refused(start, monkeypatch):
    served = start()
    wait_until_ready(served)
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 5)
    held = [send(served, b"GET") for _ in range(5)]
    with pytest.raises(OSError):
        ask(served, "GET", "/healthz")
    for connection in held:
        connection.close()
    wait_until_ready(served)


class SlowRunner:
    """Runs work as another runner does, when it is allowed to."""

    def __init__(self, runner):
        self.runner, self.started, self.release, self.ran = runner, threading.Event(), threading.Event(), 0
        self.model, self.index = runner.model, runner.index

    def run(self, works):
        self.started.set()
        assert self.release.wait(20)
        self.ran += len(works)
        return self.runner.run(works)


def test_a_client_that_has_gone_costs_no_work(start, service):
    slow = SlowRunner(service.runner)
    served = start(lambda: slow)
    wait_until_ready(served)
    first = send(served, HEAD % len(BODY) + BODY)
    assert slow.started.wait(20)
    gone = [send(served, HEAD % len(BODY) + BODY) for _ in range(5)]
    wait_until(lambda: len(served.service.batcher) == 5)
    for connection in gone:
        connection.close()
    wait_until(lambda: len(served.server.server_state.tasks) == 1)
    slow.release.set()
    assert first.recv(2**16).startswith(b"HTTP/1.1 200") and slow.ran == 1
    statuses = [json.loads(line)["status"] for line in served.log.read_text().splitlines()]
    assert statuses.count(499) == 5


def test_a_stopping_server_answers_what_it_has_accepted(start, service):
    slow = SlowRunner(service.runner)
    served = start(lambda: slow)
    wait_until_ready(served)
    accepted = [send(served, HEAD % len(BODY) + BODY) for _ in range(20)]
    half = send(served, HEAD % len(BODY) + BODY[:20])
    wait_until(lambda: len(served.server.server_state.tasks) == 21)
    begin = time.monotonic()
    served.stop()
    late = ask(served, "POST", "/v1/predict", BODY)
    assert late[0] == 503 and json.loads(late[1]) == {"error": "The service is stopping."}
    assert ask(served, "GET", "/readyz")[0] == 503
    half.sendall(BODY[20:])
    slow.release.set()
    for connection in (*accepted, half):
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")
    served.thread.join(5)
    assert not served.thread.is_alive() and time.monotonic() - begin < 5


def test_a_stopping_server_does_not_wait_for_a_model_that_hangs(start, service, monkeypatch):
    monkeypatch.setattr(run, "DRAIN_SECONDS", 0.3)
    monkeypatch.setattr(run, "LINGER_SECONDS", 0.1)
    slow = SlowRunner(service.runner)
    served = start(lambda: slow)
    wait_until_ready(served)
    running = send(served, HEAD % len(BODY) + BODY)
    assert slow.started.wait(20)
    waiting = send(served, HEAD % len(BODY) + BODY)
    wait_until(lambda: len(served.service.batcher))
    served.stop()
    assert read_all(waiting).startswith(b"HTTP/1.1 503 "), "it gets an answer"
    served.thread.join(5)
    assert not served.thread.is_alive()
    running.close()
    slow.release.set()


def test_many_clients_get_their_own_results(start, service, vectors):
    """Also with request ids and a batch size in the log, and in the metrics."""
    served = start()
    wait_until_ready(served)

    def predict(number):
        context_SD = vectors(1 + number % 4, seed=number)
        body = json.dumps({"vectors": context_SD.tolist()}).encode()
        status, text = ask(served, "POST", "/v1/predict", body, **{"X-Request-ID": f"id-{number}"})
        return status, json.loads(text)["prediction"][0], service.runner.model.predict(context_SD)[0]

    with ThreadPoolExecutor(16) as pool:
        for status, prediction, expected in pool.map(predict, range(64)):
            assert status == 200 and prediction == pytest.approx(expected, abs=1e-6)
    ask(served, "GET", "/" + "x" * 1000, **{"X-Request-ID": "bad id"})
    # A line is written after its answer, and those of requests at the same time may be in another order.
    wait_until(lambda: sum(served.log.read_text().count(f'"{path}') for path in ("/v1/predict", "/xxx")) == 65)
    lines = [json.loads(line) for line in served.log.read_text().splitlines()]
    predictions = [line for line in lines if line["path"] == "/v1/predict"]
    assert {line["request_id"] for line in predictions} == {f"id-{number}" for number in range(64)}
    assert all(line["batch_size"] >= 1 and line["status"] == 200 and line["ms"] > 0 for line in predictions)
    assert {tuple(line) for line in lines} == {
        ("time", "method", "path", "status", "ms", "batch_size", "client", "request_id")
    }
    odd = next(line for line in lines if line["path"].startswith("/xxx"))
    assert len(odd["path"]) == 200 and len(odd["request_id"]) == 16
    metrics = ask(served, "GET", "/metrics")[1].decode()
    assert 'nextvec_requests_total{method="POST",path="/v1/predict",status="200"} 64.0' in metrics
    assert 'path="other",status="404"} 1.0' in metrics and "nextvec_batch_items_sum 64.0" in metrics
    for part in ("nextvec_ready 1.0", "nextvec_queued_requests 0.0", "nextvec_model_info{"):
        assert part in metrics


@pytest.mark.parametrize("kind", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_signal_ends_the_process_and_loses_no_accepted_request(kind, text_run, text_store, tmp_path):
    command = [sys.executable, "-m", "nextvec", "serve", str(text_run), "--index", str(text_store.path), "--port", "0"]
    process = subprocess.Popen([*command, "--access-log", tmp_path / "log"], stderr=subprocess.PIPE, text=True)
    line = process.stderr.readline()
    assert line.startswith("serving "), line
    served = SimpleNamespace(port=int(line.rpartition("127.0.0.1:")[2].split("/")[0]))
    results, refused = [], []

    def client():
        try:
            while True:
                results.append(ask(served, "POST", "/v1/predict", BODY)[0])
        except OSError as error:
            refused.append(error)

    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(results) >= 50)
    begin = time.monotonic()
    process.send_signal(kind)
    # 5 seconds if the process gets a core for itself; tests share theirs.
    assert process.wait(20) == 0 and time.monotonic() - begin < 15
    for thread in threads:
        thread.join(10)
    assert set(results) <= {200, 503} and all(isinstance(error, ConnectionError) for error in refused)
    assert process.stderr.read() == ""
    process.stderr.close()


def in_thread(function, *arguments, **options):
    """Call a function where no event loop runs: the main thread may have one, which a browser of another test uses."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *arguments, **options).result()


def test_what_cannot_be_served_is_one_line(text_run, toy_store, tmp_path, capsys, monkeypatch):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        in_thread(nextvec.serve, "missing", port=0)
    with pytest.raises(SpaceError):
        in_thread(nextvec.serve, str(text_run), index=toy_store.path, port=0)
    with pytest.raises(OutputError, match=r"--access-log .*: cannot be written"):
        in_thread(nextvec.serve, text_run, port=0, access_log=tmp_path)
    with bind("127.0.0.1", 0) as taken, pytest.raises(OutputError, match=r"--port .*: not free on 127\.0\.0\.1"):
        in_thread(nextvec.serve, text_run, port=taken.getsockname()[1])
    monkeypatch.setattr("nextvec.commands.serve.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"needs the package fastapi: pip install .nextvec\[serve\]"):
        in_thread(nextvec.serve, text_run)
    assert in_thread(cli.main, ["serve", "missing"]) == 2 and capsys.readouterr().err.count("\n") == 1
