"""Scores of chunks: cosines beside the baseline's, percentiles of val, and topic shifts."""

import json

import numpy as np
import pytest

import nextvec
from nextvec.errors import InputError
from nextvec.inference.score import bar, dip_depths, find_shifts


@pytest.fixture(scope="module")
def model(text_run):
    return nextvec.load_model(text_run)


def test_every_chunk_is_scored_from_the_chunks_before_it(model, text_store, paragraphs):
    result = model.score(paragraphs)
    vectors = model.encode(paragraphs)
    assert result.chunks[0].cosine is None and [chunk.text for chunk in result.chunks] == paragraphs
    for position in range(1, len(paragraphs)):
        chunk, context = result.chunks[position], vectors[max(0, position - 4) : position]
        expected = float(model.predict(context)[0] @ vectors[position])
        baseline = float(model.predict_with(result.baseline, context)[0] @ vectors[position])
        assert (chunk.context, chunk.position) == (min(4, position), position)
        assert chunk.cosine == pytest.approx(expected, abs=1e-5)
        assert chunk.gain == pytest.approx(expected - baseline, abs=1e-5)
        below = np.mean(np.array(model.val.cosine_percentiles) < expected) * 100
        assert chunk.percentile == pytest.approx(below, abs=2)
    assert result.mean_cosine == pytest.approx(np.mean([chunk.cosine for chunk in result.chunks[1:]]))


def test_a_text_is_divided_at_blank_lines(model, paragraphs):
    text = "\n\n".join(["Too short.", *paragraphs])
    assert model.score(text) == model.score(paragraphs)


def test_a_change_of_topic_is_the_deepest_dip(model, text_store):
    documents = text_store.documents
    texts = [text_store.texts(range(int(first), int(first) + 7)) for first in documents.first_row[:2]]
    result = model.score([*texts[0], *texts[1]])
    depths = [chunk.depth for chunk in result.chunks]
    assert 7 in result.shifts and np.argmax(depths) == 7


def test_depths_are_the_climbs_to_both_sides():
    depths = dip_depths(np.array([0.5, 0.6, 0.2, 0.4, 0.7, 0.7]))
    assert depths.tolist() == pytest.approx([0, 0, 0.9, 0, 0, 0], abs=1e-6)
    assert find_shifts(depths).tolist() == [False, False, True, False, False, False]
    assert not find_shifts(dip_depths(np.full(6, 0.5))).any()
    assert not find_shifts(dip_depths(np.array([0.5, 0.49, 0.5]))).any(), "a dip within the noise"


def test_bars_have_the_length_of_the_cosine():
    assert [bar(value) for value in (-0.2, 0.0, 0.5, 1.0, 1.2)] == ["", "", "█" * 10, "█" * 20, "█" * 20]
    assert bar(0.51) == "█" * 10 + "▎"


def test_a_model_without_val_scores_gives_no_percentile(text_run, paragraphs):
    result = nextvec.load_model(text_run / "epoch_1.pt").score(paragraphs)
    assert all(chunk.percentile is None for chunk in result.chunks)
    assert "–" in result.view().markdown()


def test_the_result_shows_itself(model, paragraphs):
    result = model.score(paragraphs)
    values = json.loads(json.dumps(result.to_dict()))
    assert values["shifts"] == list(result.shifts) and values["chunks"][1]["cosine"] == result.chunks[1].cosine
    assert "█" in result.view().markdown() and "<table" in result._repr_html_()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("", "has 0 chunks"),
        ("short", "has 0 chunks"),
        (["One chunk only."], "has 1 chunk,"),
        (["a", ""], "is empty"),
    ],
)
def test_a_document_that_is_too_short_is_refused(document, message, model):
    with pytest.raises(InputError, match=message):
        model.score(document)
