"""model_card.md: a run's best model as a Hugging Face model card. It contains no text of the data.

The metadata is YAML with each value written as JSON, a subset of YAML, so that no name can end a value early.
Source: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextvec.core.formatting import escape_markdown
from nextvec.reports.leaderboard import SYNTHETIC
from nextvec.reports.tables import evaluation_markdown
from nextvec.training.text_log import selection_line

if TYPE_CHECKING:
    from nextvec.evaluation.results import Evaluation, SplitResult
    from nextvec.reports.run_summary import RunFacts


def model_card(facts: RunFacts, evaluation: Evaluation) -> str:
    """Return the card of an evaluated run's best model, as Markdown."""
    recipe, started = facts.recipe, facts.started
    space = escape_markdown(str(started.get("space", "see recipe.toml")))
    store = escape_markdown(Path(recipe["data"]["store"]).name)
    # JSON is a subset of YAML, so no name can end a value early.
    fields = [f"{name}: {json.dumps(value)}" for name, value in metadata(facts, evaluation).items()]
    # Blocks are separated by empty lines: metadata, what the model is, scores, use, and how it was trained.
    blocks = [
        "\n".join(["---", *fields, "---"]),
        f"# {escape_markdown(recipe['name'])}",
        "The model predicts the embedding of a document's next chunk from the embeddings of the chunks before it.",
        f"- Architecture: {recipe['model']['kind'].upper()}, {started.get('parameters', 0):,} parameters\n"
        f"- Context: {recipe['data']['context']} chunks\n"
        f"- Embedding space: {space}. The model is valid for this embedding space only.",
    ]
    if facts.synthetic:
        blocks.append(f"**Trained on {SYNTHETIC} vectors. The results do not transfer to real text.**")
    blocks += [
        "## Evaluation",
        evaluation_markdown(evaluation).strip(),
        "## How to use it",
        "```python\nimport nextvec\n\n"
        'model = nextvec.load_model("RUN")  # the folder of this card\n'
        "prediction = model.predict(context)  # unit vectors (N, S, D), the oldest chunk first\n```",
        "## Training",
        (f"- {selection_line(facts.selection)}\n" if facts.selection else "")
        + f"- Data: {store}, store hash `{started['store_hash'][:16]}`\n"
        f"- Recipe: `recipe.toml` of the run, recipe hash `{started.get('recipe_hash', '')}`\n"
        f"- Versions: {_versions(started.get('versions', {}))}\n"
        "- Training curves, data check and diagnosis: `report.html` of the run",
    ]
    return "\n\n".join(blocks) + "\n"


def metadata(facts: RunFacts, evaluation: Evaluation) -> dict[str, Any]:
    """Return the card's metadata as plain values."""
    recipe = facts.recipe
    data = Path(recipe["data"]["store"]).name
    tags = ["nextvec", "latent-vector-model", "next-embedding-prediction", recipe["model"]["kind"]]
    # The hub reads scores from model-index: one result per split, each with its metrics. Scores on rows that the model
    # was trained on are left out, because the hub shows them without the verdict.
    seen = evaluation.seen.splits if evaluation.seen else {}
    results = [
        {
            "task": {"type": "feature-extraction", "name": "next-embedding prediction"},
            "dataset": {"type": data, "name": data, "split": split},
            "metrics": list(_metrics(evaluation.model or "", figures)),
        }
        for split, figures in evaluation.splits.items()
        if split not in seen or not seen[split].is_tainted
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
    # The gain follows the cosine, so that no score stands without its baseline.
    yield {
        "type": "cosine_similarity",
        "name": "mean cosine of prediction and next chunk",
        "value": scores.cosine.value,
    }
    if figures.gain is not None:
        yield {
            "type": "gain",
            "name": f"cosine minus the cosine of {best}, the best baseline",
            "value": figures.gain.value,
        }
    # The MRR that the verdict compares: of the query, if the model has one.
    retrieval = scores.query or scores.retrieval
    yield {"type": "mrr", "name": "MRR of the next chunk", "value": retrieval.mrr}
    if (compared := figures.retrieval_gain) is not None:
        name = f"MRR minus the MRR of {compared.best_baseline}, the best baseline"
        yield {"type": "mrr_gain", "name": name, "value": compared.gain.value}
    yield {"type": "recall", "name": "R@10 of the next chunk", "value": retrieval.r_at_10}


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{escape_markdown(name)} {escape_markdown(str(version))}" for name, version in versions.items())
