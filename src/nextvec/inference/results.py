"""Results of the commands: one per document, and files of predicted vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nextvec.core.display import Displayable
from nextvec.core.table import Cell, Column, Line, Row, Table, View, columns_of

SHOWN_NUMBERS = 4
"""Numbers of a vector that a table shows."""


class _Result(Protocol):
    def view(self) -> View: ...
    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class DocumentResult:
    """The result of one document of the input."""

    document: str
    result: Any
    """A `NextChunks`, `Continuation` or `DocumentScore`."""


@dataclass(frozen=True)
class DocumentResults(Displayable):
    """The results of a command, one for each document of its input."""

    documents: tuple[DocumentResult, ...]
    path: Path | None = None
    """The page that was written, if any."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        documents = [{"document": item.document, **item.result.to_dict()} for item in self.documents]
        return {"documents": documents} | ({"path": str(self.path)} if self.path else {})

    def view(self) -> View:
        """Return the views of all documents, with the document in the titles of the tables if there are several."""
        blocks: list[Table | Line] = []
        for item in self.documents:
            for block in item.result.view().blocks:
                is_titled = isinstance(block, Table) and len(self.documents) > 1
                blocks.append(replace(block, title=f"{item.document} · {block.title}") if is_titled else block)
        if self.path is not None:
            blocks.append(Line(f"page: {self.path}", style="path"))
        return View(tuple(blocks))


@dataclass(frozen=True)
class PredictedVectors(Displayable):
    """The predicted next vectors of some contexts."""

    model: str
    output: str
    """The output of the model: "prediction" or "query"."""
    contexts: tuple[str, ...]
    """The name of each context: its document, or its number in the file."""
    vectors: NDArray[np.float32]
    """(N, D), unit length."""
    path: Path | None = None
    """The .npy file that was written, if any."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON: the path of the vectors if they were written, else the vectors."""
        values = {"model": self.model, "output": self.output, "contexts": list(self.contexts)}
        shape = {"shape": list(self.vectors.shape)}
        return values | shape | ({"path": str(self.path)} if self.path else {"vectors": self.vectors.tolist()})

    def view(self) -> View:
        """Return the first numbers of each vector."""
        rows = tuple(
            Row((Cell(name), Cell(" ".join(f"{value:+.4f}" for value in vector[:SHOWN_NUMBERS]) + " …")))
            for name, vector in zip(self.contexts, self.vectors, strict=True)
        )
        count, dimensions = self.vectors.shape
        where = f"; written to {self.path}" if self.path else ""
        summary = Line(f"{self.output} of {self.model}: {count:,} × {dimensions}{where}", style="path")
        table = Table("", (*columns_of("context"), Column("vector", "left")), rows)
        return View((table, summary) if not self.path else (summary,))
