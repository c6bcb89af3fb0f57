from __future__ import annotations

import bz2
import itertools
import re
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextvec.data.documents import Document
from nextvec.data.readers import read_documents
from nextvec.data.readers.wikipedia import DumpReader, article_paragraphs
from nextvec.errors import CorpusError, MissingExtraError

pytest.importorskip("mwparserfromhell", reason="needs the extra 'wikipedia' (pip install 'nextvec[wikipedia]')")

HEADER = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <namespaces>
      <namespace key="-2" case="first-letter">Medium</namespace>
      <namespace key="0" case="first-letter" />
      <namespace key="1" case="first-letter">Diskussion</namespace>
      <namespace key="6" case="first-letter">Datei</namespace>
      <namespace key="14" case="first-letter">Kategorie</namespace>
    </namespaces>
  </siteinfo>
"""

PROSE = "A gull is a bird of the sea and of the shore."


def page(title: str, text: str, *, number: int = 1, namespace: int = 0, more: str = "", model: str = "wikitext") -> str:
    return f"""  <page>
    <title>{escape(title)}</title>
    <ns>{namespace}</ns>
    <id>{number}</id>
{more}    <revision>
      <id>{number + 5000}</id>
      <contributor><username>Someone</username><id>77</id></contributor>
      <comment>a comment</comment>
      <model>{model}</model>
      <format>text/x-wiki</format>
      <text bytes="9" xml:space="preserve">{escape(text)}</text>
      <sha1>x</sha1>
    </revision>
  </page>
"""


def dump(path: Path, *pages: str, end: str = "</mediawiki>\n") -> Path:
    content = (HEADER + "".join(pages) + end).encode()
    path.write_bytes(bz2.compress(content) if path.suffix == ".bz2" else content)
    return path


def refuse(path: Path) -> str:
    with pytest.raises(CorpusError) as caught:
        list(read_documents(str(path)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- which pages ---


@pytest.mark.parametrize("name", ["wiki.xml", "wiki.xml.bz2"])
def test_only_articles_are_kept_in_the_order_of_the_dump(tmp_path: Path, name: str) -> None:
    pages = [
        page("Gull", PROSE, number=12),
        page("Sea gull", "#REDIRECT [[Gull]]", number=13, more='    <redirect title="Gull" />\n'),
        page("Möwen", f"#WEITERLEITUNG [[Gull]]\n\n{PROSE}", number=26, more='    <redirect title="Gull" />\n'),
        page("Seagulls", " #redirect [[Gull]]", number=14),
        page("Talk:Gull", PROSE, number=15, namespace=1),
        page("Template:Gull", PROSE, number=16, namespace=10),
        page("List of gulls", PROSE, number=17),
        page("Lists of birds", PROSE, number=18),
        page("Index of bird articles", PROSE, number=19),
        page("Outline of birds", PROSE, number=20),
        page("Gull (disambiguation)", PROSE, number=21),
        page("Gull.css", PROSE, number=22, model="css"),
        page("Empty", "{{Infobox}}\n[[Category:Nothing]]", number=23),
        page("Listing of ships", PROSE, number=24),
        page("Tern & skua", PROSE, number=25),
    ]
    documents = list(read_documents(str(dump(tmp_path / name, *pages))))
    assert documents == [
        Document("12", "Gull", "wikipedia", (PROSE,)),
        Document("24", "Listing of ships", "wikipedia", (PROSE,)),
        Document("25", "Tern & skua", "wikipedia", (PROSE,)),
    ]


NO_ARTICLES = [
    "{{disambiguation}}", "{{Disambig}}", "{{disambig|surname}}", "{{ hndis |Gull, John}}", "{{Set index article}}",
    "{{set_index|ships}}", "{{SIA}}", "{{Geodis}}", "{{surname}}", "{{given name\n|x=y}}", "{{shipindex}}", "{{dab}}",
    "{{human name disambiguation}}", "{{Airport disambiguation}}", "{{disambiguation cleanup|date=May 2010}}",
]  # fmt: skip


@pytest.mark.parametrize("template", NO_ARTICLES)
def test_pages_marked_by_a_template_are_skipped(tmp_path: Path, template: str) -> None:
    path = dump(tmp_path / "x.xml", page("Gull", f"{PROSE}\n\n{template}"), page("Tern", PROSE, number=2))
    assert [document.title for document in read_documents(str(path))] == ["Tern"]


@pytest.mark.parametrize(
    "template",
    ["{{disambiguation needed|date=May 2010}}", "{{about|the bird|other uses|Gull (disambiguation)}}", "{{Dabney}}",
     "{{infobox surname}}", "{{surname-list x}}"],
)  # fmt: skip
def test_similar_templates_do_not_mark_a_page(tmp_path: Path, template: str) -> None:
    path = dump(tmp_path / "x.xml", page("Gull", f"{template}{PROSE}"))
    assert [document.paragraphs for document in read_documents(str(path))] == [(PROSE,)]


def test_the_last_revision_is_read(tmp_path: Path) -> None:
    two = page("Gull", "Old text of it.").replace(
        "</revision>", f"</revision><revision><id>3</id><text>{PROSE}</text></revision>"
    )
    assert next(read_documents(str(dump(tmp_path / "x.xml", two)))).paragraphs == (PROSE,)


# --- what of a page ---

ARTICLE = """\
{{Short description|A sea bird}}
{{Infobox bird
 | name = Gull
 | image = {{Multiple image|image1=A.jpg|footer=Various [[gull]]s}}
 | status = LC<ref name="x">{{cite book|title=Book}}</ref>
}}<!-- a comment -->
[[File:Gull.jpg|thumb|A [[gull]] in flight ''over'' the sea<ref>caption</ref>]]
The '''herring gull''' (''Larus argentatus''; {{IPAc-en|l|a}}) is a large [[gull]], up to {{convert|66|cm|in|abbr=on}}
long.<ref>{{cite web|url=http://x.org/?a=1&b=2|title=T}}</ref> It breeds in [[Northern Europe|the north]]&nbsp;(as
''others'' do){{citation needed|date=May 2010}}, is called {{lang|fr|goéland}} in French, and more.<ref name="x" />

== Description ==
{{main|Bird anatomy}}
The male is {{convert|60|to|67|cm|in}} long. [http://x.org The site] says so; see http://x.org too.[http://x.org]
[[de:Silbermöwe]][[Datei:Karte.png|mini|Eine Karte]]
* An item of a list
** with a sub-item [[link]]
# numbered
:An indented remark
; term : definition
After the list.

{| class="wikitable"
|-
! Measure !! Value
|-
| Wing || 138 [[cm]]

and a line
|}
<gallery>
A.jpg|caption
</gallery>

=== Voice ===
Their call is known (see [[:Category:Calls]]).<br />A <small>second</small> line
with x<sup>2</sup> &amp; <math>y</math>.
__NOTOC__
<ul><li>html item</li></ul>

== ''See also'' ==
* [[Tern]]
Prose in the back matter.

=== Below it ===
As well.

== Ecology ==
Gulls eat ([[fish]]) a great deal ({{small|x}}), as <blockquote>a quotation</blockquote> says.

==References==
{{Reflist}}
[[Category:Gulls]]
"""


def test_only_prose_is_kept_in_the_order_of_sections(tmp_path: Path) -> None:
    (document,) = read_documents(str(dump(tmp_path / "x.xml.bz2", page("Gull", ARTICLE))))
    assert document.paragraphs == (
        "The herring gull (Larus argentatus) is a large gull, up to 66 cm long. It breeds in the north (as others do), "
        "is called goéland in French, and more.",
        "The male is 60 to 67 cm long. The site says so; see too.",
        "After the list.",
        "Their call is known (see Category:Calls). A second line with x2 &.",
        "Gulls eat (fish) a great deal, as a quotation says.",
    )


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{convert|-5|C|F}}", "-5 C"), ("{{cvt|1.5|x|2|m|ft|abbr=on}}", "1.5 x 2 m"), ("{{convert|7}}", "7"),
        ("{{lang|de|''Möwe''}}", "Möwe"), ("{{Nowrap|5 [[kilometre|km]]}}", "5 km"), ("{{lang}}", ""), ("{{x|y}}", ""),
    ],
)  # fmt: skip
def test_inline_templates_render_as_words(template: str, words: str) -> None:
    assert article_paragraphs(f"Before {template} after.", set()) == [f"Before {words} after.".replace("  ", " ")]


@pytest.mark.parametrize(
    "heading",
    [
        "References",
        "External links",
        "See also",
        "Further reading",
        "Notes",
        "Bibliography",
        "Sources",
        "NOTES",
        "Notes:",
    ],
)
def test_back_matter_is_dropped_with_its_subsections(heading: str) -> None:
    text = f"Before it.\n== {heading} ==\nIn it.\n=== Sub ===\nBelow it.\n== Life ==\nAfter it."
    assert article_paragraphs(text, set()) == ["Before it.", "After it."]


def test_a_back_matter_subsection_ends_at_its_sibling() -> None:
    text = "One.\n== Life ==\nTwo.\n=== Notes ===\nGone.\n=== Later ===\nThree.\n== End ==\nFour."
    assert article_paragraphs(text, set()) == ["One.", "Two.", "Three.", "Four."]


def test_unbalanced_markup_is_accepted() -> None:
    assert article_paragraphs("An ''unbalanced text [[with {{open ends.\n\nNext one.", set()) == [
        "An unbalanced text [[with {{open ends.",
        "Next one.",
    ]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "{{",
                "}}",
                "[[",
                "]]",
                "{|",
                "|}",
                "|",
                "''",
                "<ref>",
                "</ref>",
                "<br>",
                "==",
                "\n",
                "* ",
                "a b",
                "File:",
                "convert",
                "<!--",
                "-->",
                "&amp;",
                "lang",
                "5",
                "<li>",
            ]
        ),
        max_size=30,
    )
)
def test_any_mixture_of_markup_gives_paragraphs(parts: list[str]) -> None:
    for paragraph in article_paragraphs("".join(parts), {"file"}):
        assert paragraph == " ".join(paragraph.split())
        assert "\0" not in paragraph


# --- the extra ---


def test_a_missing_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dump(tmp_path / "x.xml", page("Gull", PROSE))
    monkeypatch.setitem(sys.modules, "mwparserfromhell", None)
    monkeypatch.setitem(sys.modules, "mwparserfromhell.parser", None)
    with pytest.raises(MissingExtraError) as caught:
        list(read_documents(str(path)))
    assert str(caught.value) == (f"reading {path} needs the package mwparserfromhell: pip install 'nextvec[wikipedia]'")


# --- the file ---


def many(count: int) -> list[str]:
    return [page(f"Page {n}", f"{PROSE} Number {n * 7919 % 10_007}.", number=n) for n in range(1, count + 1)]


def test_a_truncated_bz2_is_reported(tmp_path: Path) -> None:
    path = dump(tmp_path / "x.xml.bz2", *many(50))
    path.write_bytes(path.read_bytes()[:-50])
    message = refuse(path)
    assert re.match(rf"{re.escape(str(path))}: truncated or damaged after \d+ pages \(", message)
    assert message.endswith("). Copy or download the file again.")


def test_truncated_xml_is_reported_with_its_position(tmp_path: Path) -> None:
    path = dump(tmp_path / "x.xml", *many(50), end="  <page><title>Cut")
    message = refuse(path)
    assert message.startswith(f"{path}: damaged XML after 50 pages: ")
    assert " at line " in message
    assert message.endswith(". Copy or download the file again.")


def test_a_file_that_is_not_bz2_or_xml_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "x.xml.bz2"
    path.write_bytes(b"no bz2 at all")
    assert refuse(path) == (
        f"{path}: truncated or damaged after 0 pages (Invalid data stream). Copy or download the file again."
    )
    path = tmp_path / "x.xml"
    path.write_bytes(b"")
    assert refuse(path).startswith(f"{path}: damaged XML after 0 pages: no element found at line 1")
    path.write_bytes(b"<html><body/></html>")
    assert refuse(path) == (
        f"{path}: not a Wikipedia dump: starts with <html>, not <mediawiki>. Name a pages-articles file."
    )


@pytest.mark.parametrize("doctype", ["<!DOCTYPE mediawiki>", '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'])
def test_a_doctype_is_refused(tmp_path: Path, doctype: str) -> None:
    path = dump(tmp_path / "x.xml", page("Gull", PROSE))
    path.write_text(doctype + path.read_text())
    assert refuse(path) == (
        f"{path}: has a DOCTYPE, unlike any Wikipedia dump. It is unsafe to read; download the dump again."
    )


def test_a_dump_without_articles_is_refused(tmp_path: Path) -> None:
    assert "has no documents" in refuse(dump(tmp_path / "x.xml", page("List of x", PROSE)))


def test_several_bz2_streams_in_one_file_are_read(tmp_path: Path) -> None:
    """Wikipedia's multistream dumps have several streams."""
    path = tmp_path / "x.xml.bz2"
    parts = [HEADER, *many(5), "</mediawiki>"]
    path.write_bytes(b"".join(bz2.compress(part.encode()) for part in parts))
    assert len(list(read_documents(str(path)))) == 5


def test_pages_are_streamed(tmp_path: Path) -> None:
    """Pages are yielded before the rest of the file is read, and few are in memory at a time."""
    path = dump(tmp_path / "x.xml", *many(2_000), end="broken <")
    reader = DumpReader(path)
    pages = reader.pages()
    assert [page.id for page in itertools.islice(pages, 3)] == ["1", "2", "3"]
    assert len(reader._ready) < 300
    assert len(list(read_documents(str(path), limit=10))) == 10
