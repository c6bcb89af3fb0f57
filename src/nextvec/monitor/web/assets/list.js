// The list of runs, the newest first. A row is made once and changed in its place, so that focus and choice stay.
import { el, stoplight, percent, sparkline, synthetic } from "/assets/dom.js";

const MOST = 8; // runs that can be told apart when they are laid over each other
const HEADINGS = ["", "run", "state", "val cosine", "gain", "ood cosine", "gain", "trend of val"];

export class RunList {
  constructor(place, runs) {
    this.runs = runs;
    this.rows = new Map();
    this.chosen = new Set();
    this.body = el("tbody");
    this.filter = el("input", { type: "search", placeholder: "Filter", "aria-label": "Show runs whose name or path has",
      oninput: () => this.update([]) });
    this.over = el("a", { class: "button", role: "link" });
    this.counted = el("span", { class: "note", role: "status" });
    place.replaceChildren(
      el("h1", { tabindex: -1 }, "Runs"),
      el("div", { class: "tools" }, this.filter, this.over, this.counted),
      el("div", { class: "card scroll" }, el("table", { class: "runs" },
        el("thead", {}, el("tr", {}, HEADINGS.map((text) =>
          el("th", { scope: "col" }, text || el("span", { class: "unseen" }, "compare"))))),
        this.body)));
    this.update([...runs.keys()]);
  }

  update(changed) {
    for (const id of changed) {
      const run = this.runs.get(id);
      if (run) this.show(id, run);
    }
    for (const [id, row] of this.rows) {
      if (this.runs.has(id)) continue;
      row.remove();
      this.rows.delete(id);
      this.chosen.delete(id);
    }
    this.arrange();
  }

  show(id, run) {
    let row = this.rows.get(id);
    if (!row) {
      const choice = el("input", { type: "checkbox", onchange: (event) => this.choose(id, event.target) });
      row = el("tr", {}, el("td", { class: "choice" }, choice), HEADINGS.slice(1).map((name) => el("td", { "data-label": name })));
      this.rows.set(id, row);
    }
    row.firstChild.firstChild.setAttribute("aria-label", `compare ${run.name}`);
    const scores = Object.fromEntries(run.scores.map((line) => [line.split, line]));
    const gain = (line) => line && el("span", { class: line.ahead ? "ahead" : "", title: line.baseline }, line.gain);
    const cells = [
      [el("a", { href: `#/run/${id}` }, run.name), " ", run.synthetic ? synthetic() : "", el("div", { class: "note path" }, run.path)],
      [stoplight(run.stoplight), " ", run.status, el("div", { class: "note" }, progressWords(run))],
      [scores.val?.now ?? ""], [gain(scores.val) ?? ""], [scores.ood?.now ?? ""], [gain(scores.ood) ?? ""],
      [sparkline(run.trend, run.level)],
    ];
    const told = JSON.stringify(run);
    if (row.told === told) return;
    row.told = told;
    const focused = row.contains(document.activeElement) && document.activeElement.tagName === "A";
    cells.forEach((content, index) => row.children[index + 1].replaceChildren(...content));
    if (focused) row.querySelector("a").focus();
  }

  arrange() {
    const sought = this.filter.value.trim().toLowerCase();
    const order = [...this.rows].sort(([a], [b]) => (this.runs.get(b).started ?? 0) - (this.runs.get(a).started ?? 0));
    order.forEach(([id, row], index) => {
      if (this.body.children[index] !== row) this.body.insertBefore(row, this.body.children[index] ?? null);
      const run = this.runs.get(id);
      row.hidden = !`${run.name} ${run.path}`.toLowerCase().includes(sought);
    });
    const shown = order.filter(([, row]) => !row.hidden).length;
    this.counted.textContent = shown === order.length ? `${shown} runs` : `${shown} of ${order.length} runs`;
    const ids = [...this.chosen];
    this.over.textContent = ids.length < 2 ? "Choose two or more runs to lay over each other" : `Lay ${ids.length} runs over each other`;
    if (ids.length < 2) this.over.removeAttribute("href");
    else this.over.setAttribute("href", `#/overlay/${ids.join(",")}`);
    this.over.setAttribute("aria-disabled", ids.length < 2);
  }

  choose(id, box) {
    if (box.checked && this.chosen.size >= MOST) box.checked = false;
    if (box.checked) this.chosen.add(id);
    else this.chosen.delete(id);
    this.arrange();
  }
}

function progressWords(run) {
  if (!run.epochs) return run.epoch ? `epoch ${run.epoch}` : "";
  return `epoch ${run.epoch} of ${run.epochs}` + (run.ended || run.part === null ? "" : ` · ${percent(run.part)}`);
}
