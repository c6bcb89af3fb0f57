"""Stores whose encoder is behind a server: the same bytes after any interruption, and no text encoded twice."""

import json
import threading

import numpy as np
import pytest

import nextvec
from nextvec.cli import main
from nextvec.core import http_client
from nextvec.data.encoders import remote, store_encoder
from nextvec.data.store import open_store, tables, unfinished_folder
from nextvec.data.store.build import build_store
from nextvec.data.store.build_config import BuildConfig
from nextvec.errors import ServerError, StoreError
from server_stub import KEY, MODEL, ServerStub, status


@pytest.fixture(scope="module")
def server():
    with ServerStub() as stub:
        yield stub


@pytest.fixture
def stub(server, monkeypatch):
    """A fresh server; blocks of 64 rows, and at most two requests at once."""
    server.reset()
    monkeypatch.setattr(http_client, "FIRST_WAIT_SECONDS", 0.005)
    monkeypatch.setattr(tables, "BLOCK_ROWS", 64)
    monkeypatch.setattr(remote, "CONCURRENCY", 2)
    monkeypatch.setattr(remote, "MAX_TEXTS", 16)
    for name in (remote.KEY, "NEXTVEC_ENCODER"):
        monkeypatch.delenv(name, raising=False)
    return server


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """40 documents of 5 paragraphs, all different: 200 rows."""
    file = tmp_path_factory.mktemp("remote") / "texts.jsonl"
    rows = [
        {"id": f"d{n}", "paragraphs": [f"Paragraph {k} of the document {n}, which no other has." for k in range(5)]}
        for n in range(40)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def build(source, out, stub, **options):
    return build_store(BuildConfig((source,), encoder=stub.encoder, **options), out, quiet=True)


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def texts_answered_twice(stub):
    return [text for text, count in stub.sent.items() if count > 1 and text not in remote.PROBE_TEXTS]


@pytest.fixture
def expected(stub, source, tmp_path):
    """The files of an uninterrupted build."""
    files = contents(build(source, tmp_path / "expected", stub).path)
    assert len(stub.sent) == 200 + len(remote.PROBE_TEXTS) and not texts_answered_twice(stub)
    stub.requests.clear()
    stub.sent.clear()
    return files


def test_a_store_remembers_the_model_and_where_it_was(stub, source, tmp_path, monkeypatch):
    store = build(source, tmp_path / "store", stub)
    assert store.space.encoder == MODEL and store.space.revision == ""
    assert store.encoder_name == stub.encoder and store.is_encoded
    assert str(stub.server_port) not in json.dumps(store.manifest["space"])
    encoded = store_encoder(store).encode(store.texts(range(3)))
    np.testing.assert_allclose(encoded, store.vectors[:3].astype(np.float32), atol=1e-3)
    monkeypatch.setenv("NEXTVEC_ENCODER", "openai:http://127.0.0.1:1#m")
    assert nextvec.data_check(store.path, encoder=stub.encoder, quiet=True).findings


@pytest.mark.parametrize("fails_at", [2, 3, 6, 9, 14])
def test_a_failed_build_continues_and_encodes_nothing_twice(stub, source, tmp_path, expected, fails_at):
    out = tmp_path / "expected"  # the same name, so that every byte can be compared
    out.rename(tmp_path / "first")
    # From one request on, the server refuses; requests that are under way are answered.
    stub.fault = lambda number, texts: status(403) if number >= fails_at else None
    with pytest.raises(ServerError, match=r"403 \(fault 403\).* To continue the build, run the same command again\.$"):
        build(source, out, stub)
    assert unfinished_folder(out).is_dir() and not out.exists()
    stub.fault = lambda number, texts: None
    assert contents(build(source, out, stub).path) == expected
    assert not texts_answered_twice(stub) and not unfinished_folder(out).exists()


def test_a_killed_build_continues_after_its_last_answer(stub, source, tmp_path, expected, monkeypatch):
    out = tmp_path / "expected"
    out.rename(tmp_path / "first")

    class Killed(BaseException):
        pass

    def kill(self, texts, vectors):
        add(self, texts, vectors)
        added.append(len(texts) if texts[0] not in remote.PROBE_TEXTS else 0)
        if len(added) == 6:
            raise Killed

    add, added = remote.AnswerLog.add, []
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(remote.AnswerLog, "add", kill)
        build(source, out, stub)
    answered = sum(added)
    before = sum(count for text, count in stub.sent.items() if text not in remote.PROBE_TEXTS)
    assert contents(build(source, out, stub).path) == expected
    # Only what was answered at the moment of the kill, and did not arrive, is asked for again.
    assert len(texts_answered_twice(stub)) <= before - answered <= remote.MAX_TEXTS


def test_a_build_continues_at_another_url_but_not_with_another_model(stub, source, tmp_path):
    out = tmp_path / "store"
    stub.fault = lambda number, texts: status(403) if number >= 8 else None
    with pytest.raises(ServerError):
        build(source, out, stub)
    stub.fault = lambda number, texts: None
    stub.salt = "other"
    with pytest.raises(StoreError, match=r"its vectors were made by .*the same text gets different vectors"):
        build(source, out, stub)
    with ServerStub() as moved:
        config = BuildConfig((source,), encoder=moved.encoder)
        store = build_store(config, out, quiet=True)
        assert store.encoder_name == moved.encoder
        assert not set(moved.sent) & set(stub.sent) - set(remote.PROBE_TEXTS)


def test_a_model_that_changes_during_a_build_reaches_no_store(stub, source, tmp_path):
    out = tmp_path / "store"

    def change(number, texts):
        stub.salt = "other" if number >= 9 else ""

    stub.fault = change
    with pytest.raises(ServerError, match="the server's model has changed"):
        build(source, out, stub)
    stub.fault = lambda number, texts: None
    stub.salt = ""
    store = build(source, out, stub)
    unit = stub.encode(store.texts(range(200)))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = (unit * store.vectors.astype(np.float32)).sum(axis=1)
    assert (cosines > 0.999).all()


def test_a_server_that_is_down_leaves_nothing_behind(stub, source, tmp_path):
    out = tmp_path / "store"
    stub.fault = lambda number, texts: status(404)
    with pytest.raises(ServerError, match="404"):
        build(source, out, stub)
    assert list(tmp_path.iterdir()) == []


def test_precomputed_vectors_name_a_server_that_need_not_run(stub, source, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(200, 12)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    stub.fault = lambda number, texts: status(404)
    store = build(source, tmp_path / "store", stub, vectors=(str(tmp_path / "v.npy"),))
    assert store.space.encoder == MODEL and "not available" in store.manifest["encoder"]["verified"]


def test_the_key_is_in_no_file_and_no_output(stub, source, tmp_path, monkeypatch, capsys):
    stub.key = KEY
    monkeypatch.setenv(remote.KEY, KEY)
    arguments = ["data", "build", source, "--encoder", stub.encoder, "--out", str(tmp_path / "store")]
    stub.fault = lambda number, texts: status(500, {"error": f"Bearer {KEY}"}) if number >= 8 else None
    assert main(arguments) == 2
    stub.fault = lambda number, texts: None
    unfinished = contents(tmp_path)
    assert main([*arguments, "--json"]) == 0
    monkeypatch.setenv(remote.KEY, "sk-SECRET-wrong")
    assert main(["data", "check", str(tmp_path / "store"), "--encoder", stub.encoder]) == 2
    output = "".join(capsys.readouterr())
    assert "[key]" in output and "SECRET" not in output
    files = unfinished | contents(tmp_path)
    assert len(files) > 6 and not any(b"SECRET" in content for content in files.values())
    assert open_store(tmp_path / "store").encoder_name == stub.encoder


def test_threads_share_an_encoder(stub):
    encoder = remote.open_remote_encoder(stub.encoder)
    texts = [[f"thread {n} text {k}" for k in range(40)] for n in range(4)]
    results = {}
    threads = [
        threading.Thread(target=lambda n=n: results.__setitem__(n, encoder.encode(texts[n]))) for n in range(len(texts))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, vectors in results.items():
        unit = stub.encode(texts[n])
        np.testing.assert_allclose(vectors, unit / np.linalg.norm(unit, axis=1, keepdims=True), atol=1e-6)
