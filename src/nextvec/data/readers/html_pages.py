"""Turn a web page into a title and paragraphs: the main text, without scripts, navigation, forms and markup.

The rules are those of Markdown: headings, code blocks and images are dropped, and the items of a list form one
paragraph. No tree is needed for that, so the page is scanned once, tag by tag.
"""

from __future__ import annotations

import contextlib
import html
import re
from collections.abc import Iterator
from pathlib import Path

from nextvec.data.readers.streams import DamagedDataError, decode_utf8, open_utf8
from nextvec.errors import CorpusError

_CHARSET = re.compile(rb"""<meta[^<>]*charset\s*=\s*["']?\s*([\w:.-]+)""", re.IGNORECASE)
_CHARSET_BYTES = 4096
"""A page declares its encoding at its start."""

_DROPPED = frozenset(
    ("script", "style", "template", "noscript", "svg", "math", "canvas", "object", "iframe", "audio", "video", "nav",
     "aside", "footer", "button", "select", "textarea", "pre", "dialog", "noframes")
)  # fmt: skip
"""Elements whose content is not the main text. A <form> may wrap a whole page, so it is not one of them."""

_BLOCKS = frozenset(
    ("p", "div", "section", "article", "main", "header", "body", "html", "blockquote", "figure", "figcaption", "center",
     "address", "details", "summary", "fieldset", "form", "table", "caption", "thead", "tbody", "tfoot", "tr", "td",
     "th", "dl", "dt", "dd", "hr", "nav", "aside", "footer", "pre", "dialog")
)  # fmt: skip
"""Elements that start and end a paragraph."""

_RAW = frozenset(("script", "style", "textarea", "title", "iframe", "noframes", "xmp"))
"""Elements whose content has no tags."""

_TAG = re.compile(r"<(?P<slash>/?)(?P<name>[a-zA-Z][^\s/<>]*)")
_QUOTE_OR_END = re.compile(r"""=\s*["']|>""")
"""A quote counts only as the start of an attribute's value, as in browsers."""
_COMMENT_END = re.compile("--!?>")
_MARKUP_END = re.compile(">")

_HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
_LISTS = frozenset(("ul", "ol", "menu"))


def read_html(path: Path) -> tuple[str, list[str]]:
    """Return title and paragraphs of a page, in the encoding that it declares, or else UTF-8.

    Raises CorpusError if it cannot be read, is damaged, or is not in its encoding.
    """
    try:
        with open_utf8(path) as stream:
            content = stream.read()
    except DamagedDataError as error:
        raise CorpusError(f"{path}: truncated or damaged ({error}). Copy or download it again.") from error
    # UTF-8 first: a page that was saved again as UTF-8 may still declare its old encoding.
    declared = _CHARSET.search(content, 0, _CHARSET_BYTES)
    for encoding in ("utf-8", declared[1].decode("ascii", "replace") if declared else ""):
        with contextlib.suppress(UnicodeDecodeError, LookupError):
            return html_paragraphs(content.decode(encoding))
    return html_paragraphs(decode_utf8(content, str(path)))  # raises


def html_paragraphs(text: str) -> tuple[str, list[str]]:
    """Return the first heading of a page, or else its <title> ("" if it has none), and its paragraphs."""
    page = _Page()
    for kind, value in _tokens(text):
        page.add(kind, value)
    page.end_paragraph()
    return page.heading or page.title, page.paragraphs


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Yield the pieces of a page: ("text", words), ("start", tag) and ("end", tag); comments are left out.

    Linear in the length of the page, whatever is not closed: no part of it is searched twice. An unclosed tag at the
    end is dropped, as browsers do.
    """
    position = 0
    while position < len(text):
        start = text.find("<", position)
        start = len(text) if start < 0 else start
        if start > position:
            yield "text", text[position:start]
        match = _TAG.match(text, start)
        if match:
            name = match["name"].lower()
            position = _tag_end(text, match.end())
            yield ("end" if match["slash"] else "start"), name
            if name in _RAW and not match["slash"]:
                # Nothing inside is markup until the element's own end.
                end = re.compile(rf"</{name}", re.IGNORECASE).search(text, position)
                stop = end.start() if end else len(text)
                yield "text", text[position:stop]
                position = stop
        elif text.startswith("<!--", start):
            position = _find_after(_COMMENT_END, text, start + 2)
        elif text.startswith(("<!", "<?", "</"), start):
            position = _find_after(_MARKUP_END, text, start)
        else:
            yield "text", text[start : start + 1]
            position = start + 1


def _tag_end(text: str, position: int) -> int:
    """Return the position after the ``>`` of a tag, which does not count within the quotes of an attribute's value."""
    while match := _QUOTE_OR_END.search(text, position):
        if match[0] == ">":
            return match.end()
        closing = text.find(match[0][-1], match.end())
        if closing < 0:
            return len(text)
        position = closing + 1
    return len(text)


def _find_after(pattern: re.Pattern[str], text: str, position: int) -> int:
    """Return the position after the first match of a terminator; the end of the text if there is none."""
    match = pattern.search(text, position)
    return match.end() if match else len(text)


class _Page:
    """Collects the words of the current block, and ends a paragraph at each border of a block."""

    def __init__(self) -> None:
        self.title = self.heading = ""
        self.paragraphs: list[str] = []
        self._words: list[str] = []
        self._items: list[str] = []
        self._dropped_tag, self._dropped_depth = "", 0  # the outermost open element that is dropped
        self._list_depth = 0
        self._is_in_title = False

    def add(self, kind: str, value: str) -> None:
        """Add the next token of the page."""
        if kind == "text":
            self._add_text(html.unescape(value))
        elif value == "title":
            self._is_in_title = kind == "start" and not self.title
        elif self._dropped_tag:
            # Only elements of the same name count, so that an unclosed one inside drops nothing after its parent.
            if value == self._dropped_tag:
                self._dropped_depth += 1 if kind == "start" else -1
                self._dropped_tag = value if self._dropped_depth else ""
        else:
            self._border(value, is_start=kind == "start")
            if value in _DROPPED and kind == "start":
                self._dropped_tag, self._dropped_depth = value, 1

    def end_paragraph(self) -> None:
        """Add the words since the last border as a paragraph, with the items of the list before them."""
        self._end_item()
        if self._items:
            self.paragraphs.append("\n".join(self._items))
            self._items = []

    def _add_text(self, text: str) -> None:
        if self._is_in_title:
            self.title = " ".join(f"{self.title} {text}".split())
        elif not self._dropped_tag:
            self._words.append(text)

    def _border(self, tag: str, *, is_start: bool) -> None:
        """End what the start or the end of an element separates: a heading, a list item, a paragraph or a word."""
        if tag in _HEADINGS:
            if is_start:
                self.end_paragraph()
            else:
                # The words of a heading are the title, never a paragraph.
                words = self._take_words()
                self.heading = self.heading or words
        elif tag in _LISTS:
            if self._list_depth == 0:
                self.end_paragraph()
            self._list_depth = max(0, self._list_depth + (1 if is_start else -1))
            if self._list_depth == 0:
                self.end_paragraph()
        elif tag == "li":
            self._end_item()
        elif tag in _BLOCKS:
            self.end_paragraph()
        elif tag == "br":
            self._words.append(" ")

    def _end_item(self) -> None:
        words = self._take_words()
        if words:
            self._items.append(words)

    def _take_words(self) -> str:
        words = " ".join("".join(self._words).split())
        self._words.clear()
        return words
