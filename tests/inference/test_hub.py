"""Models on the hub: the id is divided into name and revision, only known files are asked for, errors are one line."""

import shutil

import numpy as np
import pytest

import nextvec
from nextvec.errors import CheckpointError
from nextvec.inference.model_folder import FILES, write_model_folder

hub = pytest.importorskip("huggingface_hub", reason="needs the package huggingface_hub")


def test_a_model_of_the_hub_is_downloaded_and_used(make_model, contexts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = make_model()
    write_model_folder(model, tmp_path / "uploaded")
    asked = {}

    def download(name, *, revision, allow_patterns, etag_timeout):
        asked.update(name=name, revision=revision, files=set(allow_patterns), seconds=etag_timeout)
        shutil.copytree(tmp_path / "uploaded", tmp_path / "cache")
        return str(tmp_path / "cache")

    monkeypatch.setattr(hub, "snapshot_download", download)
    loaded = nextvec.load_model("someone/a-model@v1.0")
    assert (asked["name"], asked["revision"], loaded.source) == ("someone/a-model", "v1.0", "someone/a-model@v1.0")
    assert asked["files"] == {"config.json", *FILES}
    assert not loaded.network.training, "the hub's own mixin loads models in training mode"
    np.testing.assert_array_equal(loaded.predict(contexts), model.predict(contexts))


def test_an_existing_path_wins_over_the_hub(make_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone").mkdir()
    write_model_folder(make_model(), tmp_path / "someone" / "a-model")
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    assert nextvec.load_model("someone/a-model").dimensions == 16


def test_an_unreachable_hub_is_one_line(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=r"not a path, and the hub can't be reached \(no route to host\)"):
        nextvec.load_model("someone/a-model")
