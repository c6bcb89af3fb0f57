"""Predictions and queries from any form of vectors, and text encoded in the model's space."""

import shutil

import numpy as np
import pytest
import torch

import nextvec
from nextvec.errors import CheckpointError, InputError, SpaceError
from nextvec.inference import contexts as contexts_module
from nextvec.models.registry import MODELS, ORIGINALS

NETWORKS = pytest.mark.parametrize(
    ("kind", "variant"), [*((kind, "residual") for kind in MODELS), *((kind, "original") for kind in ORIGINALS)]
)


@NETWORKS
def test_predictions_equal_those_of_the_network(small_networks, kind, variant, make_model, contexts):
    model = make_model(kind, variant)
    expected = model.network.predict(torch.from_numpy(contexts)).detach().numpy()
    predicted = model.predict(contexts)
    assert isinstance(predicted, np.ndarray) and predicted.dtype == np.float32 and predicted.shape == (7, 16)
    np.testing.assert_allclose(predicted, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(predicted, axis=1), 1, atol=1e-5)
    assert not model.network.training and model.dimensions == 16 and model.context_length == 5


@NETWORKS
def test_contexts_of_several_lengths_equal_each_by_itself(small_networks, kind, variant, make_model, contexts):
    model = make_model(kind, variant)
    ragged = [context[-length:] for context, length in zip(contexts, (5, 1, 3, 2, 5, 4, 1), strict=True)]
    together = model.predict(ragged)
    for context, row in zip(ragged, together, strict=True):
        np.testing.assert_allclose(model.predict(context), row[None], atol=2e-6)


def test_a_tensor_gives_a_tensor_without_gradients(make_model, contexts):
    model = make_model()
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-6), (torch.float16, 2e-3)):
        vectors = torch.from_numpy(contexts).to(dtype).requires_grad_()
        predicted = model.predict(vectors)
        assert isinstance(predicted, torch.Tensor) and predicted.dtype == torch.float32
        assert not predicted.requires_grad and not predicted.is_inference()
        np.testing.assert_allclose(predicted.numpy(), model.predict(contexts), atol=tolerance)
    assert isinstance(model.predict([vectors[0], vectors[1, 2:]]), torch.Tensor)


def test_arrays_of_any_layout_are_read(make_model, contexts):
    model, expected = make_model(), None
    expected = model.predict(contexts)
    locked = contexts.copy()
    locked.flags.writeable = False
    for array in (contexts[:, ::-1][:, ::-1], np.asfortranarray(contexts), contexts.astype(">f4"), locked):
        np.testing.assert_allclose(model.predict(array), expected, atol=1e-6)
    assert model.predict(contexts[:0]).shape == (0, 16) and model.predict([]).shape == (0, 16)


def test_blocks_do_not_change_the_result(make_model, contexts, monkeypatch):
    model = make_model("gru")
    expected = model.query(contexts), model.predict([contexts[0], contexts[1, :2], contexts[2]])
    monkeypatch.setattr(contexts_module, "MAX_BLOCK_NUMBERS", 170)  # two contexts of 5 · 16 numbers
    np.testing.assert_allclose(model.query(contexts), expected[0], atol=1e-6)
    np.testing.assert_allclose(model.predict([contexts[0], contexts[1, :2], contexts[2]]), expected[1], atol=1e-6)


def test_the_query_is_the_second_output(make_model, contexts):
    model = make_model()
    expected = model.network.query(torch.from_numpy(contexts)).detach().numpy()
    np.testing.assert_allclose(model.query(contexts), expected, atol=1e-6)
    assert model.outputs == ("prediction", "query")
    published = make_model("amn", "original")
    assert published.outputs == ("prediction",)
    with pytest.raises(InputError, match=r"this amn has no query\. Use its prediction"):
        published.query(contexts)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda v: v[:, :, :8], SpaceError, r"context 0: its vectors have 8 dimensions, but model toy reads 16"),
        (lambda v: np.concatenate([v, v], 1), InputError, r"context 0: has 10 vectors, but model toy reads at most 5"),
        (lambda v: [v[0], np.concatenate([v[1], v[2]])], InputError, r"context 1: has 10 vectors"),
        (lambda v: [v[0], v[1][:0]], InputError, r"context 1: has no vectors"),
        (lambda v: v[:, :0], InputError, r"context 0: has no vectors"),
        (lambda v: v[0, 0], InputError, r"shape \(16,\) is not \(N, S, D\) or \(S, D\)"),
        (lambda v: [v[0, 0]], InputError, r"context 0: shape \(16,\) is not \(S, D\)"),
        (lambda v: 3 * v, InputError, r"context 0, vector 0: has length 3, but the model reads unit vectors"),
        (lambda v: _with(v, np.nan), InputError, r"context 2, vector 3: contains NaN or infinity"),
        (lambda v: _with(v, np.inf), InputError, r"context 2, vector 3: contains NaN or infinity"),
        (lambda v: _with(v, 0), InputError, r"context 2, vector 3: has length 0"),
        (lambda v: (100 * v).astype(int), InputError, r"vectors: int64 is not a float type"),
        (lambda v: [["a"]], InputError, r"context 0: not an array of numbers"),
        (lambda v: [[[1.0], [1.0, 2.0]]], InputError, r"context 0: not an array of numbers"),
    ],
)
def test_vectors_that_do_not_fit_are_refused_in_one_line(change, error, message, make_model, contexts):
    with pytest.raises(error, match=message) as raised:
        make_model().predict(change(contexts))
    assert "\n" not in str(raised.value)


def _with(contexts, value):
    contexts = contexts.copy()
    contexts[2, 3] = value
    return contexts


def test_texts_are_encoded_in_the_space_of_the_model(text_run, text_store, paragraphs):
    model = nextvec.load_model(text_run)
    vectors = model.encode(paragraphs)
    np.testing.assert_allclose(vectors, text_store.vectors[: len(paragraphs)].astype(np.float32), atol=1e-3)
    for texts, message in ((["a", "  "], "text 1: is empty"), ("one text", "one text is not a list")):
        with pytest.raises(InputError, match=message):
            model.encode(texts)


def test_an_encoder_with_another_fingerprint_is_refused(text_run, tmp_path):
    other = tmp_path / "texts.jsonl"
    rows = [
        f'{{"id": "{n}", "text": "Word{n} kettle puddle train {n} window garden lamp street and hill."}}'
        for n in range(40)
    ]
    other.write_text("\n".join(rows))
    store = nextvec.data_build([other], out=tmp_path / "other", dimensions=12, quiet=True)
    run = tmp_path / "run"
    shutil.copytree(text_run, run)
    shutil.rmtree(run / "encoder")
    shutil.copytree(store.path / "encoder", run / "encoder")
    with pytest.raises(SpaceError, match="different embedding spaces"):
        nextvec.load_model(run).encode(["The boats follow the tide."])


def test_a_model_without_its_encoder_still_predicts(text_run, toy_store, make_model, contexts, tmp_path):
    shutil.copy(text_run / "best_model.pt", tmp_path / "copied.pt")
    model = nextvec.load_model(tmp_path / "copied.pt")
    assert model.predict(np.eye(12, dtype=np.float32)[:3]).shape == (1, 12)
    with pytest.raises(CheckpointError, match="its fitted encoder is missing"):
        model.encode(["A text."])
    with pytest.raises(InputError, match="encoder 'toy' is unknown"):
        make_model().encode(["A text."])


def test_reversed_contexts_of_one_vector_are_read(make_model, contexts):
    model = make_model()
    parts = [contexts[0], contexts[0][:1][::-1], contexts[0][:3][::-1]]
    expected = [model.predict(np.ascontiguousarray(part))[0] for part in parts]
    assert model.predict(parts) == pytest.approx(np.stack(expected), abs=1e-6)
