"""Export a model as a folder that others can load: weights, configuration, card, and code that shows its use.

config.json, *.safetensors, encoder/   see `model_folder`; `load_model` reads them
model.onnx or model.pt2                the network as a graph (see `graph`); needs no code of nextvec
example.py                             reads the graph and predicts
README.md                              the model card
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nextvec.core.display import Displayable
from nextvec.core.files import write_text
from nextvec.core.formatting import escape_markdown
from nextvec.core.run_paths import BEST_MODEL, MODEL_CARD
from nextvec.core.table import Line, View
from nextvec.data.encoders.remote_names import without_url
from nextvec.inference.folder_config import CONFIG
from nextvec.inference.graph import ONNX_FILE, PT2_FILE, write_onnx, write_pt2
from nextvec.inference.load import load_model
from nextvec.inference.model import LatentVectorModel
from nextvec.inference.model_folder import write_model_folder

Format = Literal["safetensors", "onnx", "pt2"]
LARGE_BASELINES = ("ridge", "ridge-retrieval")
"""Baselines that are several times larger than the network, left out of an exported model."""
CARD, EXAMPLE = "README.md", "example.py"

_WRITERS = {"onnx": write_onnx, "pt2": write_pt2}
_GRAPHS = {"onnx": ONNX_FILE, "pt2": PT2_FILE}


@dataclass(frozen=True)
class ExportedModel(Displayable):
    """The folder of an exported model."""

    path: Path
    model: str
    """The origin of the model."""
    format: str
    files: dict[str, int]
    """File → size in bytes."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self) | {"path": str(self.path)}

    def view(self) -> View:
        """Return where the model is, and how to use it."""
        total = f"{sum(self.files.values()) / 1e6:.1f} MB"
        names = ", ".join(sorted(self.files))
        return View((Line(f"exported: {self.path} ({total}: {names})"), Line(f"how to use it: {self.path / CARD}")))


@dataclass(frozen=True)
class PushedModel(Displayable):
    """A model that was uploaded to the hub."""

    repository: str
    commit: str
    """Address of the commit."""
    model: str
    """The origin of the model."""
    format: str
    files: dict[str, int]
    """File → size in bytes."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    def view(self) -> View:
        """Return where the model is, and how to load it."""
        return View((Line(f"pushed: {self.commit}"), Line(f'load it: nextvec.load_model("{self.repository}")')))


def export_model(
    source: str | Path,
    out: str | Path,
    *,
    format: Format = "safetensors",
    dtype: Literal["float16", "float32"] = "float32",
    names_server: bool = True,
) -> ExportedModel:
    """Export the model of `source` (see `load_model`) as a new folder, which appears complete or not at all.

    `dtype` is the format of the weights in model.safetensors; a graph has float32. Without `names_server`, the folder
    lacks the URL of the encoder's server. Raises the errors of `load_model`, OutputError if the folder exists or cannot
    be written, MissingExtraError if the format needs a package.
    """
    model = load_model(source)
    if not names_server:
        model = replace(model, encoder_name=without_url(model.encoder_name))
    path = Path(out)

    def add_files(folder: Path) -> None:
        if format in _WRITERS:
            _WRITERS[format](model, folder / _GRAPHS[format])
        write_text(folder / EXAMPLE, _example(model, format))
        write_text(folder / CARD, _card(model, format, _find_card(Path(source))))

    kept = [name for name in model.baselines if name not in LARGE_BASELINES]
    write_model_folder(model, path, dtype=dtype, baselines=kept, add_files=add_files)
    files = {str(file.relative_to(path)): file.stat().st_size for file in sorted(path.rglob("*")) if file.is_file()}
    return ExportedModel(path, model.source, format, files)


def _find_card(source: Path) -> Path:
    """Return the card of a run, its best model or an exported folder; a file that does not exist for other sources."""
    folder = source.parent if source.name == BEST_MODEL else source
    return folder / (CARD if (folder / CONFIG).is_file() else MODEL_CARD)


def _card(model: LatentVectorModel, format: str, run_card: Path) -> str:
    """Return README.md: the card of the run that trained the model, or the facts that the model knows, and its use."""
    # The run's own card has its scores and its verdict; without one, the card says that they are unknown.
    text = run_card.read_text(encoding="utf-8") if run_card.is_file() else _facts(model)
    before, _, after = text.partition("## How to use it")
    _, _, rest = after.partition("\n## ")
    use = [f"## How to use it\n\nRun `{EXAMPLE}` in this folder:", f"```python\n{_example(model, format)}```"]
    if format in _GRAPHS:
        use.append(
            f"`{_GRAPHS[format]}` reads `context` (B, S, {model.dimensions}) float32, unit vectors, oldest first, S at "
            f"most {model.context_length}, and `mask` (B, S), true where a vector is present (absent ones are the "
            f"oldest). It returns {' and '.join(f'`{name}`' for name in model.outputs)} (B, {model.dimensions}), unit "
            "vectors."
        )
    return "\n\n".join([before.rstrip(), *use, *([f"## {rest.strip()}"] if rest else [])]) + "\n"


def _facts(model: LatentVectorModel) -> str:
    """Return a card for a model without a run."""
    return "\n\n".join(
        [
            "---\nlibrary_name: nextvec\npipeline_tag: feature-extraction\ntags:\n- nextvec\n---",
            f"# {escape_markdown(Path(model.source).stem)}",
            "The model predicts the embedding of a document's next chunk from the embeddings of the chunks before it.",
            f"- Architecture: {model.network.name.upper()}\n- Context: {model.context_length} chunks\n"
            f"- Embedding space: {escape_markdown(str(model.space))}. The model is valid for this space only.",
            "Its scores are unknown: it was exported from a checkpoint outside of a run folder.",
        ]
    )


def _example(model: LatentVectorModel, format: str) -> str:
    """Return a short program that uses the exported folder it stands in."""
    length, dimensions = min(5, model.context_length), model.dimensions
    context = (
        f"context = np.random.default_rng(0).normal(size=(1, {length}, {dimensions})).astype(np.float32)"
        "  # your vectors, oldest first\n"
        "context /= np.linalg.norm(context, axis=2, keepdims=True)\n"
    )
    folder = "folder = Path(__file__).parent\n"
    names = ", ".join(model.outputs) + ("," if len(model.outputs) == 1 else "")
    if format == "onnx":
        return (
            "from pathlib import Path\n\nimport numpy as np\nimport onnxruntime\n\n"
            f"{folder}{context}mask = np.ones(context.shape[:2], dtype=bool)\n\n"
            f'session = onnxruntime.InferenceSession(folder / "{ONNX_FILE}")\n'
            f'{names} = session.run(None, {{"context": context, "mask": mask}})\n'
            "print(prediction.shape, np.linalg.norm(prediction, axis=1))\n"
        )
    if format == "pt2":
        return (
            "from pathlib import Path\n\nimport numpy as np\nimport torch\n\n"
            f"{folder}{context}mask = torch.ones(context.shape[:2], dtype=torch.bool)\n\n"
            f'network = torch.export.load(folder / "{PT2_FILE}").module()\n'
            f"with torch.no_grad():\n    {names} = network(torch.from_numpy(context), mask)\n"
            "print(tuple(prediction.shape), prediction.norm(dim=1))\n"
        )
    return (
        "from pathlib import Path\n\nimport numpy as np\n\nimport nextvec\n\n"
        f"{folder}{context}\n"
        "model = nextvec.load_model(folder)\n"
        "prediction = model.predict(context)\n"
        "print(prediction.shape, np.linalg.norm(prediction, axis=1))\n"
    )
