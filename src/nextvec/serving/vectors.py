"""Contexts of vectors in the body of a request: JSON lists, or a .npy file.

Lists of many numbers are read into arrays directly; a check of each number by itself would take longer than the model.

Letters in names: N contexts, S context length, D dimensions.
"""

from __future__ import annotations

import io
from array import array
from typing import Any

import numpy as np
import orjson
import torch
from numpy.typing import NDArray

from nextvec.errors import one_line
from nextvec.inference.contexts import MAX_LENGTH_ERROR, require_shape, require_unit_length
from nextvec.inference.model import LatentVectorModel
from nextvec.serving.errors import RequestError
from nextvec.serving.limits import MAX_CONTEXTS

Matrix = NDArray[np.float32]

MAX_CONTAINERS = 200_000
"""Lists and objects of a body. An empty list takes 3 bytes of JSON, but 64 of memory."""
COUNTED_BYTES = 2**20
"""Smaller bodies cannot have so many containers that they matter."""


def parse_json(body: bytes) -> Any:
    """Return the value of a JSON body. Raises RequestError (400) if it is not JSON or has too many containers."""
    if len(body) > COUNTED_BYTES and body.count(b"[") + body.count(b"{") > MAX_CONTAINERS:
        raise RequestError(f"The body has more than {MAX_CONTAINERS:,} lists and objects.", 400)
    try:
        return orjson.loads(body)
    except ValueError as error:
        raise RequestError(f"The body is not valid JSON: {one_line(error)}.", 400) from error


def json_contexts(body: bytes) -> list[Matrix]:
    """Return the contexts (S, D) of a JSON body {"vectors": …}. Raises RequestError (400, 422) for anything else."""
    values = parse_json(body)
    if not isinstance(values, dict) or "vectors" not in values:
        raise RequestError('The body is not an object with the field "vectors".', 422)
    if len(values) > 1:
        unknown = next(name for name in values if name != "vectors")
        raise RequestError(f"{unknown[:40]}: is not a field of this request.", 422)
    vectors = values["vectors"]
    if not isinstance(vectors, list) or not vectors:
        raise RequestError("vectors: is not a list with at least one vector.", 422)
    # Arrays of numbers accept booleans, which are no numbers in JSON. The words can only be values here.
    if b"true" in body or b"false" in body:
        raise RequestError("vectors: contains a boolean. Pass numbers.", 422)
    is_one_context = isinstance(vectors[0], list) and bool(vectors[0]) and not isinstance(vectors[0][0], list)
    contexts = [vectors] if is_one_context else vectors
    _require_count(len(contexts))
    return [_matrix(context, number) for number, context in enumerate(contexts)]


def _matrix(context: Any, number: int) -> Matrix:
    """Return one context (S, D) of nested lists."""
    try:
        rows = [array("f", row) for row in context]
    except (TypeError, OverflowError) as error:
        raise RequestError(f"context {number}: is not a list of lists of numbers.", 422) from error
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise RequestError(f"context {number}: its vectors have several lengths. Pass vectors of one length D.", 422)
    if not all(isinstance(row, list) for row in context):
        raise RequestError(f"context {number}: is not a list of lists of numbers.", 422)
    return np.array(rows, np.float32).reshape(len(rows), -1) if rows else np.empty((0, 0), np.float32)


def npy_contexts(body: bytes) -> list[Matrix]:
    """Return the contexts of a .npy file with (S, D) or (N, S, D). Raises RequestError (400, 422) for anything else.

    The header is read first, so that it cannot claim more than the body contains.
    """
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, is_fortran, dtype = read(stream)
    except Exception as error:  # numpy parses the header as Python source, whose errors have many types
        raise RequestError("The body is not a .npy file.", 400) from error
    if dtype.kind != "f":
        raise RequestError(f"vectors: {dtype} is not a float type. Save float32.", 422)
    if len(shape) not in (2, 3) or is_fortran:
        raise RequestError(f"vectors: shape {shape} is not (S, D) or (N, S, D) in C order.", 422)
    content = body[stream.tell() :]
    expected = dtype.itemsize
    for length in shape:
        expected *= length
    if len(content) != expected or min(shape) < 1:
        raise RequestError(f"The .npy file has {len(content)} bytes of vectors; its shape {shape} has {expected}.", 400)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinity, which is refused
        vectors = np.frombuffer(content, dtype).reshape(shape).astype(np.float32)
    contexts = list(vectors) if vectors.ndim == 3 else [vectors]
    _require_count(len(contexts))
    return contexts


def _require_count(count: int) -> None:
    if count > MAX_CONTEXTS:
        raise RequestError(f"vectors: there are {count} contexts, but a request can have {MAX_CONTEXTS}.", 422)


def require_contexts(contexts: list[Matrix], model: LatentVectorModel) -> None:
    """Raise InputError unless a model can read the contexts, so that they cannot fail the batch that they are in."""
    for number, context_SD in enumerate(contexts):
        require_shape(context_SD.shape, number, model.dimensions, model.context_length, f"model {model.source}")
        # The model's own check of the same takes ten times as long for a single context.
        lengths_S = np.sqrt(np.einsum("sd,sd->s", context_SD, context_SD))
        if not (np.abs(lengths_S - 1) <= MAX_LENGTH_ERROR).all():  # also for NaN
            require_unit_length(torch.from_numpy(context_SD)[None], None, number)
