"""The commands that use a model: texts and vectors in, tables and JSON out, one line for bad input."""

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nextvec
from nextvec.cli import main
from nextvec.data.space import Space
from nextvec.inference.model import LatentVectorModel
from nextvec.inference.model_folder import write_model_folder
from nextvec.models.registry import model_from_config

TEXT = [f"Paragraph {n} of a text about boats, tides, ovens and the moon at night." for n in range(8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, text_store, text_run) -> Path:
    """A folder with `store`, `run`, `article.txt`, and an exported 16-D model `toy`."""
    folder = tmp_path_factory.mktemp("use")
    (folder / "store").symlink_to(text_store.path)
    (folder / "run").symlink_to(text_run)
    (folder / "article.txt").write_text("\n\n".join(TEXT))
    (folder / "texts").mkdir()
    for name in "ab":
        (folder / "texts" / f"{name}.md").write_text(f"# Title {name}\n\n" + "\n\n".join(TEXT))
    network = model_from_config({"kind": "amn", "variant": "residual", "dimensions": 16}).eval()
    write_model_folder(LatentVectorModel(network, "toy", Space("toy", "1", 16), 3), folder / "toy")
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs a command in the folder; returns exit code, output and errors: ``run("next article.txt …")``."""
    monkeypatch.chdir(folder)

    def call(words: str) -> tuple[int, str, str]:
        code = main(words.split())
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


COMMANDS = {
    "predict": "predict article.txt --model run",
    "next": "next article.txt --model run --index store -k 3",
    "generate": "generate article.txt --model run --index store --steps 3",
    "score": "score article.txt --model run",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_shows_a_table_and_json(name, run):
    code, out, err = run(COMMANDS[name])
    assert code == 0 and not err and len(out.splitlines()) >= 3
    code, out, _ = run(COMMANDS[name] + " --json")
    values = json.loads(out)
    assert code == 0
    results = values["documents"] if name != "predict" else [values]
    assert len(results) == 1
    if name == "predict":
        assert values["shape"] == [1, 12] and len(values["vectors"][0]) == 12
    else:
        assert len(results[0]["chunks"]) == (8 if name == "score" else 3)


@pytest.mark.parametrize("name", COMMANDS)
def test_texts_come_from_standard_input_and_folders(name, run, monkeypatch):
    class Stdin:
        buffer = io.BytesIO("\n\n".join(TEXT).encode())

    _, expected, _ = run(COMMANDS[name] + " --json")
    monkeypatch.setattr(sys, "stdin", Stdin)
    code, out, _ = run(COMMANDS[name].replace("article.txt", "-") + " --json")
    assert code == 0 and out == expected.replace('"article"', '"standard input"')
    Stdin.buffer = io.BytesIO(b" \n\n")
    code, _, errors = run(COMMANDS[name].replace("article.txt", "-"))
    assert code == 2 and errors == "nextvec: standard input: has no text. Pass at least one paragraph.\n"
    code, out, _ = run(COMMANDS[name].replace("article.txt", "texts") + " --json")
    values = json.loads(out)
    names = values["contexts"] if name == "predict" else [item["document"] for item in values["documents"]]
    assert code == 0 and names == ["Title a", "Title b"]
    code, out, _ = run(COMMANDS[name].replace("article.txt", "texts"))
    assert code == 0 and "Title a" in out and "Title b" in out


def unit(*shape: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_vectors_come_from_npy_npz_and_parquet(run, folder):
    vectors = unit(4, 3, 16)
    np.save(folder / "v.npy", vectors)
    np.save(folder / "one.npy", vectors[0].astype(np.float16))
    np.savez(folder / "v.npz", context_sequences=vectors)
    flat = {"vector": list(vectors.reshape(-1, 16)), "document": np.repeat(["a", "b", "a", "c"], 3)}
    pq.write_table(pa.table({name: pa.array(values) for name, values in flat.items()}), folder / "v.parquet")
    pq.write_table(pa.table({"embedding": list(vectors[0, :2])}), folder / "one.parquet")
    expected = nextvec.load_model(folder / "toy").predict(vectors)
    for source, rows in (("v.npy", 4), ("v.npz", 4), ("v.parquet", 4), ("one.npy", 1)):
        code, _, _ = run(f"predict {source} --model toy --out predicted.npy")
        assert code == 0
        np.testing.assert_allclose(np.load(folder / "predicted.npy"), expected[:rows], atol=2e-3)
    assert run("predict one.parquet --model toy --json")[0] == 0
    code, out, _ = run("predict v.npy --model toy --output query --out q.npy --json")
    assert json.loads(out)["path"] == "q.npy" and np.load(folder / "q.npy").shape == (4, 16)


BAD = {
    "predict v8.npy --model toy": r"its vectors have 8 dimensions, but model toy reads 16",
    "predict long.npy --model toy": r"has 4 vectors, but model toy reads at most 3",
    "predict object.npy --model toy": r"vectors object\.npy: not a readable \.npy file",
    "predict half.npy --model toy": r"vectors half\.npy: not a readable \.npy file",
    "predict ragged.parquet --model toy": r"column 'vector' have several lengths",
    "predict torn.parquet --model toy": r"not a readable \.parquet file",
    "predict other.npz --model toy": r"has no member context_sequences",
    "predict space.npz --model toy": r"have different embedding spaces",
    "predict missing.npy --model toy": r"missing\.npy: no such file",
    "predict article.txt --model toy": r"encoder .*/toy': .* has no modules\.json",
    "predict empty.txt --model run": r"empty\.txt: the file has no text",
    "next short.txt --model run --index store": r"no paragraph has the model's 40 characters",
    "next article.txt --model run --index other": r"have different embedding spaces",
    "next article.txt --model run --index missing": r"store missing: has no manifest\.json",
    "next article.txt --model missing --index store": r"model 'missing': no such file or folder",
    "next article.txt --model run --index store -k 0": r"k is 0, but must be at least 1",
    "generate article.txt --model run --index store --steps 0": r"steps is 0",
    "score single.txt --model run": r"single\.txt: has one chunk of text",
    "score article.txt --model run --out missing/x.html": r"cannot write missing/x\.html",
    "predict v8.npy --model damaged": r"model damaged: model\.safetensors is damaged",
}


@pytest.fixture(scope="module")
def bad_files(folder, make_store) -> None:
    np.save(folder / "v8.npy", unit(2, 3, 8))
    np.save(folder / "long.npy", unit(2, 4, 16))
    np.save(folder / "object.npy", np.array([{}], object), allow_pickle=True)
    (folder / "half.npy").write_bytes((folder / "long.npy").read_bytes()[:300])
    pq.write_table(pa.table({"vector": [[1.0, 0.0], [1.0]]}), folder / "ragged.parquet")
    (folder / "torn.parquet").write_bytes(b"PAR1 and nothing else")
    np.savez(folder / "other.npz", x=unit(2, 3))
    space = json.dumps(Space("other", "1", 16).to_dict())
    np.savez(folder / "space.npz", context_sequences=unit(2, 3, 16), space=np.array([space]))
    (folder / "empty.txt").write_text(" \n")
    (folder / "short.txt").write_text("Too short.")
    (folder / "single.txt").write_text(TEXT[0])
    make_store(folder / "other", dimensions=12)
    write_model_folder(nextvec.load_model(folder / "toy"), folder / "damaged")
    weights = folder / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_line_and_exit_code_2(words, run, bad_files):
    code, out, err = run(words)
    assert code == 2 and not out and len(err.splitlines()) == 1, err
    assert re.search(BAD[words], err), err


def test_the_page_of_scores_opens_in_a_browser(run, folder, visit):
    code, out, _ = run("score texts --model run --out scores.html")
    assert code == 0 and "page: scores.html" in out
    found = visit((folder / "scores.html").as_uri(), width=390)
    found.wait_for("document.querySelectorAll('.main-svg').length >= 2")
    text = found.page.inner_text("main")
    assert "Title a" in text and "Title b" in text and TEXT[1] in text
    assert found.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "it fits a phone"
    assert [url for url in found.asked if not url.startswith(("file:", "data:", "blob:"))] == []
