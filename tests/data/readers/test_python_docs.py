from __future__ import annotations

import itertools
import sys
import warnings
from pathlib import Path

import pytest

from nextvec.data.documents import Document
from nextvec.data.readers import python_docs as pydocs
from nextvec.data.readers import read_documents
from nextvec.data.readers.python_docs import BUILTIN, read_modules
from nextvec.errors import CorpusError

A = "The harbour master wrote down the name of every ship that came in with the tide."
B = "Nobody knew in which of the three boats the old lighthouse keeper had gone away."
C = "In the evening all the lamps along the quay were lit by a boy with a long pole."
D = "A letter came every spring, always with the same stamp, and nobody ever read it."

CANARY = """
import pathlib
pathlib.Path(__file__).with_name("executed").touch()
raise SystemExit("code of a module that is only read was executed")
"""


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Make a package `boats` with every kind of file; executing any of it is detected."""
    root = tmp_path / "site" / "boats"
    write(root / "__init__.py", f'"""{A}"""\n{CANARY}')
    write(
        root / "sub" / "deep.py",
        f'''r"""{A}

{B} \\d"""
{CANARY}
class Outer:
    """{C}"""
    def method(self):
        """{D}"""
        def nested():
            """{A}"""
    class Inner:
        """{B}"""
if True:
    try:
        async def function():
            """{C}"""
    except ImportError:
        def function():
            """{D}"""
match 1:
    case 1:
        def matched():
            """{A}"""
text = """{A} An assigned text is no docstring, and so is left alone."""
''',
    )
    write(root / "sub" / "__init__.py", "")
    write(
        root / "_add.py",
        f'''{CANARY}
add_newdoc("boats", "ship", """
    {A}

    >>> ship()
    """)
core.add_docstr(boats.sail, r"""
sail(x) -> Tensor

{B}
""" + r"""
{{x}}

{C}
""".format(x=1))
other("""{D}""")
''',
    )
    write(root / "latin.py", b"# -*- coding: latin-1 -*-\n" + f'"""{A[:-1]} \xe9."""\n'.encode("latin-1"))
    write(root / "escape.py", f'"""{A} \\d."""\nx = 1 is 1\n')
    for name in ("broken.py", "tests/test_x.py", "test/x.py", "sub/tests/y.py", "testing/_internal/x.py", "a-b/c.py"):
        write(root / name, f'"""{A}"""\n' + ("def (" if name == "broken.py" else CANARY))
    write(root / "not-importable.py", f'"""{A}"""')
    write(root / "testing" / "public.py", f'"""{B}"""{CANARY}')
    return root


def test_docstrings_are_in_the_order_of_the_source(package: Path) -> None:
    documents = list(read_modules(package, "boats", "boats"))
    assert documents == [
        Document("boats", "boats", "boats", (A,)),
        Document("boats._add", "boats._add", "boats", (A, B, C)),
        Document("boats.broken", "boats.broken", "boats", (A,)),
        Document("boats.escape", "boats.escape", "boats", (f"{A} \\d.",)),
        Document("boats.latin", "boats.latin", "boats", (f"{A[:-1]} é.",)),
        Document("boats.sub.deep", "boats.sub.deep", "boats", (A, C, D, A, B, C, D, A)),
        Document("boats.testing.public", "boats.testing.public", "boats", (B,)),
    ]


def test_source_files_are_neither_executed_nor_imported(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdlib = write(package.parents[1] / "lib" / "shore.py", f'"""{D}"""{CANARY}').parent
    write(stdlib / "site-packages" / "other.py", f'"""{A}"""{CANARY}')
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(pydocs, "PACKAGES", ("not_installed_anywhere", "boats"))
    monkeypatch.setattr(pydocs.sysconfig, "get_path", lambda name: {"stdlib": str(stdlib)}[name])
    before = set(sys.modules)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nor does it warn of other people's code
        documents = list(read_documents(BUILTIN))
    assert [document.source for document in documents] == ["boats"] * 7 + ["stdlib"]
    assert documents[-1] == Document("shore", "shore", "stdlib", (D,))
    assert list(read_documents(f"{BUILTIN}/boats")) == documents[:-1]
    assert list(read_documents(f"{BUILTIN}/stdlib")) == documents[-1:]
    with pytest.raises(
        CorpusError, match=r"/not_installed_anywhere: not_installed_anywhere is not installed\. Install"
    ):
        list(read_documents(f"{BUILTIN}/not_installed_anywhere"))
    assert not [name for name in set(sys.modules) - before if name.split(".")[0] in ("boats", "shore")]
    assert not list(package.parents[1].rglob("executed"))


def test_topics_are_documents(tmp_path: Path) -> None:
    write(
        tmp_path / "pydoc_data" / "topics.py",
        "# made by a tool\n"
        f"topics = {{'with': '{A}\\n\\n   x = 1\\n\\n{B}\\n', 'assert': r'''{C}\n''', 'none': 'short'}}\n",
    )
    assert list(read_modules(tmp_path, "stdlib", "")) == [
        Document("pydoc_data.topics.assert", "assert", "stdlib", (C,)),
        Document("pydoc_data.topics.with", "with", "stdlib", (A, B)),
    ]


def test_reading_is_deterministic(package: Path) -> None:
    first = list(read_modules(package, "boats", "boats"))
    assert first == list(read_modules(package, "boats", "boats"))
    assert [d.id for d in first] == sorted(d.id for d in first)


@pytest.mark.parametrize(
    ("source", "suggestion"),
    [("python-doc", "python-docs"), ("python-docs/stlib", "python-docs/stdlib"), ("python-docs/", "python-docs")],
)
def test_an_unknown_builtin_is_refused(source: str, suggestion: str) -> None:
    with pytest.raises(CorpusError) as caught:
        list(read_documents(f"builtin:{source}"))
    assert str(caught.value) == f"builtin:{source}: unknown built-in text. Did you mean 'builtin:{suggestion}'?"


def test_the_garbage_collector_is_restored(package: Path) -> None:
    import gc

    list(read_modules(package, "boats", "boats"))
    assert gc.isenabled()
    gc.disable()
    try:
        list(read_modules(package, "boats", "boats"))
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_standard_library_has_real_text() -> None:
    folder = Path(pydocs.sysconfig.get_path("stdlib"))
    documents = {d.id: d for d in itertools.islice(read_modules(folder, "stdlib", ""), 120)}
    assert "argparse" in documents
    paragraphs = documents["argparse"].paragraphs
    assert len(paragraphs) >= 10
    assert not any(">>>" in p or "\n" in p for d in documents.values() for p in d.paragraphs)
    assert not [name for name in documents if "test" in name.split(".")]
