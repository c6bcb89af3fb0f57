"""The index of a LanceDB table: equal to the exact index of the same store, filtered, and of users' own tables."""

import json

import numpy as np
import pyarrow as pa
import pytest

import nextvec
from nextvec.cli import main
from nextvec.errors import InputError, MissingExtraError, SpaceError, StoreError
from nextvec.inference import lancedb_build, lancedb_index
from nextvec.inference.table_name import parse_table_name

lancedb = pytest.importorskip("lancedb", reason="the extra lancedb is not installed")


@pytest.fixture(scope="module")
def world(text_store, tmp_path_factory):
    """The store as an exact index, and as a LanceDB table with a vector index."""
    folder = tmp_path_factory.mktemp("lancedb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lancedb_build, "MIN_INDEXED_ROWS", 300)
        built = nextvec.index_build(text_store.path, to=f"{folder}/db", quiet=True)
    assert built.vector_index == "IvfSq" and built.added == built.rows == len(text_store.vectors)
    return nextvec.open_index(text_store), nextvec.open_index(built.index)


@pytest.fixture(scope="module")
def model(text_run):
    return nextvec.load_model(text_run)


def test_searches_agree_with_the_exact_index(world, monkeypatch):
    exact, index = world
    assert len(index) == len(exact) and index.space == exact.space and index.name.endswith("db#chunks")
    queries = exact.vectors(range(0, 40, 5))
    expected, expected_scores = exact.search(queries, 6)
    rows, scores = index.search(queries, 6)
    # Every partition is read, so only ties may differ.
    np.testing.assert_allclose(scores, expected_scores, atol=2e-3)
    np.testing.assert_array_equal(rows[:, 0], expected[:, 0])
    for ours, theirs in zip(index.chunks(rows[0].tolist()), exact.chunks(rows[0].tolist()), strict=True):
        assert ours == theirs
    np.testing.assert_allclose(index.vectors(rows[0].tolist()), exact.vectors(rows[0].tolist()), atol=1e-6)
    # One partition has too few rows: the search continues over all of them.
    monkeypatch.setattr(lancedb_index, "MIN_PROBES", 1)
    excluded = set(expected[:, :3].ravel().tolist())
    rows, _ = index.search(queries, len(index) + 1, excluded)
    assert rows.shape == (8, len(index) - len(excluded)) and not excluded & set(rows.ravel().tolist())
    assert index.search(queries[:0], 3)[0].shape == (0, 3)


def test_next_and_generate_give_what_the_exact_index_gives(world, model, paragraphs):
    exact, index = world
    expected = model.next(paragraphs[:4], exact, k=5)
    result = model.next(paragraphs[:4], index, k=5)
    assert [match.text for match in result.chunks] == [match.text for match in expected.chunks]
    assert result.baseline_chunk.text == expected.baseline_chunk.text and result.excluded == expected.excluded == 4
    steps = model.generate(paragraphs[:4], index, steps=6)
    assert [match.row for match in steps.chunks] == [
        match.row for match in model.generate(paragraphs[:4], exact, steps=6).chunks
    ]
    assert len({match.row for match in steps.chunks}) == 6 and not {0, 1, 2, 3} & {m.row for m in steps.chunks}


@pytest.mark.parametrize("where", ["split = 'val'", "document IN ('d1', 'd2') AND title LIKE 'Document%'"])
def test_a_filter_gives_what_the_exact_index_gives(where, world, model, paragraphs):
    exact, index = world
    expected = model.next(paragraphs[:4], exact, where=where)
    result = model.next(paragraphs[:4], index, where=where)
    assert [match.row for match in result.chunks] == [match.row for match in expected.chunks]
    assert len(result.chunks) == 5 and set(index.filter(where).sample(9)) <= set(exact.filter(where).sample(999))


def test_a_filter_of_positions_and_texts_works_on_the_command_line(
    world, model, text_run, tmp_path, capsys, paragraphs
):
    source = tmp_path / "text.txt"
    source.write_text("\n\n".join(paragraphs[:4]))
    where = "position >= 7 AND text LIKE '%harbor%'"
    options = ["--model", str(text_run), "--index", world[1].name, "--where", where, "--json"]
    assert main(["next", str(source), *options, "-k", "3"]) == 0
    chunks = json.loads(capsys.readouterr().out)["documents"][0]["chunks"]
    assert len(chunks) == 3 and all(chunk["position"] >= 7 and "harbor" in chunk["text"] for chunk in chunks)
    assert main(["generate", str(source), *options, "--steps", "2"]) == 0
    chunks = json.loads(capsys.readouterr().out)["documents"][0]["chunks"]
    assert len(chunks) == 2 and all(chunk["position"] >= 7 for chunk in chunks)


@pytest.mark.parametrize(
    "where",
    [
        "sorce = 's'",
        "source =",
        "position / 0 = 1",
        "EXISTS (SELECT 1)",
        "text",
        "_rowid IN (1)",
        "(" * 3000 + ")" * 3000,
    ],
)
def test_a_condition_that_does_not_work_is_one_line(where, world, model, text_run, tmp_path, capsys):
    index = world[1]
    with pytest.raises(InputError, match=r"^where: .*Columns: text, document, title, source, split, position\.$"):
        index.filter(where)
    source = tmp_path / "text.txt"
    source.write_text("A text of some length that is long enough to be a chunk of its own.")
    assert main(["next", str(source), "--model", str(text_run), "--index", index.name, "--where", where]) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
    assert len(nextvec.open_index(index.name)) == len(index)


def test_names_of_tables():
    for name, database, table in (
        ("lancedb:a/b", "a/b", "chunks"),
        ("a/b/", "a/b", "chunks"),
        ("lancedb:a/b#t", "a/b", "t"),
        ("a/b/t.lance", "a/b", "t"),
        ("lancedb:s3://bucket/db#t", "s3://bucket/db", "t"),
        ("lancedb:a?b", "a?b", "chunks"),
    ):
        parsed = parse_table_name(name)
        assert (parsed.database, parsed.table, parsed.columns) == (database, table, {}), name
    parsed = parse_table_name("lancedb:d#t?vector=emb%20x&text=body&encoder=minilm")
    assert parsed.columns == {"vector": "emb x", "text": "body"} and parsed.encoder == "minilm"
    for name in (
        "lancedb:",
        "",
        "lancedb:d#t?txt=b",
        "lancedb:d#t?text=b",
        "lancedb:d#t?vector=",
        "lancedb:d#t?vector",
    ):
        with pytest.raises(InputError, match=r"^index '"):
            parse_table_name(name)


@pytest.fixture(scope="module")
def own(world, text_store, tmp_path_factory):
    """A function that makes a table of a user with the store's texts, and columns that replace others."""
    database = lancedb.connect(str(tmp_path_factory.mktemp("own")))
    vectors = text_store.vectors.astype(np.float32)
    texts = text_store.texts(range(len(vectors)))

    def make(name, vectors=vectors, count=None):
        count = len(vectors) if count is None else count
        values = {
            "emb": pa.FixedSizeListArray.from_arrays(pa.array(vectors[:count].ravel()), vectors.shape[1]),
            "body": texts[:count],
            "doc": np.arange(count) // 9,
            "n": np.arange(count) % 9,
        }
        # LanceDB refuses NaN unless it may store such vectors as null.
        database.create_table(name, pa.table(values), on_bad_vectors="null")
        return f"lancedb:{database.uri}#{name}"

    return make


COLUMNS = "?vector=emb&text=body&document=doc&position=n"


def test_a_table_of_the_user_works_by_the_names_of_its_columns(own, world, model, paragraphs):
    exact, name = world[0], own("good")
    result = model.next(paragraphs[:4], name + COLUMNS, where="n > 2")
    expected = [m for m in model.next(paragraphs[:4], exact, k=200).chunks if m.position > 2][:5]
    assert [(m.text, m.position, m.title) for m in result.chunks] == [(m.text, m.position, "") for m in expected]
    assert [m.document for m in result.chunks] == [m.document.removeprefix("d") for m in expected]
    # Without texts, the encoder is stated; without a position, there is none.
    bare = model.next(paragraphs[:4], f"{name}?vector=emb&encoder=lsa")
    assert [(m.text, m.position) for m in bare.chunks] == [("", None)] * 5 and "–" in bare.view().markdown()


def test_another_encoder_is_noticed_by_the_texts(own, model, paragraphs):
    turned = np.random.default_rng(0).normal(size=(360, 12)).astype(np.float32)
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    with pytest.raises(
        SpaceError, match=r"vectors are not those of the encoder .* \(median cosine -?0\.\d+ of 16 texts\)"
    ):
        model.next(paragraphs[:4], own("turned", turned) + COLUMNS)
    with pytest.raises(SpaceError, match=r"minilm.* vs|vs minilm"):
        model.next(paragraphs[:4], own("stated") + COLUMNS + "&encoder=minilm")


def test_unusable_tables_are_one_line(own, world, text_store, model, tmp_path):
    good, vectors = own("usable"), text_store.vectors.astype(np.float32)
    nulls, infinite = vectors.copy(), vectors.copy()
    nulls[7], infinite[5, 0] = np.nan, np.inf
    other = np.eye(8, dtype=np.float32)
    cases = (
        (good, "did not build this table. Name its columns: .*Columns: emb, body, doc, n"),
        (f"{good}?vector=em", r"has no column 'em' \(vector\).* 'emb'"),
        (f"{good}?vector=emb&text=x", r"has no column 'x' \(text\)"),
        (f"{good}?vector=doc&text=body", "not a fixed-size list of floats"),
        (f"{good}?vector=emb&text=body&position=body", "has no integers"),
        (f"{good}?vector=emb", "the encoder of its vectors is unknown"),
        (own("long", 2 * vectors) + COLUMNS, "have lengths of .* must have length 1"),
        (own("infinite", infinite) + COLUMNS, "not finite"),
        (own("nulls", nulls) + COLUMNS, "1 of 360 vectors in the column 'emb' are null"),
        (own("empty", count=0) + COLUMNS, "the table is empty"),
        (own("short", other, 8) + COLUMNS, "8 dimensions|12 dimensions"),
        (f"{good.partition('#')[0]}#none", "there is no such table"),
        (f"lancedb:{tmp_path}/none", "there is no such folder"),
        (f"{world[1].name}?vector=vector", "knows its columns"),
        (f"lancedb:{text_store.path / 'manifest.json'}", "there is no such folder"),
    )
    for name, message in cases:
        with pytest.raises((StoreError, SpaceError, InputError), match=message) as caught:
            model.next(["A text."], name)
        assert "\n" not in str(caught.value), name


def test_without_the_package_the_extra_is_named(monkeypatch, world):
    monkeypatch.setitem(__import__("sys").modules, "lancedb", None)
    with pytest.raises(MissingExtraError, match=r"lancedb: pip install 'nextvec\[lancedb\]'"):
        nextvec.open_index(world[1].name)
