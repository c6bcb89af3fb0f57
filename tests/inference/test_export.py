"""Exported models: the graphs of every network predict what the network does, and need no code of nextvec."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import nextvec
from nextvec.data.seen_rows import RunRows, SeenRows
from nextvec.data.space import Space
from nextvec.errors import InputError, MissingExtraError, OutputError
from nextvec.inference.graph import write_onnx, write_pt2
from nextvec.inference.load import open_checkpoint
from nextvec.inference.model import LatentVectorModel
from nextvec.inference.model_folder import write_model_folder
from nextvec.models import recurrent, transformer
from nextvec.models.registry import model_from_config

DIMENSIONS, CONTEXT = 16, 6
MAX_DIFFERENCE = 1e-4


def make_model(kind: str, variant: str, context: int = CONTEXT) -> LatentVectorModel:
    torch.manual_seed(0)
    options = {"query": True} if variant == "residual" else {}
    network = model_from_config({"kind": kind, "variant": variant, "dimensions": DIMENSIONS, **options}).eval()
    # Zero-initialized layers would hide an error in everything before them.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return LatentVectorModel(network, f"{kind} {variant}", Space("own", "1", DIMENSIONS), context)


def contexts(count: int, length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors (B, S, D) and a mask (B, S) with any number of absent vectors, but the newest present."""
    rng = torch.Generator().manual_seed(seed)
    context_BSD = nn.functional.normalize(torch.randn(count, length, DIMENSIONS, generator=rng), dim=2)
    absent_B1 = torch.randint(0, length, (count, 1), generator=rng)
    return context_BSD, torch.arange(length)[None] >= absent_B1


KINDS = ("amn", "gru", "lstm", "transformer")


@pytest.mark.parametrize("kind", KINDS)
def test_an_onnx_graph_equals_the_network(small_networks, monkeypatch, kind, tmp_path):
    # The exporter's time grows with the number of nodes.
    monkeypatch.setattr(recurrent, "GRU_BLOCKS", 1)
    monkeypatch.setattr(transformer, "LAYERS", 1)
    check_onnx(make_model(kind, "residual", context=3), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["residual", "original"])
def test_an_onnx_graph_of_full_size_equals_the_network(kind, variant, tmp_path):
    check_onnx(make_model(kind, variant), tmp_path)


def check_onnx(model, tmp_path):
    ort = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    write_onnx(model, tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx")
    assert [output.name for output in session.get_outputs()] == list(model.outputs)
    for count in (1, 5, 32):
        for length in range(1, model.context_length + 1):
            context_BSD, mask_BS = contexts(count, length, seed=count)
            outputs = session.run(None, {"context": context_BSD.numpy(), "mask": mask_BS.numpy()})
            for name, output in zip(model.outputs, outputs, strict=True):
                expected = {"prediction": model.network.predict, "query": model.network.query}[name]
                with torch.no_grad():
                    difference = np.abs(output - expected(context_BSD, mask_BS).numpy()).max()
                assert difference <= MAX_DIFFERENCE, (name, count, length)


@pytest.mark.parametrize(("kind", "variant"), [("amn", "residual"), ("lstm", "original")])
def test_a_pt2_graph_equals_the_network(kind, variant, tmp_path):
    model = make_model(kind, variant)
    write_pt2(model, tmp_path / "model.pt2")
    graph = torch.export.load(tmp_path / "model.pt2").module()
    for count, length in ((1, 1), (5, 3), (32, CONTEXT)):
        context_BSD, mask_BS = contexts(count, length, seed=1)
        with torch.no_grad():
            prediction_BD = graph(context_BSD, mask_BS)[0]
            assert (prediction_BD - model.network.predict(context_BSD, mask_BS)).abs().max() <= MAX_DIFFERENCE


@pytest.mark.parametrize(("format", "banned"), [("onnx", "nextvec,torch"), ("pt2", "nextvec"), ("safetensors", "")])
def test_the_example_runs_without_nextvec(text_run, tmp_path, format, banned):
    if format == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    exported = nextvec.export(text_run, tmp_path / "m", format=format)
    # A module that is None cannot be imported.
    code = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({banned.split(',') if banned else []!r}))\n"
        f"runpy.run_path({str(exported.path / 'example.py')!r}, run_name='__main__')\n"
    )
    paths = [sysconfig.get_paths()["purelib"], str(Path(nextvec.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr
    assert "(1, 12)" in done.stdout, done.stdout


def test_an_export_is_complete_and_predicts_the_same(text_run, text_store, tmp_path):
    exported = nextvec.export(text_run, tmp_path / "m", dtype="float16")
    assert {"config.json", "model.safetensors", "README.md", "example.py", "seen_rows.safetensors"} <= set(
        exported.files
    )
    assert "encoder/terms.json" in exported.files, "a fitted encoder travels with the model"
    assert "baselines.safetensors" in exported.files and exported.to_dict()["path"] == str(tmp_path / "m")
    model, original = nextvec.load_model(tmp_path / "m"), nextvec.load_model(text_run)
    context_SD = text_store.vectors[:4].astype(np.float32)
    assert np.abs(model.predict(context_SD) - original.predict(context_SD)).max() < 2e-3, "rounded to float16"
    assert "ridge" not in model.baselines
    card = (tmp_path / "m" / "README.md").read_text()
    assert card.startswith("---\n") and "nextvec.load_model(folder)" in card and card.count("## How to use it") == 1
    assert "## Evaluation" in card and "## Training" in card, "the run's own card, with its scores"


def test_the_card_of_a_run_survives_every_way_of_export(text_run, tmp_path):
    nextvec.export(text_run, tmp_path / "a", format="pt2")
    nextvec.export(tmp_path / "a", tmp_path / "b")
    nextvec.export(text_run / "best_model.pt", tmp_path / "c")
    card = (tmp_path / "b" / "README.md").read_text()
    assert card == (tmp_path / "c" / "README.md").read_text()
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert yaml.safe_load(head)["model-index"][0]["name"] == "texts"
    headings = [line for line in body.splitlines() if line.startswith("#")]
    assert headings[:2] == ["# texts", "## Evaluation"] and headings.count("## How to use it") == 1
    assert "torch.export.load" not in card and "## Training" in headings
    nextvec.export(text_run / "epoch_1.pt", tmp_path / "d")
    assert "Its scores are unknown" in (tmp_path / "d" / "README.md").read_text(), "the card is of the best model"


def test_names_in_a_card_are_escaped(tmp_path):
    network = make_model("amn", "residual").network
    name = "a_b*<script>\n## How to use it"
    model = LatentVectorModel(network, name, Space("own", "1", DIMENSIONS), CONTEXT)
    write_model_folder(model, tmp_path / "model_<b>")
    nextvec.export(tmp_path / "model_<b>", tmp_path / "m")
    card = (tmp_path / "m" / "README.md").read_text()
    assert "<b>" not in card.partition("```")[0] and card.count("\n## How to use it") == 1


def test_an_exported_model_is_evaluated_and_keeps_its_record_of_seen_rows(text_run, text_store, tmp_path):
    nextvec.export(text_run, tmp_path / "m")
    evaluation = nextvec.eval(tmp_path / "m", data=text_store.path, quiet=True)
    expected = nextvec.eval(text_run, data=text_store.path, quiet=True)
    kind = evaluation.model
    scores = [result.splits["val"].predictors[kind] for result in (evaluation, expected)]
    assert scores[0].cosine.value == scores[1].cosine.value and scores[0].query == scores[1].query, "the same windows"
    assert evaluation.seen == expected.seen and evaluation.seen is not None and evaluation.seen.is_history_known


def test_training_starts_from_an_exported_model(text_run, text_store, tmp_path):
    nextvec.export(text_run, tmp_path / "m")
    values = {
        "name": "tuned",
        "data": {"store": str(text_store.path), "context": 4, "min_context": 1},
        "training": {"epochs": 1, "batch_size": 32, "init_from": str(tmp_path / "m")},
        "evaluation": {"resamples": 100, "ridge_windows": 1000},
        "runtime": {"device": "cpu", "threads": 1},
    }
    run = nextvec.train(values, out=tmp_path / "run", force=True, quiet=True)
    record = open_checkpoint(run.path).values["seen_rows"]["runs"]
    assert [rows["run"] for rows in record] == ["tuned", "texts"]


def test_the_record_of_an_unknown_history_stays_unknown(tmp_path):
    model = make_model("amn", "residual")
    write_model_folder(model, tmp_path / "unknown")
    assert not nextvec.load_model(tmp_path / "unknown").seen_rows.is_complete
    known = LatentVectorModel(
        model.network, "x", model.space, CONTEXT, seen_rows=SeenRows((RunRows("a", np.array([-5, 7])),))
    )
    write_model_folder(known, tmp_path / "known")
    record = nextvec.load_model(tmp_path / "known").seen_rows
    assert record.is_complete and record.runs[0].run == "a" and record.runs[0].hashes.tolist() == [-5, 7]


def test_an_export_refuses_an_existing_folder(text_run, tmp_path):
    with pytest.raises(OutputError, match="exists already"):
        nextvec.export(text_run, tmp_path)


def test_onnx_without_its_packages_names_the_extra(text_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nextvec\[onnx\]'"):
        nextvec.export(text_run, tmp_path / "m", format="onnx")
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.parametrize("repository", ["name", "a/b@main", "a/b/c", ""])
def test_push_refuses_a_malformed_repository(text_run, repository):
    with pytest.raises(InputError, match="Name it as owner/name"):
        nextvec.push(text_run, repository)


def test_an_exported_config_is_plain_json(text_run, tmp_path):
    nextvec.export(text_run, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["seen_runs"] == ["texts"] and config["is_history_complete"] is True
