"""The outputs of a small run: report, model card, plots and comparison, and the same run with a tracker."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nextvec import cli
from nextvec.commands.compare import compare, plot
from nextvec.commands.train import resume, train
from nextvec.data.store import Store
from nextvec.data.store.writer import write_texts
from nextvec.errors import MissingExtraError

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def texts_store(tmp_path_factory: pytest.TempPathFactory, make_store: Callable[..., Store]) -> Store:
    """A toy store with a text for each row, in row groups of 100."""
    store = make_store(tmp_path_factory.mktemp("texts") / "store")
    rows = [f"text of row {row} {EVIL} " + "long " * 200 * (row % 2) for row in range(len(store.vectors))]
    write_texts(store.path, (rows[start : start + 100] for start in range(0, len(rows), 100)))
    return store


@pytest.fixture(scope="module")
def recipe_of(texts_store: Store) -> Callable[..., dict[str, Any]]:
    def make(name: str = "toy", **training: Any) -> dict[str, Any]:
        return {
            "name": name,
            "data": {"store": str(texts_store.path)},
            "objective": {"mse": 0.5, "info_nce": 0.5},
            "training": {"epochs": 2, "batch_size": 32, "precision": "fp32", **training},
            "evaluation": {"resamples": 100, "ridge_windows": 1000},
            "runtime": {"device": "cpu", "threads": 1},
        }

    return make


def run_recipe(recipe: dict[str, Any], folder: Path, **options: Any) -> Path:
    import tomli_w

    file = folder.with_suffix(".toml")
    file.write_text(tomli_w.dumps(recipe))
    return train(str(file), out=str(folder), quiet=True, **options).path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, recipe_of: Callable[..., dict[str, Any]]) -> Path:
    return run_recipe(recipe_of(), tmp_path_factory.mktemp("runs") / "plain")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, recipe_of: Callable[..., dict[str, Any]]) -> Path:
    return run_recipe(recipe_of(), tmp_path_factory.mktemp("runs") / "tracked", tracker="tensorboard")


def test_the_report_shows_five_example_windows(run: Path, texts_store: Store) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    part = page[page.index("Example windows") :]
    part = part[: part.index("</section>")]
    assert part.count('<div class="card">') == 5 and "<img" not in part and "&lt;img src=x" in part
    documents = texts_store.documents
    for card in part.split('<div class="card">')[1:]:
        context = [int(row) for row in re.findall(r"<li>text of row (\d+) ", card)]
        target = int(re.findall(r'<p class="text">text of row (\d+) ', card)[-1])
        assert len(context) == 5 and context == list(range(target - 5, target)), "the chunks before the target"
        document = documents.first_row.searchsorted(target, side="right") - 1
        assert documents.titles[document] in card and documents.splits[document] == 1, "of a document of val"
    assert max(map(len, re.findall(r"<li>(.*?)</li>", part))) < 600, "long texts are cut"
    for words in ("Offset curve", "Retrieval", "context ablations", "Data check", "torch"):
        assert words in page, words


def test_the_report_draws_in_a_browser_without_a_request(run: Path, visit: Callable[..., Any]) -> None:
    found = visit((run / "report.html").as_uri())
    found.wait_for(
        "document.querySelectorAll('.charts figure').length === document.querySelectorAll('.main-svg').length / 3"
    )
    assert all(url.startswith(("file:", "data:", "blob:")) for url in found.asked), found.asked
    assert found.page.evaluate("document.images.length") == 0


def test_unreadable_texts_leave_the_examples_out_of_the_report(run: Path, texts_store: Store, tmp_path: Path) -> None:
    chunks = texts_store.path / "chunks.parquet"
    whole = chunks.read_bytes()
    chunks.write_bytes(whole[:1000])
    try:
        again = resume(str(run), quiet=True).path
    finally:
        chunks.write_bytes(whole)
    assert "Example windows" not in (again / "report.html").read_text(encoding="utf-8")
    assert "The report contains no examples" in (again / "training.log").read_text(encoding="utf-8")
    resume(str(run), quiet=True)


def test_the_model_card_has_valid_hub_metadata(run: Path) -> None:
    card = (run / "model_card.md").read_text(encoding="utf-8")
    top, body = card.removeprefix("---\n").split("\n---\n", 1)
    fields = {name: json.loads(value) for name, value in (line.split(": ", 1) for line in top.splitlines())}
    assert fields["library_name"] == "nextvec" and fields["pipeline_tag"] == "feature-extraction"
    evaluation = json.loads((run / "evaluation.json").read_text())
    val = next(item for item in fields["model-index"][0]["results"] if item["dataset"]["split"] == "val")
    metrics = {metric["type"]: metric["value"] for metric in val["metrics"]}
    assert metrics["cosine_similarity"] == evaluation["splits"]["val"]["predictors"]["amn"]["cosine"]["value"]
    assert metrics["gain"] == evaluation["splits"]["val"]["gain"]["value"]
    assert evaluation["verdict"]["sentence"].split(" on ")[0] in body.replace("\\", "") and "text of row" not in card
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")
    read = hub.ModelCard(card).data
    assert read.library_name == "nextvec" and read.eval_results[0].metric_type == "cosine_similarity"


def test_a_tracker_gets_the_epochs_and_does_not_change_the_run(run: Path, tracked: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reading.EventAccumulator(str(tracked / "tensorboard"))
    found.Reload()
    history = json.loads((tracked / "training_history.json").read_text())["epochs"]
    written = {item.step: item.value for item in found.Scalars("val/cosine")}
    assert written == {record["epoch"]: pytest.approx(record["val_cosine"]) for record in history}
    assert {"train/loss_mse", "share/info", "run/lr", "val/best_baseline"} <= set(found.Tags()["scalars"])
    gain = json.loads((tracked / "evaluation.json").read_text())["splits"]["val"]["gain"]
    assert found.Scalars("evaluation/val/gain_low")[0].value == pytest.approx(gain["low"])
    assert "tracker tensorboard: " in (tracked / "training.log").read_text()
    for file in ("best_model.pt", "epoch_1.pt", "epoch_2.pt"):
        weights = [torch.load(folder / file, weights_only=True)["model_state_dict"] for folder in (run, tracked)]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not (run / "tensorboard").exists() and not (run / "trackers").exists()


@pytest.mark.parametrize("missing", ["tensorboard", "matplotlib"])
def test_a_missing_extra_is_reported_before_any_work(
    missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nextvec\[(tensorboard|plots)\]'"):
        if missing == "tensorboard":
            train("demo", (), tracker=["tensorboard"], out=str(tmp_path / "run"))
        else:
            plot("nowhere", out=str(tmp_path / "x.svg"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["curves", "offsets", "retrieval", "spectrum"])
def test_plots_are_equal_to_the_byte_when_repeated(run: Path, tmp_path: Path, what: str) -> None:
    pytest.importorskip("matplotlib")
    first, second = (tmp_path / f"{number}/x.svg" for number in (1, 2))
    charts = plot(str(run), what=what, out=str(first), quiet=True).charts
    plot(str(run), what=what, out=str(second), quiet=True)
    text = first.read_text()
    assert text.startswith("<?xml") and first.read_bytes() == second.read_bytes()
    assert all(title.partition(" · ")[0] in text for title in charts)
    assert {"curves": ">ridge<", "offsets": ">amn<", "retrieval": ">R@10<", "spectrum": ">targets<"}[what] in text


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("PDF", b"%PDF")])
def test_plots_can_be_png_or_pdf(run: Path, tmp_path: Path, ending: str, magic: bytes) -> None:
    pytest.importorskip("matplotlib")
    assert cli.main(["plot", str(run), "--what", "curves", "-o", str(tmp_path / f"x.{ending}")]) == 0
    assert (tmp_path / f"x.{ending}").read_bytes().startswith(magic)


def test_a_plot_without_data_is_an_error_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    young = tmp_path / "young"
    young.mkdir()
    (young / "events.jsonl").write_text((run / "events.jsonl").read_text().splitlines()[0] + "\n")
    for words, message in (
        ([str(run), "-o", str(tmp_path / "x.bmp")], "unknown format. Use one of .svg, .png, .pdf"),
        ([str(tmp_path / "none"), "-o", str(tmp_path / "x.svg")], "no events.jsonl"),
        ([str(young), "-o", str(tmp_path / "x.svg")], "there are no curves to plot (no epoch is finished)"),
        ([str(young), "--what", "offsets", "-o", str(tmp_path / "x.svg")], "there are no offsets to plot"),
        ([str(young), "--what", "spectrum", "-o", str(tmp_path / "x.svg")], "no such file"),
    ):
        assert cli.main(["plot", *words]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nextvec: ")]
        assert message in line


def test_a_comparison_can_be_a_page(
    run: Path, recipe_of: Callable[..., dict[str, Any]], tmp_path: Path, visit: Callable[..., Any]
) -> None:
    other = run_recipe(recipe_of(f"other {EVIL}", lr=0.003), tmp_path / "other")
    compare((str(run), str(other)), out=str(tmp_path / "both.html"))
    found = visit((tmp_path / "both.html").as_uri())
    found.wait_for("document.querySelectorAll('.main-svg').length > 20")
    text = found.page.inner_text("main")
    assert EVIL in text and found.page.evaluate("document.images.length") == 0
    assert "training.lr" in text and "0.003" in text and "ridge" in text and "Offset curve · Validation" in text
    assert text.count("best baseline in cosine on val") >= 2, "a verdict for each"
    lines = found.page.evaluate("[...document.querySelectorAll('.js-plotly-plot')][0].data.map((line) => line.name)")
    assert len(lines) == 2
