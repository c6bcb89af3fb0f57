"""Loading a model from a run, a checkpoint, an exported folder; and files that are missing, damaged or hostile."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import nextvec
from nextvec.core.files import sha256_of
from nextvec.errors import CheckpointError, OutputError
from nextvec.inference.model_folder import write_model_folder
from nextvec.models.baselines import BASELINES
from nextvec.models.registry import MODELS, ORIGINALS


@pytest.fixture(scope="module")
def exported(text_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    write_model_folder(nextvec.load_model(text_run), folder)
    return folder


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    """A copy of the exported folder, to be damaged."""
    shutil.copytree(exported, tmp_path / "copy")
    return tmp_path / "copy"


def change_config(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(values))


def change_weights(folder: Path, change) -> None:
    """Rewrite the weights, and their checksum, as someone who means harm would."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors")
    record_checksums(folder)


def record_checksums(folder: Path) -> None:
    files = json.loads((folder / "config.json").read_text())["files"]
    change_config(folder, files={name: sha256_of(folder / name) for name in files})


def test_a_run_folder_and_its_checkpoint_are_the_same_model(text_run, text_store):
    model, checkpoint = nextvec.load_model(text_run), nextvec.load_model(str(text_run / "best_model.pt"))
    context = text_store.vectors[:4].astype(np.float32)
    np.testing.assert_array_equal(model.predict(context), checkpoint.predict(context))
    assert model.context_length == 4 and model.space == text_store.space
    assert set(model.baselines) == {*BASELINES, "retrieval-decay", "ridge-retrieval"}, "kNN needs the training windows"
    assert len(model.val.cosine_percentiles) == 101 and sorted(model.val.cosine_percentiles) == list(
        model.val.cosine_percentiles
    )
    assert set(model.val.cosine) == {*model.baselines, "knn", "amn"}
    assert model.val.cosine[model.best_baseline("cosine")] == max(model.val.cosine[name] for name in model.baselines)
    assert nextvec.load_model(text_run / "epoch_1.pt").val.cosine == {}, "an evaluation is of the best model only"


def test_the_training_store_is_never_needed(text_run, text_store, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(text_run, moved)
    hidden = text_store.path.with_name("hidden")
    text_store.path.rename(hidden)
    try:
        model = nextvec.load_model(moved)
        assert model.predict(model.encode(["The boats find the tide.", "The gull turns."])).shape == (1, 12)
    finally:
        hidden.rename(text_store.path)


def test_an_exported_folder_is_the_same_model(exported, text_run, text_store, paragraphs):
    original, model = nextvec.load_model(text_run), nextvec.load_model(exported)
    context = text_store.vectors[:4].astype(np.float32)
    np.testing.assert_array_equal(model.predict(context), original.predict(context))
    np.testing.assert_array_equal(model.query(context), original.query(context))
    np.testing.assert_array_equal(model.encode(paragraphs), original.encode(paragraphs))
    for name in original.baselines:
        np.testing.assert_array_equal(model.predict_with(name, context), original.predict_with(name, context))
    assert (model.val, model.chunker, model.space) == (original.val, original.chunker, original.space)


@pytest.mark.parametrize(
    ("kind", "variant"), [*((kind, "residual") for kind in MODELS), *((kind, "original") for kind in ORIGINALS)]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0), ("float16", 5e-3)])
def test_every_network_is_exported(small_networks, kind, variant, dtype, tolerance, make_model, contexts, tmp_path):
    model = make_model(kind, variant)
    write_model_folder(model, tmp_path / "model", dtype=dtype)
    loaded = nextvec.load_model(tmp_path / "model")
    np.testing.assert_allclose(loaded.predict(contexts), model.predict(contexts), atol=tolerance)
    assert loaded.outputs == model.outputs and not loaded.network.training


def test_the_same_model_is_written_as_the_same_bytes(exported, text_run, tmp_path):
    write_model_folder(nextvec.load_model(text_run), tmp_path / "again")
    for file in sorted(exported.rglob("*.*")):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(exported)).read_bytes(), file


def test_baselines_can_be_left_out(text_run, tmp_path):
    write_model_folder(nextvec.load_model(text_run), tmp_path / "m", baselines=["copy-last", "decayed-mean"])
    model = nextvec.load_model(tmp_path / "m")
    assert sorted(model.baselines) == ["copy-last", "decayed-mean"]
    assert model.best_baseline("cosine") in model.baselines and "ridge" in model.val.cosine


def test_an_existing_folder_is_never_overwritten(exported, text_run, tmp_path):
    with pytest.raises(OutputError, match="exists already"):
        write_model_folder(nextvec.load_model(text_run), exported)


def test_an_interrupted_export_leaves_no_folder_that_loads(text_run, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("nextvec.inference.model_folder.write_json", fail)
        with pytest.raises(KeyboardInterrupt):
            write_model_folder(nextvec.load_model(text_run), tmp_path / "m")
    assert not list(tmp_path.iterdir())
    # A killed process leaves the unfinished folder; it is no model, and the next export replaces it.
    (tmp_path / "m.unfinished").mkdir()
    (tmp_path / "m.unfinished" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError):
        nextvec.load_model(tmp_path / "m.unfinished")
    write_model_folder(nextvec.load_model(text_run), tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


DAMAGE = {
    "missing weights": (
        lambda f: (f / "model.safetensors").unlink(),
        r"model\.safetensors can't be read \(no such file\)",
    ),
    "missing encoder": (lambda f: shutil.rmtree(f / "encoder"), r"encoder/components\.npy can't be read"),
    "missing baselines": (lambda f: (f / "baselines.safetensors").unlink(), r"baselines\.safetensors can't be read"),
    "truncated weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
        r"model\.safetensors is damaged \(SHA-256 differs\)",
    ),
    "one bit": (lambda f: flip(f / "encoder" / "terms.json"), r"encoder/terms\.json is damaged"),
    "newer major version": (lambda f: change_config(f, format=[2, 0]), r"format 2\.0, but this nextvec reads format 1"),
    "malformed version": (lambda f: change_config(f, format="x"), r"config\.json can't be read"),
    "unknown field": (lambda f: change_config(f, surprise=1), r"config\.json: surprise: Extra inputs"),
    "context of text": (lambda f: change_config(f, context_length="5"), r"config\.json: context_length"),
    "huge context": (lambda f: change_config(f, context_length=10**9), r"config\.json: context_length"),
    "huge network": (
        lambda f: change_config(f, network={"kind": "amn", "variant": "residual", "dimensions": 10**7}),
        r"has the shape .* but its configuration needs",
    ),
    "unknown network": (
        lambda f: change_config(f, network={"kind": "amm", "variant": "residual", "dimensions": 12}),
        r"unknown model 'amm'\. Did you mean 'amn'",
    ),
    "another file": (
        lambda f: change_config(f, files={"../../etc/passwd": "0" * 64}),
        r"names the unknown file '\.\./\.\./etc",
    ),
    "no checksum": (lambda f: change_config(f, files={}), r"config\.json has no checksum of"),
    "malformed chunker": (lambda f: change_config(f, chunker={"unit": "page"}), r"chunk unit 'page' is unknown"),
    "malformed space": (lambda f: change_config(f, space={"encoder": "lsa"}), r"embedding space is damaged"),
    "not JSON": (lambda f: (f / "config.json").write_text("{"), r"config\.json can't be read"),
    "nested JSON": (lambda f: (f / "config.json").write_text("[" * 100_000), r"config\.json can't be read"),
    "large JSON": (lambda f: (f / "config.json").write_bytes(b" " * 2**21), r"more than 1,048,576 bytes"),
    "NaN weights": (lambda f: change_weights(f, lambda t: {n: v * torch.nan for n, v in t.items()}), r"contains NaN"),
    "other shapes": (lambda f: change_weights(f, lambda t: {n: v[:1] for n, v in t.items()}), r"has the shape"),
    "no tensors": (lambda f: change_weights(f, lambda t: {}), r"has the shape None"),
    "more tensors": (lambda f: change_weights(f, lambda t: t | {"x": torch.ones(1)}), r"tensor x has the shape \(1,\)"),
    "huge header": (
        lambda f: ((f / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}"), record_checksums(f)),
        r"model\.safetensors can't be read",
    ),
    "no header": (
        lambda f: ((f / "model.safetensors").write_bytes(b""), record_checksums(f)),
        r"model\.safetensors can't be read",
    ),
}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_or_hostile_folder_is_refused_in_one_line(name, copy):
    damage, message = DAMAGE[name]
    damage(copy)
    with pytest.raises(CheckpointError, match=message) as raised:
        nextvec.load_model(copy)
    assert "\n" not in str(raised.value) and str(copy) in str(raised.value)


def test_fields_of_a_newer_minor_version_are_ignored(copy):
    values = json.loads((copy / "config.json").read_text())
    change_config(copy, format=[1, 9], surprise={"a": 1}, val={**values["val"], "surprise": 2})
    assert nextvec.load_model(copy).context_length == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", r"model 'missing': no such file or folder"),
        ("empty", r"empty: has neither config\.json nor best_model\.pt"),
        ("text.pt", r"text\.pt: not a readable file of tensors"),
        ("config.json", r"is one file of an exported model\. Name its folder"),
    ],
)
def test_a_source_that_is_no_model_is_refused(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.pt").write_text("hello")
    Path("config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=message):
        nextvec.load_model(name)


def test_a_checkpoint_of_the_original_trainer_is_a_model(make_model, contexts, tmp_path):
    network = make_model("gru", "original", 768).network
    content = {"model_type": "gru", "model_config": {}, "model_state_dict": network.state_dict()}
    torch.save(content, tmp_path / "gru.pt")
    model = nextvec.load_model(tmp_path / "gru.pt")
    assert (model.context_length, model.space.encoder, model.outputs) == (5, "unknown", ("prediction",))
    context = np.eye(768, dtype=np.float32)[:5]
    np.testing.assert_array_equal(model.predict(context), network.predict(torch.from_numpy(context[None])).detach())
    assert model.best_baseline("mrr") == "copy-last"
