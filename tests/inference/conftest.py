"""Untrained models, and contexts for them; `text_store` and `text_run` of the main conftest are trained ones."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from nextvec.data.space import Space
from nextvec.inference.model import LatentVectorModel
from nextvec.models.registry import model_from_config


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
