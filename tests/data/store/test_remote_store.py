"""Stores at a URL: opened through a cache of verified files, copied complete or not at all."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

import nextvec
from nextvec.cli import main
from nextvec.core import object_storage
from nextvec.core.cache_folder import cache_folder
from nextvec.core.urls import clean_url, has_one_slash, is_url, mask_url
from nextvec.data.store import MANIFEST, Store, open_store
from nextvec.data.store.manifest import verify_store
from nextvec.errors import InputError, OutputError, StoreError
from nextvec.inference.index import open_index
from nextvec.models.checkpoint import read_checkpoint
from nextvec.training.evaluate import _train_store

URL = "memory://bucket/wiki"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEXTVEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stores"


@pytest.fixture(scope="module", autouse=True)
def memory(toy_store: Store) -> Iterator[None]:
    """The store in memory, at URL and at a second one."""
    nextvec.data_copy(toy_store.path, URL, quiet=True)
    nextvec.data_copy(URL, "memory://other/place", quiet=True)
    yield
    fsspec.filesystem("memory").rm("/", recursive=True)


def test_a_url_opens_like_a_folder(toy_store: Store, cache: Path, capsys: pytest.CaptureFixture[str]):
    store = open_store(URL)
    assert capsys.readouterr().err.startswith("downloading: ")
    assert store.url == store.name == store.to_dict()["store"] == URL and store.path.parent == cache
    assert store.store_hash == toy_store.store_hash and np.array_equal(store.vectors, toy_store.vectors)
    assert store.documents.ids == toy_store.documents.ids
    assert verify_store(store.path) == len(store.manifest["files"]) + 1
    # The second time, and under another URL, nothing is fetched; a slash at the end and the case do not matter.
    for url in (URL, "memory://other/place/", "MEMORY://bucket/wiki"):
        assert open_store(url).path == store.path and not capsys.readouterr().err
    assert {entry.name for entry in cache.iterdir()} == {store.path.name, f"{store.path.name}.json"}
    assert cache.stat().st_mode & 0o077 == 0


def test_a_store_that_was_replaced_under_its_url_is_fetched_again(
    toy_store: Store, cache: Path, tmp_path: Path, make_store
):
    folder = tmp_path / "shared"
    url = f"file://{folder}"
    nextvec.data_copy(toy_store.path, url, quiet=True)
    first = open_store(url, quiet=True)
    folder.rename(tmp_path / "old")
    replacement = make_store(tmp_path / "replacement", seed=7)
    nextvec.data_copy(replacement.path, url, quiet=True)
    second = open_store(url, quiet=True)
    assert first.store_hash == toy_store.store_hash != second.store_hash == replacement.store_hash
    assert first.path != second.path and verify_store(first.path)


def test_a_copy_whose_file_changed_its_size_is_mended(cache: Path):
    store = open_store(URL, quiet=True)
    content = (store.path / "vectors.npy").read_bytes()
    (store.path / "documents.parquet").unlink()
    (store.path / "vectors.npy").write_bytes(content[:-1])
    with pytest.raises(StoreError, match="is not in the cache"):
        open_store(URL, download=False)
    assert verify_store(open_store(URL, quiet=True).path) and open_store(URL, download=False).url


def test_the_deep_check_finds_a_changed_copy(cache: Path):
    store = open_store(URL, quiet=True)
    file = store.path / "vectors.npy"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError, match=f"vectors.npy has changed.*Remove {store.path}, the local copy of {URL}"):
        nextvec.data_check(URL, deep=True, quiet=True)


def test_a_run_records_the_url_and_resumes_from_it(
    toy_recipe, toy_store: Store, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_store
):
    url, out = f"file://{tmp_path}/shared/toy", tmp_path / "run"
    nextvec.data_copy(toy_store.path, url, quiet=True)
    changes = {"data.store": url, "data.ood": url, "training.epochs": 1}
    run = nextvec.train(toy_recipe, changes, out=out, force=True, quiet=True)
    recipe = nextvec.load_recipe(out / "recipe.toml")
    assert recipe.data.store == recipe.data.ood == url
    started = json.loads((out / "events.jsonl").read_text().splitlines()[0])
    assert started["recipe"]["data"]["store"] == url and started["store_hash"] == toy_store.store_hash
    assert str(cache) not in (out / "events.jsonl").read_text()
    # Another machine has another cache.
    monkeypatch.setenv("NEXTVEC_CACHE", str(tmp_path / "elsewhere"))
    again = nextvec.resume(out, quiet=True)
    assert again.evaluation.splits["val"] == run.evaluation.splits["val"]
    assert (tmp_path / "elsewhere" / "stores").is_dir()
    # With other data, the store of the training is not fetched.
    monkeypatch.setenv("NEXTVEC_CACHE", str(tmp_path / "third"))
    checkpoint = read_checkpoint(out / "best_model.pt")
    assert _train_store(checkpoint, is_needed=False, quiet=True) is None
    assert not (tmp_path / "third").exists()
    # A store that was replaced is refused by its hash.
    (tmp_path / "shared").rename(tmp_path / "old")
    nextvec.data_copy(make_store(tmp_path / "other", seed=3).path, url, quiet=True)
    with pytest.raises(StoreError, match=f"store {url}: it has changed since run"):
        nextvec.resume(out, quiet=True)


def test_commands_that_read_a_store_take_a_url(cache: Path, tmp_path: Path):
    assert nextvec.data_check(URL, quiet=True).store == URL
    assert open_index(URL).name == f"store {URL}"
    assert nextvec.data_export(URL, out=tmp_path / "out.parquet", quiet=True).stat().st_size > 0
    assert nextvec.gates_suggest(URL, quiet=True)


def test_a_copy_is_complete_or_absent(toy_store: Store, tmp_path: Path, make_store):
    target = "memory://copies/a"
    first = nextvec.data_copy(toy_store.path, target, quiet=True)
    assert first.copied == first.files - 1 and nextvec.data_copy(toy_store.path, target, quiet=True).copied == 0
    memory = fsspec.filesystem("memory")
    assert not memory.exists("/copies/a/copying.json")
    other = make_store(tmp_path / "other", seed=5)
    with pytest.raises(OutputError, match="already exists, and is another one"):
        nextvec.data_copy(other.path, target, quiet=True)
    # Without its manifest, the folder is no store; the marker says whose files are in it.
    memory.mv(f"/copies/a/{MANIFEST}", "/copies/manifest")
    with pytest.raises(OutputError, match="already exists, and is not a store"):
        nextvec.data_copy(other.path, target, quiet=True)
    checksum = json.dumps({"checksum": toy_store.manifest["checksum"]}).encode()
    memory.pipe_file("/copies/a/copying.json", checksum)
    memory.rm_file("/copies/a/vectors.npy")
    with pytest.raises(OutputError, match="unfinished copy of another store"):
        nextvec.data_copy(other.path, target, quiet=True)
    with pytest.raises(StoreError, match=r"has no manifest\.json"):
        open_store(target, quiet=True)
    assert nextvec.data_copy(toy_store.path, target, quiet=True).copied == 1
    # Back to a folder of this machine, and to one that has files of others.
    nextvec.data_copy(target, tmp_path / "back", quiet=True)
    assert verify_store(tmp_path / "back") and {file.name for file in (tmp_path / "back").iterdir()} == {
        file.name for file in toy_store.path.iterdir()
    }
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not a store"):
        nextvec.data_copy(target, tmp_path / "full", quiet=True)


def test_a_url_that_lost_a_slash_is_no_folder(toy_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`Path` removes a slash: a copy must not get into a folder named ``s3:``."""
    monkeypatch.chdir(tmp_path)
    for names in ((toy_store.path, Path("s3://bucket/wiki")), ("gs:/bucket/wiki", "copy")):
        with pytest.raises(InputError, match="is a URL with one slash"):
            nextvec.data_copy(*names, quiet=True)
    assert not any(tmp_path.iterdir())


def test_the_cache_is_listed_and_cleared(cache: Path, capsys: pytest.CaptureFixture[str]):
    assert not nextvec.data_cache().stores
    store = open_store(URL, quiet=True)
    (store.path / MANIFEST).unlink()
    assert [(entry.url, entry.is_complete) for entry in nextvec.data_cache().stores] == [(URL, False)]
    open_store(URL, quiet=True)
    assert main(["data", "cache"]) == 0
    output = capsys.readouterr().out
    assert URL in output and "complete" in output and str(cache) in output
    assert nextvec.data_cache(clear=True).stores == () and not any(cache.iterdir())


def test_the_cache_folder_is_chosen_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NEXTVEC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "nextvec"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder().name == f"nextvec-{os.getuid()}"
    monkeypatch.setenv("NEXTVEC_CACHE", "~/there")
    assert cache_folder() == Path("~/there").expanduser()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("memory://nowhere/x", r"store memory://nowhere/x: has no manifest\.json"),
        ("memory://", "names nothing after 'memory://'"),
        ("s3:///", "names nothing"),
        ("file://relative/x", "is relative"),
        ("s3:/bucket/wiki", "two slashes: s3://BUCKET"),
        ("smb4://host/x", "protocol 'smb4' is unknown"),
        ("mem0ry://host/x", "Did you mean 'memory'?"),
        ("memory://a/x\n", "control character"),
        ("http://[::1/x", "malformed"),
        ("s3://KEY:SECRET@bucket/wiki", r"store s3://\*\*\*@bucket/wiki: the URL contains a key"),
        ("https://SECRET@host/wiki", "contains a key"),
        ("ftp://me:SECRET@host/wiki", "contains a key or a password"),
        ("zip://x::ftp://me:SECRET@host/a.zip", "contains a key or a password"),
        ("https://host/wiki?sig=SECRET", r"wiki\?\*\*\*: the URL has a part after"),
        ("s3://bucket/wiki#SECRET", "has a part after"),
    ],
)
def test_urls_that_cannot_be_used(name: str, message: str, cache: Path, tmp_path: Path, capsys):
    with pytest.raises(InputError, match=message) as caught:
        open_store(name)
    assert "SECRET" not in str(caught.value) and len(str(caught.value).splitlines()) == 1
    # Through a recipe, which checks its fields itself, and as an argument of a command.
    for argv in (["train", "demo", f"data.store={name}", "--out", str(tmp_path / "run")], ["data", "copy", name, name]):
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert "SECRET" not in error and len(error.splitlines()) == 1 and "internal" not in error
    assert not (tmp_path / "run").exists() and not cache.exists()


@pytest.mark.parametrize("command", ["data build x --out {}", "data synth {}", "train demo --out {}", "demo --out {}"])
def test_results_are_not_written_to_a_url(command: str, capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command.format("s3://me:SECRET@bucket/x").split()) == 2
    assert "SECRET" not in capsys.readouterr().err
    assert main(command.format("s3://bucket/x").split()) == 2
    assert "out s3://bucket/x: is a URL" in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_missing_packages_are_named(cache: Path, monkeypatch: pytest.MonkeyPatch):
    def no_package(protocol: str) -> None:
        raise ImportError(f"Install the package of {protocol}")

    monkeypatch.setattr("fsspec.core.get_filesystem_class", no_package)
    for url, message in (
        ("s3://bucket/x", r"store s3://bucket/x needs the package s3fs: pip install 'nextvec\[s3\]'"),
        ("gs://bucket/x", r"needs the package gcsfs: pip install 'nextvec\[gcs\]'"),
        ("az://bucket/x", "Install the package of az"),
    ):
        with pytest.raises(InputError, match=message):
            open_store(url)


def test_what_is_a_url():
    assert is_url("s3://a/b") and is_url("simplecache::gs://a") and not is_url("notes::2024") and not is_url("hf:x")
    assert not is_url("/a/b") and not is_url("openai:http://host#m") and not is_url(Path("s3://a"))
    assert has_one_slash(str(Path("s3://a/b"))) and not has_one_slash("s3://a") and not has_one_slash("hf:/a")
    assert clean_url("S3://Bucket/Wiki/") == "s3://Bucket/Wiki" and clean_url("sftp://me@host/x") == "sftp://me@host/x"
    assert mask_url("ftp://a:b@h/x?c#d") == "ftp://***@h/x?***"
    assert object_storage.StorageFolder("memory://a/b").path is None
