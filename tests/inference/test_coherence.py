"""Coherence: the whitened cosine to both sides, its fit, and how well it finds chunks of other documents."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

import nextvec
from nextvec.core.files import sha256_of
from nextvec.data.store import DocumentTable, Store
from nextvec.errors import CheckpointError
from nextvec.inference import coherence as module
from nextvec.inference.coherence import Coherence, cosines, fit_coherence, read_documents, two_sided_means

D, CHUNKS = 16, 12


def make_documents(count, seed):
    """Documents of a topic each, in the first half of the dimensions; in the second half, chunks differ strongly."""
    rng = np.random.default_rng(seed)
    scale_D = np.where(np.arange(D) < D // 2, 0.3, 1.5)
    topic_D = np.where(np.arange(D) < D // 2, 1.0, 0.0)
    vectors = rng.normal(size=(count, 1, D)) * topic_D + rng.normal(size=(count, CHUNKS, D)) * scale_D
    return (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).astype(np.float32)


def make_store(tmp_path, text_store, train=200, val=30):
    """A store in memory with documents of `make_documents`."""
    count = train + val
    names, places = [f"d{number}" for number in range(count)], np.arange(count)
    splits = (places >= train).astype(np.int8)
    rows = np.full(count, CHUNKS)
    table = DocumentTable(names, names, names, splits, places * CHUNKS, rows, places)
    return Store(tmp_path, {}, text_store.space, make_documents(count, 0).reshape(-1, D).astype(np.float16), table)


def test_the_mean_of_both_sides_decays_with_the_distance():
    document_ND = make_documents(1, 0)[0]
    means_ND = two_sided_means(document_ND)
    for n in range(CHUNKS):
        weights = np.array([0.0 if k == n else 0.6 ** (abs(k - n) - 1) for k in range(CHUNKS)])
        assert means_ND[n] == pytest.approx(weights @ document_ND, abs=1e-5)
    assert two_sided_means(document_ND[:2]) == pytest.approx(document_ND[1::-1], abs=1e-6)


def test_coherence_finds_intruders_of_unseen_documents_that_no_plain_mean_finds(text_store, tmp_path):
    fitted = fit_coherence(make_store(tmp_path, text_store))
    # Differences that are common within a document count less.
    stretch_D = np.abs(np.diag(fitted.whitening_DD))
    assert stretch_D[: D // 2].min() > 1.2 * stretch_D[D // 2 :].max()
    rng, found = np.random.default_rng(1), []
    unseen = make_documents(100, 9)
    for number, document_ND in enumerate(unseen):
        position = int(rng.integers(1, CHUNKS))
        changed_ND = document_ND.copy()
        changed_ND[position] = unseen[number - 1, position]
        before_ND = np.stack([changed_ND[1], *(changed_ND[:n].mean(axis=0) for n in range(1, CHUNKS))])
        scores = {
            "coherence": fitted.measure(changed_ND),
            "both sides": cosines(two_sided_means(changed_ND), changed_ND),
            "before": cosines(before_ND, changed_ND),
        }
        found.append([(np.delete(score, position) > score[position]).mean() for score in scores.values()])
    coherence, both, before = np.mean(found, axis=0)
    assert coherence > both + 0.03 and both > before, (coherence, both, before)


def test_the_percentiles_are_those_of_val_documents_and_every_fit_is_the_same(text_store, tmp_path, monkeypatch):
    store = make_store(tmp_path, text_store)
    fitted, again = fit_coherence(store, seed=3), fit_coherence(store, seed=3)
    assert (fitted.whitening_DD == again.whitening_DD).all()
    assert (fitted.percentile_values == again.percentile_values).all()
    val = read_documents(store, "val", 1000, 0)
    assert len(val) == 30
    percentile_M = fitted.percentiles(np.concatenate([fitted.measure(document_ND) for document_ND in val]))
    assert (percentile_M.min(), percentile_M.max()) == pytest.approx((0, 100), abs=1e-3)
    assert np.median(percentile_M) == pytest.approx(50, abs=0.5)
    # Documents that are unknown, too few, or too short.
    assert fit_coherence(replace(store, manifest={"has_documents": False})) is None
    assert fit_coherence(make_store(tmp_path, text_store, train=19)) is None
    monkeypatch.setattr(module, "MIN_CHUNKS", CHUNKS + 1)
    assert fit_coherence(store) is None


def test_the_score_names_the_chunk_of_another_topic(text_run, text_store):
    first = text_store.documents.first_row
    texts = text_store.texts(range(int(first[0]), int(first[0]) + 9))
    texts[5] = text_store.texts([int(first[1])])[0]
    result = nextvec.load_model(text_run).score(texts)
    assert result.least_coherent == 5 and result.chunks[5].coherence < 10
    assert result.chunks[0].coherence > 10, "the chunks after the first show whether it fits"
    assert "least coherent chunk: 5" in result.view().markdown() and result.to_dict()["least_coherent"] == 5


def test_a_run_without_coherence_still_scores(text_run, paragraphs, tmp_path):
    run = shutil.copytree(text_run, tmp_path / "run")
    file, values = run / "coherence.safetensors", np.arange(3, dtype=np.float32)
    whole = np.eye(12, dtype=np.float16)
    for tensors in (
        {"whitening": whole},
        {"whitening": whole[:5], "percentiles": values},
        {"whitening": whole * np.nan, "percentiles": values},
        {"whitening": whole, "percentiles": values[:1]},
    ):
        save_file(tensors, file)
        assert nextvec.load_model(run).coherence is None
    file.write_bytes(b"damaged")
    assert nextvec.load_model(run).coherence is None
    file.unlink()
    result = nextvec.load_model(run).score(paragraphs)
    assert result.least_coherent is None and "no coherence" in result.view().markdown()


def test_an_exported_model_keeps_its_coherence_and_refuses_a_malformed_one(text_run, paragraphs, tmp_path):
    folder, original = nextvec.export(text_run, tmp_path / "m").path, nextvec.load_model(text_run)
    model = nextvec.load_model(folder)
    assert (model.coherence.whitening_DD == original.coherence.whitening_DD).all()
    expected = [chunk.coherence for chunk in original.score(paragraphs).chunks]
    assert [chunk.coherence for chunk in model.score(paragraphs).chunks] == pytest.approx(expected, abs=1e-3)
    # A file with the right checksum and the wrong content.
    file, config = folder / "coherence.safetensors", json.loads((folder / "config.json").read_text())
    save_file({"whitening": np.eye(3, dtype=np.float16), "percentiles": np.zeros(3, np.float32)}, file)
    config["files"][file.name] = sha256_of(file)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"coherence\.safetensors is malformed"):
        nextvec.load_model(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        nextvec.load_model(folder)
    del config["files"][file.name]
    (folder / "config.json").write_text(json.dumps(config))
    assert nextvec.load_model(folder).coherence is None


def test_a_saved_coherence_is_that_which_is_used(tmp_path, text_store):
    fitted = fit_coherence(make_store(tmp_path, text_store))
    fitted.save(tmp_path / "c.safetensors")
    loaded = Coherence.load(tmp_path / "c.safetensors", D)
    document_ND = make_documents(1, 5)[0]
    assert loaded.measure(document_ND) == pytest.approx(fitted.measure(document_ND), abs=1e-3), "rounded to float16"
    with pytest.raises(CheckpointError, match="malformed"):
        Coherence.load(tmp_path / "c.safetensors", D + 1)
