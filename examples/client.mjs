// Call a running service with fetch, and print the next chunks and the scores of a text:
//
//     node examples/client.mjs my-article.txt [URL]
//
// The environment variable NEXTVEC_TOKEN is the token of a service that requires one. `Client` also runs in a browser,
// in pages of the service's own address: it allows no requests from pages of other sites.

const MAX_TRIES = 5; // a service that is loading or busy answers 503; the request is sent again

export class Client {
  constructor(url, token = "") {
    this.url = url.replace(/\/$/, "");
    this.headers = { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) };
  }

  // The model, its index and the limits of the service.
  model() {
    return this.#ask("/v1/model");
  }

  // Prediction and query (N, D) of contexts of unit vectors: (S, D), or a list of contexts.
  predict(vectors) {
    return this.#ask("/v1/predict", { vectors });
  }

  // The k chunks that most likely follow a text or a list of chunks.
  next(text, k = 5) {
    return this.#ask("/v1/next", { ...asDocument(text), k });
  }

  // A continuation of a text or of a list of chunks.
  generate(text, steps = 5, raw = false) {
    return this.#ask("/v1/generate", { ...asDocument(text), steps, raw });
  }

  // How expected each chunk of a text is.
  score(text) {
    return this.#ask("/v1/score", asDocument(text));
  }

  // Throws an Error with the line of a refusal.
  async #ask(path, body) {
    const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
    for (let tries = 1; ; tries += 1) {
      const response = await fetch(this.url + path, { ...options, headers: this.headers });
      const answer = await response.json().catch(() => ({}));
      if (response.ok) return answer;
      if (response.status !== 503 || tries === MAX_TRIES) throw new Error(answer.error ?? `status ${response.status}`);
      await new Promise((resolve) => setTimeout(resolve, 1000 * Number(response.headers.get("retry-after") ?? 1)));
    }
  }
}

// A text, whose chunks the service finds, or a list of chunks.
function asDocument(text) {
  return typeof text === "string" ? { text } : { texts: text };
}

async function main(source, url = "http://127.0.0.1:8000") {
  const { readFile } = await import("node:fs/promises");
  const client = new Client(url, process.env.NEXTVEC_TOKEN);
  const text = await readFile(source, "utf-8");
  const { chunks, baseline, baseline_chunk: first } = await client.next(text, 3);
  for (const { rank, score, title, document, text: chunk } of chunks) {
    console.log(`${rank}  ${score.toFixed(3)}  ${title || document}: ${chunk}`);
  }
  console.log(`${baseline} would have ranked first: ${first?.text ?? "nothing"}`);
  for (const { position, cosine, is_shift: isShift } of (await client.score(text)).chunks) {
    console.log(`chunk ${position}: cosine ${cosine === null ? "–" : cosine.toFixed(3)}${isShift ? "  topic shift" : ""}`);
  }
}

// Only if node runs this file, not if it is imported.
if (globalThis.process?.argv[1]?.endsWith("client.mjs")) {
  const [source, url] = process.argv.slice(2);
  if (!source) {
    console.error("usage: node client.mjs TEXT_FILE [URL]");
    process.exitCode = 1;
  } else {
    await main(source, url).catch((error) => {
      console.error(`error: ${error.cause?.message ?? error.message}`);
      process.exitCode = 1;
    });
  }
}
