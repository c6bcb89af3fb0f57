"""Row: encoding text with MiniLM, against sentence-transformers with its default settings, in turns.

nextvec reads 128 tokens of a text, as the model was trained, the library 256 by default. So the library is measured
with 128 as well, and cosines are given apart for texts that both read whole.

python bench/encode.py
"""

from __future__ import annotations

import numpy as np
from common import arguments, finish, in_turns

from nextvec.data.readers.python_docs import BUILTIN, read_builtin
from nextvec.errors import MissingExtraError


def main():
    """Measure 64 paragraphs of the documentation that every installation carries."""
    chosen = arguments(__doc__)
    try:
        from nextvec.data.encoders.sentence_transformers import MINILM_TOKENS, _minilm_folder, open_sentence_encoder

        encoder = open_sentence_encoder("minilm", device="cpu")
    except MissingExtraError as error:
        finish("encode", [], skipped=str(error))
        return
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(_minilm_folder()), device="cpu")
    cut = SentenceTransformer(str(_minilm_folder()), device="cpu")
    cut.max_seq_length = MINILM_TOKENS
    texts = []
    for document in read_builtin(BUILTIN):
        texts += [text for text in document.paragraphs if len(text) > 80]
        if len(texts) >= 64:
            break
    texts = texts[:64]
    rates = in_turns(
        {
            "sentence-transformers, defaults": lambda: len(plain.encode(texts, show_progress_bar=False)),
            "sentence-transformers, 128 tokens": lambda: len(cut.encode(texts, show_progress_bar=False)),
            "nextvec": lambda: len(encoder.encode(texts)),
        },
        min(chosen.rounds, 3),
    )
    reference = plain.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    cosines = (np.asarray(reference) * encoder.encode(texts)).sum(axis=1)
    base = rates["sentence-transformers, defaults"]["median"]
    rows = [
        {"what": n, "texts/s": r["median"], "spread": r["spread"], "ratio": r["median"] / base}
        for n, r in rates.items()
    ]
    whole = np.array([len(ids) <= MINILM_TOKENS for ids in plain.tokenizer(texts)["input_ids"]])
    rows[-1] |= {
        "lowest cosine, texts read whole": float(cosines[whole].min()), "texts read whole": int(whole.sum()),
        "lowest cosine, longer texts": float(cosines[~whole].min(initial=1.0)),
    }  # fmt: skip
    finish("encode", rows)


if __name__ == "__main__":
    main()
