// The live page: one stream says which runs are new or changed; the page fetches what it shows of them.
import { el, learnShapes } from "/assets/dom.js";
import { RunList } from "/assets/list.js";
import { OverlayView, RunView } from "/assets/run.js";

const AGAIN = 1500; // milliseconds after which a lost connection is tried again
const main = document.getElementById("main");
const connection = document.getElementById("connection");
const runs = new Map();
let stream = null;
let view = null;
let list = null;
let fetching = false;
let stale = false;

function say(text, state) {
  connection.textContent = text;
  connection.className = state;
}

function connect() {
  stream?.close();
  stream = new EventSource("/stream");
  stream.addEventListener("hello", (event) => {
    learnShapes(JSON.parse(event.data).shapes);
    say("● live", "live");
  });
  stream.addEventListener("runs", (event) => take(JSON.parse(event.data)));
  stream.onerror = () => {
    say("▲ connection lost, trying again …", "lost");
    stream.close();
    setTimeout(() => document.hidden || connect(), AGAIN);
  };
}

// A browser opens few streams to one address: a page that nobody sees gives its own back.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    stream?.close();
    say("paused", "");
  } else connect();
});

function take({ everything, runs: changed, gone }) {
  if (everything) {
    const told = new Set(changed.map((run) => run.id));
    for (const id of [...runs.keys()]) if (!told.has(id)) runs.delete(id);
  }
  for (const id of gone) runs.delete(id);
  for (const run of changed) runs.set(run.id, run);
  if (view === null) show();
  else if (list) list.update(changed.map((run) => run.id));
  else if (everything || view.ids.some((id) => gone.includes(id) || changed.some((run) => run.id === id))) refresh();
}

// At most one request at a time: what changes meanwhile is fetched by the next one.
async function refresh() {
  if (fetching) {
    stale = true;
    return;
  }
  fetching = true;
  const asked = view;
  try {
    const answer = await fetch(asked.url);
    const found = await answer.json();
    if (view === asked && answer.ok) asked.update(found);
    else if (view === asked) main.replaceChildren(el("h1", { tabindex: -1 }, "Gone"), el("p", {}, found.error));
  } catch {
    say("▲ connection lost, trying again …", "lost"); // the stream comes back and tells everything anew
  } finally {
    fetching = false;
    if (stale || view !== asked) {
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
    if (!runs.size) main.append(el("p", { class: "note" }, "No run yet: it appears here when it starts."));
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
