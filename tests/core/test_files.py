"""A reader sees the old bytes or the new ones; what can't be written is one clear line and harms nothing."""

import errno
import hashlib
import math
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.core import files
from nextvec.core.files import (
    keep_copy,
    lock,
    make_folder,
    sha256_of,
    write_all,
    write_atomic,
    write_bytes,
    write_json,
    write_text,
    writing,
)
from nextvec.errors import OutputError


@settings(deadline=None, max_examples=30)
@given(st.binary(max_size=5000))
def test_bytes_are_written_and_hashed(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("files") / "x.bin"
    write_bytes(path, b"old")
    write_bytes(path, content)
    assert path.read_bytes() == content
    assert sha256_of(path) == hashlib.sha256(content).hexdigest()
    assert list(path.parent.iterdir()) == [path], "no temporary file is left"


def test_text_is_utf8_and_json_ends_with_a_line(tmp_path):
    write_text(tmp_path / "x.txt", "Zürich × 東京")
    assert (tmp_path / "x.txt").read_bytes() == "Zürich × 東京".encode()
    write_json(tmp_path / "x.json", {"é": [1, None]})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n  "é": [\n    1,\n    null\n  ]\n}\n'


@pytest.mark.parametrize("value", [math.nan, math.inf, {"x": [-math.inf]}])
def test_json_refuses_what_is_not_json_and_keeps_the_old_file(tmp_path, value):
    path = tmp_path / "x.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, value)
    assert path.read_text() == "1\n" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [RuntimeError("in the middle"), KeyboardInterrupt()])
def test_a_write_that_fails_in_the_middle_leaves_the_old_bytes(tmp_path, failure):
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")

    def write(file):
        file.write(b"half of the new")
        file.flush()
        raise failure

    with pytest.raises(type(failure)):
        write_atomic(path, write)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "x.bin"
    contents = [bytes([number]) * 200_000 for number in range(2)]
    write_bytes(path, contents[0])
    seen = []

    def read():
        while not done.is_set():
            seen.append(path.read_bytes())

    done = threading.Event()
    reader = threading.Thread(target=read)
    reader.start()
    for number in range(40):
        write_bytes(path, contents[number % 2])
    done.set()
    reader.join()
    assert seen and all(content in contents for content in seen)


def test_a_killed_writer_leaves_the_old_bytes(tmp_path):
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom nextvec.core.files import write_atomic\n"
        "write_atomic(Path(sys.argv[1]), lambda file: (file.write(b'half'), file.flush(), os._exit(9)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert path.read_bytes() == b"old"
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path], "the leftover is taken over"


def test_bytes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    calls = []
    path = tmp_path / "x.bin"
    sync, replace = os.fsync, type(path).replace
    monkeypatch.setattr(files.os, "fsync", lambda handle: (calls.append("sync"), sync(handle)))
    monkeypatch.setattr(type(path), "replace", lambda *names: (calls.append("rename"), replace(*names))[1])
    write_bytes(path, b"x")
    assert calls == ["sync", "rename", "sync"], "the file, its name, the folder"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full; free some space and run the command again"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the disk is read-only; choose another output folder"),
        (errno.EACCES, "no permission to write there; choose another output folder"),
        (errno.EFBIG, "the file-size limit is reached"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_reasons_are_told_in_one_line(tmp_path, number, words):
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")

    def write(file):
        file.write(b"half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(OutputError) as raised:
        write_atomic(path, write)
    assert str(raised.value).startswith(f"cannot write {path}: ") and words in str(raised.value)
    assert "\n" not in str(raised.value) and raised.value.exit_code == 2
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_an_output_error_inside_keeps_its_own_words(tmp_path):
    with pytest.raises(OutputError, match=r"^exactly this$"), writing(tmp_path):
        raise OutputError("exactly this")


def test_a_missing_folder_and_a_file_in_the_way(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        write_bytes(tmp_path / "gone" / "x", b"")
    write_bytes(tmp_path / "file", b"x")
    with pytest.raises(OutputError, match="a part of the path is a file, not a folder"):
        write_bytes(tmp_path / "file" / "x", b"")
    with pytest.raises(OutputError, match="a part of the path is a file, not a folder"):
        make_folder(tmp_path / "file" / "x")


def test_a_copy_is_kept_in_one_step_and_may_be_kept_again(tmp_path, monkeypatch):
    path, copy = tmp_path / "x.bin", tmp_path / "before.bin"
    for disk_knows_links in (True, False):
        if not disk_knows_links:
            monkeypatch.setattr(files.os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
        write_bytes(path, b"old")
        for _ in range(2):  # the second time both are names of one file
            keep_copy(path, copy)
            assert copy.read_bytes() == b"old" and sorted(tmp_path.iterdir()) == [copy, path], "no litter"
        write_bytes(path, b"new")
        assert copy.read_bytes() == b"old", "the copy does not follow"
    with pytest.raises(OutputError, match="cannot write"):
        keep_copy(tmp_path / "gone", copy)
    assert copy.read_bytes() == b"old"


def test_a_short_write_goes_on(tmp_path, monkeypatch):
    """A disk that fills up takes a part of a line without an error; the rest must follow, or the reason be told."""
    write = os.write
    monkeypatch.setattr(files.os, "write", lambda descriptor, content: write(descriptor, bytes(content[:3])))
    with (tmp_path / "x").open("wb") as file:
        write_all(file.fileno(), b"0123456789")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_a_lock_keeps_others_out_until_it_is_closed(tmp_path):
    first, second = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    lock(first, "busy")
    with pytest.raises(OutputError, match=r"^busy$"):
        lock(second, "busy")
    os.close(first)
    lock(second, "busy")
    os.close(second)


def test_folders_are_made_with_their_parents_and_may_exist(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
