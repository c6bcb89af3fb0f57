"""Continuations: real chunks, none twice, with the drift of snapped and raw roll-outs."""

import json

import numpy as np
import pytest

import nextvec
from nextvec.errors import InputError


@pytest.fixture(scope="module")
def model(text_run):
    return nextvec.load_model(text_run)


@pytest.mark.parametrize("snap", [True, False])
def test_each_step_follows_from_the_ones_before(snap, model, text_store, paragraphs):
    result = model.generate(paragraphs[:6], text_store, 5, snap=snap)
    vectors = text_store.vectors.astype(np.float32)
    context, taken = model.encode(paragraphs[2:6]), list(range(6))
    for number, match in enumerate(result.chunks):
        # The given texts are the start of the first document; only the last four were read.
        cosines = vectors @ model.query(context)[0]
        cosines[[row for row in taken if row > 1]] = -1
        assert match.row == cosines.argmax() and match.rank == number + 1
        prediction = model.predict(context)
        drift = result.snapped_drift if snap else result.raw_drift
        start = model.encode(paragraphs[2:6]).mean(axis=0)
        assert drift.to_start[number] == pytest.approx(float(prediction[0] @ start / np.linalg.norm(start)), abs=1e-3)
        taken.append(match.row)
        context = np.concatenate([context, vectors[[match.row]] if snap else prediction])[-4:]
        context /= np.linalg.norm(context, axis=1, keepdims=True)


def test_no_chunk_appears_twice(model, text_store, paragraphs):
    result = model.generate(paragraphs[:3], text_store, 40)
    rows = [match.row for match in result.chunks]
    assert len(set(rows)) == 40 and not {0, 1, 2} & set(rows)


def test_both_roll_outs_start_equal_and_their_drift_is_reported(model, text_store, paragraphs):
    snapped, raw = (model.generate(paragraphs[:4], text_store, 6, snap=snap) for snap in (True, False))
    assert snapped.chunks[0] == raw.chunks[0] and snapped.agreement[0] == pytest.approx(1, abs=1e-5)
    assert (snapped.snapped_drift, snapped.raw_drift) == (raw.snapped_drift, raw.raw_drift)
    series = [*vars(snapped.snapped_drift).values(), *vars(snapped.raw_drift).values(), snapped.agreement]
    assert all(len(values) == 6 and all(-1 <= value <= 1.0001 for value in values) for values in series)
    assert any(value < 0.9999 for value in snapped.agreement)


def test_a_small_index_ends_the_continuation(model, text_store, paragraphs):
    count = len(text_store.vectors)
    assert len(model.generate(paragraphs[:4], text_store, count + 5).chunks) == count - 4


def test_the_result_shows_itself(model, text_store, paragraphs):
    result = model.generate(paragraphs[:4], text_store, 2)
    assert json.loads(json.dumps(result.to_dict()))["chunks"][1]["rank"] == 2
    assert "nearest, raw" in result.view().markdown() and result.chunks[0].text in result._repr_html_()
    with pytest.raises(InputError, match="steps is 0"):
        model.generate(paragraphs[:4], text_store, 0)
