"""Files made to run code: a canary proves that none does. Files made to fill memory: bounded, one clear line."""

import bz2
import gzip
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nextvec.cli import main

Capture = pytest.CaptureFixture[str]
CODE = "import pathlib; pathlib.Path({!r}).touch()"


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.code = CODE.format(str(canary))

    def __reduce__(self):
        return exec, (self.code,)


def model_folder(folder: Path, canary: Path, **files: object) -> Path:
    """A folder as sentence-transformers reads it, with code in it that touches the canary when it is imported."""
    folder.mkdir()
    (folder / "trap.py").write_text(CODE.format(str(canary)) + "\nclass Trap:\n    pass\n")
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def checkpoint(path: Path, canary: Path) -> list[str]:
    torch.save({"model_state_dict": {"x": torch.zeros(1)}, "trap": Trap(canary)}, path / "x.pt")
    return ["eval", str(path / "x.pt"), "--data", str(path)]


def bare_pickle(path: Path, canary: Path) -> list[str]:
    (path / "x.pt").write_bytes(pickle.dumps(Trap(canary)))
    return ["eval", str(path / "x.pt"), "--data", str(path)]


def vectors(path: Path, canary: Path) -> list[str]:
    """Labels of windows, a .npy file of objects."""
    np.save(path / "x.npy", np.array([Trap(canary)], object), allow_pickle=True)
    rng = np.random.default_rng(0).normal(size=(20, 6, 4)).astype(np.float32)
    np.savez(path / "x.npz", context_sequences=rng[:, :5], target_vectors=rng[:, 5])
    return ["data", "import", str(path / "x.npz"), "--documents", str(path / "x.npy"), "--out", str(path / "out")]


def windows(path: Path, canary: Path) -> list[str]:
    trap = np.array([Trap(canary)], object)
    np.savez(path / "x.npz", context_sequences=trap, target_vectors=trap, space=trap, article_index=trap)
    return ["data", "import", str(path / "x.npz"), "--out", str(path / "out")]


def member_that_is_a_pickle(path: Path, canary: Path) -> list[str]:
    with zipfile.ZipFile(path / "x.npz", "w") as archive:
        for name in ("context_sequences", "target_vectors"):
            archive.writestr(f"{name}.npy", pickle.dumps(Trap(canary)))
    return ["data", "import", str(path / "x.npz"), "--out", str(path / "out")]


def parquet(path: Path, canary: Path) -> list[str]:
    """An extension type whose class was once unpickled from the file's schema (CVE-2023-47248), and pandas metadata."""
    trap = pickle.dumps(Trap(canary))
    field = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": trap}
    schema = pa.schema([pa.field("text", pa.binary(), metadata=field)], {b"pandas": pickle.dumps(Trap(canary))})
    pq.write_table(pa.table([pa.array([pickle.dumps(Trap(canary))])], schema=schema), path / "x.parquet")
    return ["data", "build", str(path / "x.parquet"), "--out", str(path / "out")]


def recipe(path: Path, canary: Path) -> list[str]:
    code = CODE.format(str(canary))
    (path / "x.toml").write_text(f'name = "{{__import__(\'os\')}}"\n[data]\nstore = """!!python/object:{code}"""\n')
    return [
        "train",
        str(path / "x.toml"),
        f"model.kind=__import__('builtins').exec({code!r})",
        "--out",
        str(path / "o"),
    ]


def lines(path: Path, canary: Path) -> list[str]:
    row = {"__reduce__": ["builtins.exec", CODE.format(str(canary))], "py/object": "os.system", "text": {"$eval": "1"}}
    (path / "x.jsonl").write_text(json.dumps(row) + "\n")
    return ["data", "build", str(path / "x.jsonl"), "--out", str(path / "out")]


def safetensors(path: Path, canary: Path) -> list[str]:
    """A model whose weights' header says that it is 2**62 bytes long."""
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    folder = model_folder(path / "model", canary, modules=modules, config={"model_type": "bert", "hidden_size": 8})
    (folder / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b'{"__metadata__": {}}')
    return encode_with(folder, path)


def safetensors_that_overlap(path: Path, canary: Path) -> list[str]:
    """Tensors that lie over each other and past the end of the file."""
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    folder = model_folder(path / "model", canary, modules=modules, config={"model_type": "bert", "hidden_size": 8})
    tensors = {name: {"dtype": "F32", "shape": [9], "data_offsets": [0, 1 << 40]} for name in ("a", "b")}
    header = json.dumps(tensors).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    return encode_with(folder, path)


def layers_of_its_own(path: Path, canary: Path) -> list[str]:
    modules = [{"idx": 0, "name": "0", "path": "", "type": "trap.Trap"}]
    return encode_with(model_folder(path / "model", canary, modules=modules), path)


def tokenizer_of_its_own(path: Path, canary: Path) -> list[str]:
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    auto = {
        "auto_map": {"AutoConfig": "trap.Trap", "AutoModel": "trap.Trap", "AutoTokenizer": ["trap.Trap", "trap.Trap"]}
    }
    folder = model_folder(
        path / "model", canary, modules=modules, config={"model_type": "trap", **auto},
        tokenizer_config={"tokenizer_class": "Trap", **auto},
    )  # fmt: skip
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(canary)))
    return encode_with(folder, path)


def encode_with(folder: Path, path: Path) -> list[str]:
    (path / "x.jsonl").write_text('{"id": "a", "text": "some words of a text that is long enough to be kept"}\n' * 1)
    return ["data", "build", str(path / "x.jsonl"), "--encoder", str(folder), "--out", str(path / "out")]


HOSTILE = (
    checkpoint, bare_pickle, vectors, windows, member_that_is_a_pickle, parquet, recipe, lines, safetensors,
    safetensors_that_overlap, layers_of_its_own, tokenizer_of_its_own,
)  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_no_code_of_a_file_is_run(
    make: Callable[[Path, Path], list[str]], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if make in (safetensors, safetensors_that_overlap, layers_of_its_own, tokenizer_of_its_own):
        pytest.importorskip("sentence_transformers")
    canary = tmp_path / "canary"
    words = make(tmp_path, canary)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "model"))  # even where its code could be imported
    code = main([*words, "--quiet"])
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nextvec: ")]
    assert not canary.exists(), "code was run"
    assert code == 2 and len(told) == 1, (code, told)
    assert "Traceback" not in told[0] and "internal error" not in told[0]


def test_the_canary_sings(tmp_path: Path) -> None:
    """What the traps do where they are sprung."""
    pickle.loads(pickle.dumps(Trap(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


# Bombs

READ = """
import re, sys
from pathlib import Path
from nextvec.data.readers import read_documents
from nextvec.errors import NextvecError
def peak():
    # of this program alone: getrusage's also counts the process that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
before = peak()
documents = 0
try:
    if sys.argv[1].endswith("npz"):
        from nextvec.data.npz.files import open_windows
        before = peak()
        found = open_windows(Path(sys.argv[1]))
        for _, block in found.contexts.blocks():
            block.sum()
    else:
        for document in read_documents(sys.argv[1]):
            documents += 1
    told = "read"
except NextvecError as error:
    told = str(error)
print(peak() - before, documents, told, sep="|")
"""
MEGABYTE = 2**20
MOST = 250
"""Megabytes that reading may take, import of pyarrow and all; each bomb below unpacks to 600 or more."""
measured = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is told by /proc")


Maker = Callable[[Path, int], Path]


def packed(compress: Callable[[bytes], bytes], megabytes: int, start: bytes = b"", unit: bytes = b"a") -> bytes:
    """So many megabytes of one unit, packed in members of 8 that follow each other."""
    block = compress(unit * (8 * MEGABYTE // len(unit)))
    return compress(start) + block * (megabytes // 8)


def of_one_unit(what: str, compress: Callable[[bytes], bytes], start: bytes, unit: bytes = b"a") -> Maker:
    """What makes a packed file that begins well and then repeats one unit."""

    def make(path: Path, size: int) -> Path:
        file = path / ("x.jsonl.gz" if compress is gzip.compress else "x.xml.bz2")
        file.write_bytes(packed(compress, size, start, unit))
        return file

    make.__name__ = what
    return make


one_line = of_one_unit("one_line", gzip.compress, b'{"text": "')
one_page = of_one_unit("one_page", bz2.compress, b"<mediawiki><page><revision><text>")
one_tag = of_one_unit("one_tag", bz2.compress, b'<mediawiki a="')
one_comment = of_one_unit("one_comment", bz2.compress, b"<mediawiki><!--")
many_levels = of_one_unit("many_levels", bz2.compress, b"<mediawiki>", b"<aaaaaa>")


def entities(path: Path, size: int) -> Path:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "ha" * 100}">' for n in range(9))
    (path / "x.xml").write_text(f"<!DOCTYPE m [{laughs}]><mediawiki><page>&l8;</page></mediawiki>")
    return path / "x.xml"


def zeros(path: Path, size: int) -> Path:
    """Windows that are all alike, packed a thousand times tighter than vectors are."""
    with zipfile.ZipFile(path / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, shape in (("context_sequences", (size * 256, 5, 128)), ("target_vectors", (size * 256, 128))):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
                for _ in range(int(np.prod(shape)) * 4 // MEGABYTE):
                    file.write(bytes(MEGABYTE))
    return path / "x.npz"


def long_header(path: Path, size: int) -> Path:
    """An array whose header alone is larger than memory should be."""
    with zipfile.ZipFile(path / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("context_sequences", "target_vectors"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                file.write(b"\x93NUMPY\x02\x00" + (size * MEGABYTE).to_bytes(4, "little"))
                for _ in range(size):
                    file.write(b" " * MEGABYTE)
    return path / "x.npz"


def one_cell(path: Path, size: int) -> Path:
    table = pa.table({"text": pa.array(["a" * (size * MEGABYTE)])})
    pq.write_table(table, path / "x.parquet", compression="zstd", use_dictionary=False)
    return path / "x.parquet"


def same_in_every_row(path: Path, size: int) -> Path:
    """A megabyte of text that stands in the file once and in every row."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * size, pa.int32()), pa.array(["a " * (MEGABYTE // 2)]))
    pq.write_table(pa.table({"text": column}), path / "x.parquet", compression="zstd")
    return path / "x.parquet"


BOMBS = {
    one_line: "longer than", one_page: "unsafe to read", one_tag: "unsafe to read",
    one_comment: "unsafe to read", many_levels: "unsafe to read", entities: "has a DOCTYPE",
    zeros: "decompression bomb", long_header: "decompression bomb", one_cell: "decompression bomb",
    same_in_every_row: "read",
}  # fmt: skip


def check_bomb(make: Callable[[Path, int], Path], words: str, path: Path, size: int) -> int:
    """Read a bomb in a process of its own; the megabytes that it took."""
    bomb = make(path, size)
    assert bomb.stat().st_size < 30 * MEGABYTE
    command = [sys.executable, "-c", READ, str(bomb)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    grown, _, told = done.stdout.strip().split("|", 2)
    assert words in told and "\n" not in told, told
    assert int(grown) < MOST, f"{grown} MB"
    return int(grown)


@pytest.mark.parametrize(
    "make", [one_line, one_page, one_tag, zeros, same_in_every_row], ids=lambda make: make.__name__
)
def test_a_bomb_takes_bounded_memory(make: Callable[[Path, int], Path], tmp_path: Path) -> None:
    check_bomb(make, BOMBS[make], tmp_path, 600)


@measured
@pytest.mark.long
@pytest.mark.parametrize("make", BOMBS, ids=lambda make: make.__name__)
def test_a_bomb_of_two_gigabytes_takes_bounded_memory(
    make: Callable[[Path, int], Path], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    size = 2000 if make not in (one_cell,) else 1000
    record_property("megabytes", check_bomb(make, BOMBS[make], tmp_path, size))


def test_a_pipe_in_a_folder_of_texts_is_passed_over(tmp_path: Path) -> None:
    """Reading it would never end."""
    from nextvec.data.readers import read_documents
    from nextvec.errors import CorpusError

    (tmp_path / "a.txt").write_text("words")
    os.mkfifo(tmp_path / "b.txt")
    assert [document.id for document in read_documents(str(tmp_path))] == ["a.txt"]
    with pytest.raises(CorpusError, match="not a file or folder"):
        list(read_documents(str(tmp_path / "b.txt")))
