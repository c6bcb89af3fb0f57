"""Corpora for the calibration of the embedding-space check: texts that installed packages carry, and their vectors.

A corpus is a list of documents, a document a list of chunks. `package_corpora` needs no download: docstrings and
comments of packages, the reference of the Python language, licenses, package descriptions, translated messages and
tables. `read_texts` reads a folder of plain text. `encode_variants` encodes texts in the space of minilm, and in other
spaces of the same size: other poolings and other layers of the same network.
"""

from __future__ import annotations

import ast
import csv
import gzip
import random
import re
import sysconfig
import tokenize
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from babel.messages.mofile import read_mo
from numpy.typing import NDArray

from nextvec.core.device import autocast
from nextvec.data.encoders import open_encoder

Corpus = list[list[str]]

MIN_CHUNKS, MAX_CHUNKS = 6, 40
"""Numbers of chunks of a document; longer documents are cut."""
MIN_WORDS, MAX_CHARACTERS = 10, 240
"""Shorter paragraphs are joined to the next, longer ones are cut; 240 characters are about 60 tokens."""
MAX_TOKENS = 64
TEXT_ENDINGS = (".txt", ".md", ".rst", ".gz")

DOCSTRINGS = ("sympy", "sklearn", "networkx", "pandas", "matplotlib", "sqlalchemy", "torch", "transformers", "scipy")
COMMENTS = ("sphinx", "mypy", "fontTools")


def package_corpora(chunks: int) -> dict[str, Corpus]:
    """Return corpora of at most `chunks` chunks each, by name."""
    packages, library = (Path(sysconfig.get_paths()[name]) for name in ("purelib", "stdlib"))
    found: dict[str, Iterator[list[str]]] = {
        f"docstrings {name}": _from_modules(packages / name, _docstrings) for name in DOCSTRINGS
    }
    found["docstrings stdlib"] = _from_modules(library, _docstrings)
    found |= {f"comments {name}": _from_modules(packages / name, _comments) for name in COMMENTS}
    found["source code"] = _from_modules(packages / "networkx", _code)
    found["language reference"] = (_paragraphs(text) for text in topics.values())
    found["licenses"] = (
        _paragraphs(_read(path)) for path in sorted(packages.glob("*.dist-info/**/*LICENSE*")) if path.is_file()
    )
    found["package descriptions"] = (
        _paragraphs(str(package.metadata.get_payload())) for package in sorted(distributions(), key=lambda d: d.name)
    )
    found["translated messages"] = (_messages(path) for path in sorted(packages.glob("sphinx/locale/*/*/sphinx.mo")))
    found["tables"] = (_rows(path) for path in sorted(packages.glob("sklearn/datasets/data/*.csv")))
    return {name: corpus for name, documents in found.items() if (corpus := collect(documents, chunks))}


def read_texts(folder: Path, chunks: int) -> Corpus:
    """Return the text files of a folder and its subfolders as documents."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in TEXT_ENDINGS)
    return collect((_paragraphs(_read(path)) for path in paths), chunks)


def collect(documents: Iterator[list[str]], chunks: int) -> Corpus:
    """Return documents without repeats of paragraphs, of MIN_CHUNKS to MAX_CHUNKS chunks, at most `chunks` in all."""
    corpus, seen, total = [], set[str](), 0
    for document in documents:
        fresh = [text for text in dict.fromkeys(document) if text not in seen]
        seen.update(fresh)
        # A long document gives several, so that a corpus of few long texts has independent parts.
        parts = [fresh[first : first + MAX_CHUNKS] for first in range(0, len(fresh), MAX_CHUNKS)]
        corpus += [part for part in parts if len(part) >= MIN_CHUNKS]
        total += len(fresh)
        if total > 3 * chunks:
            break  # enough to choose from
    random.Random(0).shuffle(corpus)
    kept: Corpus = []
    for document in corpus:
        if sum(map(len, kept)) + len(document) <= chunks:
            kept.append(document)
    return kept


def _read(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "replace")


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a text; short ones, such as headings, are joined to the next."""
    chunks, short = [], ""
    # A text without blank lines has a paragraph on each line.
    parts = re.split(r"\n[ \t\r]*\n", text)
    for paragraph in parts if len(parts) > len(text) / 5000 else text.splitlines():
        short = f"{short} {' '.join(paragraph.split())}".strip()
        if len(short.split()) >= MIN_WORDS:
            chunks.append(short[:MAX_CHARACTERS])
            short = ""
    return chunks


def _from_modules(folder: Path, extract: Any) -> Iterator[list[str]]:
    """Yield a document for each Python module of a folder, in a random but fixed order, at most 400."""
    paths = sorted(folder.rglob("*.py"))
    excluded = {"tests", "test", "site-packages", "_vendor"}
    paths = [path for path in paths if not excluded & set(path.relative_to(folder).parts)]
    random.Random(0).shuffle(paths)
    for path in paths[:400]:
        try:
            yield extract(path)
        except (SyntaxError, ValueError, tokenize.TokenError, RecursionError):
            continue  # templates that are not valid Python


def _docstrings(path: Path) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(_read(path))) if isinstance(node, kinds)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    return [chunk for node in nodes for chunk in _paragraphs(ast.get_docstring(node) or "")]


def _comments(path: Path) -> list[str]:
    """Return the blocks of comments of a module."""
    text, last = "", -1
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                text += ("\n" if token.start[0] == last + 1 else "\n\n") + token.string.lstrip("#: ")
                last = token.start[0]
    return _paragraphs(text)


def _code(path: Path) -> list[str]:
    """Return blocks of ten lines of code, without docstrings."""
    lines = [line for line in ast.unparse(_without_docstrings(ast.parse(_read(path)))).splitlines() if line.strip()]
    return ["\n".join(lines[first : first + 10])[:MAX_CHARACTERS] for first in range(0, len(lines) - 9, 10)]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ...
    return tree


def _messages(path: Path) -> list[str]:
    """Return the translations of a message catalog, four to a chunk."""
    with path.open("rb") as file:
        texts = [str(message.string) for message in read_mo(file) if message.id and message.string]
    return [" ".join(texts[first : first + 4])[:MAX_CHARACTERS] for first in range(0, len(texts) - 3, 4)]


def _rows(path: Path) -> list[str]:
    """Return the rows of a table as text, three to a chunk."""
    with path.open(newline="") as file:
        rows = [", ".join(row) for row in csv.reader(file)]
    return ["; ".join(rows[first : first + 3])[:MAX_CHARACTERS] for first in range(1, len(rows) - 2, 3)]


def encode_variants(texts: Sequence[str]) -> dict[str, NDArray[np.float16]]:
    """Return the unit vectors (N, D) of texts: "minilm", and other poolings and layers of its network by name."""
    encoder: Any = open_encoder("minilm")
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    parts: dict[str, list[NDArray[np.float16]]] = {}
    for first in range(0, len(order), 64):
        batch = [texts[index] for index in order[first : first + 64]]
        for name, vectors_BD in _pool(encoder, batch).items():
            unit_BD = torch.nn.functional.normalize(vectors_BD.float(), dim=1)
            parts.setdefault(name, []).append(unit_BD.numpy().astype(np.float16))
    vectors = {}
    for name, blocks in parts.items():
        vectors[name] = np.empty((len(texts), blocks[0].shape[1]), np.float16)
        vectors[name][order] = np.concatenate(blocks)
    return vectors


@torch.inference_mode()
def _pool(encoder: Any, texts: list[str]) -> dict[str, torch.Tensor]:
    """Return the vectors (B, D) of a batch under every pooling, before normalization."""
    model = encoder._model
    tokens = model.tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    with autocast(encoder.device, encoder.dtype):
        output = model[0].auto_model(**tokens, output_hidden_states=True)
    layers = [layer.float() for layer in output.hidden_states]
    mask_BT1 = tokens["attention_mask"][..., None].float()
    counts_B1 = mask_BT1.sum(dim=1)
    mean = {layer: (layers[layer] * mask_BT1).sum(dim=1) / counts_B1 for layer in (0, 2, 4, 5, 6)}
    last_BTD = layers[-1]
    unit_BTD = torch.nn.functional.normalize(last_BTD, dim=2)
    return {
        "minilm": mean[6],
        "first token": last_BTD[:, 0],
        "maximum pooling": last_BTD.masked_fill(mask_BT1 == 0, -torch.inf).amax(dim=1),
        "mean without the mask": last_BTD.mean(dim=1),
        "mean of unit tokens": (unit_BTD * mask_BT1).sum(dim=1),
        "word embeddings": mean[0],
        "layer 2": mean[2],
        "layer 4": mean[4],
        "layer 5": mean[5],
        "first and last layer": mean[0] + mean[6],
        # Not unit length: a Dense layer can follow before or after the normalization.
        "length": mean[6].norm(dim=1, keepdim=True).expand(-1, 2),
    }
