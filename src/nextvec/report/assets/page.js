// Draws the charts of the page from the JSON beside them, in the colours of its style, and again when those change.
"use strict";
const scheme = window.matchMedia("(prefers-color-scheme: dark)");

function draw() {
  const style = getComputedStyle(document.documentElement);
  const coloured = (key, value) =>
    typeof value === "string" && key.endsWith("color") && value.startsWith("$")
      ? style.getPropertyValue("--" + value.slice(1)).trim()
      : value;
  for (const source of document.querySelectorAll("script[type='application/json']")) {
    const figure = JSON.parse(source.textContent, coloured);
    Plotly.react(source.previousElementSibling, figure.data, figure.layout, { displayModeBar: false, responsive: true });
  }
}

draw();
scheme.addEventListener("change", draw);
