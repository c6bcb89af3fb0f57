"""Turn the text of .txt and .md files into a title and paragraphs; blank lines separate paragraphs.

Of a Markdown file only the prose is kept: paragraphs, list items and quotations, without their markup. The first
heading is the title. Headings, code blocks, tables, images, comments and front matter are dropped.
"""

from __future__ import annotations

import html
import re
from functools import cache
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(?=[\w-]+[ \t]*:)(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
"""YAML at the start of a file between two lines `---`. The first line must be a key: a rule is written `---` too."""

_LIST_BOUNDARIES = frozenset(("bullet_list_open", "bullet_list_close", "ordered_list_open", "ordered_list_close"))

_HTML_MARKUP = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style|pre)\b.*?(?:</\1\s*>|\Z)|<[^<>]*>", re.DOTALL | re.IGNORECASE
)
"""Comments, tags, and elements whose content is not prose."""


def plain_paragraphs(text: str) -> tuple[str, list[str]]:
    """Return no title and the paragraphs of a plain text."""
    return "", split_paragraphs(text)


def split_paragraphs(text: str) -> list[str]:
    """Return the blocks of a text between blank lines, stripped and without empty ones."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return [block.strip() for block in re.split(r"\n\s*\n", text) if block.strip()]


def markdown_prose(text: str) -> tuple[str, list[str]]:
    """Return the first heading of a Markdown text ("" if there is none), and its paragraphs of prose.

    The items of a list form one paragraph, unless blank lines separate them in the text.
    """
    title = ""
    paragraphs: list[str] = []
    list_depth = 0
    is_in_list = False  # whether the last paragraph consists of items of the current list
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    tokens = _markdown_parser().parse(_FRONT_MATTER.sub("", text, count=1))
    # An inline token holds the text of the block that the token before it opens.
    for block, token in pairwise([Token("", "", 0), *tokens]):
        if token.type in _LIST_BOUNDARIES:
            # The outermost list's end separates paragraphs; nested lists belong to the same paragraph.
            list_depth += token.nesting
            is_in_list = is_in_list and list_depth > 0
        elif token.type == "html_block":
            paragraphs += filter(None, [_html_text(token.content)])
            is_in_list = False
        elif token.type == "inline" and block.type == "heading_open":
            title = title or _inline_text(token)
        elif token.type == "inline" and block.type == "paragraph_open" and (prose := _inline_text(token)):
            # CommonMark hides the paragraphs of a list without blank lines: its items are not rendered as <p>.
            if block.hidden and is_in_list:
                paragraphs[-1] += f"\n{prose}"
            else:
                paragraphs.append(prose)
            is_in_list = block.hidden
    return title, paragraphs


@cache
def _markdown_parser() -> MarkdownIt:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"])


def _inline_text(token: Token) -> str:
    """Return the words of an inline token on one line; links and emphasis lose their markup, images are dropped."""
    pieces = []
    for child in token.children or ():
        # Images and inline HTML other than <br> have no words.
        if child.type in ("text", "code_inline"):
            pieces.append(child.content)
        elif child.type in ("softbreak", "hardbreak") or child.content.startswith("<br"):
            pieces.append(" ")
    return " ".join("".join(pieces).split())


def _html_text(source: str) -> str:
    """Return the words of a block of HTML on one line."""
    return " ".join(html.unescape(_HTML_MARKUP.sub(" ", source)).split())
