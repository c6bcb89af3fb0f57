"""Another embedding space is found in every form, and no change of topic or size is mistaken for one.

The vectors are like those of real encoders: a spectrum that decays, dimensions of different variance and a common mean.
Sources differ in their mean and in the weight of every direction.
"""

from collections.abc import Callable

import numpy as np
import pytest

from nextvec.core.formatting import Status
from nextvec.data.checks.embedding_space import Statistics, compare_spaces, measure_profile, measure_reference
from nextvec.data.checks.rules_space import MIN_DIFFERENCES, assess_space, check_spaces, is_another_space
from nextvec.data.checks.sampling import Sample
from nextvec.data.encoders.lsa import LsaEncoder

DIMENSIONS = 96


class World:
    """An embedding space: its directions, its mean, and texts of different topics in it."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        decay = 1 / np.arange(1, DIMENSIONS + 1) ** 0.6
        scale = random.lognormal(0, 0.3, DIMENSIONS)
        self.mixing = decay[:, None] * np.linalg.qr(random.standard_normal((DIMENSIONS, DIMENSIONS)))[0] * scale
        self.mean = 0.3 * random.standard_normal(DIMENSIONS) @ self.mixing

    def texts(self, topic: int, documents: int, rows: int = 12) -> Sample:
        """Return documents of a topic; topics differ in their mean and in the weights of the directions."""
        random = np.random.default_rng(1000 + topic)
        weights, center = random.lognormal(0, 0.5, DIMENSIONS), 0.5 * random.standard_normal(DIMENSIONS)
        subject = 0.7 * random.standard_normal((documents, 1, DIMENSIONS))
        states = center + subject + random.standard_normal((documents, rows, DIMENSIONS))
        return make_sample((self.mean + states * weights @ self.mixing).reshape(-1, DIMENSIONS), rows)


WORLD = World(0)


def make_sample(vectors: np.ndarray, rows: int = 12) -> Sample:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    document_R = np.arange(len(vectors)) // rows
    return Sample((vectors / lengths).astype(np.float32), np.ones(len(vectors), bool), document_R, document_R)


def changed(sample: Sample, change: Callable[[np.ndarray], np.ndarray]) -> Sample:
    return make_sample(change(sample.vectors_RD.astype(np.float64)))


def compare(split: Sample, train: Sample) -> Statistics:
    return compare_spaces(split, measure_reference(train))


def rotated(vectors: np.ndarray) -> np.ndarray:
    return vectors @ np.linalg.qr(np.random.default_rng(4).standard_normal((DIMENSIONS, DIMENSIONS)))[0]


def permuted(share: float) -> Callable[[np.ndarray], np.ndarray]:
    def permute(vectors: np.ndarray) -> np.ndarray:
        chosen = np.random.default_rng(5).permutation(DIMENSIONS)[: round(share * DIMENSIONS)]
        vectors[:, chosen] = vectors[:, np.roll(chosen, 1)]
        return vectors

    return permute


def flipped(share: float) -> Callable[[np.ndarray], np.ndarray]:
    chosen = np.random.default_rng(6).permutation(DIMENSIONS)[: round(share * DIMENSIONS)]
    return lambda vectors: vectors * np.where(np.isin(np.arange(DIMENSIONS), chosen), -1, 1)


def third_zeroed(vectors: np.ndarray) -> np.ndarray:
    return vectors * (np.arange(DIMENSIONS) % 3 > 0)


def whitened(vectors: np.ndarray) -> np.ndarray:
    """ZCA: as close to the original as vectors without correlations can be."""
    centered = vectors - vectors.mean(axis=0)
    variance, directions = np.linalg.eigh(np.cov(centered.T))
    return centered @ (directions / np.sqrt(variance)) @ directions.T


def common_vector_added(vectors: np.ndarray) -> np.ndarray:
    """Another pooling of the same network: the dimensions correspond, but the mean lies elsewhere."""
    return 0.3 * vectors + np.random.default_rng(8).standard_normal(DIMENSIONS) / np.sqrt(DIMENSIONS)


@pytest.fixture(scope="module")
def train() -> Sample:
    return WORLD.texts(0, 300)


@pytest.mark.parametrize("documents", [300, 30, 10])
@pytest.mark.parametrize("topic", range(1, 7))
def test_other_topics_are_in_the_same_space(train: Sample, topic: int, documents: int):
    space = compare(WORLD.texts(topic, documents), train)
    assert assess_space(space) == (Status.GREEN, []), space
    assert space["foreign_dimensions"] <= space["expected_foreign"] + 0.04


@pytest.mark.parametrize("rows", [3, 6, 12])
@pytest.mark.parametrize("topic", range(1, 7))
def test_few_rows_are_never_red(train: Sample, topic: int, rows: int):
    space = compare(WORLD.texts(topic, 3, rows), train)
    assert assess_space(space)[0] != Status.RED, space


@pytest.mark.parametrize(
    ("change", "share"),
    [
        (rotated, 1),
        (permuted(1), 1),
        (permuted(0.5), 0.5),
        (permuted(0.3), 0.3),
        (flipped(0.5), 1),
        (flipped(0.25), 0.5),
        (third_zeroed, 0.33),
        (whitened, None),
        (common_vector_added, 0),
    ],
)
@pytest.mark.parametrize("topic", [1, 2])
def test_another_space_is_red(train: Sample, topic: int, change: Callable[[np.ndarray], np.ndarray], share: float):
    space = compare(changed(WORLD.texts(topic, 100), change), train)
    status, reasons = assess_space(space)
    assert status == Status.RED, space
    if share is not None:
        # Twice a share of 96 outcomes: three standard errors are 0.3 at most.
        assert space["foreign_dimensions"] == pytest.approx(share, abs=0.3 if share > 0.2 else 0.04)
    assert ("do not correspond to train's" in reasons[0]) == (change is not common_vector_added)


def test_another_encoder_is_red(train: Sample):
    space = compare(World(99).texts(1, 100), train)
    assert assess_space(space)[0] == Status.RED and space["foreign_dimensions"] > 0.7


@pytest.mark.parametrize("change", [permuted(0.1), flipped(0.1)])
@pytest.mark.parametrize("topic", [1, 2, 3])
def test_a_tenth_of_the_dimensions_is_at_least_unsure(train: Sample, topic: int, change):
    status, reasons = assess_space(compare(changed(WORLD.texts(topic, 100), change), train))
    assert status != Status.GREEN and "% of the dimensions do not correspond" in reasons[0]


def test_scaled_dimensions_are_unsure(train: Sample):
    """Scales change neither profiles nor, after centering, the mean; the variances show them."""
    scale = np.linspace(0.2, 1, DIMENSIONS)[np.argsort(np.argsort(-train.vectors_RD.std(axis=0)))]
    space = compare(changed(WORLD.texts(1, 100), lambda vectors: vectors * scale**2), train)
    status, reasons = assess_space(space)
    assert status == Status.AMBER and space["variance_correlation"] < 0.1, space
    assert any("the variances of the dimensions have rank correlation" in reason for reason in reasons)


def test_centered_vectors_are_unsure(train: Sample):
    def centered(vectors: np.ndarray) -> np.ndarray:
        vectors = vectors - vectors.mean(axis=0)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors - vectors.mean(axis=0)

    status, reasons = assess_space(compare(changed(WORLD.texts(1, 100), centered), train))
    assert status == Status.AMBER and reasons == [
        "the vectors were centered (their mean is zero), and those of train were not"
    ]


def test_mismatches_in_a_handful_of_documents_are_unsure(train: Sample):
    for documents, rows in ((6, 12), (4, 60)):
        space = compare(make_sample(rotated(WORLD.texts(1, documents, rows).vectors_RD), rows), train)
        status, reasons = assess_space(space)
        assert status == Status.AMBER, space
        pairs = documents * (rows - 1)
        assert reasons[-1] == f"there are only {documents} documents with {pairs} pairs of adjacent chunks"


def test_dimensions_that_are_constant_in_both_sets_are_ignored(train: Sample):
    def constant(vectors: np.ndarray) -> np.ndarray:
        vectors[:, :20] = 0.01
        return vectors

    space = compare(changed(WORLD.texts(1, 100), constant), changed(train, constant))
    assert assess_space(space)[0] == Status.GREEN, space


def test_the_figures_do_not_depend_on_the_scale_of_the_vectors(train: Sample):
    split = WORLD.texts(1, 50)
    double = Sample(2 * split.vectors_RD, split.usable_R, split.document_R, split.unit_R)
    first, second = compare(split, train), compare(double, train)
    for name in ("foreign_dimensions", "expected_foreign", "variance_correlation"):
        assert first[name] == pytest.approx(second[name], abs=1e-3)


def test_few_dimensions_or_no_adjacent_rows_are_not_assessed(train: Sample):
    random = np.random.default_rng(0)
    assert measure_reference(make_sample(random.standard_normal((120, 4)))) is None, "four dimensions"
    assert measure_reference(make_sample(random.standard_normal((12, DIMENSIONS)))) is None, "a single document"
    assert measure_profile(make_sample(np.eye(5), rows=1)) is None
    few = {"differences": MIN_DIFFERENCES - 1, "train_differences": 5000}
    for space in (None, few):
        (finding,) = check_spaces({"space": {"ood": space}})
        assert (finding.name, finding.status) == ("ood space", "green") and "too few adjacent chunks" in finding.text
        assert not is_another_space({"space": {"ood": space}}, "ood")


def test_findings_name_figures_and_remedy(train: Sample):
    split = WORLD.texts(1, 100)
    spaces = {"val": compare(split, train), "ood": compare(changed(split, rotated), train)}
    val, ood = check_spaces({"space": spaces})
    assert (val.name, val.status, ood.name, ood.status) == ("val space", "green", "ood space", "red")
    assert val.text.startswith("val is in the embedding space of train: 0% of its dimensions differ from train's")
    assert "ood is in another embedding space than train, so its scores are meaningless: " in ood.message
    assert (
        ood.remedy.startswith("Make ood with the encoder of the training set") and ood.measured["differences"] == 1100
    )
    assert is_another_space({"space": spaces}, "ood") and not is_another_space({"space": spaces}, "val")


def word_list_documents(topics: int, documents: int, seed: int) -> list[list[str]]:
    """Documents of 12 paragraphs, each with a few words of its topic that no other document combines."""
    random = np.random.default_rng(seed)
    words = np.array([f"{first}{second}" for first in ("ka", "lo", "mi", "ru") for second in ("ban", "dor", "fel")])
    lists = [random.permutation([f"{word}{topic % 3}" for word in words]) for topic in range(topics)]
    texts = []
    for document in range(documents):
        own = random.choice(lists[document % topics], 8, replace=False)
        texts.append([" ".join(random.choice(own[start % 3 : start % 3 + 5], 12)) for start in range(12)])
    return texts


@pytest.mark.parametrize("dimensions", [8, 16, 32])
@pytest.mark.parametrize("seed", range(3))
def test_few_documents_with_words_of_their_own_are_never_red(dimensions: int, seed: int):
    """Documents differ from each other more than rows do, so that few of them are never certain."""
    documents = word_list_documents(6, 60, seed)
    encoder = LsaEncoder.fit([text for document in documents[:44] for text in document], dimensions)

    def encode(part: list[list[str]]) -> Sample:
        return make_sample(encoder.encode([text for document in part for text in document]))

    reference = measure_reference(encode(documents[:44]))
    for part in (documents[44:56], documents[56:], word_list_documents(4, 12, seed + 50)):
        space = compare_spaces(encode(part), reference)
        assert assess_space(space)[0] != Status.RED, space


def test_vectors_of_one_encoder_are_at_most_amber(train: Sample):
    """One encoder made both sets, so that only the files can be at fault."""
    spaces = {"ood": compare(changed(WORLD.texts(1, 100), rotated), train), "val": None}
    statistics = {"space": spaces, "same_encoder": {"ood": True, "val": True}}
    ood, val = check_spaces(statistics)
    assert (ood.status, val.status) == ("amber", "green") and not is_another_space(statistics, "ood")
    assert ood.message.startswith("One encoder made ood and train, but their vectors do not look like those of one")
    assert "data check --deep" in ood.remedy and val.message == "One encoder made the vectors of val and train."


def test_texts_without_a_known_word_are_not_assessed(train: Sample):
    """A fitted encoder gives them one vector, which shows nothing about the space."""
    equal = make_sample(np.tile(WORLD.texts(1, 1).vectors_RD[:1], (240, 1)))
    assert compare(equal, train) is None and assess_space(None)[0] is None
