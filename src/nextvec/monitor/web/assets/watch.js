// The live page. One stream reports new and changed runs, and the page fetches the details that it shows.
import { el, setSymbols } from "/assets/dom.js";
import { RunList } from "/assets/list.js";
import { OverlayView, RunView } from "/assets/run.js";

const RECONNECT_MS = 1500; // pause before a lost connection is opened again
const main = document.getElementById("main");
const connection = document.getElementById("connection");
const runs = new Map();
let stream = null;
let view = null;
let list = null;
let fetching = false;
let stale = false;

function showConnection(text, state) {
  connection.textContent = text;
  connection.className = `connection ${state}`;
}

function connect() {
  stream?.close();
  stream = new EventSource("/stream");
  stream.addEventListener("hello", (event) => {
    setSymbols(JSON.parse(event.data).symbols);
    showConnection("● live", "live");
  });
  stream.addEventListener("runs", (event) => applyChanges(JSON.parse(event.data)));
  stream.onerror = () => {
    showConnection("▲ connection lost, reconnecting …", "lost");
    stream.close();
    setTimeout(() => document.hidden || connect(), RECONNECT_MS);
  };
}

// Browsers limit the open streams per host, so a hidden page closes its stream.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    stream?.close();
    showConnection("paused", "");
  } else connect();
});

function applyChanges({ everything, runs: changed, removed }) {
  if (everything) {
    const ids = new Set(changed.map((run) => run.id));
    for (const id of [...runs.keys()]) if (!ids.has(id)) runs.delete(id);
  }
  for (const id of removed) runs.delete(id);
  for (const run of changed) runs.set(run.id, run);
  if (view === null) show();
  else if (list) list.update(changed.map((run) => run.id));
  else if (everything || view.ids.some((id) => removed.includes(id) || changed.some((run) => run.id === id))) refresh();
}

// At most one request at a time; changes during a request are fetched by the next one.
async function refresh() {
  if (fetching) {
    stale = true;
    return;
  }
  fetching = true;
  const requested = view;
  try {
    const response = await fetch(requested.url);
    const content = await response.json();
    if (view === requested && response.ok) requested.update(content);
    else if (view === requested) main.replaceChildren(el("h1", { tabindex: -1 }, "Run removed"), el("p", {}, content.error));
  } catch {
    showConnection("▲ connection lost, reconnecting …", "lost"); // the reopened stream sends all runs again
  } finally {
    fetching = false;
    if (stale || view !== requested) {
      stale = false;
      if (view !== list && view) refresh();
    }
  }
}

function show() {
  const [, kind, ids] = location.hash.match(/^#\/(run|overlay)\/([0-9a-f,]+)$/) ?? [];
  view?.close?.();
  list = null;
  if (kind === "run") view = new RunView(main, ids);
  else if (kind === "overlay") view = new OverlayView(main, ids.split(","));
  else {
    view = list = new RunList(main, runs);
    document.title = "nextvec watch";
    if (!runs.size) main.append(el("p", { class: "note" }, "No runs yet. A run appears here when it starts."));
    return;
  }
  main.prepend(el("p", { class: "crumbs" }, el("a", { href: "#/" }, "All runs")));
  refresh();
}

window.addEventListener("hashchange", async () => {
  if (location.hash && !location.hash.startsWith("#/")) return;
  show();
  window.scrollTo(0, 0);
  main.focus();
});
scheme.addEventListener("change", () => view?.charts?.redraw());
connect();
