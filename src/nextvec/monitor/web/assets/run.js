// One run in detail, or several laid over each other. What has not changed is left alone.
import { el, stoplight, percent, synthetic, table } from "/assets/dom.js";

const SHOWN = 5; // lines of a list of gates
let plotly = null;

// The script of charts is large: it comes when the first chart does.
function loadPlotly() {
  plotly ??= new Promise((resolve, reject) => {
    document.head.append(el("script", { src: "/assets/plotly.min.js", onload: resolve, onerror: () => {
      plotly = null; // the server may be away: the next chart asks again
      reject(new Error("the script of charts can't be had"));
    } }));
  });
  return plotly;
}

// Charts that are drawn when they come into sight, and again when their figures have changed.
class Charts {
  constructor() {
    this.place = el("div", { class: "charts" });
    this.shown = new Map();
    this.sight = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const chart = this.shown.get(target.dataset.key);
        if (!chart) continue;
        chart.inSight = isIntersecting;
        if (isIntersecting) this.draw(chart);
      }
    }, { rootMargin: "300px" });
  }

  update(panels) {
    const keys = new Set(panels.map((panel) => panel.key));
    for (const [key, chart] of this.shown) {
      if (keys.has(key)) continue;
      chart.figure.remove();
      this.shown.delete(key);
    }
    panels.forEach((panel, index) => {
      const chart = this.shown.get(panel.key) ?? this.add(panel);
      if (this.place.children[index] !== chart.figure) this.place.insertBefore(chart.figure, this.place.children[index] ?? null);
      const told = JSON.stringify(panel.figure);
      if (chart.told === told) return;
      Object.assign(chart, { told, panel, drawn: false });
      if (chart.inSight) this.draw(chart);
    });
  }

  add(panel) {
    const canvas = el("div", { role: "img", "aria-label": panel.title, class: "canvas" });
    const figure = el("figure", { class: "card", "data-key": panel.key }, el("h3", {}, panel.title), canvas,
      panel.note ? el("figcaption", {}, panel.note) : "");
    const chart = { figure, canvas, panel, told: "", drawn: false, inSight: false };
    this.shown.set(panel.key, chart);
    this.sight.observe(figure);
    return chart;
  }

  async draw(chart) {
    if (chart.drawn) return;
    chart.drawn = true;
    try {
      await loadPlotly();
      await drawChart(chart.canvas, chart.panel.figure);
      chart.canvas.setAttribute("aria-label", described(chart.panel));
    } catch {
      chart.drawn = false;
    }
  }

  redraw() {
    for (const chart of this.shown.values()) {
      chart.drawn = false;
      if (chart.inSight) this.draw(chart);
    }
  }

  close() {
    this.sight.disconnect();
  }
}

// What a chart says at its right end, for those who don't see it.
function described(panel) {
  const ends = panel.figure.data.filter((trace) => trace.mode !== "markers").map((trace) => {
    const known = trace.y.filter((value) => value !== null);
    return `${trace.name} ${known.length ? known[known.length - 1].toPrecision(4) : "–"}`;
  });
  return `${panel.title}; at the end: ${ends.join(", ")}`;
}

// A part of the page that is built anew when its values have changed, and only then.
class Part {
  constructor(build) {
    this.place = el("div");
    this.build = build;
  }

  update(...values) {
    const told = JSON.stringify(values);
    if (this.told === told) return;
    this.told = told;
    this.place.replaceChildren(...[this.build(...values)].flat().filter(Boolean));
  }
}

export class RunView {
  constructor(place, id) {
    this.url = `/api/run?id=${encodeURIComponent(id)}`;
    this.ids = [id];
    this.id = id;
    this.head = new Part(heading);
    this.outcome = new Part(outcome);
    this.figures = new Part(figures);
    this.lists = new Part(lists);
    this.charts = new Charts();
    place.replaceChildren(this.head.place, this.outcome.place, this.figures.place, this.lists.place, this.charts.place);
  }

  update(run) {
    document.title = `${run.name} · nextvec watch`;
    this.head.update({ ...run, panels: null, gates: null, trend: null }, this.id);
    this.outcome.update(run.verdict, run.criteria, run.synthetic);
    this.figures.update(run.scores, run.losses, run.epoch);
    this.charts.update(run.panels);
    this.lists.update(run.gates, run.to_come, run.warnings);
  }

  close() {
    this.charts.close();
  }
}

export class OverlayView {
  constructor(place, ids) {
    this.url = `/api/overlay?${ids.map((id) => `id=${encodeURIComponent(id)}`).join("&")}`;
    this.ids = ids;
    this.head = new Part((runs) => [el("h1", { tabindex: -1 }, `${runs.length} runs laid over each other`),
      el("p", { class: "about" }, runs.join(" · "))]);
    this.charts = new Charts();
    place.replaceChildren(this.head.place, this.charts.place);
  }

  update(found) {
    document.title = "Runs laid over each other · nextvec watch";
    this.head.update(found.runs);
    this.charts.update(found.panels);
  }

  close() {
    this.charts.close();
  }
}

function heading(run, id) {
  const progress = run.part === null || run.ended ? "" : el("div", { class: "progress" },
    el("progress", { max: 1, value: run.part, "aria-label": "progress" }), ` ${percent(run.part)}`);
  const epochs = run.epochs ? `epoch ${run.ended ? run.epoch : Math.min(run.epoch + 1, run.epochs)} of ${run.epochs}` : "";
  const rates = [epochs, ...run.rates].filter(Boolean);
  return [
    el("h1", { tabindex: -1 }, run.name, " ", run.synthetic ? synthetic() : ""),
    run.facts.map((fact) => el("p", { class: "about" }, fact)),
    el("p", { class: "about" }, run.path),
    el("p", { class: "status", role: "status" }, stoplight(run.stoplight), " ", el("b", {}, run.status)),
    progress,
    rates.length ? el("p", { class: "note" }, rates.join(" · ")) : "",
    run.reason ? el("p", {}, stoplight("red"), " ", run.reason) : "",
    run.diagnosis ? el("p", {}, el("b", {}, "Diagnosis "), run.diagnosis) : "",
    run.report ? el("p", {}, el("a", { href: `/report?id=${id}`, target: "_blank", rel: "noopener" }, "The run's report")) : "",
  ].flat();
}

function outcome(verdict, criteria, onSynthetic) {
  const about = onSynthetic ? " on synthetic data" : "";
  return [
    verdict && el("section", { class: `card verdict ${verdict.stoplight}`, "aria-label": `verdict${about}` },
      stoplight(verdict.stoplight), el("div", {}, el("p", {}, verdict.text), about ? el("p", { class: "note" }, `On synthetic data.`) : "")),
    criteria.length ? findings(`Success criteria${about}`, criteria.map((item) => [item.stoplight, item.name, item.text])) : null,
  ];
}

function figures(scores, losses, epoch) {
  const when = epoch ? `epoch ${epoch}` : "so far";
  const cells = (texts) => texts.map((text) => el("td", {}, text));
  const scoreRows = scores.map((line) => el("tr", {}, el("th", { scope: "row" }, line.split), el("td", {}, line.now),
    el("td", { class: line.ahead ? "ahead" : "" }, line.gain), cells([line.best, line.baseline])));
  const lossRows = losses.map((line) => el("tr", {}, el("th", { scope: "row" }, line.term),
    cells([line.train, line.val, line.share, line.asked])));
  return el("div", { class: "pair" },
    scores.length ? el("div", { class: "card" }, table(["cosine", when, "gain", "best epoch", "best baseline"], scoreRows)) : "",
    losses.length ? el("div", { class: "card" }, table(["loss", "train", "val", "share", "asked"], lossRows)) : "");
}

function lists(gates, toCome, warnings) {
  const lines = (items) => items.toReversed().map((gate) =>
    [gate.stoplight, `epoch ${gate.epoch}`, gate.text + (gate.advice ? ` → ${gate.advice}` : "")]);
  const sections = [
    ["Gates", lines(gates.filter((gate) => !gate.sentinel))],
    ["Sentinel, on ood", lines(gates.filter((gate) => gate.sentinel))],
    ["To come", toCome.map((gate) => ["", `epoch ${gate.epoch}`, gate.text])],
    ["Warnings", warnings.map((item) => [item.stoplight, "", item.text])],
  ];
  const shown = sections.filter(([, items]) => items.length);
  return [el("div", { class: "pair" }, shown.map(([title, items]) => findings(title, items))), el("h2", {}, "Curves")];
}

// The latest lines, and the others behind a click.
function findings(title, items) {
  const lines = (some) => el("ul", { class: "findings" },
    some.map(([name, head, text]) => el("li", {}, stoplight(name), el("b", {}, head), el("span", {}, text))));
  const rest = items.slice(SHOWN);
  return el("section", { class: "card" }, el("h3", {}, title), lines(items.slice(0, SHOWN)),
    rest.length ? el("details", {}, el("summary", {}, `${rest.length} more`), lines(rest)) : "");
}
