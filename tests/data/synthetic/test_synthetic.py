"""Synthetic stores: exact sizes, wanted statistics, and a ceiling that is the closed form and that ridge reaches."""

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextvec.data.splits import SPLITS
from nextvec.data.store import MANIFEST, unfinished_folder
from nextvec.data.synthetic import generate
from nextvec.data.synthetic.generate import (
    CONTEXT,
    PRESETS,
    PUBLISHED_COHERENCE,
    SyntheticSpec,
    ceiling,
    scaled,
    solve_lengths,
    synthesize,
)
from nextvec.data.synthetic.state_space import Shares, StateSpace, fit_shares, make_state_space
from nextvec.data.windows import index_windows
from nextvec.errors import InputError, OutputError, StoreError

TINY = SyntheticSpec(documents=40, vectors=800, dimensions=16, topics=4, ood_documents=4, ood_windows=60, seed=3)


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    return synthesize(tmp_path_factory.mktemp("linear") / "store", PRESETS["linear"], quiet=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return synthesize(tmp_path_factory.mktemp("tiny") / "store", TINY, quiet=True)


def windows_of(store, split, context=5, reverse=False):
    """Return the contexts (W, S·D) and targets (W, D) of a split, of the original or the reversed documents."""
    targets = index_windows(store.documents, split, context).targets.numpy()
    gathered = store.vectors[targets[:, None] + np.arange(-context, 1)].astype(np.float64)
    if reverse:
        gathered = gathered[:, ::-1]
    return gathered[:, :-1].reshape(len(targets), -1), gathered[:, -1]


def with_intercept(inputs):
    return np.column_stack([inputs, np.ones(len(inputs))])


def fit_ridge(store, penalty=1.0):
    inputs, targets = windows_of(store, "train")
    inputs = with_intercept(inputs)
    return np.linalg.solve(inputs.T @ inputs + penalty * np.eye(inputs.shape[1]), inputs.T @ targets)


def mean_cosine(weights, inputs, targets):
    predicted = with_intercept(inputs) @ weights
    return float(
        ((predicted * targets).sum(1) / np.linalg.norm(predicted, axis=1) / np.linalg.norm(targets, axis=1)).mean()
    )


# The ceiling


def test_ridge_reaches_but_does_not_exceed_the_ceiling_of_the_linear_preset(linear):
    score = mean_cosine(fit_ridge(linear), *windows_of(linear, "val"))
    best = linear.manifest["synthetic"]["measured"]["val"]["ceiling"]
    assert best - 0.01 < score < best + 0.002


def test_the_ceiling_is_above_the_predictors_without_training(linear):
    for split in SPLITS:
        measured = linear.manifest["synthetic"]["measured"][split]
        assert measured["ceiling"] > measured["context-mean"] + 0.01 > measured["copy-last"]


def test_the_ceiling_is_reproducible_and_grows_with_the_context(linear):
    measured = linear.manifest["synthetic"]["measured"]
    for split in SPLITS:
        assert ceiling(linear, split) == measured[split]["ceiling"]
    assert ceiling(linear, "val", 1) < ceiling(linear, "val", 3) < ceiling(linear, "val", 5) < ceiling(linear, "val", 8)


def test_the_conditional_mean_equals_gaussian_conditioning():
    context, dimensions = 3, 6
    space = make_state_space(dimensions, topics=2, spectrum=0.7, forward=0.6, seed=3)
    shares = Shares(mean=0.1, topic=0.2, components=((0.9, 0.3), (0.4, 0.15)), white=0.25)
    # The covariance of all S + 1 vectors as real coordinates, from the process's definition.
    size = (context + 1) * dimensions
    covariance = np.zeros((size, size))
    for pair in range(dimensions // 2):
        for t in range(context + 1):
            for s in range(context + 1):
                memory = sum(share * rho ** abs(t - s) for rho, share in shares.components) + shares.white * (t == s)
                angle = (t - s) * space.turn_P[pair]
                rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
                block = (
                    space.variance_P[pair] * memory * rotation + shares.topic * space.topic_P[pair] * np.eye(2)
                ) / 2
                row, column = t * dimensions + 2 * pair, s * dimensions + 2 * pair
                covariance[row : row + 2, column : column + 2] = block
    assert np.linalg.eigvalsh(covariance).min() > 0
    known = context * dimensions
    weights = np.linalg.solve(covariance[:known, :known], covariance[:known, known:]).T
    mean = np.sqrt(shares.mean) * space.direction_D
    drawn = np.random.default_rng(0).standard_normal((7, context, dimensions))
    expected = ((drawn - mean).reshape(7, known) @ weights.T + mean) @ space.basis_DD
    conditional_mean = space.conditional_mean(drawn @ space.basis_DD, shares)
    np.testing.assert_allclose(conditional_mean, expected, atol=1e-5)


def test_drawn_documents_have_the_covariance_that_the_predictor_assumes():
    space = make_state_space(4, topics=2, spectrum=1.0, forward=0.8, seed=1)
    shares = Shares(mean=0.1, topic=0.2, components=((0.9, 0.4),), white=0.3)
    drawn = space.draw(np.random.default_rng(2), (40_000, 4), shares).astype(np.float64)
    mean = np.sqrt(shares.mean) * space.direction_D
    np.testing.assert_allclose(drawn.mean(axis=(0, 1)), mean, atol=0.01)
    pairs = np.ascontiguousarray(drawn - mean).view(np.complex128)
    for lag in range(4):
        memory = 0.4 * 0.9**lag + 0.3 * (lag == 0)
        expected = shares.topic * space.topic_P + space.variance_P * memory * np.exp(1j * lag * space.turn_P)
        for start in range(4 - lag):  # stationary: the same at every position
            measured = (pairs[:, start + lag] * pairs[:, start].conj()).mean(axis=0)
            np.testing.assert_allclose(measured, expected, atol=0.015)


def test_the_basis_is_orthonormal_and_shares_sum_to_one():
    space = make_state_space(32, topics=8, spectrum=0.8, forward=0.3, seed=5)
    np.testing.assert_allclose(space.basis_DD @ space.basis_DD.T, np.eye(32), atol=1e-5)
    shares = fit_shares(space, np.array(PUBLISHED_COHERENCE), 0.14, 5)
    total = shares.mean + shares.topic + shares.white + sum(share for _, share in shares.components)
    assert abs(total - 1) < 0.01
    assert min(shares.topic, shares.white, *(share for _, share in shares.components)) >= 0


def test_the_basis_has_a_triangle_with_a_positive_diagonal():
    """QR does not determine the signs; fixing them makes the basis independent of the linear algebra library."""
    space = make_state_space(12, topics=4, spectrum=0.8, forward=0.3, seed=5)
    drawn = np.random.default_rng([5, 0]).standard_normal((12, 12))
    triangle = space.basis_DD @ drawn
    np.testing.assert_allclose(np.tril(triangle, -1), 0, atol=1e-5)
    assert (np.diagonal(triangle) > 0).all()


@pytest.mark.parametrize("forward", [0.1, 0.5])
def test_angles_are_exponential_over_the_variance(forward):
    space = make_state_space(512, topics=4, spectrum=1.0, forward=forward, seed=5)
    distances = np.arange(6)
    np.testing.assert_allclose(space.rotation_factor(distances), 1 / (1 + (distances * forward) ** 2), atol=0.03)


# Parameters


def test_the_coherence_is_as_specified(linear):
    measured = linear.manifest["synthetic"]["measured"]
    np.testing.assert_allclose(measured["train"]["coherence"], PUBLISHED_COHERENCE, atol=0.01)
    # few documents, long memory: more noise
    assert abs(measured["ood"]["coherence"][0] - 0.73) < 0.04


def test_the_production_presets_have_the_published_coherence():
    spec = PRESETS["production"]
    space = make_state_space(spec.dimensions, spec.topics, spec.spectrum, spec.forward, spec.seed)
    for coherence, wanted in (
        (spec.coherence, PUBLISHED_COHERENCE),
        (spec.ood_coherence, (0.73,)),
    ):
        shares = fit_shares(space, generate._extend_coherence(coherence, spec.mean), spec.mean, spec.seed)
        drawn = space.draw(np.random.default_rng(99), (2_000, 6), shares)
        drawn /= np.linalg.norm(drawn, axis=2, keepdims=True)
        measured = np.einsum("md,mld->ml", drawn[:, -1], drawn[:, -2::-1]).mean(axis=0)
        np.testing.assert_allclose(measured[: len(wanted)], wanted, atol=0.01)


def test_vectors_of_different_documents_have_the_specified_mean_cosine(linear):
    first_rows = linear.documents.first_row[linear.documents.splits < 2]
    vectors = linear.vectors[first_rows].astype(np.float64)
    count = len(vectors)
    between = ((vectors.sum(axis=0) ** 2).sum() - count) / (count * (count - 1))
    assert abs(between - PRESETS["linear"].mean) < 0.02


@pytest.mark.parametrize("forward", [0.0, 0.5])
def test_rotation_gives_time_a_direction(tmp_path, forward):
    spec = SyntheticSpec(
        documents=400, vectors=12_000, dimensions=16, topics=4, forward=forward, ood_documents=0, ood_windows=0
    )
    store = synthesize(tmp_path / "store", spec, quiet=True)
    weights = fit_ridge(store)
    forward_cosine = mean_cosine(weights, *windows_of(store, "val"))
    reversed_cosine = mean_cosine(weights, *windows_of(store, "val", reverse=True))
    if forward:
        assert forward_cosine - reversed_cosine > 0.03
    else:
        assert abs(forward_cosine - reversed_cosine) < 0.01


def test_a_steeper_spectrum_has_fewer_directions():
    def effective(spectrum):
        variance = make_state_space(64, 4, spectrum, 0.3, 0).variance_P
        return 1 / (variance**2).sum()

    assert effective(0.0) == pytest.approx(32) and effective(0.5) > effective(1.0) > effective(2.0)


# Sizes


@pytest.mark.parametrize(
    ("preset", "documents", "vectors", "windows"),
    [("production", 15_192, 790_391, 726_014), ("production-584k", 9_493, 584_000, 543_773)],
)
def test_production_sizes_are_exact(preset, documents, vectors, windows):
    lengths, ood_lengths = PRESETS[preset].lengths()
    assert (len(lengths), lengths.sum(), np.maximum(lengths - 5, 0).sum()) == (documents, vectors, windows)
    assert lengths.min() >= 1 and (lengths <= 5).sum() > 1000  # some documents are shorter than a window
    assert np.maximum(ood_lengths - 5, 0).sum() == 7_140 and ood_lengths.min() > 5
    assert abs(np.corrcoef(np.arange(len(lengths)), lengths)[0, 1]) < 0.05  # shuffled


@given(st.integers(1, 12), st.integers(1, 90), st.none() | st.integers(1, 90))
def test_lengths_have_the_exact_totals_or_are_refused(documents, vectors, windows):
    # By the definition: at least one document has a window; the others have 1 vector or more.
    lowest, highest = max(vectors - CONTEXT * documents, 1), vectors - documents - CONTEXT + 1
    try:
        lengths = solve_lengths(documents, vectors, windows)
    except InputError:
        assert windows is None or not lowest <= windows <= highest
        return
    assert len(lengths) == documents and lengths.min() >= 1 and lengths.sum() == vectors
    if windows is not None:
        assert np.maximum(lengths - CONTEXT, 0).sum() == windows


def test_without_a_number_of_windows_every_tenth_document_is_short():
    lengths = solve_lengths(200, 6_000, None)
    assert (lengths < 5).sum() == 20 and lengths.sum() == 6_000


@pytest.mark.parametrize("scale", [0.001, 0.02, 0.5, 1.5])
def test_scale_changes_sizes_only(scale):
    spec = PRESETS["production"]
    small = scaled(spec, scale)
    lengths, ood_lengths = small.lengths()
    assert len(lengths) == round(15_192 * scale) and lengths.sum() == round(790_391 * scale)
    assert np.maximum(lengths - 5, 0).sum() == round(726_014 * scale)
    assert np.maximum(ood_lengths - 5, 0).sum() == round(7_140 * scale)
    sizes = ("documents", "vectors", "windows", "ood_documents", "ood_windows")
    assert dataclasses.replace(small, **{name: getattr(spec, name) for name in sizes}) == spec


# The store


def test_the_manifest_describes_the_process(tiny):
    manifest = tiny.manifest
    assert manifest["origin"] == "synthetic"
    assert (
        SyntheticSpec(**{**manifest["synthetic"]["spec"], "coherence": PUBLISHED_COHERENCE, "ood_coherence": (0.73,)})
        == TINY
    )
    assert (tiny.space.encoder, tiny.space.revision, tiny.space.probes) == ("synthetic", TINY.space.revision, None)
    assert (
        dataclasses.replace(TINY, documents=50, vectors=1_000).space
        == TINY.space
        != dataclasses.replace(TINY, seed=9).space
    )
    table = tiny.documents
    assert (table.splits == SPLITS.index("ood")).sum() == 4 and len(table) == 44
    assert len(index_windows(table, "ood", 5)) == 60
    assert tiny.vectors.dtype == np.float16 and tiny.vectors.shape[1] == 16
    np.testing.assert_allclose(np.linalg.norm(tiny.vectors.astype(np.float64), axis=1), 1, atol=1e-3)
    assert len(set(table.group.tolist())) == len(table)
    assert manifest["synthetic"]["measured"]["ood"]["windows"] == 60


def test_the_same_spec_gives_the_same_bytes_and_another_seed_different_ones(tiny, tmp_path):
    again = synthesize(tmp_path / "again", TINY, quiet=True)
    other = synthesize(tmp_path / "other", dataclasses.replace(TINY, seed=1), quiet=True)
    assert (again.path / MANIFEST).read_bytes() == (tiny.path / MANIFEST).read_bytes()
    for name, digest in again.manifest["files"].items():
        assert hashlib.sha256((tiny.path / name).read_bytes()).hexdigest() == digest
    assert other.store_hash != tiny.store_hash and other.space.revision != tiny.space.revision


def test_the_block_size_does_not_change_the_vectors(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "BLOCK_ROWS", 64)
    monkeypatch.setattr(generate, "MEASURED_BLOCK", 7)
    store = synthesize(tmp_path / "store", TINY, quiet=True)
    np.testing.assert_allclose(store.vectors, tiny.vectors, atol=5e-4)  # a rounding of float16 at most
    for split, measured in tiny.manifest["synthetic"]["measured"].items():
        again = store.manifest["synthetic"]["measured"][split]
        assert again["ceiling"] == pytest.approx(measured["ceiling"], abs=1e-4)
        assert again["context-mean"] == pytest.approx(measured["context-mean"], abs=1e-4)
        assert again["coherence"] == pytest.approx(measured["coherence"], abs=1e-4)


def test_a_document_depends_on_the_seed_and_its_number_alone(tiny):
    space, shares = generate.load_state_space(tiny, "train")
    document = 7
    first, length = int(tiny.documents.first_row[document]), int(tiny.documents.rows[document])
    drawn = space.draw(np.random.default_rng([TINY.seed, 3, document]), (1, length), shares)[0] @ space.basis_DD
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    np.testing.assert_allclose(tiny.vectors[first : first + length], drawn, atol=5e-4)


def test_a_store_can_be_float32_and_without_ood(tmp_path):
    spec = dataclasses.replace(TINY, dtype="float32", ood_documents=0, ood_windows=0)
    store = synthesize(tmp_path / "store", spec, quiet=True)
    assert store.vectors.dtype == np.float32 and set(store.manifest["synthetic"]["measured"]) == {"train", "val"}
    with pytest.raises(StoreError, match="no synthetic split 'ood'"):
        ceiling(store, "ood")
    with pytest.raises(StoreError, match="val has no window of context 500"):
        ceiling(store, "val", 500)


# Refused specs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dimensions": 15}, "dimensions is 15, but must be even"),
        ({"topics": 18}, "topics is 18, but must be even, from 2 to dimensions"),
        ({"topics": 3}, "topics is 3"),
        ({"mean": 1.0}, "mean is 1"),
        ({"forward": -0.1}, "forward is -0.1"),
        ({"spectrum": 9.0}, "spectrum is 9"),
        ({"coherence": ()}, r"coherence is \(\), but must be one or more cosines"),
        ({"coherence": (0.1,)}, "above mean"),
        ({"ood_coherence": (0.5, 1.0)}, "ood_coherence"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"seed": -1}, "seed is -1"),
        ({"ood_documents": 0}, "must both be 0, or neither"),
        ({"ood_windows": 3}, "4 documents can't make 3 windows"),
        ({"vectors": 90}, "can't make"),
        ({"windows": 799}, "Use 600 to 756 windows"),
        ({"documents": 0}, "documents is 0"),
        ({"val": 1.0}, "val=1"),
    ],
)
def test_impossible_specs_are_refused_in_one_line(change, message):
    with pytest.raises(InputError, match=message) as caught:
        dataclasses.replace(TINY, **change)
    assert "\n" not in str(caught.value)


def test_impossible_coherence_is_refused_and_names_the_nearest(tmp_path):
    spec = dataclasses.replace(TINY, coherence=(0.3, 0.6, 0.3))
    with pytest.raises(InputError, match=r"coherence 0\.300 0\.600 0\.300 .* nearest is 0\.\d+"):
        synthesize(tmp_path / "store", spec, quiet=True)
    assert not list(tmp_path.iterdir())


def test_a_failed_synthesis_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("lost power")

    monkeypatch.setattr(generate, "write_documents", fail)
    with pytest.raises(OSError, match="lost power"):
        synthesize(tmp_path / "store", TINY, quiet=True)
    assert not list(tmp_path.iterdir())


def test_existing_folders_are_never_overwritten(tiny, tmp_path):
    with pytest.raises(OutputError, match="already exists"):
        synthesize(tiny.path, TINY, quiet=True)
    unfinished_folder(tmp_path / "store").mkdir()
    (unfinished_folder(tmp_path / "store") / "kept").touch()
    with pytest.raises(OutputError, match="unfinished: already exists"):
        synthesize(tmp_path / "store", TINY, quiet=True)
    assert (unfinished_folder(tmp_path / "store") / "kept").exists()


def test_the_state_space_is_read_back_exactly(tiny):
    space, _ = generate.load_state_space(tiny, "val")
    made = make_state_space(TINY.dimensions, TINY.topics, TINY.spectrum, TINY.forward, TINY.seed)
    for field in dataclasses.fields(StateSpace):
        assert np.array_equal(getattr(space, field.name), getattr(made, field.name))
