"""Building stores: content, counts, refused input, and interrupted builds that end in the same bytes."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextvec.core.table import Line
from nextvec.data.checks import check_store
from nextvec.data.chunking import Chunker
from nextvec.data.documents import Columns
from nextvec.data.encoders import store_encoder
from nextvec.data.space import Space
from nextvec.data.splits import SPLITS, SplitPlan
from nextvec.data.store import Store, blocks, build, build_config, open_store, staging, tables, unfinished_folder
from nextvec.data.store.build_config import BuildConfig
from nextvec.data.store.writer import unfinished_store
from nextvec.data.windows import index_windows
from nextvec.errors import CorpusError, InputError, MissingExtraError, OutputError, SpaceError, StoreError


def make_store(sources: Sequence[str], out: Path, **config: Any) -> Store:
    return build.build_store(BuildConfig(tuple(sources), **config), out, quiet=True)


WORDS = [f"{a}{b}{c}" for a in ("ka", "mo", "ti", "re") for b in ("lu", "sen", "dar") for c in ("", "ne", "vos", "il")]


def paragraphs(seed: int, count: int) -> list[str]:
    """Return texts of 12 words; the seed selects their frequent words."""
    rng = np.random.default_rng(seed)
    frequent = rng.choice(WORDS, 8, replace=False)
    return [" ".join(rng.choice(frequent if rng.random() < 0.6 else WORDS) for _ in range(12)) for _ in range(count)]


def corpus(documents: int = 40, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return documents of 1 to 6 paragraphs from two sources, with duplicate, short and empty ones, and rare words."""
    rows: list[dict[str, Any]] = []
    for n in range(documents):
        texts = paragraphs(1000 * seed + n, 1 + n % 6)
        if n % 7 == 3:
            texts.insert(1, rows[n // 2]["paragraphs"][0])
        if n % 5 == 2:
            texts += ["too short", ""]
        if n % 6 == 5:
            texts.append(" ".join([f"only{n}here"] * 5))
        rows.append({"id": f"doc{n}", "title": f"Title {n}", "source": "ab"[n % 4 == 3], "paragraphs": texts})
    return rows


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_jsonl(tmp_path / "corpus.jsonl", corpus())


class Hashing:
    """An encoder whose vectors depend on each text alone."""

    unknown_texts = truncated_texts = 0

    def __init__(self, name: str = "hashing", dimensions: int = 8) -> None:
        self.space = Space(name, "1", dimensions)
        self.settings = {"name": name, "precision": "float32"}
        self.texts_encoded = 0

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.texts_encoded += len(texts)
        salt = self.space.encoder
        vectors = np.array([
            np.frombuffer(hashlib.blake2b((salt + text).encode(), digest_size=self.space.dimensions).digest(), np.uint8)
            for text in texts
        ]).astype(np.float32) - 127.5  # fmt: skip
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> Hashing:
    """Make `owner/hashing` open this encoder, and `owner/other` another one."""
    encoder = Hashing()
    known = {"owner/hashing": encoder, "owner/other": Hashing("other")}
    monkeypatch.setattr(build, "open_encoder", lambda name, **_: known[name])
    return encoder


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make staged files and blocks so small that a small corpus has many."""
    monkeypatch.setattr(staging, "DOCUMENTS_PER_FILE", 6)
    monkeypatch.setattr(tables, "BLOCK_ROWS", 16)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def texts_by_document(store: Store) -> dict[str, list[str]]:
    documents, texts = store.documents, store.texts(range(len(store.vectors)))
    return {
        name: texts[first : first + rows]
        for name, first, rows in zip(documents.ids, documents.first_row, documents.rows, strict=True)
    }


def read_as(part: str) -> str:
    """Return the id in the source of a part of a document."""
    return part.partition("#")[0]


def expected_texts(
    rows: Sequence[dict[str, Any]], *, min_chars: int = 40, min_chunks: int = 1, plan: SplitPlan = SplitPlan()
) -> dict[str, list[str]]:
    """Return by brute force the documents of the store: long enough texts, cut where one repeats an earlier one."""
    documents: dict[str, list[str]] = {}
    for row in rows:
        texts = [" ".join(paragraph.split()) for paragraph in row["paragraphs"]]
        texts = [text for text in texts if text and len(text) >= min_chars]
        if len(texts) >= min_chunks:
            documents[row["id"]] = texts
    sources = {row["id"]: row["source"] for row in rows}
    seen: set[str] = set()
    parts: dict[str, dict[str, list[str]]] = {}
    for split in SPLITS:
        for name, texts in documents.items():
            if plan.split_of(name, sources[name]) != split:
                continue
            pieces: list[list[str]] = [[]]
            for text in texts:
                if text in seen:
                    pieces.append([])
                else:
                    seen.add(text)
                    pieces[-1].append(text)
            pieces = [piece for piece in pieces if piece and len(piece) >= min_chunks]
            parts[name] = {f"{name}#{n + 1}" if n else name: piece for n, piece in enumerate(pieces)}
    return {part: texts for name in documents for part, texts in parts[name].items()}


# Content


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("min_chunks", [1, 3])
def test_rows_are_the_chunks_in_order(source: str, tmp_path: Path, hashing: Hashing, min_chunks: int) -> None:
    store = make_store([source], tmp_path / "s", encoder="owner/hashing", min_chunks=min_chunks)
    expected = expected_texts(corpus(), min_chunks=min_chunks)
    assert texts_by_document(store) == expected
    flat = [text for texts in expected.values() for text in texts]
    assert store.vectors.dtype == np.float16
    assert np.array_equal(store.vectors, hashing.encode(flat).astype(np.float16))
    assert store.space == hashing.space
    assert not unfinished_folder(store.path).exists()


@pytest.mark.usefixtures("small_blocks", "hashing")
def test_all_dropped_texts_are_counted(source: str, tmp_path: Path) -> None:
    store = make_store([source], tmp_path / "s", encoder="owner/hashing", min_chunks=3)
    rows, kept = corpus(), expected_texts(corpus(), min_chunks=3)
    everything = [text for row in rows for text in row["paragraphs"]]
    counts = store.manifest["counts"]
    splits = counts.pop("splits")
    names = {name.partition("#")[0] for name in kept}
    eligible = [row["id"] for row in rows if sum(len(text) >= 40 for text in row["paragraphs"]) >= 3]
    repeated = [name for name in eligible if int(name[3:]) % 7 == 3]
    in_train = {
        split: sum(SplitPlan().split_of(name, "") == split != "train" for name in repeated) for split in SPLITS[1:]
    }
    total = sum(sum(len(text) >= 40 for text in row["paragraphs"]) for row in rows if row["id"] in eligible)
    assert counts == {
        "documents": len(kept),
        "chunks": sum(map(len, kept.values())),
        "documents_cut": len(kept) - len(names),
        "documents_read": 40,
        "documents_dropped": 40 - len(names),
        "too_short_dropped": everything.count("too short"),
        "val_in_train_dropped": counts["val_in_train_dropped"],
        "ood_in_train_dropped": in_train["ood"],
        "repeats_dropped": counts["repeats_dropped"],
        "near_duplicates_dropped": 0,
        "short_parts_dropped": counts["short_parts_dropped"],
        "listed_ids_not_found": 0,
        "unknown_texts": 0,
        "truncated_texts": 0,
    }
    dropped = ("val_in_train_dropped", "repeats_dropped", "short_parts_dropped")
    assert sum(counts[name] for name in dropped) + counts["chunks"] == total
    documents = store.documents
    for number, split in enumerate(SPLITS):
        chosen = documents.splits == number
        assert splits[split] == {"documents": int(chosen.sum()), "chunks": int(documents.rows[chosen].sum())}


@pytest.mark.usefixtures("hashing")
def test_splits_follow_the_plan(source: str, tmp_path: Path) -> None:
    plan = SplitPlan(val=0.2, ood_sources=("b",), val_ids=frozenset({"doc0", "nowhere"}), allow_unknown_ids=True)
    store = make_store([source], tmp_path / "s", encoder="owner/hashing", split=plan)
    documents = store.documents
    expected = [
        plan.split_of(read_as(name), where) for name, where in zip(documents.ids, documents.sources, strict=True)
    ]  # fmt: skip
    assert [SPLITS[split] for split in documents.splits] == expected
    assert set(expected) == set(SPLITS)
    assert store.manifest["counts"]["listed_ids_not_found"] == 1
    assert store.manifest["split"] == plan.to_dict()
    order = list(dict.fromkeys(map(read_as, documents.ids)))
    assert documents.group.tolist() == [order.index(read_as(name)) for name in documents.ids]


@pytest.mark.usefixtures("hashing")
def test_unknown_ids_of_a_list_are_refused_and_leave_nothing(source: str, tmp_path: Path) -> None:
    plan = SplitPlan(val_ids=frozenset({"doc0", "nowhere"}))
    with pytest.raises(StoreError, match=r"list of ids: 'nowhere' is not in the sources, whose ids are such as 'doc0'"):
        make_store([source], tmp_path / "s", encoder="owner/hashing", split=plan)
    assert not list(tmp_path.glob("s*"))


def test_sources_are_divided_by_size_and_kind(tmp_path: Path) -> None:
    """Small files are read together, whatever comes first; what is no file is read alone, also after an empty file."""
    empty, small, large = (tmp_path / name for name in ("empty.txt", "small.txt", "large.txt"))
    for path, size in ((empty, 0), (small, 10), (large, staging.UNIT_BYTES)):
        path.touch()
        os.truncate(path, size)
    names = [str(empty), "hf:owner/name", str(empty), str(small), str(large), str(small)]
    units = staging.divide_sources(names)
    assert [[names.index(source) for _, source in unit.sources] for unit in units] == [[0], [1], [0, 3], [4], [3]]
    assert [unit.are_files for unit in units] == [True, False, True, True, True]
    assert [origin for unit in units for origin, _ in unit.sources] == list(range(len(names)))


@pytest.mark.usefixtures("hashing")
def test_groups_are_not_divided(tmp_path: Path) -> None:
    rows = [row | {"book": f"book{n // 4}" if n < 32 else ""} for n, row in enumerate(corpus())]
    source = write_jsonl(tmp_path / "c.jsonl", rows)
    store = make_store(
        [source], tmp_path / "s", encoder="owner/hashing", columns=Columns(group="book"),
        split=SplitPlan(val=0.3, ood=0.2),
    )  # fmt: skip
    documents = store.documents
    number = {name: int(read_as(name)[3:]) for name in documents.ids}
    keys = [f"book{number[name] // 4}" if number[name] < 32 else read_as(name) for name in documents.ids]
    pairs = set(zip(keys, documents.group.tolist(), strict=True))
    assert len(pairs) == len(set(keys)) == len(set(documents.group.tolist()))
    assert len(set(zip(keys, documents.splits.tolist(), strict=True))) == len(set(keys))
    assert [SPLITS[s] for s in documents.splits] == [SplitPlan(val=0.3, ood=0.2).split_of(key, "") for key in keys]


@pytest.mark.usefixtures("hashing")
def test_limit_applies_to_each_source(tmp_path: Path) -> None:
    sources = [write_jsonl(tmp_path / f"{seed}.jsonl", corpus(9, seed=seed)) for seed in (1, 2)]
    for n, path in enumerate(sources):
        rows = [json.loads(line) | {"id": f"{n}-{line[:14]}"} for line in Path(path).read_text().splitlines()]
        write_jsonl(Path(path), rows)
    store = make_store(sources, tmp_path / "s", encoder="owner/hashing", limit=4, split=SplitPlan(val=0))
    assert [name[0] for name in dict.fromkeys(map(read_as, store.documents.ids))] == ["0"] * 4 + ["1"] * 4


@pytest.mark.usefixtures("hashing")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_vectors_have_unit_length_in_either_format(source: str, tmp_path: Path, dtype: str) -> None:
    store = make_store([source], tmp_path / "s", encoder="owner/hashing", dtype=dtype)
    assert store.vectors.dtype == dtype
    lengths = np.linalg.norm(store.vectors.astype(np.float64), axis=1)
    assert np.abs(lengths - 1).max() < (1e-3 if dtype == "float16" else 1e-6)


@pytest.mark.usefixtures("hashing")
def test_sentences_can_be_packed(source: str, tmp_path: Path) -> None:
    chunker = Chunker("sentences", min_chars=10, max_chars=150)
    store = make_store([source], tmp_path / "s", encoder="owner/hashing", chunker=chunker)
    assert store.manifest["chunker"] == chunker.to_dict()
    texts = store.texts(range(len(store.vectors)))
    assert all(10 <= len(text) <= 150 for text in texts)


# The built-in encoder


@pytest.mark.usefixtures("small_blocks")
def test_lsa_is_fitted_on_training_documents_alone(tmp_path: Path) -> None:
    rows = corpus()
    plan = SplitPlan(val=0, val_ids=frozenset({"doc5"}), ood_ids=frozenset({"doc11"}))
    rows[5]["paragraphs"] = ["valonly valword " * 5 + str(n) * 2 for n in range(3)]
    rows[11]["paragraphs"][0] += " oodonly"
    rows[12]["paragraphs"][0] += " trainonly"
    store = make_store([write_jsonl(tmp_path / "c.jsonl", rows)], tmp_path / "s", split=plan)
    encoder = store_encoder(store)
    terms = set(encoder.terms)  # type: ignore[attr-defined]
    assert "trainonly" in terms
    assert not {"valonly", "valword", "oodonly"} & terms
    assert store.manifest["counts"]["unknown_texts"] == 3 + 1  # all of doc5, and the rare words of doc11
    assert store.manifest["encoder"] == {"name": "lsa", "terms": len(terms), "dimensions": store.dimensions}
    # Without a known term, a text has the mean direction. Most of val would be dropped, so equal vectors stay.
    assert store.documents.rows[store.documents.ids.index("doc5")] == 3
    assert store.manifest["counts"]["equal_vectors_kept"] >= 2


@pytest.mark.usefixtures("small_blocks")
def test_the_encoder_of_a_store_reproduces_its_vectors(source: str, tmp_path: Path) -> None:
    store = make_store([source], tmp_path / "s", dimensions=12, dtype="float32")
    assert store.dimensions == 12
    again = store_encoder(open_store(store.path)).encode(store.texts(range(len(store.vectors))))
    assert np.abs(again - store.vectors).max() < 1e-6


def test_a_large_corpus_is_fitted_on_an_even_sample(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[list[str]] = []
    original = build.LsaEncoder.fit

    def fit(texts: Any, dimensions: int) -> Any:
        fitted.append(list(texts))
        return original(fitted[-1], dimensions)

    monkeypatch.setattr(build, "MAX_FIT_TEXTS", 20)
    monkeypatch.setattr(build.LsaEncoder, "fit", fit)
    store = make_store([source], tmp_path / "s")
    documents = store.documents
    train = [
        text
        for split, texts in zip(documents.splits, texts_by_document(store).values(), strict=True)
        for text in texts
        if SPLITS[split] == "train"
    ]
    positions = [train.index(text) for text in fitted[0]]
    assert len(positions) == 20
    assert np.diff(positions).min() >= len(train) // 20
    assert np.diff(positions).max() <= -(-len(train) // 20)


@pytest.mark.usefixtures("small_blocks")
def test_the_same_arguments_give_the_same_bytes(source: str, tmp_path: Path) -> None:
    one = make_store([source], tmp_path / "one")
    other = make_store([source], tmp_path / "other")
    assert contents(one.path) == contents(other.path)


# Repeats


def test_rows_of_val_and_ood_that_repeat_train_are_dropped_and_no_window_crosses_the_gap(
    tmp_path: Path, hashing: Hashing
) -> None:
    """The copies come first in the source, and the row in train is kept."""
    texts = {name: paragraphs(seed, 12) for seed, name in enumerate(("val", "ood", "train"), start=100)}
    texts["val"][6], texts["ood"][0] = texts["train"][3], texts["train"][4]
    rows = [{"id": name, "source": "a", "paragraphs": part} for name, part in texts.items()]
    plan = SplitPlan(val=0, val_ids=frozenset({"val"}), ood_ids=frozenset({"ood"}))
    source = write_jsonl(tmp_path / "c.jsonl", rows)
    store = make_store([source], tmp_path / "s", encoder="owner/hashing", split=plan)
    parts = {"val": texts["val"][:6], "val#2": texts["val"][7:], "ood": texts["ood"][1:], "train": texts["train"]}
    assert texts_by_document(store) == parts
    assert store.documents.group.tolist() == [0, 0, 1, 2]
    counts = store.manifest["counts"]
    assert [counts[name] for name in ("val_in_train_dropped", "ood_in_train_dropped", "repeats_dropped")] == [1, 1, 0]
    assert counts["documents_cut"] == 1
    # Windows of five vectors and their target: one in each part of val, none across the gap.
    assert len(index_windows(store.documents, "val", 5)) == 1
    # A part that is too short goes with the repeat.
    short = make_store([source], tmp_path / "t", encoder="owner/hashing", split=plan, min_chunks=6)
    assert "val#2" not in short.documents.ids and short.manifest["counts"]["short_parts_dropped"] == 5


def test_equal_vectors_of_different_texts_are_repeats(tmp_path: Path) -> None:
    """Letter case and stop words make no difference to lsa, so such rows would leak."""
    texts = {name: paragraphs(seed, 9) for seed, name in enumerate(("train", "val", "x", "y"), start=200)}
    texts["val"][4] = texts["train"][2].upper() + " and the"
    texts["x"][5] = texts["x"][1].title()
    rows = [{"id": name, "source": "a", "paragraphs": part} for name, part in texts.items()]
    plan = SplitPlan(val=0, val_ids=frozenset({"val"}))
    source = write_jsonl(tmp_path / "c.jsonl", rows)
    store = make_store([source], tmp_path / "s", split=plan)
    counts = store.manifest["counts"]
    assert (counts["val_in_train_dropped"], counts["repeats_dropped"], counts["documents_cut"]) == (1, 1, 2)
    assert texts_by_document(store)["val#2"] == texts["val"][5:]
    findings = {finding.name: finding for finding in check_store(store, 5).findings}
    assert findings["val in train"].status == findings["exact duplicates"].status == "green"


@pytest.mark.usefixtures("hashing")
def test_near_duplicates_of_train_are_dropped_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": name, "source": "a", "paragraphs": paragraphs(n, 12)} for n, name in enumerate("abcd")]
    count = 12 * len(rows)
    vectors = np.random.default_rng(0).normal(size=(count, 32)).astype(np.float32)
    vectors[12 + 5] = vectors[3] + 0.01 * vectors[40]  # row 5 of b, in val, is nearly row 3 of a, in train
    np.save(tmp_path / "v.npy", vectors)
    monkeypatch.setattr(build, "open_build_encoder", lambda *_: None)
    options: dict[str, Any] = {
        "encoder": "owner/hashing", "vectors": [str(tmp_path / "v.npy")], "dtype": "float32",
        "split": SplitPlan(val=0, val_ids=frozenset({"b"})),
    }  # fmt: skip
    source = write_jsonl(tmp_path / "c.jsonl", rows)
    assert len(make_store([source], tmp_path / "all", **options).vectors) == count
    store = make_store([source], tmp_path / "s", drop_near_duplicates=True, **options)
    assert store.manifest["counts"]["near_duplicates_dropped"] == 1
    assert store.documents.ids == ["a", "b", "b#2", "c", "d"]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.abs(store.vectors - np.delete(unit, 17, axis=0)).max() < 1e-6  # vectors stay with their texts


@pytest.mark.usefixtures("hashing")
def test_a_split_of_repeats_alone_is_refused(tmp_path: Path) -> None:
    rows = [{"id": name, "source": "a", "paragraphs": paragraphs(0, 9)} for name in "ab"]
    plan = SplitPlan(val=0, val_ids=frozenset({"b"}))
    message = "split val: would be empty. Each of its 9 chunks repeats another chunk"
    refused(
        StoreError, message, [write_jsonl(tmp_path / "c.jsonl", rows)], tmp_path / "s", encoder="owner/hashing",
        split=plan,
    )  # fmt: skip


# Precomputed embeddings


def save_embeddings(path: Path, rows: Sequence[dict[str, Any]], encoder: Hashing, scale: float = 1.0) -> str:
    """Save a row per paragraph, including short, empty and duplicate ones."""
    texts = [text for row in rows for text in row["paragraphs"]]
    np.save(path, (encoder.encode(texts) * scale).astype(np.float16))
    return str(path)


@pytest.mark.usefixtures("small_blocks")
def test_precomputed_embeddings_are_aligned_with_their_paragraphs(tmp_path: Path, hashing: Hashing) -> None:
    first, second = corpus(20), [row | {"id": f"x{row['id']}"} for row in corpus(15, seed=1)]
    second[4]["paragraphs"][0] = first[2]["paragraphs"][0]  # a duplicate from the other source
    second[5]["paragraphs"].insert(0, "   ")
    second[6]["paragraphs"].append(" ".join(["long"] * 2000))  # longer than the maximum of other builds
    sources = [write_jsonl(tmp_path / f"{n}.jsonl", rows) for n, rows in enumerate((first, second))]
    files = [
        save_embeddings(tmp_path / f"{n}.npy", rows, hashing, scale=3.0) for n, rows in enumerate((first, second))
    ]  # fmt: skip
    hashing.texts_encoded = 0
    store = make_store(sources, tmp_path / "s", encoder="owner/hashing", vectors=files, dtype="float32", min_chunks=2)
    assert hashing.texts_encoded == 64  # a sample, to verify the encoder
    rows = [
        row | {"paragraphs": [" ".join(text.split()) for text in row["paragraphs"]]} for row in [*first, *second]
    ]  # fmt: skip
    expected = expected_texts(rows, min_chars=0, min_chunks=2)
    assert texts_by_document(store) == expected
    assert "too short" in {text for texts in expected.values() for text in texts}
    texts = [text for texts in expected.values() for text in texts]
    assert np.abs(store.vectors - hashing.encode(texts)).max() < 1e-3
    assert store.manifest["counts"]["too_short_dropped"] == 0
    counts = store.manifest["counts"]
    texts_read = [text for row in rows for text in row["paragraphs"] if text and sum(map(bool, row["paragraphs"])) >= 2]
    repeats = len(texts_read) - len(set(texts_read))
    assert counts["repeats_dropped"] + counts["val_in_train_dropped"] == repeats > 0
    assert store.manifest["encoder"]["verified"] == "64 texts encoded again, mean cosine 1.000"
    assert store.space == hashing.space


def test_precomputed_embeddings_of_an_unavailable_encoder_are_not_verified(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str, **_: str) -> None:
        raise MissingExtraError("sentence-transformers", "encoders", "the encoder")

    monkeypatch.setattr(build, "open_encoder", missing)
    file = save_embeddings(tmp_path / "v.npy", corpus(), Hashing())
    store = make_store([source], tmp_path / "s", encoder="owner/hashing", vectors=[file])
    assert store.manifest["encoder"]["verified"].startswith("not verified")
    assert (store.space.encoder, store.space.revision, store.space.probes) == ("owner/hashing", "", None)


@pytest.mark.usefixtures("hashing")
def test_precomputed_embeddings_of_another_encoder_are_refused(source: str, tmp_path: Path) -> None:
    file = save_embeddings(tmp_path / "v.npy", corpus(), Hashing())
    refused(
        SpaceError, r"not from the encoder other@1 .*; 64 texts encoded again have a mean cosine of -?0\.\d+ with them",
        [source], tmp_path / "s", encoder="owner/other", vectors=[file],
    )  # fmt: skip
    wide = save_embeddings(tmp_path / "w.npy", corpus(), Hashing(dimensions=9))
    refused(
        SpaceError, "have 9 dimensions, but the encoder .* has 8", [source], tmp_path / "s", encoder="owner/other",
        vectors=[wide],
    )  # fmt: skip


@pytest.mark.usefixtures("hashing")
def test_precomputed_embeddings_need_one_row_per_paragraph(source: str, tmp_path: Path) -> None:
    count = sum(len(row["paragraphs"]) for row in corpus())
    part = sum(len(row["paragraphs"]) for row in corpus()[:10])
    file = save_embeddings(tmp_path / "v.npy", corpus(), Hashing())
    np.save(tmp_path / "short.npy", np.load(file)[:-1])
    options: dict[str, Any] = {"encoder": "owner/hashing", "split": SplitPlan(val=0)}
    message = rf"short\.npy: {count - 1} rows for {count} paragraphs of .*corpus\.jsonl"
    refused(StoreError, message, [source], tmp_path / "s", vectors=[str(tmp_path / "short.npy")], **options)
    np.save(tmp_path / "long.npy", np.load(file)[[*range(count), 0]])
    message = rf"long\.npy: {count + 1} rows for {count} paragraphs"
    refused(StoreError, message, [source], tmp_path / "s", vectors=[str(tmp_path / "long.npy")], **options)
    np.save(tmp_path / "few.npy", np.load(file)[: part - 1])
    message = rf"few\.npy: {part - 1} rows for {part} paragraphs"
    refused(StoreError, message, [source], tmp_path / "s", vectors=[str(tmp_path / "few.npy")], limit=10, **options)
    # If only the first documents are read, the file may have more rows.
    store = make_store([source], tmp_path / "s", vectors=[file], limit=10, **options)
    assert len(set(store.documents.group.tolist())) == 10


@pytest.mark.usefixtures("hashing", "small_blocks")
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_zero_and_non_finite_embeddings_are_named_by_row(source: str, tmp_path: Path, value: float) -> None:
    file = save_embeddings(tmp_path / "v.npy", corpus(), Hashing())
    array = np.load(file)
    array[101] = value
    np.save(file, array)
    refused(
        StoreError, r"vectors .*v\.npy: row 101 is zero or not finite", [source], tmp_path / "s",
        encoder="owner/hashing", vectors=[file],
    )  # fmt: skip


@pytest.mark.usefixtures("hashing")
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"encoder": "lsa"}, InputError, "the encoder lsa does not make them"),
        ({"chunker": Chunker("sentences")}, InputError, "Leave out --unit and --paragraphs"),
        ({"vectors": ["v.npy", "v.npy"]}, InputError, "2 files for 1 sources"),
        ({"vectors": ["nowhere.npy"]}, StoreError, "nowhere.npy: not a readable .npy file"),
    ],
)
def test_precomputed_embeddings_that_do_not_fit_the_configuration_are_refused(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], kind: type, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_embeddings(tmp_path / "v.npy", corpus(), Hashing())
    refused(kind, message, [source], tmp_path / "s", **{"encoder": "owner/hashing", "vectors": ["v.npy"]} | options)


# Refused input


def refused(kind: type[Exception], message: str, sources: Sequence[str], out: Path, **options: Any) -> None:
    """Expect a one-line error and no leftovers that would block the corrected command."""
    with pytest.raises(kind, match=message) as caught:
        make_store(sources, out, **options)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    assert not unfinished_folder(out).exists()


@pytest.mark.usefixtures("hashing")
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"encoder": "minillm"}, InputError, "Did you mean 'minilm'"),
        ({"dtype": "float61"}, InputError, "dtype 'float61' is unknown. Did you mean 'float16'"),
        ({"precision": "fp16"}, InputError, "precision 'fp16' is unknown"),
        ({"min_chunks": 0}, InputError, "min_chunks is 0, but must be at least 1"),
        ({"limit": 0}, InputError, "limit is 0"),
        ({"dimensions": 0}, InputError, "dimensions is 0"),
        ({"min_chunks": 100}, CorpusError, "none of the 40 documents has 100 chunks of text"),
        ({"split": SplitPlan(ood_sources=("bb",))}, StoreError, "no document has the source 'bb'. Did you mean 'b'"),
        (
            {"split": SplitPlan(ood_ids=frozenset({"x"}), allow_unknown_ids=True)},
            StoreError,
            r"split ood: would be empty \(40 documents: ",
        ),
        ({"split": SplitPlan(val_range=("x", "y"), val=0)}, StoreError, "split val: would be empty"),
        ({"split": SplitPlan(val_sources=("a", "b"))}, StoreError, "split train: would be empty .*train 0, val 40"),
        ({"limit": 1, "split": SplitPlan(val=0.01)}, StoreError, r"split val: would be empty \(1 documents: train 1"),
    ],
)
def test_impossible_configurations_are_refused(
    source: str, tmp_path: Path, options: dict[str, Any], kind: type, message: str
) -> None:
    refused(kind, message, [source], tmp_path / "deep" / "s", **{"encoder": "owner/hashing"} | options)


def test_unreadable_sources_are_refused(tmp_path: Path) -> None:
    refused(InputError, "no source of text", [], tmp_path / "s")
    refused(CorpusError, "nowhere.jsonl: no such file", [str(tmp_path / "nowhere.jsonl")], tmp_path / "s")
    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps(corpus()[0]) + "\n{oops\n")
    refused(CorpusError, r"broken\.jsonl.*\b2\b", [str(broken)], tmp_path / "s")


def test_a_missing_package_is_reported_before_any_text_is_read(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.setattr(build, "stage_chunks", None)
    message = r"pip install 'nextvec\[encoders\]'"
    refused(MissingExtraError, message, [source], tmp_path / "s", encoder="gtr-t5-base")


@pytest.mark.usefixtures("small_blocks", "hashing")
def test_a_build_survives_a_temporarily_unavailable_encoder(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(name: str, **_: str) -> None:
        raise InputError("the hub can't be reached")

    begin(source, tmp_path / "s", monkeypatch)
    before = contents(unfinished_folder(tmp_path / "s"))
    with monkeypatch.context() as patch, pytest.raises(InputError, match="the hub can't be reached"):
        patch.setattr(build, "open_encoder", away)
        make_store([source], tmp_path / "s", encoder="owner/hashing")
    assert contents(unfinished_folder(tmp_path / "s")) == before


@pytest.mark.usefixtures("small_blocks", "hashing")
def test_a_build_survives_a_source_that_fails_late(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = make_store([source], tmp_path / "unbroken", encoder="owner/hashing")
    with monkeypatch.context() as patch, pytest.raises(CorpusError, match="the network is down"):
        interrupt(patch, staging, "_stage_document", 15, CorpusError("the network is down"))
        make_store([source], tmp_path / "s", encoder="owner/hashing")
    assert len(staging.staged_files(unfinished_folder(tmp_path / "s") / "staged")) == 2
    store = make_store([source], tmp_path / "s", encoder="owner/hashing")
    assert contents(store.path) == contents(unbroken.path)


@pytest.mark.usefixtures("hashing")
def test_existing_files_are_never_overwritten(source: str, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(OutputError, match="already exists"):
        make_store([source], tmp_path / "s", encoder="owner/hashing")
    assert not unfinished_folder(tmp_path / "s").exists()
    foreign = unfinished_folder(tmp_path / "t")
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"already exists and was not created by a build\. Remove it"):
        make_store([source], tmp_path / "t", encoder="owner/hashing")
    assert (foreign / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("hashing")
def test_an_output_that_cannot_be_written_is_an_error(source: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*choose another output folder"):
        make_store([source], tmp_path / "file" / "s", encoder="owner/hashing")


# Interruptions


class Killed(BaseException):
    """Ends a build as a kill does, within one process."""


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, error: BaseException) -> None:
    """Let the `call`-th call of a function (counted from 0) raise instead."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = iter(range(10**9))

    def counted(*args: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise error
        return original(*args, **options)

    monkeypatch.setattr(owner, name, counted)


@pytest.mark.usefixtures("small_blocks", "hashing")
def test_a_full_disk_is_an_error_and_the_build_continues_later(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = make_store([source], tmp_path / "unbroken", encoder="owner/hashing")
    with monkeypatch.context() as patch:
        interrupt(patch, os, "posix_fallocate", 0, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(OutputError, match=r"vectors\.npy: the disk is full; free some space"):
            make_store([source], tmp_path / "s", encoder="owner/hashing")
    assert unfinished_folder(tmp_path / "s").is_dir()
    store = make_store([source], tmp_path / "s", encoder="owner/hashing")
    assert contents(store.path) == contents(unbroken.path)


@pytest.mark.usefixtures("hashing")
def test_a_filesystem_that_cannot_reserve_space_is_supported(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, os, "posix_fallocate", 0, OSError(errno.EOPNOTSUPP, "Operation not supported"))
    assert len(make_store([source], tmp_path / "s", encoder="owner/hashing").vectors)


@pytest.mark.usefixtures("small_blocks")
def test_a_continued_build_does_only_the_remaining_work(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashing: Hashing
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt(patch, staging, "_write_staged", 3, Killed())
        make_store([source], tmp_path / "s", encoder="owner/hashing")
    cut: list[str] = []
    original = staging._stage_document
    monkeypatch.setattr(staging, "_stage_document", lambda *args: cut.append(args[2].id) or original(*args))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt(patch, blocks, "_to_unit_length", 2, Killed())
        make_store([source], tmp_path / "s", encoder="owner/hashing")
    assert cut == [f"doc{n}" for n in range(3 * 6, 40)]
    hashing.texts_encoded = 0
    store = make_store([source], tmp_path / "s", encoder="owner/hashing")
    assert len(cut) == 40 - 3 * 6
    assert hashing.texts_encoded == len(store.vectors) - 2 * 16


@pytest.mark.usefixtures("small_blocks", "hashing")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"encoder": "owner/other"},
            "started with encoder owner/hashing, not owner/other. To continue it, use the same arguments",
        ),
        ({"dtype": "float32"}, "started with dtype float16, not float32"),
        ({"split": SplitPlan(val_ids=frozenset({"doc1"}))}, "started with split .*"),
        ({"chunker": Chunker(min_chars=41)}, "started with chunker "),
        ({"min_chunks": 2}, "started with min_chunks 1, not 2"),
        ({"limit": 30}, "started with limit None, not 30"),
    ],
)
def test_a_build_does_not_continue_with_other_arguments(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    begin(source, tmp_path / "s", monkeypatch)
    before = contents(unfinished_folder(tmp_path / "s"))
    with pytest.raises(StoreError, match=message) as caught:
        make_store([source], tmp_path / "s", **{"encoder": "owner/hashing"} | options)
    assert "\n" not in str(caught.value)
    assert contents(unfinished_folder(tmp_path / "s")) == before


@pytest.mark.usefixtures("small_blocks", "hashing")
def test_a_build_does_not_continue_with_another_version_of_the_sentence_splitter(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(source, tmp_path / "s", monkeypatch)
    monkeypatch.setattr(build_config, "version", lambda package: "99" if package == "sentencex" else version(package))
    with pytest.raises(StoreError, match=rf"started with sentencex {version('sentencex')}, not 99"):
        make_store([source], tmp_path / "s", encoder="owner/hashing")


def begin(source: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a build and kill it in the middle of the vectors."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt(patch, blocks, "_to_unit_length", 2, Killed())
        make_store([source], out, encoder="owner/hashing")


@pytest.mark.usefixtures("small_blocks", "hashing")
def test_a_build_does_not_continue_with_another_id_list_of_the_same_length(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = [SplitPlan(val_ids=frozenset({name})) for name in ("doc1", "doc2")]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt(patch, blocks, "_to_unit_length", 1, Killed())
        make_store([source], tmp_path / "s", encoder="owner/hashing", split=plans[0])
    with pytest.raises(StoreError, match="started with val ids"):
        make_store([source], tmp_path / "s", encoder="owner/hashing", split=plans[1])


@pytest.mark.usefixtures("small_blocks", "hashing")
def test_a_build_does_not_continue_with_a_changed_source(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(source, tmp_path / "s", monkeypatch)
    write_jsonl(Path(source), corpus(41))
    with pytest.raises(StoreError, match=r"corpus\.jsonl has changed since this build started\. .*add --restart"):
        make_store([source], tmp_path / "s", encoder="owner/hashing")


@pytest.mark.usefixtures("small_blocks")
def test_a_build_does_not_continue_with_a_changed_encoder(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashing: Hashing
) -> None:
    begin(source, tmp_path / "s", monkeypatch)
    hashing.settings["precision"] = "bfloat16"
    with pytest.raises(StoreError, match=r"its vectors were made by .*float32.*, but the encoder is now .*bfloat16"):
        make_store([source], tmp_path / "s", encoder="owner/hashing")
    hashing.settings["precision"] = "float32"
    assert len(make_store([source], tmp_path / "s", encoder="owner/hashing").vectors)


@pytest.mark.usefixtures("small_blocks", "hashing")
@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"arguments": 1, "done": {}}'])
def test_a_damaged_journal_is_an_error(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    begin(source, tmp_path / "s", monkeypatch)
    (unfinished_folder(tmp_path / "s") / "build.json").write_text(text)
    with pytest.raises(StoreError, match=r"build\.json: is damaged\. Start again with --restart"):
        make_store([source], tmp_path / "s", encoder="owner/hashing")


@pytest.mark.usefixtures("small_blocks")
def test_two_builds_do_not_write_one_store(source: str, tmp_path: Path, hashing: Hashing) -> None:
    """The second is started while the first encodes."""
    original, refusals = hashing.encode, []

    def encode(texts: Sequence[str]) -> np.ndarray:
        with pytest.raises(OutputError, match="another build is running there") as caught:
            make_store([source], tmp_path / "s", encoder="owner/hashing")
        refusals.append(caught.value)
        return original(texts)

    hashing.encode = encode  # type: ignore[method-assign]
    make_store([source], tmp_path / "s", encoder="owner/hashing")
    assert refusals


# Short documents


def test_documents_too_short_for_a_window_are_reported_with_remedies(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for n in range(20):  # one paragraph a line, without blank lines
        lines = [f"{text.capitalize()}." for text in paragraphs(n, 14)]
        (folder / f"{n}.txt").write_text("\n".join(lines))
    store = make_store([str(folder)], tmp_path / "s", dimensions=8)
    short = store.manifest["short_documents"]
    assert (short["documents"], short["short"]) == (20, 20)
    assert "--paragraphs lines (20 documents" in short["remedy"] and "--unit sentences" in short["remedy"]
    assert "--group-by" not in short["remedy"]  # these are no rows
    finding = next(finding for finding in check_store(store, 5).findings if finding.name == "train windows")
    assert finding.status == "red" and finding.remedy == short["remedy"]
    # Both remedies work.
    for name, chunker in {"l": Chunker(paragraphs="lines"), "u": Chunker("sentences", max_chars=200)}.items():
        longer = make_store([str(folder)], tmp_path / name, dimensions=8, chunker=chunker)
        assert longer.documents.rows.min() >= 6 and "short_documents" not in longer.manifest


@pytest.mark.parametrize(("limit", "has_remedy"), [(10_000, None), (94, False), (80, True)])
def test_truncated_texts_are_reported_and_many_of_them_with_a_remedy(
    tmp_path: Path, hashing: Hashing, monkeypatch: pytest.MonkeyPatch, limit: int, has_remedy: bool | None
) -> None:
    encode = hashing.encode

    def encode_beginnings(texts: Sequence[str]) -> np.ndarray:
        hashing.truncated_texts += sum(len(text) > limit for text in texts)
        return encode(texts)

    monkeypatch.setattr(hashing, "encode", encode_beginnings)
    hashing.settings["max_tokens"] = 128
    source = write_jsonl(tmp_path / "corpus.jsonl", [{"id": str(n), "paragraphs": paragraphs(n, 5)} for n in range(20)])
    store = make_store([source], tmp_path / "s", encoder="owner/hashing")
    texts = store.texts(range(len(store.vectors)))
    expected = sum(len(text) > limit for text in texts)
    assert store.manifest["counts"]["truncated_texts"] == expected
    lines = [block.text for block in store.view().blocks if isinstance(block, Line) and "128 tokens" in block.text]
    if has_remedy is None:
        assert expected == 0 and not lines and "truncated_texts" not in store.manifest
        return
    facts, share = store.manifest["truncated_texts"], expected / len(texts)
    assert (facts["texts"], facts["truncated"], facts["max_tokens"]) == (len(texts), expected, 128)
    assert lines[0].startswith(f"{'' if has_remedy else 'note: '}{share:.1%} of the texts ({expected} of {len(texts)})")
    assert ("--max-chars 512" in lines[0]) == has_remedy == (share > 0.2)


def test_rows_that_are_single_chunks_can_be_grouped(tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": text} for n, text in enumerate(paragraphs(0, 30))]
    store = make_store([write_jsonl(tmp_path / "rows.jsonl", rows)], tmp_path / "s", dimensions=8)
    assert "--group-by COLUMN --order-by COLUMN" in store.manifest["short_documents"]["remedy"]


# Refused, then repaired


@pytest.mark.usefixtures("small_blocks", "hashing")
@pytest.mark.parametrize(
    "change", [{}, {"encoder": "owner/other"}, {"min_chunks": 2}, {"chunker": Chunker(min_chars=50)}], ids=str
)
def test_a_refused_build_is_never_in_the_way(source: str, tmp_path: Path, change: dict[str, Any]) -> None:
    """Nothing of the text that was staged before the bad line reaches the store that is built after the repair."""
    lines = Path(source).read_text().splitlines(keepends=True)
    Path(source).write_text("".join([*lines[:20], "{broken\n", *lines[21:]]).replace("ka", "xx"))
    with pytest.raises(CorpusError, match="line 21"):
        make_store([source], tmp_path / "s", encoder="owner/hashing")
    assert staging.staged_files(unfinished_folder(tmp_path / "s") / "staged")
    Path(source).write_text("".join(lines))
    options = {"encoder": "owner/hashing"} | change
    repaired = make_store([source], tmp_path / "s", **options)
    assert contents(repaired.path) == contents(make_store([source], tmp_path / "fresh", **options).path)
    assert not unfinished_folder(repaired.path).exists()


@pytest.mark.usefixtures("small_blocks", "hashing")
def test_a_refused_build_is_not_in_the_way_of_another_command(source: str, tmp_path: Path) -> None:
    Path(source).write_text(Path(source).read_text() + "{broken")
    with pytest.raises(CorpusError):
        make_store([source], tmp_path / "s", encoder="owner/hashing")
    with unfinished_store(tmp_path / "s") as folder:
        assert not list(folder.iterdir())


@pytest.mark.usefixtures("small_blocks", "hashing")
def test_a_build_that_failed_by_a_fault_is_not_in_the_way(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(UnicodeError):
        interrupt(patch, staging, "_stage_document", 15, UnicodeError("a name"))
        make_store([source], tmp_path / "s", encoder="owner/hashing")
    assert make_store([source], tmp_path / "s", encoder="owner/hashing", min_chunks=2)


@pytest.mark.usefixtures("small_blocks", "hashing")
def test_a_killed_build_starts_again_on_request(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(source, tmp_path / "s", monkeypatch)
    write_jsonl(Path(source), corpus(30, seed=3))
    with pytest.raises(StoreError, match="--restart"):
        make_store([source], tmp_path / "s", encoder="owner/hashing")
    config = BuildConfig((source,), encoder="owner/hashing")
    store = build.build_store(config, tmp_path / "s", restart=True, quiet=True)
    assert contents(store.path) == contents(make_store([source], tmp_path / "t", encoder="owner/hashing").path)


@pytest.mark.usefixtures("small_blocks", "hashing")
def test_staged_text_of_another_version_of_a_dataset_is_not_used(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dataset of the hub has no file on this machine that could show the change."""
    monkeypatch.setattr(build_config, "stamp_files", lambda names: {})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt(patch, staging, "_write_staged", 3, Killed())
        make_store([source], tmp_path / "s", encoder="owner/hashing")
    write_jsonl(Path(source), corpus()[1:])
    store = make_store([source], tmp_path / "s", encoder="owner/hashing")
    assert contents(store.path) == contents(make_store([source], tmp_path / "t", encoder="owner/hashing").path)


DRIVER = '''
"""Build in forked children that kill themselves at the n-th change of the disk; print how each ended."""
import json, os, signal, sys
from pathlib import Path

import pyarrow.dataset, pyarrow.pandas_compat, scipy.linalg, sklearn.feature_extraction.text  # once for all children

from nextvec.core import files
from nextvec.data.store import blocks, build, build_config, staging, tables, writer
from nextvec.data.splits import SplitPlan
from nextvec.errors import OutputError

staging.DOCUMENTS_PER_FILE, tables.BLOCK_ROWS = 8, 30
steps, kill_at = 0, -1

def step():
    global steps
    steps += 1
    if steps - 1 == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

def counted(owner, name):
    original = getattr(owner, name)
    def call(*args, **options):
        step()
        return original(*args, **options)
    setattr(owner, name, call)

os.fsync = lambda descriptor: None  # a kill loses no written data; only a power cut would
for name in ("replace", "rename", "unlink", "rmdir", "mkdir", "link", "posix_fallocate"):
    counted(os, name)

write = writer.VectorWriter.write
def write_in_halves(self, rows, values):
    half = len(rows) // 2
    write(self, rows[:half], values[:half])
    step()
    write(self, rows[half:], values[half:])
writer.VectorWriter.write = write_in_halves

def write_block_in_halves(path, content, **options):
    def write(file):
        file.write(content[:len(content) // 2])
        file.flush()
        step()
        file.write(content[len(content) // 2:])
    files.write_atomic(path, write, **options)
blocks.write_bytes = write_block_in_halves

def child(out, point):
    """Return the exit status of a build in a child that dies at a step (-1: never), and its number of steps."""
    global kill_at
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        kill_at = point
        try:
            plan = SplitPlan(val_ids=frozenset({"doc5", "doc11", "doc17", "doc23"}))
            config = build_config.BuildConfig((source,), dimensions=10, split=plan, min_chunks=2)
            build.build_store(config, out, quiet=True)
        except OutputError as error:
            os._exit(2 if "already exists" in str(error) else 1)
        os.write(writer, str(steps).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    taken = os.read(reader, 20)
    os.close(reader)
    return os.waitstatus_to_exitcode(status), int(taken or 0)

source, folder = sys.argv[1], Path(sys.argv[2])
code, total = child(folder / "unbroken", -1)
assert code == 0
report = {"total": total, "kills": [], "crash_loop": []}
for point in [*range(0, total - 2, int(sys.argv[3])), total - 2, total - 1]:
    out = folder / f"killed_{point}"
    report["kills"].append([point, child(out, point)[0], child(out, -1)[0]])
while len(report["crash_loop"]) < 200 and report["crash_loop"][-1:] not in ([0], [2]):
    report["crash_loop"].append(child(folder / "crash_loop", 15)[0])
print(json.dumps(report))
'''


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.long)])
def test_a_build_killed_anywhere_ends_in_the_same_bytes(tmp_path: Path, every: int) -> None:
    """Kill a build at changes of the disk (folder, rename, removal, half a block), then build again."""
    source = write_jsonl(tmp_path / "corpus.jsonl", corpus(24))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, source, str(tmp_path), str(every)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    unbroken = contents(tmp_path / "unbroken")
    assert len(unbroken) == 8
    counts = json.loads(unbroken["manifest.json"])["counts"]
    assert counts["repeats_dropped"] == 4  # three by text, and a text without a known term by its vector
    assert counts["unknown_texts"] == 4  # also counted across interruptions
    assert report["total"] > 30
    points, killed, again = zip(*report["kills"], strict=True)
    assert len(points) >= report["total"] / every
    assert set(killed) == {-9}  # every kill hit
    # The last removals follow the completion of the store: then the second start may report that it exists.
    assert set(again[:-2]) == {0}
    assert set(again[-2:]) <= {0, 2}
    for point in points:
        assert contents(tmp_path / f"killed_{point}") == unbroken, f"killed at step {point}"
    *loop, last = report["crash_loop"]
    assert set(loop) == {-9}  # a build that is killed repeatedly completes in the end
    assert len(loop) > 3
    assert last in (0, 2)
    assert contents(tmp_path / "crash_loop") == unbroken
    assert not list(tmp_path.glob("*.unfinished"))
