"""A text store with its own encoder, and a run on it: what a user has before using a model."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import nextvec
from nextvec.data.space import Space
from nextvec.data.store import Store
from nextvec.inference.model import LatentVectorModel
from nextvec.models.registry import model_from_config

TOPICS = ("harbor boats tide gull rope sail", "oven flour yeast crust bake loaf", "orbit comet lens moon star dust")
VERBS = ["carries", "moves", "finds", "keeps", "turns", "marks", "leaves", "holds", "meets", "follows"]


def make_documents(count: int = 40, seed: int = 0) -> list[dict[str, object]]:
    """Documents about one topic each, with paragraphs that no other document has."""
    rng = np.random.default_rng(seed)
    documents = []
    for number in range(count):
        words = TOPICS[number % len(TOPICS)].split()
        paragraphs = []
        for position in range(9):
            chosen = [*rng.choice(words, 4), *rng.choice(VERBS, 2), f"note{number}x{position}"]
            paragraphs.append("The " + " ".join(chosen) + " beside the old stone wall today.")
        documents.append({"id": f"d{number}", "title": f"Document {number}", "source": "s", "paragraphs": paragraphs})
    return documents


@pytest.fixture(scope="session")
def text_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("inference")
    source = folder / "texts.jsonl"
    source.write_text("".join(json.dumps(document) + "\n" for document in make_documents()))
    return nextvec.data_build([source], out=folder / "store", val=0.2, dimensions=12, quiet=True)


@pytest.fixture(scope="session")
def text_run(text_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on `text_store`."""
    values = {
        "name": "texts",
        "data": {"store": str(text_store.path), "context": 4, "min_context": 1},
        "training": {"epochs": 1, "batch_size": 32},
        "evaluation": {"resamples": 100, "ridge_windows": 1000},
        "runtime": {"device": "cpu", "threads": 1},
    }
    run = tmp_path_factory.mktemp("runs") / "texts"
    nextvec.train(values, out=run, force=True, quiet=True)
    return run


@pytest.fixture(scope="session")
def paragraphs(text_store: Store) -> list[str]:
    """The paragraphs of the first document of the store."""
    return text_store.texts(range(int(text_store.documents.rows[0])))


@pytest.fixture
def make_model() -> Callable[..., LatentVectorModel]:
    """Makes an untrained model of a kind and variant: ``make_model("gru", "original")``."""

    def make(kind: str = "amn", variant: str = "residual", dimensions: int = 16, context: int = 5) -> LatentVectorModel:
        torch.manual_seed(0)
        network = model_from_config({"kind": kind, "variant": variant, "dimensions": dimensions}).eval()
        # A fresh residual network equals a baseline; noise makes its outputs its own.
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        return LatentVectorModel(network, "toy", Space("toy", "1", dimensions), context)

    return make


@pytest.fixture
def contexts() -> np.ndarray:
    """(7, 5, 16) unit vectors, float32."""
    vectors = np.random.default_rng(1).normal(size=(7, 5, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
