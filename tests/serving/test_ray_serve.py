"""Replicas on a real Ray cluster: their answers, a replica that is killed under load, and the end by a signal."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.serving.http_client import ask

pytestmark = pytest.mark.long

START_SECONDS, REPLACE_SECONDS, STOP_SECONDS = 180, 90, 30
"""Generous: Ray starts six processes, and tests share their cores."""


@pytest.fixture(scope="module")
def ray_service(text_run, text_store, tmp_path_factory):
    """`nextvec serve --engine ray` with two replicas: its process and its port."""
    pytest.importorskip("ray.serve", reason="needs the extra 'ray'")
    log = tmp_path_factory.mktemp("ray-serve") / "access.jsonl"
    command = [sys.executable, "-m", "nextvec", "serve", str(text_run), "--index", str(text_store.path)]
    options = ["--engine", "ray", "--replicas", "2", "--port", "0", "--access-log", str(log)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    lines = []
    while not (lines and lines[-1].startswith("serving ")):
        lines.append(process.stderr.readline())
        assert lines[-1], lines
    watchdog.cancel()
    match = re.search(r"with 2 replicas at http://127\.0\.0\.1:(\d+)/ ", lines[-1])
    assert match, lines
    process.port, process.log = int(match[1]), log
    yield process
    process.kill()
    process.wait()


def replica_processes(root):
    """The replicas among the descendants of a process: process id → parent."""
    parents, replicas = {}, []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if b"ServeReplica:nextvec" in (entry / "cmdline").read_bytes():
                replicas.append(int(entry.name))
        except OSError:
            continue

    def descends(process):
        while process in parents and process != root:
            process = parents[process]
        return process == root

    return [process for process in replicas if descends(process)]


def names_of_replicas(service, tries=60):
    texts = {ask(service, "GET", "/metrics")[1].decode() for _ in range(tries)}
    return {re.search(r'replica="(\w+)"', text)[1] for text in texts}


def test_replicas_answer_like_the_server(ray_service, client, vectors, paragraphs):
    """Each kind of request once; the ids of requests are those of the clients."""
    texts = {"texts": paragraphs[:3]}
    bodies = {"/v1/predict": {"vectors": vectors(4).tolist()}, "/v1/next": texts | {"k": 2},
              "/v1/generate": texts | {"steps": 2}, "/v1/score": texts}  # fmt: skip
    for path, body in bodies.items():
        content = json.dumps(body).encode()
        status, answer = ask(ray_service, "POST", path, content, **{"X-Request-ID": "mine"})
        expected = client.post(path, content=content, headers={"content-type": "application/json"})
        assert (status, answer) == (expected.status_code, expected.content)
    for path in ("/v1/model", "/docs", "/openapi.json", "/", "/readyz", "/missing"):
        expected = client.get(path)
        assert ask(ray_service, "GET", path) == (expected.status_code, expected.content)
    assert ask(ray_service, "GET", "/v1/model", Host="other.example")[0] == 421
    assert ask(ray_service, "POST", "/v1/predict", b"x" * (9 * 2**20))[0] == 413
    lines = [json.loads(line) for line in ray_service.log.read_text().splitlines()]
    assert sum(line["request_id"] == "mine" and line["client"] == "127.0.0.1" for line in lines) == 4
    assert len(names_of_replicas(ray_service)) == 2, "both answer"


@pytest.fixture
def load(ray_service, vectors):
    """Eight clients that send requests until they are stopped; `load` has what they got: (seconds, status)."""
    body, results, stop = json.dumps({"vectors": vectors(4).tolist()}).encode(), [], threading.Event()

    def send():
        while not stop.is_set():
            try:
                results.append((time.monotonic(), ask(ray_service, "POST", "/v1/predict", body)[0]))
            except (OSError, http.client.HTTPException):
                results.append((time.monotonic(), 0))
                time.sleep(0.1)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    yield results
    stop.set()
    for thread in threads:
        thread.join(60)


def wait_until(condition, seconds):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_replica_that_is_killed_is_replaced_while_the_other_answers(ray_service, load):
    before = replica_processes(ray_service.pid)
    assert len(before) == 2
    wait_until(lambda: len(load) >= 100, 60)
    killed = time.monotonic()
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: sum(moment > killed and status == 200 for moment, status in load) >= 100, 60)
    wait_until(lambda: len(set(replica_processes(ray_service.pid)) - set(before)) == 1, REPLACE_SECONDS)
    wait_until(lambda: len(names_of_replicas(ray_service, 20)) == 2, REPLACE_SECONDS)
    failed = [(round(moment - killed, 1), status) for moment, status in load if status != 200]
    # Only what the replica was working on is lost: at most one request of each client.
    print(f"killed: {len(failed)} of {len(load)} requests failed: {failed}")
    assert len(failed) <= 8 and {status for _, status in failed} <= {500, 503}, failed


def test_a_signal_ends_the_service_and_loses_no_accepted_request(ray_service, load):
    wait_until(lambda: len(load) >= 100, 60)
    begin = time.monotonic()
    ray_service.send_signal(signal.SIGTERM)
    assert ray_service.wait(STOP_SECONDS) == 0
    seconds = time.monotonic() - begin
    print(f"stopped in {seconds:.1f} s: {Counter(status for _, status in load)}")
    statuses = {status for _, status in load}
    assert seconds < STOP_SECONDS and 200 in statuses and statuses <= {200, 503, 404, 0}, statuses
    assert ray_service.stderr.read() == "" and "ServeController" not in ray_service.stdout.read()
