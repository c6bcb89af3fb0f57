"""A model whose encoder is behind a server, and decoders: round trips, marks, faults, and where keys may go."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from nextvec.cli import main
from nextvec.core import http_client
from nextvec.data.encoders import remote
from nextvec.data.splits import SplitPlan
from nextvec.data.store.build import build_store
from nextvec.data.store.build_config import BuildConfig
from nextvec.errors import InputError, ServerError, SpaceError
from nextvec.inference import decoder as module
from nextvec.inference.export import export_model
from nextvec.inference.load import load_model
from nextvec.inference.model import LatentVectorModel
from nextvec.inference.model_folder import write_model_folder
from nextvec.models.baselines import ContextMean, CopyLast
from nextvec.models.registry import model_from_config
from server_stub import KEY, ServerStub, status

TEXTS = [f"Paragraph {n} of a text about boats, tides, ovens and the moon at night." for n in range(5)]


@pytest.fixture(scope="module")
def server():
    with ServerStub() as stub:
        yield stub


@pytest.fixture(scope="module")
def folder(server, tmp_path_factory):
    """A folder with a store of the server's vectors, an exported model of their space, and a text."""
    folder = tmp_path_factory.mktemp("remote")
    rows = [
        {"id": f"d{n}", "paragraphs": [f"Paragraph {k} of document {n}, that no other has." for k in range(6)]}
        for n in range(8)
    ]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = BuildConfig((str(folder / "texts.jsonl"),), encoder=server.encoder, split=SplitPlan(val=0.0))
    store = build_store(config, folder / "store", quiet=True)
    torch.manual_seed(0)
    network = model_from_config({"kind": "gru", "variant": "residual", "dimensions": 12})
    baselines = {baseline.name: baseline for baseline in (CopyLast(12), ContextMean(12))}
    model = LatentVectorModel(network, "toy", store.space, 4, encoder_name=store.encoder_name, baselines=baselines)
    write_model_folder(model, folder / "model")
    (folder / "article.txt").write_text("\n\n".join(TEXTS))
    return folder


@pytest.fixture
def stub(server, folder, monkeypatch):
    server.reset()
    store_texts = [f"Paragraph {k} of document {n}, that no other has." for n in range(8) for k in range(6)]
    server.sent.update(store_texts)
    monkeypatch.setattr(http_client, "FIRST_WAIT_SECONDS", 0.005)
    monkeypatch.chdir(folder)
    for name in (remote.KEY, module.KEY, "NEXTVEC_ENCODER"):
        monkeypatch.delenv(name, raising=False)
    return server


@pytest.fixture
def run(capsys):
    def call(words):
        code = main(words.split())
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_a_model_reaches_its_encoder_where_it_was_or_elsewhere(stub, monkeypatch):
    model = load_model("model")
    np.testing.assert_allclose(np.linalg.norm(model.encode(TEXTS), axis=1), 1, atol=1e-5)
    assert len(model.next(TEXTS, "store").chunks) == 5
    with ServerStub() as moved:
        assert load_model("model", encoder=moved.encoder).encode(TEXTS).shape == (5, 12)
        monkeypatch.setenv("NEXTVEC_ENCODER", moved.encoder)
        requests = len(stub.requests)
        assert load_model("model").encode(TEXTS).shape == (5, 12)
        assert len(stub.requests) == requests and len(moved.requests) == 4
        moved.salt = "other"
        with pytest.raises(SpaceError, match=r"the encoder stub/hashing .* and the model model: have different"):
            load_model("model").encode(TEXTS)
    with pytest.raises(InputError, match="encoder 'minilmm' is unknown"):
        load_model("model", encoder="minilmm")


def test_a_model_of_the_hub_names_no_server(stub, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("nextvec.inference.load.download_model", lambda name: folder / "model")
    model = load_model("owner/model")
    with pytest.raises(InputError, match=r"its server is not known. Name it with --encoder openai:URL#stub/hashing"):
        model.encode(TEXTS)
    assert not stub.requests
    assert load_model("owner/model", encoder=stub.encoder).encode(TEXTS).shape == (5, 12)
    # A pushed model does not name it in the first place; an exported one does.
    for names_server in (True, False):
        exported = export_model("model", tmp_path / str(names_server), names_server=names_server)
        content = b"".join(file.read_bytes() for file in exported.path.rglob("*") if file.is_file())
        assert (str(stub.server_port).encode() in content) == names_server


@pytest.mark.parametrize("words", ["next article.txt", "generate article.txt --steps 3"])
def test_decoded_texts_are_marked_and_tested(stub, run, words):
    command = f"{words} --model model --index store"
    plain = json.loads(run(f"{command} --json")[1])["documents"][0]
    assert "decoded" not in plain
    code, out, _ = run(f"{command} --decoder {stub.url}/decode --json")
    values = json.loads(out)["documents"][0]
    decoded = values.pop("decoded")
    assert code == 0 and values == plain
    assert decoded["decoder"] == f"{stub.url}/decode"
    assert len(decoded["texts"]) == (3 if "generate" in words else 1)
    test = decoded["round_trip"]
    assert test["texts"] == 8 and test["passed"] is True and test["median_cosine"] == pytest.approx(1, abs=1e-5)
    assert test["bar"] >= 0.8 > test["unrelated_cosine"]
    for item in decoded["texts"]:  # the cosine is that of the text's own vector
        assert item["text"] in stub.sent and -1 <= item["cosine"] < 1
    shown = run(f"{command} --decoder {stub.url}/decode")[1]
    assert "Decoded from the prediction (no chunks of the index)" in shown
    assert "round trip of 8 texts: median cosine 1.000, at least 0.8" in " ".join(shown.split())


def test_a_decoder_of_another_space_is_reported_plainly(stub, run):
    stub.decode = lambda vectors: [f"a text without any relation {n}" for n in range(len(vectors))]
    command = f"next article.txt --model model --index store --decoder {stub.url}/decode"
    test = json.loads(run(f"{command} --json")[1])["documents"][0]["decoded"]["round_trip"]
    assert test["passed"] is False and test["median_cosine"] < 0.8
    assert "is not of this embedding space" in " ".join(run(command)[1].split())
    # One text for all vectors: its cosine is that of unrelated texts.
    stub.decode = lambda vectors: ["the same text"] * len(vectors)
    round_trip = load_model("model").next(TEXTS, "store", decoder=f"{stub.url}/decode").decoded.round_trip
    assert not round_trip.passed


def test_a_space_with_high_cosines_needs_a_higher_bar(stub):
    base = stub.encode

    def narrow(texts):
        vectors = base(texts)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) + 2 * np.eye(1, 12, dtype=np.float32)

    stub.encode = narrow
    encoder = remote.open_remote_encoder(stub.encoder)
    model = dataclasses.replace(load_model("model"), space=encoder.space)
    constant = type("Constant", (), {"name": "constant", "decode": lambda self, vectors: [TEXTS[0]] * len(vectors)})()
    test = module.measure_round_trip(model, constant, TEXTS[1:])
    assert test.median_cosine > 0.75 and test.bar > 0.85 and not test.passed


def test_a_decoder_is_tested_once_per_model_and_index(stub):
    model = load_model("model")
    for _ in range(3):
        model.next(TEXTS, "store", decoder=f"{stub.url}/decode")
    assert stub.paths.count("/decode") == 1 + 3

    class Own:
        name = "own"

        def decode(self, vectors):
            return ["", *["A text of the user's own decoder."] * (len(vectors) - 1)]

    result = model.generate(TEXTS, "store", 2, decoder=Own())
    assert result.decoded.decoder == "own" and result.decoded.texts[0].cosine == 0.0
    assert not result.decoded.round_trip.passed


WRONG = {
    "has no list 'texts'": {"text": []},
    "no list 'texts' of texts": {"texts": [1] * 8},
    "has 1 texts for 8 vectors": {"texts": ["one"]},
}


@pytest.mark.parametrize("reason", WRONG)
def test_wrong_answers_of_a_decoder_are_one_line(stub, run, reason):
    stub.faults = []
    stub.fault = lambda number, texts: status(200, WRONG[reason]) if stub.paths[-1].startswith("/decode") else None
    code, out, err = run(f"next article.txt --model model --index store --decoder {stub.url}/decode")
    assert code == 2 and not out and reason in err and len(err.splitlines()) == 1


def test_keys_reach_their_own_servers_only(stub, run, monkeypatch):
    monkeypatch.setenv(remote.KEY, KEY)
    monkeypatch.setenv(module.KEY, "sk-SECRET-decoder")
    stub.fault = lambda number, texts: (
        status(401, {"error": "sk-SECRET-decoder"}) if stub.paths[-1].startswith("/decode") else None
    )
    code, out, err = run(f"next article.txt --model model --index store --decoder {stub.url}/decode?token=SECRET")
    assert code == 2 and "401 ([key])" in err and "Set NEXTVEC_DECODER_KEY" in err and "SECRET" not in out + err
    sent = dict(zip(stub.paths, stub.headers, strict=True))
    assert sent["/decode?token=SECRET"]["authorization"] == "Bearer sk-SECRET-decoder"
    assert sent["/v1/embeddings"]["authorization"] == f"Bearer {KEY}"
    code, _, err = run("next article.txt --model model --index store --decoder http://u:SECRET@host/")
    assert code == 2 and "user name or password" in err and "SECRET" not in err


def test_a_service_does_not_tell_its_clients_where_the_encoder_is(stub, capsys):
    pytest.importorskip("orjson")
    from nextvec.serving.errors import as_request_error

    error = as_request_error(ServerError(f"encoder {stub.encoder}: no connection"))
    assert error.status == 503 and stub.url not in error.message and stub.url in capsys.readouterr().err
