"""The most likely next chunks: from the index, never from the context, next to the baseline's choice."""

import json

import numpy as np
import pytest

import nextvec
from nextvec.errors import InputError, SpaceError


@pytest.fixture(scope="module")
def model(text_run):
    return nextvec.load_model(text_run)


def test_the_chunks_are_the_nearest_to_the_query(model, text_store, paragraphs):
    result = model.next(paragraphs[:4], text_store, k=3)
    query = model.query(model.encode(paragraphs[:4]))[0]
    cosines = text_store.vectors.astype(np.float32) @ query
    cosines[:4] = -1  # the context is the start of the first document
    expected = np.argsort(-cosines)[:3]
    assert [match.row for match in result.chunks] == expected.tolist()
    assert [match.score for match in result.chunks] == pytest.approx(cosines[expected].tolist(), abs=1e-3)
    assert [match.rank for match in result.chunks] == [1, 2, 3]
    assert [match.text for match in result.chunks] == text_store.texts(expected)
    assert (result.output, result.excluded, result.context) == ("query", 4, tuple(paragraphs[:4]))


def test_the_baseline_ranks_the_same_index(model, text_store, paragraphs):
    result = model.next(paragraphs[:4], text_store)
    prediction = model.predict_with(result.baseline, model.encode(paragraphs[:4]))[0]
    cosines = text_store.vectors.astype(np.float32) @ prediction
    cosines[:4] = -1
    assert result.baseline_chunk.row == cosines.argmax()
    assert model.val.mrr[result.baseline] == max(model.val.mrr[name] for name in model.baselines)


def test_only_the_last_texts_are_read(model, text_store, paragraphs):
    assert model.next(paragraphs[:7], text_store).chunks == model.next(paragraphs[3:7], text_store).chunks
    assert model.next(paragraphs[:1], text_store).context == (paragraphs[0],)


def test_many_copies_of_a_context_are_all_left_out(model, text_store, paragraphs, tmp_path):
    """A text with other spaces is the same text, and so is each of its copies."""
    index = nextvec.open_index(text_store)

    class Copies:
        """The same index, in which the first chunk is there 40 times more."""

        space, name = index.space, "copies"
        rows = (*range(len(index)), *([0] * 40))

        def __len__(self):
            return len(self.rows)

        def search(self, queries, k, exclude=()):
            cosines = queries @ text_store.vectors[list(self.rows)].astype(np.float32).T
            cosines[:, sorted(exclude)] = -np.inf
            order = np.argsort(-cosines, axis=1, kind="stable")[:, : min(k, len(self) - len(exclude))]
            return order, np.take_along_axis(cosines, order, 1)

        def vectors(self, rows):
            return index.vectors([self.rows[row] for row in rows])

        def chunks(self, rows):
            return index.chunks([self.rows[row] for row in rows])

    text = paragraphs[0].replace(" ", "  ")
    result = model.next([text], Copies(), k=4)
    assert result.excluded == 41 and len(result.chunks) == 4
    assert [match.text for match in result.chunks] == [match.text for match in model.next([text], text_store, 4).chunks]


def test_fewer_chunks_than_asked_for_are_fine(model, text_store, paragraphs):
    count = len(text_store.vectors)
    assert len(model.next(paragraphs[:2], text_store, k=count + 9).chunks) == count - 2


def test_the_result_shows_itself(model, text_store, paragraphs):
    result = model.next(paragraphs[:4], text_store.path, k=2)
    values = json.loads(json.dumps(result.to_dict()))
    assert values["chunks"][0]["text"] == result.chunks[0].text and values["baseline_chunk"]["rank"] == 1
    assert result.chunks[0].text in result._repr_html_() and result.baseline in result.view().markdown()


def test_unusable_requests_are_refused(model, text_store, toy_store, paragraphs, make_model):
    for texts, k, message in (([], 5, "there are none"), (["a", ""], 5, "text 1: is empty"), (["a"], 0, "k is 0")):
        with pytest.raises(InputError, match=message):
            model.next(texts, text_store, k)
    with pytest.raises(SpaceError, match="have different embedding spaces"):
        model.next(paragraphs[:2], toy_store)
