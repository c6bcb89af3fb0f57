"""model_card.md: the model in the form that Hugging Face shows, metadata on top. No text of the data is in it.

The metadata is YAML whose values are written as JSON, which YAML contains: nothing in a name can end a value. See
https://huggingface.co/docs/hub/model-cards and its `model-index`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextvec.reports.leaderboard import SYNTHETIC, escaped
from nextvec.reports.tables import evaluation_markdown

if TYPE_CHECKING:
    from nextvec.evaluation.results import Evaluation, SplitResult
    from nextvec.reports.run_summary import RunFacts


CARD_FILE = "model_card.md"


def model_card(facts: RunFacts, evaluation: Evaluation) -> str:
    """The card of a judged run's best model, as Markdown."""
    recipe, started = facts.recipe, facts.started
    name, kind = recipe["name"], recipe["model"]["kind"]
    blocks = [
        "\n".join(["---", *_yaml(metadata(facts, evaluation)), "---"]),
        f"# {escaped(name)}",
        f"A {kind.upper()} of {started.get('parameters', 0):,} parameters that reads the embeddings of a document's "
        f"last {recipe['data']['context']} chunks and predicts the embedding of the next one, in the space "
        f"{escaped(str(started.get('space', 'that its recipe names')))}. It speaks of vectors of this space only.",
    ]
    if facts.synthetic:
        blocks.append(f"**Trained on {SYNTHETIC} vectors: a rehearsal, its scores say nothing about real text.**")
    blocks += [
        "## How good it is",
        evaluation_markdown(evaluation).strip(),
        "## How to use it",
        "```python\nfrom nextvec.training.checkpoint import read_checkpoint\n\n"
        'model = read_checkpoint("best_model.pt").model()\n'
        "prediction_BD = model.predict(context_BSD)  # unit vectors, oldest chunk first in the context\n```",
        "## How it was trained",
        f"Data: {escaped(Path(recipe['data']['store']).name)}, fingerprint `{started['data_fingerprint'][:16]}`. "
        f"Recipe: `recipe.toml` beside this card, fingerprint `{started.get('recipe_fingerprint', '')}`. "
        f"Versions: {_versions(started.get('versions', {}))}. `report.html` has the curves, the data check and the "
        "diagnosis.",
    ]
    return "\n\n".join(blocks) + "\n"


def metadata(facts: RunFacts, evaluation: Evaluation) -> dict[str, Any]:
    """The card's metadata as plain values."""
    recipe = facts.recipe
    data = Path(recipe["data"]["store"]).name
    tags = ["nextvec", "latent-vector-model", "next-embedding-prediction", recipe["model"]["kind"]]
    results = [
        {
            "task": {"type": "feature-extraction", "name": "next-embedding prediction"},
            "dataset": {"type": data, "name": data, "split": split},
            "metrics": list(_metrics(evaluation.model or "", figures)),
        }
        for split, figures in evaluation.splits.items()
    ]
    return {
        "library_name": "nextvec",
        "pipeline_tag": "feature-extraction",
        "tags": [*tags, SYNTHETIC] if facts.synthetic else tags,
        "metrics": ["cosine_similarity", "mrr", "recall"],
        "model-index": [{"name": recipe["name"], "results": results}],
    }


def _metrics(model: str, figures: SplitResult) -> Iterator[dict[str, Any]]:
    scores = figures.predictors[model]
    best = figures.best_baseline or ""
    yield {"type": "cosine_similarity", "name": "mean cosine to the next chunk", "value": scores.cosine.value}
    if figures.gain is not None:
        yield {"type": "gain", "name": f"cosine minus that of {best}, the best baseline", "value": figures.gain.value}
    yield {"type": "mrr", "name": "MRR of the next chunk", "value": scores.retrieval.mrr}
    yield {"type": "recall", "name": "R@10 of the next chunk", "value": scores.retrieval.r_at_10}


def _yaml(values: dict[str, Any]) -> Iterator[str]:
    """One line for each field, its value as JSON."""
    for name, value in values.items():
        yield f"{name}: {json.dumps(value, ensure_ascii=True)}"


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{escaped(name)} {escaped(str(version))}" for name, version in versions.items())
