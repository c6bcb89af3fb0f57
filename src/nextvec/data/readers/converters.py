"""Kinds of documents that nextvec does not read, and a converter for each."""

from __future__ import annotations

import shlex
from pathlib import Path

from nextvec.core.paths import readable_name

_CONVERTERS = {
    ".pdf": ("pdftotext (or docling, markitdown)", "pdftotext {file} {stem}.txt"),
    ".doc": ("LibreOffice", "soffice --headless --convert-to txt:Text {file}"),
    ".xls": ("LibreOffice", "soffice --headless --convert-to csv {file}"),
    ".xlsx": ("LibreOffice", "soffice --headless --convert-to csv {file}"),
    ".ods": ("LibreOffice", "soffice --headless --convert-to csv {file}"),
    ".ppt": ("LibreOffice", "soffice --headless --convert-to pdf {file}"),
    ".pptx": ("markitdown", "markitdown {file} -o {stem}.md"),
    ".djvu": ("djvutxt", "djvutxt {file} {stem}.txt"),
    **dict.fromkeys((".mobi", ".azw3"), ("Calibre", "ebook-convert {file} {stem}.txt")),
    **dict.fromkeys(
        (".docx", ".epub", ".odt", ".rtf", ".tex", ".rst", ".org", ".fb2", ".ipynb", ".textile", ".xhtml"),
        ("pandoc", "pandoc {file} -t markdown -o {stem}.md"),
    ),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar"), ("bsdtar", "bsdtar -xf {file}")),
}
"""Suffix → name of a converter and an example command."""


def conversion_advice(path: Path, kind: str, what: str) -> str:
    """Return a sentence with a converter and its command for a file of a kind, called `what`; "" if none is known."""
    converter, command = _CONVERTERS.get(kind, ("", ""))
    if not converter:
        return ""
    file, stem = (shlex.quote(readable_name(name)) for name in (str(path), str(path.with_suffix(""))))
    return f"Convert {what} first with {converter}, for example: {command.format(file=file, stem=stem)}"
