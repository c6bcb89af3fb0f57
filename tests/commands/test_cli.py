"""The command line: whatever a user gets wrong is one clear line and a non-zero exit; nothing is lost, no traceback."""

import bz2
import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import nextvec
from nextvec import cli
from nextvec.cli import COMMANDS, main
from nextvec.core.formatting import Status
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
    assert "internal error" not in lines[0] and "Traceback" not in lines[0]
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
    # A status is a result: the exit code is 0 unless --fail-on asks for another one.
    for words in (["eval", str(run), "--quiet"], ["diagnose", str(run)]):
        assert main([*words, "--json"]) == 0
        values = json.loads(capsys.readouterr().out.splitlines()[-1])
        status = values["verdict"]["status"] if "verdict" in values else values["status"]
        assert main([*words, "--fail-on", "red"]) == (5 if status == "red" else 0)
        assert main(["--fail-on", "amber", *words]) == (0 if status == "green" else 5)
    capsys.readouterr()
    # A run that died before its first epoch has nothing to diagnose.
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    early = tmp_path / "early"
    early.mkdir()
    (early / "events.jsonl").write_text("".join(lines[:2]))
    assert main(["diagnose", str(early)]) == 0 and main(["diagnose", str(early), "--fail-on", "amber"]) == 5
    assert "▲ Nothing to assess: the run has no epoch yet." in capsys.readouterr().out


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
def test_a_full_disk_is_one_line_and_leaves_no_run(toy_store: Store, tmp_path: Path, capsys: Capture) -> None:
    """A file-size limit stands for the full disk: the same error path, without needing one."""
    import resource  # not on Windows

    words = ["train", "demo", f"data.store={toy_store.path}", "training.batch_size=16", "--out", str(tmp_path / "run")]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        code = main(words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    errors = capsys.readouterr().err
    lines = [line for line in errors.splitlines() if line.startswith("nextvec: ")]
    assert code == 2 and len(lines) == 1 and "cannot write" in lines[0], errors
    assert "Traceback" not in errors and not list((tmp_path / "run").glob("*.tmp"))


@pytest.mark.parametrize(
    ("status", "fail_on", "code"),
    [
        ("green", None, 0), ("amber", None, 0), ("red", None, 0),
        ("green", "red", 0), ("amber", "red", 0), ("red", "red", 5),
        ("green", "amber", 0), ("amber", "amber", 5), ("red", "amber", 5),
    ],
)  # fmt: skip
def test_fail_on_decides_the_exit_code_of_a_status(status: str, fail_on: str | None, code: int) -> None:
    assert cli._exit_code(SimpleNamespace(status=Status(status)), fail_on) == code
    assert cli._exit_code(SimpleNamespace(status=Status(status), exit_code=3), fail_on) == 3, "its own code counts"
    assert cli._exit_code(SimpleNamespace(), fail_on) == 0


def test_control_characters_of_the_user_do_not_come_back(capsys: Capture) -> None:
    assert main(["train", "a\x1b[2Jb"]) == 2 and main(["\x1b[31mred"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_recipe_with_a_byte_order_mark_is_read(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "b.toml").write_bytes(b'\xef\xbb\xbfname = "marked"\n')
    assert main(["recipe", "show", str(tmp_path / "b.toml")]) == 0
    assert "marked" in capsys.readouterr().out


def test_a_checkpoint_with_python_objects_names_them_and_the_remedy(tmp_path: Path, capsys: Capture) -> None:
    values = {"model_type": "amn", "model_state_dict": {"a": torch.ones(1)}, "val_cosine": np.float64(0.5)}
    torch.save(values, tmp_path / "c.pt")
    assert main(["eval", str(tmp_path / "c.pt"), "--quiet"]) == 2
    line = capsys.readouterr().err
    assert "multiarray.scalar" in line and "\x1b" not in line and line.count("\n") == 1
    # The remedy works as it is written.
    exec(line.partition("save it again: ")[2])
    assert main(["eval", str(tmp_path / "c_clean.pt"), "--quiet"]) == 2
    assert "Python objects" not in capsys.readouterr().err


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
    assert "embedding space" in line and "toy@1" in line and "other@1" in line


def test_short_documents_are_counted_not_fatal(tmp_path: Path, capsys: Capture) -> None:
    source = corpus(tmp_path / "notes.jsonl", documents=30)
    lines = source.read_text().splitlines()
    short = json.dumps({"id": "short", "title": "s", "source": "notes", "paragraphs": [TEXTS[0][0]]})
    source.write_text("\n".join([*lines, short]) + "\n")
    assert main(build(source, tmp_path / "store")) == 0
    capsys.readouterr()
    main(["data", "check", str(tmp_path / "store"), "--json"])  # its light is red for other reasons: tiny D
    assert "short" in json.dumps(json.loads(capsys.readouterr().out)["findings"])


ALL_COMMANDS = [name for commands in COMMANDS.values() for name in commands]


@pytest.mark.parametrize("command", ALL_COMMANDS)
def test_the_help_of_a_command_describes_every_argument_in_words(command: str, capsys: Capture) -> None:
    assert main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: nextvec {command}" in text and "--json" in text
    assert not re.search(r"\b(STR|CHOICE|PATH)\b(?!\.\.\.)|None", text), "metavars are words of the domain"
    for line in text.splitlines():
        assert not re.fullmatch(r"│ *\*? *--[a-z-]+( [A-Z{][^ ]*)? *│", line) or command == "train", f"no text: {line}"


def test_choices_are_shown_as_a_set(capsys: Capture) -> None:
    main(["train", "--help"])
    assert "{amn,gru,lstm,transformer}" in capsys.readouterr().out
    main(["data", "build", "--help"])
    assert "--dtype {float16,float32}" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_the_first_help_lists_commands_in_groups_with_their_summaries(argv: list[str], capsys: Capture) -> None:
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert [text.index(heading) for heading in COMMANDS] == sorted(text.index(heading) for heading in COMMANDS)
    for summary in ("Train the model of a recipe", "Resume an interrupted run", "Watch runs while they train"):
        assert summary in text


def test_a_group_alone_lists_its_commands(capsys: Capture) -> None:
    assert main(["data"]) == 0
    text = capsys.readouterr().out
    assert "Usage: nextvec data COMMAND" in text and "Build a vector store from text" in text


def test_version_is_that_of_the_package(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == nextvec.__version__ == version("nextvec")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "unknown command 'trian'. Did you mean 'train'?"),
        (["data", "biuld"], "unknown command 'data biuld'. Did you mean 'build'?"),
        (["--versoin"], "unknown option '--versoin'. Did you mean '--version'?"),
        (["train"], "train: RECIPE is missing. See 'nextvec train --help'."),
        (["train", "demo", "--kuiet"], "train: unknown option: --kuiet. Did you mean --quiet?"),
        (["train", "demo", "--out"], "train: --out requires an argument."),
        (["data", "build", "notes"], "data build: --out is missing. See 'nextvec data build --help'."),
        (["next", "a.txt", "--model", "m", "--indx", "s"], "next: unknown option: --indx. Did you mean --index?"),
        (
            ["next", "a", "b", "--model", "m", "--index", "s"],
            "next: unexpected argument 'b'. See 'nextvec next --help'.",
        ),
        (["watch", "--every", "soon"], "watch: invalid value for --every: unable to convert 'soon' into float."),
        (["watch", "--evry", "5"], "watch: unknown option: --evry. Did you mean --every?"),
        (["data", "export", "s", "--out", "x", "--split", "vla"], "Did you mean 'val'?"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(argv: list[str], message: str, capsys: Capture) -> None:
    assert message in refused(capsys, *argv)


def test_an_internal_error_is_one_line_and_a_traceback_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("nextvec.core.events.read_events", fail)
    monkeypatch.setattr("nextvec.commands.recipe.recipe_list", fail)
    assert main(["recipe", "list"]) == 1
    line = capsys.readouterr().err
    assert line.startswith("nextvec: internal error") and "RuntimeError: two lines" in line and line.count("\n") == 1
    monkeypatch.setenv("NEXTVEC_DEBUG", "1")
    with pytest.raises(RuntimeError):
        main(["recipe", "list"])


def test_help_and_errors_do_not_load_torch() -> None:
    code = (
        "import sys; from nextvec.cli import main\n"
        "main(['train', '--help']); main(['train', 'no-such-recipe']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_exported_names_are_there() -> None:
    assert all(getattr(nextvec, name) is not None for name in nextvec.__all__)
    assert {name.replace(" ", "_") for name in ALL_COMMANDS} <= set(nextvec.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tran'"):
        nextvec.tran  # noqa: B018


def test_overrides_may_stand_anywhere_after_the_recipe(toy_store: Store, tmp_path: Path) -> None:
    store, run = f"data.store={toy_store.path}", str(tmp_path / "run")
    argv = ["--quiet", store, "--out", run, "training.epochs=1", "--lr", "0.01", "training.batch_size=64"]
    assert main(["train", "demo", *argv]) == 0
    recipe = load_recipe(str(tmp_path / "run" / "recipe.toml"))
    assert (recipe.training.epochs, recipe.training.batch_size, recipe.training.lr) == (1, 64, 0.01)


def test_the_last_value_of_a_repeated_option_counts(toy_store: Store, tmp_path: Path, capsys: Capture) -> None:
    first, last = str(tmp_path / "first.npz"), str(tmp_path / "last.npz")
    argv = ["data", "export", str(toy_store.path), "--out", first, "--out", last, "--quiet"]
    assert main(argv) == 0
    assert not Path(first).exists() and Path(last).exists()


def test_recipe_list_names_every_shipped_recipe(capsys: Capture) -> None:
    assert main(["recipe", "list", "--json"]) == 0
    recipes = json.loads(capsys.readouterr().out)["recipes"]
    assert {"demo", "amn-790k-production", "wiki-minilm"} <= set(recipes) and all(recipes.values())
    assert main(["recipe", "list"]) == 0
    assert "amn-790k-production" in capsys.readouterr().out


def test_recipe_show_resolves_values_and_explains_every_field(capsys: Capture) -> None:
    assert main(["recipe", "show", "amn-790k-production", "training.epochs=7", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    fields = {field["name"]: field for field in shown["fields"]}
    assert fields["training.epochs"]["value"] == 7 == shown["recipe"]["training"]["epochs"]
    assert fields["objective.tau"]["value"] == 0.07 and fields["gates.0.metric"]["value"]
    assert all(field["meaning"] for field in fields.values())
    assert main(["recipe", "show", "demo"]) == 0
    assert "training.epochs" in capsys.readouterr().out
    assert "Did you mean 'demo'?" in refused(capsys, "recipe", "show", "dmeo")


def test_ctrl_c_is_reported(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("nextvec.inference.load.load_model", interrupt)
    assert main(["predict", "x.npy", "--model", "m"]) == 130
    assert capsys.readouterr().err == "nextvec: interrupted\n"
