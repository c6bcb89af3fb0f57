"""Articles from a Wikipedia dump (pages-articles, .xml or .xml.bz2), streamed: memory holds a page at a time.

Kept are pages of the main namespace that are articles: no redirects, lists, indexes, outlines, disambiguations or name
pages. Of an article the prose is kept in the order of its sections: mwparserfromhell takes the wikitext apart, and
templates, tables, references, files, categories, list items and the back matter (References, See also …) are left out.

A dump needs no DOCTYPE, and a DOCTYPE is how XML bombs are built, so a file that has one is refused.
"""

from __future__ import annotations

import bz2
import re
from collections.abc import Generator, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

from nextvec.data.documents import Document
from nextvec.data.readers._common import reading
from nextvec.errors import CorpusError

_BYTES_AT_A_TIME = 1 << 16
_LONGEST, _DEEPEST = 8 * 2**20, 100
"""Bytes of an element and levels of them; MediaWiki allows pages of two million bytes, and a dump has four levels."""

_NO_ARTICLE_TITLE = re.compile(r"(lists? of|index of|outline of)\b|.*\(disambiguation\)$", re.IGNORECASE)
_NO_ARTICLE_TEMPLATE = re.compile(
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
"""Stands in the text where a list item begins, so that its line can be left out."""

_INLINE_TEMPLATES = {
    "lang": 2, "nowrap": 1, "nobr": 1, "abbr": 1, "nihongo": 1, "transliteration": 2, "transl": 2, "ill": 1, "val": 1,
    "interlanguage link": 1, "convert": 0, "cvt": 0,
}  # fmt: skip
"""Templates that stand for words of a sentence, and which parameter has them (0: a number with its unit)."""
_NUMBER = re.compile(r"[-−+]?\.?\d")
_RANGE_WORDS = frozenset(("to", "and", "or", "by", "x", "×", "-", "–", "to(-)", "+/-", "±"))

_FILE, _CATEGORY, _MEDIA = "6", "14", "-2"


@dataclass
class Page:
    """A page as the dump has it."""

    id: str = ""
    title: str = ""
    namespace: str = "0"
    redirect: bool = False
    model: str = "wikitext"
    text: str = ""

    @property
    def is_article(self) -> bool:
        """Whether the page is prose about one thing."""
        return (
            self.namespace == "0"
            and self.model == "wikitext"
            and not self.redirect
            and not _REDIRECT.match(self.text)
            and not _NO_ARTICLE_TITLE.match(self.title)
            and not _NO_ARTICLE_TEMPLATE.search(self.text)
        )


def read_dump(path: Path) -> Generator[Document, None, None]:
    """The articles of a dump in its order: id = page id, source = "wikipedia".

    Raises CorpusError if the file is truncated, damaged, no MediaWiki export, or has a DOCTYPE.
    """
    from mwparserfromhell.parser import ParserError

    dump = DumpReader(path)
    for page in dump.pages():
        if not page.is_article:
            continue
        try:
            paragraphs = article_paragraphs(page.text, dump.hidden_prefixes)
        except ParserError:  # a fault of the parser on a rare page; the article is left out
            continue
        if paragraphs:
            yield Document(page.id, page.title, "wikipedia", tuple(paragraphs))


class DumpReader:
    """Reads the pages out of a dump's XML as it streams by."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hidden_prefixes = {"file", "image", "category", "media"}
        """What links to files and categories begin with, lower case; the dump's header adds the wiki's own words."""
        self._elements: list[str] = []
        self._value: list[str] = []
        self._namespace_key = ""
        self._page = Page()
        self._ready: list[Page] = []
        self._read = 0

    def pages(self) -> Iterator[Page]:
        """Every page in order. Raises CorpusError for a file that isn't a whole dump."""
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.CharacterDataHandler = self._value.append
        parser.EndElementHandler = self._end
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        count = 0
        try:
            for chunk in self._bytes():
                parser.Parse(chunk, not chunk)
                self._require_bounds(parser, len(chunk))
                count += len(self._ready)
                yield from self._ready
                self._ready.clear()
        except expat.ExpatError as error:
            raise CorpusError(
                f"{self.path}: not whole XML: {expat.ErrorString(error.code)} at line {error.lineno:,}, after "
                f"{count:,} pages; copy or download it again"
            ) from error
        except EOFError as error:
            raise CorpusError(
                f"{self.path}: truncated: the compressed file ends after {count:,} pages; copy or download it again"
            ) from error

    def _bytes(self) -> Iterator[bytes]:
        """The XML in pieces; an empty one at the end."""
        packed = self.path.name.lower().endswith(".bz2")
        with reading(self.path), bz2.open(self.path, "rb") if packed else self.path.open("rb") as file:
            while chunk := file.read(_BYTES_AT_A_TIME):
                yield chunk
        yield b""

    def _require_bounds(self, parser: expat.XMLParserType, size: int) -> None:
        """Raise CorpusError where an element, a tag or their nesting grows without end: memory must not follow it."""
        self._read += size
        waiting = self._read - parser.CurrentByteIndex  # of a tag or comment that has not ended
        length = sum(map(len, self._value))
        if max(length, waiting) > _LONGEST or len(self._elements) > _DEEPEST:
            raise CorpusError(
                f"{self.path}: an element at line {parser.CurrentLineNumber:,} has no end within {_LONGEST:,} bytes "
                f"or {_DEEPEST} levels, which no page of a dump has; it is refused as unsafe"
            )

    def _refuse_doctype(self, *_: object) -> None:
        raise CorpusError(f"{self.path}: has a DOCTYPE, which no Wikipedia dump has; it is refused as unsafe")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._elements and name != "mediawiki":
            raise CorpusError(f"{self.path}: not a Wikipedia dump: it begins with <{name}>, not with <mediawiki>")
        self._elements.append(name)
        self._value.clear()
        if name == "page":
            self._page = Page()
        elif name == "redirect":
            self._page.redirect = True
        elif name == "namespace":
            self._namespace_key = attributes.get("key", "")

    def _end(self, name: str) -> None:
        value = "".join(self._value)
        self._value.clear()
        self._elements.pop()
        parent = self._elements[-1] if self._elements else ""
        if parent == "page":
            if name == "id":
                self._page.id = value
            elif name == "title":
                self._page.title = value
            elif name == "ns":
                self._page.namespace = value
        elif parent == "revision":
            if name == "text":
                self._page.text = value
            elif name == "model":
                self._page.model = value
        elif name == "page":
            self._ready.append(self._page)
        elif name == "namespace" and self._namespace_key in (_FILE, _CATEGORY, _MEDIA) and value:
            self.hidden_prefixes.add(value.lower())


def article_paragraphs(wikitext: str, hidden_prefixes: Set[str]) -> list[str]:
    """The prose of an article, a paragraph each, in order; links with one of the prefixes are left out."""
    import mwparserfromhell

    # Style marks ('' and ''') are left to _tidy: unbalanced ones make the parser slow and wrong.
    nodes = mwparserfromhell.parse(wikitext, skip_style_tags=True).nodes
    renderer = _Renderer(hidden_prefixes)
    left_out_level = 0  # level of the back-matter heading that we are under; 0: none
    for node in nodes:
        if isinstance(node, renderer.kinds.Heading):
            if not left_out_level or node.level <= left_out_level:
                title = node.title.strip_code().strip(" '=:").lower()
                left_out_level = node.level if title in _BACK_MATTER else 0
            renderer.text.append("\n\n")
        elif not left_out_level:
            renderer.add(node)
    return _paragraphs("".join(renderer.text))


class _Renderer:
    """Collects in `text` what a reader sees of wikitext's nodes."""

    def __init__(self, hidden_prefixes: Set[str]) -> None:
        from mwparserfromhell import nodes

        self.kinds = nodes
        self.text: list[str] = []
        self._hidden_prefixes = hidden_prefixes

    def add(self, node: Any) -> None:
        """Append what is seen of a node; nothing of comments, references, tables and most templates."""
        if isinstance(node, self.kinds.Text):
            self.text.append(node.value)
        elif isinstance(node, self.kinds.Wikilink):
            if self._is_hidden(str(node.title), node.text):
                return
            if node.text:
                self._add_all(node.text)
            else:
                self.text.append(node.title.strip_code().removeprefix(":"))
        elif isinstance(node, self.kinds.ExternalLink):
            self._add_all(node.title)
        elif isinstance(node, self.kinds.Template):
            self._add_template(node)
        elif isinstance(node, self.kinds.HTMLEntity):
            self.text.append(node.normalize())
        elif isinstance(node, self.kinds.Tag):
            name = str(node.tag).strip().lower()
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
        """Whether a link is to a file, a category or another language's article: those aren't part of the prose."""
        prefix, colon, _ = title.partition(":")
        prefix = prefix.strip()
        is_language = text is None and re.fullmatch(r"[a-z]{2,3}(-[a-z-]+)?", prefix) is not None
        return bool(colon) and (is_language or prefix.lower().replace("_", " ") in self._hidden_prefixes)

    def _add_template(self, node: Any) -> None:
        """Append the words of a template that stands for words; all others show nothing."""
        position = _INLINE_TEMPLATES.get(str(node.name).strip().lower())
        if position is None:
            return
        values = [parameter.value for parameter in node.params if not parameter.showkey]
        if position:
            values = values[position - 1 : position]
        for value in values:
            self._add_all(value)
            word = str(value).strip()
            if position or not (word in _RANGE_WORDS or _NUMBER.match(word)):
                break  # that was the unit; what follows it are options
            self.text.append(" ")


def _paragraphs(text: str) -> list[str]:
    """The paragraphs of rendered text: lines up to a blank line, a list item or a heading, joined."""
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
    """Remove style marks, magic words and the gaps that left-out templates leave."""
    text = " ".join(re.sub(r"'{2,5}|__[A-Z]+__", "", text).split())
    text = re.sub(r"\([ ;,:]+", "(", text)
    text = re.sub(r"[ ;,:]+\)", ")", text)
    text = re.sub(r" ?\(\)", "", text)
    return re.sub(r" +([,.;:])(?= |$)", r"\1", text)
