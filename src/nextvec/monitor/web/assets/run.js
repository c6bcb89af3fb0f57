// One run in detail, or several in one chart. Parts that have not changed are not touched.
import { el, percent, statusSymbol, syntheticTag, table, withCode } from "/assets/dom.js";

const MAX_LINES = 5; // lines of a list before the rest is folded
let plotly = null;

// plotly is large, so it is loaded with the first chart.
function loadPlotly() {
  plotly ??= new Promise((resolve, reject) => {
    document.head.append(el("script", { src: "/assets/plotly.min.js", onload: resolve, onerror: () => {
      plotly = null; // the server may be down: the next chart tries again
      reject(new Error("plotly could not be loaded"));
    } }));
  });
  return plotly;
}

// Charts are drawn when they scroll into view, and again when their data has changed.
class Charts {
  constructor() {
    this.container = el("div", { class: "charts" });
    this.charts = new Map();
    this.observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const chart = this.charts.get(target.dataset.key);
        if (!chart) continue;
        chart.isVisible = isIntersecting;
        if (isIntersecting) this.draw(chart);
      }
    }, { rootMargin: "300px" });
  }

  update(panels) {
    const keys = new Set(panels.map((panel) => panel.key));
    for (const [key, chart] of this.charts) {
      if (keys.has(key)) continue;
      chart.figure.remove();
      this.charts.delete(key);
    }
    panels.forEach((panel, index) => {
      const chart = this.charts.get(panel.key) ?? this.add(panel);
      if (this.container.children[index] !== chart.figure) this.container.insertBefore(chart.figure, this.container.children[index] ?? null);
      const snapshot = JSON.stringify(panel.figure);
      if (chart.snapshot === snapshot) return;
      Object.assign(chart, { snapshot, panel, drawn: false });
      if (chart.isVisible) this.draw(chart);
    });
  }

  add(panel) {
    const canvas = el("div", { role: "img", "aria-label": panel.title, class: "canvas" });
    const figure = el("figure", { class: "card", "data-key": panel.key }, el("h3", {}, panel.title), canvas,
      panel.note ? el("figcaption", {}, panel.note) : "");
    const chart = { figure, canvas, panel, snapshot: "", drawn: false, isVisible: false };
    this.charts.set(panel.key, chart);
    this.observer.observe(figure);
    return chart;
  }

  async draw(chart) {
    if (chart.drawn) return;
    chart.drawn = true;
    try {
      await loadPlotly();
      await drawChart(chart.canvas, chart.panel.figure);
      chart.canvas.setAttribute("aria-label", describe(chart.panel));
    } catch {
      chart.drawn = false;
    }
  }

  redraw() {
    for (const chart of this.charts.values()) {
      chart.drawn = false;
      if (chart.isVisible) this.draw(chart);
    }
  }

  close() {
    this.observer.disconnect();
  }
}

// The last value of each line, for screen readers.
function describe(panel) {
  const ends = panel.figure.data.filter((trace) => trace.mode !== "markers").map((trace) => {
    const known = trace.y.filter((value) => value !== null);
    return `${trace.name} ${known.length ? known[known.length - 1].toPrecision(4) : "–"}`;
  });
  return `${panel.title}. Last values: ${ends.join(", ")}`;
}

// A section of the page that is rebuilt only if its values have changed.
class Section {
  constructor(build) {
    this.container = el("div");
    this.build = build;
  }

  update(...values) {
    const snapshot = JSON.stringify(values);
    if (this.snapshot === snapshot) return;
    this.snapshot = snapshot;
    this.container.replaceChildren(...[this.build(...values)].flat().filter(Boolean));
  }
}

export class RunView {
  constructor(container, id) {
    this.url = `/api/run?id=${encodeURIComponent(id)}`;
    this.ids = [id];
    this.id = id;
    this.head = new Section(heading);
    this.outcome = new Section(outcome);
    this.tables = new Section(tables);
    this.lists = new Section(lists);
    this.charts = new Charts();
    container.replaceChildren(this.head.container, this.outcome.container, this.tables.container, this.lists.container, this.charts.container);
  }

  update(run) {
    document.title = `${run.name} · nextvec watch`;
    this.head.update({ ...run, panels: null, gates: null, trend: null }, this.id);
    this.outcome.update(run.verdict, run.criteria, run.synthetic);
    this.tables.update(run.scores, run.losses, run.epoch);
    this.charts.update(run.panels);
    this.lists.update(run.gates, run.upcoming, run.warnings);
  }

  close() {
    this.charts.close();
  }
}

export class OverlayView {
  constructor(container, ids) {
    this.url = `/api/overlay?${ids.map((id) => `id=${encodeURIComponent(id)}`).join("&")}`;
    this.ids = ids;
    this.head = new Section((runs) => [el("h1", { tabindex: -1 }, `Comparison of ${runs.length} runs`),
      el("p", { class: "about" }, runs.join(" · "))]);
    this.charts = new Charts();
    container.replaceChildren(this.head.container, this.charts.container);
  }

  update(overlay) {
    document.title = "Comparison · nextvec watch";
    this.head.update(overlay.runs);
    this.charts.update(overlay.panels);
  }

  close() {
    this.charts.close();
  }
}

function heading(run, id) {
  const progress = run.fraction === null || run.ended ? "" : el("div", { class: "progress" },
    el("progress", { max: 1, value: run.fraction, "aria-label": "progress" }), ` ${percent(run.fraction)}`);
  const epochs = run.epochs ? `epoch ${run.ended ? run.epoch : Math.min(run.epoch + 1, run.epochs)} of ${run.epochs}` : "";
  const rates = [epochs, ...run.rates].filter(Boolean);
  return [
    el("h1", { tabindex: -1 }, run.name, " ", run.synthetic ? syntheticTag() : ""),
    run.facts.map((fact) => el("p", { class: "about" }, fact)),
    el("p", { class: "about" }, run.path),
    el("p", { class: "run-status", role: "status" }, statusSymbol(run.status), " ", el("b", {}, run.status_text)),
    progress,
    rates.length ? el("p", { class: "note" }, rates.join(" · ")) : "",
    run.reason ? el("p", {}, statusSymbol("red"), " ", run.reason) : "",
    run.diagnosis ? el("p", {}, el("b", {}, "Diagnosis: "), withCode(run.diagnosis)) : "",
    run.report ? el("p", {}, el("a", { href: `/report?id=${id}`, target: "_blank", rel: "noopener" }, "Report")) : "",
  ].flat();
}

function outcome(verdict, criteria, onSynthetic) {
  const suffix = onSynthetic ? " on synthetic data" : "";
  return [
    verdict && el("section", { class: `card verdict ${verdict.status}`, "aria-label": `verdict${suffix}` },
      statusSymbol(verdict.status), el("div", {}, el("p", {}, verdict.text), suffix ? el("p", { class: "note" }, "On synthetic data.") : "")),
    criteria.length ? findings(`Success criteria${suffix}`, criteria.map((item) => [item.status, item.name, item.text])) : null,
  ];
}

function tables(scores, losses, epoch) {
  const when = epoch ? `epoch ${epoch}` : "so far";
  const cells = (texts) => texts.map((text) => el("td", {}, text));
  const scoreRows = scores.map((line) => el("tr", {}, el("th", { scope: "row" }, line.split), el("td", {}, line.now),
    el("td", { class: line.is_gain ? "gain" : "" }, line.gain), cells([line.best, line.baseline])));
  const lossRows = losses.map((line) => el("tr", {}, el("th", { scope: "row" }, line.term),
    cells([line.train, line.val, line.share, line.requested])));
  return el("div", { class: "pair" },
    scores.length ? el("div", { class: "card" }, table(["cosine", when, "gain", "best epoch", "best baseline"], scoreRows)) : "",
    losses.length ? el("div", { class: "card" }, table(["loss", "train", "val", "gradient share", "requested"], lossRows)) : "");
}

function lists(gates, upcoming, warnings) {
  const lines = (items) => items.toReversed().map((gate) =>
    [gate.status, `epoch ${gate.epoch}`, gate.text + (gate.advice ? ` → ${gate.advice}` : "")]);
  const sections = [
    ["Gates", lines(gates.filter((gate) => !gate.sentinel))],
    ["Sentinel (ood)", lines(gates.filter((gate) => gate.sentinel))],
    ["Upcoming gates", upcoming.map((gate) => ["", `epoch ${gate.epoch}`, gate.text])],
    ["Warnings", warnings.map((item) => [item.status, "", item.text])],
  ];
  const shown = sections.filter(([, items]) => items.length);
  return [el("div", { class: "pair" }, shown.map(([title, items]) => findings(title, items))), el("h2", {}, "Charts")];
}

// The latest lines; older ones are folded.
function findings(title, items) {
  const lines = (part) => el("ul", { class: "findings" },
    part.map(([status, label, text]) => el("li", {}, statusSymbol(status), el("b", {}, label), el("span", {}, withCode(text)))));
  const rest = items.slice(MAX_LINES);
  return el("section", { class: "card" }, el("h3", {}, title), lines(items.slice(0, MAX_LINES)),
    rest.length ? el("details", {}, el("summary", {}, `${rest.length} more`), lines(rest)) : "");
}
