"""Slices of a build: independent processes, any number, any order, and the bytes of a local build."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nextvec
from nextvec.cli import main
from nextvec.core import http_client
from nextvec.data.chunking import Chunker
from nextvec.data.encoders import remote
from nextvec.data.space import Space
from nextvec.data.splits import SplitPlan
from nextvec.data.store import blocks, build, staging, tables, unfinished_folder
from nextvec.data.store.build import build_store
from nextvec.data.store.build_config import BuildConfig
from nextvec.data.store.slices import Slice, build_slice, merge_slices
from nextvec.errors import CorpusError, InputError, OutputError, ServerError, StoreError
from server_stub import ServerStub, status

ENCODED: list[str] = []
"""Texts that were encoded."""


class Numbered:
    """An encoder whose vectors depend on each text alone."""

    unknown_texts = truncated_texts = 0

    def __init__(self, name: str) -> None:
        self.space, self.settings = Space(name, "1", 16), {"name": name, "device": "cpu"}

    def encode(self, texts: list[str]) -> np.ndarray:
        ENCODED.extend(texts)
        rows = [np.random.default_rng(list(text.encode())).normal(size=16) for text in texts]
        return np.array(rows, np.float32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 8 rows: 100 paragraphs are 13 blocks."""
    ENCODED.clear()
    monkeypatch.setattr(tables, "BLOCK_ROWS", 8)
    monkeypatch.setattr(staging, "DOCUMENTS_PER_FILE", 10)
    monkeypatch.setattr(build, "open_encoder", lambda name, **_: Numbered(name))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """25 documents of 4 paragraphs."""
    file = tmp_path_factory.mktemp("slices") / "texts.jsonl"
    rows = [
        {"id": f"d{n}", "paragraphs": [f"paragraph {k} of the document number {n} about word{n * k}" for k in range(4)]}
        for n in range(25)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def config(source: str, **options: Any) -> BuildConfig:
    plan = SplitPlan(val_ids=frozenset({"d3", "d11"}))
    return BuildConfig((source,), **{"encoder": "owner/numbered", "split": plan} | options)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def local(values: BuildConfig, out: Path) -> dict[str, bytes]:
    """Return the files of a local build under the same name."""
    files = contents(build_store(values, out, quiet=True).path)
    shutil.rmtree(out)
    ENCODED.clear()
    return files


def run(values: BuildConfig, out: Path, *parts: str) -> None:
    for part in parts:
        build_slice(values, out, Slice.parse(part), quiet=True)


@pytest.mark.parametrize("options", [{}, {"encoder": "lsa", "dimensions": 10}, {"drop_near_duplicates": True}], ids=str)
def test_slices_in_any_order_end_in_the_bytes_of_a_local_build(
    source: str, tmp_path: Path, options: dict[str, Any]
) -> None:
    values, out = config(source, **options), tmp_path / "store"
    expected = local(values, out)
    run(values, out, "3/4", "1/4", "4/4")
    with pytest.raises(StoreError, match=r"lacks 3 of 13 blocks\. Run slice 2/4 again, then merge again\.$"):
        merge_slices(out, quiet=True)
    # A slice that runs again does nothing, and the last one encodes what is left.
    if "encoder" not in options:
        assert len(ENCODED) == len(set(ENCODED)) == 76
        run(values, out, "3/4")
        assert len(ENCODED) == 76
    run(values, out, "2/4")
    assert contents(merge_slices(out, quiet=True).path) == expected
    assert not unfinished_folder(out).exists()
    with pytest.raises(OutputError, match=r"already exists"):
        merge_slices(out, quiet=True)


def test_every_block_is_in_one_slice() -> None:
    for total in (0, 1, 7, 100):
        for count in (1, 2, 7, 30):
            shares = [Slice(number, count).blocks(total) for number in range(1, count + 1)]
            assert [block for share in shares for block in share] == list(range(total))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert not Slice(0, 4).blocks(100)
    for text in ("", "3", "0/0", "5/4", "-1/4", "a/b", "1/4/4", "٣/٤"):
        with pytest.raises(InputError, match=r"write it as SLICE/SLICES, such as 3/16"):
            Slice.parse(text)


def test_the_number_of_slices_may_change_and_a_local_build_may_finish(source: str, tmp_path: Path) -> None:
    values, out = config(source), tmp_path / "store"
    expected = local(values, out)
    run(values, out, "1/2", "1/5", "2/30", "27/30")
    with pytest.raises(StoreError, match=r"lacks 7 of 13 blocks\. Run slices 17/30, 19/30, .*, 30/30 again"):
        merge_slices(out, quiet=True)
    assert len(ENCODED) == len(set(ENCODED)) == 48
    assert contents(build_store(values, out, quiet=True).path) == expected
    assert len(ENCODED) == len(set(ENCODED)) == 100
    with pytest.raises(OutputError, match="already exists"):
        run(values, out, "1/2")


def test_preparation_reads_the_text_once_for_all_slices(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, out = config(source), tmp_path / "store"
    expected = local(values, out)
    with pytest.raises(StoreError, match=r"has no slices to merge\. Encode them with .* --shard 1/N"):
        merge_slices(out, quiet=True)
    result = build_slice(values, out, Slice(0, 3), quiet=True)
    assert (result.chunks, result.missing_blocks, result.blocks, ENCODED) == (0, 13, 13, [])
    assert result.view().blocks[0].text == f"slice 0/3 of store {out}: the text is read"
    monkeypatch.setattr(build, "stage_chunks", None)  # would fail
    run(values, out, "1/3", "2/3")
    result = build_slice(values, out, Slice(3, 3), quiet=True)
    assert [block.text for block in result.view().blocks] == [
        f"slice 3/3 of store {out}: encoded 36 chunks",
        f"The store has 13 of 13 blocks. Run 'nextvec data merge {out}'.",
    ]
    assert contents(merge_slices(out, quiet=True).path) == expected


def test_slices_with_other_arguments_are_refused(source: str, tmp_path: Path) -> None:
    values, out = config(source), tmp_path / "store"
    run(values, out, "1/3")
    before = contents(unfinished_folder(out))
    for options, message in (
        (
            {"chunker": Chunker(min_chars=1)},
            r"started with chunker .*, not .*\. To continue it, use the same arguments",
        ),
        ({"dtype": "float32"}, "started with dtype float16, not float32"),
        ({"shard_bytes": 2**20}, "started with shard_bytes"),
        ({"encoder": "owner/other"}, "started with encoder owner/numbered, not owner/other"),
    ):
        with pytest.raises(StoreError, match=message):
            run(config(source, **options), out, "2/3")
        assert contents(unfinished_folder(out)) == before
    with pytest.raises(InputError, match=r"restart: would discard the work of other slices"):
        build_slice(values, out, Slice(1, 3), restart=True, quiet=True)
    # Starting again is for the preparation.
    build_slice(config(source, dtype="float32"), out, Slice(0, 3), restart=True, quiet=True)
    run(config(source, dtype="float32"), out, "1/1")
    assert merge_slices(out, quiet=True).vectors.dtype == np.float32


def test_an_encoder_with_other_settings_is_refused(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One machine has a GPU and another has none: their vectors differ."""
    values, out = config(source), tmp_path / "store"
    run(values, out, "1/3")
    monkeypatch.setattr(Numbered, "encode", None)
    other = Numbered("owner/numbered")
    other.settings["device"] = "cuda"
    monkeypatch.setattr(build, "open_encoder", lambda *_, **__: other)
    with pytest.raises(StoreError, match=r"made by .*'cpu'.*, but the encoder is now .*'cuda'"):
        run(values, out, "2/3")


def test_a_slice_is_encoded_by_one_process_and_nothing_ends_under_it(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, out = config(source), tmp_path / "store"
    expected = local(values, out)
    original, tried = blocks._to_unit_length, []

    def during(*args: Any) -> Any:
        if not tried:
            tried.append(True)
            with pytest.raises(OutputError, match=r"slice 1/2 is being encoded by another process\."):
                run(values, out, "1/2")
            for command in (lambda: merge_slices(out, quiet=True), lambda: build_store(values, out, quiet=True)):
                with pytest.raises(OutputError, match=r"another build is running there\. Wait until it ends"):
                    command()
            run(values, out, "2/2")
        return original(*args)

    monkeypatch.setattr(blocks, "_to_unit_length", during)
    run(values, out, "1/2")
    assert tried and contents(merge_slices(out, quiet=True).path) == expected


def test_a_killed_slice_continues_after_its_last_block(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, out = config(source), tmp_path / "store"
    expected = local(values, out)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(blocks, "_to_unit_length", _killed_at(4, blocks._to_unit_length))
        run(values, out, "1/2")
    run(values, out, "2/2")
    encoded = len(ENCODED)
    run(values, out, "1/2")
    assert len(ENCODED) - encoded == 48 - 4 * 8
    assert contents(merge_slices(out, quiet=True).path) == expected


def _killed_at(call: int, original: Any) -> Any:
    calls = iter(range(1000))

    def killed(*args: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return original(*args, **options)

    return killed


def test_a_killed_merge_continues(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, out = config(source), tmp_path / "store"
    expected = local(values, out)
    for owner, name in ((build, "finish_rows"), (build, "finish_store"), (tables, "write_documents")):
        run(values, out, "1/1")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, _killed_at(0, None))
            merge_slices(out, quiet=True)
        assert contents(merge_slices(out, quiet=True).path) == expected
        shutil.rmtree(out)


def test_a_damaged_block_and_lost_rows_name_their_slice(source: str, tmp_path: Path) -> None:
    values, out = config(source), tmp_path / "store"
    expected = local(values, out)
    run(values, out, "1/3", "2/3", "3/3")
    folder = unfinished_folder(out) / "encoded" / "vectors"
    (folder / "000000.npy").write_bytes((folder / "000000.npy").read_bytes()[:-1])
    # The last block has 4 rows: that of a slice that has read fewer texts.
    shutil.copy(folder / "000012.npy", folder / "000007.npy")
    shutil.copy(folder / "000012.json", folder / "000007.json")
    with pytest.raises(
        StoreError,
        match=r"000000\.npy: is damaged \(its SHA-256 differs\), and 1 other blocks are damaged\. To encode what is "
        r"damaged again, run slices 1/3, 2/3 again, then merge again\.$",
    ):
        merge_slices(out, quiet=True)
    with pytest.raises(StoreError, match=r"lacks 2 of 13 blocks\. Run slices 1/3, 2/3 again"):
        merge_slices(out, quiet=True)
    run(values, out, "1/3", "2/3")
    assert contents(merge_slices(out, quiet=True).path) == expected


def test_refused_text_leaves_nothing_in_the_way(source: str, tmp_path: Path) -> None:
    bad, out = tmp_path / "bad.jsonl", tmp_path / "store"
    bad.write_text("{broken\n")
    for part in ("1/2", "0/2"):
        with pytest.raises(CorpusError, match="line 1"):
            run(config(str(bad)), out, part)
    expected = local(config(source), tmp_path / "other" / "store")
    run(config(source), out, "1/2", "2/2")
    assert contents(merge_slices(out, quiet=True).path) == expected
    file = tmp_path / "v.npy"
    np.save(file, np.ones((100, 4), np.float32))
    with pytest.raises(InputError, match=r"vectors: nothing is encoded, so slices would save no time"):
        run(config(source, vectors=(str(file),)), tmp_path / "v", "1/2")


def test_slices_of_a_server_ask_for_no_text_twice(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(tables, "BLOCK_ROWS", 32)
    monkeypatch.setattr(http_client, "FIRST_WAIT_SECONDS", 0.005)
    monkeypatch.setattr(remote, "MAX_TEXTS", 8)
    with ServerStub() as stub:
        values, out = config(source, encoder=stub.encoder), tmp_path / "store"
        expected = local(values, out)
        stub.sent.clear()
        stub.requests.clear()
        run(values, out, "2/2")
        asked = len(stub.requests)
        stub.fault = lambda number, texts: status(403) if number >= asked + 4 else None
        with pytest.raises(ServerError, match=r"To continue the slice, run the same command again\.$"):
            run(values, out, "1/2")
        stub.fault = lambda number, texts: None
        run(values, out, "1/2")
        assert not [text for text, count in stub.sent.items() if count > 1 and text not in remote.PROBE_TEXTS]
        stub.salt = "another model"
        with pytest.raises(StoreError, match=r"the same text gets different vectors"):
            run(values, out, "1/2")
    # The merge needs no server.
    assert contents(merge_slices(out, quiet=True).path) == expected


def test_processes_that_start_together_read_the_text_once(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, count = tmp_path / "store", 4
    arguments = ["data", "build", source, "--out", str(out), "--dimensions", "10"]
    stage, readers = build.stage_chunks, tmp_path / "readers"

    def stage_slowly(*args: Any, **options: Any) -> None:
        with readers.open("a") as file:
            file.write("r")
        time.sleep(0.2)
        stage(*args, **options)

    monkeypatch.setattr(build, "stage_chunks", stage_slowly)
    children = []
    for part in range(1, count + 1):
        if not (child := os.fork()):
            try:
                os._exit(main([*arguments, "--shard", f"{part}/{count}"]))
            finally:
                os._exit(99)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * count
    assert readers.read_text() == "r"
    capsys.readouterr()
    assert main(["data", "merge", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["chunks"] == 100
    assert main(["data", "merge", str(out)]) == 2
    assert main([*arguments, "--shard", "3/2"]) == 2
    assert "shard '3/2': write it as SLICE/SLICES" in capsys.readouterr().err
    merged = nextvec.open_store(out).manifest
    shutil.rmtree(out)
    assert nextvec.data_build([source], out=out, dimensions=10, quiet=True).manifest == merged
