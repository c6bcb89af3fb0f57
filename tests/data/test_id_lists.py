from __future__ import annotations

import codecs
import re
from pathlib import Path

import pytest

from nextvec.data.id_lists import read_id_list, require_known_ids
from nextvec.data.splits import SplitPlan
from nextvec.errors import InputError, StoreError

IDS = frozenset({"1.txt", "a b.txt", "café.txt"})


@pytest.mark.parametrize(
    "content",
    [
        "1.txt\na b.txt\ncafé.txt\n".encode(),
        "1.txt\r\n\r\n  a b.txt \r\ncafé.txt".encode(),
        "1.txt\ra b.txt\rcafé.txt\r".encode(),
        codecs.BOM_UTF8 + "1.txt\na b.txt\n\n \ncafé.txt".encode(),
        "1.txt\na b.txt\r\ncafé.txt\n".encode("utf-16"),
        codecs.BOM_UTF16_BE + "1.txt\na b.txt\ncafé.txt\n".encode("utf-16-be"),
        "1.txt\na b.txt\ncafé.txt\n".encode("utf-32"),
    ],
    ids=["plain", "windows", "old mac", "utf-8 mark", "utf-16", "utf-16 big-endian", "utf-32"],
)
def test_a_list_is_read_in_every_form(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "val.txt"
    path.write_bytes(content)
    assert read_id_list(path) == IDS
    assert read_id_list(str(path)) == IDS


def test_without_a_path_there_are_no_ids() -> None:
    assert read_id_list("") == frozenset()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\n\na\n", "list {}: lists 'a' twice, in lines 1 and 4. Remove one of them."),
        (b"", "list {}: has no ids. Write one document id per line, or leave the option out."),
        (b" \r\n\r\n", "list {}: has no ids."),
        (b"caf\xe9.txt\n", "{}: not valid UTF-8 (byte 3, 0xE9). Save the file as UTF-8; if it is Latin-1, with: iconv"),
        (
            "val.txt\n".encode("utf-16-le"),
            "{}: has NUL bytes (the first is byte 1), so it is binary, or UTF-16 without",
        ),
    ],
)
def test_a_bad_list_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "val.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message.format(path))):
        read_id_list(path)


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt: can't be read: it was removed or renamed"):
        read_id_list(tmp_path / "none.txt")


DOCUMENTS = [("1", ""), ("2", ""), ("ch1", "book"), ("ch2", "book")]


@pytest.mark.parametrize(
    ("val", "ood", "message"),
    [
        ({"1", "x"}, set(), "list of ids: 'x' is not in the sources, whose ids are such as '1', '2', 'book'."),
        ({"x"}, {"y"}, "list of ids: 'x', 'y' are not in the sources"),
        ({f"x{n}" for n in range(9)}, set(), "'x0', 'x1', 'x2' and 6 more (9 ids) are not in the sources"),
        ({"1"}, {"ch2"}, "'ch2' belongs to the group 'book', which stays in one split. List the name of the group."),
    ],
)
def test_unknown_ids_are_named(val: set[str], ood: set[str], message: str) -> None:
    plan = SplitPlan(val_ids=frozenset(val), ood_ids=frozenset(ood))
    with pytest.raises(StoreError, match=re.escape(message)):
        require_known_ids(plan, DOCUMENTS)
    allowed = SplitPlan(val_ids=frozenset(val), ood_ids=frozenset(ood), allow_unknown_ids=True)
    require_known_ids(allowed, DOCUMENTS)


def test_ids_and_groups_are_known() -> None:
    require_known_ids(SplitPlan(val_ids=frozenset({"1", "book"}), ood_ids=frozenset({"2"})), DOCUMENTS)
