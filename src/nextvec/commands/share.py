"""Commands that share a model: export it as a folder, and push it to the Hugging Face hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from nextvec.commands.parameters import PATH, Folder, command

if TYPE_CHECKING:
    from nextvec.inference.export import ExportedModel, PushedModel

Model = Annotated[str | Path, Parameter(metavar="MODEL"), PATH]


@command()
def export(
    model: Model,
    out: Folder,
    *,
    format: Literal["safetensors", "onnx", "pt2"] = "safetensors",
    dtype: Literal["float16", "float32"] = "float32",
) -> ExportedModel:
    """Export a model as a folder that others can load, with its card and an example of its use.

    Args:
        model: A run folder, a .pt file, an exported folder, owner/name on the hub, or a model that ships with nextvec.
        out: The new folder.
        format: safetensors: weights for nextvec. onnx and pt2: also the network as a graph for onnxruntime or torch,
            which need nothing of nextvec.
        dtype: Format of the weights in model.safetensors; float16 halves the size. A graph has float32.
    """
    from nextvec.inference.export import export_model

    return export_model(model, out, format=format, dtype=dtype)


@command()
def push(
    model: Model,
    repository: Annotated[str, Parameter(metavar="OWNER/NAME")],
    *,
    format: Literal["safetensors", "onnx", "pt2"] = "safetensors",
    dtype: Literal["float16", "float32"] = "float32",
    private: bool = False,
    message: Annotated[str, Parameter(metavar="TEXT")] = "Upload a model of nextvec",
) -> PushedModel:
    """Export a model and upload it to the Hugging Face hub in one commit.

    The token comes from HF_TOKEN or 'hf auth login'.

    Args:
        model: A run folder, a .pt file, an exported folder, owner/name on the hub, or a model that ships with nextvec.
        repository: The repository, which is created if it does not exist.
        format: See 'nextvec export'.
        dtype: See 'nextvec export'.
        private: Create the repository as a private one.
        message: Message of the commit.
    """
    from nextvec.inference.export import PushedModel, export_model
    from nextvec.inference.hub import require_repository_name, upload_model

    require_repository_name(repository)
    with tempfile.TemporaryDirectory() as folder:
        # The address of a server is nobody else's business.
        exported = export_model(model, Path(folder) / "model", format=format, dtype=dtype, names_server=False)
        commit = upload_model(exported.path, repository, private=private, message=message)
    return PushedModel(repository, commit, exported.model, exported.format, exported.files)
