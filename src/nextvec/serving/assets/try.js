// The page to try a model. It sends the text to the service, and inserts every answer as text, never as markup.
import { el } from "/assets/dom.js";
import { showContinuation, showNext, showScore } from "/assets/results.js";

const EXAMPLE = [
  "The harbor was built on the northern bank of the river, where the current is slow and the ground is firm. For a " +
    "century it was little more than a wooden pier at which fishing boats unloaded their catch.",
  "When the railway arrived, the pier was replaced by stone quays. Grain from the inland plains was loaded onto " +
    "steamships, and warehouses rose along the waterfront.",
  "Ships of that time grew faster than the quays. A deeper channel was dredged, and a lock kept the water of the " +
    "inner basin at the same level at every tide.",
  "Sourdough bread rises without added yeast. Flour and water are left to ferment for several days, until wild yeast " +
    "and bacteria from the grain make the dough light and slightly sour.",
  "After the war most of the freight moved to a container terminal near the estuary. The old basins were filled in or " +
    "turned into marinas, and the warehouses became apartments.",
].join("\n\n");

const RETRY_MS = 1000; // pause before the model is asked for again
const byId = (id) => document.getElementById(id);
const [text, count, connection] = ["text", "count", "connection"].map(byId);
const actions = [byId("run"), byId("continue")];
const sections = { next: byId("next"), continuation: byId("continuation"), score: byId("score") };
let model = null;

// Returns the answer of the service. Throws an Error whose message is one line for the user.
async function ask(path, body) {
  const options = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, body ? options : {}).catch(() => null);
  if (response === null) {
    showConnection("▲ not reachable", "lost");
    throw new Error("The service does not answer. Check that nextvec serve is still running.");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401) requireToken();
  if (!response.ok) {
    const message = answer.error ?? `The service answered with status ${response.status}.`;
    throw Object.assign(new Error(message), { status: response.status });
  }
  showConnection("● ready", "live");
  return answer;
}

function showConnection(message, state) {
  connection.textContent = message;
  connection.className = `connection ${state}`;
}

function requireToken() {
  showConnection("▲ token required", "lost");
  byId("try").hidden = true;
  byId("access").hidden = false;
  byId("token").focus();
}

byId("access").addEventListener("submit", async (event) => {
  event.preventDefault();
  byId("access-error").textContent = "";
  // The service answers a right token with a cookie, which scripts cannot read.
  await fetch(`/?token=${encodeURIComponent(byId("token").value)}`).catch(() => null);
  const error = await load();
  if (error) byId("access-error").textContent = error.status === 401 ? "Wrong token." : error.message;
});

// Describes the model, and enables what this service can do. Returns the error if the service refuses.
async function load() {
  try {
    model = await ask("/v1/model");
  } catch (error) {
    if (error.status === 503) {
      // A service that just started loads its model first.
      showConnection("loading …", "");
      setTimeout(load, RETRY_MS);
    } else if (error.status !== 401) byId("error").textContent = error.message;
    return error;
  }
  byId("access").hidden = true;
  byId("try").hidden = false;
  byId("error").textContent = model.encoder_error ?? "";
  byId("model").textContent = model.model;
  document.title = `${model.model} · nextvec`;
  const index = model.index;
  byId("about").textContent = [
    `${model.network.toUpperCase()}, ${model.parameters.toLocaleString("en")} parameters`,
    `space ${model.space.encoder} (${model.dimensions}-D)`,
    index ? `index ${index.name}, ${index.chunks.toLocaleString("en")} chunks` : "no index",
  ].join(" · ");
  byId("hint").textContent =
    `Blank lines separate chunks. The model reads the last ${model.context_length}; the score needs at least 2.` +
    (index ? "" : " Start the service with --index to find next chunks.");
  byId("run").textContent = index ? "Find next chunks and score" : "Score the text";
  count.closest("label").hidden = byId("continue").hidden = !index;
  setBusy(false);
  return null;
}

function showError(error) {
  return el("p", { class: "error", role: "alert" }, error.message);
}

function setBusy(isBusy) {
  for (const button of actions) button.disabled = isBusy || model === null || model.encoder_error !== null;
}

// Fills sections with answers; each has its own error, so that one refusal does not hide the other answer.
async function run(requests) {
  byId("error").textContent = "";
  for (const section of Object.values(sections)) section.replaceChildren();
  if (!text.value.trim()) {
    byId("error").textContent = "Enter a text first.";
    return text.focus();
  }
  if (!count.reportValidity()) return undefined;
  setBusy(true);
  const announce = (message) => (byId("announcement").textContent = message); // for screen readers
  announce("Computing …");
  await Promise.all(requests.map(async ([name, heading, path, body, show]) => {
    const section = sections[name];
    section.replaceChildren(el("h2", {}, heading), el("p", { class: "busy" }, "Computing …"));
    const content = await ask(path, { text: text.value, ...body }).then(show, showError);
    section.replaceChildren(el("h2", {}, heading), ...[content].flat().filter(Boolean));
  }));
  announce(`Done: ${requests.map(([, heading]) => heading).join(", ")}`);
  return setBusy(false);
}

byId("try").addEventListener("submit", (event) => {
  event.preventDefault();
  const next = ["next", "Most likely next chunks", "/v1/next", { k: count.valueAsNumber }, (answer) => showNext(answer, append)];
  const score = ["score", "Score of every chunk", "/v1/score", {}, showScore];
  run(model.index ? [next, score] : [score]);
});
byId("continue").addEventListener("click", () => {
  run([["continuation", "Continuation", "/v1/generate", { steps: count.valueAsNumber }, showContinuation]]);
});
byId("example").addEventListener("click", () => {
  text.value = EXAMPLE;
  text.focus();
});
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !byId("run").disabled) byId("try").requestSubmit();
});

// Adds a chunk to the end of the text, so that the next search continues from it.
function append(chunk) {
  text.value = `${text.value.trimEnd()}\n\n${chunk}`;
  text.scrollTop = text.scrollHeight;
  text.focus();
}

setBusy(true);
load();
