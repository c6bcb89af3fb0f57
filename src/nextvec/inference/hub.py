"""Models on the Hugging Face hub: `owner/name` or `owner/name@revision`, downloaded into its cache, or uploaded."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from nextvec.errors import CheckpointError, InputError, MissingExtraError, OutputError, one_line
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
    hub, errors = _import_hub(f"the model '{hub_id}'")
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


def upload_model(folder: Path, hub_id: str, *, private: bool, message: str) -> str:
    """Upload an exported folder to `owner/name` in one commit, and return the commit's address.

    The repository is created if it does not exist. Other files in it stay. An upload that ends early changes nothing,
    because the hub shows a commit completely or not at all. Raises InputError for a malformed name or without a token,
    OutputError if the hub refuses or cannot be reached.
    """
    match = HUB_ID.fullmatch(hub_id)
    if match is None or match["revision"]:
        raise InputError(f"'{hub_id}' is not a repository of the hub. Name it as owner/name.")
    hub, errors = _import_hub("pushing a model")
    api = hub.HfApi()
    if api.token is None and hub.get_token() is None:
        raise InputError("the hub needs a token. Run 'hf auth login', or set HF_TOKEN.")
    try:
        api.create_repo(hub_id, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=hub_id, folder_path=folder, commit_message=message)
    except errors.HfHubHTTPError as error:
        raise OutputError(f"cannot push to {hub_id}: {one_line(error)}") from error
    except Exception as error:  # the client raises the errors of its network library, which varies
        raise OutputError(f"cannot push to {hub_id}: the hub can't be reached ({one_line(error)})") from error
    return str(commit.commit_url)


def _import_hub(purpose: str) -> tuple[Any, Any]:
    """Return huggingface_hub and its errors. Raises MissingExtraError if it is not installed."""
    try:
        return importlib.import_module("huggingface_hub"), importlib.import_module("huggingface_hub.errors")
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub", purpose) from error
