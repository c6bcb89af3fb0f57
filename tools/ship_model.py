"""Make a finished run the model that ships with nextvec under a name.

    python tools/ship_model.py artifacts/runs/wiki-minilm wiki-minilm

The folder src/nextvec/shipped_models/NAME must not exist. It gets float16 weights, the small baselines, the record of
seen rows, and a card with the run's scores, the training text and its licence.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nextvec.inference.export import CARD, EXAMPLE, export_model

SHIPPED_MODELS = Path(__file__).resolve().parents[1] / "src" / "nextvec" / "shipped_models"
MAX_BYTES = 5_000_000

WIKIPEDIA = """## Training text and licence

The model was trained on paragraphs of English Wikipedia articles (about 4,700 long articles of 2015; text by Wikipedia
contributors, CC BY-SA 3.0 and GFDL), encoded by all-MiniLM-L6-v2 (Apache 2.0). It contains no text: only weights, a
few statistics of the scores, and hashes of the training vectors, from which no text can be recovered. Its val split is
other articles of the same snapshot; its ood split is articles on rare topics, created about 2008.

The weights are published under the licence of nextvec. If you regard weights as a derivative of their training text,
the text's licence applies to you as well.
"""


def main() -> None:
    """Export the run, and complete its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run on Wikipedia paragraphs")
    parser.add_argument("name", help="name of the model, by which load_model opens it")
    arguments = parser.parse_args()
    exported = export_model(arguments.run, SHIPPED_MODELS / arguments.name, dtype="float16")
    # In the package, the model is loaded by its name, so the card shows that instead of a program in the folder.
    example = exported.path / EXAMPLE
    card = exported.path / CARD
    text = card.read_text(encoding="utf-8").replace(
        f"Run `{EXAMPLE}` in this folder:\n\n```python\n{example.read_text(encoding='utf-8')}```",
        f'```python\nimport nextvec\n\nmodel = nextvec.load_model("{arguments.name}")\n'
        "prediction = model.predict(context)  # unit vectors (N, S, D), the oldest chunk first\n```",
    )
    example.unlink()
    card.write_text(f"{text.rstrip()}\n\n{WIKIPEDIA}", encoding="utf-8")
    size = sum(exported.files.values())
    print(f"{exported.path}: {size / 1e6:.2f} MB")
    if size > MAX_BYTES:
        raise SystemExit(f"{size:,} bytes are more than {MAX_BYTES:,}")


if __name__ == "__main__":
    main()
