"""Read the articles of a Wikipedia dump (pages-articles: .xml, plain or compressed), one page in memory at a time.

Only articles of the main namespace are kept: redirects, lists, indexes, outlines, disambiguations and name pages are
skipped. Of an article only the prose is kept, in the order of its sections. mwparserfromhell parses the wikitext;
templates, tables, references, files, categories, list items and the back matter (References, See also …) are dropped.

XML bombs are built from entities, which a DOCTYPE declares. A dump has no DOCTYPE, so a file that has one is rejected.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

from nextvec.data.documents import Document
from nextvec.data.readers.streams import DamagedDataError, open_bytes
from nextvec.errors import CorpusError, MissingExtraError

_READ_BYTES = 1 << 16
_MAX_ELEMENT_BYTES, _MAX_DEPTH = 8 * 2**20, 100
"""Limits of memory. MediaWiki allows pages of two million bytes, and the elements of a dump nest four levels deep."""

_EXCLUDED_TITLE = re.compile(r"(lists? of|index of|outline of)\b|.*\(disambiguation\)$", re.IGNORECASE)
_EXCLUDED_TEMPLATE = re.compile(
    r"\{\{\s*(?:[\w -]{0,60}disambig(?:uation)?(?: page|[ -]cleanup)?|disamb|dab|hndis|geodis|numberdis|schooldis"
    r"|roaddis|callsigndis|mil-unit-dis|set[ _]index(?:[ _]article)?|sia|ship ?index|surname|given name)\s*(?:\||\}\})",
    re.IGNORECASE,
)
_REDIRECT = re.compile(r"\s*#redirect\b", re.IGNORECASE)

_BACK_MATTER = frozenset(
    ("references", "external links", "see also", "further reading", "notes", "bibliography", "sources", "footnotes",
     "citations", "notes and references", "references and notes", "works cited")
)  # fmt: skip
_HIDDEN_TAGS = frozenset(
    ("ref", "references", "table", "gallery", "math", "chem", "ce", "timeline", "score", "imagemap", "graph", "hiero",
     "syntaxhighlight", "source", "pre", "code", "templatestyles", "categorytree", "inputbox", "section", "mapframe",
     "maplink", "ul", "ol", "dl")
)  # fmt: skip
_LIST_ITEM_TAGS = frozenset(("li", "dt", "dd"))
_LIST_ITEM = "\0"
"""Marks the start of a list item in the rendered text, so that `_paragraphs` can drop the line."""

_INLINE_TEMPLATES = {
    "lang": 2, "nowrap": 1, "nobr": 1, "abbr": 1, "nihongo": 1, "transliteration": 2, "transl": 2, "ill": 1, "val": 1,
    "interlanguage link": 1, "convert": 0, "cvt": 0,
}  # fmt: skip
"""Templates that are part of a sentence, and the number of the parameter that holds their text.

0: the parameters are a number (or a range of numbers) and its unit."""
_NUMBER = re.compile(r"[-−+]?\.?\d")
_RANGE_WORDS = frozenset(("to", "and", "or", "by", "x", "×", "-", "–", "to(-)", "+/-", "±"))

_HIDDEN_NAMESPACES = frozenset(("-2", "6", "14"))
"""Keys of the namespaces of media, files and categories in the header of every dump."""


@dataclass
class Page:
    """A page of the dump."""

    id: str = ""
    title: str = ""
    namespace: str = "0"
    is_redirect: bool = False
    model: str = "wikitext"
    text: str = ""

    @property
    def is_article(self) -> bool:
        """Whether the page is prose about one subject."""
        return (
            self.namespace == "0"
            and self.model == "wikitext"
            and not self.is_redirect
            and not _REDIRECT.match(self.text)
            and not _EXCLUDED_TITLE.match(self.title)
            and not _EXCLUDED_TEMPLATE.search(self.text)
        )


_PAGE_FIELDS = {
    ("page", "id"): "id",
    ("page", "title"): "title",
    ("page", "ns"): "namespace",
    ("revision", "text"): "text",
    ("revision", "model"): "model",
}
"""Fields of a Page by the names of the parent element and the element that holds their value."""


def read_dump(path: Path) -> Generator[Document, None, None]:
    """Yield the articles of a dump in order; a document's id is the page id, its source "wikipedia".

    Raises CorpusError if the file is truncated, damaged, not a MediaWiki export, or has a DOCTYPE; MissingExtraError
    if mwparserfromhell is not installed.
    """
    try:
        from mwparserfromhell.parser import ParserError
    except ImportError as error:
        raise MissingExtraError("mwparserfromhell", "wikipedia", f"reading {path}") from error
    dump = DumpReader(path)
    for page in dump.pages():
        if not page.is_article:
            continue
        try:
            paragraphs = article_paragraphs(page.text, dump.hidden_prefixes)
        except ParserError:  # a bug in the parser, triggered by few pages: skip the article
            continue
        if paragraphs:
            yield Document(page.id, page.title, "wikipedia", tuple(paragraphs))


class DumpReader:
    """Parse a dump's XML and yield its pages while reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hidden_prefixes = {"file", "image", "category", "media"}
        """Lower-case prefixes of links to files and categories; the dump's header adds those in its language."""
        self._elements: list[str] = []
        self._value: list[str] = []
        self._namespace_key = ""
        self._page = Page()
        self._ready: list[Page] = []
        self._bytes_read = 0

    def pages(self) -> Iterator[Page]:
        """Yield every page in order. Raises CorpusError if the file is not a complete dump."""
        # Handlers collect complete pages in `_ready`, which are yielded after each block.
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.CharacterDataHandler = self._value.append
        parser.EndElementHandler = self._end
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        count = 0
        try:
            for chunk in self._bytes():
                # The empty block is the last: expat then reports elements that have no end.
                parser.Parse(chunk, not chunk)
                self._require_bounds(parser, len(chunk))
                count += len(self._ready)
                yield from self._ready
                self._ready.clear()
        except expat.ExpatError as error:
            raise CorpusError(
                f"{self.path}: damaged XML after {count:,} pages: {expat.ErrorString(error.code)} at line "
                f"{error.lineno:,}. Copy or download the file again."
            ) from error
        except DamagedDataError as error:
            raise CorpusError(
                f"{self.path}: truncated or damaged after {count:,} pages ({error}). Copy or download the file again."
            ) from error

    def _bytes(self) -> Iterator[bytes]:
        """Yield the XML in blocks, then an empty block, which ends the parse."""
        with open_bytes(self.path) as file:
            while chunk := file.read(_READ_BYTES):
                yield chunk
        yield b""

    def _require_bounds(self, parser: expat.XMLParserType, size: int) -> None:
        """Raise CorpusError if an element, a tag or the nesting of elements exceeds the limits of memory."""
        self._bytes_read += size
        unparsed_bytes = self._bytes_read - parser.CurrentByteIndex  # of a tag or comment that has not ended
        value_length = sum(map(len, self._value))
        if max(value_length, unparsed_bytes) > _MAX_ELEMENT_BYTES or len(self._elements) > _MAX_DEPTH:
            raise CorpusError(
                f"{self.path}: an element at line {parser.CurrentLineNumber:,} exceeds {_MAX_ELEMENT_BYTES:,} bytes or "
                f"{_MAX_DEPTH} levels, unlike any page of a dump. It is unsafe to read; download the dump again."
            )

    def _refuse_doctype(self, *_: object) -> None:
        raise CorpusError(
            f"{self.path}: has a DOCTYPE, unlike any Wikipedia dump. It is unsafe to read; download the dump again."
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._elements and name != "mediawiki":
            raise CorpusError(
                f"{self.path}: not a Wikipedia dump: starts with <{name}>, not <mediawiki>. Name a pages-articles file."
            )
        self._elements.append(name)
        self._value.clear()
        if name == "page":
            self._page = Page()
        elif name == "redirect":
            self._page.is_redirect = True
        elif name == "namespace":
            self._namespace_key = attributes.get("key", "")

    def _end(self, name: str) -> None:
        # The text since the last tag is the value of this element.
        value = "".join(self._value)
        self._value.clear()
        self._elements.pop()
        parent = self._elements[-1] if self._elements else ""
        if field := _PAGE_FIELDS.get((parent, name)):
            setattr(self._page, field, value)
        elif name == "page" and parent == "mediawiki":
            self._ready.append(self._page)
        elif name == "namespace" and self._namespace_key in _HIDDEN_NAMESPACES and value:
            self.hidden_prefixes.add(value.lower())


def article_paragraphs(wikitext: str, hidden_prefixes: Set[str]) -> list[str]:
    """Return the paragraphs of prose of an article in order; links with one of the prefixes are dropped."""
    import mwparserfromhell

    # `_tidy` removes the style marks ('' and '''): the parser is slow and wrong if they are unbalanced.
    nodes = mwparserfromhell.parse(wikitext, skip_style_tags=True).nodes
    renderer = _Renderer(mwparserfromhell.nodes, hidden_prefixes)
    dropped_level = 0  # level of the back-matter heading that contains the current node; 0: none
    for node in nodes:
        if isinstance(node, mwparserfromhell.nodes.Heading):
            # A heading of the same or a higher level ends the back matter.
            if not dropped_level or node.level <= dropped_level:
                title = node.title.strip_code().strip(" '=:").lower()
                dropped_level = node.level if title in _BACK_MATTER else 0
            renderer.text.append("\n\n")
        elif not dropped_level:
            renderer.add(node)
    return _paragraphs("".join(renderer.text))


class _Renderer:
    """Append the visible text of wikitext nodes to `text`."""

    def __init__(self, nodes: Any, hidden_prefixes: Set[str]) -> None:
        self._nodes = nodes
        self.text: list[str] = []
        self._hidden_prefixes = hidden_prefixes

    def add(self, node: Any) -> None:
        """Append the visible text of a node; comments, references, tables and most templates have none."""
        if isinstance(node, self._nodes.Text):
            self.text.append(node.value)
        elif isinstance(node, self._nodes.Wikilink):
            if self._is_hidden(str(node.title), node.text):
                return
            if node.text:
                self._add_all(node.text)
            else:
                self.text.append(node.title.strip_code().removeprefix(":"))
        elif isinstance(node, self._nodes.ExternalLink):
            self._add_all(node.title)
        elif isinstance(node, self._nodes.Template):
            self._add_template(node)
        elif isinstance(node, self._nodes.HTMLEntity):
            self.text.append(node.normalize())
        elif isinstance(node, self._nodes.Tag):
            name = str(node.tag).strip().lower()
            # The tag of a list item does not contain the item's text, so mark where the item starts.
            if name in _LIST_ITEM_TAGS:
                self.text.append(_LIST_ITEM)
            elif name == "br":
                self.text.append(" ")
            elif name not in _HIDDEN_TAGS:
                self._add_all(node.contents)

    def _add_all(self, wikicode: Any) -> None:
        for node in wikicode.nodes if wikicode is not None else ():
            self.add(node)

    def _is_hidden(self, title: str, text: Any) -> bool:
        """Return whether a link points to a file, a category or another language: such links are not prose."""
        # `[[fr:Titre]]` is a link to another language only without a text; with one, it is part of a sentence.
        prefix, colon, _ = title.partition(":")
        prefix = prefix.strip()
        is_language = text is None and re.fullmatch(r"[a-z]{2,3}(-[a-z-]+)?", prefix) is not None
        return bool(colon) and (is_language or prefix.lower().replace("_", " ") in self._hidden_prefixes)

    def _add_template(self, node: Any) -> None:
        """Append the text of a template in `_INLINE_TEMPLATES`; other templates are dropped."""
        position = _INLINE_TEMPLATES.get(str(node.name).strip().lower())
        if position is None:
            return
        values = [parameter.value for parameter in node.params if not parameter.showkey]
        if position:
            values = values[position - 1 : position]
        # For `convert`, numbers and range words come first, then the unit; the parameters after it are options.
        for value in values:
            self._add_all(value)
            text = str(value).strip()
            if position or not (text in _RANGE_WORDS or _NUMBER.match(text)):
                break
            self.text.append(" ")


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs of rendered text: the lines up to a blank line, list item or heading, joined."""
    paragraphs: list[str] = []
    lines: list[str] = []
    for line in [*text.split("\n"), ""]:
        if line.strip() and _LIST_ITEM not in line:
            lines.append(line)
            continue
        paragraph = _tidy(" ".join(lines))
        if any(character.isalpha() for character in paragraph):
            paragraphs.append(paragraph)
        lines.clear()
    return paragraphs


def _tidy(text: str) -> str:
    """Remove style marks, magic words, and the empty brackets and spaces that dropped templates leave."""
    # Dropped templates leave empty brackets, and separators at the edges of brackets.
    text = " ".join(re.sub(r"'{2,5}|__[A-Z]+__", "", text).split())
    text = re.sub(r"\([ ;,:]+", "(", text)
    text = re.sub(r"[ ;,:]+\)", ")", text)
    text = re.sub(r" ?\(\)", "", text)
    return re.sub(r" +([,.;:])(?= |$)", r"\1", text)
