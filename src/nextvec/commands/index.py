"""Command that makes an index of a store in a vector database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nextvec.commands.parameters import Data, command

if TYPE_CHECKING:
    from nextvec.inference.lancedb_build import BuiltIndex


@command(by_name=["to"])
def index_build(
    store: Data, to: Annotated[str | Path, Parameter(metavar="DIR#TABLE")], *, quiet: bool = False
) -> BuiltIndex:
    """Make or update the LanceDB table of a store, which 'next' and 'generate' can search and filter.

    After the store has changed, run the same command again: it adds the new chunks and removes those that vanished. To
    continue an interrupted build, run the same command again, too.

    Args:
        store: The store, by its folder or URL.
        to: The table, as in --index: lancedb:DIR#TABLE. A folder or URI alone means its table chunks.
        quiet: Show no progress.
    """
    from nextvec.data.store import open_store
    from nextvec.inference.lancedb_build import build_index

    return build_index(open_store(store, quiet=quiet), str(to), quiet=quiet)
