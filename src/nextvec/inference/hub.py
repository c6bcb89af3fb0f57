"""Models on the Hugging Face hub: `owner/name` or `owner/name@revision`, downloaded into its cache, or uploaded."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nextvec.errors import CheckpointError, InputError, MissingExtraError, OutputError, one_line
from nextvec.inference.folder_config import CONFIG, FILES
from nextvec.inference.graph import ONNX_FILE, PT2_FILE

HUB_ID = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w-][\w./-]*))?")
_SECONDS = 10.0
_UNAUTHORIZED, _FORBIDDEN = 401, 403


def download_model(hub_id: str) -> Path:
    """Download the files of a model, or find them in the cache, and return their folder.

    Raises MissingExtraError if huggingface_hub is not installed, CheckpointError if there is no such model or the hub
    cannot be reached and the model is not cached.
    """
    match = HUB_ID.fullmatch(hub_id)
    assert match, hub_id
    hub, errors = _import_hub(f"the model '{hub_id}'")
    try:
        with _quiet_client(hub):
            folder = hub.snapshot_download(
                match["name"], revision=match["revision"], allow_patterns=[CONFIG, *FILES], etag_timeout=_SECONDS
            )
    except errors.HFValidationError as error:
        raise CheckpointError(f"model '{hub_id}': neither a path nor a name that the hub allows.") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"model '{hub_id}': the hub has no such revision. Check the part after @.") from error
    except errors.GatedRepoError as error:
        raise CheckpointError(f"model '{hub_id}': the hub asks for access. Request it on the model's page.") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"model '{hub_id}': not a path, and the hub has no such public model. Check the name; "
            "for a private model, run 'hf auth login' or set HF_TOKEN."
        ) from error
    except Exception as error:  # the client raises the errors of its network library, which varies
        if _status(error) == _UNAUTHORIZED:
            raise CheckpointError(f"model '{hub_id}': {_BAD_TOKEN}") from error
        raise CheckpointError(
            f"model '{hub_id}': not a path, not in the cache, and the hub can't be reached ({one_line(error)}). "
            "Name a folder or a file, or try again."
        ) from error
    return Path(folder)


def upload_model(folder: Path, hub_id: str, *, private: bool, message: str) -> str:
    """Upload an exported folder to `owner/name` in one commit, and return the commit's address.

    The repository is created if it does not exist. Files that an earlier export left there and this one lacks are
    removed; all others stay. An upload that ends early changes no file. Raises InputError for a malformed name or an
    empty message, and without a valid token; OutputError if the hub refuses or cannot be reached, or if the repository
    must be private but is public.
    """
    require_repository_name(hub_id)
    if not message.strip():
        raise InputError("--message is empty. Write what the commit changes.")
    hub, errors = _import_hub("pushing a model")
    api = hub.HfApi()
    if hub.get_token() is None:
        raise InputError("the hub needs a token. Run 'hf auth login', or set HF_TOKEN.")
    try:
        with _quiet_client(hub):
            # None leaves the visibility to the owner's setting.
            api.create_repo(hub_id, private=private or None, exist_ok=True)
            info = api.model_info(hub_id)
            if private and not info.private:
                raise OutputError(
                    f"repository {hub_id}: exists and is public. Make it private on the hub, or omit --private."
                )
            remote = {sibling.rfilename for sibling in info.siblings or ()}
            # `upload_folder` may split an upload into several commits; readers could load a mixture of two models.
            commit = api.create_commit(hub_id, _operations(hub, folder, remote), commit_message=message)
    except OutputError:
        raise
    except errors.HFValidationError as error:
        raise InputError(f"'{hub_id}' is not a name that the hub allows. {one_line(error)}") from error
    except Exception as error:  # the client raises the errors of its network library, which varies
        status = _status(error)
        if status == _UNAUTHORIZED:
            raise InputError(f"cannot push to {hub_id}: {_BAD_TOKEN}") from error
        if status == _FORBIDDEN:
            raise InputError(f"cannot push to {hub_id}: the token may not write there. Use another token.") from error
        reason = one_line(error) if status or isinstance(error, ValueError) else f"no connection ({one_line(error)})"
        raise OutputError(f"cannot push to {hub_id}: {reason}") from error
    return str(commit.commit_url)


def require_repository_name(hub_id: str) -> None:
    """Raise InputError unless `hub_id` has the form `owner/name`."""
    match = HUB_ID.fullmatch(hub_id)
    if match is None or match["revision"]:
        raise InputError(f"'{hub_id}' is not a repository of the hub. Name it as owner/name.")


_BAD_TOKEN = "the hub refuses the token. Run 'hf auth login', or set HF_TOKEN to a valid token."


def _operations(hub: Any, folder: Path, remote: set[str]) -> list[Any]:
    """Return the changes of the commit: every file of the folder, and the removal of those of an earlier export."""
    files = {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}
    # A graph of an earlier export would predict with other weights than the new ones beside it.
    outdated = sorted(remote & {ONNX_FILE, PT2_FILE, *FILES} - files.keys())
    additions = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()]
    return [*(hub.CommitOperationDelete(path_in_repo=name) for name in outdated), *additions]


def _status(error: Exception) -> int | None:
    """Return the HTTP status of an error or of its causes; None without one."""
    cause: BaseException | None = error
    while cause is not None:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        cause = cause.__cause__
    return None


@contextmanager
def _quiet_client(hub: Any) -> Iterator[None]:
    """Show the client's progress bars on a terminal only, and hide its warnings: errors are raised anyway."""
    utils = importlib.import_module("huggingface_hub.utils")
    verbosity, hidden = hub.logging.get_verbosity(), utils.are_progress_bars_disabled()
    hub.logging.set_verbosity_error()
    if not hidden and not sys.stderr.isatty():
        utils.disable_progress_bars()
    try:
        yield
    finally:
        hub.logging.set_verbosity(verbosity)
        if not hidden:
            utils.enable_progress_bars()


def _import_hub(purpose: str) -> tuple[Any, Any]:
    """Return huggingface_hub and its errors. Raises MissingExtraError if it is not installed."""
    try:
        return importlib.import_module("huggingface_hub"), importlib.import_module("huggingface_hub.errors")
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub", purpose) from error
