"""Models on the Hugging Face hub: `owner/name` or `owner/name@revision`, downloaded into the hub's cache."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from nextvec.errors import CheckpointError, MissingExtraError, one_line
from nextvec.inference.model_folder import CONFIG, FILES

HUB_ID = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
_SECONDS = 10.0


def download_model(hub_id: str) -> Path:
    """Download the files of a model, or find them in the cache, and return their folder.

    Raises MissingExtraError if huggingface_hub is not installed, CheckpointError if there is no such model or the hub
    cannot be reached and the model is not cached.
    """
    match = HUB_ID.fullmatch(hub_id)
    assert match, hub_id
    try:
        hub: Any = importlib.import_module("huggingface_hub")
        errors: Any = importlib.import_module("huggingface_hub.errors")
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub", f"the model '{hub_id}'") from error
    try:
        folder = hub.snapshot_download(
            match["name"], revision=match["revision"], allow_patterns=[CONFIG, *FILES], etag_timeout=_SECONDS
        )
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"model '{hub_id}': the hub has no such revision. Check the part after @.") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"model '{hub_id}': not a path, and the hub has no such public model. Check the name."
        ) from error
    except Exception as error:  # the client raises the errors of its network library, which varies
        raise CheckpointError(
            f"model '{hub_id}': not a path, and the hub can't be reached ({one_line(error)}). Name a folder or a file."
        ) from error
    return Path(folder)
