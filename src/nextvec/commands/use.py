"""Commands that use a trained model: predict vectors, find the next chunk, continue a text, and score a document."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from nextvec.commands.parameters import PATH, Device, EncoderName, File, command
from nextvec.core.files import write_bytes
from nextvec.errors import InputError

if TYPE_CHECKING:
    from nextvec.inference.results import DocumentResults, PredictedVectors

Source = Annotated[str | Path, Parameter(metavar="SOURCE"), PATH]
Model = Annotated[str | Path, Parameter(metavar="MODEL"), PATH]
DecoderUrl = Annotated[str, Parameter(metavar="URL")]
IndexPath = Annotated[str | Path, Parameter(metavar="INDEX"), PATH]
Where = Annotated[str, Parameter(metavar="CONDITION")]


@command()
def predict(
    source: Source,
    *,
    model: Model,
    output: Literal["prediction", "query"] = "prediction",
    out: File = "",
    encoder: EncoderName = "",
    device: Device = "cpu",
) -> PredictedVectors:
    """Predict the vector that follows each document, or each context of a file of vectors.

    Args:
        source: A file or folder of text (see 'data build'), - for standard input, or vectors: .npy with (S, D) or
            (N, S, D), .npz with context_sequences, .parquet with a column vector and, for several contexts, document.
        model: A run folder, a .pt file, an exported folder, owner/name on the hub, or a model that ships with nextvec.
        output: Output of the model: the prediction estimates the next vector, the query retrieves it.
        out: .npy file to write the (N, D) float32 vectors to.
        encoder: The model's encoder elsewhere, such as openai:URL#MODEL. Default: where the model remembers it.
        device: Device of the model.
    """
    import numpy as np

    from nextvec.inference.inputs import is_vector_file, read_texts, read_vectors
    from nextvec.inference.load import load_model
    from nextvec.inference.results import PredictedVectors

    loaded = load_model(model, device, encoder=str(encoder))
    contexts: Any
    if is_vector_file(str(source)):
        contexts = read_vectors(str(source), loaded)
        count = 1 if getattr(contexts, "ndim", 3) == 2 else len(contexts)
        names = tuple(map(str, range(count)))
    else:
        documents = read_texts(str(source), loaded.chunker)
        contexts = [loaded.encode(document.texts[-loaded.context_length :]) for document in documents]
        names = tuple(document.name for document in documents)
    vectors = np.asarray(loaded.query(contexts) if output == "query" else loaded.predict(contexts))
    if str(out):
        buffer = io.BytesIO()
        np.save(buffer, vectors)
        write_bytes(Path(out), buffer.getbuffer())
    return PredictedVectors(loaded.source, output, names, vectors, Path(out) if str(out) else None)


@command()
def next(
    source: Source,
    *,
    model: Model,
    index: IndexPath,
    k: Annotated[int, Parameter(alias="-k")] = 5,
    where: Where = "",
    decoder: DecoderUrl = "",
    encoder: EncoderName = "",
    device: Device = "cpu",
) -> DocumentResults:
    """Find the chunks of a store that most likely follow each document.

    Args:
        source: A file or folder of text (see 'data build'), or - for standard input.
        model: A run folder, a .pt file, an exported folder, owner/name on the hub, or a model that ships with nextvec.
        index: The store to search, or lancedb:DIR#TABLE; its vectors must be of the model's encoder.
        k: Number of chunks to show.
        where: SQL condition on the index's columns that the chunks match, such as "source = 'x'".
        decoder: Server that also makes a text of the prediction. A round trip of texts tests it first.
        encoder: The model's encoder elsewhere, such as openai:URL#MODEL. Default: where the model remembers it.
        device: Device of the model.
    """
    from nextvec.inference.index import open_index
    from nextvec.inference.inputs import read_texts
    from nextvec.inference.load import load_model
    from nextvec.inference.results import DocumentResult, DocumentResults

    loaded, opened = load_model(model, device, encoder=str(encoder)), open_index(index, where)
    documents = read_texts(str(source), loaded.chunker)
    return DocumentResults(
        tuple(
            DocumentResult(document.name, loaded.next(document.texts, opened, k, decoder=decoder or None))
            for document in documents
        )
    )


@command()
def generate(
    source: Source,
    *,
    model: Model,
    index: IndexPath,
    steps: int = 5,
    raw: bool = False,
    where: Where = "",
    decoder: DecoderUrl = "",
    encoder: EncoderName = "",
    device: Device = "cpu",
) -> DocumentResults:
    """Continue each document by chunks of a store, and report the drift.

    Args:
        source: A file or folder of text (see 'data build'), or - for standard input.
        model: A run folder, a .pt file, an exported folder, owner/name on the hub, or a model that ships with nextvec.
        index: The store to take chunks from, or lancedb:DIR#TABLE; its vectors must be of the model's encoder.
        steps: Number of chunks.
        raw: Feed the raw prediction back after each step, instead of the vector of the chosen chunk.
        where: SQL condition on the index's columns that the chunks match, such as "source = 'x'".
        decoder: Server that also makes a text of each prediction. A round trip of texts tests it first.
        encoder: The model's encoder elsewhere, such as openai:URL#MODEL. Default: where the model remembers it.
        device: Device of the model.
    """
    from nextvec.inference.index import open_index
    from nextvec.inference.inputs import read_texts
    from nextvec.inference.load import load_model
    from nextvec.inference.results import DocumentResult, DocumentResults

    loaded, opened = load_model(model, device, encoder=str(encoder)), open_index(index, where)
    documents = read_texts(str(source), loaded.chunker)
    options: Any = {"snap": not raw, "decoder": decoder or None}
    return DocumentResults(
        tuple(
            DocumentResult(document.name, loaded.generate(document.texts, opened, steps, **options))
            for document in documents
        )
    )


@command()
def score(
    source: Source, *, model: Model, out: File = "", encoder: EncoderName = "", device: Device = "cpu"
) -> DocumentResults:
    """Score how expected each chunk of a document is, how well it fits into the document, and mark topic shifts.

    Args:
        source: A file or folder of text (see 'data build'), or - for standard input.
        model: A run folder, a .pt file, an exported folder, owner/name on the hub, or a model that ships with nextvec.
        out: .html file to write a self-contained page to.
        encoder: The model's encoder elsewhere, such as openai:URL#MODEL. Default: where the model remembers it.
        device: Device of the model.
    """
    from nextvec.inference.inputs import read_texts
    from nextvec.inference.load import load_model
    from nextvec.inference.results import DocumentResult, DocumentResults
    from nextvec.reports.html.score_report import write_score_report

    loaded = load_model(model, device, encoder=str(encoder))
    documents = read_texts(str(source), loaded.chunker)
    # In a folder, documents of one chunk are left out; if none is left, the error is that of the last one.
    results = [DocumentResult(item.name, loaded.score(item.texts)) for item in documents if len(item.texts) > 1]
    if not results:
        raise InputError(f"{source}: has one chunk of text, but a score needs at least 2. Pass a longer text.")
    path = Path(out) if str(out) else None
    if path is not None:
        write_score_report(path, results)
    return DocumentResults(tuple(results), path)
