"""Turn a web page into a title and paragraphs: the main text, without scripts, navigation, forms and markup.

The rules are those of Markdown: headings, code blocks and images are dropped, and the items of a list form one
paragraph. The parser is that of the standard library, which accepts malformed pages.
"""

from __future__ import annotations

import contextlib
import re
from html.parser import HTMLParser
from pathlib import Path

from nextvec.data.readers.streams import DamagedDataError, decode_utf8, open_utf8
from nextvec.errors import CorpusError

_CHARSET = re.compile(rb"""<meta[^<>]*charset\s*=\s*["']?\s*([\w:.-]+)""", re.IGNORECASE)
_CHARSET_BYTES = 4096
"""A page declares its encoding at its start."""

_DROPPED = frozenset(
    ("script", "style", "template", "noscript", "svg", "math", "canvas", "object", "iframe", "audio", "video", "nav",
     "aside", "footer", "button", "select", "textarea", "pre", "dialog")
)  # fmt: skip
"""Elements whose content is not the main text. A <form> may wrap a whole page, so it is not one of them."""

_BLOCKS = frozenset(
    ("p", "div", "section", "article", "main", "header", "body", "html", "blockquote", "figure", "figcaption", "center",
     "address", "details", "summary", "fieldset", "form", "table", "caption", "thead", "tbody", "tfoot", "tr", "td",
     "th", "dl", "dt", "dd", "hr")
)  # fmt: skip
"""Elements that start and end a paragraph."""

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
    page.feed(text)
    page.close()
    page.end_paragraph()
    return page.heading or page.title, page.paragraphs


class _Page(HTMLParser):
    """Collects the words of the current block, and ends a paragraph at each border of a block."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.title = self.heading = ""
        self.paragraphs: list[str] = []
        self._words: list[str] = []
        self._items: list[str] = []
        self._dropped: list[str] = []  # open elements that are dropped, from the outermost
        self._headings: list[str] = []  # open headings
        self._list_depth = 0
        self._is_in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._is_in_title = not self.title
        elif tag in _DROPPED:
            self._dropped.append(tag)
        elif self._dropped:
            return
        self._border(tag, is_start=True)

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._is_in_title = False
        elif tag in self._dropped:
            # Also ends dropped elements inside that were not closed.
            del self._dropped[self._dropped.index(tag) :]
        elif not self._dropped:
            self._border(tag, is_start=False)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # HTML ignores the slash of <div/>. An empty dropped element, <script/> in XHTML, drops nothing after it.
        if tag not in _DROPPED:
            self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        if self._is_in_title:
            self.title = " ".join(f"{self.title} {data}".split())
        elif not self._dropped:
            self._words.append(data)

    def end_paragraph(self) -> None:
        """Add the words since the last border as a paragraph, with the items of the list before them."""
        self._end_item()
        if self._items:
            self.paragraphs.append("\n".join(self._items))
            self._items = []

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
