from __future__ import annotations

import ast
import inspect
import textwrap

import pytest

from nextvec.data.readers import docstrings
from nextvec.data.readers.docstrings import find_docstrings, parse_source

UNUSUAL = {
    "a comment before it": 'def f():  # a colon: and a "quote"\n    # more\n\n    """One."""\n',
    "on the line of the header": 'def f(): "One."\nclass A: r"""Two \\d."""\n',
    "a header of several lines": 'def f(\n    a: d[int] = {1: 2},  # ):\n    b="""):""",\n) -> "A: b":\n    "One."\n',
    "a lambda in the header": "def f(a=lambda x: (x, ')')):\n    'One.'\n",
    "escapes": 'def f():\n    "One \\"two\\" \\\n three\\n\\\\."\n',
    "no docstring": 'x = {"a":\n    "b"}\ndef f():\n    return "c"\ndef g():\n    b"d"\ndef h():\n    f""\n',
    "definitions in strings": 'x = """\ndef f():\n    \'\'\'One.\'\'\'\n"""\n# def g(): "Two."\ny = \'def h(): ""\'\n',
    "several strings": 'def f():\n    "One " "two."\n',
    "in parentheses": 'def f():\n    (\n        "One "\n        "two."\n    )\n',
    "an expression": 'def f():\n    "One {}".format(1)\nclass A:\n    "Two %s" % 3\n    def g(self):\n        "3."\n',
    "form feeds and tabs": '"""One."""\n\x0c\nclass A:\n\t"""2."""\n\x0c\n\tasync def f(self):\n\t\t""" """\n',
    "a class in a function": 'def f():\n    "1."\n    class B(A, metaclass=type("C", (), {1: 1})):\n        "Two."\n',
    "an empty one": 'def f():\n    ""\n    "not a docstring"\n',
    "at the end": 'def f():\n    "One."',
    "a module's after comments": "#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n\n'''One.'''\nimport this\n",
}


def of_tree(source: str) -> list[str]:
    tree = parse_source(source)
    assert tree is not None
    return list(docstrings._walk_docstrings(tree))


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_docstrings_are_found_as_in_the_syntax_tree(name: str) -> None:
    assert find_docstrings(UNUSUAL[name]) == of_tree(UNUSUAL[name])


def test_docstrings_of_real_modules_are_found_without_a_syntax_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [inspect.getsource(module) for module in (ast, inspect, textwrap)]
    expected = [of_tree(source) for source in sources]
    assert sum(map(len, expected)) > 130
    monkeypatch.setattr(docstrings, "_walk_docstrings", lambda tree: pytest.fail("a syntax tree was built"))
    assert [find_docstrings(source) for source in sources] == expected


def test_a_source_that_cannot_be_parsed_is_read_up_to_its_end() -> None:
    assert find_docstrings('"""One."""\nprint "two"\ndef f(:\n    """Three."""\ndef (') == ["One."]
    assert find_docstrings('def f():\n    ("One"\n') == []  # a syntax tree would be needed
