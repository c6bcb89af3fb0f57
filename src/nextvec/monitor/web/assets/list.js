// The list of runs, the newest first. Rows are updated in place, so that focus and selection stay.
import { el, percent, sparkline, statusSymbol, syntheticTag } from "/assets/dom.js";

const MAX_OVERLAY_RUNS = 8; // there are eight distinct line styles
const HEADINGS = ["", "run", "state", "val cosine", "gain", "ood cosine", "gain", "val trend"];

export class RunList {
  constructor(container, runs) {
    this.runs = runs;
    this.rows = new Map();
    this.selected = new Set();
    this.body = el("tbody");
    this.filter = el("input", { type: "search", placeholder: "Filter", "aria-label": "Filter runs by name or path",
      oninput: () => this.update([]) });
    this.overlayLink = el("a", { class: "button", role: "link" });
    this.count = el("span", { class: "note", role: "status" });
    container.replaceChildren(
      el("h1", { tabindex: -1 }, "Runs"),
      el("div", { class: "tools" }, this.filter, this.overlayLink, this.count),
      el("div", { class: "card scroll" }, el("table", { class: "runs" },
        el("thead", {}, el("tr", {}, HEADINGS.map((text) =>
          el("th", { scope: "col" }, text || el("span", { class: "visually-hidden" }, "compare"))))),
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
      this.selected.delete(id);
    }
    this.sortAndFilter();
  }

  show(id, run) {
    let row = this.rows.get(id);
    if (!row) {
      const checkbox = el("input", { type: "checkbox", onchange: (event) => this.select(id, event.target) });
      row = el("tr", {}, el("td", {}, checkbox), HEADINGS.slice(1).map((name) => el("td", { "data-label": name })));
      this.rows.set(id, row);
    }
    row.firstChild.firstChild.setAttribute("aria-label", `compare ${run.name}`);
    const scores = Object.fromEntries(run.scores.map((line) => [line.split, line]));
    const gain = (line) => line && el("span", { class: line.is_gain ? "gain" : "", title: line.baseline }, line.gain);
    const cells = [
      [el("a", { href: `#/run/${id}` }, run.name), " ", run.synthetic ? syntheticTag() : "", el("div", { class: "note path" }, run.path)],
      [statusSymbol(run.status), " ", run.status_text, el("div", { class: "note" }, progressText(run))],
      [scores.val?.now ?? ""], [gain(scores.val) ?? ""], [scores.ood?.now ?? ""], [gain(scores.ood) ?? ""],
      [sparkline(run.trend, run.baseline)],
    ];
    const snapshot = JSON.stringify(run);
    if (row.snapshot === snapshot) return;
    row.snapshot = snapshot;
    const focused = row.contains(document.activeElement) && document.activeElement.tagName === "A";
    cells.forEach((content, index) => row.children[index + 1].replaceChildren(...content));
    if (focused) row.querySelector("a").focus();
  }

  sortAndFilter() {
    const query = this.filter.value.trim().toLowerCase();
    const order = [...this.rows].sort(([a], [b]) => (this.runs.get(b).started ?? 0) - (this.runs.get(a).started ?? 0));
    order.forEach(([id, row], index) => {
      if (this.body.children[index] !== row) this.body.insertBefore(row, this.body.children[index] ?? null);
      const run = this.runs.get(id);
      row.hidden = !`${run.name} ${run.path}`.toLowerCase().includes(query);
    });
    const shown = order.filter(([, row]) => !row.hidden).length;
    const runs = order.length === 1 ? "run" : "runs";
    this.count.textContent = shown === order.length ? `${shown} ${runs}` : `${shown} of ${order.length} ${runs}`;
    const ids = [...this.selected];
    this.overlayLink.textContent = ids.length < 2 ? "Select two or more runs to compare" : `Compare ${ids.length} runs`;
    if (ids.length < 2) this.overlayLink.removeAttribute("href");
    else this.overlayLink.setAttribute("href", `#/overlay/${ids.join(",")}`);
    this.overlayLink.setAttribute("aria-disabled", ids.length < 2);
  }

  select(id, checkbox) {
    if (checkbox.checked && this.selected.size >= MAX_OVERLAY_RUNS) checkbox.checked = false;
    if (checkbox.checked) this.selected.add(id);
    else this.selected.delete(id);
    this.sortAndFilter();
  }
}

function progressText(run) {
  if (!run.epochs) return run.epoch ? `epoch ${run.epoch}` : "";
  return `epoch ${run.epoch} of ${run.epochs}` + (run.ended || run.fraction === null ? "" : ` · ${percent(run.fraction)}`);
}
