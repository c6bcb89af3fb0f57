"""report.html: what a run leaves for people, in one file that needs nothing else.

The script of plotly comes from the installed package and is part of the file; nothing is fetched. Whatever comes from
a run (names, paths, texts) is escaped, and the page's security policy runs no script but the two it was written with.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from nextvec.files import write_text
from nextvec.lights import SHAPES
from nextvec.report.charts import Figure, cosine_chart, loss_charts
from nextvec.report.measures import LEGEND, MEASURES, is_measured, model_lines
from nextvec.report.table import QUERY, Column, columns_of, describe_latency, describe_split, rows_of

if TYPE_CHECKING:
    from nextvec.judge.judgement import Judgement, Verdict

SPLIT_NAMES = {"train": "Training documents", "val": "Validation", "ood": "Out of distribution"}
TERM_NAMES = {"mse": "MSE", "info": "InfoNCE", "moment": "Moments", "variance": "Variance", "total": "Total loss"}


def write_report(
    path: Path,
    *,
    title: str,
    recipe: Mapping[str, Any],
    judgement: Judgement | None,
    history: Sequence[Mapping[str, Any]],
    check: Mapping[str, Any],
    versions: Mapping[str, Any],
    success: Mapping[str, Any] | None = None,
    diagnoses: Mapping[str, Any] | None = None,
    synthetic: bool = False,
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    ended: str = "",
) -> None:
    """Write the report of a run to `path`, in one step.

    `recipe` is the resolved recipe as nested values, `history` one record for each epoch (`epoch`, `train_cosine`,
    `val_cosine`, `ood_cosine`, `train_loss_mse` …, what is missing is left out), `check` a `CheckReport.to_dict()`,
    `versions` names and versions of what ran, `success` a `Success.to_dict()`, `diagnoses` a
    `Diagnoses.to_dict()`, `baselines` the mean cosine of each by split. Without a judgement the page says why:
    `ended` is what ended the run before its time. `synthetic` data it names before all else.
    Raises OutputError if the file can't be written.
    """
    body = [
        _header(title, recipe),
        _SYNTHETIC if synthetic else "",
        _verdict(judgement.verdict if judgement else None, ended),
        _criteria(success),
        _diagnoses(diagnoses),
        _tables(judgement) if judgement else "",
        _measures(judgement) if judgement else "",
        _curves(history, baselines or {}, judged=judgement is not None),
        _gates(history),
        _check(check),
        _sources(recipe, versions),
    ]
    write_text(path, render(title, body))


def render(title: str, body: Iterable[str]) -> str:
    """The whole page around some sections."""
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs(), _asset("page.js")]
    allowed = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {allowed}"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)} · nextvec</title>",
            f"<style>{_asset('page.css')}</style>",
            "</head>",
            "<body><main>",
            *body,
            "</main>",
            *(f"<script>{script}</script>" for script in scripts),
            "</body></html>\n",
        ]
    )


def _header(title: str, recipe: Mapping[str, Any]) -> str:
    model, data = recipe.get("model", {}), recipe.get("data", {})
    facts = [recipe.get("description"), model.get("kind"), data.get("store")]
    if "context" in data:
        facts.append(f"context {data['context']}")
    about = " · ".join(escape(str(fact)) for fact in facts if fact)
    return f'<header><h1>{escape(title)}</h1><p class="about">{about}</p></header>'


def _verdict(verdict: Verdict | None, ended: str) -> str:
    if verdict is None:
        if not ended:
            return '<section class="card"><p>No model was judged.</p></section>'
        why, *more = ended.split("; ")
        items = "".join(f"<li>{escape(item)}</li>" for item in more)
        told = f"<p>{escape(why)}</p><ul>{items}</ul>"
        return f'<section class="card verdict red">{_light("red")}<div>{told}</div></section>'
    reasons = "".join(
        f"<li>{escape(split)}: {escape(reason)}</li>" for split, found in verdict.reasons.items() for reason in found
    )
    return (
        f'<section class="card verdict {verdict.light}">{_light(verdict.light)}'
        f"<div><p>{escape(verdict.sentence)}</p><ul>{reasons}</ul></div></section>"
    )


_SYNTHETIC = (
    '<section class="card"><p><b>SYNTHETIC data.</b> A rehearsal: its scores say nothing about real text.</p></section>'
)


def _criteria(success: Mapping[str, Any] | None) -> str:
    """What the run had to reach, and whether it did."""
    findings = []
    for criterion in (success or {}).get("criteria", ()):
        beside = f" ({criterion['beside']})" if criterion["beside"] else ""
        text = f"{criterion['figure']}, wanted {criterion['wanted']}{beside}"
        findings.append(_finding("green" if criterion["passed"] else "red", criterion["name"], text))
    return _findings("Success criteria", findings)


def _gates(history: Sequence[Mapping[str, Any]]) -> str:
    """Every gate that the run came to, and what it said."""
    verdicts = [verdict for record in history for verdict in record.get("gates", ())]
    texts = ["; ".join(filter(None, (verdict["reason"], verdict["advice"]))) for verdict in verdicts]
    return _findings(
        "Gates and sentinel",
        [
            _finding(verdict["light"], f"epoch {verdict['epoch']}", text)
            for verdict, text in zip(verdicts, texts, strict=True)
        ],
    )


def _findings(heading: str, findings: Sequence[str]) -> str:
    if not findings:
        return ""
    return f'<section><h2>{heading}</h2><div class="card"><ul class="findings">{"".join(findings)}</ul></div></section>'


def _finding(light: str, name: str, text: str) -> str:
    return f"<li>{_light(light)}<b>{escape(name)}</b><span>{escape(text)}</span></li>"


def _light(light: str) -> str:
    """A light that differs in shape and colour, with its name for those who hear the page."""
    shape = next((shape for name, shape in SHAPES.items() if name == light), "")
    return f'<span class="light {escape(light)}" role="img" aria-label="{escape(light)}">{shape}</span>'


def _tables(judgement: Judgement) -> str:
    sections = ["<h2>The model beside the baselines</h2>"]
    for split, figures in judgement.splits.items():
        sections.append(
            f'<div class="card"><h3>{escape(SPLIT_NAMES.get(split, split))}</h3>'
            f"{_predictors(judgement, split, columns_of(judgement))}<p class='note'>{describe_split(figures)}</p></div>"
        )
    if judgement.latency is not None:
        sections.append(f'<p class="note">{escape(describe_latency(judgement.latency))}</p>')
    sections += [f'<p class="note">{escape(note)}</p>' for note in judgement.notes]
    sections.append(
        '<p class="note">The cosine’s ± is half of its 95 % interval; the gain is the model’s cosine minus that '
        "of the row, on the same windows; both intervals resample documents. Best of each column in bold.</p>"
    )
    return f"<section>{''.join(sections)}</section>"


def _measures(judgement: Judgement) -> str:
    """Where predictions point, how they spread, and what spoiling the context costs."""
    if not is_measured(judgement):
        return ""
    cards = [
        f'<div class="card"><h3>{escape(SPLIT_NAMES.get(split, split))}</h3>{_predictors(judgement, split, MEASURES)}'
        f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in model_lines(figures))}</ul></div>"
        for split, figures in judgement.splits.items()
    ]
    return f"<section><h2>What the predictions are like</h2>{''.join(cards)}<p class='note'>{LEGEND}</p></section>"


def _predictors(judgement: Judgement, split: str, columns: Sequence[Column]) -> str:
    """A table of all predictors on a split."""
    rows = []
    for name, cells in rows_of(judgement, split, columns):
        texts = "".join(f'<td class="best">{text}</td>' if best else f"<td>{text}</td>" for text, best in cells)
        row = '<tr class="model">' if name in (judgement.model, f"{judgement.model}, {QUERY}") else "<tr>"
        rows.append(f'{row}<th scope="row" title="{escape(name)}">{escape(name)}</th>{texts}</tr>')
    return _table(("predictor", *(column.heading for column in columns)), rows)


def _diagnoses(diagnoses: Mapping[str, Any] | None) -> str:
    """What is wrong with the run, and what to do."""
    found = (diagnoses or {}).get("diagnoses", ())
    texts = [f"{item['seen']} ({item['sureness']}); {item['advice']}" for item in found]
    return _findings(
        "Diagnosis", [_finding(item["light"], item["name"], text) for item, text in zip(found, texts, strict=True)]
    )


def _curves(history: Sequence[Mapping[str, Any]], baselines: Mapping[str, Mapping[str, float]], *, judged: bool) -> str:
    if not history:
        return ""
    charts = []
    for split in ("val", "ood"):
        chart = cosine_chart(history, split, baselines.get(split, {}), with_train=split == "val")
        if chart:
            charts.append(_chart(f"Cosine · {SPLIT_NAMES[split]}", chart))
    charts += [_chart(TERM_NAMES.get(term, term), chart) for term, chart in loss_charts(history).items()]
    return (
        f'<section><h2>Training</h2><div class="charts">{"".join(charts)}</div>'
        '<p class="note">Dashed lines: the baselines on the same windows. Ring: the best epoch'
        f"{', whose weights were judged' if judged else ''}.</p>"
        f"<details><summary>The figures of every epoch</summary>{_history_table(history)}</details></section>"
    )


def _chart(title: str, figure: Figure) -> str:
    """A chart's place and, right behind it, its data; `<` is spelt so that no text can end the script."""
    data = json.dumps(figure, allow_nan=False).replace("<", "\\u003c")
    name = escape(title)
    return (
        f'<figure class="card"><h3>{name}</h3><div role="img" aria-label="{name} over the epochs"></div>'
        f'<script type="application/json">{data}</script></figure>'
    )


def _history_table(history: Sequence[Mapping[str, Any]]) -> str:
    keys = [
        "epoch",
        *(
            key
            for key in dict.fromkeys(key for record in history for key in record)
            if key not in ("epoch", "gates", "diagnoses")
        ),
    ]
    rows = [
        "<tr>" + "".join(f"<td>{escape(_short(record.get(key)))}</td>" for key in keys) + "</tr>" for record in history
    ]
    return _table(keys, rows)


def _check(check: Mapping[str, Any]) -> str:
    if not check:
        return ""
    findings = "".join(_finding(item["light"], item["name"], item["text"]) for item in check["findings"])
    rows = []
    for name, split in check["figures"]["splits"].items():
        counts = (f"{split[key]:,}" for key in ("documents", "short", "rows", "windows"))
        curve = ("–" if cosine is None else f"{cosine:.3f}" for cosine in split["coherence"])
        cells = "".join(f"<td>{text}</td>" for text in (*counts, *curve))
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    distances = range(1, 1 + max((len(split["coherence"]) for split in check["figures"]["splits"].values()), default=0))
    headings = ("split", "documents", "too short", "rows", "windows", *(f"cos +{distance}" for distance in distances))
    return (
        f'<section><h2>Data check</h2><div class="card"><ul class="findings">{findings}</ul></div>'
        f'<div class="card">{_table(headings, rows)}<p class="note">cos +k: mean cosine of two chunks of a document '
        "that stand k apart.</p></div></section>"
    )


def _sources(recipe: Mapping[str, Any], versions: Mapping[str, Any]) -> str:
    facts = " · ".join(f"{escape(str(name))} {escape(str(version))}" for name, version in versions.items())
    return (
        f'<section><h2>How to repeat it</h2><div class="card"><pre>{escape(tomli_w.dumps(recipe))}</pre></div>'
        f'<p class="note">{facts}</p></section>'
    )


def _table(headings: Iterable[str], rows: Iterable[str]) -> str:
    heads = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _short(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _asset(name: str) -> str:
    return files("nextvec.report").joinpath("assets", name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    """A script's hash as a security policy names it."""
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
