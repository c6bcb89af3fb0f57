"""Every command that reads a model refuses a missing, damaged or hostile one in one line, with exit code 2."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import nextvec
from nextvec.cli import main
from nextvec.core.files import sha256_of

TEXT = [f"Paragraph {n} of a text about boats, tides, ovens and the moon at night." for n in range(8)]
FILES = (
    "config.json", "model.safetensors", "baselines.safetensors", "seen_rows.safetensors", "encoder/terms.json",
    "encoder/idf.npy", "encoder/components.npy", "encoder/mean.npy",
)  # fmt: skip


@pytest.fixture(scope="module")
def exported(text_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    nextvec.export(text_run, folder)
    return folder


@pytest.fixture
def bad(exported, text_run, text_store, tmp_path, monkeypatch) -> Path:
    """A copy of the exported model, to be damaged, in a folder with `article.txt`, `run` and `store`."""
    shutil.copytree(exported, tmp_path / "bad")
    (tmp_path / "article.txt").write_text("\n\n".join(TEXT))
    (tmp_path / "run").symlink_to(text_run)
    (tmp_path / "store").symlink_to(text_store.path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "bad"


def refuse(command: str, message: str, capsys) -> None:
    """Run a command, which must print one line with a message and write nothing."""
    before = sorted(Path().iterdir())
    code = main(command.split())
    out, err = capsys.readouterr()
    assert code == 2 and not out and len(err.splitlines()) == 1 and "Traceback" not in err, err
    assert re.search(message, err), err
    assert sorted(Path().iterdir()) == before, "nothing is left behind"


def record_checksums(folder: Path) -> None:
    """Make the checksums fit, as someone who means harm would."""
    values = json.loads((folder / "config.json").read_text())
    values["files"] = {name: sha256_of(folder / name) for name in values["files"]}
    (folder / "config.json").write_text(json.dumps(values))


def rewrite(name: str, change: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        change(folder / name)
        record_checksums(folder)

    return damage


def change_tensors(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return lambda file: save_file({name: change(tensor) for name, tensor in load_file(file).items()}, file)


def replace_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        make(folder / "model.safetensors")

    return damage


NPY_CLAIM = (
    b"\x93NUMPY\x01\x00v\x00{'descr': '<f2', 'fortran_order': False, 'shape': (1000000000, 12), }".ljust(127) + b"\n"
)
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a device": (replace_by(lambda f: f.symlink_to("/dev/zero")), r"can't be read \(not a regular file\)"),
    "a pipe": (replace_by(os.mkfifo), r"can't be read \(not a regular file\)"),
    "a folder": (replace_by(Path.mkdir), r"can't be read \(not a regular file\)"),
    "a link to another file": (replace_by(lambda f: f.symlink_to("/etc/hostname")), r"is damaged \(SHA-256 differs\)"),
    "a dangling link": (replace_by(lambda f: f.symlink_to("nowhere")), r"can't be read \(no such file\)"),
    "infinite baselines": (
        rewrite("baselines.safetensors", change_tensors(lambda t: t * torch.inf)),
        r"contains NaN or infinity",
    ),
    "other baselines": (rewrite("baselines.safetensors", change_tensors(lambda t: t[None])), r"has the shape"),
    "rows of another type": (rewrite("seen_rows.safetensors", change_tensors(torch.Tensor.float)), r"model .*bad"),
    "a claim of 2^40 bytes": (
        rewrite("baselines.safetensors", lambda f: f.write_bytes((2**40).to_bytes(8, "little") + b"{}")),
        r"baselines\.safetensors can't be read",
    ),
    "nested terms": (rewrite("encoder/terms.json", lambda f: f.write_text("[" * 100_000)), r"encoder .*damaged"),
    "terms by name": (rewrite("encoder/terms.json", lambda f: f.write_text('{"a": 1}')), r"encoder .*damaged"),
    "terms of numbers": (
        rewrite("encoder/terms.json", lambda f: f.write_text(json.dumps([*range(len(json.loads(f.read_text())))]))),
        r"encoder .*damaged",
    ),
    "NaN components": (
        rewrite("encoder/components.npy", lambda f: np.save(f, np.load(f) * np.float16(np.nan))),
        r"encoder .*damaged",
    ),
    "an array that runs code": (
        rewrite("encoder/idf.npy", lambda f: np.save(f, np.array([{}], object), allow_pickle=True)),
        r"encoder .*damaged",
    ),
    "a huge array": (rewrite("encoder/components.npy", lambda f: f.write_bytes(NPY_CLAIM)), r"encoder .*damaged"),
    "another encoder": (
        rewrite("encoder/mean.npy", lambda f: np.save(f, np.load(f)[::-1])),
        r"encoder .*bad",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_is_refused(name, bad, capsys):
    damage, message = HOSTILE[name]
    damage(bad)
    refuse("predict article.txt --model bad", message, capsys)


def test_each_file_is_needed_whole(bad, exported, capsys):
    for name in FILES:
        content = (bad / name).read_bytes()
        (bad / name).unlink()
        refuse("predict article.txt --model bad", r"model bad: ", capsys)
        for part in (b"", content[: len(content) // 2], content[:-2]):
            (bad / name).write_bytes(part)
            refuse("predict article.txt --model bad", r"model bad: ", capsys)
        (bad / name).write_bytes(content)
    assert main(["predict", "article.txt", "--model", "bad"]) == 0


COMMANDS = {
    "predict": "predict article.txt --model bad",
    "next": "next article.txt --model bad --index store",
    "generate": "generate article.txt --model bad --index store",
    "score": "score article.txt --model bad",
    "export": "export bad out",
    "export to onnx": "export bad out --format onnx",
    "push": "push bad ada/texts",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_refuses_a_damaged_and_a_newer_model(name, bad, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_stub")
    weights = bad / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refuse(COMMANDS[name], r"model bad: model\.safetensors is damaged", capsys)
    values = json.loads((bad / "config.json").read_text())
    (bad / "config.json").write_text(json.dumps(values | {"format": [2, 0]}))
    refuse(COMMANDS[name], r"format 2\.0, but this nextvec reads format 1\. Upgrade nextvec", capsys)


BAD_USE = {
    "export run store": r"model folder store: exists already",
    "export missing out": r"model 'missing': no such file or folder",
    "export store out": r"has neither config\.json nor best_model\.pt",
    "export run article.txt/out": r"cannot write article\.txt/out",
    "export run out --format tflite": r"format",
    "push run": r"(?i)repository",
    "push run texts": r"'texts' is not a repository of the hub\. Name it as owner/name",
    "push run ada/texts@v1": r"is not a repository of the hub",
    "next empty.txt --model run --index store": r"empty\.txt: the file has no text",
    "generate empty.txt --model run --index store": r"empty\.txt: the file has no text",
    "score empty.txt --model run": r"empty\.txt: the file has no text",
    "generate article.txt --model run --index other": r"have different embedding spaces",
    "generate article.txt --model run --index article.txt": r"article\.txt",
    "next article.txt --model run --index bad": r"bad: has no manifest\.json",
    "predict long.npy --model run": r"has 5 vectors, but model run/best_model\.pt reads at most 4",
    "predict wide.npy --model run": r"its vectors have 13 dimensions, but model run/best_model\.pt reads 12",
    "predict nan.npy --model run": r"nan\.npy|NaN|non-finite",
    "predict scaled.npy --model run": r"has length 3, but the model reads unit vectors",
}


@pytest.mark.parametrize("command", BAD_USE)
def test_unusable_input_is_refused(command, bad, make_store, capsys):
    Path("empty.txt").write_text("")
    if "other" in command:
        make_store(Path("other"), dimensions=12)
    vectors = np.eye(13, dtype=np.float32)
    np.save("long.npy", vectors[:5, :12])
    np.save("wide.npy", vectors[:4])
    np.save("nan.npy", vectors[:4, :12] * np.float32(np.nan))
    np.save("scaled.npy", vectors[:4, :12] * 3)
    refuse(command, BAD_USE[command], capsys)
