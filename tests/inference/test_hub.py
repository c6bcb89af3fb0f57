"""Push and load models with the real client of the hub, against a local stub of the hub's HTTP API."""

import copy
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nextvec
from hub_stub import TOKEN, HubStub
from nextvec.inference import load
from nextvec.inference.model_folder import write_model_folder

pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
CLIENT = Path(__file__).with_name("hub_client.py")
NAME = "ada/texts"
PREDICT = """
import json, sys, nextvec, numpy as np
model = nextvec.load_model({source!r})
context = np.eye(model.dimensions, dtype=np.float32)[:model.context_length]
first, second = model.predict(context), model.predict(context)
modules = [module for network in (model.network, *model.baselines.values()) for module in network.modules()]
print(json.dumps({{
    "prediction": first.tolist(),
    "query": model.query(context).tolist(),
    "is_repeatable": bool((first == second).all()),
    "is_training": any(module.training for module in modules),
    "needs_gradients": any(parameter.requires_grad for module in modules for parameter in module.parameters()),
    "source": model.source,
}}))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[HubStub]:
    with HubStub() as stub:
        yield stub


@pytest.fixture(scope="module")
def process() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, str(CLIENT)], stdin=-1, stdout=-1, text=True) as started:
        yield started
        started.stdin.close()


@pytest.fixture
def hub(server: HubStub) -> HubStub:
    """The stub, empty."""
    server.reset()
    return server


@pytest.fixture(scope="module")
def pushed_repositories(server, process, text_run, tmp_path_factory) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What the hub stores after a push."""
    server.reset()
    folder = tmp_path_factory.mktemp("push")
    env = {"HF_ENDPOINT": server.url, "HF_HOME": str(folder), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    code, _, err = run_job(process, {"env": env, "folder": str(folder), "argv": ["push", str(text_run), NAME]})
    assert code == 0 and not err, err
    return copy.deepcopy(server.repositories), dict(server.blobs)


@pytest.fixture
def pushed(hub, pushed_repositories) -> HubStub:
    """The stub with the model in the repository NAME."""
    hub.reset()
    hub.repositories, hub.blobs = copy.deepcopy(pushed_repositories)
    return hub


def run_job(process: subprocess.Popen[str], job: dict[str, Any]) -> tuple[int, str, str]:
    """Run a job of hub_client.py; returns exit status, output and errors."""
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    code, out, err = json.loads(process.stdout.readline())
    return code, out, err


@pytest.fixture
def client(hub, process, tmp_path) -> Callable[..., tuple[int, str, str]]:
    """Runs a command or code in a process with its own cache: ``client("push", run, NAME)``, ``client(code=…)``."""

    def call(*argv: object, code: str = "", **env: str) -> tuple[int, str, str]:
        variables = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_TOKEN": TOKEN,
            # xet uploads in a binary protocol of its own to a second server; Git LFS is plain HTTP.
            "HF_HUB_DISABLE_XET": "1",
            **env,
        }
        job: dict[str, Any] = {"env": variables, "folder": str(tmp_path)}
        job |= {"code": code} if code else {"argv": [str(word) for word in argv]}
        return run_job(process, job)

    return call


@pytest.fixture
def predict(client) -> Callable[..., dict[str, Any]]:
    """Loads a model in a new process and predicts twice."""

    def call(source: object, **env: str) -> dict[str, Any]:
        code, out, err = client(code=PREDICT.format(source=str(source)), **env)
        assert code == 0, err
        return json.loads(out)

    return call


def push(client, run: Path, *options: str) -> None:
    code, _, err = client("push", run, NAME, *options)
    assert code == 0 and not err, err


def test_a_pushed_model_predicts_the_same(client, predict, hub, text_run):
    code, out, err = client("push", text_run, NAME, "--message", "First weights")
    commit = hub.repositories[NAME].commits[-1]
    assert code == 0 and not err, err
    assert "".join(out.split()) == f'pushed:{hub.url}/{NAME}/commit/{commit.sha}loadit:nextvec.load_model("{NAME}")'
    assert commit.message == "First weights" and len(hub.repositories[NAME].commits) == 2, "one commit"
    assert {"README.md", "example.py", "config.json", "encoder/terms.json"} <= set(commit.files)
    assert not hub.repositories[NAME].is_private
    assert any(request.startswith("PUT /lfs/") for request in hub.requests), "weights are large files"
    loaded, original = predict(NAME), predict(text_run)
    assert loaded["prediction"] == original["prediction"] and loaded["query"] == original["query"]
    assert loaded["is_repeatable"] and loaded["source"] == NAME
    assert not loaded["is_training"] and not loaded["needs_gradients"]


def test_revisions_are_branches_tags_and_commits(client, predict, pushed, text_run):
    repository = pushed.repositories[NAME]
    repository.tags["v1"] = repository.commits[-1].sha
    expected = predict(text_run)["prediction"]
    repository.add("empty", {})
    for revision in ("v1", repository.tags["v1"]):
        assert predict(f"{NAME}@{revision}")["prediction"] == expected
    code, out, err = client("predict", "x.npy", "--model", NAME)
    assert code == 2 and not out and len(err.splitlines()) == 1 and "config.json can't be read (no such file)" in err


def test_a_private_repository_needs_the_token(client, predict, hub, text_run, tmp_path):
    push(client, text_run, "--private", "--dtype", "float16")
    assert hub.repositories[NAME].is_private
    assert predict(NAME)["source"] == NAME
    code, _, err = client("export", NAME, tmp_path / "m", HF_TOKEN="", HF_HOME=str(tmp_path / "other"))
    assert code == 2 and len(err.splitlines()) == 1 and "for a private model, run 'hf auth login'" in err


def test_private_is_never_pushed_to_a_public_repository(client, pushed, text_run):
    count = len(pushed.repositories[NAME].commits)
    code, _, err = client("push", text_run, NAME, "--private")
    assert code == 2 and "exists and is public" in err and len(err.splitlines()) == 1
    assert len(pushed.repositories[NAME].commits) == count


def test_a_second_push_leaves_other_files_and_removes_a_stale_graph(client, pushed, text_run):
    repository = pushed.repositories[NAME]
    repository.add("by hand", repository.commits[-1].files | {"notes.md": b"mine", "model.onnx": b"of older weights"})
    push(client, text_run)
    files = repository.commits[-1].files
    assert files["notes.md"] == b"mine" and "model.onnx" not in files and "model.safetensors" in files


def test_a_cached_model_loads_while_the_hub_is_down(client, predict, pushed, text_run):
    expected = predict(NAME)
    assert predict(NAME, HF_ENDPOINT="http://127.0.0.1:9") == expected, "connection refused"
    assert predict(NAME, HF_HUB_OFFLINE="1") == expected
    pushed.fail["GET /api/models"] = 500
    assert predict(NAME) == expected


ADDRESS = "http://127.0.0.1:9"
"""A port at which nothing listens."""
LOAD_ERRORS: dict[str, tuple[str, dict[str, int], dict[str, str], str]] = {
    "no repository": ("ada/missing", {}, {}, r"the hub has no such public model"),
    "no revision": (f"{NAME}@v9", {}, {}, r"the hub has no such revision\. Check the part after @"),
    "bad token": (NAME, {}, {"HF_TOKEN": "hf_wrong"}, r"the hub refuses the token"),
    "server error": (NAME, {"GET /api": 500}, {}, r"the hub can't be reached \(.*500"),
    "no connection": (NAME, {}, {"HF_ENDPOINT": ADDRESS}, r"the hub can't be reached"),
    "offline": (NAME, {}, {"HF_HUB_OFFLINE": "1"}, r"not in the cache"),
    "no file": (NAME, {"HEAD /ada/texts/resolve": 404}, {}, r"the hub can't be reached"),
    "bad name": ("ada/te--xts", {}, {}, r"neither a path nor a name that the hub allows"),
}


@pytest.mark.parametrize("case", LOAD_ERRORS)
def test_a_model_that_cannot_be_downloaded_is_one_line(case, client, pushed, text_run, tmp_path):
    source, fail, env, message = LOAD_ERRORS[case]
    pushed.fail |= fail
    code, out, err = client("export", source, tmp_path / "m", **env)
    assert code == 2 and not out and len(err.splitlines()) == 1, err
    assert re.search(message, err), err
    assert not (tmp_path / "m").exists()


PUSH_ERRORS: dict[str, tuple[list[str], dict[str, int], dict[str, str], str]] = {
    "no token": ([], {}, {"HF_TOKEN": ""}, r"the hub needs a token\. Run 'hf auth login'"),
    "bad token": ([], {}, {"HF_TOKEN": "hf_wrong"}, r"the hub refuses the token"),
    "no permission": ([], {"POST /api/repos/create": 403}, {}, r"the token may not write there"),
    "server error": ([], {"POST /api/repos/create": 500}, {}, r"cannot push to ada/texts: .*500"),
    "commit refused": ([], {"/commit/main": 413}, {}, r"cannot push to ada/texts: .*413"),
    "no connection": ([], {}, {"HF_ENDPOINT": ADDRESS}, r"no connection"),
    "empty message": (["--message", ""], {}, {}, r"--message is empty"),
}


@pytest.mark.parametrize("case", PUSH_ERRORS)
def test_a_push_that_fails_is_one_line_and_leaves_nothing(case, client, hub, text_run):
    options, fail, env, message = PUSH_ERRORS[case]
    hub.fail |= fail
    code, out, err = client("push", text_run, NAME, *options, **env)
    assert code == 2 and not out and len(err.splitlines()) == 1, err
    assert re.search(message, err), err
    assert all("config.json" not in item.files for repo in hub.repositories.values() for item in repo.commits)


def test_a_kill_during_an_upload_leaves_nothing_that_loads(client, hub, text_run, tmp_path):
    for point in ("POST /api/repos/create", "/preupload/", "PUT /lfs/", "POST /lfs/", "/commit/main"):

        def kill(request: str, point: str = point) -> None:
            if point in request:
                hub.before = lambda request: None
                os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

        hub.before = kill
        hub.fail = {point: 503}  # the client dies before its request has an effect
        assert client("push", text_run, NAME)[0] == -signal.SIGKILL, point
        hub.fail = {}
        assert all("config.json" not in item.files for repo in hub.repositories.values() for item in repo.commits)
    code, _, err = client("export", NAME, tmp_path / "m")
    assert code == 2 and len(err.splitlines()) == 1 and not (tmp_path / "m").exists(), err
    push(client, text_run)
    assert "config.json" in hub.repositories[NAME].commits[-1].files, "the next push completes"


def test_a_kill_during_a_download_leaves_nothing_that_loads(client, predict, pushed, text_run, tmp_path):

    def kill(request: str) -> None:
        if "model.safetensors" in request:
            pushed.before = lambda request: None
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    pushed.before = kill
    assert client(code=PREDICT.format(source=NAME))[0] == -signal.SIGKILL
    code, _, err = client("export", NAME, tmp_path / "m", HF_ENDPOINT=ADDRESS)
    assert code == 2 and len(err.splitlines()) == 1, err
    assert predict(NAME)["source"] == NAME, "the next download completes"


def test_files_from_the_hub_are_checked(client, pushed, text_run, tmp_path):
    repository = pushed.repositories[NAME]
    files = repository.commits[-1].files
    content = bytearray(files["model.safetensors"])
    content[-1] ^= 1
    commit = repository.add("damaged", files | {"model.safetensors": bytes(content)})
    pushed.blobs[hashlib.sha256(content).hexdigest()] = bytes(content)
    code, _, err = client("export", NAME, tmp_path / "m")
    assert code == 2 and "model.safetensors is damaged" in err and len(err.splitlines()) == 1, (commit, err)


def test_an_existing_path_wins_over_the_hub(make_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone").mkdir()
    write_model_folder(make_model(), tmp_path / "someone" / "a-model")
    monkeypatch.setattr(load, "download_model", lambda *_: pytest.fail("the hub was asked"))
    assert nextvec.load_model("someone/a-model").dimensions == 16


def test_the_python_function_pushes_too(hub, client, text_run):
    code, out, err = client(code=f"import nextvec; print(nextvec.push({str(text_run)!r}, {NAME!r}).to_dict())")
    assert code == 0 and "'repository': 'ada/texts'" in out, err
    assert callable(nextvec.push)
