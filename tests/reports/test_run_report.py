"""The report is one file that contains everything, fetches nothing, and shows names as text."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from nextvec.errors import OutputError
from nextvec.recipe import Recipe
from nextvec.reports.html.page import charts
from nextvec.reports.html.panels import Panel
from nextvec.reports.html.run_report import ReportContent, write_report

EVIL = "<img src=x onerror=\"document.title='hit'\">&amp;</script><script>alert(1)</script>"


class Reader(HTMLParser):
    """Collects tags, their attributes, and the text inside and outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif not self.inside:
            self.text += data


@pytest.fixture
def write(tmp_path, make_evaluation, report, history):
    def write(**changes) -> str:
        facts = {
            "title": "wiki-minilm",
            "recipe": Recipe(name="wiki", description="a try").model_dump(exclude_none=True),
            "evaluation": make_evaluation(),
            "history": history,
            "check": report.to_dict(),
            "versions": {"nextvec": "0.1.0", "torch": "2.13"},
            "baselines": {split: {"ridge": 0.579, "copy-last": 0.484} for split in ("val", "ood")},
            **changes,
        }
        write_report(tmp_path / "report.html", ReportContent(**facts))
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return write


def test_the_report_contains_every_result(write):
    page = Reader(write())
    for words in (
        "wiki-minilm",
        "amn beats the best baseline in cosine on val (+0.0150 ± 0.0015, 95 % CI, over ridge) and on ood",
        "retrieves at least as well (MRR 0.375 against 0.330 on val, MRR 0.375 against 0.330 on ood)",
        "+0.1100 ± 0.0015",
        "14,520 windows of 489 documents",
        "Rows of val that are also in train: 12 of 90",
        'kind = "amn"',
        "torch 2.13",
        "train: not judged",
    ):
        assert words in page.text, words
    figures = [json.loads(text) for attributes, text in page.scripts if attributes.get("type") == "application/json"]
    assert len(figures) == 7, "retrieval of val and ood, val, ood, MSE, InfoNCE, learning rate"
    assert figures[2]["data"][1]["y"] == pytest.approx([0.568, 0.576, 0.584])
    rows = [attributes for tag, attributes in page.tags if tag == "tr" and attributes.get("class") == "model"]
    assert len(rows) == 2, "the model's row stands out in both tables"


def test_nothing_is_fetched_and_only_two_scripts_can_run(write):
    page = Reader(write())
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "img", "base", "form"), tag
        assert not {"src", "href", "srcset", "action", "style"} & set(attributes), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    (policy,) = (
        attributes["content"]
        for _, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    run = [text for attributes, text in page.scripts if "type" not in attributes]
    assert {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run} == allowed
    assert policy.startswith("default-src 'none';") and "unsafe-inline" not in policy.split("script-src")[1]
    assert "unsafe-eval" not in policy and len(run) == 2 and "http" not in policy


def test_names_are_shown_as_text(write, make_evaluation, report, history):
    evaluation = make_evaluation(EVIL)
    check = report.to_dict()
    check["findings"][0] |= {"name": EVIL, "message": EVIL}
    check["statistics"]["splits"] = {EVIL: check["statistics"]["splits"]["val"]}
    history[0][EVIL] = EVIL
    history[1]["val_loss_" + EVIL] = 1.0
    page = write(
        title=EVIL, evaluation=evaluation, check=check, history=history, versions={EVIL: EVIL},
        recipe=Recipe(name=EVIL, description=EVIL).model_dump(exclude_none=True),
    )  # fmt: skip
    read = Reader(page)
    assert not [tag for tag, _ in read.tags if tag == "img"]
    assert sum("type" not in attributes for attributes, _ in read.scripts) == 2, "no script was added"
    assert all(json.loads(text) for attributes, text in read.scripts if "type" in attributes)
    assert read.text.count(EVIL) >= 10, "the name is readable"
    assert "<img" not in re.sub(r"<script>.*?</script>", "", page, flags=re.S), "nor in a title or an attribute"


def test_baseline_names_are_shown_as_text_in_charts(write):
    read = Reader(write(baselines={"val": {"ridge": 0.579, EVIL: 0.579}}))
    assert not [tag for tag, _ in read.tags if tag == "img"]
    figures = [json.loads(text) for attributes, text in read.scripts if "type" in attributes]
    labels = [label for figure in figures for label in figure["layout"]["annotations"]]
    assert any(label["text"].startswith("&lt;img src=x") for label in labels), "it is in the chart"
    assert not [label for label in labels if "<" in label["text"]]


def test_a_name_cannot_end_the_data_of_a_chart():
    figure = {"data": [{"name": "</script><!--<script>"}], "layout": {}}
    ((_, text),) = Reader(charts([Panel("x", "x", figure)])).scripts
    assert json.loads(text) == figure and "<" not in text


@pytest.mark.parametrize(
    "changes", [{"evaluation": None}, {"history": []}, {"check": {}}, {"versions": {}}, {"recipe": {}}]
)
def test_a_run_that_ended_early_has_a_report(write, changes):
    assert "wiki-minilm" in Reader(write(**changes)).text
    if "evaluation" in changes:
        assert "No model was evaluated" in write(**changes)


def test_every_color_is_defined_for_light_and_dark_mode(write):
    page = write()
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    light, dark = style.split("@media (prefers-color-scheme: dark)", 1)
    figures = "".join(text for attributes, text in Reader(page).scripts if "type" in attributes)
    used = set(re.findall(r'"\$(\w+)"', figures))
    assert used == {"model", "train", "best", "baseline", "muted", "grid", "paper", "ink"}
    for name in used | {"green", "amber", "red"}:
        assert f"--{name}: #" in light and f"--{name}: #" in dark, name


def test_statuses_differ_in_shape_and_have_a_name(write, make_evaluation):
    page = write(evaluation=make_evaluation(gain=-0.015))
    assert 'aria-label="red">■</span>' in page and 'aria-label="amber">▲</span>' in page
    assert '<section class="card verdict red">' in page


def test_a_missing_folder_is_an_error_in_one_line(tmp_path, make_evaluation):
    with pytest.raises(OutputError, match=r"cannot write .*report\.html"):
        write_report(
            tmp_path / "gone" / "report.html",
            ReportContent(title="x", recipe={}, evaluation=None, history=[], check={}, versions={}),
        )
