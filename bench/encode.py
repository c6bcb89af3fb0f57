"""Measure MiniLM encoding against sentence-transformers with its default settings.

nextvec truncates texts to 128 tokens, the length that the model was trained with; sentence-transformers truncates to
256. So sentence-transformers is measured with 128 tokens too, and the cosines are reported separately for texts that
neither truncates.

    python bench/encode.py
"""

from __future__ import annotations

import numpy as np
from common import arguments, finish, in_turns

from nextvec.data.readers.python_docs import BUILTIN, read_builtin
from nextvec.errors import MissingExtraError


def main():
    """Encode 64 paragraphs of the documentation that is part of every Python installation."""
    options = arguments(__doc__)
    try:
        from nextvec.data.encoders.sentence_transformers import MINILM_TOKENS, _minilm_folder, open_sentence_encoder

        encoder = open_sentence_encoder("minilm", device="cpu")
    except MissingExtraError as error:
        finish("encode", [], skipped=str(error))
        return
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(_minilm_folder()), device="cpu")
    truncating = SentenceTransformer(str(_minilm_folder()), device="cpu")
    truncating.max_seq_length = MINILM_TOKENS
    texts = []
    for document in read_builtin(BUILTIN):
        texts += [text for text in document.paragraphs if len(text) > 80]
        if len(texts) >= 64:
            break
    texts = texts[:64]
    rates = in_turns(
        {
            "sentence-transformers, defaults": lambda: len(plain.encode(texts, show_progress_bar=False)),
            "sentence-transformers, 128 tokens": lambda: len(truncating.encode(texts, show_progress_bar=False)),
            "nextvec": lambda: len(encoder.encode(texts)),
        },
        min(options.rounds, 3),
    )
    reference = plain.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    cosines = (np.asarray(reference) * encoder.encode(texts)).sum(axis=1)
    base = rates["sentence-transformers, defaults"]["median"]
    rows = [
        {"what": name, "texts/s": rate["median"], "spread": rate["spread"], "ratio": rate["median"] / base}
        for name, rate in rates.items()
    ]
    is_complete = np.array([len(ids) <= MINILM_TOKENS for ids in plain.tokenizer(texts)["input_ids"]])
    rows[-1] |= {
        "lowest cosine, complete texts": float(cosines[is_complete].min()),
        "complete texts": int(is_complete.sum()),
        "lowest cosine, truncated texts": float(cosines[~is_complete].min(initial=1.0)),
    }
    finish("encode", rows)


if __name__ == "__main__":
    main()
