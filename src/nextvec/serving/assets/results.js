// The answers of the service as elements: next chunks, a continuation, and the scores of a document's chunks.
import { el, table } from "/assets/dom.js";

const SHOWN_CHARS = 360; // longer texts are cut, and can be opened

const fixed = (value, digits = 3) => (value === null ? "–" : value.toFixed(digits).replace("-", "−"));
const signed = (value) => (value < 0 ? fixed(value) : `+${fixed(value)}`);

function passage(text) {
  if (text.length <= SHOWN_CHARS) return el("p", { class: "passage" }, text);
  const cut = text.slice(0, text.lastIndexOf(" ", SHOWN_CHARS) + 1 || SHOWN_CHARS).trimEnd();
  const summary = el("summary", {}, el("span", { class: "cut" }, `${cut}…`), el("span", { class: "less" }, "Show less"));
  return el("details", { class: "passage" }, summary, el("p", {}, text));
}

// A bar from 0 to 1; `mark` is a second value on it. The numbers are next to it, so screen readers skip the bar.
function bar(fraction, kind = "", mark = null) {
  const percent = (value) => `${(100 * Math.min(1, Math.max(0, value))).toFixed(1)}%`;
  return el("div", { class: "track", "aria-hidden": "true" },
    el("div", { class: `fill ${kind}`, style: `width: ${percent(fraction)}` }),
    mark === null ? "" : el("div", { class: "tick", style: `left: ${percent(mark)}` }));
}

// Numbers below a bar; each stays on one line.
function figures(...texts) {
  return el("div", { class: "figures" }, texts.filter(Boolean).map((text) => el("span", {}, text)));
}

function matchItem(match, { why = "", kind = "", rank = match.rank, append = null } = {}) {
  return el("li", { class: `card ${kind}` },
    why && el("p", { class: "why" }, why),
    el("div", { class: "match-head" },
      el("span", { class: "rank" }, rank),
      el("span", { class: "title" }, match.title || match.document),
      el("span", { class: "place" }, match.position === null ? "" : `chunk ${match.position}`),
      el("span", { class: "value" }, bar(match.score), `score ${fixed(match.score)}`)),
    passage(match.text),
    append && el("button", { type: "button", class: "link add", onclick: () => append(match.text) }, "Append to the text"));
}

export function showNext({ chunks, baseline, baseline_chunk: first, context, output, excluded }, append) {
  const same = first && chunks.find((match) => match.row === first.row);
  const left = excluded ? ` ${excluded} chunks equal to the text were left out.` : "";
  const items = chunks.map((match) => matchItem(match, { append }));
  if (first && !same) {
    const why = `${baseline}, the best baseline, would have ranked this chunk first (score on its own scale):`;
    items.push(matchItem(first, { why, kind: "baseline", rank: "–" }));
  }
  return [
    el("p", { class: "note" }, `Read ${context.length === 1 ? "1 chunk" : `the last ${context.length} chunks`}; score: cosine to the ${output}.${left}`),
    same ? el("p", { class: "note" }, `${baseline}, the best baseline, ranks chunk ${same.rank} of this list first.`) : "",
    chunks.length ? el("ol", { class: "matches" }, items) : el("p", {}, "The index has no other chunk."),
  ];
}

export function showContinuation({ chunks, context, snapped_drift: snapped, raw_drift: raw, agreement }) {
  const rows = chunks.map((match, step) => el("tr", {}, el("th", { scope: "row" }, match.rank),
    [snapped.to_nearest, raw.to_nearest, snapped.to_start, raw.to_start, agreement]
      .map((values) => el("td", {}, fixed(values[step])))));
  const headings = ["step", "nearest, snapped", "nearest, raw", "start, snapped", "start, raw", "snapped vs raw"];
  return [
    el("p", { class: "note" }, `Read ${context.length} chunks of the text, then the chosen chunk of each step.`),
    el("ol", { class: "matches" }, chunks.map((match) => matchItem(match))),
    el("details", {}, el("summary", {}, "Drift: cosine of the prediction to the nearest chunk and to the start"), table(headings, rows)),
  ];
}

export function showScore({ chunks, baseline, mean_cosine: cosine, mean_gain: gain, shifts, least_coherent: least }) {
  const summary = `Mean cosine ${fixed(cosine)} (${signed(gain)} vs ${baseline}). Topic shifts: ` +
    `${shifts.length ? shifts.map((position) => `chunk ${position}`).join(", ") : "none"}.` +
    (least === null ? "" : ` Least coherent: chunk ${least}.`);
  const rows = chunks.map((chunk) => el("tr", {},
    el("th", { scope: "row" }, chunk.position),
    el("td", {},
      chunk.is_shift ? el("p", { class: "flag" }, "▲ topic shift") : "",
      chunk.position === least ? el("p", { class: "flag" }, "▲ least coherent") : "",
      passage(chunk.text)),
    el("td", { class: "bars" }, chunk.cosine === null ? figures("no chunk before it") : [
      bar(chunk.cosine, chunk.is_shift ? "low" : "", chunk.baseline_cosine),
      figures(`cosine ${fixed(chunk.cosine)}`, `${signed(chunk.gain)} vs ${baseline}`,
        chunk.percentile === null ? "" : `percentile ${fixed(chunk.percentile, 0)}`)]),
    least === null ? [] : el("td", { class: "bars" },
      bar(chunk.coherence / 100, chunk.position === least ? "low" : "coherence"),
      figures(`coherence ${fixed(chunk.coherence, 0)}`))));
  const key = (kind, label) => el("span", {}, el("span", { class: `key ${kind}` }), label);
  const scored = table(["", "Chunk", "Expected", ...(least === null ? [] : ["Coherent"])], rows);
  scored.classList.add("chunks");
  return [
    el("p", {}, summary),
    el("p", { class: "legend" }, key("", "cosine to the prediction from the chunks before"), key("mark", `cosine to ${baseline}, the best baseline`),
      least === null ? "" : key("coherence", "coherence: fit into the document, as a percentile of val chunks"),
      key("low", "topic shift or least coherent")),
    el("div", { class: "card" }, scored),
  ];
}
