"""The built-in encoder equals an exact SVD, handles unknown words and damaged files, and is deterministic."""

import json
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.data.encoders import lsa
from nextvec.data.encoders.lsa import LsaEncoder
from nextvec.data.space import difference
from nextvec.errors import CorpusError, OutputError, StoreError


def topic_texts(count: int, *, seed: int = 0, topics: int = 12, words: int = 25) -> list[str]:
    """Return texts of 12 words, each from one topic's vocabulary; text n has topic n % topics."""
    rng = np.random.default_rng(seed)
    return [
        " ".join(f"w{n % topics}x{word}" for word in rng.zipf(1.4, 12) % words) + f" common{rng.integers(3)}"
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def encoder() -> LsaEncoder:
    return LsaEncoder.fit(topic_texts(240), 20)


def test_vectors_are_unit_float32_in_order(encoder: LsaEncoder) -> None:
    texts = topic_texts(50, seed=1)
    vectors = encoder.encode(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (50, 20)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(vectors[::-1], encoder.encode(texts[::-1]))
    assert encoder.encode([]).shape == (0, 20)


def exact_svd(texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return TF-IDF by sklearn, its singular values and right singular vectors by numpy."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    tfidf = TfidfVectorizer(sublinear_tf=True).fit_transform(texts).toarray()
    _, values, right = np.linalg.svd(tfidf, full_matrices=False)
    return tfidf, values, right


def test_the_projection_is_the_truncated_svd_of_tfidf() -> None:
    texts, dimensions = topic_texts(150), 30
    tfidf, values, right = exact_svd(texts)
    weights = (values[:dimensions] / values[0]) ** lsa._WEIGHT_POWER
    expected = tfidf @ right[:dimensions].T * weights
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    encoder = LsaEncoder.fit(texts, dimensions)
    vectors = encoder.encode(texts)
    assert np.abs(vectors @ vectors.T - expected @ expected.T).max() < 2e-3
    assert np.linalg.norm(encoder.components.astype(np.float64), axis=0) == pytest.approx(weights, rel=2e-3)


def test_the_sketch_of_a_large_corpus_keeps_nearly_all_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the energy in the D directions with that of the best D directions."""
    monkeypatch.setattr(lsa, "_MIN_SKETCH", 0)
    monkeypatch.setattr(lsa, "_OVERSAMPLING", 10)
    texts, dimensions = topic_texts(400), 60
    tfidf, values, _ = exact_svd(texts)
    basis, _ = np.linalg.qr(LsaEncoder.fit(texts, dimensions).components.astype(np.float64))
    assert basis.shape[1] == dimensions
    assert np.square(tfidf @ basis).sum() > 0.95 * np.square(values[:dimensions]).sum()


def test_texts_of_a_topic_are_similar(encoder: LsaEncoder) -> None:
    vectors = encoder.encode(topic_texts(120, seed=5))
    topic = np.arange(120) % 12
    cosine = vectors @ vectors.T
    same = (topic[:, None] == topic) & ~np.eye(120, dtype=bool)
    assert cosine[same].mean() > cosine[topic[:, None] != topic].mean() + 0.5


def test_dimensions_do_not_exceed_the_rank_of_the_texts() -> None:
    assert LsaEncoder.fit(topic_texts(240), 8).space.dimensions == 8
    assert LsaEncoder.fit(topic_texts(15), 768).space.dimensions <= 15
    assert LsaEncoder.fit(["one two", "two one", "one two"], 768).space.dimensions == 1
    few_words = [" ".join(np.random.default_rng(n).choice(["aa", "bb", "cc"], 5)) for n in range(50)]
    assert LsaEncoder.fit(few_words, 768).space.dimensions == 3


def test_unknown_texts_get_the_mean_direction_and_are_counted(encoder: LsaEncoder) -> None:
    before = encoder.unknown_texts
    known = topic_texts(1, seed=3)[0]
    vectors = encoder.encode(["zyzzyva qwerty", known, "", "?!", known + " zyzzyva"])
    assert encoder.unknown_texts - before == 3
    assert np.array_equal(vectors[[0, 2, 3]], np.tile(encoder.mean, (3, 1)))
    assert np.linalg.norm(encoder.mean) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(vectors[1], vectors[4])
    mean = encoder.encode(topic_texts(240)).mean(axis=0)
    assert np.dot(mean / np.linalg.norm(mean), encoder.mean) == pytest.approx(1, abs=1e-4)


def test_fitting_is_deterministic_for_any_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    one = LsaEncoder.fit(topic_texts(200), 150)
    monkeypatch.setattr(lsa, "_BLOCK", 7)
    other = LsaEncoder.fit(topic_texts(200), 150)
    assert one.space.revision == other.space.revision
    texts = topic_texts(30, seed=2)
    assert np.array_equal(one.encode(texts), other.encode(texts))


def test_signs_are_fixed(encoder: LsaEncoder) -> None:
    assert (encoder.components.max(axis=0) >= -encoder.components.min(axis=0)).all()


def test_a_loaded_encoder_equals_the_saved_one(encoder: LsaEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "encoder")
    loaded = LsaEncoder.load(tmp_path / "encoder")
    texts = [*topic_texts(40, seed=8), "nothing known"]
    assert np.array_equal(loaded.encode(texts), encoder.encode(texts))
    assert loaded.space == encoder.space
    assert np.array_equal(loaded.space.probes, encoder.space.probes)
    encoder.save(tmp_path / "again")
    for file in (tmp_path / "encoder").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
        assert file.suffix in (".json", ".npy")  # nothing pickled


def test_a_full_disk_is_an_error(encoder: LsaEncoder, tmp_path: Path) -> None:
    """A limit on file sizes simulates it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*components\.npy: the file-size limit is reached"):
            encoder.save(tmp_path / "encoder")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "encoder" / "components.npy").exists()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize("name", ["terms.json", "idf.npy", "components.npy", "mean.npy"])
@pytest.mark.parametrize("damage", [Path.unlink, cut, lambda file: file.write_bytes(b"")])
def test_damaged_files_are_store_errors(
    encoder: LsaEncoder, tmp_path: Path, name: str, damage: Callable[[Path], object]
) -> None:
    encoder.save(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(StoreError, match=r"is missing or damaged \(.*\)\. Build the store again"):
        LsaEncoder.load(tmp_path)


def test_files_of_two_encoders_are_refused(encoder: LsaEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    (tmp_path / "terms.json").write_text(json.dumps(encoder.terms[:-1]))
    with pytest.raises(StoreError, match="missing or damaged"):
        LsaEncoder.load(tmp_path)
    np.save(tmp_path / "mean.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(StoreError, match="missing or damaged"):
        LsaEncoder.load(tmp_path)


def test_the_revision_is_a_hash_of_the_content() -> None:
    texts = topic_texts(60)
    assert LsaEncoder.fit(texts, 10).space.revision == LsaEncoder.fit(texts, 10).space.revision
    assert LsaEncoder.fit(texts, 10).space.revision != LsaEncoder.fit(texts[:-1], 10).space.revision
    assert LsaEncoder.fit(texts, 10).space.revision != LsaEncoder.fit(texts, 9).space.revision


def test_spaces_of_another_language_are_distinguished_by_revision() -> None:
    """No probe has a known term, so all would get the mean direction, which is similar in two such spaces."""
    one, other = (LsaEncoder.fit(topic_texts(60, seed=seed), 10) for seed in (1, 2))
    assert one.space.probes is None
    assert difference(one.space, other.space) is not None
    english = LsaEncoder.fit(["the function returns an array", "the rain and the sea", "prices and wages"], 10)
    assert english.space.probes is not None


@pytest.mark.parametrize("texts", [[], ["", "  "], ["a b c ?", "!"]])
def test_texts_without_words_are_refused(texts: list[str]) -> None:
    with pytest.raises(CorpusError, match=r"the \d+ training texts have no words that lsa can use"):
        LsaEncoder.fit(texts, 5)


def test_rare_terms_are_dropped_in_a_large_corpus() -> None:
    few = [f"shared words here only{n}" for n in range(20)]
    assert "only3" in LsaEncoder.fit(few, 5).terms
    many = [f"shared words here only{n}" for n in range(lsa._KEEP_RARE_BELOW)]
    assert LsaEncoder.fit(many, 5).terms == ["here", "shared", "words"]


def test_languages_without_spaces_have_terms() -> None:
    encoder = LsaEncoder.fit(["私は猫です", "猫が好き", "Ünïcode wörter déjà", "слово раз"], 4)
    assert {"猫", "wörter", "déjà", "слово"} <= set(encoder.terms)
    assert "私は猫です" not in encoder.terms


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=8))
def test_any_text_gets_a_finite_unit_vector(encoder: LsaEncoder, texts: list[str]) -> None:
    vectors = encoder.encode([text + suffix for text in texts for suffix in ("", " w1x1 w1x2", " common1")])
    assert np.isfinite(vectors).all()
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max(initial=0) < 1e-5
