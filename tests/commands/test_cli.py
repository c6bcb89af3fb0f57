"""The command line: whatever a user gets wrong is one clear line and a non-zero exit; nothing is lost, no traceback."""

import bz2
import gzip
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tyro

import nextvec
from nextvec.cli import VERBS, main
from nextvec.data.store import Store
from nextvec.recipe import Recipe, load_recipe

Capture = pytest.CaptureFixture[str]

TEXTS = [
    ("Rivers carry water from the hills to the sea, and the sea gives it back as rain upon the hills again.",),
    ("A violin has four strings, and the player's fingers decide how long the part of a string is that sounds.",),
    ("Bread rises because yeast eats sugar and gives off a gas, which the dough is too tough to let go of.",),
]


def corpus(path: Path, documents: int = 40, paragraphs: int = 9) -> Path:
    """A .jsonl file of documents whose paragraphs are all different."""
    rows = []
    for document in range(documents):
        theme = TEXTS[document % 3][0]
        words = [
            f"{theme} Remark {n} of note {document} adds the number {document * 97 + n}." for n in range(paragraphs)
        ]
        rows.append({"id": f"note-{document}", "title": f"Note {document}", "source": "notes", "paragraphs": words})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def refused(capsys: Capture, *words: str | Path) -> str:
    """Run a command that must fail with exit code 2 and one line; the line."""
    code = main([str(word) for word in words])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nextvec: ")]
    assert code == 2 and len(lines) == 1, (code, lines)
    assert "fault of nextvec" not in lines[0] and "Traceback" not in lines[0]
    return lines[0]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return corpus(tmp_path / "notes.jsonl")


def build(source: Path, out: Path, *options: str) -> tuple[str, ...]:
    return ("data", "build", str(source), "--out", str(out), "--dimensions", "16", "--quiet", *options)


def test_from_text_to_a_evaluated_model(notes: Path, tmp_path: Path, capsys: Capture) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    assert main(build(notes, store, "--val", "0.2", "--ood", "0.2")) == 0
    assert "40 documents" in capsys.readouterr().out
    assert main(["data", "check", str(store), "--json"]) == 0
    assert {finding["name"] for finding in json.loads(capsys.readouterr().out)["findings"]}
    words = [f"data.store={store}", "training.epochs=1", "training.batch_size=16", "evaluation.resamples=100"]
    assert main(["train", "demo", *words, "--out", str(run), "--quiet", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["run"] == str(run)
    for split in ("val", "ood"):
        predictors = result["evaluation"]["splits"][split]["predictors"]
        assert next(iter(predictors)) == "amn" and {"copy-last", "context-mean", "decayed-mean", "ridge"} <= set(
            predictors
        )
        assert set(predictors["amn"]["retrieval"]) >= {"r_at_1", "r_at_5", "r_at_10", "mrr"}
    assert result["evaluation"]["verdict"]["sentence"]
    assert json.loads((run / "evaluation.json").read_text()) == result["evaluation"]
    assert (run / "report.html").stat().st_size > 100_000
    assert main(["eval", str(run), "--quiet", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["splits"]["val"]["predictors"]["amn"]["cosine"] == predictors_of(result, "val")["amn"]["cosine"]
    assert main(["resume", str(run), "--quiet"]) == 0


def predictors_of(result: dict, split: str) -> dict:
    return result["evaluation"]["splits"][split]["predictors"]


def test_npz_out_and_in_again(notes: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(build(notes, tmp_path / "store")) == 0
    assert main(["data", "export", str(tmp_path / "store"), "--out", str(tmp_path / "x.npz"), "--quiet"]) == 0
    assert main(["data", "import", str(tmp_path / "x.npz"), "--out", str(tmp_path / "again"), "--quiet"]) == 0
    one, other = (nextvec.open_store(tmp_path / name) for name in ("store", "again"))
    train = one.documents.splits == 0
    assert len(other.vectors) == one.documents.rows[train & (one.documents.rows > 5)].sum()


def test_synth_and_its_verbs(tmp_path: Path, capsys: Capture) -> None:
    assert main(["data", "synth", str(tmp_path / "store"), "--preset", "small", "--scale", "0.2", "--quiet"]) == 0
    assert "synthetic" in capsys.readouterr().out
    assert "Did you mean 'production'?" in refused(capsys, "data", "synth", tmp_path / "x", "--preset", "prodction")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "missing.jsonl", "no such file"),
        (lambda path: written(path / "empty.jsonl", b""), "empty"),
        (lambda path: folder(path / "no-text"), "no "),
        (lambda path: written(path / "x.jsonl", b'{"id": "a", "text": "b"}\n{"id": '), "x.jsonl.*2"),
        (lambda path: written(path / "x.jsonl", b'{"id": "a", "body": "b"}\n'), "body"),
        (
            lambda path: written(path / "x.jsonl.gz", gzip.compress(b'{"id": "a", "text": "b"}\n' * 99)[:-12]),
            "x.jsonl.gz",
        ),
        (lambda path: written(path / "x.xml.bz2", bz2.compress(b"<mediawiki><page>" * 999)[:-12]), "x.xml.bz2"),
        (lambda path: written(path / "x.docx", b"PK"), "x.docx"),
        (lambda path: corpus(path / "few.jsonl", documents=1), "document"),
    ],
    ids=["missing", "empty", "no text", "broken line", "columns", "gz", "bz2", "kind", "few documents"],
)
def test_text_that_cannot_be_read(make: Callable[[Path], Path], message: str, tmp_path: Path, capsys: Capture) -> None:
    import re

    line = refused(capsys, *build(make(tmp_path), tmp_path / "store"))
    assert re.search(message, line), line
    assert not (tmp_path / "store").exists()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_vectors_that_cannot_be_used(tmp_path: Path, capsys: Capture, other_store: Callable[..., Store]) -> None:
    whole = tmp_path / "x.npz"
    windows = np.random.default_rng(0).normal(size=(50, 6, 8)).astype(np.float32)
    np.savez(whole, context_sequences=windows[:, :5], target_vectors=windows[:, 5])
    broken = written(tmp_path / "cut.npz", whole.read_bytes()[:-500])
    assert "cut.npz" in refused(capsys, "data", "import", broken, "--out", tmp_path / "store")
    np.savez(tmp_path / "other.npz", contexts=windows)
    assert "contexts" in refused(capsys, "data", "import", tmp_path / "other.npz", "--out", tmp_path / "store")
    windows[3, 2, 1] = np.nan
    np.savez(tmp_path / "nan.npz", context_sequences=windows[:, :5], target_vectors=windows[:, 5])
    assert "finite" in refused(capsys, "data", "import", tmp_path / "nan.npz", "--out", tmp_path / "store")
    assert not list(tmp_path.glob("store*"))


@pytest.mark.parametrize(("row", "message"), [(np.nan, "finite"), (0.0, "zero"), (3.0, "length")])
def test_a_store_with_bad_vectors_is_not_trained_on(
    row: float, message: str, toy_recipe: Recipe, other_store: Callable[..., Store], tmp_path: Path, capsys: Capture
) -> None:
    store = other_store(seed=3)
    vectors = np.load(store.path / "vectors.npy")
    vectors[7] = row
    np.save(store.path / "vectors.npy", vectors)
    words = (
        "train",
        "demo",
        f"data.store={store.path}",
        "training.batch_size=16",
        "--out",
        tmp_path / "run",
        "--quiet",
    )
    line = refused(capsys, *words)
    assert message in line.lower() and "7" in line, line
    assert not (tmp_path / "run").exists()


def test_recipes_and_models_that_do_not_exist(toy_store: Store, tmp_path: Path, capsys: Capture) -> None:
    run = ("--out", tmp_path / "run", "--quiet")
    train = ("train", "demo", f"data.store={toy_store.path}", "training.batch_size=16")
    assert "Did you mean 'demo'?" in refused(capsys, "train", "dmeo", *run)
    assert "Did you mean 'epochs'?" in refused(capsys, *train, "training.epoch=2", *run)
    assert "training.epochs" in refused(capsys, *train, "training.epochs=many", *run)
    assert "min_context" in refused(capsys, *train, "data.min_context=0", *run)
    assert "Did you mean 'transformer'?" in refused(capsys, *train, "model.kind=transfomer", *run)
    assert "training.batch_size" in refused(capsys, *train, "training.batch_size=100000", *run)
    assert "resume" not in refused(capsys, "resume", tmp_path / "run")
    assert "no such file" in refused(capsys, "eval", tmp_path / "none.pt")
    assert "Did you mean 'train'?" in refused(capsys, "trian")
    assert not (tmp_path / "run").exists()


def test_unknown_encoder(notes: Path, tmp_path: Path, capsys: Capture) -> None:
    assert "Did you mean 'minilm'?" in refused(capsys, *build(notes, tmp_path / "store", "--encoder", "minlm"))


def test_an_output_that_exists_is_left_alone(notes: Path, toy_store: Store, tmp_path: Path, capsys: Capture) -> None:
    taken = folder(tmp_path / "taken")
    kept = written(taken / "precious.txt", b"x")
    assert "exists" in refused(capsys, *build(notes, taken))
    assert "exists" in refused(capsys, "train", "demo", f"data.store={toy_store.path}", "--out", taken, "--quiet")
    assert kept.read_bytes() == b"x" and list(taken.iterdir()) == [kept]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere, so a read-only folder stops nobody")
def test_a_read_only_folder(notes: Path, tmp_path: Path, capsys: Capture) -> None:
    locked = folder(tmp_path / "locked")
    locked.chmod(0o500)
    assert "permission" in refused(capsys, *build(notes, locked / "store"))


@pytest.mark.skipif(sys.platform == "win32", reason="no file-size limit there")
def test_a_full_disk_is_one_line_and_leaves_no_run(toy_store: Store, tmp_path: Path) -> None:
    """A file-size limit stands for the full disk: the same error path, without needing one."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from nextvec.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["train", "demo", f"data.store={toy_store.path}", "training.batch_size=16", "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("nextvec: ")]
    assert done.returncode == 2 and len(lines) == 1 and "cannot write" in lines[0], done.stderr
    assert "Traceback" not in done.stderr and not list((tmp_path / "run").glob("*.tmp"))


def test_a_red_check_exits_with_2(other_store: Callable[..., Store], capsys: Capture) -> None:
    store = other_store(seed=4)
    assert main(["data", "check", str(store.path)]) == 0
    vectors = np.load(store.path / "vectors.npy")
    vectors[7] = np.nan
    np.save(store.path / "vectors.npy", vectors)
    assert main(["data", "check", str(store.path)]) == 2
    assert "■" in capsys.readouterr().out


def test_another_space_than_the_stores(
    toy_recipe: Recipe, other_store: Callable[..., Store], tmp_path: Path, capsys: Capture
) -> None:
    run = tmp_path / "run"
    words = ("train", "demo", f"data.store={toy_recipe.data.store}", "training.batch_size=16", "training.epochs=1")
    assert main([*words, "evaluation.resamples=100", "--out", str(run), "--quiet"]) == 0
    capsys.readouterr()
    line = refused(capsys, "eval", run, "--data", other_store(dimensions=8).path)
    assert "16-D" in line and "8-D" in line
    line = refused(capsys, "eval", run, "--data", other_store(encoder="other").path)
    assert "different embedding spaces" in line and "toy@1" in line and "other@1" in line


def test_short_documents_are_counted_not_fatal(tmp_path: Path, capsys: Capture) -> None:
    source = corpus(tmp_path / "notes.jsonl", documents=30)
    lines = source.read_text().splitlines()
    short = json.dumps({"id": "short", "title": "s", "source": "notes", "paragraphs": [TEXTS[0][0]]})
    source.write_text("\n".join([*lines, short]) + "\n")
    assert main(build(source, tmp_path / "store")) == 0
    capsys.readouterr()
    main(["data", "check", str(tmp_path / "store"), "--json"])  # its light is red for other reasons: tiny D
    assert "short" in json.dumps(json.loads(capsys.readouterr().out)["findings"])


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*verb.split(), "--help"])
    assert stop.value.code == 0 and "usage: nextvec" in capsys.readouterr().out


def test_help_and_errors_do_not_load_torch() -> None:
    code = (
        "import sys; from nextvec.cli import main\n"
        "try: main(['train', '--help'])\nexcept SystemExit: pass\n"
        "main(['train', 'no-such-recipe']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_exported_names_are_there() -> None:
    assert all(getattr(nextvec, name) is not None for name in nextvec.__all__)
    assert {name.replace(" ", "_") for name in VERBS} <= set(nextvec.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tran'"):
        nextvec.tran  # noqa: B018


@pytest.mark.parametrize(
    "words",
    [
        [], ["a", "b"], ["a", "--once", "--every", "5"], ["--web", "--port", "80", "--host", "0.0.0.0", "a"],
        ["--every=5", "a"], ["--no-once"], ["--", "a"],
    ],
)  # fmt: skip
def test_arguments_that_are_read_without_tyro_are_read_as_by_tyro(
    words: list[str],
) -> None:
    from nextvec import cli
    from nextvec.commands.watch import watch

    plain = cli._read_plainly(watch, words)
    read_by_tyro = tyro.cli(_recorder(watch), args=words)
    assert plain is None or bound(watch, *plain) == read_by_tyro
    assert (plain is None) == any(word in ("--every=5", "--no-once", "--") for word in words)


def _recorder(verb: Callable[..., object]) -> Callable[..., object]:
    """A verb of the same arguments that returns what it was given."""
    from nextvec import cli

    def record(*words: object, **options: object) -> object:
        return bound(verb, words, options)

    for name in ("__doc__", "__name__", "__annotations__"):
        setattr(record, name, getattr(verb, name))
    record.__signature__ = inspect.signature(verb)  # type: ignore[attr-defined]
    return cli._without_result_hint(record)


def bound(verb: Callable[..., object], words: Sequence[object], options: dict[str, object]) -> dict[str, object]:
    """Name → value of a verb's arguments, the defaults among them."""
    found = inspect.signature(verb).bind(*words, **options)
    found.apply_defaults()
    return dict(found.arguments)


def test_overrides_may_follow_flags(toy_store: Store, tmp_path: Path) -> None:
    store, run = f"data.store={toy_store.path}", str(tmp_path / "run")
    words = ["--quiet", store, "--out", run, "training.epochs=1", "--lr", "0.01", "training.batch_size=64"]
    assert main(["train", "demo", *words]) == 0
    recipe = load_recipe(str(tmp_path / "run" / "recipe.toml"))
    assert (recipe.training.epochs, recipe.training.batch_size, recipe.training.lr) == (1, 64, 0.01)


@pytest.mark.parametrize("words", [["--every", "soon"], ["--evry", "5"], ["--port"]])
def test_wrong_words_of_watch_are_told_by_tyro(words: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["watch", *words])
    assert stop.value.code == 2 and words[0] in capsys.readouterr().err
