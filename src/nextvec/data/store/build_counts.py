"""Counts of a build from text: what is lost or dropped, when that is too much, and what the manifest reports.

Documents without any text are lost: more than 1 % is an error. Short chunks and repeats are dropped on purpose, and
more than half is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nextvec.data.store.build_config import BuildConfig
from nextvec.data.store.lost_rows import LostRows, describe_lost, lost_by_name, require_balance, require_few_lost
from nextvec.data.store.tables import WINDOW_CHUNKS
from nextvec.data.store.vector_source import TEXT_COUNTS

MAX_DROPPED = 0.5
"""Largest share of the chunks that may be too short or repeats. The docs of Python lose 8 % as repeats, and 300 novels
7 % as short lines; a table with a wrong column loses nearly all."""

MAX_TRUNCATED = 0.2
"""Share of truncated texts above which a build warns: the vectors of so many describe beginnings, not chunks."""
_CHARS_PER_TOKEN = 4
"""About the number of characters of a token of English."""

_CHECK_TEXT = "Check that the right field is read: name it with --columns text=NAME."
_INTERNAL = (
    *("documents_selected", "short_documents", "short_by_lines", "chunks_selected"),
    *("without_text", "without_chunks"),
)
"""Counts that the manifest reports in another form."""


def _lost(config: BuildConfig, counts: dict[str, int]) -> list[LostRows]:
    """Return the documents without any chunk, by reason."""
    short = f"have no chunk of {config.chunker.min_chars} characters"
    return [
        LostRows("without_text", counts.get("without_text", 0), "have no text", _CHECK_TEXT),
        LostRows("without_chunks", counts.get("without_chunks", 0), short, "Lower the limit with --min-chars."),
    ]


def require_text(config: BuildConfig, counts: dict[str, int]) -> None:
    """Raise StoreError if too many documents have no text, or if most chunks are dropped.

    Short chunks and repeats are dropped on purpose. But if more than MAX_DROPPED of the chunks are, then the text is
    probably not the one that was meant.
    """
    where = ", ".join(config.sources)
    require_few_lost(where, "documents", counts["documents_read"], _lost(config, counts), config.allow_lost_rows)
    repeats = sum(counts[name] for name in ("repeats_dropped", "val_in_train_dropped", "ood_in_train_dropped"))
    short = f"are shorter than {config.chunker.min_chars} characters"
    dropped = [
        LostRows("too_short", counts.get("too_short_dropped", 0), short, "Lower the limit with --min-chars."),
        LostRows("repeats", repeats, "repeat another chunk", _CHECK_TEXT),
    ]
    read = counts["chunks_selected"] + dropped[0].rows
    require_few_lost(where, "chunks", read, dropped, max(MAX_DROPPED, config.allow_lost_rows))


def describe_losses(config: BuildConfig, counts: dict[str, int]) -> dict[str, Any]:
    """Return the manifest's entries about documents without any chunk; none if there are none."""
    lost = _lost(config, counts)
    notices = describe_lost(", ".join(config.sources), "documents", counts["documents_read"], lost)
    return {"lost_rows": lost_by_name(lost), "notices": notices} if notices else {}


def describe_short_documents(config: BuildConfig, counts: dict[str, int]) -> dict[str, Any]:
    """Return an entry for the manifest if most documents are too short for a window: numbers, message and remedy."""
    documents, short = counts["documents_selected"], counts["short_documents"]
    if 2 * short <= documents:
        return {}
    remedies = []
    if counts["short_by_lines"] < short:
        enough = documents - counts["short_by_lines"]
        remedies.append(
            f"make each line a paragraph with --paragraphs lines ({enough:,} documents would have {WINDOW_CHUNKS} "
            "chunks)"
        )
    if config.chunker.unit == "paragraph":
        remedies.append("cut the text into sentences with --unit sentences")
    else:
        remedies.append(f"make shorter chunks with --max-chars {config.chunker.max_chars // 2}")
    # Rows of a table may be the chunks of a document; folders and text files have no rows.
    if any(not Path(source).is_dir() and not source.endswith((".txt", ".md")) for source in config.sources):
        remedies.append("group the rows of a table with --group-by COLUMN --order-by COLUMN")
    remedy = f"Build again, and {', or '.join(remedies)}."
    message = f"{short:,} of {documents:,} documents have fewer than {WINDOW_CHUNKS} chunks (context 5 + 1)."
    values = {"documents": documents, "short": short, "chunks": WINDOW_CHUNKS, "message": message, "remedy": remedy}
    return {"short_documents": values}


def describe_truncated_texts(max_tokens: int | None, encoded: dict[str, int]) -> dict[str, Any]:
    """Return an entry for the manifest if the encoder reads only the beginning of some texts: numbers and a message.

    `encoded` has the number of encoded texts and the counts of TEXT_COUNTS. Above MAX_TRUNCATED, it has a remedy.
    """
    truncated, texts = encoded["truncated_texts"], encoded["texts"]
    if not truncated:
        return {}
    share = truncated / texts
    message = (
        f"{share:.1%} of the texts ({truncated:,} of {texts:,}) are longer than the {max_tokens} tokens that the "
        "encoder reads; the rest of each has no effect on its vector."
    )
    remedy = ""
    if share > MAX_TRUNCATED and max_tokens is not None:
        chars = _CHARS_PER_TOKEN * max_tokens
        remedy = f"Build again with shorter chunks (--max-chars {chars}), or with an encoder that reads more."
    values = {"texts": texts, "truncated": truncated, "max_tokens": max_tokens, "message": message, "remedy": remedy}
    return {"truncated_texts": values}


def final_counts(done: dict[str, Any]) -> dict[str, Any]:
    """Return the counts for the manifest from those of the stages; drops by text and by vector are added up."""
    selected, finished = done["selected"], done["finished"]
    counts = {name: finished.get(name, 0) for name in ("documents", "chunks", "documents_cut")}
    counts |= selected | {name: value + selected.get(name, 0) for name, value in finished.items() if name != "splits"}
    counts["documents_dropped"] = counts["documents_read"] - counts.pop("documents_kept")
    # Every chunk is stored, or dropped for a reason; short ones were dropped before.
    before = ("documents_dropped", "too_short_dropped")
    dropped = sum(value for name, value in counts.items() if name.endswith("_dropped") and name not in before)
    require_balance("the build", counts["chunks_selected"], counts["chunks"], dropped)
    for name in _INTERNAL:
        counts.pop(name, None)
    encoded = {name: done["encoded"][name] for name in TEXT_COUNTS}
    return counts | encoded | {"splits": finished["splits"]}
