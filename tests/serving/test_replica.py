"""The application of a replica: the answers of `nextvec serve`, whatever starts it, and what is refused before that."""

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

import nextvec
from nextvec import cli
from nextvec.errors import CheckpointError, InputError, MissingExtraError, OutputError, SpaceError
from nextvec.serving import ray_run
from nextvec.serving.replica import ReplicaApp, read_arguments
from nextvec.serving.run import TOKEN_VARIABLE
from nextvec.web.listen import bind

BASE = "http://127.0.0.1"
HERE, ELSEWHERE = ("127.0.0.1", 50000), ("192.0.2.7", 50000)


@pytest.fixture(scope="module")
def replica(text_run, text_store, tmp_path_factory):
    """The application of a replica, with the model and the index of `service`."""
    log = tmp_path_factory.mktemp("replica") / "log"
    values = {"model": str(text_run), "index": str(text_store.path), "access_log": str(log), "replicas": "2"}
    return ReplicaApp(read_arguments(values), "a1b2")


@pytest.fixture(scope="module")
def replica_client(replica):
    with TestClient(replica, BASE, raise_server_exceptions=False, client=HERE) as client:
        yield client


def requests_of_each_kind(vectors, paragraphs):
    """(method, path, options) of requests that are answered, and of those that are refused."""
    predict = {"vectors": vectors(4).tolist()}
    texts = {"texts": paragraphs[:3]}
    yield "POST", "/v1/predict", {"json": predict}
    for path, options in {"/v1/next": {"k": 2}, "/v1/generate": {"steps": 2}, "/v1/score": {}}.items():
        yield "POST", path, {"json": texts | options}
    for path in ("/v1/model", "/healthz", "/readyz", "/docs", "/openapi.json", "/", "/missing", "/v1/predict"):
        yield "GET", path, {}
    yield "POST", "/v1/score", {"json": {"text": "one chunk"}}
    yield "POST", "/v1/predict", {"content": b"{", "headers": {"content-type": "application/json"}}
    yield "POST", "/v1/predict", {"content": b"x", "headers": {"content-type": "text/plain"}}
    yield "POST", "/v1/predict", {"content": b"x" * (9 * 2**20), "headers": {"content-type": "application/json"}}
    yield "GET", "/v1/model", {"headers": {"host": "other.example"}}


def test_a_replica_answers_like_the_server(client, replica_client, vectors, paragraphs):
    statuses = set()
    for method, path, options in requests_of_each_kind(vectors, paragraphs):
        expected = client.request(method, path, **options)
        answer = replica_client.request(method, path, **options)
        statuses.add(answer.status_code)
        assert (answer.status_code, answer.content) == (expected.status_code, expected.content), path
        assert expected.headers.pop("x-request-id") and "x-request-id" not in answer.headers, "Ray Serve adds it"
        assert answer.headers == expected.headers
    assert statuses == {200, 400, 404, 405, 413, 415, 421, 422}


def test_the_metrics_name_their_replica(replica_client):
    samples = [line for line in replica_client.get("/metrics").text.splitlines() if not line.startswith("#")]
    assert len(samples) > 20 and all(re.search(r'[{,]replica="a1b2"[,}]', line) for line in samples)


def test_requests_of_a_replica_run_in_batches(replica, vectors, monkeypatch):
    """Work that arrives while a batch runs is the next batch."""
    bodies = [json.dumps({"vectors": vectors(3, seed=number).tolist()}).encode() for number in range(12)]

    async def post(body):
        sent = []
        scope = {
            "type": "http", "method": "POST", "path": "/v1/predict", "raw_path": b"/v1/predict", "query_string": b"",
            "scheme": "http", "root_path": "", "http_version": "1.1", "client": HERE, "server": ("127.0.0.1", 80),
            "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        }  # fmt: skip

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        await replica(scope, receive, send)
        return sent[0]["status"], scope["nextvec"].batch_size

    async def post_all():
        return await asyncio.gather(*map(post, bodies))

    # A thread of its own: the browser of other tests keeps an event loop in this one.
    with ThreadPoolExecutor(1) as thread:
        answers = thread.submit(asyncio.run, post_all()).result()
    assert {status for status, _ in answers} == {200} and max(size for _, size in answers) > 1


def test_without_a_token_other_machines_are_refused(replica):
    with TestClient(replica, BASE, client=ELSEWHERE) as client:
        answer = client.get("/v1/model")  # its Host header is that of this machine
    assert answer.status_code == 403 and TOKEN_VARIABLE in answer.json()["error"]


def test_a_replica_with_a_token_answers_other_machines(text_run):
    values = {"model": str(text_run), "host": "service.example", "token": "t0ken"}
    app = ReplicaApp(read_arguments(values), "a1b2")
    with TestClient(app, "http://service.example:8000", client=ELSEWHERE) as client:
        assert client.get("/v1/model").status_code == 401
        assert client.get("/v1/model", headers={"authorization": "Bearer t0ken"}).status_code == 200
        assert client.get("/readyz").status_code == 200
        app.stop_accepting()
        assert client.get("/readyz").status_code == 503
        answer = client.post("/v1/predict", json={}, headers={"authorization": "Bearer t0ken"})
        assert answer.status_code == 503 and answer.json() == {"error": "The service is stopping."}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "argument 'model': Field required"),
        ({"model": ""}, "argument 'model'"),
        ({"model": "m", "replica": 2}, "argument 'replica': is unknown. Did you mean 'replicas'?"),
        ({"model": "m", "replicas": "0"}, "argument 'replicas': Input should be greater than or equal to 1"),
        ({"model": "m", "replicas": "two"}, "argument 'replicas'"),
        ({"model": "m", "gpus": -1}, "argument 'gpus'"),
        ({"model": "m", "host": "service.example"}, f"host 'service.example': needs a token. Set {TOKEN_VARIABLE}"),
        ({"model": "m", "device": "cuda:1"}, "device 'cuda:1': names a GPU, but Ray chooses it"),
    ],
)
def test_bad_arguments_are_one_line(values, message, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(InputError, match=re.escape(message)):
        read_arguments(values)


def test_the_token_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    arguments = read_arguments({"model": "m", "host": "service.example"})
    assert arguments.token == "secret" and "secret" not in repr(arguments)


@pytest.fixture
def no_cluster(monkeypatch):
    """Fails a test that would start Ray."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_run, "ray_cluster", lambda *args: pytest.fail("Ray was started"))


def test_what_cannot_be_served_is_said_before_ray_starts(no_cluster, text_run, toy_store, capsys, monkeypatch):
    for error, message, options in (
        (CheckpointError, "no such file or folder", {"model": "missing"}),
        (SpaceError, "dimension", {"index": toy_store.path}),
        (InputError, "--replicas 0: no process would answer. Pass at least 1", {"replicas": 0}),
        (InputError, "device 'cuda:1': names a GPU", {"device": "cuda:1"}),
        (InputError, "index: is an object, but replicas open it by its name", {"index": object()}),
        (
            InputError,
            "--replicas 2: needs a Ray cluster. Pass --engine ray as well",
            {"replicas": 2, "engine": "local"},
        ),
        (InputError, "--address auto: needs a Ray cluster", {"address": "auto", "engine": "local"}),
        (InputError, "engine 'rya' is unknown. Did you mean 'ray'?", {"engine": "rya"}),
    ):
        with pytest.raises(error, match=re.escape(message)):
            nextvec.serve(**({"model": text_run, "port": 0, "engine": "ray"} | options))
    with bind("127.0.0.1", 0) as taken, pytest.raises(OutputError, match=r"--port .*: not free on 127\.0\.0\.1"):
        nextvec.serve(text_run, port=taken.getsockname()[1], engine="ray")
    assert cli.main(["serve", "missing", "--engine", "ray"]) == 2 and capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr("nextvec.commands.serve.find_spec", lambda name: None if name == "ray" else object())
    with pytest.raises(MissingExtraError, match=r"needs the package ray: pip install .nextvec\[ray\]"):
        nextvec.serve(text_run, engine="ray")


def test_each_replica_gets_a_share_of_the_gpus(capsys):
    def share(gpus, device, replicas):
        return ray_run._gpu_share(SimpleNamespace(cluster_resources=lambda: {"CPU": 8.0} | gpus), device, replicas)

    assert share({"GPU": 4.0}, "cuda", 2) == share({"GPU": 2.0}, "auto", 2) == 1
    assert share({"GPU": 2.0}, "cuda", 3) == share({"GPU": 1.0}, "cuda", 2) == 0.5
    assert share({"GPU": 2.0}, "cpu", 3) == share({}, "auto", 3) == 0 and not capsys.readouterr().err
    assert share({}, "cuda", 3) == 0 and "not available in the Ray cluster; using cpu" in capsys.readouterr().err


def test_an_application_is_built_from_the_arguments_of_a_config(text_run, toy_store):
    pytest.importorskip("ray.serve", reason="needs the extra 'ray'")
    from nextvec.serving import ray_app

    deployment = ray_app.build({"model": str(text_run), "replicas": "3", "gpus": "0.5"})._bound_deployment
    assert deployment.name == "nextvec" and deployment.num_replicas == 3
    assert deployment.ray_actor_options == {"num_cpus": 1, "num_gpus": 0.5}
    with pytest.raises(SpaceError):
        ray_app.build({"model": str(text_run), "index": str(toy_store.path)})


TRACEBACK = """Failed to update the deployments ['nextvec'].
The deployment failed to start 1 times in a row. Error:
  File "work.py", line 1, in load
nextvec.errors.CheckpointError: model /runs/a: no such file or folder. Name a run.

During handling of the above exception, another exception occurred:
RuntimeError: model /runs/b: is damaged.
"""


def test_the_reason_of_a_failed_replica_is_one_line():
    assert ray_run._reason([TRACEBACK]) == "model /runs/b: is damaged"
    assert ray_run._reason([TRACEBACK.partition("\n\n")[0], ""]) == "model /runs/a: no such file or folder. Name a run"
    assert ray_run._reason(["The controller has died.\nAll is lost."]) == "All is lost"
