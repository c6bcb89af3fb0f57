"""How results show themselves: as a table in a terminal, as HTML in a notebook, as pandas DataFrames."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pandas import DataFrame  # type: ignore[import-untyped]

# Notebooks do not load page.css; these rules cover the parts that a notebook's own style lacks.
_NOTEBOOK_STYLE = (
    "<style>.nextvec .green{color:#00795a}.nextvec .amber{color:#a86a00}.nextvec .red{color:#c43c00}"
    ".nextvec .best{font-weight:700}.nextvec .note{opacity:.7}.nextvec .item{margin-left:1.5em}"
    ".nextvec th:first-child{text-align:left}</style>"
)


class Displayable:
    """Base of result types that rich and notebooks show: `print(result)` of rich, or the last line of a cell.

    `view` names the function that builds the result's `View`, as `module:function`. It is loaded when the result is
    first shown, since views are made of a higher layer (`nextvec.reports`) than most results.
    """

    _view: ClassVar[str] = ""

    def __init_subclass__(cls, *, view: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if view:
            cls._view = view

    def view(self) -> Any:
        """Return the result as tables and lines (`nextvec.core.table.View`)."""
        # The module is named as text: importing it at the top would import a higher layer.
        module, _, function = self._view.partition(":")
        return getattr(import_module(module), function)(self)

    def __rich__(self) -> Any:
        """Return the result for a terminal."""
        return self.view()

    def _repr_html_(self) -> str:
        """Return the result for a notebook."""
        return f'<div class="nextvec">{_NOTEBOOK_STYLE}{self.view().html()}</div>'

    def to_pandas(self) -> dict[str, DataFrame]:
        """Return the result's tables by title. Raises MissingExtraError if pandas is not installed."""
        tables: dict[str, DataFrame] = self.view().to_pandas()
        return tables
